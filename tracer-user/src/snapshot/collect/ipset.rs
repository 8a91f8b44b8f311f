// SPDX-License-Identifier: MIT OR Apache-2.0
//! ipsets over netlink: the `ipset` program is rarely installed on nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use crate::firewall::{IpRange, IpSet, Member, MemberField, PortRange};
use crate::node::IpPrefix;
use crate::node::netlink::{Netlink, NetlinkError, Request, attributes, be32, ip, text};

// include/uapi/linux/netfilter/ipset/ip_set.h
const NFNL_SUBSYS_IPSET: u16 = 6;
const IPSET_CMD_LIST: u16 = 7;
/// Understood by every kernel since 2.6.39.
const PROTOCOL: u8 = 6;
const IPSET_ATTR_PROTOCOL: u16 = 1;
const IPSET_ATTR_SETNAME: u16 = 2;
const IPSET_ATTR_TYPENAME: u16 = 3;
const IPSET_ATTR_FAMILY: u16 = 5;
const IPSET_ATTR_DATA: u16 = 7;
const IPSET_ATTR_ADT: u16 = 8;
const IPSET_ATTR_IP: u16 = 1;
const IPSET_ATTR_IP_TO: u16 = 2;
const IPSET_ATTR_CIDR: u16 = 3;
const IPSET_ATTR_PORT: u16 = 4;
const IPSET_ATTR_PORT_TO: u16 = 5;
const IPSET_ATTR_PROTO: u16 = 7;
const IPSET_ATTR_CADT_FLAGS: u16 = 8;
const IPSET_ATTR_MARK: u16 = 10;
const IPSET_ATTR_ETHER: u16 = 17;
const IPSET_ATTR_NAME: u16 = 18;
const IPSET_ATTR_IP2: u16 = 20;
const IPSET_ATTR_CIDR2: u16 = 21;
const IPSET_ATTR_IP2_TO: u16 = 22;
const IPSET_ATTR_IFACE: u16 = 23;
const IPSET_FLAG_PHYSDEV: u32 = 1 << 1;
const IPSET_FLAG_NOMATCH: u32 = 1 << 2;
const IPSET_FLAG_IFACE_WILDCARD: u32 = 1 << 7;
// Of a set as a whole.
const IPSET_ATTR_MARKMASK: u16 = 11;
const IPSET_ATTR_NETMASK: u16 = 20;

const MESSAGE: u16 = NFNL_SUBSYS_IPSET << 8 | IPSET_CMD_LIST;

/// Members that are kept of one set; the kernel's default limit is a quarter of that.
const MAX_MEMBERS: usize = 262_144;

/// The sets of the namespace of the calling thread. Empty where the kernel has none.
pub(super) fn read(netns: &str) -> Result<BTreeMap<String, IpSet>, NetlinkError> {
    let request = Request::dump("ipsets", MESSAGE, &[libc::NFPROTO_IPV4 as u8, 0, 0, 0])
        .attribute(IPSET_ATTR_PROTOCOL, &[PROTOCOL]);
    let parts = match Netlink::open(libc::NETLINK_NETFILTER, netns, &[])?.dump(&request, raw) {
        Ok(parts) => parts,
        Err(error) if error.is_unsupported() => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    Ok(parse(&parts))
}

/// Sets by name, from the messages of a dump without their struct nfgenmsg.
pub fn parse(messages: &[Vec<u8>]) -> BTreeMap<String, IpSet> {
    let mut sets = BTreeMap::new();
    for message in messages {
        merge(&mut sets, message);
    }
    sets
}

fn raw(kind: u16, payload: &[u8]) -> Option<Vec<u8>> {
    (kind == MESSAGE).then(|| payload.get(4..).map(<[u8]>::to_vec)).flatten()
}

/// One message: a set, or more members of one (net/netfilter/ipset/ip_set_core.c, ip_set_dump_do).
fn merge(sets: &mut BTreeMap<String, IpSet>, message: &[u8]) {
    let find = |wanted| attributes(message).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let Some(name) = find(IPSET_ATTR_SETNAME).map(text) else { return };
    let set = sets.entry(name.clone()).or_insert_with(|| IpSet { name, ..IpSet::default() });
    if let Some(kind) = find(IPSET_ATTR_TYPENAME) {
        set.kind = text(kind);
    }
    if let Some(family) = find(IPSET_ATTR_FAMILY).and_then(<[u8]>::first) {
        set.ipv6 = i32::from(*family) == libc::NFPROTO_IPV6;
    }
    let whole = |wanted| attributes(find(IPSET_ATTR_DATA)?).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    if let Some(length) = whole(IPSET_ATTR_NETMASK).and_then(<[u8]>::first) {
        set.netmask = Some(*length);
    }
    // The kind says it, and its members are then not understood.
    if let Some(mask) = whole(IPSET_ATTR_MARKMASK).and_then(be32).filter(|mask| *mask != u32::MAX) {
        set.kind = set.kind.replace("mark", &format!("mark/{mask:#x}"));
    }
    for (kind, entry) in attributes(find(IPSET_ATTR_ADT).unwrap_or_default()) {
        if kind != IPSET_ATTR_DATA {
            continue;
        }
        if set.members.len() < MAX_MEMBERS {
            set.members.push(member(&set.kind, set.netmask, entry));
        } else {
            set.cut += 1;
        }
    }
}

fn member(kind: &str, netmask: Option<u8>, entry: &[u8]) -> Member {
    let find = |wanted| attributes(entry).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let byte = |wanted| find(wanted).and_then(<[u8]>::first).copied();
    let short = |wanted| find(wanted)?.first_chunk().map(|b| u16::from_be_bytes(*b));
    let address = |wanted| find(wanted).and_then(nested_ip);
    let flags = find(IPSET_ATTR_CADT_FLAGS).and_then(be32).unwrap_or(0);
    let mut second = false;
    let fields = kind.split_once(':').map_or("", |(_, fields)| fields).split(',').map(|field| {
        match field {
            "ip" | "net" => {
                let (from, to, cidr) = if std::mem::replace(&mut second, true) {
                    (IPSET_ATTR_IP2, IPSET_ATTR_IP2_TO, IPSET_ATTR_CIDR2)
                } else {
                    (IPSET_ATTR_IP, IPSET_ATTR_IP_TO, IPSET_ATTR_CIDR)
                };
                let range = address(from).map(|first| match (address(to), byte(cidr).or(netmask)) {
                    (Some(last), _) => IpRange { first, last },
                    (None, Some(length)) => {
                        IpPrefix::new(first, length).unwrap_or(IpPrefix::host(first)).into()
                    }
                    (None, None) => IpPrefix::host(first).into(),
                });
                range.map(MemberField::Address)
            }
            "port" => short(IPSET_ATTR_PORT).map(|first| MemberField::Port {
                proto: byte(IPSET_ATTR_PROTO).unwrap_or(0),
                ports: PortRange { first, last: short(IPSET_ATTR_PORT_TO).unwrap_or(first) },
            }),
            "mac" => find(IPSET_ATTR_ETHER).and_then(|v| v.first_chunk().copied()).map(MemberField::Mac),
            // A bridge's port, not the device.
            "iface" if flags & IPSET_FLAG_PHYSDEV != 0 => {
                find(IPSET_ATTR_IFACE).map(|v| MemberField::Other(format!("physdev:{}", text(v))))
            }
            "iface" => find(IPSET_ATTR_IFACE).map(|v| {
                let rest = if flags & IPSET_FLAG_IFACE_WILDCARD != 0 { "*" } else { "" };
                MemberField::Device(format!("{}{rest}", text(v)))
            }),
            "mark" => find(IPSET_ATTR_MARK).and_then(be32).map(|value| MemberField::Mark { value }),
            "set" => find(IPSET_ATTR_NAME).map(|v| MemberField::Set(text(v))),
            _ => None,
        }
        .unwrap_or_else(|| MemberField::Other(field.to_owned()))
    });
    let fields = fields.collect();
    Member { fields, nomatch: flags & IPSET_FLAG_NOMATCH != 0 }
}

/// IPSET_ATTR_IPADDR_IPV4 or _IPV6 within.
fn nested_ip(value: &[u8]) -> Option<IpAddr> {
    attributes(value).next().and_then(|(_, address)| ip(address))
}

/// A set's name by its number, as iptables' rules keep it (include/uapi/linux/netfilter/ipset/ip_set.h). Of the
/// namespace of the calling thread.
pub(super) fn name_of(index: u16) -> Option<String> {
    const SO_IP_SET: libc::c_int = 83;
    const IP_SET_OP_GET_BYINDEX: u32 = 7;
    const NAME: usize = 32;
    /// struct ip_set_req_get_set: the number goes in where the name comes out.
    #[repr(C)]
    struct Question {
        op: u32,
        version: u32,
        set: [u8; NAME],
    }
    let socket = raw_socket()?;
    let mut question = Question { op: IP_SET_OP_GET_BYINDEX, version: PROTOCOL.into(), set: [0; NAME] };
    question.set[..2].copy_from_slice(&index.to_ne_bytes());
    let mut length = size_of::<Question>() as libc::socklen_t;
    // SAFETY: the struct and its length are valid for the call, which writes no more than that.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            SO_IP_SET,
            (&raw mut question).cast(),
            &raw mut length,
        )
    };
    (result == 0 && question.set[0] != 0).then(|| text(&question.set))
}

fn raw_socket() -> Option<OwnedFd> {
    // SAFETY: constants only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    // SAFETY: a descriptor that was just opened and is nobody else's.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(kind: u16, inner: &Request) -> Request {
        Request::one("", 0, &[]).attribute(kind | 0x8000, &inner.payload)
    }

    fn message() -> Vec<u8> {
        let address = Request::one("", 0, &[]).attribute(1, &[10, 200, 0, 0]);
        let entry = Request::one("", 0, &[])
            .attribute(IPSET_ATTR_IP | 0x8000, &address.payload)
            .attribute(IPSET_ATTR_CIDR, &[16])
            .attribute(IPSET_ATTR_PORT, &80u16.to_be_bytes())
            .attribute(IPSET_ATTR_PROTO, &[6])
            .attribute(IPSET_ATTR_CADT_FLAGS, &IPSET_FLAG_NOMATCH.to_be_bytes());
        Request::one("", 0, &[])
            .attribute(IPSET_ATTR_SETNAME, b"s\0")
            .attribute(IPSET_ATTR_TYPENAME, b"hash:net,port\0")
            .attribute(IPSET_ATTR_FAMILY, &[2])
            .attribute(IPSET_ATTR_ADT | 0x8000, &nested(IPSET_ATTR_DATA, &entry).payload)
            .payload
    }

    #[test]
    fn a_set_in_two_messages() {
        let mut sets = BTreeMap::new();
        merge(&mut sets, &message());
        merge(&mut sets, &message());
        let set = &sets["s"];
        assert_eq!((set.kind.as_str(), set.members.len()), ("hash:net,port", 2));
        let network = "10.200.0.0/16".parse::<IpPrefix>().unwrap().into();
        let port = MemberField::Port { proto: 6, ports: PortRange::one(80) };
        assert_eq!(
            set.members[0],
            Member { fields: vec![MemberField::Address(network), port], nomatch: true }
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            merge(&mut BTreeMap::new(), &bytes);
            let _ = member("hash:ip,port,net,mac,iface,mark,set,x", None, &bytes);
        }

        #[test]
        fn a_damaged_message_never_panics(at in 0usize..120, byte: u8, cut in 0usize..140) {
            let mut bytes = message();
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            bytes.truncate(cut);
            merge(&mut BTreeMap::new(), &bytes);
        }
    }
}
