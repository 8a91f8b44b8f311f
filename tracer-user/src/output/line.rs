// SPDX-License-Identifier: MIT OR Apache-2.0
//! One line of text: columns, colours, and what does not fit.

use std::fmt::Write as _;
use std::io;

/// How a word is shown where there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Dim,
    Bold,
    /// Good news.
    Green,
    /// Marks.
    Yellow,
    /// Routes and replies.
    Blue,
    /// Encapsulation.
    Magenta,
    /// Translation.
    Cyan,
    /// Drops.
    Red,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Dim => "\x1b[2m",
            Self::Bold => "\x1b[1m",
            Self::Green => "\x1b[32m",
            Self::Yellow => "\x1b[33m",
            Self::Blue => "\x1b[34m",
            Self::Magenta => "\x1b[35m",
            Self::Cyan => "\x1b[36m",
            Self::Red => "\x1b[1;31m",
        }
    }
}

/// Text with its width on the screen.
#[derive(Debug)]
pub(crate) struct Line {
    text: String,
    /// Columns used so far.
    width: usize,
    color: bool,
    /// Columns of the screen; what is longer goes on in the next line, at `hang`.
    limit: usize,
    hang: usize,
}

impl Line {
    pub(crate) fn new(color: bool, limit: usize, hang: usize) -> Self {
        Self { text: String::new(), width: 0, color, limit, hang }
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn put(&mut self, style: Style, text: &str) -> &mut Self {
        if self.color && style != Style::Plain && !text.is_empty() {
            self.text.push_str(style.code());
            self.text.push_str(text);
            self.text.push_str("\x1b[0m");
        } else {
            self.text.push_str(text);
        }
        self.width += text.chars().count();
        self
    }

    /// Spaces up to a column.
    pub(crate) fn pad(&mut self, column: usize) -> &mut Self {
        while self.width < column {
            self.text.push(' ');
            self.width += 1;
        }
        self
    }

    /// The text, then spaces up to `columns` columns, then a gap of two.
    pub(crate) fn cell(&mut self, style: Style, text: &str, columns: usize) -> &mut Self {
        let end = self.width + columns + 2;
        self.put(style, text).pad(end)
    }

    /// Right-aligned in `columns` columns.
    pub(crate) fn right(&mut self, style: Style, text: &str, columns: usize) -> &mut Self {
        let end = self.width + columns;
        self.pad(end.saturating_sub(text.chars().count()));
        self.put(style, text)
    }

    /// One of several things said behind the columns: on a line of its own where it does not fit.
    pub(crate) fn piece(&mut self, pieces: &[(Style, &str)]) -> &mut Self {
        let len: usize = pieces.iter().map(|(_, t)| t.chars().count()).sum();
        if self.width > self.hang {
            if self.width + 3 + len > self.limit {
                while self.text.ends_with(' ') {
                    self.text.pop();
                }
                self.text.push('\n');
                self.width = 0;
                self.pad(self.hang);
            } else {
                self.put(Style::Plain, "   ");
            }
        } else {
            self.pad(self.hang);
        }
        for (style, text) in pieces {
            self.put(*style, text);
        }
        self
    }

    pub(crate) fn end(&mut self, out: &mut dyn io::Write) -> io::Result<()> {
        let text = self.text.trim_end_matches(' ');
        out.write_all(text.as_bytes())?;
        out.write_all(b"\n")?;
        self.text.clear();
        self.width = 0;
        Ok(())
    }

    pub(crate) fn rule(&mut self, columns: usize) -> &mut Self {
        let rule = "─".repeat(columns);
        self.put(Style::Dim, &rule)
    }
}

/// A mark, as `ip rule` and iptables print it.
pub(crate) fn hex(mark: u32) -> String {
    let mut text = String::with_capacity(10);
    // Writing to a String cannot fail.
    let _ = write!(text, "{mark:#x}");
    text
}
