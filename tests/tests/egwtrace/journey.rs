// SPDX-License-Identifier: MIT OR Apache-2.0
//! A journey of the JSON output in short lines, one for each hop, as a test compares them.

use std::fmt::Write as _;

use serde_json::Value;

/// A journey as it was printed, with the lab's prefix taken off the names of namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Journey {
    pub(crate) value: Value,
}

impl Journey {
    /// `None` when the line is something else.
    pub(crate) fn parse(line: &str, prefix: &str) -> Option<Self> {
        if !line.contains(r#""type":"journey""#) {
            return None;
        }
        let value: Value = serde_json::from_str(&line.replace(prefix, "")).ok()?;
        (value["type"] == "journey").then_some(Self { value })
    }

    pub(crate) fn id(&self) -> u64 {
        self.value["id"].as_u64().expect("an id")
    }

    /// Anything in it, by JSON pointer.
    pub(crate) fn value(&self, pointer: &str) -> &Value {
        self.value.pointer(pointer).unwrap_or(&Value::Null)
    }

    /// The same where it is text; empty where there is none.
    pub(crate) fn text(&self, pointer: &str) -> &str {
        self.value(pointer).as_str().unwrap_or_default()
    }

    pub(crate) fn flow(&self) -> u64 {
        self.value["flow"].as_u64().expect("a flow")
    }

    pub(crate) fn is_reply(&self) -> bool {
        self.value["direction"] == "reply"
    }

    /// `SYN`, `UDP`, `echo request` …
    pub(crate) fn kind(&self) -> &str {
        self.value["packet"]["summary"].as_str().expect("a summary")
    }

    /// `10.200.0.22:p → 172.16.25.183:80`.
    pub(crate) fn ends(&self) -> String {
        ends(&self.value["packet"])
    }

    pub(crate) fn title(&self) -> String {
        format!(
            "#{} {} {}: {}; {}",
            self.id(),
            self.kind(),
            self.ends(),
            self.ending(),
            self.notes().join(", ")
        )
    }

    /// The devices and hooks only, without what happened there.
    pub(crate) fn places(&self) -> Vec<String> {
        self.raw().iter().filter(|h| h["folded"] != true && h["kind"] != "route").map(place).collect()
    }

    pub(crate) fn raw(&self) -> &[Value] {
        self.value["hops"].as_array().expect("hops")
    }

    /// The lines of the short view.
    pub(crate) fn hops(&self) -> Vec<String> {
        let packet = &self.value["packet"];
        let mut before = (packet["mark"].clone(), packet["ttl"].clone(), ends(packet));
        let mut lines = Vec::new();
        for hop in self.raw().iter().filter(|hop| hop["folded"] != true) {
            let mut line = place(hop);
            if hop["kind"] != "route" {
                let now = (hop["mark"].clone(), hop["ttl"].clone(), ends(hop));
                if let Some(change) = hop.get("mark_change") {
                    let _ = write!(line, " mark {}→{}", hex(&change["from"]), hex(&change["to"]));
                    line.push_str(&by(change, change["cause"].as_str().unwrap_or("?")));
                } else if now.0 != before.0 {
                    let _ = write!(line, " mark now {}", hex(&now.0));
                }
                if let Some(change) = hop.get("ct_mark_change") {
                    let _ = write!(line, " ctmark {}→{}", hex(&change["from"]), hex(&change["to"]));
                }
                if let Some(nat) = hop.get("nat") {
                    let kind = nat["type"].as_str().unwrap_or("?");
                    let _ = write!(line, " {kind} {}", translation(&nat["from"], &nat["to"]));
                } else if now.2 != before.2 {
                    let _ = write!(line, " now {}", now.2);
                }
                if now.1 != before.1 {
                    let _ = write!(line, " ttl {}", now.1);
                }
                before = now;
            }
            if let Some(outer) = hop.get("encap") {
                let (src, dst) = (text(&outer["src"]), text(&outer["dst"]));
                let _ = write!(line, " in vxlan {src} → {dst}:{} vni {}", outer["dport"], outer["vni"]);
            }
            lines.push(line);
        }
        lines
    }

    /// `left node1 by eth0`, `delivered in visitor`, `dropped NO_SOCKET at tcp_v4_rcv in pod2 (eth0)` …
    pub(crate) fn ending(&self) -> String {
        let ending = &self.value["ending"];
        let (netns, device) = (text(&ending["netns"]), text(&ending["device"]));
        match ending["kind"].as_str().unwrap_or("?") {
            "left" => format!("left {netns} by {device}"),
            "delivered" => format!("delivered in {netns}"),
            "unwatched" => format!("unwatched beyond {device} of {netns}"),
            "dropped" => {
                let mut line =
                    format!("dropped {} at {} in {netns}", text(&ending["reason"]), text(&ending["symbol"]));
                if ending.get("device").is_some() {
                    let _ = write!(line, " ({device})");
                }
                if let Some(hook) = ending.get("hook") {
                    let _ = write!(line, " {} {}", text(&hook["hook"]), tables(hook));
                }
                if ending["after_delivery"] == true {
                    line.push_str(" after delivery");
                }
                line
            }
            "vanished" => {
                let next = &ending["next"];
                let what = ["hook", "device", "direction"].map(|key| text(&next[key]));
                let mut line = format!("vanished, next {}", text(&next["netns"]));
                for word in what.into_iter().filter(|word| !word.is_empty()) {
                    let _ = write!(line, " {word}");
                }
                let _ = write!(line, ", {} events lost", ending["events_lost"]);
                line
            }
            other => other.to_owned(),
        }
    }

    /// `icmp-sent frag needed`, `freed QUEUE_PURGE at sk_stream_kill_queues` …
    pub(crate) fn notes(&self) -> Vec<String> {
        let notes = self.value["notes"].as_array().map(Vec::as_slice).unwrap_or_default();
        let words = |note: &Value| {
            let mut line = text(&note["kind"]).to_owned();
            for key in ["name", "symbol"] {
                if let Some(word) = note[key].as_str() {
                    let _ = write!(line, " {word}");
                }
            }
            line
        };
        notes.iter().map(words).collect()
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.value["ending"]["kind"] == "dropped"
    }
}

/// Compares a list of lines with what is expected, one a line; shows both when they differ.
#[track_caller]
pub(crate) fn assert_lines(what: &Journey, got: &[String], expected: &str) {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if got == expected {
        return;
    }
    let mut message = format!("{}\n", what.title());
    for at in 0..got.len().max(expected.len()) {
        let (got, expected) = (got.get(at).map_or("", String::as_str), expected.get(at).unwrap_or(&""));
        if got == *expected {
            let _ = writeln!(message, "    {got}");
        } else {
            let _ = writeln!(message, "  + {got}\n  - {expected}");
        }
    }
    panic!("{message}  (+ was printed, - was expected)\n");
}

/// The short view is exactly this.
#[track_caller]
pub(crate) fn assert_hops(journey: &Journey, expected: &str) {
    assert_lines(journey, &journey.hops(), expected);
}

fn place(hop: &Value) -> String {
    let netns = text(&hop["netns"]);
    match hop["kind"].as_str() {
        Some("device") => format!("{netns} {} {}", text(&hop["device"]), text(&hop["direction"])),
        Some("hook") => format!("{netns} {}", text(&hop["hook"])),
        _ => {
            let mut line = format!("{netns} route");
            if hop["reverse"] == true {
                line.push_str(" back");
            }
            if hop["fwmark"] != 0 {
                let _ = write!(line, " fwmark {}", hex(&hop["fwmark"]));
            }
            let _ = write!(line, " table {}", text(&hop["table_name"]));
            for (word, key) in [("error", "error_name"), ("via", "via"), ("dev", "device")] {
                if let Some(value) = hop[key].as_str() {
                    let _ = write!(line, " {word} {value}");
                }
            }
            line
        }
    }
}

fn by(change: &Value, cause: &str) -> String {
    match change.get("by") {
        Some(by) => format!(" by {}", tables(by)),
        None if cause == "hook" => String::new(),
        None => format!(" {cause}"),
    }
}

fn tables(interval: &Value) -> String {
    let tables: Vec<&str> =
        interval["tables"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    tables.join("|")
}

/// Of both tuples only the ends that differ.
fn translation(from: &Value, to: &Value) -> String {
    let ends = [("src", "sport"), ("dst", "dport")];
    let changed = ends.iter().filter(|(a, p)| from[a] != to[a] || from[p] != to[p]);
    let words: Vec<String> =
        changed.map(|(a, p)| format!("{} → {}", end(from, a, p), end(to, a, p))).collect();
    words.join(", ")
}

fn ends(of: &Value) -> String {
    format!("{} → {}", end(of, "src", "sport"), end(of, "dst", "dport"))
}

/// Ports that the kernel chose are `p`.
fn end(of: &Value, addr: &str, port: &str) -> String {
    let addr = text(&of[addr]);
    let shown = if addr.contains(':') { format!("[{addr}]") } else { addr.to_owned() };
    match of[port].as_u64() {
        None => addr.to_owned(),
        Some(port) if port < 1024 || [15001, 15003, 30897, 8080].contains(&port) => format!("{shown}:{port}"),
        Some(_) => format!("{shown}:p"),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn hex(value: &Value) -> String {
    format!("{:#x}", value.as_u64().unwrap_or(u64::MAX))
}
