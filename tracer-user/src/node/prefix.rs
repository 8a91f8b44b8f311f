// SPDX-License-Identifier: MIT OR Apache-2.0
//! Address prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An address and how many of its leading bits count. The others are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    address: IpAddr,
    length: u8,
}

/// All of IPv4.
impl Default for IpPrefix {
    fn default() -> Self {
        Self { address: Ipv4Addr::UNSPECIFIED.into(), length: 0 }
    }
}

impl IpPrefix {
    /// `None` when `length` is more than the address has bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32u32.checked_sub(length.into())?).unwrap_or(0);
                Ipv4Addr::from_bits(a.to_bits() & mask).into()
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128u32.checked_sub(length.into())?).unwrap_or(0);
                Ipv6Addr::from_bits(a.to_bits() & mask).into()
            }
        };
        Some(Self { address, length })
    }

    /// The one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn len(&self) -> u8 {
        self.length
    }

    /// No bit counts: every address of the family.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    pub fn is_host(&self) -> bool {
        self.length == if self.is_ipv6() { 128 } else { 32 }
    }

    /// The last address it covers.
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => {
                let host = u32::MAX.checked_shr(self.length.into()).unwrap_or(0);
                Ipv4Addr::from_bits(a.to_bits() | host).into()
            }
            IpAddr::V6(a) => {
                let host = u128::MAX.checked_shr(self.length.into()).unwrap_or(0);
                Ipv6Addr::from_bits(a.to_bits() | host).into()
            }
        }
    }

    /// The prefix that covers exactly this range, when there is one.
    pub fn spanning(first: IpAddr, last: IpAddr) -> Option<Self> {
        let length = match (first, last) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return None,
        };
        let prefix = Self::new(first, u8::try_from(length).ok()?)?;
        (prefix.address == first && prefix.last() == last).then_some(prefix)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_ipv6()
            && Self::new(address, self.length).is_some_and(|p| p.address == self.address)
    }

    /// As the programs compare it: IPv4 mapped into IPv6, words in memory order.
    pub fn to_common(self) -> tracer_common::Prefix {
        let (address, length) = match self.address {
            IpAddr::V4(a) => (a.to_ipv6_mapped(), 96 + u32::from(self.length)),
            IpAddr::V6(a) => (a, u32::from(self.length)),
        };
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        tracer_common::Prefix { addr: words(address.octets()), mask: words(mask.to_be_bytes()) }
    }
}

fn words(bytes: [u8; 16]) -> [u32; 4] {
    std::array::from_fn(|i| u32::from_ne_bytes(std::array::from_fn(|j| bytes[i * 4 + j])))
}

/// A whole address is written without its length.
impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.length) }
    }
}

/// `10.0.0.0/8`, `10.0.0.1`; host bits are cleared.
impl FromStr for IpPrefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WRONG: &str = "not an address or prefix";
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse().map_err(|_| WRONG)?)),
            None => (text, None),
        };
        let address = address.parse().map_err(|_| WRONG)?;
        match length {
            Some(length) => Self::new(address, length).ok_or(WRONG),
            None => Ok(Self::host(address)),
        }
    }
}

impl Serialize for IpPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IpPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix(address: &str, length: u8) -> IpPrefix {
        IpPrefix::new(address.parse().unwrap(), length).unwrap()
    }

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!(prefix("10.1.2.3", 8).to_string(), "10.0.0.0/8");
        assert_eq!(prefix("fd00::1", 64).to_string(), "fd00::/64");
        assert_eq!(prefix("10.1.2.3", 32).to_string(), "10.1.2.3");
        assert_eq!(prefix("10.1.2.3", 0).to_string(), "0.0.0.0/0");
        assert_eq!(IpPrefix::new("10.0.0.1".parse().unwrap(), 33), None);
        assert_eq!(IpPrefix::new("::1".parse().unwrap(), 129), None);
    }

    #[test]
    fn the_programs_form_is_mapped_and_in_memory_order() {
        let common = prefix("10.0.0.0", 8).to_common();
        assert_eq!(
            common.addr,
            [0, 0, u32::from_ne_bytes([0, 0, 255, 255]), u32::from_ne_bytes([10, 0, 0, 0])]
        );
        assert_eq!(common.mask, [u32::MAX, u32::MAX, u32::MAX, u32::from_ne_bytes([255, 0, 0, 0])]);
        assert_eq!(prefix("::", 0).to_common(), tracer_common::Prefix::default());
    }

    proptest! {
        #[test]
        fn a_prefix_is_the_range_it_spans(a: u128, length in 0u8..=128, v4: bool) {
            let address = if v4 { Ipv4Addr::from_bits(a as u32).into() } else { Ipv6Addr::from_bits(a).into() };
            let length = if v4 { length % 33 } else { length };
            let prefix = IpPrefix::new(address, length).unwrap();
            prop_assert!(prefix.contains(prefix.last()));
            prop_assert_eq!(IpPrefix::spanning(prefix.address(), prefix.last()), Some(prefix));
            prop_assert_eq!(prefix.to_string().parse::<IpPrefix>(), Ok(prefix));
        }

        #[test]
        fn the_programs_form_agrees_with_contains(a: u32, b: u32, length in 0u8..=32, near: bool) {
            let b = if near { a ^ (b & 0xff) } else { b };
            let prefix = IpPrefix::new(Ipv4Addr::from_bits(a).into(), length).unwrap();
            let common = prefix.to_common();
            let other = words(Ipv4Addr::from_bits(b).to_ipv6_mapped().octets());
            let matches = (0..4).all(|i| other[i] & common.mask[i] == common.addr[i]);
            prop_assert_eq!(matches, prefix.contains(Ipv4Addr::from_bits(b).into()));
        }
    }
}
