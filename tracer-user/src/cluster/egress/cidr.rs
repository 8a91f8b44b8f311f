// SPDX-License-Identifier: MIT OR Apache-2.0
//! Networks as the objects write them.

use std::net::IpAddr;

use crate::node::IpPrefix;

/// `ADDRESS/LENGTH`, as the agent takes it: an address alone is none.
pub(super) fn prefix(text: &str) -> Option<IpPrefix> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    IpPrefix::new(address.parse().ok()?, length.parse().ok()?)
}

/// A prefix, or an address alone.
pub(super) fn network(text: &str) -> Option<IpPrefix> {
    prefix(text).or_else(|| text.parse().ok().map(IpPrefix::host))
}

/// How much of a destination is in a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    None,
    Some,
    All,
}

pub(super) fn part(of: &IpPrefix, within: &IpPrefix) -> Part {
    if of.is_ipv6() != within.is_ipv6() {
        Part::None
    } else if within.len() <= of.len() && within.contains(of.address()) {
        Part::All
    } else if of.contains(within.address()) {
        Part::Some
    } else {
        Part::None
    }
}

/// An entry of a gateway's pool has the address: one address, a range `A-B`, or a prefix.
pub(super) fn pool_has(entry: &str, address: IpAddr) -> bool {
    match entry.split_once('-') {
        Some((first, last)) => match (first.trim().parse::<IpAddr>(), last.trim().parse::<IpAddr>()) {
            (Ok(first), Ok(last)) => {
                first.is_ipv4() == address.is_ipv4()
                    && last.is_ipv4() == address.is_ipv4()
                    && (first..=last).contains(&address)
            }
            _ => false,
        },
        None => network(entry.trim()).is_some_and(|network| network.contains(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_what_the_agent_takes() {
        assert_eq!(prefix("10.6.1.92/32"), Some(IpPrefix::host("10.6.1.92".parse().unwrap())));
        assert_eq!(prefix("10.6.1.92/8").map(|p| p.address()), Some("10.0.0.0".parse().unwrap()));
        for bad in ["10.6.1.92", "10.6.1.92/", "10.6.1.92/33", "10.6.1.92/+8", "fd00:1/126", "", "/8", "x/8"]
        {
            assert_eq!(prefix(bad), None, "{bad}");
        }
    }

    #[test]
    fn parts() {
        let p = |text: &str| prefix(text).unwrap();
        for (of, within, expected) in [
            ("10.1.2.3/32", "10.0.0.0/8", Part::All),
            ("10.0.0.0/8", "10.0.0.0/8", Part::All),
            ("10.0.0.0/8", "10.1.0.0/16", Part::Some),
            ("10.0.0.0/8", "11.0.0.0/8", Part::None),
            ("0.0.0.0/0", "::/0", Part::None),
            ("fd00::1/128", "::/0", Part::All),
        ] {
            assert_eq!(part(&p(of), &p(within)), expected, "{of} {within}");
        }
    }

    #[test]
    fn pools() {
        let a = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(pool_has("10.6.1.55", a("10.6.1.55")));
        assert!(pool_has("10.6.1.60-10.6.1.65", a("10.6.1.65")));
        assert!(!pool_has("10.6.1.60-10.6.1.65", a("10.6.1.66")));
        assert!(pool_has("10.6.1.70/28", a("10.6.1.64")));
        assert!(!pool_has("10.6.1.60-fd00::1", a("fd00::")));
        assert!(!pool_has("", a("10.6.1.55")));
    }
}
