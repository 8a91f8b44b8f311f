// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dumps of ipsets: messages, each after two bytes of length; and a packet that is looked up in what was understood.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_user::firewall::{PacketView, Side, in_set};
use tracer_user::snapshot::{NetnsEvidence, parse_ipset_dump};

fuzz_target!(|data: &[u8]| {
    let mut messages = Vec::new();
    let mut rest = data;
    while let [low, high, after @ ..] = rest {
        let (message, next) = after.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(after.len()));
        messages.push(message.to_vec());
        rest = next;
    }
    let evidence = NetnsEvidence { sets: parse_ipset_dump(&messages).into(), ..NetnsEvidence::default() };
    let packet = PacketView::new(6, [10, 200, 0, 22].into(), [172, 16, 25, 183].into())
        .ports(41234, 80)
        .mark(0)
        .devices("cni0", "eth0");
    for name in evidence.sets.keys() {
        let _ = in_set(&evidence, name, &[Side::Source, Side::Destination, Side::Destination], &packet);
    }
});
