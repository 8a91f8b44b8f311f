// SPDX-License-Identifier: MIT OR Apache-2.0
//! How many records a second the tracker takes: `cargo run --release --example flow_speed`.

use std::sync::Arc;
use std::time::Instant;

use tracer_common::{Event, Kind};
use tracer_user::flow::{NoNames, Options, Scene, Tracker, Update};
use tracer_user::node::{
    Device, DeviceKind, Family, Hook, HookEntry, HookOwner, Namespace, PathRole, Role, Topology,
};
use tracer_user::output::{Output, Text, TextOptions};

const EVENTS: u64 = 4_000_000;
/// 1 M records a second, drained every 10 ms.
const BATCH: u64 = 10_000;
const STEP_NS: u64 = 1_000;

fn main() {
    let topology = Arc::new(topology());
    let path = path();
    for (name, mark, print, equal) in [
        ("join", 0, false, false),
        ("join, marks change", 0x10, false, false),
        ("join equal packets", 0, false, true),
        ("join and print", 0, true, false),
    ] {
        let mut tracker = Tracker::new(Options::default(), Arc::new(NoNames));
        tracker.set_topology(Arc::clone(&topology));
        let scene = Scene::new(&topology, &NoNames);
        let mut text = Text::new(TextOptions::default());
        let mut out = Vec::with_capacity(1 << 20);
        let mut bytes = 0;
        let mut update = |update: Update<'_>| {
            if let (true, Update::Journey(news)) = (print, update) {
                let written = text.news(&mut out, &scene, &news, None);
                assert!(written.is_ok(), "writes to memory");
                if out.len() > 1 << 19 {
                    bytes += out.len();
                    out.clear();
                }
            }
        };
        let start = Instant::now();
        for i in 0..EVENTS {
            let packet = i / path.len() as u64;
            let at = (i % path.len() as u64) as usize;
            let mut e = path[at];
            e.ts = i * STEP_NS;
            e.seq = i as u32;
            e.skb = 0xffff_8880_0000_0000 | (packet % 512) << 8;
            e.flow = 1 + (packet % 64) as u32;
            if equal {
                (e.proto, e.flow) = (17, 1);
            } else {
                e.ip_id = packet as u16;
                e.l4a = (packet as u32).wrapping_mul(1448);
                e.tcp_flags = 0x10;
            }
            e.mark = if at > 3 { mark } else { 0 };
            tracker.push(&e);
            if i % BATCH == BATCH - 1 {
                tracker.advance(i * STEP_NS, &mut update);
            }
        }
        let summary = tracker.finish(EVENTS * STEP_NS, &mut update);
        let took = start.elapsed();
        println!(
            "{name:20} {:>6.2} M records/s, {:>5.0} ns each; {} packets, {} left, {} given up",
            EVENTS as f64 / took.as_secs_f64() / 1e6,
            took.as_nanos() as f64 / EVENTS as f64,
            summary.packets,
            summary.left,
            summary.evicted
        );
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        for line in status.lines().filter(|l| l.starts_with("VmHWM")) {
            println!("{line}");
        }
    }
}

/// Ten records of one packet: pod, node, out.
fn path() -> Vec<Event> {
    let tc = |netns, ifindex, point| Event { kind: Kind::Tc as u8, netns, ifindex, point, ..base() };
    let nf = |netns, hook, ifindex, out| {
        let mut e = Event { kind: Kind::Nf as u8, netns, ifindex, point: hook, ..base() };
        e.set_out_ifindex(out);
        e
    };
    let mut fib = Event { kind: Kind::Fib as u8, netns: 2, ifindex: 4, ..base() };
    fib.set_fib(254, 0, [0; 16]);
    vec![
        nf(1, 3, 0, 2),
        nf(1, 4, 0, 2),
        tc(1, 2, 1),
        tc(2, 3, 0),
        nf(2, 0, 5, 0),
        tc(2, 5, 0),
        fib,
        nf(2, 2, 5, 4),
        nf(2, 4, 0, 4),
        tc(2, 4, 1),
    ]
}

fn base() -> Event {
    let mut e = Event { len: 1514, proto: 6, ttl: 64, sport: 1, dport: 80, ..Event::ZERO };
    (e.src[10], e.src[11], e.dst[10], e.dst[11]) = (255, 255, 255, 255);
    e.set_l3len(1500);
    e
}

fn topology() -> Topology {
    let device = |ifindex, name: &str, watched| Device {
        ifindex,
        name: name.to_owned(),
        kind: DeviceKind::Physical,
        mtu: 1500,
        up: true,
        layer3: false,
        master: None,
        link: None,
        watched: Some(watched),
        addresses: Vec::new(),
        mac: Vec::new(),
    };
    let ns = |id, name: &str, role, devices: Vec<Device>| Namespace {
        id,
        name: name.to_owned(),
        role,
        devices: devices.into_iter().map(|d| (d.ifindex, d)).collect(),
        hooks: hooks(),
        hooks_exact: true,
    };
    let pod = ns(1, "pod", Role::Pod, vec![device(2, "eth0", PathRole::Pod)]);
    let devices = vec![
        device(3, "veth0", PathRole::PodHost),
        device(4, "eth0", PathRole::Uplink),
        device(5, "cni0", PathRole::Bridge),
    ];
    let node = ns(2, "node", Role::Node, devices);
    Topology { namespaces: [(1, pod), (2, node)].into() }
}

/// As many entries as iptables-nft makes.
fn hooks() -> Vec<HookEntry> {
    let tables = [(-300, "raw"), (-150, "mangle"), (-100, "nat"), (0, "filter"), (50, "security")];
    let entry = |hook: Hook, (priority, table): (i32, &str)| HookEntry {
        family: Family::Ipv4,
        hook,
        priority,
        owner: HookOwner::Iptables { table: table.to_owned() },
    };
    Hook::ALL.iter().flat_map(|hook| tables.map(|table| entry(*hook, table))).collect()
}
