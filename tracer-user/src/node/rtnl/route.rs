// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::node::IpPrefix;
use crate::node::netlink::{attributes, ip, ne32};

// include/uapi/linux/rtnetlink.h
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;

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
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// Output device, 0 none.
    pub ifindex: u32,
    pub gateway: Option<IpAddr>,
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
        let mut route = Self {
            destination: IpPrefix::new(any, 0)?,
            table: fixed[4].into(),
            kind: fixed[7],
            protocol: fixed[5],
            scope: fixed[6],
            priority: 0,
            source: None,
            next_hops: Vec::new(),
            mtu: 0,
        };
        let mut hop = NextHop::default();
        for (kind, value) in attributes(rest) {
            match kind {
                libc::RTA_DST => route.destination = IpPrefix::new(ip(value)?, fixed[1])?,
                libc::RTA_TABLE => route.table = ne32(value)?,
                libc::RTA_PRIORITY => route.priority = ne32(value)?,
                libc::RTA_PREFSRC => route.source = ip(value),
                libc::RTA_METRICS => {
                    let mtu = attributes(value).find(|(kind, _)| *kind == RTAX_MTU);
                    route.mtu = mtu.and_then(|(_, value)| ne32(value)).unwrap_or(0);
                }
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
    fn read(&mut self, kind: u16, value: &[u8]) {
        match kind {
            libc::RTA_OIF => self.ifindex = ne32(value).unwrap_or_default(),
            libc::RTA_GATEWAY => self.gateway = ip(value).filter(|a| !a.is_unspecified()),
            // A gateway of the other family: family u16, address.
            RTA_VIA => self.gateway = value.get(2..).and_then(ip),
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
        let mut hop = NextHop { ifindex: ne32(&fixed[4..]).unwrap_or_default(), gateway: None };
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
