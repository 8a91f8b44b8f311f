// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many packets: none lost at a pace that is met, and an exact account where it is not.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use tests::{Lab, Spec, client, ns::Ns};

use crate::running::{SOON, skip_unless_able, trace, trace_text};

/// Sends `count` datagrams at this pace (packets a second), in bursts of a millisecond.
fn paced(ns: &Ns, to: &str, count: usize, pace: usize) -> Result<()> {
    ns.run(|| -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:5000")?;
        socket.connect(to)?;
        let start = Instant::now();
        for sent in 0..count {
            socket.send(b"paced")?;
            if sent % 32 == 0 {
                let due = Duration::from_secs_f64(sent as f64 / pace as f64);
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        Ok(())
    })?
}

/// Two ends and a wire: the number of sightings of a packet is known.
fn wire() -> Result<Lab> {
    let lab = Lab::up(Spec::unique().without_mesh().without_servers())?;
    lab.extra("a")?;
    lab.extra("b")?;
    let peer = lab.ns("b").name().to_owned();
    lab.batch(
        "a",
        &format!(
            "link add eth0 type veth peer name eth0 netns {peer}\nlink set eth0 up\naddr add 10.9.0.1/24 dev eth0\n"
        ),
    )?;
    lab.batch("b", "link set eth0 up\naddr add 10.9.0.2/24 dev eth0\n")?;
    client::ping(&lab.ns("a"), "10.9.0.2".parse()?, 1, 56, true)?;
    Ok(lab)
}

/// Takes what is sent to port 9 without reading it: nobody answers.
fn sink(lab: &Lab) -> Result<UdpSocket> {
    Ok(lab.ns("b").run(|| UdpSocket::bind("10.9.0.2:9"))??)
}

#[test]
fn of_100_000_packets_none_is_lost() -> Result<()> {
    skip_unless_able!();
    let lab = wire()?;
    let _sink = sink(&lab)?;
    let trace = trace(&lab, "a", "--dst 10.9.0.2:9 --node-netns @a --drops")?;
    paced(&lab.ns("a"), "10.9.0.2:9", 100_000, 30_000)?;
    let traced = trace.stop()?.clean()?;
    assert_eq!(traced.count("packets"), 100_000);
    assert_eq!(traced.count("unwatched"), 100_000);
    assert_eq!(traced.count("events"), 300_001);
    assert_eq!(traced.count("vanished") + traced.count("unclear") + traced.count("evicted"), 0);
    Ok(())
}

#[test]
fn what_an_overload_loses_is_counted_exactly() -> Result<()> {
    skip_unless_able!();
    let lab = wire()?;
    let _sink = sink(&lab)?;
    let mut trace = trace_text(&lab, "a", "-o json --dst 10.9.0.2:9 --node-netns @a")?;
    // How many sightings a packet makes, from one that is alone.
    client::flood(&lab.ns("a"), "10.9.0.2:9".parse()?, 1, 5)?;
    trace.until(SOON, |got| got.iter().any(|(_, line)| line.contains("\"unwatched\",\"netns")))?;
    trace.signal(libc::SIGSTOP)?;
    // Faster than any user, and not so fast that more are under way at once than the tracker follows.
    paced(&lab.ns("a"), "10.9.0.2:9", 60_000, 120_000)?;
    trace.signal(libc::SIGCONT)?;
    let traced = trace.stop()?;
    assert_eq!(traced.status.code(), Some(0), "{}", traced.errors);
    let lost = traced.count("events_lost");
    assert!(lost > 0, "{}", traced.summary);
    // OUTPUT, POSTROUTING, eth0; and the route of each of the two sockets.
    let seen = 3 * 60_001 + 2;
    assert_eq!(traced.count("events") + lost, seen, "{}", traced.summary);
    // Each CPU's part is known, also where nothing came after the loss.
    let of_cpus = traced.summary["lost_by_cpu"].as_array().expect("a list");
    let of_cpus: u64 = of_cpus.iter().map(|cpu| cpu["count"].as_u64().expect("a count")).sum();
    assert_eq!(of_cpus, lost, "{}", traced.summary);
    // What may be due to the loss is not called vanished.
    assert_eq!(traced.count("vanished"), 0, "{}", traced.summary);
    assert_eq!(traced.count("evicted"), 0, "{}", traced.summary);
    assert!(traced.notices.iter().any(|notice| notice["notice"] == "lost"), "{:?}", traced.notices);
    Ok(())
}
