// SPDX-License-Identifier: MIT OR Apache-2.0
//! A journey with names for ids, as `schema/journey.schema.json` describes it.

use std::borrow::Cow;

use serde::Serialize;

use super::format::Explanation;
use super::json_interval::{JsonInterval, interval};
use super::time::rfc3339;
use super::words::{packet_kind, tcp_flags};
use crate::explain::{HopAuthors, Told};
use crate::flow::{
    Cause, ConntrackEntry, Deed, Ending, Endpoint, Ends, Expected, Journey, Note, NoteKind, Packet, Place,
    RoundTrip, Scene, Tracking, is_folded,
};
use crate::node::Role;
use crate::text::{icmp_error, mac, protocol_name, route_error, table_name};

pub(crate) const SCHEMA: &str = "egwtrace/1";

fn is_false(b: &bool) -> bool {
    !*b
}

#[derive(Serialize)]
pub(crate) struct JsonJourney<'a> {
    schema: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    id: u64,
    flow: u32,
    direction: &'static str,
    time: String,
    start_ns: u64,
    duration_ns: u64,
    #[serde(skip_serializing_if = "is_false")]
    resumed: bool,
    packet: JsonPacket<'a>,
    hops: Vec<JsonHop<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    hops_cut: u32,
    conntrack: Vec<JsonConntrack>,
    notes: Vec<JsonNote<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round_trip: Option<RoundTrip>,
    ending: JsonEnding<'a>,
    #[serde(skip_serializing_if = "<[Told]>::is_empty")]
    causes: &'a [Told],
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[derive(Serialize)]
struct JsonPacket<'a> {
    summary: String,
    protocol: String,
    ip_version: u8,
    #[serde(flatten)]
    ends: JsonEnds,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_name: Option<Cow<'a, str>>,
    mark: u32,
    l3_length: u32,
    ttl: u8,
    ip_id: u16,
    dont_fragment: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp: Option<JsonTcp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<JsonEcho>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_error: Option<JsonIcmp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fragment: Option<JsonFragment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gso: Option<JsonGso>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vlan: Option<u16>,
}

#[derive(Serialize)]
struct JsonEnds {
    src: String,
    dst: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sport: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dport: Option<u16>,
}

/// Who takes it.
#[derive(Serialize)]
struct JsonProcess<'a> {
    name: Cow<'a, str>,
    pid: u32,
    port: u16,
}

#[derive(Serialize)]
struct JsonTcp {
    flags: Vec<&'static str>,
    seq: u32,
    ack: u32,
    zero_window: bool,
}

#[derive(Serialize)]
struct JsonEcho {
    id: u16,
    seq: u32,
}

#[derive(Serialize)]
struct JsonIcmp {
    #[serde(rename = "type")]
    icmp_type: u8,
    code: u8,
    name: Cow<'static, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
}

#[derive(Serialize)]
struct JsonFragment {
    offset: u32,
    more: bool,
}

#[derive(Serialize)]
struct JsonGso {
    size: u16,
    segments: u16,
}

#[derive(Serialize)]
struct JsonHop<'a> {
    /// Since the start of the journey; lookups before the packet existed are at 0.
    at_ns: u64,
    /// Since the hop before.
    delta_ns: u64,
    netns: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    #[serde(flatten)]
    place: JsonPlace<'a>,
    /// Not on the screen unless asked for.
    #[serde(skip_serializing_if = "is_false")]
    folded: bool,
    #[serde(flatten)]
    ends: JsonEnds,
    mark: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mark_change: Option<JsonMark<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ct_mark_change: Option<JsonFromTo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nat: Option<JsonNat<'a>>,
    /// Index into the journey's `conntrack`.
    #[serde(skip_serializing_if = "Option::is_none")]
    conntrack: Option<u8>,
    /// As conntrack has the packet, where that was asked already.
    #[serde(skip_serializing_if = "Option::is_none")]
    tracking: Option<Tracking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encap: Option<JsonEncap>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum JsonPlace<'a> {
    Device {
        device: Cow<'a, str>,
        direction: &'static str,
    },
    Hook {
        hook: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        priority: Option<i32>,
        #[serde(rename = "in", skip_serializing_if = "Option::is_none")]
        input: Option<Cow<'a, str>>,
        #[serde(rename = "out", skip_serializing_if = "Option::is_none")]
        output: Option<Cow<'a, str>>,
    },
    Route {
        table: u32,
        table_name: Cow<'static, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<i32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error_name: Option<Cow<'static, str>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        via: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        device: Option<Cow<'a, str>>,
        fwmark: u32,
        reverse: bool,
        /// The packet is for this host itself.
        local: bool,
    },
}

#[derive(Serialize)]
struct JsonFromTo {
    from: u32,
    to: u32,
}

#[derive(Serialize)]
struct JsonMark<'a> {
    from: u32,
    to: u32,
    cause: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<JsonInterval<'a>>,
}

#[derive(Serialize)]
struct JsonNat<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    from: JsonEnds,
    to: JsonEnds,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<JsonInterval<'a>>,
}

#[derive(Serialize)]
struct JsonEncap {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    ends: JsonEnds,
    vni: u32,
}

#[derive(Serialize)]
struct JsonConntrack {
    original: JsonEnds,
    reply: JsonEnds,
    status: u32,
    mark: u32,
    translates: bool,
}

#[derive(Serialize)]
struct JsonNote<'a> {
    at_ns: u64,
    netns: Cow<'a, str>,
    after_hop: u16,
    #[serde(flatten)]
    what: NoteKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    symbol: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum JsonEnding<'a> {
    Open,
    Left {
        netns: Cow<'a, str>,
        device: Cow<'a, str>,
    },
    Delivered {
        netns: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        process: Option<JsonProcess<'a>>,
    },
    Unwatched {
        netns: Cow<'a, str>,
        device: Cow<'a, str>,
    },
    Dropped(JsonDrop<'a>),
    Vanished {
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<JsonExpected<'a>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        unless_bridged: Option<Cow<'a, str>>,
        events_lost: u64,
    },
    Unclear {
        events_lost: u64,
    },
    Merged {
        into: u64,
    },
    #[serde(rename = "cut-up")]
    CutUp {
        first: u64,
        last: u64,
        packets: u16,
    },
    Copy {
        of: u64,
    },
    Evicted,
}

#[derive(Serialize)]
struct JsonExpected<'a> {
    netns: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
}

#[derive(Serialize)]
struct JsonDrop<'a> {
    netns: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    symbol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hook: Option<JsonInterval<'a>>,
    mark: u32,
    length: u32,
    after_delivery: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    encap: Option<JsonEncap>,
    stack: Vec<String>,
}

fn way(egress: bool) -> &'static str {
    if egress { "out" } else { "in" }
}

impl JsonEnds {
    fn new(ends: Ends) -> Self {
        let (Endpoint { addr: src, port: sport }, Endpoint { addr: dst, port: dport }) = (ends.src, ends.dst);
        let ports = sport != 0 || dport != 0;
        Self {
            src: src.to_string(),
            dst: dst.to_string(),
            sport: ports.then_some(sport),
            dport: ports.then_some(dport),
        }
    }
}

impl<'a> JsonJourney<'a> {
    pub(crate) fn new(scene: &Scene<'a>, journey: &Journey, explanation: Option<&'a Explanation>) -> Self {
        let mut before = journey.start_ns;
        let hops = (0..journey.hops.len()).map(|at| {
            let hop = &journey.hops[at];
            let delta = hop.ts.saturating_sub(before);
            before = before.max(hop.ts);
            let authors = explanation.and_then(|e| e.authors.iter().find(|authors| authors.hop == at));
            JsonHop::new(scene, journey, at, delta, authors)
        });
        Self {
            schema: SCHEMA,
            kind: "journey",
            id: journey.id,
            flow: journey.flow,
            direction: if journey.reply { "reply" } else { "forward" },
            time: rfc3339(scene.names.unix_ns(journey.start_ns)),
            start_ns: journey.start_ns,
            duration_ns: journey.end_ns.saturating_sub(journey.start_ns),
            resumed: journey.resumed,
            packet: JsonPacket::new(scene, &journey.packet),
            hops: hops.collect(),
            hops_cut: journey.hops_cut,
            conntrack: journey.conntrack.iter().map(JsonConntrack::new).collect(),
            notes: journey.notes.iter().map(|n| JsonNote::new(scene, journey, n)).collect(),
            round_trip: journey.round_trip,
            ending: ending(scene, journey),
            causes: explanation.map_or(&[], |e| &e.causes),
        }
    }
}

impl<'a> JsonPacket<'a> {
    fn new(scene: &Scene<'a>, p: &Packet) -> Self {
        let [src_name, dst_name] = scene.owners(p.ends).unwrap_or_default();
        Self {
            src_name,
            dst_name,
            summary: packet_kind(p),
            protocol: protocol_name(p.proto).to_ascii_lowercase(),
            ip_version: if p.ipv6 { 6 } else { 4 },
            ends: JsonEnds::new(p.ends),
            mark: p.mark,
            l3_length: p.l3len,
            ttl: p.ttl,
            ip_id: p.ip_id,
            dont_fragment: p.ipv6 || p.frag & 0x4000 != 0,
            tcp: p.is_tcp().then(|| JsonTcp {
                flags: tcp_flags(p.tcp_flags),
                seq: p.seq,
                ack: p.ack,
                zero_window: p.zero_window,
            }),
            echo: (matches!(p.proto, 1 | 58) && p.icmp_error.is_none())
                .then_some(JsonEcho { id: p.echo_id, seq: p.seq }),
            icmp_error: p.icmp_error.map(|(icmp_type, code)| JsonIcmp {
                icmp_type,
                code,
                name: icmp_error(icmp_type, code, p.ipv6, 0),
                mtu: (p.ack != 0).then_some(p.ack),
            }),
            fragment: p.is_fragment.then_some(JsonFragment {
                offset: u32::from(p.frag & 0x1fff) * 8,
                more: p.frag & 0x2000 != 0,
            }),
            gso: (p.gso_size != 0).then_some(JsonGso { size: p.gso_size, segments: p.gso_segs }),
            vlan: (p.vlan & 0xfff != 0).then_some(p.vlan & 0xfff),
        }
    }
}

impl<'a> JsonHop<'a> {
    fn new(
        scene: &Scene<'a>,
        journey: &Journey,
        at: usize,
        delta_ns: u64,
        authors: Option<&'a HopAuthors>,
    ) -> Self {
        let hop = &journey.hops[at];
        let named = |ifindex: u32| (ifindex != 0).then(|| scene.device(hop.netns, ifindex));
        let route = matches!(hop.place, Place::Route { .. });
        let place = match hop.place {
            Place::Device { ifindex, egress } => {
                JsonPlace::Device { device: scene.device(hop.netns, ifindex), direction: way(egress) }
            }
            Place::Hook { hook, ifindex, out_ifindex, priority, .. } => JsonPlace::Hook {
                hook: hook.name(),
                priority,
                input: named(ifindex),
                output: named(out_ifindex),
            },
            Place::Route { table: id, error, gateway, ifindex, reverse, local, .. } => JsonPlace::Route {
                table: id,
                table_name: table_name(id),
                error: (error < 0).then_some(error),
                error_name: (error < 0).then(|| route_error(error)),
                via: (!gateway.is_none()).then(|| gateway.to_string()),
                device: named(ifindex),
                fwmark: hop.mark,
                reverse,
                local,
            },
        };
        Self {
            at_ns: hop.ts.saturating_sub(journey.start_ns),
            delta_ns,
            netns: scene.netns(hop.netns),
            role: scene.topology.namespaces.get(&hop.netns).map(|ns| ns.role),
            place,
            folded: is_folded(&journey.hops, at, false),
            ends: JsonEnds::new(hop.ends),
            mark: hop.mark,
            length: (!route).then_some(hop.len),
            ttl: (!route).then_some(hop.ttl),
            mark_change: hop.mark_change.map(|c| JsonMark {
                from: c.from,
                to: c.to,
                cause: match c.cause {
                    Cause::Scrubbed => "scrubbed",
                    Cause::Hook(_) => "hook",
                    Cause::Unknown => "unknown",
                },
                by: match &c.cause {
                    Cause::Hook(at) => {
                        Some(interval(scene, at, Deed::Mark, authors.and_then(|a| a.mark.as_deref())))
                    }
                    _ => None,
                },
            }),
            ct_mark_change: hop.ct_mark_change.map(|(from, to)| JsonFromTo { from, to }),
            nat: hop.nat.as_ref().map(|nat| JsonNat {
                kind: nat.kind.name(),
                from: JsonEnds::new(nat.from),
                to: JsonEnds::new(hop.ends),
                by: nat
                    .interval
                    .as_ref()
                    .map(|at| interval(scene, at, Deed::Translation, authors.and_then(|a| a.nat.as_deref()))),
            }),
            conntrack: hop.conntrack,
            tracking: hop.tracking,
            source_mac: hop.macs.map(|macs| mac(macs.source)),
            destination_mac: hop.macs.map(|macs| mac(macs.destination)),
            encap: encap(journey, hop.encap),
        }
    }
}

fn encap(journey: &Journey, at: Option<u8>) -> Option<JsonEncap> {
    let outer = journey.encaps.get(usize::from(at?))?;
    let ends = JsonEnds::new(Ends { src: outer.src, dst: outer.dst });
    Some(JsonEncap { kind: "vxlan", ends, vni: outer.vni })
}

impl JsonConntrack {
    fn new(entry: &ConntrackEntry) -> Self {
        Self {
            original: JsonEnds::new(entry.original),
            reply: JsonEnds::new(entry.reply),
            status: entry.status,
            mark: entry.mark,
            translates: entry.translates(),
        }
    }
}

impl<'a> JsonNote<'a> {
    fn new(scene: &Scene<'a>, journey: &Journey, note: &Note) -> Self {
        let mut symbol = None;
        let name = match note.what {
            NoteKind::IcmpSent { icmp_type, code, ipv6, .. } => Some(icmp_error(icmp_type, code, ipv6, 0)),
            NoteKind::ResetSent { reason } => scene.reset_reason(reason),
            NoteKind::Freed { reason, location } => {
                symbol = Some(scene.symbol(location));
                scene.drop_reason(reason)
            }
            _ => None,
        };
        Self {
            at_ns: note.ts.saturating_sub(journey.start_ns),
            netns: scene.netns(note.netns),
            after_hop: note.after,
            what: note.what,
            name,
            symbol,
        }
    }
}

fn ending<'a>(scene: &Scene<'a>, journey: &Journey) -> JsonEnding<'a> {
    match journey.ending {
        Ending::Open => JsonEnding::Open,
        Ending::Left { netns, ifindex } => {
            JsonEnding::Left { netns: scene.netns(netns), device: scene.device(netns, ifindex) }
        }
        Ending::Delivered { netns } => JsonEnding::Delivered {
            netns: scene.netns(netns),
            process: scene.taker(journey, netns).map(|(name, pid, port)| JsonProcess { name, pid, port }),
        },
        Ending::Unwatched { netns, ifindex } => {
            JsonEnding::Unwatched { netns: scene.netns(netns), device: scene.device(netns, ifindex) }
        }
        Ending::Dropped(site) => JsonEnding::Dropped(JsonDrop {
            netns: scene.netns(site.netns),
            device: (site.ifindex != 0).then(|| scene.device(site.netns, site.ifindex)),
            reason: scene.drop_reason(site.reason),
            symbol: scene.symbol(site.location),
            hook: site.interval.as_ref().map(|at| interval(scene, at, site.deed, None)),
            mark: site.mark,
            length: site.len,
            after_delivery: site.delivered,
            encap: encap(journey, site.encap),
            stack: site.stack.iter().take_while(|a| **a != 0).map(|a| scene.symbol(*a)).collect(),
        }),
        Ending::Vanished { next, bridge } => {
            let netns = journey.hops.last().map_or(0, |h| h.netns);
            JsonEnding::Vanished {
                next: expected(scene, next),
                unless_bridged: bridge.map(|bridge| scene.device(netns, bridge)),
                events_lost: 0,
            }
        }
        Ending::Unclear { lost } => JsonEnding::Unclear { events_lost: lost },
        Ending::Merged { into } => JsonEnding::Merged { into },
        Ending::CutUp { first, last, packets } => JsonEnding::CutUp { first, last, packets },
        Ending::Copy { of } => JsonEnding::Copy { of },
        Ending::Evicted => JsonEnding::Evicted,
    }
}

fn expected<'a>(scene: &Scene<'a>, next: Expected) -> Option<JsonExpected<'a>> {
    let blank = |netns| JsonExpected { netns: scene.netns(netns), hook: None, device: None, direction: None };
    match next {
        Expected::Hook { netns, hook } => Some(JsonExpected { hook: Some(hook.name()), ..blank(netns) }),
        Expected::Routing { netns } => Some(blank(netns)),
        Expected::Device { netns, ifindex, egress } => Some(JsonExpected {
            device: Some(scene.device(netns, ifindex)),
            direction: Some(way(egress)),
            ..blank(netns)
        }),
        Expected::Unknown => None,
    }
}
