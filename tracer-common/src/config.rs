// SPDX-License-Identifier: MIT OR Apache-2.0
//! Constants that user space hands to the programs before loading them. They are frozen then, so the
//! verifier folds them and drops the branches they rule out.

/// Prefixes per side of the filter.
pub const MAX_ADDRS: usize = 8;
/// UDP ports on which VXLAN is looked for.
pub const MAX_PORTS: usize = 8;

/// What stands in the object for a call of `bpf_rdonly_cast`: a helper that there is not. User space puts the number
/// of the kernel's function in its place.
pub const RDONLY_CAST: i32 = 0x6567_7774;

/// One address with its mask, as four big-endian words in memory order (IPv4 mapped into IPv6, its mask
/// including the 96 leading bits).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefix {
    pub addr: [u32; 4],
    pub mask: [u32; 4],
}

/// What user space may change while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Always 0, which the verifier does not know: what is added to it, it knows nothing of. Programs use that
    /// to keep the number of paths that it walks small.
    pub zero: u64,
    /// UDP ports that carry VXLAN here; 0 ends the list.
    pub vxlan_ports: [u16; MAX_PORTS],
    /// With [`Config::follow`]: addresses on that side, in the form of a tuple's; all zero ends the list.
    pub followed: [[u32; 4]; MAX_ADDRS],
}

/// [`Config::follow`]: the source's addresses are in [`Settings::followed`].
pub const FOLLOW_SRC: u32 = 1;
/// The destination's are.
pub const FOLLOW_DST: u32 = 2;

/// The filter and the switches.
///
/// A packet matches when source, destination, ports and protocol fit in the order given, or all of them
/// with the two ends exchanged (then it is a reply). An empty list or a zero fits everything.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    pub src: [Prefix; MAX_ADDRS],
    pub dst: [Prefix; MAX_ADDRS],
    pub src_count: u32,
    pub dst_count: u32,
    pub sport: u16,
    pub dport: u16,
    /// IP protocol; 0 any. ICMP (1) also stands for ICMPv6 (58).
    pub proto: u32,
    /// Arguments of the `kfree_skb` tracepoint on this kernel (2, 3 or 4).
    pub kfree_skb_args: u32,
    /// Arguments of `tcp_send_reset` (2 or 3).
    pub tcp_send_reset_args: u32,
    /// 1: send debug messages, by aya-log.
    pub debug: u32,
    /// BTF id of `struct sk_buff` in vmlinux, where the kernel has `bpf_rdonly_cast` (6.2 -); else 0.
    pub skb_type: u32,
    /// `FOLLOW_*`: this side's list is in [`Settings::followed`] and may change, and is empty here; 0 neither.
    pub follow: u32,
}
