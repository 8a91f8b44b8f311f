// SPDX-License-Identifier: MIT OR Apache-2.0
//! The conditions of a rule.

use std::borrow::Cow;

use super::flags::{icmp, tcp_flags, ttl};
use super::words::{address_range, mac, networks, number, ports, protocol, value_mask};
use crate::firewall::packet::{CtDirection, CtState};
use crate::firewall::rule::{Criterion, Match, Side};
use crate::text::printable;

/// Modules whose options are all read by their own names; the others are told as [`Criterion::Other`].
const KNOWN: [&str; 26] = [
    "hl",
    "length",
    "ttl",
    "addrtype",
    "comment",
    "connmark",
    "conntrack",
    "dccp",
    "icmp",
    "icmp6",
    "icmpv6",
    "iprange",
    "ipv6-icmp",
    "mac",
    "mark",
    "multiport",
    "owner",
    "physdev",
    "sctp",
    "set",
    "state",
    "statistic",
    "tcp",
    "udp",
    "udplite",
    "frag",
];

/// Modules that hold for some packets and not for others that are equal.
pub(in crate::firewall) fn is_chance(module: &str) -> bool {
    matches!(module, "limit" | "hashlimit" | "recent" | "quota" | "connlimit" | "time")
}

/// The conditions and the comments in `words`, all before the target.
pub(super) fn parse(words: &[Cow<'_, str>]) -> (Vec<Match>, Vec<String>) {
    let mut reader =
        MatchReader { words, at: 0, module: "", out: Vec::new(), comments: Vec::new(), other: None };
    while reader.option() {}
    // It remembers the address, and holds.
    let remembers =
        |m: &Match| matches!(&m.what, Criterion::Statistic(text) if text.starts_with("-m recent --set "));
    reader.out.retain(|m| !remembers(m));
    (reader.out, reader.comments)
}

struct MatchReader<'a> {
    words: &'a [Cow<'a, str>],
    at: usize,
    /// The last `-m`.
    module: &'a str,
    out: Vec<Match>,
    comments: Vec<String>,
    /// Where the text of options goes that are not understood.
    other: Option<usize>,
}

impl<'a> MatchReader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word.as_ref())
    }

    /// The option's value: the next word, which may begin with anything.
    fn value(&mut self) -> &'a str {
        let mut value = self.next().unwrap_or_default();
        if value == "!" {
            value = self.next().unwrap_or_default();
        }
        value
    }

    /// Reads one option; false at the end.
    fn option(&mut self) -> bool {
        let start = self.at;
        let mut negated = false;
        let Some(mut name) = self.next() else { return false };
        if name == "!" {
            negated = true;
            match self.next() {
                Some(option) => name = option,
                None => return false,
            }
        }
        negated ^= self.words.get(self.at).is_some_and(|word| word == "!");
        if name == "-m" {
            self.module();
            return true;
        }
        match self.criterion(name) {
            Some(ReadOption::Criterion(what)) => self.out.push(Match { negated, what }),
            Some(ReadOption::Nothing) => {}
            None => self.not_understood(start, name),
        }
        true
    }

    fn module(&mut self) {
        self.module = self.next().unwrap_or_default();
        self.other = None;
        if !KNOWN.contains(&self.module) {
            self.other = Some(self.out.len());
            let text = printable(format!("-m {}", self.module));
            let what =
                if is_chance(self.module) { Criterion::Statistic(text) } else { Criterion::Other(text) };
            self.out.push(Match { negated: false, what });
        }
    }

    /// The option and what follows up to the next one, as text.
    fn not_understood(&mut self, start: usize, name: &str) {
        let option = |word: &str| word.starts_with('-') || word == "!";
        if self.words.get(start).is_some_and(|word| word == "!") {
            self.at = self.at.max(start + 2);
        }
        while self.words.get(self.at).is_some_and(|word| !option(word)) {
            self.at += 1;
        }
        let words = self.words.get(start..self.at).unwrap_or_default();
        let text = printable(words.join(" "));
        let kept = self.other.and_then(|at| self.out.get_mut(at));
        match kept.map(|m| &mut m.what) {
            Some(Criterion::Other(all) | Criterion::Statistic(all)) => {
                all.push(' ');
                all.push_str(&text);
            }
            _ => {
                self.other = name.starts_with("--").then_some(self.out.len());
                let named = self.other.is_some() && !self.module.is_empty();
                let text = if named { format!("-m {} {text}", self.module) } else { text };
                self.out.push(Match { negated: false, what: Criterion::Other(text) });
            }
        }
    }

    /// `None`: not understood; the words that were read are then read again.
    fn criterion(&mut self, name: &str) -> Option<ReadOption> {
        let start = self.at;
        let read = self.known(name);
        if read.is_none() {
            self.at = start;
        }
        read
    }

    fn known(&mut self, name: &str) -> Option<ReadOption> {
        let what = match (self.module, name) {
            ("comment", "--comment") => {
                let comment = printable(self.value());
                self.comments.push(comment);
                return Some(ReadOption::Nothing);
            }
            (_, "-s" | "--source") => return range(networks(self.value())?, Criterion::Source),
            (_, "-d" | "--destination") => return range(networks(self.value())?, Criterion::Destination),
            ("iprange", "--src-range") => Criterion::Source(vec![address_range(self.value())?]),
            ("iprange", "--dst-range") => Criterion::Destination(vec![address_range(self.value())?]),
            (_, "-p" | "--protocol") => match self.value() {
                "all" | "0" | "ip" => return Some(ReadOption::Nothing),
                name => Criterion::Protocol(vec![protocol(name)?]),
            },
            (_, "-i" | "--in-interface") => Criterion::Input(vec![device(self.value())]),
            (_, "-o" | "--out-interface") => Criterion::Output(vec![device(self.value())]),
            (_, "-f" | "--fragment") => Criterion::Fragment,
            (_, "--sport" | "--source-port" | "--sports" | "--source-ports") => {
                Criterion::SourcePort(ports(self.value(), ':')?)
            }
            (_, "--dport" | "--destination-port" | "--dports" | "--destination-ports") => {
                Criterion::DestinationPort(ports(self.value(), ':')?)
            }
            ("multiport", "--ports") => Criterion::EitherPort(ports(self.value(), ':')?),
            ("mark", "--mark") => mark(self.value(), |value, mask| Criterion::Mark { value, mask })?,
            ("connmark", "--mark") => mark(self.value(), |value, mask| Criterion::Connmark { value, mask })?,
            (_, "--ctstate" | "--state") => {
                Criterion::CtState(self.value().split(',').map(CtState::parse).collect::<Option<_>>()?)
            }
            ("conntrack", "--ctdir") => Criterion::CtDirection(match self.value() {
                "ORIGINAL" => CtDirection::Original,
                "REPLY" => CtDirection::Reply,
                _ => return None,
            }),
            ("set", "--match-set") => {
                let (name, fields) = (printable(self.value()), self.value());
                Criterion::Set { name, fields: fields.split(',').map(side).collect::<Option<_>>()? }
            }
            // Bookkeeping of the set only.
            ("set", "--update-counters" | "--update-subcounters") => return Some(ReadOption::Nothing),
            ("addrtype", "--src-type") => self.address_type(Side::Source),
            ("addrtype", "--dst-type") => self.address_type(Side::Destination),
            ("addrtype", "--limit-iface-in") => return self.limit_iface(Side::Source),
            ("addrtype", "--limit-iface-out") => return self.limit_iface(Side::Destination),
            ("length", "--length") => {
                let range = super::words::port_range(self.value(), ':')?;
                Criterion::Length(vec![(range.first.into(), range.last.into())])
            }
            ("ttl" | "hl", name) => {
                ttl(name.rsplit('-').next().unwrap_or_default(), self.value().parse().ok()?)?
            }
            ("mac", "--mac-source") => Criterion::SourceMac(mac(self.value())?),
            ("owner", "--uid-owner") => {
                let text = self.value();
                let (first, last) = text.split_once('-').unwrap_or((text, text));
                Criterion::OwnerUid { first: number(first)?, last: number(last)? }
            }
            ("physdev", "--physdev-in") => Criterion::PhysIn(device(self.value())),
            ("physdev", "--physdev-out") => Criterion::PhysOut(device(self.value())),
            ("statistic", _) => return self.statistic(name),
            (_, "--tcp-flags") => {
                Criterion::TcpFlags { mask: tcp_flags(self.value())?, value: tcp_flags(self.value())? }
            }
            (_, "--syn") => Criterion::TcpFlags { mask: 0x17, value: 0x02 },
            (_, "--icmp-type" | "--icmpv6-type") => match self.value() {
                "any" | "255" => return Some(ReadOption::Nothing),
                text => icmp(text)?,
            },
            _ => return None,
        };
        Some(ReadOption::Criterion(what))
    }

    fn address_type(&mut self, side: Side) -> Criterion {
        let types = self.value().split(',').map(printable).collect();
        Criterion::AddressType { side, types, limit_iface: None }
    }

    /// It qualifies the types before it.
    fn limit_iface(&mut self, to: Side) -> Option<ReadOption> {
        let mut last = self.out.iter_mut().rev();
        let found = last.find_map(|m| match &mut m.what {
            Criterion::AddressType { limit_iface, .. } => Some(limit_iface),
            _ => None,
        });
        *found? = Some(to);
        Some(ReadOption::Nothing)
    }

    /// `--mode random --probability 0.5`, `--mode nth --every 2 --packet 0`: one criterion.
    fn statistic(&mut self, name: &str) -> Option<ReadOption> {
        let text = printable(format!("{name} {}", self.value()));
        if let Some(Match { what: Criterion::Statistic(all), .. }) = self.out.last_mut() {
            all.push(' ');
            all.push_str(&text);
            return Some(ReadOption::Nothing);
        }
        Some(ReadOption::Criterion(Criterion::Statistic(text)))
    }
}

enum ReadOption {
    Criterion(Criterion),
    /// Always true, or part of what was read before.
    Nothing,
}

fn range<T>(ranges: Vec<T>, what: fn(Vec<T>) -> Criterion) -> Option<ReadOption> {
    Some(ReadOption::Criterion(what(ranges)))
}

fn mark(text: &str, what: fn(u32, u32) -> Criterion) -> Option<Criterion> {
    value_mask(text).map(|(value, mask)| what(value, mask))
}

fn device(text: &str) -> String {
    printable(text)
}

fn side(text: &str) -> Option<Side> {
    match text {
        "src" => Some(Side::Source),
        "dst" => Some(Side::Destination),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::split;
    use super::*;

    fn conditions(text: &str) -> Vec<Match> {
        let mut words = Vec::new();
        split(text, &mut words);
        parse(&words).0
    }

    fn one(text: &str) -> Criterion {
        let [m] = <[Match; 1]>::try_from(conditions(text)).unwrap();
        assert!(!m.negated);
        m.what
    }

    #[test]
    fn each_kind_of_condition() {
        assert_eq!(one("-m mark --mark 0x1/0x3"), Criterion::Mark { value: 1, mask: 3 });
        assert_eq!(one("-m connmark --mark 0x1"), Criterion::Connmark { value: 1, mask: u32::MAX });
        assert_eq!(
            one("-m state --state NEW,RELATED"),
            Criterion::CtState(vec![CtState::New, CtState::Related])
        );
        assert_eq!(one("-m conntrack --ctdir REPLY"), Criterion::CtDirection(CtDirection::Reply));
        let set = Criterion::Set { name: "a".into(), fields: vec![Side::Source, Side::Destination] };
        assert_eq!(one("-m set --match-set a src,dst"), set);
        assert_eq!(one("-m owner --uid-owner 1500"), Criterion::OwnerUid { first: 1500, last: 1500 });
        assert_eq!(one("--icmp-type 3/4"), Criterion::Icmp { kind: 3, codes: Some((4, 4)) });
        assert_eq!(one("-m tcp --tcp-flags SYN,RST SYN"), Criterion::TcpFlags { mask: 6, value: 2 });
        let both = "--mode random --probability 0.5";
        assert_eq!(one(&format!("-m statistic {both}")), Criterion::Statistic(both.into()));
        let limited = Criterion::AddressType {
            side: Side::Source,
            types: vec!["LOCAL".into()],
            limit_iface: Some(Side::Destination),
        };
        assert_eq!(one("-m addrtype --src-type LOCAL --limit-iface-out"), limited);
    }

    #[test]
    fn what_is_not_understood_is_told_and_ends_where_the_next_begins() {
        let read =
            conditions("-m socket --transparent -m mark ! --mark 0x1 -m geoip ! --source-country A,B -p tcp");
        assert_eq!(read[0].what, Criterion::Other("-m socket --transparent".into()));
        assert_eq!(read[1], Match { negated: true, what: Criterion::Mark { value: 1, mask: u32::MAX } });
        assert_eq!(read[2].what, Criterion::Other("-m geoip ! --source-country A,B".into()));
        assert_eq!(read[3].what, Criterion::Protocol(vec![6]));
        assert_eq!(one("-s 10.0.0.0/255.0.255.0"), Criterion::Other("-s 10.0.0.0/255.0.255.0".into()));
        assert_eq!(one("-m limit --limit 3/min"), Criterion::Statistic("-m limit --limit 3/min".into()));
    }
}
