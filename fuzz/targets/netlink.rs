// SPDX-License-Identifier: MIT OR Apache-2.0
//! What rtnetlink answers: attributes within attributes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracer_user::node::rtnl::{Address, FdbEntry, Link, Neighbour, Route, Rule};

/// RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWNEIGH, RTM_NEWRULE (linux/rtnetlink.h).
const KINDS: [u16; 5] = [16, 20, 24, 28, 32];

fuzz_target!(|payload: &[u8]| {
    for kind in KINDS {
        let _ = Link::parse(kind, payload);
        let _ = Address::parse(kind, payload);
        let _ = Route::parse(kind, payload);
        let _ = (Neighbour::parse(kind, payload), FdbEntry::parse(kind, payload));
        let _ = Rule::parse(kind, payload);
    }
});
