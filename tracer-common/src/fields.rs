// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one table of kernel fields that the programs read. User space finds each in the running
//! kernel's BTF; nothing here knows an offset.

/// One field: where it is declared, and what it is called in [`Fields`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldSpec {
    /// Name in [`Fields`].
    pub name: &'static str,
    /// Kernel structure.
    pub container: &'static str,
    /// Member path, dots between levels; anonymous members are looked through. Empty: not an offset but
    /// the size of the structure.
    pub path: &'static str,
    /// Sizes in bytes that the programs can read; empty: only the offset matters (an embedded structure); 0: one bit,
    /// and the offset is in bits.
    pub sizes: &'static [u32],
}

/// Value of a field that this kernel does not have.
pub const ABSENT: i32 = -1;

macro_rules! fields {
    ($( $name:ident: $container:literal, $path:literal, [$($size:literal),*]; )+) => {
        /// Offset in bytes of each field in its structure, or -1 where the kernel has no such field.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Fields { $(pub $name: i32,)+ }

        impl Fields {
            pub const NONE: Self = Self { $($name: ABSENT,)+ };

            /// Fills every field with what `offset_of` says of it (`None`: absent).
            pub fn resolve(mut offset_of: impl FnMut(&'static FieldSpec) -> Option<u32>) -> Self {
                let mut at = 0;
                let mut next = || {
                    let spec = &FIELD_SPECS[at];
                    at += 1;
                    offset_of(spec).and_then(|o| i32::try_from(o).ok()).unwrap_or(ABSENT)
                };
                Self { $($name: next(),)+ }
            }
        }

        /// All fields, in the order of [`Fields`].
        pub const FIELD_SPECS: &[FieldSpec] = &[
            $(FieldSpec { name: stringify!($name), container: $container, path: $path, sizes: &[$($size),*] },)+
        ];
    };
}

fields! {
    skb_dev: "sk_buff", "dev", [8];
    skb_sk: "sk_buff", "sk", [8];
    skb_len: "sk_buff", "len", [4];
    skb_mark: "sk_buff", "mark", [4];
    skb_data: "sk_buff", "data", [8];
    skb_head: "sk_buff", "head", [8];
    skb_end: "sk_buff", "end", [4];
    skb_protocol: "sk_buff", "protocol", [2];
    skb_network_header: "sk_buff", "network_header", [2];
    skb_vlan_tci: "sk_buff", "vlan_tci", [2];
    skb_nfct: "sk_buff", "_nfct", [8];
    skb_dst: "sk_buff", "_skb_refdst", [8];
    skb_cb: "sk_buff", "cb", [];
    shinfo_gso_size: "skb_shared_info", "gso_size", [2];
    shinfo_gso_segs: "skb_shared_info", "gso_segs", [2];
    dev_ifindex: "net_device", "ifindex", [4];
    dev_net: "net_device", "nd_net.net", [8];
    net_inum: "net", "ns.inum", [4];
    dst_dev: "dst_entry", "dev", [8];
    sk_net: "sock", "__sk_common.skc_net.net", [8];
    sk_family: "sock", "__sk_common.skc_family", [2];
    sk_daddr: "sock", "__sk_common.skc_daddr", [4];
    sk_rcv_saddr: "sock", "__sk_common.skc_rcv_saddr", [4];
    sk_dport: "sock", "__sk_common.skc_dport", [2];
    sk_num: "sock", "__sk_common.skc_num", [2];
    sk_v6_daddr: "sock", "__sk_common.skc_v6_daddr", [16];
    sk_v6_rcv_saddr: "sock", "__sk_common.skc_v6_rcv_saddr", [16];
    state_hook: "nf_hook_state", "hook", [1, 4];
    skb_csum_valid: "sk_buff", "csum_valid", [0];
    state_in: "nf_hook_state", "in", [8];
    state_out: "nf_hook_state", "out", [8];
    state_net: "nf_hook_state", "net", [8];
    ct_status: "nf_conn", "status", [8];
    ct_mark: "nf_conn", "mark", [4];
    ct_zone: "nf_conn", "zone.id", [2];
    ct_tuplehash: "nf_conn", "tuplehash", [];
    tuplehash_tuple: "nf_conntrack_tuple_hash", "tuple", [];
    tuplehash_size: "nf_conntrack_tuple_hash", "", [];
    tuple_src_addr: "nf_conntrack_tuple", "src.u3", [16];
    tuple_src_port: "nf_conntrack_tuple", "src.u", [2];
    tuple_l3num: "nf_conntrack_tuple", "src.l3num", [2];
    tuple_dst_addr: "nf_conntrack_tuple", "dst.u3", [16];
    tuple_dst_port: "nf_conntrack_tuple", "dst.u", [2];
    tuple_proto: "nf_conntrack_tuple", "dst.protonum", [1];
    skb_csum_complete_sw: "sk_buff", "csum_complete_sw", [0];
    fl4_iif: "flowi4", "__fl_common.flowic_iif", [4];
    fl4_mark: "flowi4", "__fl_common.flowic_mark", [4];
    fl4_proto: "flowi4", "__fl_common.flowic_proto", [1];
    fl4_saddr: "flowi4", "saddr", [4];
    fl4_daddr: "flowi4", "daddr", [4];
    fl4_sport: "flowi4", "uli.ports.sport", [2];
    fl4_dport: "flowi4", "uli.ports.dport", [2];
    fl6_iif: "flowi6", "__fl_common.flowic_iif", [4];
    fl6_mark: "flowi6", "__fl_common.flowic_mark", [4];
    fl6_proto: "flowi6", "__fl_common.flowic_proto", [1];
    fl6_sport: "flowi6", "uli.ports.sport", [2];
    fl6_dport: "flowi6", "uli.ports.dport", [2];
    fl6_saddr: "flowi6", "saddr", [16];
    fl6_daddr: "flowi6", "daddr", [16];
    fib6_nh: "fib6_result", "nh", [8];
    fib6_info: "fib6_result", "f6i", [8];
    f6i_metric: "fib6_info", "fib6_metric", [4];
    fib6_type: "fib6_result", "fib6_type", [1];
    fib6_table_id: "fib6_table", "tb6_id", [4];
    nhc_dev: "fib_nh_common", "nhc_dev", [8];
    nhc_scope: "fib_nh_common", "nhc_scope", [1];
    nhc_gw_family: "fib_nh_common", "nhc_gw_family", [1];
    nhc_gw: "fib_nh_common", "nhc_gw", [16];
}
