// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which packets are the flow's: from the flags (and the target's addresses) to prefixes, ports, protocol.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use tracer_common::{Config, FOLLOW_DST, FOLLOW_SRC, MAX_ADDRS, Prefix};

use super::args::TraceArgs;
use super::endpoint::{Endpoint, Host, NamedKind, Port};
use super::error::CliError;
use super::meaning::Meaning;
use super::resolve::Resolve;
use super::values::{has_ports, port_flag, protocol, protocol_name};
use crate::node::IpPrefix;
use crate::target::Target;
use crate::text::quoted;

/// The flow. An empty list, or `None`, is anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub src: Vec<IpPrefix>,
    pub dst: Vec<IpPrefix>,
    pub sport: Option<u16>,
    pub dport: Option<u16>,
    /// 1 (ICMP) is ICMPv6 too.
    pub protocol: Option<u8>,
    /// Ports, with their protocols, of a service that was named without one: all of them are followed.
    pub ports: Vec<(u16, u8)>,
    /// The side whose addresses are a pod's that is followed: they may change.
    pub follow: Option<End>,
}

/// One side of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Src,
    Dst,
}

/// The flags that make a filter, parsed one by one.
#[derive(Clone, Debug)]
pub(super) struct Typed {
    src: Option<FilterSide>,
    dst: Option<FilterSide>,
    sport: Option<u16>,
    dport: Option<u16>,
    protocol: Option<u8>,
    follow: bool,
}

/// All targets as one.
#[derive(Debug)]
struct Whose {
    name: String,
    addresses: Vec<IpAddr>,
    several: bool,
    flag: &'static str,
}

impl Whose {
    fn of(targets: &[Target]) -> Option<Self> {
        let several = targets.len() > 1;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in targets.iter().flat_map(|t| &t.addresses) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        let names: Vec<&str> = targets.iter().map(|t| t.name.as_str()).take(4).collect();
        let more = if targets.len() > names.len() { ", …" } else { "" };
        let flag = if targets.iter().any(|t| t.known.is_some()) { "--pod" } else { "--netns" };
        (!targets.is_empty()).then(|| Self {
            name: format!("{}{more}", names.join(", ")),
            addresses,
            several,
            flag,
        })
    }
}

#[derive(Clone, Debug)]
struct FilterSide {
    flag: &'static str,
    /// As typed, for messages.
    text: String,
    host: Host,
    /// By either flag; for what is the cluster's.
    port: Option<Port>,
}

impl Typed {
    /// Reads the flags; finds what contradicts itself without asking anyone.
    pub(super) fn parse(args: &TraceArgs) -> Result<Self, CliError> {
        let (src, sport) = side("--src", args.src.as_deref(), "--sport", args.sport.as_deref())?;
        let (dst, dport) = side("--dst", args.dst.as_deref(), "--dport", args.dport.as_deref())?;
        let protocol = args.proto.as_deref().map(protocol).transpose()?;
        if let Some(number) = protocol.filter(|p| !has_ports(*p))
            && let Some(port) = sport
                .as_ref()
                .or(dport.as_ref())
                .map(|(_, said)| said.clone())
                .or_else(|| dst.as_ref().filter(|side| side.port.is_some()).map(FilterSide::to_string))
        {
            return Err(CliError::Contradiction {
                first: format!("--proto {}", protocol_name(number)),
                second: port,
                why: format!("protocol {} has no ports", protocol_name(number)),
            });
        }
        let port = |found: Option<(u16, String)>| found.map(|(port, _)| port);
        let (mut src, mut dst) = (src, dst);
        for side in src.iter_mut().chain(&mut dst) {
            side.take_namespace(args.namespace.as_deref())?;
        }
        Ok(Self { src, dst, sport: port(sport), dport: port(dport), protocol, follow: args.follow })
    }

    /// Says nothing of which packets.
    pub(super) fn is_open(&self) -> bool {
        !self.has_address() && self.sport.is_none() && self.dport.is_none()
    }

    /// Names something of the cluster's.
    pub(super) fn has_object(&self) -> bool {
        self.src.iter().chain(&self.dst).any(|side| matches!(side.host, Host::Object(_)))
    }

    /// Says anything about addresses.
    pub(super) fn has_address(&self) -> bool {
        self.src.is_some() || self.dst.is_some()
    }

    /// Resolves names, takes the targets' addresses in, and checks that the two sides can meet. Notices
    /// are added to `notices`.
    pub(super) fn resolve(
        &self,
        targets: &[Target],
        resolver: &dyn Resolve,
        notices: &mut Vec<String>,
    ) -> Result<Filter, CliError> {
        let (mut src, said_of_src) = prefixes(self.src.as_ref(), resolver)?;
        let (mut dst, said_of_dst) = prefixes(self.dst.as_ref(), resolver)?;
        let protocol = self.protocol_with(&said_of_src, &said_of_dst)?;
        let whose = Whose::of(targets);
        let target = whose.as_ref();
        let end = match target {
            Some(target) => place_target(target, &mut src, &mut dst, notices)?,
            None => None,
        };
        self.same_family(&mut src, &mut dst, target)?;
        self.check_icmp(&src, &dst)?;
        let whose = |side: Option<&FilterSide>| match (side, target) {
            (Some(side), _) => (side.flag, quoted(&side.text)),
            (None, Some(target)) => (target.flag, quoted(&target.name)),
            (None, None) => ("--src", String::new()),
        };
        for (side, list) in [(&self.src, &src), (&self.dst, &dst)] {
            let count = common(list).len();
            if count > MAX_ADDRS {
                let (flag, value) = whose(side.as_ref());
                return Err(CliError::TooMany { flag, value, count });
            }
        }
        let follow = end.filter(|_| self.follow);
        let (sport, dport) = (self.sport.or(said_of_src.port), self.dport.or(said_of_dst.port));
        notices.extend(said_of_src.notices.into_iter().chain(said_of_dst.notices));
        Ok(Filter { src, dst, sport, dport, protocol, ports: said_of_dst.ports, follow })
    }

    /// The protocol, where the name of a service's port says it too.
    fn protocol_with(&self, src: &Meaning, dst: &Meaning) -> Result<Option<u8>, CliError> {
        for (side, said) in [(&self.src, src), (&self.dst, dst)] {
            let (Some(side), Some(said), Some(typed)) = (side, said.protocol, self.protocol) else {
                continue;
            };
            if said != typed {
                return Err(CliError::Contradiction {
                    first: format!("--proto {}", protocol_name(typed)),
                    second: side.to_string(),
                    why: format!("that port is {}", protocol_name(said)),
                });
            }
        }
        Ok(self.protocol.or(dst.protocol).or(src.protocol))
    }

    /// Leaves on each side only what the other side has the family of.
    fn same_family(
        &self,
        src: &mut Vec<IpPrefix>,
        dst: &mut Vec<IpPrefix>,
        target: Option<&Whose>,
    ) -> Result<(), CliError> {
        if src.is_empty() || dst.is_empty() {
            return Ok(());
        }
        let has = |list: &[IpPrefix], ipv6: bool| list.iter().any(|p| p.is_ipv6() == ipv6);
        let both = [false, true].map(|ipv6| has(src, ipv6) && has(dst, ipv6));
        if both == [false, false] {
            let family = |list: &[IpPrefix]| if has(list, true) { "IPv6" } else { "IPv4" };
            return Err(match (&self.src, &self.dst, target) {
                (Some(a), Some(b), _) => CliError::Contradiction {
                    first: a.to_string(),
                    second: b.to_string(),
                    why: format!("the source is {}, the destination {}", family(src), family(dst)),
                },
                (typed_src, typed_dst, Some(target)) => {
                    let (typed, list) = match typed_src {
                        Some(side) => (Some(side), &*src),
                        None => (typed_dst.as_ref(), &*dst),
                    };
                    CliError::NoSuchFamily {
                        target: quoted(&target.name),
                        family: family(list),
                        flag: typed.map_or("--dst", |s| s.flag),
                        value: quoted(typed.map_or("", |s| s.text.as_str())),
                    }
                }
                _ => CliError::Nothing,
            });
        }
        src.retain(|p| both[usize::from(p.is_ipv6())]);
        dst.retain(|p| both[usize::from(p.is_ipv6())]);
        Ok(())
    }

    fn check_icmp(&self, src: &[IpPrefix], dst: &[IpPrefix]) -> Result<(), CliError> {
        let icmpv6 = self.protocol.map(i32::from) == Some(libc::IPPROTO_ICMPV6);
        let mut all = src.iter().chain(dst).peekable();
        if icmpv6 && all.peek().is_some() && all.all(|p| !p.is_ipv6()) {
            let side = self.dst.as_ref().or(self.src.as_ref());
            return Err(CliError::Contradiction {
                first: "--proto icmpv6".into(),
                second: side.map_or_else(|| "the target's addresses".into(), FilterSide::to_string),
                why: "the addresses are IPv4".into(),
            });
        }
        Ok(())
    }
}

impl Filter {
    /// The part of the programs' constants that says which packets match.
    pub fn config(&self) -> Config {
        let mut config = Config {
            sport: self.sport.unwrap_or(0),
            dport: self.dport.unwrap_or(0),
            proto: self.protocol.unwrap_or(0).into(),
            ..Config::default()
        };
        config.follow = match self.follow {
            None => 0,
            Some(End::Src) => FOLLOW_SRC,
            Some(End::Dst) => FOLLOW_DST,
        };
        for (end, list, slots, count) in [
            (End::Src, &self.src, &mut config.src, &mut config.src_count),
            (End::Dst, &self.dst, &mut config.dst, &mut config.dst_count),
        ] {
            if self.follow == Some(end) {
                continue;
            }
            for (slot, prefix) in slots.iter_mut().zip(common(list)) {
                *slot = prefix;
                *count += 1;
            }
        }
        config
    }

    /// The addresses of the side that is followed.
    pub fn followed(&self) -> Vec<IpAddr> {
        let list = match self.follow {
            None => return Vec::new(),
            Some(End::Src) => &self.src,
            Some(End::Dst) => &self.dst,
        };
        list.iter().map(|p| p.address()).collect()
    }

    /// What is followed has other addresses now: `gone` go, `new` come, of the families that the other side has.
    pub fn follow_to(&mut self, gone: &[IpAddr], new: &[IpAddr]) {
        let (own, other) = match self.follow {
            None => return,
            Some(End::Src) => (&mut self.src, &self.dst),
            Some(End::Dst) => (&mut self.dst, &self.src),
        };
        own.retain(|p| !gone.contains(&p.address()));
        let fits = |a: &&IpAddr| other.is_empty() || other.iter().any(|p| p.is_ipv6() == a.is_ipv6());
        for address in new.iter().filter(fits).copied().map(IpPrefix::host) {
            if !own.contains(&address) {
                own.push(address);
            }
        }
    }

    /// Both ends, for finding the devices between them.
    pub fn ends(&self) -> Vec<IpPrefix> {
        self.src.iter().chain(&self.dst).copied().collect()
    }

    /// The ends that are single addresses.
    pub fn hosts(&self) -> Vec<IpAddr> {
        self.ends().into_iter().filter(IpPrefix::is_host).map(|p| p.address()).collect()
    }
}

/// `10.200.0.22 → 172.16.25.183:80 tcp`; `any` for what is not said.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_end(f, &self.src, self.sport)?;
        f.write_str(" → ")?;
        write_end(f, &self.dst, self.dport)?;
        self.protocol.map_or(Ok(()), |p| write!(f, " {}", protocol_name(p)))
    }
}

fn write_end(f: &mut fmt::Formatter<'_>, list: &[IpPrefix], port: Option<u16>) -> fmt::Result {
    match list {
        [] => f.write_str("any")?,
        [one] if one.is_ipv6() && port.is_some() => write!(f, "[{one}]")?,
        [one] => write!(f, "{one}")?,
        many => {
            let all: Vec<String> = many.iter().map(IpPrefix::to_string).collect();
            write!(f, "{{{}}}", all.join(", "))?;
        }
    }
    port.map_or(Ok(()), |port| write!(f, ":{port}"))
}

impl FilterSide {
    /// `--namespace`, for what is named without one.
    fn take_namespace(&mut self, flag: Option<&str>) -> Result<(), CliError> {
        let shown = self.to_string();
        let (Host::Object(named), Some(flag)) = (&mut self.host, flag) else { return Ok(()) };
        match &named.namespace {
            Some(own) if own != flag => Err(CliError::Contradiction {
                first: shown,
                second: format!("--namespace {}", quoted(flag)),
                why: "it is in one namespace".into(),
            }),
            _ => {
                named.namespace = Some(flag.to_owned());
                Ok(())
            }
        }
    }
}

/// The flag as typed: `--dst "1.2.3.4"`.
impl fmt::Display for FilterSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.flag, quoted(&self.text))
    }
}

/// One side's address and its port: from the address, from the flag, or from both when they agree.
/// The port comes with the flag that said it.
#[expect(clippy::type_complexity, reason = "two halves of one thing, taken apart at once")]
fn side(
    flag: &'static str,
    text: Option<&str>,
    port_name: &'static str,
    port: Option<&str>,
) -> Result<(Option<FilterSide>, Option<(u16, String)>), CliError> {
    let alone = port
        .map(|text| Ok::<_, CliError>((port_flag(port_name, text)?, format!("{port_name} {}", quoted(text)))))
        .transpose()?;
    let Some(text) = text else { return Ok((None, alone)) };
    let endpoint = Endpoint::parse(flag, text)?;
    let numbered = |(number, _): &(u16, String)| Port::Number(*number);
    let port = endpoint.port.clone().or(alone.as_ref().map(numbered));
    let side = FilterSide { flag, text: text.to_owned(), host: endpoint.host, port };
    let inside = match endpoint.port {
        Some(Port::Number(number)) => Some((number, side.to_string())),
        Some(Port::Name(name)) if alone.is_some() => {
            return Err(CliError::Contradiction {
                first: side.to_string(),
                second: alone.map(|(_, said)| said).unwrap_or_default(),
                why: format!("the port is said twice, by its name {} and by number", quoted(name)),
            });
        }
        _ => None,
    };
    if let (Some((a, first)), Some((b, second))) = (&inside, &alone)
        && a != b
    {
        return Err(CliError::Contradiction {
            first: first.clone(),
            second: second.clone(),
            why: format!("a packet has one port there, not {a} and {b}"),
        });
    }
    Ok((Some(side), inside.or(alone)))
}

/// The addresses of a side, and what else was said of it.
fn prefixes(side: Option<&FilterSide>, resolver: &dyn Resolve) -> Result<(Vec<IpPrefix>, Meaning), CliError> {
    let Some(side) = side else { return Ok(Default::default()) };
    let named = |name: &str| match resolver.resolve(name) {
        Ok(found) => Ok(found.into_iter().map(IpPrefix::host).collect()),
        Err(reason) => Err(CliError::Unresolvable { flag: side.flag, value: quoted(&side.text), reason }),
    };
    match &side.host {
        Host::Prefix(prefix) => Ok((vec![*prefix], Meaning::default())),
        Host::Name(name) => Ok((named(name)?, Meaning::default())),
        Host::Object(object) => {
            let problem = |problem| CliError::Object { flag: side.flag, value: quoted(&side.text), problem };
            if side.flag == "--src" && object.kind == NamedKind::Service {
                return Err(problem(
                    "a service sends nothing by itself; accepted: --dst svc/NAME, or --selector with its pods' labels"
                        .into(),
                ));
            }
            let meaning = resolver.object(object, side.port.as_ref()).map_err(problem)?;
            let addresses = match &meaning.other_name {
                Some(name) => named(name)?,
                None => meaning.addresses.iter().copied().map(IpPrefix::host).collect(),
            };
            Ok((addresses, meaning))
        }
    }
}

/// Puts the target's addresses on the side they belong to, and says which that is.
fn place_target(
    target: &Whose,
    src: &mut Vec<IpPrefix>,
    dst: &mut Vec<IpPrefix>,
    notices: &mut Vec<String>,
) -> Result<Option<End>, CliError> {
    let own: Vec<IpPrefix> = target.addresses.iter().copied().map(IpPrefix::host).collect();
    // The target's addresses that a typed side covers.
    let within = |side: &[IpPrefix]| -> Vec<IpPrefix> {
        own.iter().copied().filter(|o| side.iter().any(|p| p.contains(o.address()))).collect()
    };
    let (in_src, in_dst) = (within(src), within(dst));
    match (src.is_empty(), dst.is_empty()) {
        (false, _) if !in_src.is_empty() => {
            *src = in_src;
            Ok(Some(End::Src))
        }
        (false, false) if !in_dst.is_empty() => {
            *dst = in_dst;
            Ok(Some(End::Dst))
        }
        // Packets to the target itself; a wider destination only happens to contain it.
        (true, false) if dst.iter().all(|p| p.is_host() && in_dst.contains(p)) => {
            // Of several, from the others to it.
            if target.several {
                *src = own.into_iter().filter(|o| !in_dst.contains(o)).collect();
            }
            Ok(Some(End::Dst))
        }
        _ if own.is_empty() && (src.is_empty() || dst.is_empty()) => {
            Err(CliError::NoAddress { target: quoted(&target.name) })
        }
        (true, _) => {
            *src = own;
            Ok(Some(End::Src))
        }
        // Packets from someone else: the target is who gets them.
        (false, true) => {
            *dst = own;
            Ok(Some(End::Dst))
        }
        (false, false) => {
            notices.push(format!(
                "neither end of the flow is an address of {}: its devices are watched all the same",
                target.name
            ));
            Ok(None)
        }
    }
}

/// As the programs compare them. "All of IPv6" would be a comparison with nothing, which fits IPv4 too: it
/// is written as what is in use of it, 2000::/3 and above and NAT64's 64:ff9b::/96.
fn common(list: &[IpPrefix]) -> Vec<Prefix> {
    let in_use = || {
        let wide = [(0x8000, 1), (0x4000, 2), (0x2000, 3)]
            .map(|(first, length)| (Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length));
        wide.into_iter()
            .chain([(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96)])
            .filter_map(|(address, length)| IpPrefix::new(address.into(), length))
    };
    list.iter()
        .flat_map(|p| if p.is_ipv6() && p.is_empty() { in_use().collect() } else { vec![*p] })
        .map(IpPrefix::to_common)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::Netns;

    /// Names: `v4`, `both`, `many`; others do not resolve.
    struct Names;
    impl Resolve for Names {
        fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
            match name {
                "v4" => Ok(vec![[192, 0, 2, 1].into()]),
                "both" => Ok(vec![[192, 0, 2, 2].into(), "2001:db8::2".parse().unwrap()]),
                "many" => Ok((0..9).map(|i| [192, 0, 2, i].into()).collect()),
                _ => Err("Name or service not known".into()),
            }
        }
    }

    fn target(addresses: &[&str]) -> Target {
        Target {
            kind: crate::target::Kind::Pods,
            name: "default/web".into(),
            netns: Some(Netns::current().unwrap().with_name("default/web")),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            host_network: false,
            known: Some(crate::target::Known::default()),
            remarks: Vec::new(),
        }
    }

    /// `src dst sport dport proto`, `-` for a flag that is not given.
    fn build(flags: &str, target: Option<&Target>) -> Result<(Filter, Vec<String>), CliError> {
        let mut words = flags.split(' ').map(|w| (w != "-").then(|| w.to_owned()));
        let mut next = || words.next().flatten();
        let args = TraceArgs {
            src: next(),
            dst: next(),
            sport: next(),
            dport: next(),
            proto: next(),
            ..TraceArgs::default()
        };
        let mut notices = Vec::new();
        let filter =
            Typed::parse(&args)?.resolve(target.map_or(&[], std::slice::from_ref), &Names, &mut notices)?;
        Ok((filter, notices))
    }

    fn shown(flags: &str, target: Option<&Target>) -> String {
        build(flags, target).map_or_else(|e| e.to_string(), |(filter, _)| filter.to_string())
    }

    #[test]
    fn flags_to_flow() {
        for (flags, expected) in [
            ("10.0.0.1 10.0.0.2:80 - - tcp", "10.0.0.1 → 10.0.0.2:80 tcp"),
            ("- 10.0.0.2:80 - 80", "any → 10.0.0.2:80"),
            ("- [fd00::2]:80", "any → [fd00::2]:80"),
            ("- 10.0.0.0/8 1234 - 17", "any:1234 → 10.0.0.0/8 udp"),
            ("- both:443", "any → {192.0.2.2, 2001:db8::2}:443"),
            ("10.0.0.1 both", "10.0.0.1 → 192.0.2.2"),
            ("both fd00::1", "2001:db8::2 → fd00::1"),
            ("fd00::1 fd00::2 - - icmp", "fd00::1 → fd00::2 icmp"),
        ] {
            assert_eq!(shown(flags, None), expected, "{flags}");
        }
    }

    #[test]
    fn filters_that_cannot_match() {
        for (flags, expected) in [
            (
                "10.0.0.1 fd00::2",
                "--src \"10.0.0.1\" and --dst \"fd00::2\" cannot both match: the source is IPv4, the destination IPv6",
            ),
            (
                "fd00::1 v4",
                "--src \"fd00::1\" and --dst \"v4\" cannot both match: the source is IPv6, the destination IPv4",
            ),
            (
                "- 1.2.3.4:80 - 81",
                "--dst \"1.2.3.4:80\" and --dport \"81\" cannot both match: a packet has one port there, not 80 and 81",
            ),
            (
                "- 1.2.3.4 - 80 icmp",
                "--proto icmp and --dport \"80\" cannot both match: protocol icmp has no ports",
            ),
            (
                "1.2.3.4:5 - - - 47",
                "--proto 47 and --src \"1.2.3.4:5\" cannot both match: protocol 47 has no ports",
            ),
            (
                "- 1.2.3.4 - - icmpv6",
                "--proto icmpv6 and --dst \"1.2.3.4\" cannot both match: the addresses are IPv4",
            ),
            ("- - - 70000", "--dport \"70000\": not a port; accepted: a number from 1 to 65535"),
            (
                "- many",
                "--dst \"many\" stands for 9 addresses, and at most 8 can be followed at once; give one of them, or a CIDR",
            ),
            (
                "- nowhere.example:80",
                "--dst \"nowhere.example:80\": no address found (Name or service not known); accepted: a name that resolves here, an IP address, a CIDR",
            ),
        ] {
            assert_eq!(shown(flags, None), expected, "{flags}");
        }
    }

    #[test]
    fn a_target_takes_the_side_it_fits() {
        let web = target(&["10.200.0.22", "fd00::22"]);
        for (flags, expected) in [
            ("-", "{10.200.0.22, fd00::22} → any"),
            ("- 1.2.3.4:80", "10.200.0.22 → 1.2.3.4:80"),
            ("- [2001:db8::1]:80", "fd00::22 → [2001:db8::1]:80"),
            ("- 10.0.0.0/8", "10.200.0.22 → 10.0.0.0/8"),
            ("- 10.200.0.22:80", "any → 10.200.0.22:80"),
            ("10.200.0.0/16 1.2.3.4", "10.200.0.22 → 1.2.3.4"),
            ("1.2.3.4 -", "1.2.3.4 → 10.200.0.22"),
            ("1.2.3.4 10.200.0.22:80", "1.2.3.4 → 10.200.0.22:80"),
            ("1.2.3.4 5.6.7.8", "1.2.3.4 → 5.6.7.8"),
        ] {
            assert_eq!(shown(flags, Some(&web)), expected, "{flags}");
        }
        let (_, notices) = build("1.2.3.4 5.6.7.8", Some(&web)).unwrap();
        assert_eq!(
            notices,
            ["neither end of the flow is an address of default/web: its devices are watched all the same"]
        );
        let v4 = target(&["10.200.0.22"]);
        assert_eq!(
            shown("- fd00::1", Some(&v4)),
            "\"default/web\" has no IPv6 address, and --dst \"fd00::1\" is IPv6; give --src to follow another address"
        );
        assert_eq!(
            shown("-", Some(&target(&[]))),
            "\"default/web\" has no address yet; give --src or --dst to follow something else through it"
        );
        let many: Vec<String> = (0..9).map(|i| format!("10.0.0.{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(shown("-", Some(&target(&many))).starts_with("--pod \"default/web\" stands for 9 addresses"));
    }

    #[test]
    fn a_followed_side_may_change() {
        let web = target(&["10.200.0.22", "fd00::22"]);
        let args = TraceArgs { dst: Some("1.2.3.4:80".into()), follow: true, ..TraceArgs::default() };
        let mut filter = Typed::parse(&args)
            .unwrap()
            .resolve(std::slice::from_ref(&web), &Names, &mut Vec::new())
            .unwrap();
        let config = filter.config();
        assert_eq!((config.follow, config.src_count, config.dst_count), (FOLLOW_SRC, 0, 1));
        assert_eq!(filter.followed(), ["10.200.0.22".parse::<IpAddr>().unwrap()]);
        filter.follow_to(&web.addresses, &["10.200.0.23".parse().unwrap(), "fd00::23".parse().unwrap()]);
        assert_eq!(filter.to_string(), "10.200.0.23 → 1.2.3.4:80");
    }

    #[test]
    fn the_programs_constants() {
        let (filter, _) = build("10.0.0.1 10.0.0.2:80 - - tcp", None).unwrap();
        let config = filter.config();
        assert_eq!(
            (config.src_count, config.dst_count, config.sport, config.dport, config.proto),
            (1, 1, 0, 80, 6)
        );
        assert_eq!(config.src[0], filter.src[0].to_common());
        // All of IPv6 is not all of everything.
        let (filter, _) = build("- ::/0", None).unwrap();
        let config = filter.config();
        assert_eq!(config.dst_count, 4);
        let mapped: [u32; 4] = [0, 0, u32::from_ne_bytes([0, 0, 255, 255]), 7];
        let fits = |p: &Prefix| (0..4).all(|i| mapped[i] & p.mask[i] == p.addr[i]);
        assert!(!config.dst[..4].iter().any(fits));
    }

    proptest! {
        #[test]
        fn any_flags_give_a_filter_or_one_line(
            src in proptest::option::of(".{0,15}|[0-9a-f:.]{1,20}|both|v4"),
            dst in proptest::option::of(".{0,15}|[0-9.]{1,12}(:[0-9]{1,5})?|both|many"),
            sport in proptest::option::of("[0-9]{1,6}|.{0,5}"),
            proto in proptest::option::of("tcp|icmp|[0-9]{1,4}"),
            with_target: bool,
        ) {
            let args = TraceArgs { src, dst, sport, proto, ..TraceArgs::default() };
            let web = target(&["10.200.0.22", "fd00::22"]);
            let mut notices = Vec::new();
            let built = Typed::parse(&args)
                .and_then(|t| t.resolve(if with_target { std::slice::from_ref(&web) } else { &[] }, &Names, &mut notices));
            match built {
                Ok(filter) => {
                    let config = filter.config();
                    prop_assert_eq!(config.src_count > 0, !filter.src.is_empty());
                    prop_assert_eq!(config.dst_count > 0, !filter.dst.is_empty());
                    let _ = filter.to_string();
                }
                Err(error) => {
                    let text = error.to_string();
                    prop_assert!(!text.chars().any(char::is_control), "{text:?}");
                }
            }
        }
    }
}
