// SPDX-License-Identifier: MIT OR Apache-2.0
//! Next hop objects (`ip nexthop`), which routes can refer to instead of having next hops of their own.

use serde::{Deserialize, Serialize};

use super::NextHop;
use crate::node::netlink::{attributes, ne32};

// include/uapi/linux/nexthop.h
pub(super) const RTM_GETNEXTHOP: u16 = 106;
const RTM_NEWNEXTHOP: u16 = 104;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_BLACKHOLE: u16 = 4;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_ENCAP_TYPE: u16 = 7;
const NHA_FDB: u16 = 11;
/// `struct nexthop_grp`: id, weight, weight's high byte, reserved.
const MEMBER: usize = 8;

/// An object as RTM_NEWNEXTHOP describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nexthop {
    pub id: u32,
    /// Where packets go, when it is no group.
    #[serde(flatten)]
    pub hop: NextHop,
    /// Members and their weights less one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub group: Vec<(u32, u16)>,
    /// NEXTHOP_GRP_TYPE_*: 0 by hash, 1 resilient (flows stay where they are).
    pub group_type: u16,
    /// Packets are dropped.
    pub blackhole: bool,
    /// For forwarding entries of a VXLAN device, not for routes.
    pub fdb: bool,
}

impl Nexthop {
    /// The payload of an RTM_NEWNEXTHOP message (`struct nhmsg`, attributes).
    pub fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(8)?;
        if kind != RTM_NEWNEXTHOP {
            return None;
        }
        let mut out = Self::default();
        out.hop.flags = fixed[4];
        for (kind, value) in attributes(rest) {
            match kind {
                NHA_ID => out.id = ne32(value)?,
                NHA_GROUP => out.group = value.chunks_exact(MEMBER).filter_map(member).collect(),
                NHA_GROUP_TYPE => out.group_type = value.first_chunk().map_or(0, |b| u16::from_ne_bytes(*b)),
                NHA_BLACKHOLE => out.blackhole = true,
                NHA_FDB => out.fdb = true,
                NHA_OIF => out.hop.read(libc::RTA_OIF, value),
                NHA_GATEWAY => out.hop.read(libc::RTA_GATEWAY, value),
                NHA_ENCAP_TYPE => out.hop.encap = value.first_chunk().map_or(0, |b| u16::from_ne_bytes(*b)),
                _ => {}
            }
        }
        (out.id != 0).then_some(out)
    }
}

fn member(bytes: &[u8]) -> Option<(u32, u16)> {
    let id = ne32(bytes)?;
    Some((id, u16::from(*bytes.get(4)?) | u16::from(*bytes.get(5)?) << 8))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::netlink::Request;

    #[test]
    fn a_group_of_two() {
        let group = [&7u32.to_ne_bytes()[..], &[0; 4], &8u32.to_ne_bytes(), &[2, 0, 0, 0]].concat();
        let payload = Request::one("", 0, &[0; 8])
            .attribute(NHA_ID, &100u32.to_ne_bytes())
            .attribute(NHA_GROUP, &group)
            .payload;
        let nexthop = Nexthop::parse(RTM_NEWNEXTHOP, &payload).unwrap();
        assert_eq!((nexthop.id, nexthop.group), (100, vec![(7, 0), (8, 2)]));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Nexthop::parse(RTM_NEWNEXTHOP, &bytes);
        }
    }
}
