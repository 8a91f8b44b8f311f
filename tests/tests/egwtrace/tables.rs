// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every table at every hook, by rule and by policy, on both back ends: who dropped a packet, who marked it. One lab
//! and two traces for all of a back end.

use std::time::Duration;

use anyhow::{Context, Result};
use tests::{
    Backend, Lab, Spec,
    client::{self, Request},
    drops::{By, DropAt, Hook, Traffic},
    probe::Probe,
    topology::Family,
};

use crate::{
    journey::Journey,
    running::{Running, skip_unless_able, trace},
};

/// Of pod `visitor` to pod `pod2`, on the other node: a way on which no chain ends before its policy, but for `filter`
/// of FORWARD, where flannel accepts.
const DST: &str = "10.200.1.22:80";
const TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];
/// Hook, where it is passed, and whether the pod's node sees it.
const PLACES: [(Hook, &str, bool); 5] = [
    (Hook::Prerouting, "node1", true),
    (Hook::Input, "pod2", false),
    (Hook::Forward, "node1", true),
    (Hook::Output, "visitor", true),
    (Hook::Postrouting, "node1", true),
];

fn has_table(hook: Hook, table: &str) -> bool {
    // `nat` is asked only where connections are tracked: on the node, not in the pods.
    hook.has_table(table) || (table == "nat" && matches!(hook, Hook::Prerouting | Hook::Postrouting))
}

struct Scene {
    lab: Lab,
    /// On the node of `visitor`, and on that of `pod2`.
    here: Running,
    there: Running,
}

impl Scene {
    fn up(backend: Backend) -> Result<Self> {
        let lab = Lab::up(Spec::unique().without_mesh().with_backend(backend))?;
        Probe::Pod2.run(&lab, Family::V4)?;
        // Tables are registered when they are first used: so that nothing changes during the trace.
        for (hook, place, _) in PLACES {
            for table in TABLES.into_iter().filter(|table| has_table(hook, table)) {
                let chain = hook.name().to_uppercase();
                lab.iptables(place, Family::V4, &format!("-t {table} -P {chain} ACCEPT"))?;
            }
        }
        let here = trace(&lab, "node1", &format!("--pod @visitor --dst {DST} --positions all"))?;
        let line = format!("--pod @pod2 --src 10.200.0.22 --dst {DST} --positions all");
        let there = trace(&lab, "node2", &line)?;
        Ok(Self { lab, here, there })
    }

    fn ask(&self) -> Result<()> {
        client::tcp(&self.lab.ns("visitor"), DST.parse()?, Request::Who, Duration::from_millis(100)).map(drop)
    }

    /// Waits for a journey about which `says` is true, among those that come from now on.
    fn until(&mut self, here: bool, says: impl Fn(&Journey) -> bool) -> Result<()> {
        let trace = if here { &mut self.here } else { &mut self.there };
        trace.got.clear();
        self.ask()?;
        let trace = if here { &mut self.here } else { &mut self.there };
        trace.until_journeys(|all| all.iter().any(&says))
    }
}

fn dropped_at_each_hook(backend: Backend) -> Result<()> {
    let mut scene = Scene::up(backend)?;
    for (hook, place, here) in PLACES {
        for table in TABLES.into_iter().filter(|table| hook.has_table(table)) {
            for by in [By::Rule { table }, By::Policy { table }] {
                if (hook, by) == (Hook::Forward, By::Policy { table: "filter" }) {
                    continue;
                }
                let traffic = Traffic::tcp_to_port(80);
                let one = DropAt { place, hook, by, traffic, family: Family::V4 };
                one.apply(&scene.lab)?;
                let chain = hook.name().to_uppercase();
                let (start, end) = ("dropped NETFILTER_DROP at ", format!(" {chain} {table}"));
                let at = format!(" in {place} ");
                let told = scene.until(here, |journey| {
                    let ending = journey.ending();
                    ending.starts_with(start) && ending.contains(&at) && ending.ends_with(&end)
                });
                told.with_context(|| format!("{backend:?}: {one}"))?;
                one.remove(&scene.lab)?;
            }
        }
    }
    scene.here.stop()?.clean()?;
    scene.there.stop()?.clean()?;
    Ok(())
}

fn marked_at_each_hook(backend: Backend) -> Result<()> {
    let mut scene = Scene::up(backend)?;
    for (hook, place, here) in PLACES {
        let chain = hook.name().to_uppercase();
        for table in TABLES.into_iter().filter(|table| has_table(hook, table)) {
            let rule = format!("{chain} -p tcp --dport 80 -d 10.200.1.22 -j MARK --set-xmark 0x5/0xf");
            scene.lab.iptables(place, Family::V4, &format!("-t {table} -I {rule}"))?;
            let end = format!("{place} {chain} mark 0x0→0x5 by {table}");
            let told = scene.until(here, |journey| {
                journey.kind() == "SYN" && journey.hops().iter().any(|hop| hop.starts_with(&end))
            });
            told.with_context(|| format!("{backend:?}: {end}"))?;
            scene.lab.iptables(place, Family::V4, &format!("-t {table} -D {rule}"))?;
        }
    }
    scene.here.stop()?.clean()?;
    scene.there.stop()?.clean()?;
    Ok(())
}

#[test]
fn a_drop_is_put_down_to_its_table_with_nft() -> Result<()> {
    skip_unless_able!();
    dropped_at_each_hook(Backend::Nft)
}

#[test]
fn a_drop_is_put_down_to_its_table_with_legacy() -> Result<()> {
    skip_unless_able!();
    dropped_at_each_hook(Backend::Legacy)
}

#[test]
fn a_mark_is_put_down_to_its_table_with_nft() -> Result<()> {
    skip_unless_able!();
    marked_at_each_hook(Backend::Nft)
}

#[test]
fn a_mark_is_put_down_to_its_table_with_legacy() -> Result<()> {
    skip_unless_able!();
    marked_at_each_hook(Backend::Legacy)
}
