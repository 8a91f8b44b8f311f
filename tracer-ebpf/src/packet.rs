// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Headers: from bytes to the tuple and the few numbers we keep.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use network_types::{eth::EthHdr, ip::IpProto, tcp::TcpHdr, udp::UdpHdr, vxlan::VxlanHdr};
use tracer_common::{
    FLAG_FRAG, FLAG_IPV6, FLAG_NO_WINDOW, FLAG_QUOTED, FLAG_TRUNCATED, MAX_PORTS, Settings, Tuple,
};

use crate::{
    judge::{is_foreign_v4, is_foreign_v6},
    kernel::{probe, view},
    typed,
};

pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_IPV6: u16 = 0x86dd;
pub const ETH_P_8021Q: u16 = 0x8100;
pub const ETH_P_8021AD: u16 = 0x88a8;

pub const ICMP: u8 = IpProto::Icmp as u8;
pub const TCP: u8 = IpProto::Tcp as u8;
pub const UDP: u8 = IpProto::Udp as u8;
pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
pub const SCTP: u8 = IpProto::Sctp as u8;
const IPV6_FRAG: u8 = IpProto::Ipv6Frag as u8;

/// `::ffff:0:0/96`, the word before the IPv4 address, in memory order.
pub const MAPPED: u32 = 0xffff_0000;
/// Most bytes in front of the transport header that are parsed: bounds offsets for the verifier.
const MAX_OFFSET: usize = 0x1ff;

/// Where a packet's bytes are read from.
pub trait Bytes {
    /// Copies `T` (integers, arrays of them) from `offset`. `None`: the packet has no such bytes.
    fn load<T: Copy>(&self, offset: usize) -> Option<T>;
    /// See [`Settings::zero`].
    fn settings(&self) -> &Settings;
}

/// A packet in a tc program. A helper copies the bytes, wherever they are; direct access to the linear part
/// would need the other way too, and twice the paths are too many for the verifier.
pub struct TcBytes {
    pub skb: *mut __sk_buff,
    pub settings: &'static Settings,
}

impl Bytes for TcBytes {
    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        // SAFETY: the destination is `size_of::<T>()` bytes; the helper checks the packet's length.
        let r = unsafe {
            bpf_skb_load_bytes(
                self.skb.cast(),
                offset as u32,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        if r == 0 {
            // SAFETY: the helper filled all of it.
            Some(unsafe { value.assume_init() })
        } else {
            None
        }
    }

    #[inline(always)]
    fn settings(&self) -> &Settings {
        self.settings
    }
}

/// A packet anywhere else: the linear part of an skb from its network header on.
pub struct SkbBytes {
    /// Address of the network header.
    pub base: u64,
    pub settings: &'static Settings,
}

impl SkbBytes {
    /// `skb`: a typed pointer, of an skb whose network header is known.
    #[inline(always)]
    pub fn of(skb: u64, settings: &'static Settings) -> Self {
        let head = typed!(skb, skb_head, u64);
        Self { base: head + u64::from(typed!(skb, skb_network_header, u16)), settings }
    }

    /// Is this packet, with nothing unusual about it, certainly not ours? Never where headers can only be read by a
    /// helper.
    #[inline(always)]
    pub fn is_foreign(&self) -> bool {
        let Some(head) = view(self.base) else { return false };
        // SAFETY: the first byte of the view.
        match unsafe { core::ptr::read_volatile(head) } >> 4 {
            4 => is_foreign_v4(head.cast(), self.settings),
            6 => self.is_foreign_v6(),
            _ => false,
        }
    }

    /// A function of its own in the object, so that IPv4 does not pay for its size.
    #[inline(never)]
    fn is_foreign_v6(&self) -> bool {
        view(self.base).is_some_and(|head| is_foreign_v6(head.cast(), self.settings))
    }
}

impl Bytes for SkbBytes {
    #[inline(always)]
    fn load<T: Copy>(&self, offset: usize) -> Option<T> {
        // What lies beyond the packet's end is caught by `Packet::room`.
        probe(self.base + offset as u64)
    }

    #[inline(always)]
    fn settings(&self) -> &Settings {
        self.settings
    }
}

/// One IP packet.
#[derive(Clone, Copy)]
pub struct Packet {
    pub tuple: Tuple,
    /// Offset of the transport header.
    pub l4: usize,
    /// Bytes by the IP header, from the IP header on; 0 for a jumbo GSO packet.
    pub l3len: u16,
    /// Bytes of transport header and payload by the IP header; `0xffff` when it does not say.
    pub room: u16,
    pub ip_id: u16,
    pub frag: u16,
    pub proto: u8,
    pub ttl: u8,
    /// `FLAG_IPV6`, `FLAG_FRAG`.
    pub flags: u8,
}

/// What the transport header says, for the record.
#[derive(Clone, Copy)]
pub struct Transport {
    pub a: u32,
    pub b: u32,
    pub tcp_flags: u8,
    pub flags: u8,
}

/// The outer packet of an encapsulation.
#[derive(Clone, Copy)]
pub struct Outer {
    pub tuple: Tuple,
    pub vni: u32,
    /// 4 or 6; 0: the packet is in no encapsulation.
    pub family: u32,
}

impl Transport {
    pub const NONE: Self = Self { a: 0, b: 0, tcp_flags: 0, flags: 0 };
}

impl Packet {
    /// A fragment that is not the first: it has no transport header.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.frag & 0x1fff != 0
    }

    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        self.proto == ICMP || self.proto == ICMPV6
    }

    pub const NONE: Self = Self {
        tuple: Tuple { src: [0; 4], dst: [0; 4], sport: 0, dport: 0, proto: 0 },
        l4: 0,
        room: 0,
        l3len: 0,
        ip_id: 0,
        frag: 0,
        proto: 0,
        ttl: 0,
        flags: 0,
    };

    /// All zero, in a way that the verifier does not know (see [`Settings::zero`]).
    #[inline(always)]
    pub fn blank(settings: &Settings) -> Self {
        let zero = settings.zero as u32;
        Self {
            tuple: Tuple {
                src: [zero; 4],
                dst: [zero; 4],
                sport: zero as u16,
                dport: zero as u16,
                proto: zero,
            },
            l4: settings.zero as usize,
            room: settings.zero as u16,
            l3len: zero as u16,
            ip_id: zero as u16,
            frag: zero as u16,
            proto: zero as u8,
            ttl: zero as u8,
            flags: zero as u8,
        }
    }

    /// Reads the headers of the IP packet at `offset` into `self`; false where there is none.
    ///
    /// A function of its own in the object, so that each of the packets of an encapsulation costs no stack.
    #[inline(never)]
    pub fn parse<B: Bytes>(&mut self, bytes: &B, offset: usize) -> bool {
        let offset = offset & MAX_OFFSET;
        // As much as every packet of a protocol with ports has: an IPv4 header and the ports.
        let Some(head) = bytes.load::<[u32; 6]>(offset) else { return false };
        let read = match head[0] as u8 >> 4 {
            4 => self.parse_v4(bytes, offset, &head),
            6 => self.parse_v6(bytes, offset, &head),
            _ => None,
        };
        self.tuple.proto = u32::from(self.proto);
        self.forget(bytes);
        read.is_some()
    }

    /// Makes the verifier forget what it knows of the numbers that later branches depend on: otherwise it walks
    /// the rest of the program once for each way through the headers.
    #[inline(always)]
    pub fn forget<B: Bytes>(&mut self, bytes: &B) {
        let zero = bytes.settings().zero;
        self.frag = self.frag.wrapping_add(zero as u16);
        self.proto = self.proto.wrapping_add(zero as u8);
        self.flags = self.flags.wrapping_add(zero as u8);
        self.l4 = self.l4.wrapping_add(zero as usize) & MAX_OFFSET;
        self.room = self.room.wrapping_add(zero as u16);
        self.l3len = self.l3len.wrapping_add(zero as u16);
        self.ip_id = self.ip_id.wrapping_add(zero as u16);
    }

    #[inline(always)]
    fn parse_v4<B: Bytes>(&mut self, bytes: &B, offset: usize, head: &[u32; 6]) -> Option<()> {
        let words = usize::from(head[0] as u8 & 15);
        if words < 5 {
            return None;
        }
        let zero = bytes.settings().zero as u32;
        self.tuple.src = [zero, zero, zero.wrapping_add(MAPPED), head[3]];
        self.tuple.dst = [zero, zero, zero.wrapping_add(MAPPED), head[4]];
        self.l4 = (offset + words * 4) & MAX_OFFSET;
        self.l3len = u16::from_be((head[0] >> 16) as u16);
        self.room = match self.l3len {
            0 => 0xffff,
            len => len.saturating_sub(words as u16 * 4),
        };
        self.ip_id = u16::from_be(head[1] as u16);
        self.frag = u16::from_be((head[1] >> 16) as u16);
        self.proto = (head[2] >> 8) as u8;
        self.ttl = head[2] as u8;
        self.flags = if self.frag & 0x3fff != 0 { FLAG_FRAG } else { 0 };
        let ports = if words == 5 { head[5] } else { bytes.load(self.l4)? };
        self.ports(bytes, ports)
    }

    #[inline(always)]
    fn parse_v6<B: Bytes>(&mut self, bytes: &B, offset: usize, head: &[u32; 6]) -> Option<()> {
        let rest: [u32; 5] = bytes.load(offset + 24)?;
        let payload = u16::from_be(head[1] as u16);
        self.tuple.src = [head[2], head[3], head[4], head[5]];
        self.tuple.dst = [rest[0], rest[1], rest[2], rest[3]];
        self.l4 = (offset + 40) & MAX_OFFSET;
        self.l3len = if payload == 0 { 0 } else { payload.saturating_add(40) };
        self.room = if payload == 0 { 0xffff } else { payload };
        self.ip_id = 0;
        self.frag = 0;
        self.proto = (head[1] >> 16) as u8;
        self.ttl = (head[1] >> 24) as u8;
        self.flags = FLAG_IPV6;
        let ports = if is_extension(self.proto) {
            self.skip_extensions(bytes)?;
            if self.is_later_fragment() { 0 } else { bytes.load(self.l4)? }
        } else {
            rest[4]
        };
        self.ports(bytes, ports)
    }

    /// Goes over up to four extension headers (hop-by-hop, routing, destination options, mobility, AH, fragment).
    #[inline(always)]
    fn skip_extensions<B: Bytes>(&mut self, bytes: &B) -> Option<()> {
        for _ in 0..4 {
            let size = match self.proto {
                0 | 43 | 60 | 135 => {
                    let next: [u8; 2] = bytes.load(self.l4)?;
                    self.proto = next[0];
                    (usize::from(next[1]) + 1) * 8
                }
                51 => {
                    let next: [u8; 2] = bytes.load(self.l4)?;
                    self.proto = next[0];
                    (usize::from(next[1]) + 2) * 4
                }
                IPV6_FRAG => {
                    let header: [u16; 4] = bytes.load(self.l4)?;
                    let offset = u16::from_be(header[1]);
                    self.proto = header[0] as u8;
                    // As in an IPv4 header: offset / 8 in the low bits, 0x2000 more to come.
                    self.frag = (offset >> 3) | if offset & 1 != 0 { 0x2000 } else { 0 };
                    self.ip_id = u16::from_be(header[3]);
                    self.flags |= FLAG_FRAG;
                    if self.is_later_fragment() {
                        return Some(());
                    }
                    8
                }
                _ => return Some(()),
            };
            self.l4 = (self.l4 + size) & MAX_OFFSET;
            self.room = self.room.saturating_sub(size as u16);
            self.forget(bytes);
        }
        Some(())
    }

    /// Fills the ports of the tuple: of TCP, UDP and SCTP, and the identifier of an ICMP echo. `word` is the
    /// first of the transport header.
    #[inline(always)]
    fn ports<B: Bytes>(&mut self, bytes: &B, word: u32) -> Option<()> {
        let zero = bytes.settings().zero as u16;
        self.tuple.sport = zero;
        self.tuple.dport = zero;
        if self.is_later_fragment() || self.room < 8 {
            return Some(());
        }
        match self.proto {
            TCP | UDP | SCTP => {
                self.tuple.sport = u16::from_be(word as u16);
                self.tuple.dport = u16::from_be((word >> 16) as u16);
            }
            ICMP | ICMPV6 if is_echo(self.proto, word as u8) => {
                let id = u16::from_be(bytes.load::<u16>(self.l4 + 4)?);
                self.tuple.sport = id;
                self.tuple.dport = id;
            }
            _ => {}
        }
        Some(())
    }

    /// Offset of the IP header that this ICMP error quotes.
    #[inline(always)]
    pub fn quoted<B: Bytes>(&self, bytes: &B) -> Option<usize> {
        if !self.is_icmp() || self.is_later_fragment() || self.room < 8 + 28 {
            return None;
        }
        let kind: [u8; 4] = bytes.load(self.l4)?;
        let error = if self.proto == ICMP {
            matches!(kind[0], 3 | 5 | 11 | 12)
        } else {
            matches!(kind[0], 1..=4 | 137)
        };
        if error { Some((self.l4 + 8) & MAX_OFFSET) } else { None }
    }

    /// Offset of the inner IP packet when this is VXLAN, and the outer addresses.
    #[inline(always)]
    pub fn vxlan<B: Bytes>(&self, bytes: &B, outer: &mut Outer) -> Option<usize> {
        if self.proto != UDP || self.is_later_fragment() || !is_vxlan_port(bytes.settings(), self.tuple.dport)
        {
            return None;
        }
        let at = (self.l4 + UdpHdr::LEN) & MAX_OFFSET;
        let vni: u32 = bytes.load(at + 4)?;
        let inner = at + VxlanHdr::LEN;
        let protocol: u16 = bytes.load(inner + 12)?;
        if protocol != ETH_P_IP.to_be() && protocol != ETH_P_IPV6.to_be() {
            return None;
        }
        *outer = Outer {
            tuple: self.tuple,
            vni: u32::from_be(vni) >> 8,
            family: if self.flags & FLAG_IPV6 != 0 { 6 } else { 4 },
        };
        Some((inner + EthHdr::LEN) & MAX_OFFSET)
    }

    /// Sequence numbers and flags of TCP; type and sequence of ICMP, of an ICMP error the MTU.
    #[inline(never)]
    pub fn transport<B: Bytes>(&self, bytes: &B) -> Transport {
        let mut t = Transport { a: 0, b: 0, tcp_flags: 0, flags: 0 };
        if self.is_later_fragment() {
            return t;
        }
        match self.proto {
            TCP => match bytes.load::<[u32; 4]>(self.l4) {
                Some(tcp) if usize::from(self.room) >= TcpHdr::LEN => {
                    t.a = u32::from_be(tcp[1]);
                    t.b = u32::from_be(tcp[2]);
                    t.tcp_flags = (tcp[3] >> 8) as u8;
                    t.flags = if tcp[3] >> 16 == 0 { FLAG_NO_WINDOW } else { 0 };
                }
                _ => t.flags = FLAG_TRUNCATED,
            },
            ICMP | ICMPV6 => match bytes.load::<[u32; 2]>(self.l4) {
                Some(icmp) if self.room >= 8 => {
                    t.tcp_flags = icmp[0] as u8;
                    t.a = u32::from(u16::from_be((icmp[1] >> 16) as u16));
                    if self.flags & FLAG_QUOTED != 0 {
                        // The next-hop MTU of "fragmentation needed" and "packet too big".
                        t.b = if self.proto == ICMP { t.a } else { u32::from_be(icmp[1]) };
                        t.a = 0;
                    }
                }
                _ => t.flags = FLAG_TRUNCATED,
            },
            _ => {}
        }
        t
    }

    #[inline(always)]
    pub fn mark_quoted<B: Bytes>(&mut self, bytes: &B) {
        self.flags |= FLAG_QUOTED;
        self.tuple.sport = bytes.load::<u16>(self.l4).map_or(0, u16::from_be);
    }
}

/// Addresses and ports of the packet that an ICMP error quotes. An IPv6 one with extension headers is not
/// looked through. False where it cannot be read.
#[inline(never)]
pub fn read_quoted<B: Bytes>(bytes: &B, at: usize, tuple: &mut Tuple) -> bool {
    quoted_tuple(bytes, at, tuple).is_some()
}

#[inline(always)]
fn quoted_tuple<B: Bytes>(bytes: &B, at: usize, tuple: &mut Tuple) -> Option<()> {
    let head: [u32; 6] = bytes.load(at)?;
    let ports: u32;
    let mut id_at = at;
    if head[0] as u8 >> 4 == 6 {
        let rest: [u32; 5] = bytes.load(at + 24)?;
        tuple.src = [head[2], head[3], head[4], head[5]];
        tuple.dst = [rest[0], rest[1], rest[2], rest[3]];
        tuple.proto = head[1] >> 16 & 0xff;
        ports = rest[4];
        id_at += 44;
    } else {
        let length = usize::from(head[0] as u8 & 15) * 4;
        tuple.src[2] = tuple.src[2].wrapping_add(MAPPED);
        tuple.dst[2] = tuple.dst[2].wrapping_add(MAPPED);
        tuple.src[3] = head[3];
        tuple.dst[3] = head[4];
        tuple.proto = head[2] >> 8 & 0xff;
        ports = if length == 20 { head[5] } else { bytes.load(at + length)? };
        id_at += length + 4;
    }
    let proto = tuple.proto as u8;
    let zero = bytes.settings().zero as u32;
    let ports = match proto {
        TCP | UDP | SCTP => ports,
        ICMP | ICMPV6 if is_echo(proto, ports as u8) => {
            let id = u32::from(bytes.load::<u16>(id_at)?);
            id | id << 16
        }
        _ => 0,
    };
    tuple.sport = u16::from_be(ports.wrapping_add(zero) as u16);
    tuple.dport = u16::from_be((ports.wrapping_add(zero) >> 16) as u16);
    Some(())
}

#[inline(always)]
fn is_extension(proto: u8) -> bool {
    matches!(proto, 0 | 43 | IPV6_FRAG | 51 | 60 | 135)
}

#[inline(always)]
pub fn is_echo(proto: u8, kind: u8) -> bool {
    if proto == ICMP { kind == 8 || kind == 0 } else { kind == 128 || kind == 129 }
}

#[inline(always)]
pub fn is_vxlan_port(settings: &Settings, port: u16) -> bool {
    let ports = &settings.vxlan_ports;
    for i in 0..MAX_PORTS {
        if ports[i] == 0 {
            return false;
        }
        if ports[i] == port {
            return true;
        }
    }
    false
}
