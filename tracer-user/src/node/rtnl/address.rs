// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses of devices.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::node::netlink::{attributes, ip, ne32};

/// An address as RTM_NEWADDR describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub ifindex: u32,
    pub address: IpAddr,
    pub prefix_len: u8,
    /// RT_SCOPE_*.
    pub scope: u8,
}

impl Address {
    /// The payload of an RTM_NEWADDR message (`struct ifaddrmsg`, attributes).
    pub fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(8)?;
        if kind != libc::RTM_NEWADDR {
            return None;
        }
        // On a point-to-point device IFA_ADDRESS is the other end's, IFA_LOCAL ours.
        let (mut local, mut peer) = (None, None);
        for (kind, value) in attributes(rest) {
            match kind {
                libc::IFA_LOCAL => local = ip(value),
                libc::IFA_ADDRESS => peer = ip(value),
                _ => {}
            }
        }
        let address = local.or(peer)?;
        (address.is_ipv6() == (i32::from(fixed[0]) == libc::AF_INET6)).then_some(Self {
            ifindex: ne32(&fixed[4..])?,
            address,
            prefix_len: fixed[1],
            scope: fixed[3],
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
