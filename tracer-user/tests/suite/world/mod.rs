// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two nodes of an EgressGateway cluster as plain data, and packets that walk through them: the records that
//! the kernel side would send.
#![expect(unreachable_pub, reason = "each test file uses its own part of the world")]

pub mod egress;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tracer_common::{
    DIR_FORWARD, DIR_REPLY, Event, FLAG_FRAG, FLAG_IPV6, FLAG_QUOTED, FLAG_REVERSE, Kind, OuterV4,
};
use tracer_user::flow::{Addr, Ending, Journey, Names, Options, Scene, Summary, Tracker, Update, Zoom};
use tracer_user::node::{
    Device, DeviceKind, Family, Hook, HookEntry, HookOwner, Namespace, PathRole, Position, Role, Topology,
};
use tracer_user::output::{Output, Text, TextOptions, TimeFormat};

pub const POD: u32 = 101;
pub const NODE1: u32 = 102;
pub const NODE2: u32 = 103;

pub const LO: u32 = 1;
pub const ETH0: u32 = 2;
pub const CNI0: u32 = 5;
pub const FLANNEL: u32 = 6;
pub const VETH: u32 = 7;
pub const EGRESS: u32 = 8;

pub const REQUEST_MARK: u32 = 0x26b7_b4e4;
pub const REPLY_MARK: u32 = 0x2698_ee37;
pub const DONE_MARK: u32 = 0x2600_0000;

pub const IN: u8 = 0;
pub const OUT: u8 = 1;

/// Drop reasons and reset reasons of the world's kernel, and its symbols.
pub const REASONS: [&str; 18] = [
    "NOT_DROPPED_YET",
    "CONSUMED",
    "NOT_SPECIFIED",
    "NO_SOCKET",
    "NETFILTER_DROP",
    "IP_RPFILTER",
    "NEIGH_FAILED",
    "QUEUE_PURGE",
    "PKT_TOO_BIG",
    "IP_INNOROUTES",
    "NO_TX_TARGET",
    "OTHERHOST",
    "FRAG_REASM_TIMEOUT",
    "XDP",
    "TC_INGRESS",
    "TC_EGRESS",
    "TCP_MD5NOTFOUND",
    "IP_LOCALNET",
];
pub const SYMBOLS: [&str; 26] = [
    "",
    "nf_hook_slow",
    "nft_do_chain",
    "nft_do_chain_ipv4",
    "ip_rcv",
    "br_nf_pre_routing",
    "ip_local_deliver",
    "ip_forward",
    "__ip_local_out",
    "ip_output",
    "tcp_v4_rcv",
    "ip_rcv_finish_core",
    "neigh_invalidate",
    "sk_stream_kill_queues",
    "ip_error",
    "vxlan_xmit",
    "__udp4_lib_rcv",
    "ping_rcv",
    "iptunnel_xmit",
    "ipt_do_table",
    "ip_rcv_core",
    "ip_frag_free",
    "veth_xdp_rcv_skb",
    "do_xdp_generic",
    "__netif_receive_skb_core",
    "__dev_queue_xmit",
];

pub fn reason(name: &str) -> u32 {
    REASONS.iter().position(|r| *r == name).expect("a reason of the world") as u32
}

pub fn symbol(name: &str) -> u64 {
    SYMBOLS.iter().position(|s| *s == name).expect("a symbol of the world") as u64
}

pub struct Kernel;

impl Names for Kernel {
    fn drop_reason(&self, reason: u32) -> Option<Cow<'_, str>> {
        REASONS.get(reason as usize).map(|r| Cow::Borrowed(*r))
    }
    fn reset_reason(&self, reason: u32) -> Option<Cow<'_, str>> {
        (reason == 2).then_some(Cow::Borrowed("NO_SOCKET"))
    }
    fn symbol(&self, address: u64) -> Option<Cow<'_, str>> {
        SYMBOLS.get(address as usize).filter(|s| !s.is_empty()).map(|s| Cow::Borrowed(*s))
    }
    fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        1_709_210_096_000_000_000 + monotonic_ns
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn device(ifindex: u32, name: &str, kind: DeviceKind, watched: Option<PathRole>) -> Device {
    Device {
        ifindex,
        name: name.to_owned(),
        kind,
        mtu: 1500,
        up: true,
        layer3: false,
        master: None,
        link: None,
        watched,
        addresses: Vec::new(),
        mac: Vec::new(),
    }
}

fn vxlan(vni: u32, port: u16) -> DeviceKind {
    DeviceKind::Vxlan { vni, port, local: None }
}

fn tables() -> Vec<HookEntry> {
    let chains = [
        (Hook::Prerouting, -300, "raw"),
        (Hook::Prerouting, -150, "mangle"),
        (Hook::Prerouting, -100, "nat"),
        (Hook::Input, -150, "mangle"),
        (Hook::Input, 0, "filter"),
        (Hook::Input, 100, "nat"),
        (Hook::Forward, -150, "mangle"),
        (Hook::Forward, 0, "filter"),
        (Hook::Output, -300, "raw"),
        (Hook::Output, -150, "mangle"),
        (Hook::Output, -100, "nat"),
        (Hook::Output, 0, "filter"),
        (Hook::Postrouting, -150, "mangle"),
        (Hook::Postrouting, 100, "nat"),
    ];
    let mut entries = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        for (hook, priority, table) in chains {
            entries.push(HookEntry {
                family,
                hook,
                priority,
                owner: HookOwner::Nft {
                    family: "ip".to_owned(),
                    table: table.to_owned(),
                    chain: hook.name().to_owned(),
                    kind: if table == "nat" { "nat" } else { "filter" }.to_owned(),
                    policy_drop: false,
                },
            });
        }
        for hook in [Hook::Prerouting, Hook::Output] {
            let owner = HookOwner::Kernel { name: "conntrack".to_owned() };
            entries.push(HookEntry { family, hook, priority: -200, owner });
        }
    }
    entries
}

/// Pod and two nodes; node 2 only where it is watched.
pub fn topology(both: bool) -> Topology {
    let mut namespaces = BTreeMap::new();
    let pod_eth = Device {
        link: Some((Some(NODE1), VETH)),
        addresses: vec![ip("10.200.0.22"), ip("fd00::22")],
        ..device(ETH0, "eth0", DeviceKind::Veth, Some(PathRole::Pod))
    };
    let lo = || device(LO, "lo", DeviceKind::Loopback, Some(PathRole::Pod));
    let ns = |id, name: &str, role, devices: Vec<Device>, hooks| Namespace {
        id,
        name: name.to_owned(),
        role,
        devices: devices.into_iter().map(|d| (d.ifindex, d)).collect(),
        hooks,
        hooks_exact: true,
    };
    namespaces.insert(POD, ns(POD, "visitor", Role::Pod, vec![lo(), pod_eth], tables()));
    let node = |id, name| {
        let veth = Device {
            link: Some((Some(POD), ETH0)),
            master: Some(CNI0),
            ..device(VETH, "vethpod", DeviceKind::Veth, Some(PathRole::PodHost))
        };
        let devices = vec![
            device(ETH0, "eth0", DeviceKind::Physical, Some(PathRole::Uplink)),
            device(CNI0, "cni0", DeviceKind::Bridge, Some(PathRole::Bridge)),
            device(FLANNEL, "flannel.1", vxlan(1, 8472), Some(PathRole::Tunnel)),
            veth,
            device(EGRESS, "egress.vxlan", vxlan(100, 7789), Some(PathRole::Tunnel)),
        ];
        ns(id, name, Role::Node, devices, tables())
    };
    namespaces.insert(NODE1, node(NODE1, "node1"));
    if both {
        let mut node2 = node(NODE2, "node2");
        node2.devices.remove(&VETH);
        namespaces.insert(NODE2, node2);
    }
    Topology { namespaces }
}

const STANDING: [(Hook, i32); 5] = [
    (Hook::Prerouting, -99),
    (Hook::Input, 101),
    (Hook::Forward, 1),
    (Hook::Output, 1),
    (Hook::Postrouting, 101),
];

pub fn standing(topology: &Topology) -> Vec<Position> {
    let mut positions = Vec::new();
    for &netns in topology.namespaces.keys() {
        for family in [Family::Ipv4, Family::Ipv6] {
            for (hook, priority) in STANDING {
                positions.push(Position { netns, family, hook, index: 0, priority });
            }
        }
    }
    positions
}

/// A packet as it is now; tests change what changes on the way.
#[derive(Clone, Copy, Debug)]
pub struct Pkt {
    pub skb: u64,
    pub flow: u32,
    pub reply: bool,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub proto: u8,
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    pub id: u16,
    pub len: u16,
    pub ttl: u8,
    pub mark: u32,
    pub gso: (u16, u16),
    /// Offset / 8 and "more".
    pub frag: Option<(u16, bool)>,
    /// ICMP error: type and code.
    pub quoted: Option<(u8, u8)>,
    /// Address, mark, ctinfo of its conntrack entry.
    pub ct: (u64, u32, u8),
    /// Outer source, destination, VNI.
    pub outer: Option<([u8; 4], [u8; 4], u32)>,
    pub cpu: u16,
}

impl Pkt {
    pub fn tcp(src: &str, sport: u16, dst: &str, dport: u16) -> Self {
        Self {
            skb: 0xffff_8880_0000_1000,
            flow: 1,
            reply: false,
            src: ip(src),
            dst: ip(dst),
            sport,
            dport,
            proto: 6,
            flags: 0x02,
            seq: 1000,
            ack: 0,
            id: 0x4242,
            len: 60,
            ttl: 64,
            mark: 0,
            gso: (0, 0),
            frag: None,
            quoted: None,
            ct: (0, 0, 2),
            outer: None,
            cpu: 0,
        }
    }

    pub fn echo(src: &str, dst: &str, ident: u16, seq: u32) -> Self {
        let tcp = Self::tcp(src, ident, dst, ident);
        let (proto, flags) = if tcp.src.is_ipv6() { (58, 128) } else { (1, 8) };
        Self { proto, flags, seq, len: 84, ..tcp }
    }

    pub fn udp(src: &str, sport: u16, dst: &str, dport: u16, len: u16) -> Self {
        Self { proto: 17, flags: 0, seq: 0, len, ..Self::tcp(src, sport, dst, dport) }
    }

    pub fn event(&self, kind: Kind) -> Event {
        let mut e = Event {
            skb: self.skb,
            flow: self.flow,
            mark: self.mark,
            len: u32::from(self.len),
            l4a: self.seq,
            l4b: self.ack,
            src: Addr::from(self.src).0,
            dst: Addr::from(self.dst).0,
            sport: self.sport,
            dport: self.dport,
            ip_id: if self.src.is_ipv4() || self.frag.is_some() { self.id } else { 0 },
            gso_size: self.gso.0,
            gso_segs: self.gso.1,
            cpu: self.cpu,
            kind: kind as u8,
            flags: if self.src.is_ipv6() { FLAG_IPV6 } else { 0 },
            proto: self.proto,
            ttl: self.ttl,
            tcp_flags: self.flags,
            dir: if self.reply { DIR_REPLY } else { DIR_FORWARD },
            ..Event::ZERO
        };
        if let Some((icmp_type, code)) = self.quoted {
            e.flags |= FLAG_QUOTED;
            e.sport = u16::from(icmp_type) << 8 | u16::from(code);
            e.dport = 0;
            e.proto = if self.src.is_ipv6() { 58 } else { 1 };
        }
        if let Some((offset, more)) = self.frag {
            e.flags |= FLAG_FRAG;
            e.frag = offset | if more { 0x2000 } else { 0 };
        }
        e.set_l3len(self.len);
        match self.outer {
            Some((src, dst, vni)) => e.set_outer_v4(OuterV4 { src, dst, sport: 50000, dport: 7789, vni }),
            None => e.set_ct(self.ct.0, 0, self.ct.1, self.ct.2),
        }
        e
    }
}

/// The tracker, with a clock and something to write down what comes out.
pub struct World {
    pub topology: Arc<Topology>,
    pub tracker: Tracker,
    pub now: u64,
    seqs: [u32; 4],
    pub text: Text,
    pub screen: Vec<u8>,
    /// Journeys as last shown, by number.
    pub journeys: BTreeMap<u64, Journey>,
    pub zooms: Vec<(Zoom, bool)>,
    pub lost: u64,
    /// Blocks and continuations shown.
    pub shown: Vec<(u64, bool)>,
}

impl World {
    pub fn new(both: bool) -> Self {
        Self::with(both, Options::default(), 0)
    }

    pub fn with(both: bool, options: Options, verbose: u8) -> Self {
        let topology = Arc::new(topology(both));
        let mut tracker = Tracker::new(options, Arc::new(Kernel));
        tracker.set_topology(Arc::clone(&topology));
        tracker.set_positions(&standing(&topology));
        let text = TextOptions { time: TimeFormat::Relative, verbose, ..TextOptions::default() };
        Self {
            topology,
            tracker,
            now: 1_000_000_000,
            seqs: [0; 4],
            text: Text::new(text),
            screen: Vec::new(),
            journeys: BTreeMap::new(),
            zooms: Vec::new(),
            lost: 0,
            shown: Vec::new(),
        }
    }

    /// Changes what the tracker knows of the node.
    pub fn change(&mut self, change: impl FnOnce(&mut Topology)) {
        change(Arc::make_mut(&mut self.topology));
        self.tracker.set_topology(Arc::clone(&self.topology));
    }

    /// The same, with devices attached since `began` until 10 µs from now.
    pub fn change_since(&mut self, began: u64, change: impl FnOnce(&mut Topology)) {
        change(Arc::make_mut(&mut self.topology));
        self.now += 10_000;
        self.tracker.change_topology(Arc::clone(&self.topology), began..self.now);
        self.tracker.change_positions(&standing(&self.topology), began..self.now);
    }

    /// Positions between all tables of a hook, besides the standing ones.
    pub fn zoom_in(&mut self, netns: u32, hook: Hook, priorities: &[i32]) {
        let mut positions = standing(&self.topology);
        for (index, &priority) in (1..).zip(priorities) {
            positions.push(Position { netns, family: Family::Ipv4, hook, index, priority });
        }
        self.tracker.set_positions(&positions);
    }

    pub fn push(&mut self, mut event: Event, after_ns: u64) {
        self.now += after_ns;
        event.ts = self.now;
        let seq = &mut self.seqs[usize::from(event.cpu)];
        event.seq = *seq;
        *seq += 1;
        self.tracker.push(&event);
    }

    /// Records that were lost on CPU 0.
    pub fn lose(&mut self, count: u32) {
        self.seqs[0] += count;
    }

    pub fn tc(&mut self, p: &Pkt, netns: u32, ifindex: u32, way: u8, after_ns: u64) {
        let mut e = p.event(Kind::Tc);
        (e.netns, e.ifindex, e.point) = (netns, ifindex, way);
        e.len += if p.outer.is_some() { 64 } else { 14 };
        self.push(e, after_ns);
    }

    pub fn nf(&mut self, p: &Pkt, netns: u32, hook: Hook, devices: (u32, u32), after_ns: u64) {
        self.nf_at(p, netns, hook, 0, devices, after_ns);
    }

    pub fn nf_at(&mut self, p: &Pkt, netns: u32, hook: Hook, index: u8, devices: (u32, u32), after_ns: u64) {
        let mut e = p.event(Kind::Nf);
        (e.netns, e.point, e.position, e.ifindex) = (netns, hook as u8, index, devices.0);
        e.set_out_ifindex(devices.1);
        self.push(e, after_ns);
    }

    /// A routing lookup: table, error, gateway, device.
    pub fn fib(&mut self, p: &Pkt, netns: u32, found: (u32, i32, Option<&str>, u32), after_ns: u64) {
        let mut e = p.event(Kind::Fib);
        (e.netns, e.ifindex, e.l4a) = (netns, found.3, 0);
        e.flags &= FLAG_IPV6;
        e.set_fib(found.0, found.1, found.2.map_or([0; 16], |gw| Addr::from(ip(gw)).0));
        self.push(e, after_ns);
    }

    pub fn fib_reverse(&mut self, p: &Pkt, netns: u32, table: u32, dev: u32, after_ns: u64) {
        let mut e = p.event(Kind::Fib);
        (e.netns, e.ifindex) = (netns, dev);
        e.flags = e.flags & FLAG_IPV6 | FLAG_REVERSE;
        e.set_fib(table, 0, [0; 16]);
        self.push(e, after_ns);
    }

    /// `kfree_skb`: reason, symbol, the calls that led there.
    pub fn drop(&mut self, p: &Pkt, netns: u32, ifindex: u32, why: (&str, &str), calls: &[&str]) {
        if !calls.is_empty() {
            let mut stack = p.event(Kind::Stack);
            let mut addresses = [0u64; 11];
            for (slot, call) in addresses.iter_mut().zip(calls) {
                *slot = symbol(call);
            }
            set_stack(&mut stack, addresses);
            self.push(stack, 100);
        }
        let mut e = p.event(Kind::Drop);
        (e.netns, e.ifindex) = (netns, ifindex);
        e.detail = [0; 24];
        e.set_drop(symbol(why.1), reason(why.0));
        e.set_l3len(p.len);
        self.push(e, 100);
    }

    pub fn icmp_send(&mut self, p: &Pkt, netns: u32, icmp: (u8, u8)) {
        let mut e = p.event(Kind::IcmpSend);
        (e.netns, e.point, e.position) = (netns, icmp.0, icmp.1);
        self.push(e, 100);
    }

    pub fn remark(&mut self, p: &Pkt, kind: Kind, netns: u32, skb: u64) {
        let mut e = p.event(kind);
        (e.netns, e.skb) = (netns, skb);
        e.set_drop(0, 2);
        self.push(e, 100);
    }

    /// The two records of a conntrack entry.
    pub fn conntrack(&mut self, p: &Pkt, original: &Pkt, reply: &Pkt) {
        for (position, tuple) in [(0, original), (1, reply)] {
            let mut e = p.event(Kind::Conntrack);
            (e.position, e.sport, e.dport) = (position, tuple.sport, tuple.dport);
            (e.src, e.dst) = (Addr::from(tuple.src).0, Addr::from(tuple.dst).0);
            self.push(e, 100);
        }
    }

    /// Lets time pass, as the session's loop does.
    pub fn wait(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.now += 10_000_000;
            self.advance();
        }
    }

    fn advance(&mut self) {
        let scene = Scene::new(&self.topology, &Kernel);
        let (text, screen) = (&mut self.text, &mut self.screen);
        let (journeys, zooms) = (&mut self.journeys, &mut self.zooms);
        let (lost, shown) = (&mut self.lost, &mut self.shown);
        self.tracker.advance(self.now, &mut |update| {
            record(update, &scene, text, screen, journeys, zooms, lost, shown);
        });
    }

    pub fn finish(&mut self) -> Summary {
        let scene = Scene::new(&self.topology, &Kernel);
        let (text, screen) = (&mut self.text, &mut self.screen);
        let (journeys, zooms) = (&mut self.journeys, &mut self.zooms);
        let (lost, shown) = (&mut self.lost, &mut self.shown);
        let summary = self.tracker.finish(self.now, &mut |update| {
            record(update, &scene, text, screen, journeys, zooms, lost, shown);
        });
        text.summary(screen, &scene, &summary, &[]).expect("writes to memory");
        summary
    }

    pub fn ending(&self, id: u64) -> Ending {
        self.journeys[&id].ending
    }

    pub fn screen(&self) -> &str {
        std::str::from_utf8(&self.screen).expect("text")
    }
}

#[expect(clippy::too_many_arguments, reason = "the fields of one struct, borrowed one by one")]
fn record(
    update: Update<'_>,
    scene: &Scene<'_>,
    text: &mut Text,
    screen: &mut Vec<u8>,
    journeys: &mut BTreeMap<u64, Journey>,
    zooms: &mut Vec<(Zoom, bool)>,
    lost: &mut u64,
    shown: &mut Vec<(u64, bool)>,
) {
    match update {
        Update::Journey(news) => {
            text.news(screen, scene, &news, None).expect("writes to memory");
            journeys.insert(news.journey.id, news.journey.clone());
            shown.push((news.journey.id, news.first));
        }
        Update::Notice(notice) => {
            if let tracer_user::flow::Notice::Lost { count, .. } = &notice {
                *lost += count;
            }
            text.notice(screen, scene, &notice).expect("writes to memory");
        }
        Update::Zoom(zoom) => zooms.push((zoom, true)),
        Update::Unzoom(zoom) => zooms.push((zoom, false)),
    }
}

fn set_stack(e: &mut Event, addresses: [u64; 11]) {
    // The layout of `Event::stack`: eight from `mark` on, three in `detail`.
    let mut bytes = *e.as_bytes();
    for (i, address) in addresses.iter().enumerate() {
        let at = match i {
            0..7 => 24 + i * 8,
            7 => 80,
            _ => 104 + (i - 8) * 8,
        };
        bytes[at..at + 8].copy_from_slice(&address.to_ne_bytes());
    }
    *e = Event::parse(&bytes).expect("a stack record");
}

/// Compares with a file; `UPDATE_SNAPSHOTS=1` writes it.
pub fn snapshot(name: &str, actual: &str) {
    let path = format!("{}/tests/snapshots/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, actual).expect("writes the snapshot");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{name} differs; UPDATE_SNAPSHOTS=1 accepts it:\n{actual}");
}
