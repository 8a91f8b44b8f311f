// SPDX-License-Identifier: MIT OR Apache-2.0
//! Escapes text that comes from outside: device names, table names, arguments, names in recordings.

use std::borrow::Cow;
use std::fmt::Write as _;

/// `text` with each unprintable character written as `\x1b` or `\u{202e}`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unprintable) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    push_escaped(&mut out, text);
    Cow::Owned(out)
}

/// [`escape`] for bytes: those that are not UTF-8 are written as `\xff`.
pub fn printable(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        push_escaped(&mut out, chunk.valid());
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

/// Control characters, line and paragraph separators, bidirectional marks, zero-width characters, tags: what a terminal
/// obeys, and what makes one text look like another.
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c), 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f | 0xfeff | 0xe0000..=0xe007f)
}

fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_ascii_control() {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        } else if is_unprintable(c) {
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
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
        assert_eq!(escape("e\x1b[2Jv\u{202e}l"), "e\\x1b[2Jv\\u{202e}l");
        assert_eq!(quoted("a\"b"), "\"a\\\"b\"");
    }
}
