// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages of the programs (`--debug-bpf`), by aya-log, as lines on standard error.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

/// Messages as they come, counted.
pub(super) struct Messages {
    logger: EbpfLogger<Lines>,
    received: Arc<AtomicU64>,
}

impl Messages {
    /// The messages of all programs, which share one buffer: that of this one.
    pub(super) fn of_program(id: u32) -> Result<Self, aya_log::Error> {
        let lines = Lines::default();
        let received = lines.0.clone();
        Ok(Self { logger: EbpfLogger::init_from_id_with_logger(id, lines)?, received })
    }

    /// Prints what has arrived.
    pub(super) fn print(&mut self) {
        self.logger.flush();
    }

    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// Writes a line for each message; holds their number.
#[derive(Default)]
struct Lines(Arc<AtomicU64>);

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        // An unwritable standard error stops nothing.
        let _ = writeln!(io::stderr(), "{}", line(&record.args().to_string()));
    }

    fn flush(&self) {}
}

/// IPv4 addresses are mapped into IPv6 in the programs.
fn line(message: &str) -> String {
    format!("bpf {}", message.replace("::ffff:", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_line() {
        let line =
            line("7000 cpu3 tc: ours, skb fe00: ::ffff:10.0.0.1 1234 → 2001:db8::1 80 proto 6 flow ab");
        assert_eq!(line, "bpf 7000 cpu3 tc: ours, skb fe00: 10.0.0.1 1234 → 2001:db8::1 80 proto 6 flow ab");
    }
}
