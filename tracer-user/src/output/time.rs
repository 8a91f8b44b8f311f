// SPDX-License-Identifier: MIT OR Apache-2.0
//! How times and durations are written.

use std::fmt;

/// What stands at the right of a packet's first line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeFormat {
    /// Local time of day: 14:03:07.120345.
    #[default]
    Wall,
    /// Since the first packet: 1.203456 s.
    Relative,
    /// Seconds since 1970.
    Unix,
    None,
}

impl TimeFormat {
    /// What [`TimeFormat::parse`] takes.
    pub const NAMES: [&'static str; 4] = ["wall", "relative", "unix", "none"];

    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "wall" => Self::Wall,
            "relative" => Self::Relative,
            "unix" => Self::Unix,
            "none" => Self::None,
            _ => return None,
        })
    }
}

/// Number and unit of a duration in ns: µs with one decimal, larger ones in ms and s.
pub(crate) fn duration(ns: u64) -> (String, &'static str) {
    let us = ns as f64 / 1e3;
    if us < 9_999.95 {
        (format!("{us:.1}"), "µs")
    } else if us < 999_950.0 {
        (format!("{:.1}", us / 1e3), "ms")
    } else {
        (format!("{:.2}", us / 1e6), "s")
    }
}

/// The same in one word: "11.4 µs".
pub(crate) struct Took(pub(crate) u64);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = duration(self.0);
        write!(f, "{number} {unit}")
    }
}

/// Time of day in µs, of ns since the epoch in local time.
pub(crate) fn time_of_day(unix_ns: u64, utc_offset_s: i32) -> String {
    let seconds = (unix_ns / 1_000_000_000) as i64 + i64::from(utc_offset_s);
    let day = seconds.rem_euclid(86_400);
    let us = unix_ns % 1_000_000_000 / 1_000;
    format!("{:02}:{:02}:{:02}.{us:06}", day / 3600, day / 60 % 60, day % 60)
}

/// RFC 3339 in UTC with ns.
pub(crate) fn rfc3339(unix_ns: u64) -> String {
    let days = (unix_ns / 86_400_000_000_000) as i64;
    // Civil from days, H. Hinnant: https://howardhinnant.github.io/date_algorithms.html
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let s = unix_ns / 1_000_000_000 % 86_400;
    let ns = unix_ns % 1_000_000_000;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{ns:09}Z", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_times() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(1_709_210_096_000_000_007), "2024-02-29T12:34:56.000000007Z");
        assert_eq!(time_of_day(1_709_210_096_000_001_000, 3600), "13:34:56.000001");
        assert_eq!(Took(11_400).to_string(), "11.4 µs");
        assert_eq!(Took(3_000_000_000).to_string(), "3.00 s");
        assert_eq!(Took(12_000_000_000).to_string(), "12.00 s");
    }

    #[test]
    fn every_name_parses() {
        assert!(TimeFormat::NAMES.iter().all(|name| TimeFormat::parse(name).is_some()));
        assert_eq!(TimeFormat::parse("later"), None);
    }
}
