// SPDX-License-Identifier: MIT OR Apache-2.0
//! IPsec policies and states over xfrm netlink. Keys are in what the kernel sends, and are not kept.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::node::IpPrefix;
use crate::node::netlink::{Netlink, NetlinkError, Request, attributes, ne32};
use crate::snapshot::xfrm::{XfrmDirection, XfrmPolicy, XfrmState, XfrmTemplate};

// include/uapi/linux/xfrm.h
const XFRM_MSG_NEWSA: u16 = 0x10;
const XFRM_MSG_GETSA: u16 = 0x12;
const XFRM_MSG_NEWPOLICY: u16 = 0x13;
const XFRM_MSG_GETPOLICY: u16 = 0x15;
const XFRMA_TMPL: u16 = 5;
const XFRMA_MARK: u16 = 21;
const XFRM_POLICY_BLOCK: u8 = 1;
/// sizeof(struct xfrm_userpolicy_info), sizeof(struct xfrm_user_tmpl).
const POLICY: usize = 168;
const TEMPLATE: usize = 64;
const AF_INET: u16 = libc::AF_INET as u16;
const AF_INET6: u16 = libc::AF_INET6 as u16;

/// More than this are not kept of either.
const MAX: usize = 4096;

/// Of the namespace of the calling thread; nothing where the kernel has no IPsec.
pub(super) fn read(netns: &str) -> Result<(Vec<XfrmPolicy>, Vec<XfrmState>), NetlinkError> {
    let (mut policies, mut states) = (Vec::new(), Vec::new());
    let read = Netlink::open(libc::NETLINK_XFRM, netns, &[]).and_then(|mut netlink| {
        netlink.each(&Request::dump("IPsec policies", XFRM_MSG_GETPOLICY, &[]), &mut |kind, payload| {
            if kind == XFRM_MSG_NEWPOLICY && policies.len() < MAX {
                policies.extend(policy(payload));
            }
        })?;
        if policies.is_empty() {
            return Ok(());
        }
        netlink.each(&Request::dump("IPsec states", XFRM_MSG_GETSA, &[]), &mut |kind, payload| {
            if kind == XFRM_MSG_NEWSA && states.len() < MAX {
                states.extend(state(payload));
            }
        })?;
        Ok(())
    });
    match read {
        Err(error) if !error.is_unsupported() => Err(error),
        _ => Ok((policies, states)),
    }
}

/// struct xfrm_userpolicy_info and its attributes. `None`: a socket's own policy, or not understood.
fn policy(payload: &[u8]) -> Option<XfrmPolicy> {
    let (fixed, rest) = payload.split_at_checked(POLICY)?;
    let family = half(fixed, 40)?;
    let mut out = XfrmPolicy {
        direction: match fixed[160] {
            0 => XfrmDirection::In,
            1 => XfrmDirection::Out,
            2 => XfrmDirection::Fwd,
            _ => return None,
        },
        priority: word(fixed, 152)?,
        blocks: fixed[161] == XFRM_POLICY_BLOCK,
        dst: IpPrefix::new(address(fixed, 0, family)?, fixed[42])?,
        src: IpPrefix::new(address(fixed, 16, family)?, fixed[43])?,
        proto: fixed[44],
        dst_port: (port(fixed, 32)?, port(fixed, 34)?),
        src_port: (port(fixed, 36)?, port(fixed, 38)?),
        ifindex: word(fixed, 48)?,
        mark: (0, 0),
        templates: Vec::new(),
    };
    for (kind, value) in attributes(rest) {
        match kind {
            XFRMA_TMPL => out.templates.extend(value.chunks_exact(TEMPLATE).filter_map(template)),
            XFRMA_MARK => out.mark = (word(value, 0)?, word(value, 4)?),
            _ => {}
        }
    }
    Some(out)
}

/// struct xfrm_user_tmpl
fn template(bytes: &[u8]) -> Option<XfrmTemplate> {
    let family = half(bytes, 24)?;
    Some(XfrmTemplate {
        dst: address(bytes, 0, family)?,
        src: address(bytes, 28, family)?,
        proto: *bytes.get(20)?,
        reqid: word(bytes, 44)?,
        optional: *bytes.get(50)? != 0,
    })
}

/// struct xfrm_usersa_info
fn state(payload: &[u8]) -> Option<XfrmState> {
    let family = half(payload, 212)?;
    Some(XfrmState {
        dst: address(payload, 56, family)?,
        src: address(payload, 80, family)?,
        proto: *payload.get(76)?,
        reqid: word(payload, 208)?,
    })
}

fn address(bytes: &[u8], at: usize, family: u16) -> Option<IpAddr> {
    let bytes = bytes.get(at..)?;
    match family {
        AF_INET => bytes.first_chunk::<4>().map(|a| Ipv4Addr::from(*a).into()),
        AF_INET6 => bytes.first_chunk::<16>().map(|a| Ipv6Addr::from(*a).into()),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(ne32)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn port(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tunnel_policy() {
        let mut bytes = vec![0; POLICY];
        bytes[0..4].copy_from_slice(&[10, 200, 1, 0]);
        bytes[16..20].copy_from_slice(&[10, 200, 0, 0]);
        bytes[40..42].copy_from_slice(&AF_INET.to_ne_bytes());
        (bytes[42], bytes[43], bytes[160]) = (24, 24, 2);
        bytes[152..156].copy_from_slice(&100_u32.to_ne_bytes());
        let mut template = vec![0; TEMPLATE];
        template[0..4].copy_from_slice(&[172, 16, 0, 2]);
        template[28..32].copy_from_slice(&[172, 16, 0, 1]);
        template[24..26].copy_from_slice(&AF_INET.to_ne_bytes());
        template[20] = 50;
        let attribute = Request::dump("", 0, &[]).attribute(XFRMA_TMPL, &template).payload;
        let read = policy(&[bytes, attribute].concat()).unwrap();
        assert_eq!(read.to_string(), "src 10.200.0.0/24 dst 10.200.1.0/24 dir fwd priority 100");
        assert_eq!(
            read.delete_command(),
            "ip xfrm policy delete src 10.200.0.0/24 dst 10.200.1.0/24 dir fwd"
        );
        assert_eq!(read.templates[0].to_string(), "ESP 172.16.0.1 → 172.16.0.2");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = (policy(&bytes), state(&bytes));
        }
    }
}
