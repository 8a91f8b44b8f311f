// SPDX-License-Identifier: MIT OR Apache-2.0
//! nftables base chains (those of iptables-nft too).

use crate::node::netlink::{Request, attributes, be32, text};
use crate::node::{Family, Hook, HookEntry, HookOwner};

// include/uapi/linux/netfilter/nf_tables.h
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NF_DROP: u32 = 0;

/// Priorities at which nf_nat calls every chain of type nat, whatever priority the chain itself was given:
/// that only orders the nat chains among themselves (net/netfilter/nf_nat_core.c, nf_nat_register_fn).
pub(crate) fn nat_priority(hook: Hook) -> Option<i32> {
    match hook {
        Hook::Prerouting | Hook::Output => Some(libc::NF_IP_PRI_NAT_DST),
        Hook::Input | Hook::Postrouting => Some(libc::NF_IP_PRI_NAT_SRC),
        Hook::Forward => None,
    }
}

/// A base chain at a hook of IPv4, IPv6 or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// NFPROTO_*.
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) hook: Hook,
    pub(super) priority: i32,
    pub(super) policy_drop: bool,
}

/// Asks for all chains of all families.
pub(super) fn request() -> Request {
    let kind = (libc::NFNL_SUBSYS_NFTABLES << 8) as u16 | libc::NFT_MSG_GETCHAIN as u16;
    // struct nfgenmsg: family unspecified, version 0, no resource.
    Request::dump("nftables chains", kind, &[0; 4])
}

impl Chain {
    /// `None` for what is no base chain, or one of another family or hook (arp, bridge, netdev, ingress).
    pub(super) fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(4)?;
        if kind != (libc::NFNL_SUBSYS_NFTABLES << 8) as u16 | libc::NFT_MSG_NEWCHAIN as u16 {
            return None;
        }
        let family = fixed[0];
        family_name(family)?;
        let (mut table, mut name, mut kind) = (String::new(), String::new(), String::new());
        let (mut at, mut policy) = (None, None);
        for (attribute, value) in attributes(rest) {
            match attribute {
                NFTA_CHAIN_TABLE => table = text(value),
                NFTA_CHAIN_NAME => name = text(value),
                NFTA_CHAIN_TYPE => kind = text(value),
                NFTA_CHAIN_POLICY => policy = be32(value),
                NFTA_CHAIN_HOOK => at = hook_and_priority(value),
                _ => {}
            }
        }
        let (hook, priority) = at?;
        Some(Self { family, table, name, kind, hook, priority, policy_drop: policy == Some(NF_DROP) })
    }

    /// An entry for each address family the chain sees.
    pub(super) fn entries(&self) -> impl Iterator<Item = HookEntry> + '_ {
        let families: &[Family] = match i32::from(self.family) {
            libc::NFPROTO_IPV4 => &[Family::Ipv4],
            libc::NFPROTO_IPV6 => &[Family::Ipv6],
            _ => &[Family::Ipv4, Family::Ipv6],
        };
        let priority =
            if self.is_nat() { nat_priority(self.hook).unwrap_or(self.priority) } else { self.priority };
        families.iter().map(move |family| HookEntry {
            family: *family,
            hook: self.hook,
            priority,
            owner: self.owner(),
        })
    }

    pub(super) fn is_nat(&self) -> bool {
        self.kind == "nat"
    }

    pub(super) fn owner(&self) -> HookOwner {
        HookOwner::Nft {
            family: family_name(self.family).unwrap_or_default().to_owned(),
            table: self.table.clone(),
            chain: self.name.clone(),
            kind: self.kind.clone(),
            policy_drop: self.policy_drop,
        }
    }
}

/// As `nft` writes it; `None` for families we do not look at.
pub(super) fn family_name(family: u8) -> Option<&'static str> {
    match i32::from(family) {
        libc::NFPROTO_INET => Some("inet"),
        libc::NFPROTO_IPV4 => Some("ip"),
        libc::NFPROTO_IPV6 => Some("ip6"),
        _ => None,
    }
}

fn hook_and_priority(nested: &[u8]) -> Option<(Hook, i32)> {
    let (mut hook, mut priority) = (None, None);
    for (kind, value) in attributes(nested) {
        match kind {
            NFTA_HOOK_HOOKNUM => hook = be32(value).and_then(|n| u8::try_from(n).ok()).and_then(Hook::parse),
            NFTA_HOOK_PRIORITY => priority = be32(value).map(|p| p as i32),
            _ => {}
        }
    }
    Some((hook?, priority?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEWCHAIN: u16 = (libc::NFNL_SUBSYS_NFTABLES << 8) as u16 | libc::NFT_MSG_NEWCHAIN as u16;

    fn message(family: u8, kind: &[u8], hook: u32, priority: i32) -> Vec<u8> {
        let at = Request::one("", 0, &[])
            .attribute(NFTA_HOOK_HOOKNUM, &hook.to_be_bytes())
            .attribute(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
        Request::one("", 0, &[family, 0, 0, 0])
            .attribute(NFTA_CHAIN_TABLE, b"mangle\0")
            .attribute(NFTA_CHAIN_NAME, b"PREROUTING\0")
            .attribute(NFTA_CHAIN_TYPE, kind)
            .attribute(NFTA_CHAIN_POLICY, &NF_DROP.to_be_bytes())
            .attribute(NFTA_CHAIN_HOOK, &at.payload)
            .payload
    }

    #[test]
    fn a_chain_of_family_inet_is_at_both() {
        let chain = Chain::parse(NEWCHAIN, &message(1, b"filter\0", 0, -150)).unwrap();
        assert!(chain.policy_drop);
        let at: Vec<_> = chain.entries().map(|e| (e.family, e.hook, e.priority)).collect();
        assert_eq!(at, [(Family::Ipv4, Hook::Prerouting, -150), (Family::Ipv6, Hook::Prerouting, -150)]);
    }

    #[test]
    fn a_nat_chain_runs_where_nf_nat_does() {
        let chain = Chain::parse(NEWCHAIN, &message(2, b"nat\0", 4, -7)).unwrap();
        assert_eq!(chain.entries().map(|e| e.priority).collect::<Vec<_>>(), [100]);
    }

    #[test]
    fn other_families_and_hooks_are_left_out() {
        for (family, hook) in [(3, 0), (5, 0), (7, 0), (1, 5), (2, 300)] {
            assert_eq!(Chain::parse(NEWCHAIN, &message(family, b"filter\0", hook, 0)), None);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Chain::parse(NEWCHAIN, &bytes);
        }
    }
}
