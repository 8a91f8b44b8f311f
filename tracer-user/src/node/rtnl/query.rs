// SPDX-License-Identifier: MIT OR Apache-2.0
//! The questions that are asked over rtnetlink.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use super::nexthop::RTM_GETNEXTHOP;
use super::traffic::{PARENTS, RTM_GETQDISC, RTM_GETTFILTER, TCMSG};
use super::{Address, FdbEntry, Filter, Link, Neighbour, Nexthop, Qdisc, Route, Rule};
use crate::node::netlink::{Netlink, NetlinkError, Request, attributes, ne32};

// include/uapi/linux/net_namespace.h, neighbour.h, rtnetlink.h
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const IFA_TARGET_NETNSID: u16 = 10;
const NDA_IFINDEX: u16 = 8;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
const RTA_IP_PROTO: u16 = 27;
const RTA_DPORT: u16 = 29;

/// An rtnetlink socket in one namespace.
#[derive(Debug)]
pub struct Rtnl(Netlink);

/// What a route lookup said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The address is the namespace's own.
    pub local: bool,
    /// Output device.
    pub ifindex: u32,
    pub gateway: Option<IpAddr>,
}

/// A packet whose route is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteQuestion {
    pub destination: IpAddr,
    /// Only with `input`: the kernel refuses a packet of its own from an address that is not its own.
    pub source: Option<IpAddr>,
    pub mark: u32,
    /// The device it comes in by: asked as for a received packet, with the check of its source. `None`: sent here.
    pub input: Option<u32>,
    /// TCP or UDP with its destination port, for policy rules that look at them.
    pub service: Option<(u8, u16)>,
}

/// What the kernel said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAnswer {
    /// The route that would be used, with the table it is from.
    Route(Route),
    /// It would be refused, with this errno.
    Refused(i32),
}

impl Rtnl {
    /// Opens a socket in the namespace of the calling thread (see [`crate::node::Netns::run`]); it can be
    /// used from anywhere. `netns`: what messages call the namespace.
    pub fn open(netns: &str) -> Result<Self, NetlinkError> {
        Netlink::open(libc::NETLINK_ROUTE, netns, &[]).map(Self)
    }

    /// The same, for questions about other namespaces: the kernel takes these only from a socket that asks it to
    /// look at every field.
    pub fn open_strict(netns: &str) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open(libc::NETLINK_ROUTE, netns, &[])?;
        netlink.check_strictly()?;
        Ok(Self(netlink))
    }

    /// Does the namespace with this number have the address? False where the kernel does not say (before 4.20).
    pub fn has_address(&mut self, nsid: i32, address: IpAddr) -> bool {
        let mut fixed = [0; 8];
        fixed[0] = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
        let request = Request::dump("addresses", libc::RTM_GETADDR, &fixed)
            .attribute(IFA_TARGET_NETNSID, &nsid.to_ne_bytes());
        let found = self.0.dump(&request, Address::parse);
        found.is_ok_and(|addresses| addresses.iter().any(|known| known.address == address))
    }

    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        // Counters are most of a link's message and nothing to us.
        let request = Request::dump("network devices", libc::RTM_GETLINK, &[0; 16])
            .attribute(libc::IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        self.0.dump(&request, Link::parse)
    }

    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        self.0.dump(&Request::dump("addresses", libc::RTM_GETADDR, &[0; 8]), Address::parse)
    }

    /// The routes of all tables, IPv4 and IPv6, for which `keep` says yes. Route exceptions ([`Route::cached`]) are
    /// among them where the kernel lists them.
    pub fn routes(&mut self, keep: impl Fn(&Route) -> bool) -> Result<Vec<Route>, NetlinkError> {
        let mut out = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut fixed = [0; 12];
            fixed[0] = family as u8;
            // A kernel without the family answers for all it has.
            let parse = |kind, payload: &[u8]| {
                (payload.first() == Some(&(family as u8)))
                    .then(|| Route::parse(kind, payload))
                    .flatten()
                    .filter(&keep)
            };
            out.append(&mut self.0.dump(&Request::dump("routes", libc::RTM_GETROUTE, &fixed), parse)?);
        }
        Ok(out)
    }

    /// The next hop objects; empty where the kernel has none (before 5.3).
    pub fn nexthops(&mut self) -> Result<Vec<Nexthop>, NetlinkError> {
        match self.0.dump(&Request::dump("next hop objects", RTM_GETNEXTHOP, &[0; 8]), Nexthop::parse) {
            Err(error) if error.is_unsupported() => Ok(Vec::new()),
            other => other,
        }
    }

    /// The policy rules, IPv4 and IPv6, by priority. Empty where the kernel has none.
    pub fn rules(&mut self) -> Result<Vec<Rule>, NetlinkError> {
        let mut out = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut fixed = [0; 12];
            fixed[0] = family as u8;
            match self.0.dump(&Request::dump("routing rules", libc::RTM_GETRULE, &fixed), Rule::parse) {
                Ok(mut rules) => out.append(&mut rules),
                Err(error) if error.is_unsupported() => {}
                Err(error) => return Err(error),
            }
        }
        out.retain({
            let mut seen = Vec::new();
            move |rule: &Rule| {
                !seen.contains(rule) && {
                    seen.push(rule.clone());
                    true
                }
            }
        });
        out.sort_by_key(|rule| rule.priority);
        Ok(out)
    }

    /// ARP and NDP entries: of one device, or of all.
    pub fn neighbours(&mut self, device: Option<u32>) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut request = Request::dump("neighbours", libc::RTM_GETNEIGH, &[0; 12]);
        if let Some(ifindex) = device {
            request = request.attribute(NDA_IFINDEX, &ifindex.to_ne_bytes());
        }
        let mut out = self.0.dump(&request, Neighbour::parse)?;
        out.retain(|n| device.is_none_or(|d| n.ifindex == d));
        Ok(out)
    }

    /// Forwarding entries: of one bridge, or of all bridges and vxlan devices.
    pub fn fdb(&mut self, bridge: Option<u32>) -> Result<Vec<FdbEntry>, NetlinkError> {
        // This dump alone takes a struct ifinfomsg (net/core/rtnetlink.c, valid_fdb_dump_legacy).
        let mut fixed = [0; 16];
        fixed[0] = libc::AF_BRIDGE as u8;
        let mut request = Request::dump("bridge forwarding entries", libc::RTM_GETNEIGH, &fixed);
        if let Some(ifindex) = bridge {
            request = request.attribute(libc::IFLA_MASTER, &ifindex.to_ne_bytes());
        }
        let mut out = self.0.dump(&request, FdbEntry::parse)?;
        out.retain(|e| bridge.is_none_or(|b| e.master == Some(b) || e.ifindex == b));
        Ok(out)
    }

    /// The queueing disciplines of all devices that have one of their own, `clsact` among them. Empty without them.
    pub fn qdiscs(&mut self) -> Result<Vec<Qdisc>, NetlinkError> {
        let request = Request::dump("queueing disciplines", RTM_GETQDISC, &[0; TCMSG]);
        match self.0.dump(&request, Qdisc::parse) {
            Err(error) if error.is_unsupported() => Ok(Vec::new()),
            other => other,
        }
    }

    /// The filters at both sides of a device that has a `clsact` or `ingress`.
    pub fn filters(&mut self, ifindex: u32) -> Result<Vec<Filter>, NetlinkError> {
        let mut out = Vec::new();
        for parent in PARENTS {
            let mut fixed = [0; TCMSG];
            fixed[4..8].copy_from_slice(&ifindex.to_ne_bytes());
            fixed[12..16].copy_from_slice(&parent.to_ne_bytes());
            let request = Request::dump("tc filters", RTM_GETTFILTER, &fixed);
            out.extend(self.0.dump(&request, Filter::parse)?);
        }
        out.dedup();
        Ok(out)
    }

    /// Where a packet to `address` would go from here, without regard to marks. `None`: nowhere.
    pub fn lookup(&mut self, address: IpAddr) -> Result<Option<Found>, NetlinkError> {
        let mut fixed = [0; 12];
        let octets = match address {
            IpAddr::V4(a) => {
                (fixed[0], fixed[1]) = (libc::AF_INET as u8, 32);
                a.octets().to_vec()
            }
            IpAddr::V6(a) => {
                (fixed[0], fixed[1]) = (libc::AF_INET6 as u8, 128);
                a.octets().to_vec()
            }
        };
        let request = Request::one("a route", libc::RTM_GETROUTE, &fixed).attribute(libc::RTA_DST, &octets);
        let route = match self.0.one(&request, Route::parse) {
            Ok(route) => route,
            // Unreachable, prohibited, no route: an answer, not a failure.
            Err(NetlinkError::Refused { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(route.and_then(|route| {
            let hop = route.next_hops.first()?;
            Some(Found { local: route.kind == libc::RTN_LOCAL, ifindex: hop.ifindex, gateway: hop.gateway })
        }))
    }

    /// Where the kernel would send a packet: RTM_GETROUTE, which needs no privilege and sends nothing.
    pub fn route(&mut self, question: &RouteQuestion) -> Result<RouteAnswer, NetlinkError> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let (family, length) =
            if question.destination.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
        let source = question
            .source
            .filter(|s| question.input.is_some() && s.is_ipv4() == question.destination.is_ipv4());
        let mut fixed = [0; 12];
        (fixed[0], fixed[1]) = (family as u8, length);
        fixed[2] = if source.is_some() { length } else { 0 };
        fixed[8..12].copy_from_slice(&RTM_F_LOOKUP_TABLE.to_ne_bytes());
        let mut request = Request::one("a route", libc::RTM_GETROUTE, &fixed)
            .attribute(libc::RTA_DST, &octets(question.destination));
        if let Some(source) = source {
            request = request.attribute(libc::RTA_SRC, &octets(source));
        }
        if let Some(input) = question.input {
            request = request.attribute(libc::RTA_IIF, &input.to_ne_bytes());
        }
        if question.mark != 0 {
            request = request.attribute(libc::RTA_MARK, &question.mark.to_ne_bytes());
        }
        if let Some((protocol, port)) = question.service {
            request = request.attribute(RTA_IP_PROTO, &[protocol]).attribute(RTA_DPORT, &port.to_be_bytes());
        }
        match self.0.one(&request, Route::parse) {
            Ok(Some(route)) => Ok(RouteAnswer::Route(route)),
            Ok(None) => Ok(RouteAnswer::Refused(libc::ENETUNREACH)),
            Err(NetlinkError::Refused { source, .. }) => {
                Ok(RouteAnswer::Refused(source.raw_os_error().unwrap_or(libc::EINVAL)))
            }
            Err(error) => Err(error),
        }
    }

    /// The number this socket's namespace has given to the namespace behind `netns`, as in
    /// IFLA_LINK_NETNSID. `None`: none given, so no device of ours leads there.
    pub fn nsid_of(&mut self, netns: &impl AsFd) -> Result<Option<i32>, NetlinkError> {
        let fd = netns.as_fd().as_raw_fd();
        let request = Request::one("namespace numbers", libc::RTM_GETNSID, &[0; 4])
            .attribute(NETNSA_FD, &fd.to_ne_bytes());
        let nsid = self.0.one(&request, |kind, payload| {
            let (_, rest) = payload.split_at_checked(4)?;
            (kind == libc::RTM_NEWNSID)
                .then(|| attributes(rest).find(|(kind, _)| *kind == NETNSA_NSID).and_then(|(_, v)| ne32(v)))
                .flatten()
        })?;
        Ok(nsid.map(|n| n as i32).filter(|n| *n >= 0))
    }
}
