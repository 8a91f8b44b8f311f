// SPDX-License-Identifier: MIT OR Apache-2.0
//! Conntrack entries over ctnetlink.

use std::net::{IpAddr, SocketAddr};

use crate::node::netlink::{Netlink, NetlinkError, Request, attributes, be32, ip};
use crate::snapshot::connection::{ConnectionTuple, TrackedConnection};

// include/uapi/linux/netfilter/nfnetlink_conntrack.h
const IPCTNL_MSG_CT_NEW: u16 = 0;
const IPCTNL_MSG_CT_GET: u16 = 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_MARK: u16 = 8;
const CTA_ZONE: u16 = 18;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMPV6_ID: u16 = 7;

/// Entries that are kept.
pub(super) const MAX: usize = 1024;

/// The entries that share an address with `hosts`, in the namespace of the calling thread; and whether there were more
/// than are kept. None where the kernel has no ctnetlink.
pub(super) fn read(netns: &str, hosts: &[IpAddr]) -> Result<(Vec<TrackedConnection>, bool), NetlinkError> {
    let mut out: Vec<TrackedConnection> = Vec::new();
    let mut more = false;
    let kind = |message: u16| (libc::NFNL_SUBSYS_CTNETLINK << 8) as u16 | message;
    let request = Request::dump("conntrack entries", kind(IPCTNL_MSG_CT_GET), &[0; 4]);
    let mut each = |message: u16, payload: &[u8]| {
        if message != kind(IPCTNL_MSG_CT_NEW) {
            return;
        }
        let Some(entry) = parse(payload) else { return };
        if !hosts.iter().any(|host| entry.has_address(*host)) {
            return;
        }
        more |= out.len() >= MAX;
        if out.len() < MAX {
            out.push(entry);
        }
    };
    let read = Netlink::open(libc::NETLINK_NETFILTER, netns, &[])?.each(&request, &mut each);
    match read {
        Err(error) if !error.is_unsupported() => Err(error),
        _ => Ok((out, more)),
    }
}

/// A message without its netlink header.
fn parse(payload: &[u8]) -> Option<TrackedConnection> {
    let (_, rest) = payload.split_at_checked(4)?;
    let (mut original, mut reply) = (None, None);
    let (mut zone, mut status, mut mark, mut timeout_s) = (0, 0, 0, 0);
    let mut tcp_state = None;
    for (kind, value) in attributes(rest) {
        match kind {
            CTA_TUPLE_ORIG => original = tuple(value),
            CTA_TUPLE_REPLY => reply = tuple(value),
            CTA_STATUS => status = be32(value)?,
            CTA_TIMEOUT => timeout_s = be32(value)?,
            CTA_MARK => mark = be32(value)?,
            CTA_ZONE => zone = be16(value)?,
            CTA_PROTOINFO => {
                tcp_state = nested(value, CTA_PROTOINFO_TCP)
                    .and_then(|tcp| nested(tcp, CTA_PROTOINFO_TCP_STATE))
                    .and_then(|state| state.first().copied());
            }
            _ => {}
        }
    }
    Some(TrackedConnection { original: original?, reply: reply?, zone, status, mark, timeout_s, tcp_state })
}

fn tuple(value: &[u8]) -> Option<ConnectionTuple> {
    let (addresses, protocol) = (nested(value, CTA_TUPLE_IP)?, nested(value, CTA_TUPLE_PROTO)?);
    let address = |v4, v6| nested(addresses, v4).or_else(|| nested(addresses, v6)).and_then(ip);
    let number = |kind| nested(protocol, kind).and_then(be16);
    let id = number(CTA_PROTO_ICMP_ID).or_else(|| number(CTA_PROTO_ICMPV6_ID));
    let port = |kind| number(kind).unwrap_or(0);
    Some(ConnectionTuple {
        proto: *nested(protocol, CTA_PROTO_NUM)?.first()?,
        src: SocketAddr::new(
            address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
            id.unwrap_or_else(|| port(CTA_PROTO_SRC_PORT)),
        ),
        dst: SocketAddr::new(address(CTA_IP_V4_DST, CTA_IP_V6_DST)?, port(CTA_PROTO_DST_PORT)),
    })
}

fn nested(value: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(value).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

fn be16(value: &[u8]) -> Option<u16> {
    value.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        Request::dump("", 0, &[]).attribute(kind, value).payload
    }

    #[test]
    fn a_translated_connection() {
        let tuple = |src: [u8; 4], dst: [u8; 4], sport: u16, dport: u16| {
            let addresses = [attribute(CTA_IP_V4_SRC, &src), attribute(CTA_IP_V4_DST, &dst)].concat();
            let ports = [
                attribute(CTA_PROTO_NUM, &[6]),
                attribute(CTA_PROTO_SRC_PORT, &sport.to_be_bytes()),
                attribute(CTA_PROTO_DST_PORT, &dport.to_be_bytes()),
            ];
            [attribute(CTA_TUPLE_IP, &addresses), attribute(CTA_TUPLE_PROTO, &ports.concat())].concat()
        };
        let tcp = attribute(CTA_PROTOINFO_TCP, &attribute(CTA_PROTOINFO_TCP_STATE, &[3]));
        let message = [
            vec![2, 0, 0, 0],
            attribute(CTA_TUPLE_ORIG, &tuple([10, 0, 0, 1], [10, 96, 0, 7], 4000, 80)),
            attribute(CTA_TUPLE_REPLY, &tuple([10, 0, 0, 9], [10, 0, 0, 1], 8080, 4000)),
            attribute(CTA_STATUS, &0x2e_u32.to_be_bytes()),
            attribute(CTA_TIMEOUT, &300_u32.to_be_bytes()),
            attribute(CTA_ZONE, &7_u16.to_be_bytes()),
            attribute(CTA_PROTOINFO, &tcp),
        ]
        .concat();
        let entry = parse(&message).unwrap();
        assert!(entry.translates_destination() && !entry.translates_source() && entry.is_assured());
        assert_eq!(
            entry.to_string(),
            "10.0.0.1:4000 → 10.96.0.7:80, answers: 10.0.0.9:8080 → 10.0.0.1:4000: ESTABLISHED, assured, zone 7, 300 s left"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
