// SPDX-License-Identifier: MIT OR Apache-2.0
//! Words of a line, and values made of them.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::firewall::rule::{IpRange, PortRange};
use crate::node::IpPrefix;

/// Splits at blanks; double quotes keep blanks, `\` in them keeps the next character
/// (libxtables, xtables_save_string).
pub(super) fn split<'a>(line: &'a str, out: &mut Vec<Cow<'a, str>>) {
    out.clear();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut word = String::new();
            let mut escaped = false;
            let mut end = quoted.len();
            for (at, c) in quoted.char_indices() {
                match c {
                    '\\' if !escaped => escaped = true,
                    '"' if !escaped => {
                        end = at + 1;
                        break;
                    }
                    _ => {
                        word.push(c);
                        escaped = false;
                    }
                }
            }
            out.push(Cow::Owned(word));
            rest = quoted.get(end..).unwrap_or_default().trim_start();
        } else {
            let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            out.push(Cow::Borrowed(word));
            rest = after.trim_start();
        }
    }
}

/// A number as iptables writes it: decimal or `0x`.
pub(super) fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// `VALUE[/MASK]`.
pub(super) fn value_mask(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

/// `80`, `1:10`, `:10`, `10:`; several, separated by commas. `between`: what stands between the ends.
pub(super) fn ports(text: &str, between: char) -> Option<Vec<PortRange>> {
    text.split(',').map(|part| port_range(part, between)).collect()
}

pub(super) fn port_range(text: &str, between: char) -> Option<PortRange> {
    let Some((first, last)) = text.split_once(between) else {
        return text.parse().ok().map(PortRange::one);
    };
    let end = |text: &str, open: u16| if text.is_empty() { Some(open) } else { text.parse().ok() };
    Some(PortRange { first: end(first, 0)?, last: end(last, u16::MAX)? })
}

/// `10.0.0.0/8`, `10.0.0.0/255.0.0.0`, `fd00::/8`; several, separated by commas. `None` for masks with holes.
pub(super) fn networks(text: &str) -> Option<Vec<IpRange>> {
    let one = |part: &str| {
        let (address, mask) = part.split_once('/').unwrap_or((part, ""));
        let address: IpAddr = address.parse().ok()?;
        let length = match (mask.parse::<u8>(), mask.parse::<IpAddr>()) {
            _ if mask.is_empty() => return Some(IpRange { first: address, last: address }),
            (Ok(length), _) => length,
            (_, Ok(IpAddr::V4(mask))) => prefix_length(u128::from(mask.to_bits()) << 96)?,
            (_, Ok(IpAddr::V6(mask))) => prefix_length(mask.to_bits())?,
            _ => return None,
        };
        IpPrefix::new(address, length).map(IpRange::from)
    };
    text.split(',').map(one).collect()
}

fn prefix_length(mask: u128) -> Option<u8> {
    let ones = mask.leading_ones();
    (ones + mask.trailing_zeros() >= 128).then(|| u8::try_from(ones).ok()).flatten()
}

/// `10.0.0.1-10.0.0.9`, `10.0.0.1`.
pub(super) fn address_range(text: &str) -> Option<IpRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
    (first.is_ipv4() == last.is_ipv4()).then_some(IpRange { first, last })
}

pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut parts = text.split(':').map(|part| u8::from_str_radix(part, 16).ok());
    let mac = [(); 6].map(|()| parts.next().flatten());
    if parts.next().is_some() || mac.contains(&None) {
        return None;
    }
    Some(mac.map(Option::unwrap_or_default))
}

/// By name or number (the names iptables and nft write without asking /etc/protocols).
pub(super) fn protocol(text: &str) -> Option<u8> {
    Some(match text {
        "icmp" => 1,
        "igmp" => 2,
        "ipip" | "ipencap" => 4,
        "tcp" => 6,
        "udp" => 17,
        "ipv6" => 41,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "ipv6-icmp" | "icmpv6" => 58,
        "ospf" => 89,
        "vrrp" => 112,
        "sctp" => 132,
        "mh" | "ipv6-mh" | "mobility-header" => 135,
        "udplite" => 136,
        "dccp" => 33,
        _ => return text.parse().ok(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes_keep_blanks_and_escapes() {
        let mut words = Vec::new();
        split(r#"-A X -m comment --comment "a \"b\" c" -j  Y"#, &mut words);
        assert_eq!(words, ["-A", "X", "-m", "comment", "--comment", r#"a "b" c"#, "-j", "Y"]);
        split(r#"--comment "never closed \"#, &mut words);
        assert_eq!(words, ["--comment", "never closed "]);
    }

    #[test]
    fn values() {
        assert_eq!(value_mask("0x4000/0x4000"), Some((0x4000, 0x4000)));
        assert_eq!(value_mask("0x26b7b4e4"), Some((0x26b7_b4e4, u32::MAX)));
        assert_eq!(ports("80,443:445,:9", ':').unwrap().len(), 3);
        assert_eq!(networks("10.0.0.0/255.0.0.0").unwrap()[0].to_string(), "10.0.0.0/8");
        assert_eq!(networks("10.0.0.0/255.0.255.0"), None);
        assert_eq!(mac("66:c5:d6:cc:29:54"), Some([0x66, 0xc5, 0xd6, 0xcc, 0x29, 0x54]));
        assert_eq!(mac("66:c5:d6:cc:29"), None);
        assert_eq!(mac("66:c5:d6:cc:29:54:00"), None);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,60}") {
            let _ = (number(&text), value_mask(&text), ports(&text, ':'), networks(&text));
            let _ = (address_range(&text), mac(&text), protocol(&text));
            split(&text, &mut Vec::new());
        }
    }
}
