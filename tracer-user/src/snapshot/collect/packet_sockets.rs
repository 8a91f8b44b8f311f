// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who listens to whole frames: programs that answer ARP for addresses that are on no device do so.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// EtherType and ifindex (0: all devices) of each packet socket of the calling thread's namespace, but for those of
/// this process.
pub(super) fn read() -> Option<Vec<(u16, u32)>> {
    let text = fs::read_to_string("/proc/thread-self/net/packet").ok()?;
    let own = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let own: HashSet<u64> = own.filter_map(|fd| Some(fs::metadata(fd.path()).ok()?.ino())).collect();
    Some(parse(&text, &own))
}

/// Of /proc/net/packet: the type in hexadecimal, the device and the inode in decimal.
fn parse(text: &str, own: &HashSet<u64>) -> Vec<(u16, u32)> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(3);
            let proto = u16::from_str_radix(words.next()?, 16).ok()?;
            let device = words.next()?.parse().ok()?;
            let inode: Option<u64> = words.nth(3).and_then(|word| word.parse().ok());
            inode.is_none_or(|inode| !own.contains(&inode)).then_some((proto, device))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packet_sockets_by_type_and_device() {
        let text = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
                    000000001f07b441 3      3    86dd   2     1 0      0      347659\n\
                    0000000093c2f06e 3      3    0806   0     1 0      0      347685\n";
        assert_eq!(parse(text, &HashSet::new()), [(0x86dd, 2), (0x0806, 0)]);
        assert_eq!(parse(text, &HashSet::from([347_685])), [(0x86dd, 2)]);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(.{0,40}\n?){0,4}") {
            let _ = parse(&text, &HashSet::new());
        }
    }
}
