// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a rule does.

use std::borrow::Cow;
use std::net::IpAddr;

use super::words::{address_range, number, port_range, value_mask};
use crate::firewall::rule::{ConnmarkOp, IpRange, NatTo, PortRange, Target};
use crate::text::printable;

/// Targets after which the walk goes on, with nothing changed that another rule could ask for.
const PASSING: [&str; 20] = [
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNSECMARK",
    "DSCP",
    "ECN",
    "HL",
    "IDLETIMER",
    "LED",
    "LOG",
    "NFLOG",
    "RATEEST",
    "SECMARK",
    "SET",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TRACE",
    "TTL",
    "ULOG",
];

pub(in crate::firewall) fn is_passing(name: &str) -> bool {
    PASSING.contains(&name)
}

/// `-j TARGET options` or `-g CHAIN`; `None` without.
pub(super) fn parse(words: &[Cow<'_, str>], is_chain: impl Fn(&str) -> bool) -> Option<Target> {
    let [verb, name, options @ ..] = words else { return None };
    let printed = printable(name.as_bytes());
    if verb == "-g" {
        return Some(Target::Goto(printed));
    }
    if is_chain(&printed) {
        return Some(Target::Jump(printed));
    }
    let options = TargetOptions(options);
    let text = || printable(words.get(1..).unwrap_or_default().join(" "));
    Some(match name.as_ref() {
        "ACCEPT" => Target::Accept,
        "DROP" => Target::Drop,
        "RETURN" => Target::Return,
        "REJECT" => Target::Reject { with: printable(options.value("--reject-with").unwrap_or_default()) },
        "MARK" => mark(options).unwrap_or_else(|| Target::Other(text())),
        "CONNMARK" => connmark(options).map_or_else(|| Target::Other(text()), Target::Connmark),
        "DNAT" => Target::Dnat(nat(options, "--to-destination")),
        "SNAT" => Target::Snat(nat(options, "--to-source")),
        "MASQUERADE" => Target::Masquerade { ports: options.ports(), random: options.random() },
        "REDIRECT" => Target::Redirect { ports: options.ports(), random: options.random() },
        "NOTRACK" => Target::Notrack,
        "CT" if options.has("--notrack") => Target::Notrack,
        "CT" => Target::Ct(text()),
        "TCPMSS" => Target::TcpMss(options.value("--set-mss").and_then(|v| v.parse().ok())),
        "TPROXY" => Target::Tproxy(text()),
        "QUEUE" | "NFQUEUE" => Target::Queue(text()),
        name if is_passing(name) => Target::Log(text()),
        _ => Target::Other(text()),
    })
}

#[derive(Clone, Copy)]
struct TargetOptions<'a>(&'a [Cow<'a, str>]);

impl<'a> TargetOptions<'a> {
    fn has(self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    fn value(self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|word| word == name)?;
        self.0.get(at + 1).map(AsRef::as_ref)
    }

    fn mask(self, name: &str) -> Option<u32> {
        self.value(name).and_then(number)
    }

    fn ports(self) -> Option<PortRange> {
        self.value("--to-ports").and_then(|text| port_range(text, '-'))
    }

    fn random(self) -> bool {
        self.has("--random") || self.has("--random-fully")
    }

    /// Value and mask as `--set-xmark` takes them (extensions/libxt_MARK.c).
    fn xmark(self) -> Option<(u32, u32)> {
        if let Some(text) = self.value("--set-xmark") {
            return value_mask(text);
        }
        if let Some(text) = self.value("--set-mark") {
            return value_mask(text).map(|(value, mask)| (value, mask | value));
        }
        let bits = |name| self.value(name).and_then(number);
        (bits("--and-mark").map(|m| (0, !m)))
            .or_else(|| bits("--or-mark").map(|m| (m, m)))
            .or_else(|| bits("--xor-mark").map(|m| (m, 0)))
    }
}

fn mark(options: TargetOptions<'_>) -> Option<Target> {
    options.xmark().map(|(value, mask)| Target::Mark { value, mask })
}

fn connmark(options: TargetOptions<'_>) -> Option<ConnmarkOp> {
    let both = options.mask("--mask");
    let ct_mask = options.mask("--ctmask").or(both).unwrap_or(u32::MAX);
    let mask = options.mask("--nfmask").or(both).unwrap_or(u32::MAX);
    if options.has("--save-mark") {
        return Some(ConnmarkOp::Save { ct_mask, mask });
    }
    if options.has("--restore-mark") {
        return Some(ConnmarkOp::Restore { ct_mask, mask });
    }
    options.xmark().map(|(value, mask)| ConnmarkOp::Set { value, mask })
}

fn nat(options: TargetOptions<'_>, name: &str) -> NatTo {
    let (addresses, ports) = options.value(name).map(nat_target).unwrap_or_default();
    NatTo { addresses, ports, random: options.random(), persistent: options.has("--persistent") }
}

/// `[ADDRESS[-ADDRESS]][:PORT[-PORT[/BASE]]]`; IPv6 addresses in brackets when a port follows.
fn nat_target(text: &str) -> (Option<IpRange>, Option<PortRange>) {
    let ports = |text: &str| port_range(text.split('/').next().unwrap_or_default(), '-');
    let bare = |text: &str| address_range(&text.replace(['[', ']'], ""));
    if text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
        return (bare(text), None);
    }
    // The last colon outside brackets, unless it is one of several: then all is an IPv6 range.
    let after_bracket = text.rfind(']').map_or(0, |at| at + 1);
    let tail = text.get(after_bracket..).unwrap_or_default();
    match (tail.matches(':').count(), text.rfind(':')) {
        (1, Some(colon)) => (bare(&text[..colon]), ports(&text[colon + 1..])),
        _ => (bare(text), None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::words::split;
    use super::*;

    fn target(text: &str) -> Target {
        let mut words = Vec::new();
        split(text, &mut words);
        parse(&words, |name| name == "CHAIN").unwrap()
    }

    fn nat_text(text: &str) -> String {
        let (addresses, ports) = nat_target(text);
        let shown = |x: Option<String>| x.unwrap_or("-".into());
        format!("{} {}", shown(addresses.map(|a| a.to_string())), shown(ports.map(|p| p.to_string())))
    }

    #[test]
    fn marks_are_all_the_same_operation() {
        let mark = |value, mask| Target::Mark { value, mask };
        assert_eq!(target("-j MARK --set-xmark 0x26b7b4e4/0xffffffff"), mark(0x26b7_b4e4, u32::MAX));
        assert_eq!(target("-j MARK --set-mark 0x3/0x1"), mark(3, 3));
        assert_eq!(target("-j MARK --or-mark 0x4000"), mark(0x4000, 0x4000));
        assert_eq!(target("-j MARK --and-mark 0xff"), mark(0, !0xff));
        assert_eq!(target("-j MARK --xor-mark 0x4000"), mark(0x4000, 0));
        let save = ConnmarkOp::Save { ct_mask: u32::MAX, mask: u32::MAX };
        assert_eq!(
            target("-j CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff"),
            Target::Connmark(save)
        );
        assert!(matches!(target("-j MARK --what 1"), Target::Other(_)));
    }

    #[test]
    fn where_translations_lead() {
        for (text, read) in [
            ("172.16.25.189", "172.16.25.189 -"),
            ("10.0.0.1:80", "10.0.0.1 80"),
            ("10.0.0.1-10.0.0.9:100-200/50", "10.0.0.1-10.0.0.9 100-200"),
            (":8080", "- 8080"),
            ("fd00::1", "fd00::1 -"),
            ("[fd00::1]:80", "fd00::1 80"),
            ("fd00::1-fd00::9", "fd00::1-fd00::9 -"),
            ("[fd00::1-fd00::9]:80", "fd00::1-fd00::9 80"),
            ("[", "- -"),
            ("", "- -"),
        ] {
            assert_eq!(nat_text(text), read, "{text}");
        }
        assert_eq!(target("-j MASQUERADE --random-fully"), Target::Masquerade { ports: None, random: true });
        let to = Some(PortRange::one(15001));
        assert_eq!(target("-j REDIRECT --to-ports 15001"), Target::Redirect { ports: to, random: false });
    }

    #[test]
    fn chains_and_the_unknown() {
        assert_eq!(target("-j CHAIN"), Target::Jump("CHAIN".into()));
        assert_eq!(target("-j XYZ --a b"), Target::Other("XYZ --a b".into()));
        assert_eq!(target("-j LOG --log-prefix \"a b\""), Target::Log("LOG --log-prefix a b".into()));
        assert_eq!(target("-j CT --notrack"), Target::Notrack);
    }
}
