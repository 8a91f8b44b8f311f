// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dumps of nf_tables, and one packet's way through what was understood of them. The input is messages: a byte that says
//! what it is, two of length, and the payload.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_user::node::Hook;
use tracer_user::firewall::bytecode::{Dump, Outside, Reader, set_key};
use tracer_user::firewall::{CtDirection, CtState, PacketView, attribute_beside, near_misses, walk_hook};
use tracer_user::snapshot::NetnsEvidence;

fuzz_target!(|data: &[u8]| {
    let (mut dump, mut rules) = (Dump::default(), Vec::new());
    let mut rest = data;
    while let [kind, low, high, after @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(after.len());
        let (message, next) = after.split_at(length);
        let _ = set_key(message);
        match kind % 4 {
            0 => dump.chains.push(message.to_vec()),
            1 => dump.sets.push(message.to_vec()),
            2 => dump.elements.push(message.to_vec()),
            _ => rules.push(message),
        }
        rest = next;
    }
    let device = |ifindex: u32| (ifindex < 9).then(|| format!("eth{ifindex}"));
    let ipset = |index: u16| (index < 9).then(|| format!("set{index}"));
    let outside = Outside { device: &device, ipset: &ipset };
    let mut reader = Reader::new(&dump);
    for message in rules {
        reader.rule(message, &outside);
    }
    let ruleset = reader.finish();
    let evidence = NetnsEvidence { rulesets: ruleset.tables.into(), sets: ruleset.sets.into(), ..NetnsEvidence::default() };
    let packet = PacketView::new(6, [10, 200, 0, 22].into(), [172, 16, 25, 183].into())
        .ports(41234, 80)
        .mark(0)
        .conntrack(CtState::New, CtDirection::Original)
        .devices("cni0", "eth0");
    for hook in Hook::ALL {
        let _ = walk_hook(&evidence, hook, i32::MIN..i32::MAX, &packet);
        let _ = near_misses(&evidence, hook, "nat", &packet);
    }
    let _ = attribute_beside(&evidence, "eth0", &packet);
});
