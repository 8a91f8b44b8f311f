// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text that comes from outside: device names, table names, arguments.

use std::fmt::Write as _;

/// `bytes` as text that is safe to print: control characters, characters that change the direction or
/// the width of what follows, and bytes that are not UTF-8 are written as escapes (`\x1b`, `\u{202e}`).
pub fn printable(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    // Nearly all of it.
    if bytes.iter().all(|byte| matches!(byte, 0x20..=0x7e)) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_ascii_control() {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            } else if is_deceptive(c) {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Like [`printable`], in double quotes; quotes inside are escaped.
pub fn quoted(bytes: impl AsRef<[u8]>) -> String {
    format!("\"{}\"", printable(bytes).replace('"', "\\\""))
}

/// C1 controls, line and paragraph separators, bidirectional marks, zero-width characters, tags.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c), 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe0000..=0xe007f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        for (raw, shown) in [
            (&b"eth0"[..], "eth0"),
            (b"a\x1b[31mb", "a\\x1b[31mb"),
            (b"a\nb\x7f", "a\\x0ab\\x7f"),
            (b"\xff\xfe", "\\xff\\xfe"),
            ("caf\u{e9} \u{202e}x\u{9b}".as_bytes(), "caf\u{e9} \\u{202e}x\\u{9b}"),
        ] {
            assert_eq!(printable(raw), shown);
        }
        assert_eq!(quoted("a\"b"), "\"a\\\"b\"");
    }
}
