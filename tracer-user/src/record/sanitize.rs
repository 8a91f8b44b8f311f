// SPDX-License-Identifier: MIT OR Apache-2.0
//! Removes control and bidirectional characters from the strings of JSON text that comes from outside.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::text::is_unprintable;

/// The same JSON; control characters and those that turn the direction of text, escaped or not, are written as
/// `\u{..}` in plain letters. Done on the text, before any string of it exists.
pub(super) fn sanitize(line: &str) -> Cow<'_, str> {
    if !line.contains(|c: char| c == '\\' || is_unprintable(c)) {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if is_unprintable(c) {
            tell(&mut out, u32::from(c));
            continue;
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            Some('u') => {
                let digits: String = rest.clone().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 4);
                match code {
                    Some(code) if char::from_u32(code).is_some_and(is_unprintable) => {
                        tell(&mut out, code);
                        rest.nth(3);
                    }
                    // A surrogate, a letter, or nonsense that the parser will refuse.
                    _ => out.push_str("\\u"),
                }
            }
            Some(short @ ('n' | 'r' | 't' | 'b' | 'f')) => {
                out.push_str("\\\\");
                out.push(short);
            }
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    Cow::Owned(out)
}

fn tell(out: &mut String, code: u32) {
    // Writing to a String cannot fail.
    let _ = write!(out, "\\\\u{{{code:x}}}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn strings(value: &serde_json::Value) -> Vec<String> {
        match value {
            serde_json::Value::String(text) => vec![text.clone()],
            serde_json::Value::Array(all) => all.iter().flat_map(strings).collect(),
            serde_json::Value::Object(all) => {
                all.iter().flat_map(|(key, value)| strings(value).into_iter().chain([key.clone()])).collect()
            }
            _ => Vec::new(),
        }
    }

    #[test]
    fn control_characters_become_letters() {
        for (json, text) in [
            (r#""plain \"quoted\" \\ / é""#, "plain \"quoted\" \\ / é"),
            (r#""\u001b[2J\n\t""#, "\\u{1b}[2J\\n\\t"),
            (r#""\\u001b""#, "\\u001b"),
            ("\"\u{202e}x\"", "\\u{202e}x"),
            (r#""\u202Ex""#, "\\u{202e}x"),
            (r#""\ud83d\ude00""#, "😀"),
        ] {
            assert_eq!(serde_json::from_str::<String>(&sanitize(json)).unwrap(), text, "{json}");
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_is_safe_to_print(text in ".{0,40}", escaped in "(\\\\\\\\|\\\\u00[01][0-9a-f]|\\\\n|\\\\\"|[a-z]){0,12}") {
            for json in [serde_json::to_string(&text).unwrap(), format!("\"{escaped}\"")] {
                let safe = sanitize(&json);
                let value = serde_json::from_str::<serde_json::Value>(&safe);
                prop_assert!(value.is_ok(), "{json} {safe}");
                for text in strings(&value.unwrap()) {
                    prop_assert!(!text.contains(is_unprintable), "{text:?}");
                }
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(\\\\|u|0|.){0,30}") {
            let _ = sanitize(&text);
        }
    }
}
