// SPDX-License-Identifier: MIT OR Apache-2.0

use proptest::prelude::*;
use tracer_common::{ABSENT, FIELD_SPECS, FieldSpec};

use super::testing::*;
use super::*;

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// A kernel in miniature: enough of `sk_buff` to have each difficulty once.
fn kernel() -> Builder {
    let mut b = Builder::new();
    let u32_ = b.int("unsigned int", 4);
    let u8_ = b.int("unsigned char", 1);
    let typedef = b.link(TYPEDEF, "__u32", u32_);
    let qualified = b.link(CONST, "", typedef);
    let qualified = b.link(VOLATILE, "", qualified);
    let device = b.composite(FWD, "net_device", 0, &[]);
    let pointer = b.link(PTR, "", device);
    let tagged = b.link(TYPE_TAG, "rcu", pointer);
    let marks = b.composite(UNION, "", 4, &[("mark", qualified, 0, 0), ("reserved_tailroom", u32_, 0, 0)]);
    let headers = b.composite(STRUCT, "", 8, &[("", marks, 32, 0)]);
    let cb = b.array(u8_, 48);
    b.composite(
        STRUCT,
        "sk_buff",
        80,
        &[
            ("dev", tagged, 0, 0),
            ("", headers, 64, 0),
            ("cb", cb, 128, 0),
            ("cloned", u8_, 512, 1),
            ("len", u32_, 544, 0),
        ],
    );
    let dev = b.link(TYPEDEF, "possible_net_t", u32_);
    b.composite(STRUCT, "odd", 8, &[("net", dev, 0, 0)]);
    b
}

fn load(b: &Builder) -> std::result::Result<KernelBtf, BtfError> {
    KernelBtf::from_bytes(b.build(), None)
}

fn at(offset_bytes: u32, size: u32) -> Option<Member> {
    Some(Member { offset_bytes, size })
}

#[test]
fn finds_members_through_anonymous_ones_typedefs_and_qualifiers() -> Result {
    let btf = load(&kernel())?;
    assert_eq!(btf.field("sk_buff", "dev"), at(0, 8));
    assert_eq!(btf.field("sk_buff", "mark"), at(12, 4));
    assert_eq!(btf.field("sk_buff", "cb"), at(16, 48));
    assert_eq!(btf.field("sk_buff", "len"), at(68, 4));
    Ok(())
}

#[test]
fn says_why_a_field_is_not_there() -> Result {
    let btf = load(&kernel())?;
    let why = |container, path| btf.try_field(container, path).map_err(|e| e.to_string());
    assert_eq!(why("sk_buff", "wifi"), Err("no member `wifi` in `sk_buff`".into()));
    assert_eq!(why("sk_buff", "cloned"), Err("`cloned` of `sk_buff` is a bit field".into()));
    assert!(why("nf_conn", "mark").is_err_and(|e| e.starts_with("no structure `nf_conn`")));
    // Pointers are not followed, and a forward declaration is no structure.
    assert!(why("sk_buff", "dev.ifindex").is_err());
    assert!(why("net_device", "ifindex").is_err());
    assert!(why("sk_buff", "").is_err());
    assert!(why("", "").is_err());
    Ok(())
}

#[test]
fn the_offset_of_a_bit_is_in_bits() -> Result {
    let btf = load(&kernel())?;
    let spec = |path| FieldSpec { name: "x", container: "sk_buff", path, sizes: &[0] };
    let cloned = btf.resolve_field(&spec("cloned"))?;
    assert!(cloned > 80, "{cloned}");
    assert!(btf.resolve_field(&spec("mark")).is_err());
    Ok(())
}

#[test]
fn old_bit_fields_are_known_by_their_integer() -> Result {
    let mut b = Builder::new();
    let name = b.string("flag");
    let bit = b.record(INT, name, false, 0, 1, &[1]);
    b.composite(STRUCT, "s", 1, &[("flag", bit, 0, 0)]);
    assert!(matches!(load(&b)?.try_field("s", "flag"), Err(FieldError::BitField { .. })));
    Ok(())
}

#[test]
fn a_field_of_another_size_is_absent() -> Result {
    let mut b = Builder::new();
    let u64_ = b.int("unsigned long", 8);
    let u16_ = b.int("unsigned short", 2);
    b.composite(STRUCT, "sk_buff", 16, &[("mark", u64_, 0, 0), ("protocol", u16_, 64, 0)]);
    let (fields, missing) = load(&b)?.resolve_fields();
    assert_eq!((fields.skb_mark, fields.skb_protocol), (ABSENT, 8));
    assert_eq!(missing.len(), FIELD_SPECS.len() - 1);
    let mark = missing.iter().find(|m| m.spec.name == "skb_mark").map(ToString::to_string);
    assert_eq!(mark.as_deref(), Some("sk_buff.mark: it has 8 bytes here; 4 can be read"));
    Ok(())
}

#[test]
fn a_field_without_a_path_is_the_size_of_its_structure() -> Result {
    let btf = load(&kernel())?;
    let spec = |container, path| FieldSpec { name: "x", container, path, sizes: &[] };
    assert_eq!(btf.resolve_field(&spec("sk_buff", "")), Ok(80));
    assert_eq!(btf.resolve_field(&spec("sk_buff", "cb")), Ok(16));
    assert_eq!(btf.struct_size("possible_net_t"), Ok(4));
    assert!(matches!(btf.resolve_field(&spec("nf_conn", "")), Err(FieldError::NoContainer { .. })));
    Ok(())
}

#[test]
fn module_types_are_found_with_names_from_either_blob() -> Result {
    let mut base = Builder::new();
    let u32_ = base.int("unsigned int", 4);
    let shared = base.string("nf_conn");
    base.record(FWD, shared, false, 0, 0, &[]);
    let mut split = Builder::on(&base);
    // As pahole writes it: the structure's name is in the base, because it is declared there.
    split.composite_named(STRUCT, shared, 8, &[("mark", u32_, 32, 0)]);
    split.composite(STRUCT, "own", 4, &[("x", u32_, 0, 0)]);

    let btf = KernelBtf::from_bytes(base.build(), Some(split.build()))?;
    assert_eq!(btf.field("nf_conn", "mark"), at(4, 4));
    assert_eq!(btf.field("own", "x"), at(0, 4));
    Ok(())
}

#[test]
fn two_definitions_must_agree() -> Result {
    let mut b = Builder::new();
    let u32_ = b.int("unsigned int", 4);
    b.composite(STRUCT, "s", 8, &[("same", u32_, 0, 0), ("moved", u32_, 32, 0)]);
    b.composite(STRUCT, "s", 12, &[("same", u32_, 0, 0), ("moved", u32_, 64, 0), ("new", u32_, 32, 0)]);
    let btf = load(&b)?;
    assert_eq!(btf.field("s", "same"), at(0, 4));
    assert_eq!(btf.field("s", "new"), at(4, 4));
    assert!(matches!(btf.try_field("s", "moved"), Err(FieldError::Ambiguous { .. })));
    Ok(())
}

#[test]
fn counts_tracepoint_arguments() -> Result {
    let mut b = Builder::new();
    let proto = b.proto(5);
    let pointer = b.link(PTR, "", proto);
    b.link(TYPEDEF, "btf_trace_kfree_skb", pointer);
    let btf = load(&b)?;
    assert_eq!(btf.tracepoint_args("kfree_skb"), Some(4));
    assert_eq!(btf.tracepoint_args("icmp_send"), None);
    Ok(())
}

#[test]
fn reasons_have_their_names_and_unknown_ones_their_number() -> Result {
    let mut b = Builder::new();
    b.enumeration(
        "skb_drop_reason",
        &[
            ("SKB_NOT_DROPPED_YET", 0),
            ("SKB_CONSUMED", 1),
            ("SKB_DROP_REASON_NETFILTER_DROP", 8),
            ("SKB_DROP_REASON_SUBSYS_MASK", 0xffff_0000),
        ],
    );
    b.enumeration("skb_drop_reason_subsys", &[("SKB_DROP_REASON_SUBSYS_OPENVSWITCH", 3)]);
    b.enumeration64("sk_rst_reason", &[("SK_RST_REASON_NO_SOCKET", 2), ("SK_RST_REASON_HUGE", 1 << 40)]);
    let mut ovs = Builder::on(&b);
    ovs.enumeration(
        "ovs_drop_reason",
        &[("__OVS_DROP_REASON", 0x3_0000), ("OVS_DROP_LAST_ACTION", 0x3_0001)],
    );
    let reasons = KernelBtf::from_bytes(b.build(), Some(ovs.build()))?.reasons();

    assert_eq!(reasons.drop(8), "NETFILTER_DROP");
    assert_eq!(reasons.drop(1), "CONSUMED");
    assert_eq!(reasons.drop(77), "reason 77");
    assert_eq!(reasons.drop(0x3_0001), "LAST_ACTION");
    assert_eq!(reasons.drop(0x3_0009), "OPENVSWITCH 9");
    assert_eq!(reasons.drop(0x4_0009), "reason 262153");
    assert_eq!(reasons.drop(REASON_UNKNOWN), "reason unknown on this kernel");
    assert_eq!(reasons.reset(2), "NO_SOCKET");
    assert_eq!(reasons.reset(3), "reason 3");
    assert_eq!(Reasons::default().drop(8), "reason 8");
    Ok(())
}

#[test]
fn malformed_headers_are_named() {
    let good = kernel().build();
    let error = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        KernelBtf::from_bytes(bytes, None).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(error(&|b| b.truncate(10)).contains("the header would end at byte 24 of 10"));
    assert!(error(&|b| b.swap(0, 1)).contains("0x9feb"));
    assert!(error(&|b| b[2] = 9).contains("version 9"));
    assert!(error(&|b| b[4] = 8).contains("cut short"));
    assert!(error(&|b| b[12..16].fill(0xff)).contains("the types would end"));
    assert!(error(&|b| b.truncate(b.len() - 1)).contains("the strings would end"));
    assert!(error(&|b| b.iter_mut().rev().take(1).for_each(|x| *x = b'x')).contains("not terminated"));
    assert!(error(&|b| b[31] = 0x1f).contains("type 1 is of kind 31"));
}

/// Types that refer to themselves, nest without end, or multiply.
#[test]
fn loops_end() -> Result {
    let mut b = Builder::new();
    let this = b.link(TYPEDEF, "self", 1);
    let members: Vec<MemberOf<'_>> = std::iter::repeat_n(("", 2, 0, 0), 60_000).collect();
    b.composite(STRUCT, "matryoshka", 4, &members);
    let huge = b.array(1, u32::MAX);
    let huge = b.array(huge, u32::MAX);
    let ring = b.array(huge + 1, 1);
    b.composite(STRUCT, "s", 4, &[("a", this, 0, 0), ("b", huge, 0, 0), ("c", ring, 0, 0), ("d", 999, 0, 0)]);
    let btf = load(&b)?;
    assert!(matches!(btf.try_field("matryoshka", "x"), Err(FieldError::TooDeep { .. })));
    for member in ["a", "b", "c", "d"] {
        assert!(matches!(btf.try_field("s", member), Err(FieldError::NoSize { .. })), "{member}");
    }
    assert_eq!(btf.field("self", "x"), None);
    Ok(())
}

/// Everything a caller can ask of BTF that was accepted.
fn exercise(btf: &KernelBtf) {
    let _ = btf.resolve_fields();
    let _ = btf.reasons();
    for name in ["sk_buff", "odd", "__u32", "nf_conn"] {
        for path in ["mark", "cb", "net", "dev.x", "."] {
            let _ = btf.try_field(name, path);
        }
        let _ = btf.struct_size(name);
        let _ = (btf.enum_values(name), btf.tracepoint_args(name));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = KernelBtf::from_bytes(bytes, None);
    }

    #[test]
    fn arbitrary_types_never_panic(
        words in prop::collection::vec(prop_oneof![0u32..40, any::<u32>(), (1u32..20).prop_map(|k| k << 24 | 2)], 0..200),
        strings in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut bytes = kernel().build()[..8].to_vec();
        let (types, len) = (words.len() as u32 * 4, strings.len() as u32 + 2);
        for word in [0, types, types, len].iter().chain(&words) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.push(0);
        bytes.extend(strings);
        bytes.push(0);
        if let Ok(btf) = KernelBtf::from_bytes(bytes, None) {
            exercise(&btf);
        }
    }

    #[test]
    fn damaged_blobs_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
        truncate in prop::bool::weighted(0.2),
        as_module in any::<bool>(),
    ) {
        let mut bytes = kernel().build();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        let (base, split) = if as_module { (kernel().build(), Some(bytes)) } else { (bytes, None) };
        if let Ok(btf) = KernelBtf::from_bytes(base, split) {
            exercise(&btf);
        }
    }
}

/// On the machine at hand, where it has BTF.
#[test]
fn this_kernel_has_what_we_read() -> Result {
    let btf = match KernelBtf::load() {
        Ok(btf) => btf,
        Err(error) => {
            println!("SKIP {error}");
            return Ok(());
        }
    };
    let (fields, missing) = btf.resolve_fields();
    let (of_conntrack, others): (Vec<_>, Vec<_>) =
        missing.iter().partition(|missing| missing.spec.container.starts_with("nf_conn"));
    assert!(others.is_empty(), "{others:?}");
    assert!(fields.skb_mark > 0 && fields.skb_len > 0 && fields.dev_ifindex > 0);
    if let Some(missing) = of_conntrack.first() {
        println!("SKIP the fields of conntrack, whose module is not loaded: {missing}");
    }
    assert!(btf.tracepoint_args("kfree_skb").is_some_and(|n| (2..=4).contains(&n)));
    assert!(!btf.enum_values("tcp_ca_state").is_empty());
    Ok(())
}
