// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where our netfilter programs stand among what is registered at a hook. Pure.
//!
//! A BPF program is only accepted at a priority nobody else has (net/netfilter/core.c,
//! `nf_hook_entries_grow`: EBUSY), so every position lies strictly between two others; INT_MIN and INT_MAX
//! are refused outright. A [`Placement`] says how far it may move when someone (another tracer) is there.

use tracer_common::NF_POSITIONS;

use super::topology::{Family, Hook, HookEntry, HookOwner, Namespace, Position};

/// The outermost priorities a BPF program may have.
const LOWEST: i32 = i32::MIN + 1;
const HIGHEST: i32 = i32::MAX - 1;

/// A position, and the priorities at which it would see the same: between the same two entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub position: Position,
    pub lowest: i32,
    pub highest: i32,
}

impl Placement {
    /// Priorities to try in turn, the best first, at most `count`.
    pub fn candidates(&self, count: usize) -> impl Iterator<Item = i32> + use<> {
        let (first, lowest, highest) = (self.position.priority, self.lowest, self.highest);
        let up = (first..=highest).take(count);
        let down = (lowest..first).rev().take(count);
        up.chain(down).take(count)
    }
}

/// The standing set: one position per family and hook, after the last entry that matters.
pub fn standing(namespace: &Namespace) -> Vec<Placement> {
    [Family::Ipv4, Family::Ipv6]
        .into_iter()
        .flat_map(|family| Hook::ALL.map(|hook| standing_at(namespace, family, hook)))
        .collect()
}

/// The standing position of one hook: index 0.
pub fn standing_at(namespace: &Namespace, family: Family, hook: Hook) -> Placement {
    let entries = at(namespace, family, hook);
    let gaps = gaps(&entries);
    place(namespace, family, hook, 0, standing_gap(&entries, &gaps, hook), Some(least_standing(hook)))
}

/// The zoomed set of one hook: before the first entry, between each two, and the standing position, which is
/// the first of the list and has index 0; the others follow by priority. At most [`NF_POSITIONS`]: where
/// there are more, entries of the kernel's own that change nothing share a gap with their neighbours first.
pub fn zoomed(namespace: &Namespace, family: Family, hook: Hook) -> Vec<Placement> {
    let entries = at(namespace, family, hook);
    let all = gaps(&entries);
    let standing = standing_gap(&entries, &all, hook);
    // Behind the standing position there is nothing that matters.
    let mut kept: Vec<PriorityGap> = all.into_iter().filter(|g| g.lowest < standing.lowest).collect();
    while kept.len() > NF_POSITIONS - 1 {
        let Some(least) = (0..kept.len()).min_by_key(|i| worth(&entries, &kept, standing, *i)) else { break };
        kept.remove(least);
    }
    std::iter::once(standing_at(namespace, family, hook))
        .chain((1u8..).zip(kept).map(|(index, gap)| place(namespace, family, hook, index, gap, None)))
        .collect()
}

/// Priorities between two neighbouring entries that nobody has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PriorityGap {
    lowest: i32,
    highest: i32,
}

/// The entries of one hook, by priority.
fn at(namespace: &Namespace, family: Family, hook: Hook) -> Vec<&HookEntry> {
    let mut entries: Vec<&HookEntry> =
        namespace.hooks.iter().filter(|e| e.family == family && e.hook == hook).collect();
    entries.sort_by_key(|e| e.priority);
    entries
}

/// Before the first entry, between each two with room between them, after the last.
fn gaps(entries: &[&HookEntry]) -> Vec<PriorityGap> {
    let mut out = Vec::new();
    let mut from = LOWEST;
    for entry in entries {
        if let Some(highest) = entry.priority.checked_sub(1).filter(|h| *h >= from) {
            out.push(PriorityGap { lowest: from, highest: highest.min(HIGHEST) });
        }
        from = from.max(entry.priority.saturating_add(1));
    }
    if from <= HIGHEST {
        out.push(PriorityGap { lowest: from, highest: HIGHEST });
    }
    out
}

/// The first gap after everything that matters.
fn standing_gap(entries: &[&HookEntry], gaps: &[PriorityGap], hook: Hook) -> PriorityGap {
    let last = entries.iter().filter(|e| matters(&e.owner)).map(|e| e.priority).max();
    let from = last.map_or(LOWEST, |p| p.saturating_add(1)).max(least_standing(hook));
    let behind = gaps.iter().find(|g| g.highest >= from);
    // An entry at the very end leaves no room behind it: then the last room there is.
    let fallback = PriorityGap { lowest: LOWEST, highest: HIGHEST };
    *behind.or(gaps.last()).unwrap_or(&fallback)
}

/// Where iptables' own last table of the hook ends, so that a table which comes later (the kernel tells
/// nobody of legacy ones) is already covered.
fn least_standing(hook: Hook) -> i32 {
    match hook {
        Hook::Prerouting => libc::NF_IP_PRI_NAT_DST + 1,
        Hook::Input | Hook::Postrouting => libc::NF_IP_PRI_NAT_SRC + 1,
        Hook::Forward | Hook::Output => libc::NF_IP_PRI_SECURITY + 1,
    }
}

fn place(
    namespace: &Namespace,
    family: Family,
    hook: Hook,
    index: u8,
    gap: PriorityGap,
    least: Option<i32>,
) -> Placement {
    let priority = match least {
        Some(least) => least.clamp(gap.lowest, gap.highest),
        // As close after the entry before as can be; in front of all, as close before the first.
        None if gap.lowest == LOWEST => gap.highest,
        None => gap.lowest,
    };
    Placement {
        position: Position { netns: namespace.id, family, hook, index, priority },
        lowest: gap.lowest,
        highest: gap.highest,
    }
}

/// How much is lost when gap `i` is given up, so that the entries on its two sides are no longer told
/// apart: as much as the less interesting side can do. Ties: the earlier gap goes.
fn worth(entries: &[&HookEntry], kept: &[PriorityGap], standing: PriorityGap, i: usize) -> u8 {
    let from = i.checked_sub(1).map_or(i32::MIN, |p| kept[p].highest);
    let to = kept.get(i + 1).map_or(standing.lowest, |g| g.lowest);
    let most = |low: i32, high: i32| {
        entries
            .iter()
            .filter(|e| e.priority > low && e.priority < high)
            .map(|e| interest(&e.owner))
            .max()
            .unwrap_or(0)
    };
    let before = most(from, kept[i].lowest);
    let after = most(kept[i].highest, to);
    // Nothing stands in front of the first gap, but what came in is known from the hop before.
    if before == 0 { after.min(1) } else { before.min(after) }
}

/// Can it change the packet, or decide about it in a way worth telling apart?
fn interest(owner: &HookOwner) -> u8 {
    match owner {
        HookOwner::Kernel { name } if is_bookkeeping(name) => 0,
        HookOwner::Kernel { name } if name.contains("conntrack") => 1,
        HookOwner::Kernel { .. } => 2,
        HookOwner::Iptables { .. } | HookOwner::Nft { .. } => 3,
    }
}

fn matters(owner: &HookOwner) -> bool {
    interest(owner) >= 2
}

/// Functions of the kernel that leave the packet as it is: defragmentation, confirmation, helpers, the
/// bridge's guard against seeing a packet twice, security modules' labels. By the names of the functions
/// (nfnetlink_hook) and ours (composed).
fn is_bookkeeping(name: &str) -> bool {
    ["defrag", "confirm", "helper", "ip_sabotage_in", "selinux_", "smack_", "apparmor_"]
        .iter()
        .any(|n| name.contains(n))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::node::Role;

    fn entry(priority: i32, owner: HookOwner) -> HookEntry {
        HookEntry { family: Family::Ipv4, hook: Hook::Prerouting, priority, owner }
    }
    fn table(priority: i32, name: &str) -> HookEntry {
        entry(priority, HookOwner::Iptables { table: name.into() })
    }
    fn kernel(priority: i32, name: &str) -> HookEntry {
        entry(priority, HookOwner::Kernel { name: name.into() })
    }
    fn namespace(hooks: Vec<HookEntry>) -> Namespace {
        Namespace {
            id: 1,
            name: "n".into(),
            role: Role::Node,
            devices: Default::default(),
            hooks,
            hooks_exact: true,
        }
    }
    fn priorities(hooks: Vec<HookEntry>) -> Vec<i32> {
        zoomed(&namespace(hooks), Family::Ipv4, Hook::Prerouting)
            .iter()
            .map(|p| p.position.priority)
            .collect()
    }

    #[test]
    fn nothing_registered_still_has_a_standing_set() {
        let all = standing(&namespace(vec![]));
        assert_eq!(all.len(), 10);
        assert!(all.iter().all(|p| p.position.index == 0));
        let by_hook: Vec<_> =
            all[..5].iter().map(|p| (p.position.hook.name(), p.position.priority)).collect();
        assert_eq!(
            by_hook,
            [("PREROUTING", -99), ("INPUT", 101), ("FORWARD", 51), ("OUTPUT", 51), ("POSTROUTING", 101)]
        );
        assert_eq!(priorities(vec![]), [-99]);
    }

    #[test]
    fn between_the_tables() {
        let hooks = vec![
            kernel(-400, "defrag"),
            table(-300, "raw"),
            kernel(-200, "conntrack"),
            table(-150, "mangle"),
            kernel(-100, "nat"),
            table(-100, "nat"),
        ];
        assert_eq!(priorities(hooks), [-99, -401, -399, -299, -199, -149]);
    }

    #[test]
    fn a_later_chain_moves_the_standing_position() {
        let hooks = vec![table(-150, "mangle"), table(10, "late"), kernel(i32::MAX, "conntrack confirm")];
        assert_eq!(priorities(hooks.clone()), [11, -151, -149]);
        let standing = standing_at(&namespace(hooks), Family::Ipv4, Hook::Prerouting);
        assert_eq!((standing.lowest, standing.highest), (11, i32::MAX - 1));
    }

    #[test]
    fn neighbours_without_room_between_them_share_a_gap() {
        assert_eq!(priorities(vec![table(-150, "a"), table(-149, "b"), table(-149, "c")]), [-99, -151]);
    }

    #[test]
    fn the_extremes_are_refused_by_the_kernel() {
        let hooks = vec![kernel(i32::MIN, "ip_sabotage_in"), table(i32::MAX, "last")];
        assert_eq!(priorities(hooks), [-99]);
        // No room behind an entry at the last allowed priority.
        let hooks = vec![table(i32::MAX - 1, "last")];
        assert_eq!(priorities(hooks), [-99]);
    }

    #[test]
    fn too_many_gaps_give_up_the_bookkeeping_first() {
        let mut hooks = vec![kernel(-400, "defrag"), kernel(-350, "selinux_ipv4_forward")];
        hooks.extend((0..11).map(|i| table(-300 + i * 10, &format!("t{i}"))));
        let found = priorities(hooks);
        assert_eq!(found.len(), NF_POSITIONS);
        // Between the tables all stayed; the two in front went, and one stays before the first table.
        assert_eq!(found[1..], [-349, -299, -289, -279, -269, -259, -249, -239, -229, -219, -209]);
    }

    #[test]
    fn candidates_stay_between_the_same_entries() {
        let hooks = namespace(vec![table(-150, "a"), table(-146, "b")]);
        let gap = zoomed(&hooks, Family::Ipv4, Hook::Prerouting)[2];
        assert_eq!(gap.candidates(8).collect::<Vec<_>>(), [-149, -148, -147]);
        let front = zoomed(&hooks, Family::Ipv4, Hook::Prerouting)[1];
        assert_eq!(front.candidates(3).collect::<Vec<_>>(), [-151, -152, -153]);
    }

    proptest! {
        #[test]
        fn positions_are_free_distinct_and_few(
            priorities in proptest::collection::vec(
                prop_oneof![any::<i32>(), -5i32..5, Just(i32::MIN), Just(i32::MAX)], 0..40),
            kinds in proptest::collection::vec(0u8..3, 40),
        ) {
            let hooks: Vec<_> = priorities.iter().zip(kinds).map(|(p, kind)| match kind {
                0 => table(*p, "t"),
                1 => kernel(*p, "defrag"),
                _ => kernel(*p, "nat"),
            }).collect();
            let found = zoomed(&namespace(hooks), Family::Ipv4, Hook::Prerouting);
            prop_assert!((1..=NF_POSITIONS).contains(&found.len()));
            for (i, p) in found.iter().enumerate() {
                prop_assert_eq!(usize::from(p.position.index), i);
                prop_assert!(p.lowest <= p.position.priority && p.position.priority <= p.highest);
                prop_assert!(p.position.priority > i32::MIN && p.position.priority < i32::MAX);
                prop_assert!(!priorities.contains(&p.position.priority));
                prop_assert!(i < 2 || found[i - 1].position.priority < p.position.priority);
                prop_assert!(i == 0 || p.position.priority < found[0].position.priority);
            }
        }
    }
}
