// SPDX-License-Identifier: MIT OR Apache-2.0
//! What identifies a packet when its skb address, IP addresses and ports change.

use tracer_common::{Event, FLAG_FRAG, FLAG_QUOTED, FLAG_TRUNCATED};

/// IPv4 fragment offset without the flags.
const OFFSET: u16 = 0x1fff;

/// What NAT, encapsulation and forwarding leave alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) flow: u32,
    pub(crate) l4a: u32,
    pub(crate) l4b: u32,
    pub(crate) ip_id: u16,
    pub(crate) l3len: u16,
    pub(crate) frag_offset: u16,
    /// Type and code of an ICMP error.
    pub(crate) icmp: u16,
    pub(crate) proto: u8,
    pub(crate) tcp_flags: u8,
    pub(crate) dir: u8,
    pub(crate) gso: bool,
    pub(crate) frag: bool,
    pub(crate) quoted: bool,
    pub(crate) short: bool,
}

impl Fingerprint {
    pub(crate) fn of(e: &Event) -> Self {
        let quoted = e.flags & FLAG_QUOTED != 0;
        let frag = e.flags & FLAG_FRAG != 0;
        Self {
            flow: e.flow,
            l4a: e.l4a,
            l4b: e.l4b,
            ip_id: e.ip_id,
            l3len: e.l3len(),
            frag_offset: if frag { e.frag & OFFSET } else { 0 },
            icmp: if quoted { e.sport } else { 0 },
            proto: e.proto,
            tcp_flags: e.tcp_flags,
            dir: e.dir,
            gso: e.gso_size != 0,
            frag,
            quoted,
            short: e.flags & FLAG_TRUNCATED != 0,
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        const K: u64 = 0xf135_7aea_2e62_a9c5;
        let a = u64::from(self.flow)
            | u64::from(self.proto) << 32
            | u64::from(self.tcp_flags) << 40
            | u64::from(self.dir) << 48
            | u64::from(self.quoted) << 56
            | u64::from(self.frag) << 57;
        let b = u64::from(self.l4a) | u64::from(self.l4b) << 32;
        let c = u64::from(self.ip_id)
            | u64::from(self.l3len) << 16
            | u64::from(self.frag_offset) << 32
            | u64::from(self.icmp) << 48;
        let mut h = a.wrapping_mul(K).rotate_left(26) ^ b;
        h = h.wrapping_mul(K).rotate_left(26) ^ c;
        h.wrapping_mul(K).rotate_left(26)
    }

    /// The sighting `new` at the same skb address can be the same packet.
    pub(crate) fn same_skb(&self, new: &Self) -> bool {
        if self.flow != new.flow
            || self.dir != new.dir
            || self.quoted != new.quoted
            || self.icmp != new.icmp
            || self.proto != new.proto
        {
            return false;
        }
        // An IPv6 packet has an identification only while it is a fragment.
        let id_comes_or_goes = self.frag != new.frag && (self.ip_id == 0 || new.ip_id == 0);
        if self.ip_id != new.ip_id && !id_comes_or_goes {
            return false;
        }
        if self.frag || new.frag || self.short || new.short {
            // Fragmented or put together again on the way: offsets, lengths and what of layer 4 is there differ.
            return true;
        }
        // TCP and ICMP echo by number; the length only where nothing merges or splits packets.
        self.l4a == new.l4a
            && self.tcp_flags | PSH_FIN == new.tcp_flags | PSH_FIN
            && (self.l3len == new.l3len || self.gso || new.gso)
            && (self.l4b == new.l4b || self.gso || new.gso)
    }

    /// Nothing in it need differ from the flow's other packets.
    pub(crate) fn is_weak(&self) -> bool {
        self.ip_id == 0 && !matches!(self.proto, 1 | 6 | 58)
    }

    /// Sequence numbers `[start, end)` that it may carry, for TCP that certainly has payload. Header lengths
    /// are not in the record: the end is too far by at most 100 bytes.
    pub(crate) fn tcp_range(&self) -> Option<(u32, u32)> {
        const PSH: u8 = 0x08;
        let data = self.tcp_flags & PSH != 0 || self.gso || self.l3len > 140;
        (self.proto == 6 && !self.quoted && !self.frag && data)
            .then(|| (self.l4a, self.l4a.wrapping_add(u32::from(self.l3len))))
    }
}

/// Flags that GRO and segmentation move between the packets of one stretch of data.
const PSH_FIN: u8 = 0x09;

/// `a` lies in `[start, end)`, with sequence numbers that wrap.
pub(crate) fn in_range(a: u32, start: u32, end: u32) -> bool {
    a.wrapping_sub(start) < end.wrapping_sub(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(seq: u32, len: u16, id: u16) -> Fingerprint {
        Fingerprint {
            flow: 1,
            proto: 6,
            l4a: seq,
            l3len: len,
            ip_id: id,
            tcp_flags: 0x10,
            ..Default::default()
        }
    }

    #[test]
    fn another_segment_at_the_same_address_is_another_packet() {
        assert!(tcp(1, 1500, 7).same_skb(&tcp(1, 1500, 7)));
        assert!(!tcp(1, 1500, 7).same_skb(&tcp(1449, 1500, 8)));
        assert!(!tcp(1, 1500, 0).same_skb(&tcp(1449, 1500, 0)));
    }

    #[test]
    fn merged_segments_keep_their_first_number() {
        let merged = Fingerprint { gso: true, tcp_flags: 0x18, ..tcp(1, 4396, 7) };
        assert!(tcp(1, 1500, 7).same_skb(&merged));
        let (start, end) = merged.tcp_range().expect("has payload");
        assert!(in_range(1449, start, end));
        assert!(!in_range(9000, start, end));
    }

    #[test]
    fn ranges_wrap() {
        assert!(in_range(3, u32::MAX - 10, 20));
        assert!(!in_range(30, u32::MAX - 10, 20));
    }
}
