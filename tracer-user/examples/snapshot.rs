// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long reading a namespace takes, what it needs of memory, and how long the model walks over it: `snapshot FILE
//! [SOURCE DESTINATION PORT]`, where FILE is a namespace (`/run/netns/NAME`). Reads it once, again, and again for each
//! line on stdin; prints one line of JSON for each reading, and before these one for the walk of a TCP packet.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tracer_user::check::check;
use tracer_user::model::{Question, Snapshot};
use tracer_user::node::{Netns, Observer};
use tracer_user::snapshot::{Evidence, NetnsEvidence};

/// Walks of one repair search.
const SEARCH: usize = 200;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let file = args.next().ok_or("which namespace? Give its file, /run/netns/NAME")?;
    let netns = Netns::open(Path::new(&file), "node")?;
    let mut before = None;
    let mut read = |what: &str| {
        let start = Instant::now();
        let now = Evidence::collect_again(std::slice::from_ref(&netns), before.as_ref());
        let took = start.elapsed().as_secs_f64() * 1e3;
        let of = now.of(netns.id());
        let rules: usize =
            of.iter().flat_map(|n| n.rulesets.iter()).flat_map(|t| &t.chains).map(|c| c.rules.len()).sum();
        let unreadable = of.map_or(0, |n: &NetnsEvidence| n.unreadable.len());
        println!(r#"{{"read":"{what}","ms":{took:.2},"rules":{rules},"unreadable":{unreadable}}}"#);
        before = Some(now.clone());
        now
    };
    if let (Some(source), Some(destination), Some(port)) = (args.next(), args.next(), args.next()) {
        let (source, destination): (IpAddr, IpAddr) = (source.parse()?, destination.parse()?);
        let question = Question {
            source: Some(source),
            sport: Some(40_000),
            destination,
            dport: Some(port.parse()?),
            protocol: 6,
            pod: None,
            assumed: Vec::new(),
        };
        walks(&netns, &question)?;
    }
    read("first");
    read("again");
    for line in io::stdin().lines() {
        read(line?.trim());
    }
    Ok(())
}

/// The memory that a snapshot holds, the first question about it, one more, and a search through snapshots that each
/// differ from it in one thing: a rule of the firewall, a route, a sysctl, a device.
fn walks(netns: &Netns, question: &Question) -> Result<(), Failure> {
    let topology = Observer::open(std::slice::from_ref(netns), [])?.observe(&[])?.topology;
    let empty = held();
    let evidence = Evidence::collect(std::slice::from_ref(netns));
    let bytes = held().saturating_sub(empty);
    let mut world = Snapshot::new(&evidence, &topology, &|_| None);
    let time = |world: &mut Snapshot| {
        let start = Instant::now();
        let report = check(world, question);
        (start.elapsed().as_secs_f64() * 1e3, report)
    };
    let (first, _) = time(&mut world);
    let (again, report) = time(&mut world);
    let ways = report.paths.first().map_or(0, |path| path.alternatives.len().max(1));
    let start = Instant::now();
    (0..SEARCH).for_each(|_| drop(check(&mut world, question)));
    let walks = start.elapsed().as_secs_f64() * 1e3;
    let start = Instant::now();
    for n in 0..SEARCH {
        let mut changed = world.with(netns.id(), |evidence| change(evidence, n));
        check(&mut changed, question);
    }
    let search = start.elapsed().as_secs_f64() * 1e3;
    println!(
        r#"{{"mb":{:.1},"first_ms":{first:.2},"again_ms":{again:.2},"ways":{ways},"walks_ms":{walks:.1},"search_ms":{search:.1}}}"#,
        bytes as f64 / 1e6
    );
    Ok(())
}

fn change(evidence: &mut NetnsEvidence, n: usize) {
    match n % 4 {
        0 => {
            let mut chains =
                Arc::make_mut(&mut evidence.rulesets).iter_mut().flat_map(|table| &mut table.chains);
            if let Some(chain) = chains.find(|chain| chain.name == "KUBE-SERVICES") {
                let rules = Arc::make_mut(&mut chain.rules);
                rules.truncate(rules.len().saturating_sub(n));
            }
        }
        1 => {
            Arc::make_mut(&mut evidence.routes).pop();
        }
        2 => {
            let name = "net/ipv4/conf/all/rp_filter".to_owned();
            Arc::make_mut(&mut evidence.sysctls).insert(name, (n % 3).to_string());
        }
        _ => {
            if let Some(link) = evidence.links.last_mut() {
                link.mtu = 1280;
            }
        }
    }
}

/// Bytes that the heap gave out.
fn held() -> usize {
    // SAFETY: it only reads the allocator's own counters.
    unsafe { libc::mallinfo2() }.uordblks
}
