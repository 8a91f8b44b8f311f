// SPDX-License-Identifier: MIT OR Apache-2.0
//! Properties of standard output: its width, whether it has colours.

use std::io::{self, IsTerminal as _};
use std::os::fd::AsRawFd as _;

use crate::cli::{ColorChoice, TimeStyle};
use crate::output::{TextOptions, TimeFormat};

/// Columns where there is no terminal.
const WIDTH: usize = 110;

/// Options of text on standard output.
pub fn text_options(color: ColorChoice, time: TimeStyle, verbose: u8) -> TextOptions {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    TextOptions {
        color: color.enabled(io::stdout().is_terminal(), no_color),
        width: columns().unwrap_or(WIDTH),
        time: match time {
            TimeStyle::Wall => TimeFormat::Wall,
            TimeStyle::Relative => TimeFormat::Relative,
            TimeStyle::Unix => TimeFormat::Unix,
            TimeStyle::None => TimeFormat::None,
        },
        verbose,
    }
}

/// Columns of the terminal that is standard output.
pub fn columns() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` has room for the answer.
    let asked = unsafe { libc::ioctl(io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (asked == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}
