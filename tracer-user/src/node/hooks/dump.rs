// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's own list of hooks: nfnetlink_hook (5.14 and later, when it is configured).

use super::chain::family_name;
use crate::node::netlink::{Request, attributes, be32, text};
use crate::node::{Family, Hook};

// include/uapi/linux/netfilter/nfnetlink_hook.h
const NFNL_MSG_HOOK_GET: u16 = 0;
const NFNLA_HOOK_HOOKNUM: u16 = 1;
const NFNLA_HOOK_PRIORITY: u16 = 2;
const NFNLA_HOOK_FUNCTION_NAME: u16 = 4;
const NFNLA_HOOK_CHAIN_INFO: u16 = 6;
const NFNLA_HOOK_INFO_DESC: u16 = 1;
const NFNLA_HOOK_INFO_TYPE: u16 = 2;
const NFNLA_CHAIN_TABLE: u16 = 1;
const NFNLA_CHAIN_FAMILY: u16 = 2;
const NFNLA_CHAIN_NAME: u16 = 3;
const NFNLA_HOOK_BPF_ID: u16 = 1;
const NFNL_HOOK_TYPE_NFTABLES: u32 = 1;
const NFNL_HOOK_TYPE_BPF: u32 = 2;

const MESSAGE: u16 = (libc::NFNL_SUBSYS_HOOK << 8) as u16 | NFNL_MSG_HOOK_GET;

/// One registered function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) hook: Hook,
    pub(super) priority: i32,
    /// As kallsyms names it; empty where the kernel was built without.
    pub(super) function: String,
    pub(super) info: Info,
}

/// What the kernel says of it beyond its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Info {
    None,
    /// An nftables base chain.
    Chain {
        family: u8,
        table: String,
        name: String,
    },
    /// A BPF program, by id.
    Program(u32),
}

/// Asks for one hook of one family.
pub(super) fn request(family: Family, hook: Hook) -> Request {
    let family = match family {
        Family::Ipv4 => libc::NFPROTO_IPV4,
        Family::Ipv6 => libc::NFPROTO_IPV6,
    };
    // struct nfgenmsg: family, version 0, no resource.
    Request::dump("netfilter hooks", MESSAGE, &[family as u8, 0, 0, 0])
        .attribute(NFNLA_HOOK_HOOKNUM, &u32::from(hook as u8).to_be_bytes())
}

impl Registered {
    pub(super) fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (_, rest) = payload.split_at_checked(4)?;
        if kind != MESSAGE {
            return None;
        }
        let (mut hook, mut priority, mut function, mut info) = (None, None, String::new(), Info::None);
        for (attribute, value) in attributes(rest) {
            match attribute {
                NFNLA_HOOK_HOOKNUM => {
                    hook = be32(value).and_then(|n| u8::try_from(n).ok()).and_then(Hook::parse);
                }
                NFNLA_HOOK_PRIORITY => priority = be32(value).map(|p| p as i32),
                NFNLA_HOOK_FUNCTION_NAME => function = text(value),
                NFNLA_HOOK_CHAIN_INFO => info = Info::parse(value),
                _ => {}
            }
        }
        Some(Self { hook: hook?, priority: priority?, function, info })
    }
}

impl Info {
    fn parse(nested: &[u8]) -> Self {
        let (mut kind, mut description) = (None, &[][..]);
        for (attribute, value) in attributes(nested) {
            match attribute {
                NFNLA_HOOK_INFO_TYPE => kind = be32(value),
                NFNLA_HOOK_INFO_DESC => description = value,
                _ => {}
            }
        }
        match kind {
            Some(NFNL_HOOK_TYPE_NFTABLES) => Self::parse_chain(description).unwrap_or(Self::None),
            Some(NFNL_HOOK_TYPE_BPF) => attributes(description)
                .find(|(kind, _)| *kind == NFNLA_HOOK_BPF_ID)
                .and_then(|(_, value)| be32(value))
                .map_or(Self::None, Self::Program),
            _ => Self::None,
        }
    }

    fn parse_chain(description: &[u8]) -> Option<Self> {
        let (mut table, mut family, mut name) = (None, None, None);
        for (attribute, value) in attributes(description) {
            match attribute {
                NFNLA_CHAIN_TABLE => table = Some(text(value)),
                NFNLA_CHAIN_FAMILY => family = value.first().copied(),
                NFNLA_CHAIN_NAME => name = Some(text(value)),
                _ => {}
            }
        }
        family_name(family?)?;
        Some(Self::Chain { family: family?, table: table?, name: name? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(info: Option<(u32, Vec<u8>)>) -> Vec<u8> {
        let mut request = Request::one("", 0, &[2, 0, 0, 0])
            .attribute(NFNLA_HOOK_HOOKNUM, &2u32.to_be_bytes())
            .attribute(NFNLA_HOOK_PRIORITY, &(-150i32).to_be_bytes())
            .attribute(NFNLA_HOOK_FUNCTION_NAME, b"nft_do_chain_ipv4\0");
        if let Some((kind, description)) = info {
            let nested = Request::one("", 0, &[])
                .attribute(NFNLA_HOOK_INFO_TYPE, &kind.to_be_bytes())
                .attribute(NFNLA_HOOK_INFO_DESC | 0x8000, &description);
            request = request.attribute(NFNLA_HOOK_CHAIN_INFO | 0x8000, &nested.payload);
        }
        request.payload
    }

    #[test]
    fn a_function_a_chain_and_a_program() {
        let parse = |info| Registered::parse(MESSAGE, &message(info)).unwrap();
        let plain = parse(None);
        assert_eq!(
            (plain.hook, plain.priority, plain.function.as_str()),
            (Hook::Forward, -150, "nft_do_chain_ipv4")
        );
        assert_eq!(plain.info, Info::None);
        let chain = Request::one("", 0, &[])
            .attribute(NFNLA_CHAIN_TABLE, b"t\0")
            .attribute(NFNLA_CHAIN_NAME, b"c\0")
            .attribute(NFNLA_CHAIN_FAMILY, &[1]);
        assert_eq!(
            parse(Some((NFNL_HOOK_TYPE_NFTABLES, chain.payload))).info,
            Info::Chain { family: 1, table: "t".into(), name: "c".into() }
        );
        let program = Request::one("", 0, &[]).attribute(NFNLA_HOOK_BPF_ID, &42u32.to_be_bytes());
        assert_eq!(parse(Some((NFNL_HOOK_TYPE_BPF, program.payload))).info, Info::Program(42));
        // A kind that does not exist yet.
        assert_eq!(parse(Some((99, vec![1, 2, 3]))).info, Info::None);
    }

    #[test]
    fn the_request_names_family_and_hook() {
        let request = request(Family::Ipv6, Hook::Postrouting);
        assert_eq!(request.payload, [10, 0, 0, 0, 8, 0, 1, 0, 0, 0, 0, 4]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Registered::parse(MESSAGE, &bytes);
            let _ = Info::parse(&bytes);
        }

        #[test]
        fn a_damaged_message_never_panics(at in 0usize..100, byte: u8, cut in 0usize..120) {
            let mut bytes = message(Some((1, vec![8, 0, 1, 0, 65, 0, 0, 0])));
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            bytes.truncate(cut);
            let _ = Registered::parse(MESSAGE, &bytes);
        }
    }
}
