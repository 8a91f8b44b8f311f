// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a recording line by line.

use std::io::{self, BufRead, Read as _};

use super::format::{Begin, Line, SCHEMA};
use super::sanitize::sanitize;
use crate::text::quoted;

/// Longest line: the rules of a large node.
const MAX_LINE: u64 = 256 << 20;
/// Of a line in a message.
const SHOWN: usize = 40;

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot read the recording: {0}")]
    Read(#[from] io::Error),
    #[error("the recording is empty; accepted: what egwtrace --record FILE wrote")]
    Empty,
    #[error(
        "line 1 is not the beginning of a recording ({what}); accepted: what egwtrace --record FILE wrote"
    )]
    NotARecording { what: String },
    #[error("line 1: this is a recording of version {found}; accepted: {SCHEMA}")]
    Version { found: String },
    #[error("line {line} is longer than {} MiB; accepted: what egwtrace --record FILE wrote", MAX_LINE >> 20)]
    Long { line: u64 },
    #[error("line {line} is not text in UTF-8; accepted: what egwtrace --record FILE wrote")]
    NotText { line: u64 },
    #[error("line {line} of the recording is damaged: {what}; accepted: what egwtrace --record FILE wrote")]
    Damaged { line: u64, what: String },
}

/// The lines of a recording, checked.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    line: u64,
    begin: Begin,
    /// The last line was cut off.
    cut: bool,
    buffer: Vec<u8>,
}

impl<R: BufRead> Reader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// When it is not the beginning of a recording, or of one of another version.
    pub fn new(input: R) -> Result<Self, RecordError> {
        let mut reader = Self { input, line: 0, begin: Begin::default(), cut: false, buffer: Vec::new() };
        let Some(text) = reader.text()? else { return Err(RecordError::Empty) };
        let foreign = |what: String| RecordError::NotARecording { what };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|_| {
            foreign(format!("it begins with {}", quoted(text.chars().take(SHOWN).collect::<String>())))
        })?;
        if value.get("type").is_some() && value.get("schema").is_some() {
            return Err(foreign("it is the output of -o json, which lacks the node as it was".to_owned()));
        }
        let begin = value.get("begin").ok_or_else(|| foreign("it has no \"begin\"".to_owned()))?;
        let schema = begin.get("schema").and_then(serde_json::Value::as_str).unwrap_or_default();
        if schema != SCHEMA {
            return Err(RecordError::Version {
                found: quoted(schema.chars().take(SHOWN).collect::<String>()),
            });
        }
        reader.begin = serde_json::from_value(begin.clone())
            .map_err(|error| RecordError::Damaged { line: 1, what: said(&error) })?;
        Ok(reader)
    }

    pub fn begin(&self) -> &Begin {
        &self.begin
    }

    /// The line that was cut off, when the recording ended in the middle of one.
    pub fn cut_at(&self) -> Option<u64> {
        self.cut.then_some(self.line)
    }

    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The next line; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Line>, RecordError> {
        let Some(text) = self.text()? else { return Ok(None) };
        let whole = self.buffer.ends_with(b"\n");
        match serde_json::from_str(&text) {
            Ok(line) => Ok(Some(line)),
            // Whoever recorded was stopped while it wrote.
            Err(_) if !whole => {
                self.cut = true;
                Ok(None)
            }
            Err(error) => Err(RecordError::Damaged { line: self.line, what: said(&error) }),
        }
    }

    fn text(&mut self) -> Result<Option<String>, RecordError> {
        self.buffer.clear();
        self.line += 1;
        let read = (&mut self.input).take(MAX_LINE + 1).read_until(b'\n', &mut self.buffer)?;
        if read == 0 {
            return Ok(None);
        }
        if read as u64 > MAX_LINE {
            return Err(RecordError::Long { line: self.line });
        }
        let whole = self.buffer.ends_with(b"\n");
        match std::str::from_utf8(self.buffer.trim_ascii_end()) {
            Ok(text) => Ok(Some(sanitize(text).into_owned())),
            // Cut in the middle of a letter.
            Err(error) if !whole && error.error_len().is_none() && self.line > 1 => Ok(Some(String::new())),
            Err(_) => Err(RecordError::NotText { line: self.line }),
        }
    }
}

/// What the parser says, safe to print.
fn said(error: &serde_json::Error) -> String {
    crate::text::printable(error.to_string())
}
