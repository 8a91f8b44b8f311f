// SPDX-License-Identifier: MIT OR Apache-2.0
//! A node with many rules, kube-proxy's of both modes, in each back end: how long reading it takes, what the snapshot
//! needs of memory, how long the model walks over it.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::stats::Series;
use super::{Bench, report};

/// What is asked for.
const RULES: usize = 10_000;
const ENDPOINTS: u32 = 3;
/// What the reader says of its walks.
const WALKED: [&str; 5] = ["mb", "first_ms", "again_ms", "walks_ms", "search_ms"];
/// Services with session affinity: one of so many.
const STICKY: u32 = 20;

#[derive(Clone, Copy, Debug)]
enum Kind {
    IptablesNft,
    IptablesLegacy,
    Nftables,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::IptablesNft => "iptables (nft)",
            Self::IptablesLegacy => "iptables (legacy)",
            Self::Nftables => "nftables",
        }
    }

    fn load(self) -> (&'static str, String) {
        match self {
            Self::IptablesNft => ("iptables-nft-restore", iptables_mode()),
            Self::IptablesLegacy => ("iptables-legacy-restore", iptables_mode()),
            Self::Nftables => ("nft -f -", nftables_mode()),
        }
    }

    fn one_more(self) -> &'static str {
        match self {
            Self::IptablesNft => "iptables-nft -w -A FORWARD -d 203.0.113.7 -j DROP",
            Self::IptablesLegacy => "iptables-legacy -w -A FORWARD -d 203.0.113.7 -j DROP",
            Self::Nftables => "nft add rule ip kube-proxy services ip daddr 203.0.113.7 drop",
        }
    }
}

/// Milliseconds for a first reading, one of what has not changed, and one after a rule was added.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    pub(super) name: &'static str,
    pub(super) rules: u64,
    pub(super) first: Series,
    pub(super) again: Series,
    pub(super) changed: Series,
    /// Megabytes of the snapshot; milliseconds of the model's first answer about it, of one more, of 200 more, and of
    /// 200 about snapshots that each differ in one thing.
    pub(super) memory: Series,
    pub(super) walk: [Series; 4],
}

/// `reader`: the program that reads a namespace, and says how long it took.
pub(super) fn run(bench: &Bench, reader: &Path) -> Result<Value> {
    let mut all = Vec::new();
    for kind in [Kind::IptablesNft, Kind::IptablesLegacy, Kind::Nftables] {
        let ns = bench.net.more("rules")?;
        ns.sh("ip link set lo up")?;
        for (device, address) in [("pods", "10.200.0.1/16"), ("eth0", "192.0.2.2/24")] {
            ns.sh(&format!("ip link add {device} type veth peer name {device}-peer"))?;
            ns.sh(&format!("ip addr add {address} dev {device}"))?;
            ns.sh(&format!("ip link set {device} up"))?;
            ns.sh(&format!("ip link set {device}-peer up"))?;
        }
        ns.sysctl(&[("ipv4/ip_forward", "1")])?;
        let (command, text) = kind.load();
        ns.exec(&command.split(' ').collect::<Vec<_>>(), Some(&text))?;
        let mut times = Times { name: kind.name(), ..Times::default() };
        for round in 0..bench.rounds {
            report::progress(&format!("reading {}, round {}", kind.name(), round + 1));
            let mut process = Reading::start(reader, ns.name())?;
            let walked = process.read()?;
            for (series, key) in std::iter::once(&mut times.memory).chain(&mut times.walk).zip(WALKED) {
                series.push(walked[key].as_f64().with_context(|| format!("no {key} in {walked}"))?);
            }
            times.first.push(process.next()?);
            times.again.push(process.next()?);
            ns.sh(kind.one_more())?;
            process.ask()?;
            times.changed.push(process.next()?);
            times.rules = process.rules;
        }
        ensure!(times.rules >= RULES as u64, "{} rules were read of {}", times.rules, kind.name());
        ns.delete()?;
        all.push(times);
    }
    report::progress("");
    report::snapshots(&all);
    let one = |times: &Times| {
        let figures = json!({ "rules": times.rules, "first_ms": times.first.json(),
            "again_ms": times.again.json(), "changed_ms": times.changed.json(), "memory_mb": times.memory.json(),
            "walks_ms": times.walk.each_ref().map(Series::json) });
        (times.name.to_owned(), figures)
    };
    Ok(Value::Object(all.iter().map(one).collect()))
}

/// The process that reads: each in a new one, so that nothing is left from before.
struct Reading {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    rules: u64,
}

impl Reading {
    fn start(program: &Path, netns: &str) -> Result<Self> {
        let mut child = Command::new(program)
            .arg(format!("/run/netns/{netns}"))
            .args(["10.200.0.9", "10.96.2.117", "80"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("no output of the reader")?);
        Ok(Self { child, stdin, stdout, rules: 0 })
    }

    fn ask(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("no input of the reader")?;
        stdin.write_all(b"changed\n").context("asking the reader")
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).context("reading what the reader says")?;
        serde_json::from_str(&line).with_context(|| format!("the reader said {line:?}"))
    }

    fn next(&mut self) -> Result<f64> {
        let read = self.read()?;
        ensure!(read["unreadable"] == 0, "the reader could not read everything: {read}");
        self.rules = read["rules"].as_u64().unwrap_or(0);
        read["ms"].as_f64().context("no time")
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}

/// A service as kube-proxy names it.
struct Service {
    name: String,
    hash: String,
    address: String,
    endpoints: Vec<(String, String)>,
    sticky: bool,
}

impl Service {
    fn number(n: u32) -> Self {
        let hash =
            |what: u32| format!("{:016X}", u64::from(n * 8 + what + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let endpoint = |e: u32| {
            let at = n * ENDPOINTS + e;
            (format!("10.200.{}.{}", at / 250, at % 250 + 1), hash(e + 1))
        };
        Self {
            name: format!("shop-{}/app-{n}:http", n % 40),
            hash: hash(0),
            address: format!("10.96.{}.{}", n / 250, n % 250 + 1),
            endpoints: (0..ENDPOINTS).map(endpoint).collect(),
            sticky: n.is_multiple_of(STICKY),
        }
    }
}

/// kube-proxy in iptables mode, for `iptables-restore`.
fn iptables_mode() -> String {
    let (mut chains, mut portals, mut rules) = (String::new(), String::new(), String::new());
    let (mut count, mut n) = (0, 0);
    while count < RULES {
        let service = Service::number(n);
        let (name, svc, ip) = (&service.name, format!("KUBE-SVC-{}", service.hash), &service.address);
        let portal =
            format!("-d {ip}/32 -p tcp -m comment --comment \"{name} cluster IP\" -m tcp --dport 80");
        let _ = writeln!(chains, ":{svc} - [0:0]");
        let _ = writeln!(portals, "-A KUBE-SERVICES {portal} -j {svc}");
        let _ = writeln!(rules, "-A {svc} ! -s 10.200.0.0/16 {portal} -j KUBE-MARK-MASQ");
        count += 2;
        for (at, (to, hash)) in service.endpoints.iter().enumerate() {
            let sep = format!("KUBE-SEP-{hash}");
            let left = ENDPOINTS - u32::try_from(at).unwrap_or(0);
            let words = format!("-m comment --comment \"{name} -> {to}:8080\"");
            let recent = format!("--name {sep} --mask 255.255.255.255 --rsource");
            let mut remember = String::new();
            if service.sticky {
                let _ = writeln!(
                    rules,
                    "-A {svc} {words} -m recent --rcheck --seconds 10800 --reap {recent} -j {sep}"
                );
                remember = format!("-m recent --set {recent} ");
                count += 1;
            }
            let chance = format!("-m statistic --mode random --probability {:.11} ", 1.0 / f64::from(left));
            let chance = if left > 1 { chance.as_str() } else { "" };
            let own = format!("-m comment --comment \"{name}\"");
            let _ = writeln!(chains, ":{sep} - [0:0]");
            let _ = write!(
                rules,
                "-A {svc} {words} {chance}-j {sep}\n-A {sep} -s {to}/32 {own} -j KUBE-MARK-MASQ\n\
                 -A {sep} -p tcp {own} {remember}-m tcp -j DNAT --to-destination {to}:8080\n"
            );
            count += 3;
        }
        n += 1;
    }
    format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:KUBE-FORWARD - [0:0]\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\nCOMMIT\n\
         *nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         :KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-NODEPORTS - [0:0]\n{chains}\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n{portals}\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n{rules}COMMIT\n"
    )
}

/// kube-proxy in nftables mode, for `nft -f`: elements of its maps count as the rules they stand for.
fn nftables_mode() -> String {
    let mut text = String::from(
        "add table ip kube-proxy\n\
         add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         add chain ip kube-proxy mark-for-masquerade\n\
         add rule ip kube-proxy mark-for-masquerade meta mark set meta mark or 0x4000\n\
         add chain ip kube-proxy services\n\
         add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100; }\n\
         add rule ip kube-proxy nat-prerouting jump services\n\
         add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips\n",
    );
    let (mut count, mut n) = (0, 0);
    let mut elements = String::new();
    while count < RULES {
        let service = Service::number(n);
        let (hash, ip) = (&service.hash, &service.address);
        let svc = format!("service-{hash}-{}/tcp", service.name.replace(':', "/"));
        let mut choices = Vec::new();
        let _ = writeln!(text, "add chain ip kube-proxy {svc}");
        for (at, (to, hash)) in service.endpoints.iter().enumerate() {
            let sep = format!("endpoint-{hash}-{}/tcp", service.name.replace(':', "/"));
            let _ = write!(
                text,
                "add chain ip kube-proxy {sep}\nadd rule ip kube-proxy {sep} ip saddr {to} jump mark-for-masquerade\n\
                 add rule ip kube-proxy {sep} meta l4proto tcp dnat to {to}:8080\n"
            );
            choices.push(format!("{at} : goto {sep}"));
            count += 3;
        }
        let _ = write!(
            text,
            "add rule ip kube-proxy {svc} ip daddr {ip} ip saddr != 10.200.0.0/16 jump mark-for-masquerade\n\
             add rule ip kube-proxy {svc} numgen random mod {ENDPOINTS} vmap {{ {} }}\n",
            choices.join(", ")
        );
        let _ =
            writeln!(elements, "add element ip kube-proxy service-ips {{ {ip} . tcp . 80 : goto {svc} }}");
        count += 2;
        n += 1;
    }
    text + &elements
}
