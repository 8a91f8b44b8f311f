// SPDX-License-Identifier: MIT OR Apache-2.0
//! The record of one sighting of a packet.

/// Addresses and ports of a packet, as looked up in the flow table.
///
/// Addresses are IPv6 in network order; IPv4 ones are mapped (`::ffff:a.b.c.d`). Ports are in host
/// order; for ICMP both hold the echo identifier, for protocols without ports both are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub src: [u32; 4],
    pub dst: [u32; 4],
    pub sport: u16,
    pub dport: u16,
    pub proto: u32,
}

impl Tuple {
    /// The same flow seen from the other end.
    #[inline(always)]
    pub fn reverse(&mut self) {
        core::mem::swap(&mut self.src, &mut self.dst);
        core::mem::swap(&mut self.sport, &mut self.dport);
    }
}

/// What saw the packet. The numbers are the wire format of the ring buffer, within one build.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// tc on a device. `point`: 0 ingress, 1 egress. `ifindex`: the device.
    Tc = 1,
    /// A netfilter position. `point`: hook number (0 PREROUTING, 1 INPUT, 2 FORWARD, 3 OUTPUT,
    /// 4 POSTROUTING); `position`: which entry function, see `NF_POSITIONS`. `ifindex` in, `out_ifindex` out.
    Nf = 2,
    /// `kfree_skb`: the packet was dropped. `detail`: [`Event::location`], [`Event::reason`].
    Drop = 3,
    /// A routing decision for the packet last seen on this CPU. `point`: scope of the next hop
    /// (`RT_SCOPE_NOWHERE`, 255: delivered locally). `detail`: table, error, gateway.
    Fib = 4,
    /// The kernel sends an ICMP error about this packet. `point` type, `position` code.
    IcmpSend = 5,
    /// The kernel answers this packet with a TCP RST. `detail`: reason.
    ResetSend = 6,
    /// A RST was received for this flow's socket (tuple is the local socket's own: local -> remote).
    ResetReceive = 7,
    /// A segment of this flow is retransmitted. `l4a`: its sequence number.
    Retransmit = 8,
    /// The conntrack entry of the packet. `position`: 0 original tuple, 1 reply tuple (`CT_TUPLE_REPLY`);
    /// two records for one entry, sent when the entry is first seen on a flow or its NAT changes.
    Conntrack = 9,
    /// Addresses of the outer packet that the *next* record of the same skb was in:
    /// only where `detail` cannot hold them (IPv6 underlay, drops, ICMP). `vni` in `detail`.
    Outer = 10,
    /// Return addresses of the call that dropped the packet; precedes its `Drop`. See [`Event::stack`].
    Stack = 11,
}

impl Kind {
    pub const fn parse(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Tc,
            2 => Self::Nf,
            3 => Self::Drop,
            4 => Self::Fib,
            5 => Self::IcmpSend,
            6 => Self::ResetSend,
            7 => Self::ResetReceive,
            8 => Self::Retransmit,
            9 => Self::Conntrack,
            10 => Self::Outer,
            11 => Self::Stack,
            _ => return None,
        })
    }
}

/// The flow was found inside an encapsulation; tuple, TTL, id etc. are the inner packet's.
pub const FLAG_ENCAP: u8 = 1 << 0;
/// The flow's packet is IPv6.
pub const FLAG_IPV6: u8 = 1 << 1;
/// The packet is an ICMP error that quotes a packet of the flow; the tuple is the ICMP packet's own
/// (ports: 0), `sport` = type << 8 | code, `l4b` = next-hop MTU for "too big".
pub const FLAG_QUOTED: u8 = 1 << 2;
/// A fragment; `frag` holds offset and flags as in the IPv4 header (offset in units of 8 bytes, 0x2000 more).
pub const FLAG_FRAG: u8 = 1 << 3;
/// `Fib`: the lookup asked for the way back (source validation), not for the way on.
pub const FLAG_REVERSE: u8 = 1 << 4;
/// The transport header could not be read; `l4a`, `l4b`, `tcp_flags` are 0.
pub const FLAG_TRUNCATED: u8 = 1 << 5;
/// TCP: the window field is 0.
pub const FLAG_NO_WINDOW: u8 = 1 << 6;

/// `point` of a `Fib` record whose result is this host itself.
pub const SCOPE_NOWHERE: u8 = 255;

/// The packet goes the way the filter says (source to destination).
pub const DIR_FORWARD: u8 = 0;
/// The packet is an answer.
pub const DIR_REPLY: u8 = 1;

/// `position` of the record that holds the reply tuple of a conntrack entry.
pub const CT_TUPLE_REPLY: u8 = 1;

/// Return addresses in a `Stack` record.
pub const STACK_DEPTH: usize = 11;

/// One sighting: 128 bytes, no holes. All integers host order unless said otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// CLOCK_MONOTONIC, ns.
    pub ts: u64,
    /// Address of the `struct sk_buff`; 0 where no packet is at hand.
    pub skb: u64,
    /// Number of this record on its CPU, counting the ones that could not be reserved: a gap is loss.
    pub seq: u32,
    /// Id of the flow, the same for both directions and before and after NAT. 0 only in a `Fib` record of a lookup
    /// that has no source yet: the next packet to its destination tells.
    pub flow: u32,
    /// `skb->mark`; for `Fib` the mark that was looked up.
    pub mark: u32,
    /// `skb->len` where it was seen: bytes, with the link-layer header at tc, without at netfilter.
    pub len: u32,
    /// Device (see `Kind`); 0 none. `Fib`: output device of the result.
    pub ifindex: u32,
    /// Inode number of the network namespace; 0 unknown.
    pub netns: u32,
    /// TCP sequence number; ICMP echo sequence; `Fib`: input interface.
    pub l4a: u32,
    /// TCP acknowledgement number; ICMP error: next-hop MTU.
    pub l4b: u32,
    /// Source and destination, network order, IPv4 mapped into IPv6.
    pub src: [u8; 16],
    pub dst: [u8; 16],
    /// TCP, UDP, SCTP port; ICMP echo: the identifier in both.
    pub sport: u16,
    pub dport: u16,
    /// IPv4 identification; low 16 bits of an IPv6 fragment's.
    pub ip_id: u16,
    /// IPv4 flags and fragment offset as in the header (0x4000 DF, 0x2000 MF, offset / 8).
    pub frag: u16,
    /// GSO: payload bytes per segment and number of segments; 0 when not GSO.
    pub gso_size: u16,
    pub gso_segs: u16,
    pub cpu: u16,
    /// 802.1Q TCI of the packet, 0 when untagged.
    pub vlan: u16,
    /// A [`Kind`].
    pub kind: u8,
    pub point: u8,
    pub position: u8,
    /// `FLAG_*`.
    pub flags: u8,
    /// IP protocol (of the flow's packet).
    pub proto: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags; ICMP type.
    pub tcp_flags: u8,
    /// `DIR_FORWARD` or `DIR_REPLY`.
    pub dir: u8,
    /// By kind; read through the methods below.
    pub detail: [u8; 24],
}

const _: () = assert!(size_of::<Event>() == 128);
const _: () = assert!(size_of::<Tuple>() == 40);

/// Layouts of `detail`:
/// * `Tc`, `Nf`, not ENCAP: ct address u64, ct status u32, ct mark u32, out_ifindex u32, ctinfo u8, wrong checksum u8, l3len u16
/// * `Tc`, not ENCAP, ingress, without ct: 0 u64, destination MAC 6, source MAC 6, ctinfo u8, 0, l3len u16
/// * `Tc`, `Nf`, ENCAP: outer src 4, outer dst 4 (IPv4, network order), outer sport u16, dport u16, vni u32, out_ifindex u32, 0 u8, family u8 (4, or 6: an `Outer` record precedes), l3len u16
/// * `Drop`: location u64, reason u32, socket family.., 0 u32, out_ifindex u32 = 0, 0 u16, l3len u16
/// * `Fib`: table u32, error i32 (negative errno), gateway 16 bytes (IPv4 mapped; 0 none)
/// * `ResetSend`: 0 u64, reason u32, 0
/// * `Conntrack`: ct address u64, status u32, mark u32, zone u16, 0
/// * `Outer`: 0 u64, 0 u32, vni u32, 0
impl Event {
    pub const ZERO: Self = Self {
        ts: 0,
        skb: 0,
        seq: 0,
        flow: 0,
        mark: 0,
        len: 0,
        ifindex: 0,
        netns: 0,
        l4a: 0,
        l4b: 0,
        src: [0; 16],
        dst: [0; 16],
        sport: 0,
        dport: 0,
        ip_id: 0,
        frag: 0,
        gso_size: 0,
        gso_segs: 0,
        cpu: 0,
        vlan: 0,
        kind: 0,
        point: 0,
        position: 0,
        flags: 0,
        proto: 0,
        ttl: 0,
        tcp_flags: 0,
        dir: 0,
        detail: [0; 24],
    };

    /// Decodes a record from the ring buffer. `None` when the length or the kind is not one of ours.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: `Event` is `repr(C)` without padding, made of integers only: every bit pattern is a
        // valid value, and the length was checked.
        let event = unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast::<Self>()) };
        Kind::parse(event.kind).map(|_| event)
    }

    /// The record's bytes, as they cross the ring buffer (for tests and recordings).
    pub fn as_bytes(&self) -> &[u8; 128] {
        // SAFETY: same layout argument as in `parse`, without padding.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    pub fn kind(&self) -> Option<Kind> {
        Kind::parse(self.kind)
    }

    fn detail_u32(&self, at: usize) -> u32 {
        let d = &self.detail;
        u32::from_ne_bytes([d[at], d[at + 1], d[at + 2], d[at + 3]])
    }
    fn detail_u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes([self.detail[at], self.detail[at + 1]])
    }
    fn detail_u64(&self, at: usize) -> u64 {
        u64::from(self.detail_u32(at)) | u64::from(self.detail_u32(at + 4)) << 32
    }
    fn set_u32(&mut self, at: usize, v: u32) {
        self.detail[at..at + 4].copy_from_slice(&v.to_ne_bytes());
    }

    pub fn is_encap(&self) -> bool {
        self.flags & FLAG_ENCAP != 0
    }

    /// Address of the `nf_conn` (`Tc`, `Nf` outside an encapsulation, `Conntrack`); 0 none.
    pub fn ct(&self) -> u64 {
        self.detail_u64(0)
    }
    /// `nf_conn.status` (IPS_* bits).
    pub fn ct_status(&self) -> u32 {
        self.detail_u32(8)
    }
    /// `nf_conn.mark`.
    pub fn ct_mark(&self) -> u32 {
        self.detail_u32(12)
    }
    /// `enum ip_conntrack_info` of the packet: 0 ESTABLISHED, 1 RELATED, 2 NEW, 3 ESTABLISHED_REPLY, 4 RELATED_REPLY, 7 UNTRACKED.
    pub fn ct_info(&self) -> u8 {
        self.detail[20]
    }
    /// The kernel computed the packet's transport checksum and found it wrong (`Nf`, without a conntrack entry).
    pub fn has_wrong_checksum(&self) -> bool {
        self.kind == Kind::Nf as u8 && !self.is_encap() && self.ct() == 0 && self.detail[21] == 1
    }
    /// Destination and source MAC of what came in by a device with such addresses, before it had a conntrack entry.
    pub fn macs(&self) -> Option<([u8; 6], [u8; 6])> {
        let ingress = self.kind == Kind::Tc as u8 && self.point == 0 && !self.is_encap() && self.ct() == 0;
        let d = &self.detail;
        let macs = ([d[8], d[9], d[10], d[11], d[12], d[13]], [d[14], d[15], d[16], d[17], d[18], d[19]]);
        (ingress && d[8..20] != [0; 12]).then_some(macs)
    }
    /// Output device at a netfilter position; 0 none.
    pub fn out_ifindex(&self) -> u32 {
        self.detail_u32(16)
    }
    /// Length of the flow's own packet by its IP header: bytes from the IP header on (`Tc`, `Nf`, `Drop`).
    pub fn l3len(&self) -> u16 {
        self.detail_u16(22)
    }

    /// The outer packet of an encapsulation (`Tc`, `Nf` with `FLAG_ENCAP`). `None` when the outer packet is IPv6: the `Outer` record before this one has it.
    pub fn outer_v4(&self) -> Option<OuterV4> {
        let d = &self.detail;
        (self.is_encap() && d[21] == 4).then(|| OuterV4 {
            src: [d[0], d[1], d[2], d[3]],
            dst: [d[4], d[5], d[6], d[7]],
            sport: self.detail_u16(8),
            dport: self.detail_u16(10),
            vni: self.detail_u32(12),
        })
    }
    /// VNI of an `Outer` record.
    pub fn outer_vni(&self) -> u32 {
        self.detail_u32(12)
    }

    /// Address that freed the packet (`Drop`).
    pub fn location(&self) -> u64 {
        self.detail_u64(0)
    }
    /// `enum skb_drop_reason` (`Drop`) or `enum sk_rst_reason` (`ResetSend`); `u32::MAX` when the kernel gives none.
    pub fn reason(&self) -> u32 {
        self.detail_u32(8)
    }

    /// Routing table of a `Fib` record.
    pub fn fib_table(&self) -> u32 {
        self.detail_u32(0)
    }
    /// Result of a `Fib` record: 0, or a negative errno (-11 no match in this table, -22 blackhole ...).
    pub fn fib_error(&self) -> i32 {
        self.detail_u32(4) as i32
    }
    /// Gateway of a `Fib` record, network order, IPv4 mapped; all zero when on-link.
    pub fn fib_gateway(&self) -> [u8; 16] {
        let mut g = [0; 16];
        g.copy_from_slice(&self.detail[8..24]);
        g
    }

    /// Return addresses of a `Stack` record, innermost first; 0 ends the list.
    pub fn stack(&self) -> [u64; STACK_DEPTH] {
        let mut out = [0; STACK_DEPTH];
        let bytes = self.as_bytes();
        // Eight addresses from `mark` (offset 24) up to `sport`, three more in `detail`.
        for (i, slot) in out.iter_mut().enumerate() {
            let at = if i < 7 {
                24 + i * 8
            } else if i < 8 {
                80
            } else {
                104 + (i - 8) * 8
            };
            let mut w = [0; 8];
            w.copy_from_slice(&bytes[at..at + 8]);
            *slot = u64::from_ne_bytes(w);
        }
        out
    }

    /// Builders, for tests and for reading recordings back.
    pub fn set_ct(&mut self, ct: u64, status: u32, mark: u32, info: u8) {
        self.detail[0..8].copy_from_slice(&ct.to_ne_bytes());
        self.set_u32(8, status);
        self.set_u32(12, mark);
        self.detail[20] = info;
    }
    pub fn set_macs(&mut self, destination: [u8; 6], source: [u8; 6]) {
        self.detail[8..14].copy_from_slice(&destination);
        self.detail[14..20].copy_from_slice(&source);
    }
    pub fn set_out_ifindex(&mut self, ifindex: u32) {
        self.set_u32(16, ifindex);
    }
    pub fn set_l3len(&mut self, len: u16) {
        self.detail[22..24].copy_from_slice(&len.to_ne_bytes());
    }
    pub fn set_outer_v4(&mut self, outer: OuterV4) {
        self.flags |= FLAG_ENCAP;
        self.detail[0..4].copy_from_slice(&outer.src);
        self.detail[4..8].copy_from_slice(&outer.dst);
        self.detail[8..10].copy_from_slice(&outer.sport.to_ne_bytes());
        self.detail[10..12].copy_from_slice(&outer.dport.to_ne_bytes());
        self.set_u32(12, outer.vni);
        self.detail[21] = 4;
    }
    pub fn set_drop(&mut self, location: u64, reason: u32) {
        self.detail[0..8].copy_from_slice(&location.to_ne_bytes());
        self.set_u32(8, reason);
    }
    pub fn set_fib(&mut self, table: u32, error: i32, gateway: [u8; 16]) {
        self.set_u32(0, table);
        self.set_u32(4, error as u32);
        self.detail[8..24].copy_from_slice(&gateway);
    }
}

/// A device of a namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceKey {
    /// Inode number of the namespace.
    pub netns: u32,
    pub ifindex: u32,
}

/// The outer packet of an encapsulation in IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterV4 {
    /// Network order.
    pub src: [u8; 4],
    pub dst: [u8; 4],
    pub sport: u16,
    pub dport: u16,
    pub vni: u32,
}

/// Per-CPU counters, read by user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Records that should have been sent; the low 32 bits number them.
    pub seen: u64,
    /// Of these, records for which the ring buffer had no room.
    pub lost: u64,
    /// Tuples put into the flow table.
    pub inserted: u64,
    /// Tuples that could not be put into it.
    pub insert_failed: u64,
    /// When user space was last woken, CLOCK_MONOTONIC ns.
    pub woken: u64,
    /// Debug messages, those for which their ring buffer had no room too.
    pub debug_sent: u64,
}
