// SPDX-License-Identifier: MIT OR Apache-2.0
//! Freed packets, and other events of the kernel about a packet: ICMP errors, resets, retransmissions.

use tracer_common::{Event, Kind, STACK_DEPTH};

use super::author::Deed;
use super::ending::{Verdict, hook_after, hook_of_caller, is_of_other_hook, verdict};
use super::fingerprint::Fingerprint;
use super::model::{DropSite, Ending, Hop, Note, NoteKind, Place};
use super::reporting::Notice;
use super::sighting::{family_of, push_note};
use super::slots::At;
use super::topology_index::During;
use super::tracker::{Caller, Free, Tracker};
use crate::node::{Hook, Interval, PathRole};

/// Names are looked up once per place; more places than this and they are looked up again.
const CACHED: usize = 1024;
const ICMP_REDIRECT: (u8, u8) = (5, 137);

impl Tracker {
    /// `kfree_skb`.
    pub(crate) fn freed(&mut self, e: &Event) {
        let fp = Fingerprint::of(e);
        let stack = self.cpu(e).stack.take_if(|s| s.skb == e.skb && s.flow == e.flow);
        let stack = stack.map_or([0; STACK_DEPTH], |s| s.stack());
        let Free { verdict, deed, netfilter } = self.judge(e, &fp);
        let found = self.find_freed(e, &fp);
        let delivered =
            found.is_some_and(|at| matches!(self.slots.get(at).journey.ending, Ending::Delivered { .. }));
        let healthy = match verdict {
            // The queue of a neighbour entry that failed, not of a socket.
            Verdict::Purged => !found.is_some_and(|at| self.waits_for_neighbour(at)),
            Verdict::Healthy => true,
            Verdict::HealthyIfDelivered => delivered,
            Verdict::HealthyIfFlooded => found.is_some_and(|at| self.take_back_copy(at, e)),
            Verdict::Dropped => false,
        };
        if healthy {
            self.stats.summary.healthy_frees += 1;
            if let Some(at) = found {
                let slot = self.slots.get_mut(at);
                if matches!(slot.journey.ending, Ending::Open) {
                    slot.journey.ending = Ending::Delivered { netns: slot.netns };
                }
                self.note(at, e, NoteKind::Freed { reason: e.reason(), location: e.location() });
                self.slots.forget_skb(at);
                self.schedule(at, e.ts);
            }
            return;
        }
        let late = if found.is_none() && !netfilter { self.recent(e, &fp) } else { None };
        let at = found.unwrap_or_else(|| match late {
            Some(recent) => self.resume(e, &fp, recent.id, recent.ending),
            None => self.start(e, &fp, None),
        });
        let delivered = delivered || late.is_some_and(|r| matches!(r.ending, Ending::Delivered { .. }));
        let outer = self.cpu(e).outer.take_if(|(skb, _)| *skb == e.skb).map(|(_, outer)| outer);
        let encap = match outer {
            Some(outer) if e.is_encap() => {
                let encaps = &mut self.slots.get_mut(at).journey.encaps;
                let known = encaps.iter().position(|&known| known == outer).unwrap_or_else(|| {
                    encaps.push(outer);
                    encaps.len() - 1
                });
                u8::try_from(known).ok()
            }
            _ if e.is_encap() => self.slots.get(at).encap,
            _ => None,
        };
        let interval = if netfilter { self.drop_interval(at, e, &stack, deed) } else { None };
        let slot = self.slots.get_mut(at);
        slot.journey.ending = Ending::Dropped(DropSite {
            ts: e.ts,
            netns: if e.netns == 0 { slot.netns } else { e.netns },
            ifindex: e.ifindex,
            reason: e.reason(),
            location: e.location(),
            interval,
            deed,
            delivered,
            mark: e.mark,
            len: e.len,
            encap,
            stack,
        });
        slot.journey.end_ns = slot.journey.end_ns.max(e.ts);
        if fp.frag && !netfilter {
            self.give_up_rest(at, e);
        }
        let slot = self.slots.get(at);
        if let (Some(recent), Ending::Dropped(_)) = (late, slot.journey.ending) {
            let after = slot.journey.ending;
            self.stats.correct(&recent.ending, &after);
        }
        self.slots.forget_skb(at);
        self.schedule(at, e.ts);
    }

    fn waits_for_neighbour(&self, at: At) -> bool {
        let slot = self.slots.get(at);
        matches!(slot.journey.ending, Ending::Open) && self.may_wait_for_neighbour(slot)
    }

    /// A switch that does not know its ports yet sends a frame to all of them. What a node drops that is not meant
    /// for it was a copy: the packet went where it was sent. False: it was meant for this node.
    fn take_back_copy(&mut self, at: At, e: &Event) -> bool {
        let slot = self.slots.get(at);
        let left = slot.journey.hops.iter().rposition(|h| {
            h.netns != e.netns
                && matches!(h.place, Place::Device { ifindex, egress: true }
                    if self.places.role(h.netns, ifindex) == Some(PathRole::Uplink))
        });
        let Some(left) = left else {
            let of = slot.copy_of.filter(|_| !self.is_home(e.netns, slot.ends.dst.addr.ip()));
            if let Some(of) = of {
                self.slots.get_mut(at).journey.ending = Ending::Copy { of };
            }
            return of.is_some();
        };
        let Hop { netns, place: Place::Device { ifindex, .. }, ends, encap, .. } = slot.journey.hops[left]
        else {
            return false;
        };
        let outer = encap.and_then(|i| slot.journey.encaps.get(usize::from(i)));
        let dst = outer.map_or(ends.dst, |outer| outer.dst).addr.ip();
        if self.is_home(e.netns, dst) {
            return false;
        }
        let slot = self.slots.get_mut(at);
        if slot.shown_hops <= left + 1 {
            slot.journey.hops.truncate(left + 1);
        }
        slot.journey.ending = Ending::Left { netns, ifindex };
        true
    }

    /// The namespace has the address, or it is not known which it has.
    fn is_home(&self, netns: u32, address: std::net::IpAddr) -> bool {
        let here = self.topology.namespaces.get(&netns);
        here.is_none_or(|here| here.devices.values().any(|d| d.addresses.contains(&address)))
    }

    fn judge(&mut self, e: &Event, fp: &Fingerprint) -> Free {
        let key = (e.reason(), e.location());
        let mut free = match self.drops.get(&key) {
            Some(&known) => known,
            None => {
                let reason = self.names.drop_reason(e.reason()).unwrap_or_default();
                let symbol = self.names.symbol(e.location()).unwrap_or_default();
                let symbol = symbol.split(['.', '+']).next().unwrap_or_default();
                let deed = Deed::of_drop(symbol);
                let netfilter = deed != Deed::Drop || reason == "NETFILTER_DROP";
                let known = Free { verdict: verdict(&reason, symbol), deed, netfilter };
                if self.drops.len() >= CACHED {
                    self.drops.clear();
                }
                self.drops.insert(key, known);
                known
            }
        };
        let icmp_type = (fp.icmp >> 8) as u8;
        let redirect = fp.quoted && (icmp_type == ICMP_REDIRECT.0 || icmp_type == ICMP_REDIRECT.1);
        if redirect && free.deed == Deed::DropByOther {
            // The NAT core drops ICMP redirects about translated flows; nobody misses them.
            free.verdict = Verdict::Healthy;
        }
        self.nft_frees |= free.deed == Deed::DropByNft;
        if free.deed == Deed::DropByOther && !self.nft_frees {
            // Not known to be a kernel that tells them apart.
            free.deed = Deed::Drop;
        }
        free
    }

    fn find_freed(&self, e: &Event, fp: &Fingerprint) -> Option<At> {
        let alive = |at: At| {
            let slot = self.slots.get(at);
            let gone = match slot.journey.ending {
                Ending::Dropped(_) | Ending::Merged { .. } | Ending::CutUp { .. } | Ending::Copy { .. } => {
                    true
                }
                Ending::Left { netns, .. } => netns != e.netns && e.netns != 0,
                _ => false,
            };
            !gone && !slot.settled
        };
        let by_address = (e.skb != 0).then(|| self.slots.by_skb(e.skb)).flatten();
        by_address
            .filter(|&at| alive(at) && self.slots.get(at).fp.same_skb(fp))
            .or_else(|| self.slots.by_print(fp).find(|&at| self.slots.get(at).fp == *fp && alive(at)))
    }

    /// A journey that is over, and whose packet this is.
    fn recent(&mut self, e: &Event, fp: &Fingerprint) -> Option<super::tracker::Recent> {
        let hash = fp.hash();
        let at = self.recent.iter().rposition(|r| r.skb == e.skb && r.hash == hash)?;
        self.recent.remove(at)
    }

    /// Opens a journey again that was shown and forgotten.
    fn resume(&mut self, e: &Event, fp: &Fingerprint, id: u64, ending: Ending) -> At {
        let next = self.ids;
        let at = self.start(e, fp, None);
        self.ids = next;
        self.stats.summary.packets -= 1;
        if let Some(newest) = self.order.back_mut().filter(|(slot, _)| *slot == at) {
            newest.1 = id;
        }
        let slot = self.slots.get_mut(at);
        slot.journey.id = id;
        slot.journey.resumed = true;
        slot.journey.ending = ending;
        slot.journey.notes.clear();
        slot.copy_of = None;
        at
    }

    /// The hook it died in, and what there can have done it.
    fn drop_interval(
        &mut self,
        at: At,
        e: &Event,
        stack: &[u64; STACK_DEPTH],
        deed: Deed,
    ) -> Option<Interval> {
        let slot = self.slots.get(at);
        let netns = if e.netns == 0 { slot.netns } else { e.netns };
        let encap = e.is_encap();
        let hook = match self.hook_of(stack) {
            Some(Caller::Hook(hook)) => hook,
            Some(Caller::OtherHook) => return None,
            // The calls that led there have no names: where there is a position left in the hook that it was seen
            // in last, it did not come to the next one.
            None => match self.unfinished_hook(at, e, netns, encap) {
                Some(hook) => hook,
                None => hook_after(&self.slots.get(at).journey.hops)?,
            },
        };
        let slot = self.slots.get(at);
        let last = slot.last_seen().filter(|h| h.netns == netns && h.encap.is_some() == encap);
        let after = match last.map(|h| h.place) {
            Some(Place::Hook { hook: at, priority: Some(priority), .. }) if at == hook => priority,
            _ => i32::MIN,
        };
        // Inside an encapsulation the hook is the outer packet's family's.
        let outer_v6 = slot.encap.and_then(|i| slot.journey.encaps.get(usize::from(i)));
        let family = match outer_v6 {
            Some(outer) if encap && outer.src.addr.ip().is_ipv4() => crate::node::Family::Ipv4,
            _ => family_of(e),
        };
        // Not seen at a position: it did not get there, if the position was there and its record was not lost.
        let until = match self.during(at, hook, netns, e) {
            _ if self.loss.total() > self.slots.get(at).lost_before => None,
            during => self.positions.next_after(netns, family, hook, after, during),
        };
        let until = until.unwrap_or(i32::MAX);
        let interval = Interval { netns, family, hook, after, until, learned: false };
        // Another flow may die of another rule.
        let what = u64::from(e.reason()) | u64::from(e.flow) << 32;
        self.narrow(interval, deed, e.location(), what, true)
    }

    /// The hook that it was seen in last, where it would have been seen again before its end.
    fn unfinished_hook(&self, at: At, e: &Event, netns: u32, encap: bool) -> Option<Hook> {
        let last =
            self.slots.get(at).last_seen().filter(|h| h.netns == netns && h.encap.is_some() == encap)?;
        let Place::Hook { hook, priority: Some(priority), .. } = last.place else { return None };
        let during = self.during(at, hook, netns, e);
        self.positions.next_after(netns, family_of(e), hook, priority, during).map(|_| hook)
    }

    /// From the last sighting before the hook to the drop.
    fn during(&self, at: At, hook: Hook, netns: u32, e: &Event) -> During {
        let hops = &self.slots.get(at).journey.hops;
        let inside =
            |h: &&Hop| matches!(h.place, Place::Hook { hook: at, .. } if at == hook && h.netns == netns);
        let before = hops.iter().rev().find(|h| !inside(h) && !matches!(h.place, Place::Route { .. }));
        match before {
            Some(h) => During { from: h.ts, until: e.ts },
            None => During::seen_within(hops.first().map_or(e.ts, |h| h.ts), e.ts),
        }
    }

    fn hook_of(&mut self, stack: &[u64; STACK_DEPTH]) -> Option<Caller> {
        stack.iter().take_while(|&&address| address != 0).find_map(|&address| {
            if let Some(&known) = self.callers.get(&address) {
                return known;
            }
            let hook = self.names.symbol(address).and_then(|symbol| match hook_of_caller(&symbol) {
                Some(hook) => Some(Caller::Hook(hook)),
                None => is_of_other_hook(&symbol).then_some(Caller::OtherHook),
            });
            if self.callers.len() >= CACHED {
                self.callers.clear();
            }
            self.callers.insert(address, hook);
            hook
        })
    }

    /// ICMP errors, resets and retransmissions are told with the packet they are about.
    pub(crate) fn remark(&mut self, e: &Event, kind: Kind) {
        let what = match kind {
            Kind::IcmpSend => NoteKind::IcmpSent {
                icmp_type: e.point,
                code: e.position,
                ipv6: e.flags & tracer_common::FLAG_IPV6 != 0,
            },
            Kind::ResetSend => NoteKind::ResetSent { reason: e.reason() },
            Kind::ResetReceive => NoteKind::ResetReceived,
            _ => NoteKind::Retransmission { of: None, after_ns: None },
        };
        let fp = Fingerprint::of(e);
        let by_skb = (e.skb != 0).then(|| self.slots.by_skb(e.skb)).flatten();
        let by_skb = by_skb.filter(|&at| {
            let slot = self.slots.get(at);
            slot.journey.flow == e.flow && !slot.settled
        });
        let about = match kind {
            Kind::IcmpSend | Kind::ResetSend => {
                by_skb.or_else(|| self.slots.by_print(&fp).find(|&at| !self.slots.get(at).settled))
            }
            Kind::ResetReceive => by_skb.or_else(|| {
                let (at, id) = self.flows.get_mut(e.flow)?.reset?;
                self.slots.holds(at, id).then_some(at)
            }),
            _ => return self.resent(e, what),
        };
        match about {
            Some(at) => self.note(at, e, what),
            None => self.stray(e, what),
        }
    }

    /// The record comes after the packet's first sighting, or before it.
    fn resent(&mut self, e: &Event, what: NoteKind) {
        let flow = self.flow(e.flow);
        flow.resent = Some((e.dir, e.l4a, e.ts));
        let Some((at, id)) = flow.last else { return };
        if !self.slots.holds(at, id) {
            return;
        }
        let slot = self.slots.get(at);
        if slot.fp.dir != e.dir || slot.fp.l4a != e.l4a || slot.fp.proto != 6 {
            return;
        }
        self.flow(e.flow).resent = None;
        let known = |n: &Note| matches!(n.what, NoteKind::Retransmission { .. });
        if !self.slots.get(at).journey.notes.iter().any(known) {
            self.note(at, e, what);
        }
    }

    fn note(&mut self, at: At, e: &Event, what: NoteKind) {
        let slot = self.slots.get_mut(at);
        let after = slot.journey.hops.len() as u16;
        let netns = if e.netns == 0 { slot.netns } else { e.netns };
        push_note(&mut slot.journey.notes, Note { ts: e.ts, netns, after, what });
        let close = slot.close;
        slot.news.get_or_insert(e.ts);
        if slot.shown {
            self.slots.due[at as usize] = close.min(e.ts + self.options.hold_ns);
        }
    }

    fn stray(&mut self, e: &Event, what: NoteKind) {
        if self.strays.len() < 64 {
            self.strays.push(Notice::Stray { ts: e.ts, netns: e.netns, ends: super::nat::ends_of(e), what });
        }
    }
}
