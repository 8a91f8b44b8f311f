// SPDX-License-Identifier: MIT OR Apache-2.0
//! What iptables-save prints, and one packet's way through what was understood of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_user::node::Hook;
use tracer_user::firewall::{Backend, CtDirection, CtState, PacketView, TableFamily, iptables, near_misses, walk_hook};
use tracer_user::snapshot::NetnsEvidence;

fuzz_target!(|text: &str| {
    let evidence = NetnsEvidence {
        rulesets: iptables::parse(text, TableFamily::Ip, Backend::IptablesNft).tables.into(),
        ..NetnsEvidence::default()
    };
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
