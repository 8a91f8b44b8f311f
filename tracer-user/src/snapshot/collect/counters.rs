// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of the network stack.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

const MAX_TEXT: usize = 1 << 20;

const FILES: [&str; 4] = ["snmp", "netstat", "snmp6", "stat/nf_conntrack"];

/// The files of one namespace, held open: they can be read again from any thread.
#[derive(Debug)]
pub struct CounterFiles {
    /// In the order of [`FILES`]; `None` where there is no such file.
    files: [Option<File>; 4],
    last: BTreeMap<String, u64>,
}

impl CounterFiles {
    /// In the namespace of the calling thread.
    pub(super) fn open_here() -> Self {
        let files = FILES.map(|name| File::open(format!("/proc/thread-self/net/{name}")).ok());
        let mut opened = Self { files, last: BTreeMap::new() };
        opened.risen();
        opened
    }

    /// By how much counters rose since this was last asked; those that did not are left out.
    pub fn risen(&mut self) -> BTreeMap<String, u64> {
        let [snmp, netstat, six, conntrack] = &self.files;
        let now =
            parse([snmp, netstat, six, conntrack].map(|file| file.as_ref().map(whole).unwrap_or_default()));
        let before = std::mem::replace(&mut self.last, now);
        let risen = |(name, value): (&String, &u64)| {
            let by = value.saturating_sub(before.get(name).copied().unwrap_or(*value));
            (by > 0).then(|| (name.clone(), by))
        };
        self.last.iter().filter_map(risen).collect()
    }
}

/// The whole of a file in /proc, from its beginning.
fn whole(file: &File) -> String {
    let mut text = Vec::new();
    let mut block = [0; 8192];
    while let Ok(count @ 1..) = file.read_at(&mut block, text.len() as u64) {
        text.extend_from_slice(&block[..count]);
        if text.len() > MAX_TEXT {
            break;
        }
    }
    String::from_utf8(text).unwrap_or_default()
}

/// All of /proc/net/{snmp,netstat,snmp6} and the sums of stat/nf_conntrack, of the calling thread's namespace.
pub(super) fn read() -> BTreeMap<String, u64> {
    parse(FILES.map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()))
}

fn parse([snmp, netstat, snmp6, stat]: [String; 4]) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    pairs(&snmp, &mut out);
    pairs(&netstat, &mut out);
    six(&snmp6, &mut out);
    conntrack(&stat, &mut out);
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

    #[test]
    fn what_rose_is_told_once() {
        let mut files = CounterFiles::open_here();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert!(files.risen().get("Udp.OutDatagrams").is_some_and(|by| *by >= 1));
        assert!(!files.risen().contains_key("Udp.NoSuchCounter"));
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
