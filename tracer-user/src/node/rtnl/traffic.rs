// SPDX-License-Identifier: MIT OR Apache-2.0
//! Traffic control: queueing disciplines and filters.

use serde::{Deserialize, Serialize};

use crate::node::netlink::{attributes, ne32, text};

// include/uapi/linux/rtnetlink.h, pkt_sched.h, pkt_cls.h, gen_stats.h
const RTM_NEWQDISC: u16 = 36;
pub(super) const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_STATS2: u16 = 7;
const TCA_STATS_QUEUE: u16 = 3;
const TCA_BPF_ID: u16 = 11;
/// `struct tcmsg`.
pub(super) const TCMSG: usize = 20;
/// `TC_H_CLSACT` with `TC_H_MIN_INGRESS` and `TC_H_MIN_EGRESS`.
pub(super) const PARENTS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];

/// A queueing discipline as RTM_NEWQDISC describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qdisc {
    pub ifindex: u32,
    /// "tbf", "clsact".
    pub kind: String,
    /// Bytes and packets that wait in it.
    pub backlog: u32,
    pub queued: u32,
    /// Packets that it dropped so far.
    pub drops: u32,
}

/// A filter at a device's ingress or egress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    pub ifindex: u32,
    pub egress: bool,
    /// "bpf", "u32".
    pub kind: String,
    /// Of a BPF program.
    pub program: Option<u32>,
}

impl Qdisc {
    /// The payload of an RTM_NEWQDISC message.
    pub(super) fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(TCMSG)?;
        if kind != RTM_NEWQDISC {
            return None;
        }
        let mut qdisc = Self { ifindex: ne32(&fixed[4..])?, ..Self::default() };
        for (kind, value) in attributes(rest) {
            match kind {
                TCA_KIND => qdisc.kind = text(value),
                TCA_STATS2 => {
                    let queue = attributes(value).find(|(kind, _)| *kind == TCA_STATS_QUEUE);
                    let number = |at: usize| queue.and_then(|(_, v)| ne32(v.get(at..)?)).unwrap_or(0);
                    (qdisc.queued, qdisc.backlog, qdisc.drops) = (number(0), number(4), number(8));
                }
                _ => {}
            }
        }
        Some(qdisc)
    }
}

impl Filter {
    /// The payload of an RTM_NEWTFILTER message. Of hash tables and other helpers of a filter there are messages too.
    pub(super) fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        let (fixed, rest) = payload.split_at_checked(TCMSG)?;
        // Without a handle: the priority that the filters are at.
        if kind != RTM_NEWTFILTER || ne32(&fixed[8..])? == 0 {
            return None;
        }
        let find = |wanted| attributes(rest).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let program = find(TCA_OPTIONS).and_then(|options| {
            attributes(options).find(|(kind, _)| *kind == TCA_BPF_ID).and_then(|(_, value)| ne32(value))
        });
        Some(Self {
            ifindex: ne32(&fixed[4..])?,
            egress: ne32(&fixed[12..])? == PARENTS[1],
            kind: find(TCA_KIND).map(text)?,
            program,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::netlink::Request;

    fn fixed(parent: u32) -> [u8; TCMSG] {
        let mut fixed = [0; TCMSG];
        fixed[4..8].copy_from_slice(&5u32.to_ne_bytes());
        fixed[8] = 1;
        fixed[12..16].copy_from_slice(&parent.to_ne_bytes());
        fixed
    }

    #[test]
    fn a_queue_and_a_filter() {
        let numbers: Vec<u8> = [3u32, 4000, 7, 0, 0].iter().flat_map(|n| n.to_ne_bytes()).collect();
        let stats = Request::one("", 0, &[]).attribute(TCA_STATS_QUEUE, &numbers);
        let qdisc = Request::one("", 0, &fixed(u32::MAX))
            .attribute(TCA_KIND, b"tbf\0")
            .attribute(TCA_STATS2, &stats.payload);
        assert_eq!(
            Qdisc::parse(RTM_NEWQDISC, &qdisc.payload),
            Some(Qdisc { ifindex: 5, kind: "tbf".into(), backlog: 4000, queued: 3, drops: 7 })
        );
        let options = Request::one("", 0, &[]).attribute(TCA_BPF_ID, &12u32.to_ne_bytes());
        let filter = Request::one("", 0, &fixed(PARENTS[1]))
            .attribute(TCA_KIND, b"bpf\0")
            .attribute(TCA_OPTIONS, &options.payload);
        assert_eq!(
            Filter::parse(RTM_NEWTFILTER, &filter.payload),
            Some(Filter { ifindex: 5, egress: true, kind: "bpf".into(), program: Some(12) })
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (Qdisc::parse(RTM_NEWQDISC, &bytes), Filter::parse(RTM_NEWTFILTER, &bytes));
        }
    }
}
