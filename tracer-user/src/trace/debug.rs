// SPDX-License-Identifier: MIT OR Apache-2.0
//! Debug messages of the BPF programs (`--debug-bpf`), as lines for standard error.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use tracer_common::{DebugCode, DebugRecord, Kind, Tuple};

/// One message as a line.
pub(super) struct Line<'a>(pub(super) &'a DebugRecord);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(record) = self;
        let (seconds, ns) = (record.ts / 1_000_000_000, record.ts % 1_000_000_000);
        write!(f, "bpf {seconds}.{ns:09} cpu{} ", record.cpu)?;
        if let Some(kind) = record.kind().map(program) {
            write!(f, "{kind} ")?;
        }
        let arg = record.arg;
        match record.code() {
            Some(DebugCode::Miss) => write!(f, "skb {arg:x}: not ours:")?,
            Some(DebugCode::Hit) => write!(f, "skb {arg:x}: ours:")?,
            Some(DebugCode::Followed) => write!(f, "entry {arg:x}: of the flow:")?,
            Some(DebugCode::Forgotten) => write!(f, "entry {arg:x}: not of the flow any more:")?,
            None => write!(f, "code {}, {arg:x}:", record.code)?,
        }
        let Tuple { src, dst, sport, dport, proto } = record.tuple;
        write!(f, " {} {sport} → {} {dport} proto {proto}", address(src), address(dst))?;
        match record.flow {
            0 => Ok(()),
            flow => write!(f, " flow {flow:x}"),
        }
    }
}

fn program(kind: Kind) -> &'static str {
    match kind {
        Kind::Tc => "tc",
        Kind::Nf => "netfilter",
        Kind::Drop | Kind::Stack => "kfree_skb",
        Kind::Fib => "fib_table_lookup",
        Kind::IcmpSend => "icmp_send",
        Kind::ResetSend => "tcp_send_reset",
        Kind::ResetReceive => "tcp_receive_reset",
        Kind::Retransmit => "tcp_retransmit_skb",
        Kind::Conntrack => "conntrack",
        Kind::Outer => "outer packet",
    }
}

/// Four words in network order; IPv4 mapped into IPv6.
fn address(words: [u32; 4]) -> IpAddr {
    let mut bytes = [0; 16];
    bytes.as_chunks_mut().0.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_ne_bytes());
    IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let words = |text: &str| {
            let bytes = text.parse::<Ipv6Addr>().unwrap().octets();
            std::array::from_fn(|i| u32::from_ne_bytes(bytes.as_chunks().0[i]))
        };
        let tuple = Tuple {
            src: words("::ffff:10.0.0.1"),
            dst: words("2001:db8::1"),
            sport: 1234,
            dport: 80,
            proto: 6,
        };
        let (code, kind) = (DebugCode::Hit as u8, Kind::Tc as u8);
        let record = DebugRecord { ts: 7_000_000_012, arg: 0xfe00, flow: 0xab, cpu: 3, code, kind, tuple };
        assert_eq!(
            Line(&record).to_string(),
            "bpf 7.000000012 cpu3 tc skb fe00: ours: 10.0.0.1 1234 → 2001:db8::1 80 proto 6 flow ab"
        );
        let record = DebugRecord { code: DebugCode::Followed as u8, kind: 0, ..record };
        assert!(Line(&record).to_string().contains("cpu3 entry fe00: of the flow: 10.0.0.1 1234"));
    }
}
