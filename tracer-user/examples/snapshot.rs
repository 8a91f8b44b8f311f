// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long reading a namespace takes: `snapshot FILE`, where FILE is a namespace (`/run/netns/NAME`). Reads it once,
//! again, and again for each line on stdin; prints one line of JSON for each reading.

use std::io;
use std::path::Path;
use std::time::Instant;

use tracer_user::node::Netns;
use tracer_user::snapshot::{Evidence, NetnsEvidence};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args_os().nth(1).ok_or("which namespace? Give its file, /run/netns/NAME")?;
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
        before = Some(now);
    };
    read("first");
    read("again");
    for line in io::stdin().lines() {
        read(line?.trim());
    }
    Ok(())
}
