// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of the network stack.

use std::collections::BTreeMap;
use std::fs;

/// All of /proc/net/{snmp,netstat,snmp6} and the sums of stat/nf_conntrack, of the calling thread's namespace.
pub(super) fn read() -> BTreeMap<String, u64> {
    let file = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let mut out = BTreeMap::new();
    pairs(&file("snmp"), &mut out);
    pairs(&file("netstat"), &mut out);
    six(&file("snmp6"), &mut out);
    conntrack(&file("stat/nf_conntrack"), &mut out);
    out
}

/// A line of names, a line of values, both after `Prefix:`. Negative values are no counters.
fn pairs(text: &str, out: &mut BTreeMap<String, u64>) {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (Some((prefix, names)), Some((_, values))) = (names.split_once(':'), values.split_once(':'))
        else {
            continue;
        };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            if let Ok(value) = value.parse() {
                out.insert(format!("{prefix}.{name}"), value);
            }
        }
    }
}

/// `Ip6InNoRoutes 0`: as `Ip6.InNoRoutes`.
fn six(text: &str, out: &mut BTreeMap<String, u64>) {
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(Ok(value))) = (words.next(), words.next().map(str::parse))
            && let Some((prefix, name)) = name.split_once('6')
        {
            out.insert(format!("{prefix}6.{name}"), value);
        }
    }
}

/// A line of names, then one of hexadecimal values for each CPU. `entries` repeats on each.
fn conntrack(text: &str, out: &mut BTreeMap<String, u64>) {
    let mut lines = text.lines();
    let names: Vec<_> = lines.next().unwrap_or_default().split_whitespace().collect();
    for line in lines {
        for (name, value) in names.iter().zip(line.split_whitespace()) {
            if let (true, Ok(value)) = (*name != "entries", u64::from_str_radix(value, 16)) {
                let sum: &mut u64 = out.entry(format!("Conntrack.{name}")).or_default();
                *sum = sum.saturating_add(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_file() {
        let mut out = BTreeMap::new();
        pairs("Tcp: A B\nTcp: -1 7\nUdp: RcvbufErrors\nUdp: 3\n", &mut out);
        six("Ip6InNoRoutes                   \t4\n", &mut out);
        conntrack(
            "entries drop insert_failed\n00000005 0000000a 00000001\n00000005 00000001 00000001\n",
            &mut out,
        );
        let all: Vec<_> = out.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let wanted =
            [("Conntrack.drop", 11), ("Conntrack.insert_failed", 2), ("Ip6.InNoRoutes", 4), ("Tcp.B", 7)];
        assert_eq!(all[..4], wanted);
        assert_eq!(all[4], ("Udp.RcvbufErrors", 3));
        assert!(read().contains_key("TcpExt.ListenOverflows"));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(.{0,30}\n?){0,6}") {
            let mut out = BTreeMap::new();
            pairs(&text, &mut out);
            six(&text, &mut out);
            conntrack(&text, &mut out);
        }
    }
}
