// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lost records, counted per CPU from gaps in their sequence numbers.

use tracer_common::Event;

/// A gap this far back can still be filled: records of one CPU may be swapped by an interrupt.
const WINDOW: u32 = 64;

#[derive(Debug, Default)]
pub(crate) struct Loss {
    cpus: Vec<CpuLosses>,
    /// Sum of what the CPUs lost.
    lost: u64,
    outside: u64,
    outside_reported: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct CpuLosses {
    seen: bool,
    next: u32,
    /// From gaps: known in time, but only once something comes after the gap.
    gaps: u64,
    /// What the kernel's counter says.
    kernel: u64,
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
        let cpu = self.cpu(at);
        if !cpu.seen {
            *cpu = CpuLosses { seen: true, next: event.seq.wrapping_add(1), last_ts: event.ts, ..*cpu };
            return;
        }
        let before = cpu.lost();
        let ahead = event.seq.wrapping_sub(cpu.next);
        if ahead == 0 {
            cpu.next = cpu.next.wrapping_add(1);
            return;
        } else if ahead < u32::MAX / 2 {
            cpu.gaps += u64::from(ahead);
            cpu.next = event.seq.wrapping_add(1);
            cpu.last_ts = event.ts;
        } else if cpu.next.wrapping_sub(event.seq) <= WINDOW && cpu.gaps > cpu.reported {
            cpu.gaps -= 1;
        }
        self.lost = self.lost + self.cpus[at].lost() - before;
    }

    /// The kernel's own counts of records that found no room, one for each CPU, since the start. They tell also of
    /// what was lost at the end, after which nothing came.
    pub(crate) fn kernel(&mut self, by_cpu: &[u64]) {
        for (at, &count) in by_cpu.iter().enumerate().filter(|&(_, &count)| count > 0) {
            let cpu = self.cpu(at.min(super::tracker::MAX_CPUS - 1));
            let before = cpu.lost();
            cpu.kernel = cpu.kernel.max(count);
            let after = cpu.lost();
            self.lost = self.lost + after - before;
        }
    }

    fn cpu(&mut self, at: usize) -> &mut CpuLosses {
        if at >= self.cpus.len() {
            self.cpus.resize(at + 1, CpuLosses::default());
        }
        &mut self.cpus[at]
    }

    pub(crate) fn outside(&mut self, count: u64) {
        self.outside += count;
    }

    pub(crate) fn total(&self) -> u64 {
        self.lost + self.outside
    }

    pub(crate) fn by_cpu(&self) -> Vec<(u16, u64)> {
        (0..).zip(&self.cpus).filter(|(_, c)| c.lost() > 0).map(|(i, c)| (i, c.lost())).collect()
    }

    /// What was lost since the last call: by CPU, then what no CPU is known of.
    pub(crate) fn report(&mut self, now: u64, mut tell: impl FnMut(Option<u16>, Gap)) {
        for (id, cpu) in (0..).zip(&mut self.cpus) {
            if cpu.lost() > cpu.reported {
                let count = cpu.lost() - cpu.reported;
                let ts = if cpu.gaps > cpu.reported { cpu.last_ts } else { now };
                cpu.reported = cpu.lost();
                tell(Some(id), Gap { ts, cpu: id, count });
            }
        }
        let rest = self.outside - self.outside_reported;
        if rest > 0 {
            tell(None, Gap { ts: now, cpu: 0, count: rest });
        }
        self.outside_reported = self.outside;
    }
}

impl CpuLosses {
    fn lost(&self) -> u64 {
        self.gaps.max(self.kernel)
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
        loss.kernel(&[0, 2]);
        loss.report(9, |cpu, g| told.push((cpu, g.count)));
        assert_eq!(told, [(Some(1), 2)]);
    }

    #[test]
    fn what_is_lost_at_the_end_has_a_cpu_too() {
        let mut loss = Loss::default();
        let mut told = Vec::new();
        feed(&mut loss, &[1, 4]);
        loss.kernel(&[3, 5]);
        loss.report(9, |cpu, g| told.push((cpu, g.count)));
        assert_eq!(told, [(Some(0), 3), (Some(1), 5)]);
        // The gap comes late: it is the same loss.
        feed(&mut loss, &[8]);
        loss.outside(1);
        loss.report(9, |cpu, g| told.push((cpu, g.count)));
        assert_eq!(told[2..], [(None, 1)]);
        assert_eq!((loss.by_cpu(), loss.total()), (vec![(0, 3), (1, 5)], 9));
    }
}
