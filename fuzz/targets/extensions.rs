// SPDX-License-Identifier: MIT OR Apache-2.0
//! Structs of iptables' extensions within a rule of nf_tables that is otherwise in order: what is understood of them is
//! printed as iptables would, and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_user::firewall::bytecode::{Dump, Outside, Reader};
use tracer_user::firewall::{Backend, TableFamily, iptables};

const MATCHES: [&str; 20] = [
    "comment",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "conntrack",
    "state",
    "mark",
    "connmark",
    "addrtype",
    "set",
    "mac",
    "multiport",
    "statistic",
    "owner",
    "iprange",
    "physdev",
    "recent",
    "limit",
    "string",
];
const TARGETS: [&str; 14] = [
    "MARK",
    "CONNMARK",
    "DNAT",
    "SNAT",
    "MASQUERADE",
    "REDIRECT",
    "REJECT",
    "CT",
    "TCPMSS",
    "LOG",
    "TPROXY",
    "TTL",
    "NFQUEUE",
    "NETMAP",
];

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(value.len() + 4).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

fn string(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, format!("{text}\0").as_bytes())
}

fuzz_target!(|data: &[u8]| {
    let [six, is_target, name, revision, info @ ..] = data else { return };
    let six = six % 2 == 1;
    let (expression, name) = if is_target % 2 == 1 {
        ("target", TARGETS[usize::from(*name) % TARGETS.len()])
    } else {
        ("match", MATCHES[usize::from(*name) % MATCHES.len()])
    };
    let info = &info[..info.len().min(4096)];
    let inner =
        [string(1, name), attribute(2, &u32::from(revision % 5).to_be_bytes()), attribute(3, info)].concat();
    let one = attribute(1 | 0x8000, &[string(1, expression), attribute(2 | 0x8000, &inner)].concat());
    let fixed = [if six { 10 } else { 2 }, 0, 0, 0];
    let hook = [attribute(1, &2u32.to_be_bytes()), attribute(2, &0u32.to_be_bytes())].concat();
    let parts =
        [string(1, "filter"), string(3, "FORWARD"), attribute(4 | 0x8000, &hook), string(7, "filter")];
    let chain = [&fixed[..], &parts.concat()].concat();
    let parts = [string(1, "filter"), string(2, "FORWARD"), attribute(4 | 0x8000, &one)];
    let rule = [&fixed[..], &parts.concat()].concat();
    let ipset = |index: u16| (index < 9).then(|| format!("set{index}"));
    let mut reader = Reader::new(&Dump { chains: vec![chain], ..Dump::default() });
    reader.rule(&rule, &Outside { device: &|_| None, ipset: &ipset });
    let ruleset = reader.finish();
    assert_eq!(ruleset.tables[0].backend, Backend::IptablesNft);
    let rule = &ruleset.tables[0].chains[0].rules[0];
    let family = if six { TableFamily::Ip6 } else { TableFamily::Ip };
    let text = format!("*filter\n:FORWARD ACCEPT [0:0]\n{}\nCOMMIT\n", rule.text);
    let again = iptables::parse(&text, family, Backend::IptablesNft);
    assert_eq!(again.tables[0].chains[0].rules.len(), 1, "{text}");
});
