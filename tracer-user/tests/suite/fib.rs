// SPDX-License-Identifier: MIT OR Apache-2.0
//! Routing as computed against routing as the kernel does it: random rules and routes in a namespace of their own,
//! random questions asked of both. Needs root; skips without.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use netlink_sys::{Socket, SocketAddr};
use tracer_user::fib::{Decision, Fib, Hop, Outcome, Question, RefusedBy, Routed};
use tracer_user::node::Netns;
use tracer_user::node::rtnl::Route;
use tracer_user::snapshot::{Evidence, NetnsEvidence};

const QUESTIONS: usize = 600;
const SEEDS: u64 = 4;
const DEVICES: u32 = 5;

/// xorshift64*: the same cases for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.roll(n) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.roll(list.len())]
    }
}

/// A namespace that is deleted with the guard.
struct Lab(String);

impl Lab {
    fn new(name: &str) -> Option<Self> {
        // SAFETY: no arguments, no memory.
        if unsafe { libc::geteuid() } != 0 {
            println!("SKIP {name} needs root");
            return None;
        }
        let full = format!("egwt-fib-{}-{name}", std::process::id());
        assert!(Command::new("ip").args(["netns", "add", &full]).status().unwrap().success());
        Some(Self(full))
    }

    fn netns(&self) -> Netns {
        Netns::open(&Path::new("/run/netns").join(&self.0), self.0.as_str()).unwrap()
    }

    /// A batch of `ip`; commands that the kernel does not accept are left out.
    fn batch(&self, family: &str, lines: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.0, family, "-force", "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody reads while this is written; an answer for every line fits into the pipe.
        let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
        let output = child.wait_with_output().unwrap();
        // What the kernel refuses is left out; a line that `ip` does not understand would end the batch.
        let said = String::from_utf8_lossy(&output.stderr);
        let words = said.lines().filter(|l| !l.starts_with("RTNETLINK") && !l.starts_with("Command failed"));
        let words: Vec<_> = words.filter(|l| !l.starts_with("Error: ") || l.contains("argument")).collect();
        assert!(words.is_empty(), "{words:?}");
    }

    fn sysctl(&self, path: &str, value: &str) {
        let script = format!("echo {value} > /proc/sys/{path}");
        let done = Command::new("ip").args(["netns", "exec", &self.0, "sh", "-c", &script]).status();
        assert!(done.unwrap().success(), "{path}");
    }

    fn evidence(&self) -> Arc<NetnsEvidence> {
        let netns = self.netns();
        let id = netns.id();
        Evidence::collect(std::slice::from_ref(&netns)).netns.remove(&id).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::env::var_os("FIB_KEEP").is_some() {
            return;
        }
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// The kernel's answer to RTM_GETROUTE.
#[derive(Debug, PartialEq)]
enum Kernel {
    Route(Route),
    Refused(i32),
}

struct Kernels(Socket, u32);

impl Kernels {
    fn open(netns: &Netns) -> Self {
        let socket = netns.run(|| {
            let mut socket = Socket::new(libc::NETLINK_ROUTE as isize).unwrap();
            socket.bind(&SocketAddr::new(0, 0)).unwrap();
            socket
        });
        Self(socket.unwrap(), 0)
    }

    /// `matching`: the route of the table (`ip route get fibmatch`), not what is made of it.
    fn ask(&mut self, q: &Question, matching: bool) -> Kernel {
        let flags: u32 = if matching { 0x3000 } else { 0x1000 };
        let octets = |address: IpAddr| match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        let (family, length) = if q.destination.is_ipv4() { (2u8, 32u8) } else { (10, 128) };
        let mut body = vec![family, length, if q.source.is_some() { length } else { 0 }, q.tos.unwrap_or(0)];
        body.extend([0; 4]);
        body.extend(flags.to_ne_bytes());
        let mut put = |kind: u16, value: &[u8]| {
            body.extend(((value.len() + 4) as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        };
        put(1, &octets(q.destination));
        if let Some(source) = q.source {
            put(2, &octets(source));
        }
        if let Some(input) = q.input {
            put(3, &input.to_ne_bytes());
        }
        if let Some(output) = q.output {
            put(4, &output.to_ne_bytes());
        }
        put(16, &q.mark.unwrap_or(0).to_ne_bytes());
        put(25, &q.uid.unwrap_or(0).to_ne_bytes());
        put(27, &[q.protocol.unwrap_or(17)]);
        for (kind, port) in [(28, q.source_port), (29, q.destination_port)] {
            if let Some(port) = port.filter(|p| *p != 0) {
                put(kind, &port.to_be_bytes());
            }
        }
        self.1 += 1;
        let mut message = ((body.len() + 16) as u32).to_ne_bytes().to_vec();
        message.extend(libc::RTM_GETROUTE.to_ne_bytes());
        message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
        message.extend(self.1.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        self.0.send(&message, 0).unwrap();
        let mut answer = Vec::with_capacity(8192);
        self.0.recv(&mut answer, 0).unwrap();
        let kind = u16::from_ne_bytes([answer[4], answer[5]]);
        if i32::from(kind) == libc::NLMSG_ERROR {
            return Kernel::Refused(-i32::from_ne_bytes(*answer[16..].first_chunk().unwrap()));
        }
        Kernel::Route(Route::parse(kind, &answer[16..]).unwrap())
    }
}

/// Addresses within the prefixes of [`prefix`], and some of the namespace's own.
fn address(dice: &mut Dice, ipv6: bool) -> IpAddr {
    let device = dice.roll(DEVICES as usize) as u16;
    let low = dice.roll(4) as u16 + 1;
    if ipv6 {
        let a = match dice.roll(8) {
            0 => Ipv6Addr::new(0xfd00, device, 0, 0, 0, 0, 0, 1),
            1 => Ipv6Addr::new(0xfd00, device, 0, 0, 0, 0, 0, 77 + low),
            2 => Ipv6Addr::new(0x2001, 0xdb8, 9, 9, 0, 0, 0, low),
            3 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, low),
            _ => Ipv6Addr::new(0xfd10, low, low, 0, 0, 0, 0, low),
        };
        return a.into();
    }
    let (device, low) = (device as u8, low as u8);
    let a = match dice.roll(10) {
        0 => Ipv4Addr::new(10, 0, device, 1),
        1 => Ipv4Addr::new(10, 0, device, 77 + low),
        2 => Ipv4Addr::new(10, 0, device, 255),
        3 => Ipv4Addr::new(198, 51, 100, low),
        4 if dice.one_in(2) => Ipv4Addr::new(127, 0, 0, low),
        _ => Ipv4Addr::new(10, low, low, low),
    };
    a.into()
}

fn prefix(dice: &mut Dice, ipv6: bool) -> String {
    let low = dice.roll(4) + 1;
    let lengths: &[usize] = if ipv6 { &[0, 8, 16, 32, 48, 64, 128] } else { &[0, 8, 12, 16, 20, 24, 32] };
    let length = lengths[dice.roll(lengths.len())];
    if length == 0 && dice.one_in(2) {
        return "default".to_owned();
    }
    let whole: IpAddr = if ipv6 {
        Ipv6Addr::new(0xfd10, low as u16, low as u16, 0, 0, 0, 0, low as u16).into()
    } else {
        Ipv4Addr::new(10, low as u8, low as u8, low as u8).into()
    };
    let net = tracer_user::node::IpPrefix::new(whole, length as u8).unwrap();
    format!("{}/{length}", net.address())
}

fn gateway(dice: &mut Dice, ipv6: bool) -> String {
    let device = dice.roll(DEVICES as usize);
    let host = dice.roll(3) + 70;
    let via = if ipv6 { format!("fd00:{device}::{host}") } else { format!("10.0.{device}.{host}") };
    format!("{via} dev d{device}")
}

fn route(dice: &mut Dice, ipv6: bool) -> String {
    let table = dice.of(&["main", "101", "102", "103", "101", "102", "default"]);
    let mut line = String::from("route ");
    line += dice.of(&["add ", "append ", "prepend "]);
    let to = prefix(dice, ipv6);
    match dice.roll(12) {
        0 => {
            let kind = dice.of(&["blackhole", "unreachable", "prohibit", "throw"]);
            let _ = write!(line, "{kind} {to}");
        }
        1 => {
            let _ = write!(line, "{to} dev d{}", dice.roll(DEVICES as usize));
            // The kernel's dump leaves out an IPv6 route that stands between the hops of a multipath one.
            if ipv6 {
                let _ = write!(line, " table {table} metric 512");
                line.push('\n');
                return line;
            }
        }
        2 => {
            let (a, b) = (gateway(dice, ipv6), gateway(dice, ipv6));
            let weight = dice.roll(3) + 1;
            let _ = write!(line, "{to} table {table} nexthop via {a} weight {weight} nexthop via {b}");
            line.push('\n');
            return line;
        }
        3 => {
            let _ = write!(line, "{to} nhid {} table {table}", dice.roll(6) + 1);
            // The same.
            if ipv6 {
                line += " metric 513\n";
                return line;
            }
        }
        _ => {
            let _ = write!(line, "{to} via {}", gateway(dice, ipv6));
        }
    }
    if !line.contains(" table ") {
        let _ = write!(line, " table {table}");
    }
    if dice.one_in(4) {
        let _ = write!(line, " metric {}", dice.of(&["10", "20", "1024"]));
    }
    if !ipv6 && dice.one_in(6) {
        let _ = write!(line, " tos {}", dice.of(&["0x10", "0x08"]));
    }
    if dice.one_in(6) {
        line += " mtu 1300";
    }
    if dice.one_in(5) {
        let device = dice.roll(DEVICES as usize);
        let _ =
            if ipv6 { write!(line, " src fd00:{device}::1") } else { write!(line, " src 10.0.{device}.1") };
    }
    if ipv6 && dice.one_in(6) {
        // Nor does it tell the preference of each.
        if line.contains(" metric ") || line.contains(" nexthop ") {
            line.push('\n');
            return line;
        }
        let at = dice.roll(3);
        let _ = write!(line, " pref {} metric {}", ["low", "medium", "high"][at], 601 + at);
    }
    if ipv6 && dice.one_in(8) {
        line = line.replacen(&to, &format!("{to} from fd10:{}::/32", dice.roll(3) + 1), 1);
    }
    line.push('\n');
    line
}

fn rule(dice: &mut Dice, ipv6: bool) -> String {
    let mut line = format!("rule add priority {} ", dice.roll(40) * 10 + 10);
    if dice.one_in(6) {
        line += "not ";
    }
    for _ in 0..=dice.roll(2) {
        let more = match dice.roll(10) {
            0 if !line.contains("from") => format!("from {} ", prefix(dice, ipv6)),
            1 if !line.contains("to ") => format!("to {} ", prefix(dice, ipv6)),
            2 | 3 if !line.contains("fwmark") => {
                format!("fwmark {} ", dice.of(&["1", "2", "0x10/0xf0", "0x0/0x1"]))
            }
            4 if !line.contains("iif") => format!("iif {} ", dice.of(&["lo", "d0", "d1", "gone"])),
            5 if !line.contains("oif") => format!("oif {} ", dice.of(&["d0", "d1", "d2"])),
            6 if !line.contains("uid") => format!("uidrange {} ", dice.of(&["0-0", "1000-2000", "0-5000"])),
            7 if !line.contains("ipproto") => format!("ipproto {} ", dice.of(&["tcp", "udp", "icmp"])),
            8 if !line.contains("port") => {
                format!("{} {} ", dice.of(&["sport", "dport"]), dice.of(&["80", "1000-2000", "53"]))
            }
            9 if !line.contains("tos") => format!("tos {} ", dice.of(&["0x10", "0x08"])),
            _ => String::new(),
        };
        line += &more;
    }
    match dice.roll(14) {
        0 => line += dice.of(&["blackhole", "unreachable", "prohibit"]),
        1 => {
            let _ = write!(line, "goto {}", dice.roll(40) * 10 + 20);
        }
        2 => line += "nop",
        3 => {
            let _ = write!(line, "lookup main suppress_prefixlength {}", dice.of(&["0", "8", "16"]));
        }
        4 => line += "lookup 101 suppress_ifgroup 7",
        _ => line += dice.of(&["lookup 101", "lookup 102", "lookup 103", "lookup main", "lookup 199"]),
    }
    line.push('\n');
    line
}

fn set_up(lab: &Lab, dice: &mut Dice) {
    let mut lines = String::from("link set lo up\n");
    for i in 0..DEVICES {
        let _ = writeln!(lines, "link add d{i} type veth peer name p{i}");
        let _ = writeln!(lines, "link set d{i} group {}", if i == 2 { 7 } else { 0 });
    }
    // Before there are devices: each takes the default when it is made.
    for conf in ["all", "default"] {
        lab.sysctl(&format!("net/ipv6/conf/{conf}/accept_dad"), "0");
    }
    lab.batch("-4", &lines);
    lab.sysctl("net/ipv4/ip_forward", "1");
    lab.sysctl("net/ipv6/conf/all/forwarding", if dice.one_in(3) { "0" } else { "1" });
    lines.clear();
    for i in 0..DEVICES {
        let _ = writeln!(lines, "link set d{i} up");
        // One without a carrier.
        if i != 3 {
            let _ = writeln!(lines, "link set p{i} up");
        }
        let _ = writeln!(lines, "addr add 10.0.{i}.1/24 dev d{i} brd +");
        let _ = writeln!(lines, "addr add 10.0.{i}.2/24 dev d{i}");
        let _ = writeln!(lines, "addr add fd00:{i}::1/64 dev d{i} nodad");
        let _ = writeln!(lines, "addr add 2001:db8:{i}::1/64 dev d{i} nodad");
    }
    lines += "addr add 10.99.0.1/32 dev d1 scope link\naddr add 10.98.0.1 peer 10.98.0.2/32 dev d2\n";
    lines += "addr add fd00:1::dead/64 dev d1 nodad preferred_lft 0\n";
    let (six, four): (Vec<&str>, Vec<&str>) =
        lines.lines().partition(|line| line.contains("fd00") || line.contains("2001"));
    lab.batch("-4", &(four.join("\n") + "\n"));
    lab.batch("-6", &(six.join("\n") + "\n"));
    for i in 0..DEVICES {
        lab.sysctl(&format!("net/ipv4/conf/d{i}/rp_filter"), dice.of(&["0", "1", "2"]));
        lab.sysctl(&format!("net/ipv4/conf/d{i}/ignore_routes_with_linkdown"), dice.of(&["0", "1"]));
        lab.sysctl(&format!("net/ipv6/conf/d{i}/ignore_routes_with_linkdown"), dice.of(&["0", "1"]));
    }
    for switch in ["accept_local", "src_valid_mark", "route_localnet"] {
        lab.sysctl(&format!("net/ipv4/conf/d{}/{switch}", dice.roll(3)), "1");
    }
    for (family, ipv6) in [("-4", false), ("-6", true)] {
        let mut lines = String::new();
        for id in 1..=4 {
            let id = if ipv6 { id } else { id + 10 };
            let _ = writeln!(lines, "nexthop add id {id} via {}", gateway(dice, ipv6));
        }
        let base = if ipv6 { 0 } else { 10 };
        let _ = writeln!(lines, "nexthop add id {} blackhole", base + 5);
        let _ = writeln!(lines, "nexthop add id {} group {}/{},3", base + 6, base + 1, base + 2);
        for _ in 0..90 {
            let line = route(dice, ipv6);
            match line.split_once("nhid ") {
                Some((start, rest)) if !ipv6 => {
                    let _ = write!(lines, "{start}nhid 1{rest}");
                }
                _ => lines += &line,
            }
        }
        for _ in 0..25 {
            lines += &rule(dice, ipv6);
        }
        if dice.one_in(3) {
            lines += "rule del priority 0\nrule add priority 200 lookup local\n";
        }
        lab.batch(family, &lines);
    }
}

fn question(dice: &mut Dice, evidence: &NetnsEvidence, ipv6: bool) -> Question {
    let index = |name: &str| evidence.link(name).unwrap().ifindex;
    let mut q = Question::to(address(dice, ipv6));
    let forwarded = dice.one_in(2);
    if forwarded {
        q.input = Some(index(&format!("d{}", dice.roll(DEVICES as usize))));
        q.source = Some(address(dice, ipv6));
        q.uid = Some(0);
    } else {
        if dice.one_in(3) {
            let device = dice.roll(DEVICES as usize) as u16;
            let own: IpAddr = if ipv6 {
                Ipv6Addr::new(0xfd00, device, 0, 0, 0, 0, 0, 1).into()
            } else {
                Ipv4Addr::new(10, 0, device as u8, 1).into()
            };
            q.source = Some(own);
        }
        if dice.one_in(5) {
            q.output = Some(index(&format!("d{}", dice.roll(DEVICES as usize))));
        }
        q.uid = Some([0, 1000, 3000, 9000][dice.roll(4)]);
    }
    q.mark = Some([0, 0, 1, 2, 0x10, 0x25][dice.roll(6)]);
    q.tos = Some([0, 0, 0, 0x10, 0x08][dice.roll(5)]);
    let icmp = if ipv6 { 58 } else { 1 };
    q.protocol = Some([6, 17, icmp][dice.roll(3)]);
    let port = |dice: &mut Dice| if q.protocol == Some(icmp) { 0 } else { [80, 53, 1500, 9][dice.roll(4)] };
    (q.source_port, q.destination_port) = (Some(port(dice)), Some(port(dice)));
    q
}

/// What differs between an outcome and the kernel's answer; empty: nothing.
fn difference(outcome: &Outcome<'_>, kernel: &Kernel, q: &Question) -> Option<&'static str> {
    let (routed, route): (&Routed<'_>, &Route) = match (&outcome.decision, kernel) {
        (Decision::Unknown(_), _) => return None,
        (Decision::Refused(refusal), Kernel::Refused(errno)) => {
            return (refusal.errno != *errno).then_some("errno");
        }
        (Decision::Routed(routed), Kernel::Route(route)) => (routed, route),
        // Asked over netlink the kernel does not look at it for IPv6; a packet is dropped.
        (Decision::Refused(refusal), Kernel::Route(_))
            if refusal.by == RefusedBy::ForwardingOff && q.destination.is_ipv6() =>
        {
            return None;
        }
        _ => return Some("routed or not"),
    };
    let hop = route.next_hops.first().copied().unwrap_or_default();
    let fits = |h: &&Hop<'_>| h.ifindex == hop.ifindex && h.gateway == hop.gateway;
    let Some(ours) = routed.hops.iter().find(fits) else { return Some("hop") };
    if routed.kind != route.kind {
        return Some("type");
    }
    // What is worked out is kept with the next hop object, and with each of the routes that IPv6 made a multipath
    // route of; table and MTU are then those of whichever came first.
    let ipv6 = q.destination.is_ipv6();
    if routed.route.is_some_and(|r| r.nexthop_id.is_some() || ipv6 && r.next_hops.len() > 1) {
        return None;
    }
    if routed.table != route.table && routed.route.is_some() {
        return Some("table");
    }
    // IPv6 tells the source that it would choose also when there is one.
    let told = q.input.is_none() && (q.source.is_none() || q.destination.is_ipv4());
    if told && ours.source != route.source.or(q.source) {
        return Some("source");
    }
    (ours.mtu != route.mtu).then_some("mtu")
}

fn brief(outcome: &Outcome<'_>) -> String {
    let rule = outcome.rule.map(|r| (r.priority, r.selector(), r.does(), r.table));
    let route = match &outcome.decision {
        Decision::Routed(routed) => routed.route,
        _ => None,
    };
    let decision = match &outcome.decision {
        Decision::Routed(r) => format!("{} table {} {:?}", r.kind, r.table, r.hops),
        other => format!("{other:?}"),
    };
    format!("  fib {decision}\n      {rule:?} {:?}\n      route {route:?}\n", outcome.assumes)
}

/// A device gets its link-local address a while after its carrier.
fn settled(lab: &Lab) -> Arc<NetnsEvidence> {
    let has = |evidence: &NetnsEvidence, name: &str| {
        let index = evidence.links.iter().find(|link| link.name == name).map(|link| link.ifindex);
        let local = |address: IpAddr| matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
        evidence.addresses.iter().any(|a| Some(a.ifindex) == index && local(a.address))
    };
    for _ in 0..50 {
        let evidence = lab.evidence();
        if (0..DEVICES).filter(|i| *i != 3).all(|i| has(&evidence, &format!("d{i}"))) {
            return evidence;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    lab.evidence()
}

#[test]
fn the_kernel_routes_the_same_way() {
    let (mut asked, mut single, mut hops, mut refused, mut unknown) = (0, 0, 0, 0, 0);
    let mut wrong = Vec::new();
    let seeds = std::env::var("FIB_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    for seed in 1..=seeds {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let Some(lab) = Lab::new(&format!("seed{seed}")) else { return };
        set_up(&lab, &mut dice);
        let evidence = settled(&lab);
        let fib: Fib<'_> = evidence.fib();
        let mut kernel = Kernels::open(&lab.netns());
        for n in 0..QUESTIONS {
            let ipv6 = n % 2 == 1;
            let q = question(&mut dice, &evidence, ipv6);
            let answer = fib.lookup(&q);
            let said = kernel.ask(&q, false);
            asked += 1;
            let ours: Vec<_> = answer.outcomes.iter().map(|o| difference(o, &said, &q)).collect();
            if let Some(outcome) = answer.certain() {
                match &outcome.decision {
                    Decision::Routed(routed) if routed.hops.len() > 1 => hops += 1,
                    Decision::Refused(_) => (single, refused) = (single + 1, refused + 1),
                    _ => single += 1,
                }
            }
            if answer.outcomes.iter().any(|o| matches!(o.decision, Decision::Unknown(_))) {
                unknown += 1;
            }
            if ours.iter().all(Option::is_some) {
                let shown: String = answer.outcomes.iter().map(brief).collect();
                wrong.push(format!(
                    "seed {seed} {ours:?}\n  {q:?}\n{shown}  kernel {said:?}\n  matching {:?}",
                    kernel.ask(&q, true)
                ));
            }
        }
    }
    println!(
        "{asked} questions: {single} with one answer ({refused} of them refusals), {hops} with several hops, {} with \
         several outcomes, {unknown} unknown; {} wrong",
        asked - single - hops - unknown,
        wrong.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {asked}, the first: {}",
        wrong.len(),
        wrong[..wrong.len().min(12)].join("\n")
    );
    assert!(single * 10 > asked * 8, "too little could be compared");
}
