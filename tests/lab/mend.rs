// SPDX-License-Identifier: MIT OR Apache-2.0
//! Types the fix of a reported cause on the machine, as a reader of the report would, and sees what came of it.

use std::{thread, time::Duration};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::{
    Lab, client,
    probe::Probe,
    topology::{Family, NODE1, NODE2, router},
};

/// What came of a report's fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mended {
    /// The traffic passes, and what passed before still does.
    Yes(Vec<String>),
    /// Nothing can be typed; why.
    NoCommands(String),
    /// It was typed and does not mend, or breaks something else; what.
    No(String),
}

/// What passes in a healthy lab and must not be broken by a fix.
const OTHERS: [Probe; 13] = [
    Probe::Egw,
    Probe::Egw2,
    Probe::Udp,
    Probe::Ping,
    Probe::Pod2,
    Probe::PingPod2,
    Probe::Podb,
    Probe::UpPod2,
    Probe::Svc,
    Probe::DnsSvc,
    Probe::Nodeport,
    Probe::PodbEgw,
    Probe::MeshOut,
];

/// What a reader may type; other words begin a sentence.
const TOOLS: [&str; 15] = [
    "ip",
    "bridge",
    "iptables",
    "ip6tables",
    "iptables-nft",
    "ip6tables-nft",
    "iptables-legacy",
    "ip6tables-legacy",
    "nft",
    "ipset",
    "sysctl",
    "conntrack",
    "tc",
    "ethtool",
    "modprobe",
];

/// The commands of a cause: those that it lists, else those that its fix begins with.
pub fn commands(cause: &Value) -> Vec<String> {
    if let Some(commands) = cause["commands"].as_array() {
        return commands.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    }
    let fix = cause["fix"].as_str().unwrap_or_default();
    let commands: Vec<&str> = fix.split("; ").map_while(typable).collect();
    // What is to follow by hand: they are only the beginning.
    let more = fix.split("; ").nth(commands.len()).is_some_and(|part| part.starts_with("then "));
    if more { Vec::new() } else { commands.into_iter().map(str::to_owned).collect() }
}

/// The command that a part of a fix is, without what is said about it.
fn typable(part: &str) -> Option<&str> {
    let line = match part.strip_prefix("then `") {
        Some(quoted) => quoted.split('`').next()?,
        None => part.trim_start_matches("then ").split(" (").next()?.split(", ").next()?,
    };
    let there = line.strip_prefix("ip netns exec ").and_then(|rest| rest.split_once(' '));
    let mut words = there.map_or(line, |(_, rest)| rest).split(' ');
    let tool = TOOLS.contains(&words.next()?);
    (tool && !words.any(|word| matches!(word, "show" | "get" | "monitor"))).then_some(line)
}

/// Types the first cause's fix: `passes` says whether the traffic that was asked about does.
///
/// # Errors
/// When a probe cannot be run.
pub fn mend(lab: &Lab, causes: &[Value], passes: &dyn Fn() -> Result<bool>) -> Result<Mended> {
    let Some(cause) = causes.first() else {
        return Ok(Mended::NoCommands("no cause is named".to_owned()));
    };
    let commands = commands(cause);
    if commands.is_empty() {
        let fix = cause["fix"].as_str().unwrap_or_default();
        return Ok(Mended::NoCommands(format!("no command: {fix}")));
    }
    let typed_all = commands.join("; ");
    let placeholder =
        |word: &str| word.len() > 2 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let names = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING", "ACCEPT", "SNAT", "DROP", "CT"];
    if let Some(word) = commands
        .iter()
        .filter(|command| !command.contains("tables"))
        .flat_map(|command| command.split(' '))
        .find(|word| placeholder(word) && !names.contains(word))
    {
        return Ok(Mended::No(format!("`{typed_all}` has {word} to be filled in")));
    }
    let before = others(lab)?;
    for command in &commands {
        if let Err(error) = typed(lab, cause, command) {
            return Ok(Mended::No(format!("{error:#}")));
        }
    }
    // Neighbours are asked for anew, addresses are no longer tentative.
    thread::sleep(Duration::from_millis(400));
    if !passes()? && !passes()? {
        return Ok(Mended::No(format!("the traffic does not pass after `{typed_all}`")));
    }
    let lost = |after: &[(String, bool)]| -> Vec<String> {
        let pairs = before.iter().zip(after);
        pairs.filter(|(before, after)| before.1 && !after.1).map(|(_, (name, _))| name.clone()).collect()
    };
    // What is lost once may be lost to the load of the machine.
    let broken = lost(&others(lab)?);
    let broken = if broken.is_empty() { broken } else { lost(&others(lab)?) };
    Ok(if broken.is_empty() {
        Mended::Yes(commands)
    } else {
        Mended::No(format!("`{typed_all}` breaks {}", broken.join(", ")))
    })
}

/// Other traffic of the lab, all at the same time, and whether it passes as in a healthy one.
fn others(lab: &Lab) -> Result<Vec<(String, bool)>> {
    let family = Family::V4;
    let probe = |probe: Probe| -> Result<(String, bool)> {
        Ok((probe.name(), probe.passes(&probe.run(lab, family)?, family)))
    };
    let ping = |from: &str, to| -> Result<(String, bool)> {
        let answered = client::ping(&lab.ns(from), to, 1, 56, true)?.answer().is_some();
        Ok((format!("ping of {from} to {to}"), answered))
    };
    let pings = [
        ("node1", router(family)),
        ("node2", router(family)),
        ("node1", NODE2.ip(family)),
        ("node2", NODE1.ip(family)),
        ("node1", crate::topology::pod2(family)),
        ("pod2", crate::topology::visitor(family)),
        ("visitor", crate::topology::of(&NODE1.cni0, family)),
    ];
    thread::scope(|scope| {
        let probes = OTHERS.into_iter().filter(|p| *p != Probe::MeshOut || lab.spec().mesh);
        let probes: Vec<_> = probes.map(|one| scope.spawn(move || probe(one))).collect();
        let pings: Vec<_> = pings.into_iter().map(|(from, to)| scope.spawn(move || ping(from, to))).collect();
        let all = probes.into_iter().chain(pings);
        all.map(|one| one.join().map_err(|_| anyhow!("a probe panicked"))?).collect()
    })
}

/// Types one command in a shell: where the cause is, unless the command names its namespace itself.
fn typed(lab: &Lab, cause: &Value, command: &str) -> Result<()> {
    let here = lab.spec().prefix();
    let netns = cause["where"]["netns"].as_str().context("a cause without a place")?;
    let ns = if command.starts_with("ip netns exec ") {
        lab.ns("ul")
    } else {
        lab.ns(netns.strip_prefix(&here).with_context(|| format!("{netns} is not of the lab"))?)
    };
    ns.exec(&["sh", "-c", command], None).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fix: &str) -> Vec<String> {
        commands(&serde_json::json!({ "fix": fix }))
    }

    #[test]
    fn a_sentence_is_not_typed() {
        assert!(of("restart the agent on node1; ip link set a up").is_empty());
        assert!(of("ip link set a up; then let the CNI write its routes again").is_empty());
        assert!(of("`ip link set a up` is not enough: it is down at the other end too").is_empty());
        assert!(of("ip netns exec n ip route show table 254 shows it: delete it").is_empty());
    }

    #[test]
    fn what_is_said_about_a_command_is_not_typed() {
        assert_eq!(of("ip addr del 10.0.0.1 dev lo, if that one is wrong"), ["ip addr del 10.0.0.1 dev lo"]);
        assert_eq!(of("ip netns exec n sysctl -w a=1 (lasting: b)"), ["ip netns exec n sysctl -w a=1"]);
        assert_eq!(
            of("iptables -D X 1; then `conntrack -D -d 10.0.0.1`: known keep it"),
            ["iptables -D X 1", "conntrack -D -d 10.0.0.1"]
        );
    }
}
