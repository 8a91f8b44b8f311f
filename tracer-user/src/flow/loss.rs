// SPDX-License-Identifier: MIT OR Apache-2.0
//! Records that never arrived: counted per CPU from the gaps in their numbers.

use tracer_common::Event;

/// A gap this far back can still be filled: records of one CPU may be swapped by an interrupt.
const WINDOW: u32 = 64;

#[derive(Debug, Default)]
pub(crate) struct Loss {
    cpus: Vec<Cpu>,
    /// From gaps.
    gaps: u64,
    /// What the kernel's counters say in total.
    kernel: u64,
    outside: u64,
    reported: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    seen: bool,
    next: u32,
    lost: u64,
    reported: u64,
    last_ts: u64,
}

/// Records missing on one CPU, since the last time it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) ts: u64,
    pub(crate) cpu: u16,
    pub(crate) count: u64,
}

impl Loss {
    pub(crate) fn observe(&mut self, event: &Event) {
        let at = usize::from(event.cpu).min(super::tracker::MAX_CPUS - 1);
        if at >= self.cpus.len() {
            self.cpus.resize(at + 1, Cpu::default());
        }
        let cpu = &mut self.cpus[at];
        if !cpu.seen {
            *cpu = Cpu { seen: true, next: event.seq.wrapping_add(1), last_ts: event.ts, ..*cpu };
            return;
        }
        let ahead = event.seq.wrapping_sub(cpu.next);
        if ahead == 0 {
            cpu.next = cpu.next.wrapping_add(1);
        } else if ahead < u32::MAX / 2 {
            cpu.lost += u64::from(ahead);
            self.gaps += u64::from(ahead);
            cpu.next = event.seq.wrapping_add(1);
            cpu.last_ts = event.ts;
        } else if cpu.next.wrapping_sub(event.seq) <= WINDOW && cpu.lost > cpu.reported {
            cpu.lost -= 1;
            self.gaps -= 1;
        }
    }

    /// The kernel's own count of records that found no room, all CPUs, since the start.
    pub(crate) fn kernel_total(&mut self, total: u64) {
        self.kernel = self.kernel.max(total);
    }

    pub(crate) fn outside(&mut self, count: u64) {
        self.outside += count;
    }

    pub(crate) fn total(&self) -> u64 {
        self.gaps.max(self.kernel) + self.outside
    }

    pub(crate) fn by_cpu(&self) -> Vec<(u16, u64)> {
        (0..).zip(&self.cpus).filter(|(_, c)| c.lost > 0).map(|(i, c)| (i, c.lost)).collect()
    }

    /// What was lost since the last call: gaps by CPU, then what no gap explains yet.
    pub(crate) fn report(&mut self, now: u64, mut tell: impl FnMut(Option<u16>, Gap)) {
        if self.total() <= self.reported {
            return;
        }
        let mut told = 0;
        for (i, cpu) in self.cpus.iter_mut().enumerate() {
            if cpu.lost > cpu.reported {
                let count = cpu.lost - cpu.reported;
                cpu.reported = cpu.lost;
                told += count;
                let id = u16::try_from(i).unwrap_or(u16::MAX);
                tell(Some(id), Gap { ts: cpu.last_ts, cpu: id, count });
            }
        }
        let total = self.total();
        let rest = (total - self.reported).saturating_sub(told);
        if rest > 0 {
            tell(None, Gap { ts: now, cpu: 0, count: rest });
        }
        self.reported = total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(loss: &mut Loss, seqs: &[u32]) {
        for &seq in seqs {
            loss.observe(&Event { seq, cpu: 1, ..Event::ZERO });
        }
    }

    #[test]
    fn a_gap_is_exactly_what_was_lost() {
        let mut loss = Loss::default();
        feed(&mut loss, &[5, 6, 10, 11]);
        assert_eq!(loss.total(), 3);
        assert_eq!(loss.by_cpu(), [(1, 3)]);
    }

    #[test]
    fn swapped_records_are_not_lost_and_numbers_wrap() {
        let mut loss = Loss::default();
        feed(&mut loss, &[u32::MAX - 1, 0, u32::MAX, 1]);
        assert_eq!(loss.total(), 0);
    }

    #[test]
    fn the_same_loss_is_told_once() {
        let mut loss = Loss::default();
        let mut told = Vec::new();
        feed(&mut loss, &[1, 4]);
        loss.report(9, |cpu, g| told.push((cpu, g.count)));
        loss.kernel_total(2);
        loss.report(9, |cpu, g| told.push((cpu, g.count)));
        loss.kernel_total(5);
        loss.report(9, |cpu, g| told.push((cpu, g.count)));
        assert_eq!(told, [(Some(1), 2), (None, 3)]);
    }
}
