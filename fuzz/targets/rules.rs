// SPDX-License-Identifier: MIT OR Apache-2.0
//! What iptables-save, nft and ipset print, and one packet's way through what was understood of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_user::node::Hook;
use tracer_user::firewall::{Backend, CtDirection, CtState, PacketView, TableFamily, iptables, near_misses, nft, parse_ipset_save, walk_hook};
use tracer_user::snapshot::NetnsEvidence;

fuzz_target!(|text: &str| {
    // The three parts are divided by lines of one `%`.
    let mut parts = text.split("\n%\n");
    let mut evidence = NetnsEvidence {
        rulesets: iptables::parse(parts.next().unwrap_or_default(), TableFamily::Ip, Backend::IptablesNft)
            .tables,
        sets: parse_ipset_save(parts.next().unwrap_or_default()),
        ..NetnsEvidence::default()
    };
    let listed = nft::parse(parts.next().unwrap_or_default());
    evidence.rulesets.extend(listed.tables);
    evidence.sets.extend(listed.sets);
    let packet = PacketView::new(6, [10, 200, 0, 22].into(), [172, 16, 25, 183].into())
        .ports(41234, 80)
        .mark(0)
        .conntrack(CtState::New, CtDirection::Original)
        .devices("cni0", "eth0");
    for hook in Hook::ALL {
        let _ = walk_hook(&evidence, hook, i32::MIN..i32::MAX, &packet);
        let _ = near_misses(&evidence, hook, "nat", &packet);
    }
});
