// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is watched changes while packets are under way.

use crate::world;

use tracer_user::flow::Ending;
use tracer_user::node::{Hook, Topology};
use world::*;

/// Neither the pod nor the devices that lead to it are known as such yet.
fn without_pod(topology: &mut Topology) {
    topology.namespaces.remove(&POD);
    for device in topology.namespaces.get_mut(&NODE1).expect("the node").devices.values_mut() {
        if [CNI0, VETH].contains(&device.ifindex) {
            device.watched = None;
        }
    }
}

/// A packet comes in for the pod, up to the last hook before the bridge.
fn comes_in(w: &mut World, p: &Pkt) {
    w.tc(p, NODE1, ETH0, IN, 1000);
    w.nf(p, NODE1, Hook::Prerouting, (ETH0, 0), 1000);
    w.nf(p, NODE1, Hook::Forward, (ETH0, CNI0), 1000);
    w.nf(p, NODE1, Hook::Postrouting, (0, CNI0), 1000);
}

fn packet(id: u16) -> Pkt {
    Pkt {
        id,
        seq: u32::from(id),
        skb: u64::from(id) << 8,
        ..Pkt::tcp("172.16.25.183", 80, "10.200.0.22", 41234)
    }
}

#[test]
fn a_packet_under_way_is_not_missed_by_devices_that_came_later() {
    let mut w = World::new(false);
    let all = Topology::clone(&w.topology);
    w.change(without_pod);
    // Nothing looked for it behind the bridge,
    comes_in(&mut w, &packet(1));
    // this one comes to a device that was there in time,
    comes_in(&mut w, &packet(2));
    // this one's last records are read when the pod is known already,
    w.tc(&packet(3), NODE1, ETH0, IN, 1000);
    let began = w.now;
    w.change_since(began, |topology| *topology = all.clone());
    w.now = began + 1;
    w.nf(&packet(3), NODE1, Hook::Postrouting, (0, CNI0), 1000);
    w.tc(&packet(2), NODE1, CNI0, OUT, 1000);
    // and this one comes when all are there.
    w.wait(20);
    comes_in(&mut w, &packet(4));
    w.wait(5000);
    let summary = w.finish();
    let handed_on = Ending::Unwatched { netns: NODE1, ifindex: CNI0 };
    assert_eq!([w.ending(1), w.ending(3)], [handed_on, handed_on]);
    assert_eq!(w.ending(2), Ending::Unclear { lost: 0 }, "the bridge may have asked for the pod in vain");
    assert!(matches!(w.ending(4), Ending::Vanished { .. }), "{}", w.screen());
    assert_eq!((summary.vanished, summary.unclear, summary.unwatched), (1, 1, 2));
    assert!(w.screen().contains("? not seen again; what is watched changed meanwhile"), "{}", w.screen());
}

#[test]
fn a_change_elsewhere_excuses_nothing() {
    let mut w = World::new(false);
    comes_in(&mut w, &packet(1));
    let began = w.now;
    w.change_since(began, |topology| {
        topology.namespaces.get_mut(&NODE1).expect("the node").devices.retain(|_, d| d.ifindex != FLANNEL);
    });
    w.wait(5000);
    assert!(matches!(w.ending(1), Ending::Vanished { .. }), "{}", w.screen());
}

#[test]
fn each_of_several_changes_counts() {
    let mut w = World::new(false);
    let all = Topology::clone(&w.topology);
    w.change(without_pod);
    let p = packet(1);
    comes_in(&mut w, &p);
    // The devices are known first, and then what is at their end.
    let began = w.now;
    w.change_since(began, |topology| {
        *topology = all.clone();
        topology.namespaces.remove(&POD);
    });
    w.tc(&p, NODE1, CNI0, OUT, 1000);
    w.tc(&p, NODE1, VETH, OUT, 1000);
    w.change_since(began, |topology| *topology = all.clone());
    w.wait(5000);
    assert_eq!(w.ending(1), Ending::Unwatched { netns: NODE1, ifindex: VETH });
}
