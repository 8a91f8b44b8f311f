// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lookups that firewall rules make: `-m rpfilter`, `-m addrtype` and nftables' `fib`.

use std::net::{IpAddr, Ipv4Addr};

use super::flow::{Flow, Found, TableAnswer};
use super::ipv4::{is_broadcast, is_zeronet};
use super::model::{Decision, Question};
use super::tables::{Fib, LOOPBACK};

const LOCAL: u32 = libc::RT_TABLE_LOCAL as u32;

/// How `-m rpfilter` is to look at the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReversePath {
    /// Any way back will do.
    pub loose: bool,
    /// With the packet's mark.
    pub valid_mark: bool,
    /// An own address is good.
    pub accept_local: bool,
}

/// The type of an address, RTN_*; what several lookups disagree about is not known.
pub type TypeOf = Option<u8>;

impl Fib<'_> {
    /// A flow that knows nothing but where it goes.
    pub(super) fn bare(&self, destination: IpAddr) -> Flow {
        let question = Question {
            uid: Some(0),
            protocol: Some(0),
            source_port: Some(0),
            destination_port: Some(0),
            ..Question::to(destination)
        };
        self.flow4(&question, LOOPBACK)
    }

    /// RTN_* of an address as addrtype and `fib ... type` see it, by one device only when it is given
    /// (`inet_dev_addr_type`; net/ipv6/netfilter/nft_fib_ipv6.c).
    pub fn address_type(&self, address: IpAddr, device: Option<u32>) -> TypeOf {
        if address.is_multicast() {
            return Some(libc::RTN_MULTICAST);
        }
        if address.is_ipv6() {
            return self.address_type6(address, device);
        }
        if is_zeronet(address) || is_broadcast(address) {
            return Some(libc::RTN_BROADCAST);
        }
        let flow = self.bare(address);
        let kind = match self.ask4(&flow, &[LOCAL]) {
            TableAnswer::Hit(hit) => {
                let by = hit.route.next_hops.first().map(|hop| hop.ifindex);
                if device.is_none() || by == device { hit.route.kind } else { libc::RTN_UNICAST }
            }
            TableAnswer::Unknown(_) => return None,
            _ => libc::RTN_UNICAST,
        };
        Some(kind)
    }

    fn address_type6(&self, address: IpAddr, device: Option<u32>) -> TypeOf {
        let owned = |own: &crate::node::rtnl::Address| {
            own.address == address && device == Some(own.ifindex) && !own.is_tentative()
        };
        if self.from.addresses.iter().any(owned) {
            return Some(libc::RTN_LOCAL);
        }
        let question = Question { output: device, ..Question::to(address) };
        let kind = |decision: &Decision<'_>| match decision {
            Decision::Refused(_) => Some(libc::RTN_UNREACHABLE),
            Decision::Routed(routed) => Some(match routed.kind {
                libc::RTN_ANYCAST => libc::RTN_ANYCAST,
                libc::RTN_LOCAL if device.is_none() => libc::RTN_LOCAL,
                _ => libc::RTN_UNICAST,
            }),
            Decision::Unknown(_) => None,
        };
        let mut kinds = self.lookup(&question).outcomes.into_iter().map(|outcome| kind(&outcome.decision));
        let first = kinds.next()??;
        kinds.all(|other| other == Some(first)).then_some(first)
    }

    /// Whether `-m rpfilter` matches (net/ipv4/netfilter/ipt_rpfilter.c, net/ipv6/netfilter/ip6t_rpfilter.c).
    /// `None`: it cannot be known.
    pub fn reverse_path(&self, question: &Question, input: u32, how: ReversePath) -> Option<bool> {
        let (from, to) = (question.source?, question.destination);
        if self.link(input).is_some_and(|link| link.is_loopback()) {
            return Some(true);
        }
        let local_multicast = matches!(to, IpAddr::V4(a) if a.octets()[..3] == [224, 0, 0]);
        if is_zeronet(from) && (is_broadcast(to) || local_multicast)
            || from.is_ipv6() && from.is_unspecified()
        {
            return Some(true);
        }
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
        let special = to.is_multicast() || to.is_ipv4() && (is_broadcast(to) || is_zeronet(to));
        let ipv6 = from.is_ipv6();
        let flow = Flow {
            destination: from,
            source: if special { any } else { to },
            iif: LOOPBACK,
            oif: if ipv6 && !how.loose { input } else { 0 },
            strict: ipv6 && !how.loose,
            vrf: self.vrf_of(input),
            mark: if how.valid_mark { question.mark } else { Some(0) },
            uid: Some(0),
            tunnel: Some(0),
            ignore_linkstate: !ipv6,
            ..self.flow4(question, LOOPBACK)
        };
        let holds = |found: &Found<'_>| match found {
            Found::Hit(hit) => Some(match hit.route.kind {
                libc::RTN_LOCAL => {
                    how.accept_local && (ipv6 || how.loose || self.uses_device(hit.route, input))
                }
                libc::RTN_UNICAST if ipv6 && !how.loose => {
                    hit.hops.iter().any(|(hop, _)| hop.ifindex == input)
                }
                libc::RTN_UNICAST => how.loose || self.uses_device(hit.route, input),
                _ => false,
            }),
            Found::Unknown(_) => None,
            _ => Some(false),
        };
        let mut each = self.run(&flow).into_iter().map(|run| holds(&run.found));
        let first = each.next()??;
        each.all(|other| other == Some(first)).then_some(first)
    }
}
