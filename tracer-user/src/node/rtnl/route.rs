// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::node::IpPrefix;
use crate::node::netlink::{attributes, ip, ne32};

// include/uapi/linux/rtnetlink.h
const RTA_VIA: u16 = 18;
const RTA_PREF: u16 = 20;
const RTA_ENCAP_TYPE: u16 = 21;
const RTA_NH_ID: u16 = 30;
const RTAX_MTU: u16 = 2;
/// An entry of the cache (a route exception), not of the table.
const RTM_F_CLONED: u32 = 0x200;
/// The flags of a next hop are the low byte of those of the message.
const HOP_FLAGS: u32 = 0xff;
const RTNH_F_DEAD: u8 = 1;
const RTNH_F_LINKDOWN: u8 = 16;

/// A route as RTM_NEWROUTE describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub destination: IpPrefix,
    pub table: u32,
    /// RTN_* (unicast, local, blackhole ...).
    pub kind: u8,
    /// RTPROT_*: who put it there.
    pub protocol: u8,
    pub scope: u8,
    pub priority: u32,
    pub source: Option<IpAddr>,
    /// One, or several for a multipath route; none for a blackhole.
    pub next_hops: Vec<NextHop>,
    /// The route's own MTU; 0: the device's.
    #[serde(default)]
    pub mtu: u32,
    /// IPv4: only for packets with this type of service (DS field without ECN); 0: any.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tos: u8,
    /// IPv6: only for packets from here (source-specific routing).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<IpPrefix>,
    /// IPv6 router preference: 0 medium, 1 high, 3 low.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub preference: u8,
    /// The next hop object that it uses (`ip nexthop`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexthop_id: Option<u32>,
    /// A route exception: what the kernel remembers of one destination (redirect, path MTU).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cached: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NextHop {
    /// Output device, 0 none.
    pub ifindex: u32,
    pub gateway: Option<IpAddr>,
    /// Share of a multipath route's packets, as `ip route` shows it less one; 0 for a single hop.
    #[serde(skip_serializing_if = "is_zero")]
    pub weight: u8,
    /// RTNH_F_*.
    #[serde(skip_serializing_if = "is_zero")]
    pub flags: u8,
    /// LWTUNNEL_ENCAP_*: what the packet is wrapped in; 0 nothing.
    #[serde(skip_serializing_if = "is_zero16")]
    pub encap: u16,
}

fn is_zero(value: &u8) -> bool {
    *value == 0
}

fn is_zero16(value: &u16) -> bool {
    *value == 0
}

/// An IPv4 default route to nowhere; for those that are made by hand.
impl Default for Route {
    fn default() -> Self {
        Self {
            destination: IpPrefix::default(),
            table: libc::RT_TABLE_MAIN.into(),
            kind: libc::RTN_UNICAST,
            protocol: 0,
            scope: 0,
            priority: 0,
            source: None,
            next_hops: Vec::new(),
            mtu: 0,
            tos: 0,
            from: None,
            preference: 0,
            nexthop_id: None,
            cached: false,
        }
    }
}

impl Route {
    /// The payload of an RTM_NEWROUTE message (`struct rtmsg`, attributes). `None` for other
    /// families (multicast, MPLS).
    pub fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(12)?;
        let any: IpAddr = match i32::from(fixed[0]) {
            libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        if kind != libc::RTM_NEWROUTE {
            return None;
        }
        let flags = ne32(&fixed[8..])?;
        let mut route = Self {
            destination: IpPrefix::new(any, 0)?,
            table: fixed[4].into(),
            kind: fixed[7],
            protocol: fixed[5],
            scope: fixed[6],
            tos: fixed[3],
            cached: flags & RTM_F_CLONED != 0,
            ..Self::default()
        };
        let mut hop = NextHop { flags: (flags & HOP_FLAGS) as u8, ..NextHop::default() };
        for (kind, value) in attributes(rest) {
            match kind {
                libc::RTA_DST => route.destination = IpPrefix::new(ip(value)?, fixed[1])?,
                libc::RTA_SRC => route.from = IpPrefix::new(ip(value)?, fixed[2]).filter(|p| !p.is_empty()),
                libc::RTA_TABLE => route.table = ne32(value)?,
                libc::RTA_PRIORITY => route.priority = ne32(value)?,
                libc::RTA_PREFSRC => route.source = ip(value),
                libc::RTA_METRICS => {
                    let mtu = attributes(value).find(|(kind, _)| *kind == RTAX_MTU);
                    route.mtu = mtu.and_then(|(_, value)| ne32(value)).unwrap_or(0);
                }
                RTA_PREF => route.preference = value.first().copied().unwrap_or_default(),
                RTA_NH_ID => route.nexthop_id = ne32(value),
                libc::RTA_MULTIPATH => route.next_hops = multipath(value),
                _ => hop.read(kind, value),
            }
        }
        if hop.ifindex != 0 || hop.gateway.is_some() {
            route.next_hops.push(hop);
        }
        Some(route)
    }
}

impl NextHop {
    /// The device is down.
    pub fn is_dead(&self) -> bool {
        self.flags & RTNH_F_DEAD != 0
    }

    /// The device has no carrier.
    pub fn is_linkdown(&self) -> bool {
        self.flags & RTNH_F_LINKDOWN != 0
    }

    pub(super) fn read(&mut self, kind: u16, value: &[u8]) {
        match kind {
            libc::RTA_OIF => self.ifindex = ne32(value).unwrap_or_default(),
            libc::RTA_GATEWAY => self.gateway = ip(value).filter(|a| !a.is_unspecified()),
            // A gateway of the other family: family u16, address.
            RTA_VIA => self.gateway = value.get(2..).and_then(ip),
            RTA_ENCAP_TYPE => self.encap = value.first_chunk().map_or(0, |b| u16::from_ne_bytes(*b)),
            _ => {}
        }
    }
}

/// A list of `struct rtnexthop`, each followed by its attributes.
fn multipath(mut rest: &[u8]) -> Vec<NextHop> {
    let mut out = Vec::new();
    while let Some(fixed) = rest.first_chunk::<8>() {
        let length = usize::from(u16::from_ne_bytes([fixed[0], fixed[1]]));
        let Some(inner) = rest.get(8..length) else { break };
        let mut hop = NextHop {
            ifindex: ne32(&fixed[4..]).unwrap_or_default(),
            flags: fixed[2],
            weight: fixed[3],
            ..NextHop::default()
        };
        for (kind, value) in attributes(inner) {
            hop.read(kind, value);
        }
        out.push(hop);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::netlink::Request;

    const FIXED: [u8; 12] = [libc::AF_INET as u8, 24, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0];

    fn message() -> Vec<u8> {
        let hop = |ifindex: u32, gateway: [u8; 4]| {
            let mut bytes = vec![16, 0, 0, 0];
            bytes.extend(ifindex.to_ne_bytes());
            bytes.extend(Request::one("", 0, &[]).attribute(libc::RTA_GATEWAY, &gateway).payload);
            bytes
        };
        let hops = [hop(2, [10, 0, 0, 1]), hop(3, [10, 0, 1, 1])].concat();
        Request::one("", 0, &FIXED)
            .attribute(libc::RTA_TABLE, &649_573_604u32.to_ne_bytes())
            .attribute(libc::RTA_DST, &[10, 200, 1, 0])
            .attribute(libc::RTA_MULTIPATH, &hops)
            .payload
    }

    #[test]
    fn a_multipath_route() {
        let route = Route::parse(libc::RTM_NEWROUTE, &message()).unwrap();
        assert_eq!(route.table, 649_573_604);
        assert_eq!(route.destination.to_string(), "10.200.1.0/24");
        let hops: Vec<_> = route.next_hops.iter().map(|h| (h.ifindex, h.gateway)).collect();
        assert_eq!(hops, [(2, Some([10, 0, 0, 1].into())), (3, Some([10, 0, 1, 1].into()))]);
    }

    #[test]
    fn a_gateway_of_the_other_family() {
        let via = [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &Ipv6Addr::LOCALHOST.octets()].concat();
        let payload = Request::one("", 0, &FIXED).attribute(RTA_VIA, &via).payload;
        let route = Route::parse(libc::RTM_NEWROUTE, &payload).unwrap();
        assert_eq!(route.next_hops[0].gateway, Some(Ipv6Addr::LOCALHOST.into()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Route::parse(libc::RTM_NEWROUTE, &bytes);
            let _ = multipath(&bytes);
        }

        #[test]
        fn a_damaged_message_never_panics(at in 0usize..100, byte: u8) {
            let mut bytes = message();
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            let _ = Route::parse(libc::RTM_NEWROUTE, &bytes);
        }
    }
}
