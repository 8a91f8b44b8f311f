// SPDX-License-Identifier: MIT OR Apache-2.0
//! Neighbours (ARP, NDP) and bridge forwarding entries: both are RTM_NEWNEIGH.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::node::netlink::{attributes, ip, ne32};

// include/uapi/linux/neighbour.h
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_VLAN: u16 = 5;
const NDA_MASTER: u16 = 9;
const NTF_SELF: u8 = 2;
const FIXED: usize = 12;

/// An ARP or NDP entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    pub ifindex: u32,
    pub address: IpAddr,
    /// Empty while it is not resolved.
    pub mac: Vec<u8>,
    /// NUD_*.
    pub state: u16,
}

/// A bridge's, or a vxlan device's, knowledge of where a link-layer address is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbEntry {
    /// The port, or the vxlan device itself.
    pub ifindex: u32,
    /// The bridge.
    pub master: Option<u32>,
    pub mac: Vec<u8>,
    pub vlan: Option<u16>,
    /// vxlan: the remote node.
    pub remote: Option<IpAddr>,
    /// Held by the device itself (vxlan), not by the bridge that the device is a port of.
    pub own: bool,
    pub state: u16,
}

impl Neighbour {
    /// The payload of an RTM_NEWNEIGH message (`struct ndmsg`, attributes) of family IPv4 or IPv6.
    pub fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(FIXED)?;
        let family = i32::from(fixed[0]);
        if kind != libc::RTM_NEWNEIGH || (family != libc::AF_INET && family != libc::AF_INET6) {
            return None;
        }
        let (mut address, mut mac) = (None, Vec::new());
        for (kind, value) in attributes(rest) {
            match kind {
                NDA_DST => address = ip(value),
                NDA_LLADDR => mac = value.to_vec(),
                _ => {}
            }
        }
        Some(Self { ifindex: ne32(&fixed[4..])?, address: address?, mac, state: state(fixed) })
    }
}

impl FdbEntry {
    /// The payload of an RTM_NEWNEIGH message of family AF_BRIDGE.
    pub fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(FIXED)?;
        if kind != libc::RTM_NEWNEIGH || i32::from(fixed[0]) != libc::AF_BRIDGE {
            return None;
        }
        let mut entry = Self {
            ifindex: ne32(&fixed[4..])?,
            master: None,
            mac: Vec::new(),
            vlan: None,
            remote: None,
            own: fixed[10] & NTF_SELF != 0,
            state: state(fixed),
        };
        for (kind, value) in attributes(rest) {
            match kind {
                NDA_LLADDR => entry.mac = value.to_vec(),
                NDA_DST => entry.remote = ip(value),
                NDA_MASTER => entry.master = ne32(value),
                NDA_VLAN => entry.vlan = value.first_chunk().map(|b| u16::from_ne_bytes(*b)),
                _ => {}
            }
        }
        (!entry.mac.is_empty()).then_some(entry)
    }
}

fn state(fixed: &[u8]) -> u16 {
    u16::from_ne_bytes([fixed[8], fixed[9]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Neighbour::parse(libc::RTM_NEWNEIGH, &bytes);
            let _ = FdbEntry::parse(libc::RTM_NEWNEIGH, &bytes);
        }
    }
}
