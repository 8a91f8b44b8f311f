// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses of devices.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::node::IpPrefix;
use crate::node::netlink::{attributes, ip, ne32, text};

/// include/uapi/linux/if_addr.h; the flags' own byte in the header has room for eight.
const IFA_FLAGS: u16 = 8;

/// An address as RTM_NEWADDR describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    pub ifindex: u32,
    pub address: IpAddr,
    pub prefix_len: u8,
    /// RT_SCOPE_*.
    pub scope: u8,
    /// IFA_F_*: secondary or temporary, tentative, deprecated, no prefix route.
    #[serde(skip_serializing_if = "is_zero")]
    pub flags: u32,
    /// The other end's address, on a point-to-point device. The prefix is around it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<IpAddr>,
    /// IPv4: `eth0:1`, when it is not the device's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl Default for Address {
    fn default() -> Self {
        Self {
            ifindex: 0,
            address: Ipv4Addr::UNSPECIFIED.into(),
            prefix_len: 32,
            scope: 0,
            flags: 0,
            peer: None,
            label: String::new(),
        }
    }
}

impl Address {
    /// IPv4: another address of the same network came first. IPv6: a temporary (privacy) address.
    pub fn is_secondary(&self) -> bool {
        self.flags & libc::IFA_F_SECONDARY != 0
    }

    /// Not usable (yet): duplicate address detection runs, or found another owner.
    pub fn is_tentative(&self) -> bool {
        let flags = self.flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED);
        flags != 0 && (self.is_dad_failed() || self.flags & libc::IFA_F_OPTIMISTIC == 0)
    }

    /// Another machine has the address.
    pub fn is_dad_failed(&self) -> bool {
        self.flags & libc::IFA_F_DADFAILED != 0
    }

    /// Its preferred lifetime is over: not for new connections.
    pub fn is_deprecated(&self) -> bool {
        self.flags & libc::IFA_F_DEPRECATED != 0
    }

    /// The network that it makes reachable.
    pub fn network(&self) -> Option<IpPrefix> {
        IpPrefix::new(self.peer.unwrap_or(self.address), self.prefix_len)
    }

    /// The payload of an RTM_NEWADDR message (`struct ifaddrmsg`, attributes).
    pub fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(8)?;
        if kind != libc::RTM_NEWADDR {
            return None;
        }
        // On a point-to-point device IFA_ADDRESS is the other end's, IFA_LOCAL ours.
        let (mut local, mut peer) = (None, None);
        let (mut flags, mut label) = (u32::from(fixed[2]), String::new());
        for (kind, value) in attributes(rest) {
            match kind {
                libc::IFA_LOCAL => local = ip(value),
                libc::IFA_ADDRESS => peer = ip(value),
                libc::IFA_LABEL => label = text(value),
                IFA_FLAGS => flags = ne32(value).unwrap_or(flags),
                _ => {}
            }
        }
        let address = local.or(peer)?;
        (address.is_ipv6() == (i32::from(fixed[0]) == libc::AF_INET6)).then_some(Self {
            ifindex: ne32(&fixed[4..])?,
            address,
            prefix_len: fixed[1],
            scope: fixed[3],
            flags,
            peer: peer.filter(|peer| *peer != address),
            label,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::netlink::Request;

    #[test]
    fn our_end_of_a_point_to_point_link() {
        let fixed = [libc::AF_INET as u8, 32, 0, 0, 3, 0, 0, 0];
        let payload = Request::one("", 0, &fixed)
            .attribute(libc::IFA_ADDRESS, &[10, 0, 0, 2])
            .attribute(libc::IFA_LOCAL, &[10, 0, 0, 1])
            .payload;
        let address = Address::parse(libc::RTM_NEWADDR, &payload).unwrap();
        assert_eq!((address.ifindex, address.address), (3u32.to_le(), [10, 0, 0, 1].into()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Address::parse(libc::RTM_NEWADDR, &bytes);
        }
    }
}
