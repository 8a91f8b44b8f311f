// SPDX-License-Identifier: MIT OR Apache-2.0
//! A map of bounded size that evicts, roughly, the least recently used entries.

use std::hash::Hash;

use rustc_hash::FxHashMap;

/// Two generations of at most `half` entries each: what is used moves to the young one; when that is full,
/// the old one is dropped. Amortised O(1), no list to keep.
#[derive(Debug)]
pub(crate) struct Generations<K, V> {
    young: FxHashMap<K, V>,
    old: FxHashMap<K, V>,
    half: usize,
    evicted: u64,
}

impl<K: Eq + Hash + Copy, V> Generations<K, V> {
    pub(crate) fn new(half: usize) -> Self {
        Self { young: FxHashMap::default(), old: FxHashMap::default(), half: half.max(1), evicted: 0 }
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut V> {
        if !self.young.contains_key(&key) {
            let value = self.old.remove(&key)?;
            self.insert(key, value);
        }
        self.young.get_mut(&key)
    }

    /// Looks without making it young.
    pub(crate) fn peek(&self, key: K) -> Option<&V> {
        self.young.get(&key).or_else(|| self.old.get(&key))
    }

    pub(crate) fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        if !self.young.contains_key(&key) {
            self.make_room();
            let value = self.old.remove(&key).unwrap_or_else(make);
            return self.young.entry(key).or_insert(value);
        }
        self.young.entry(key).or_insert_with(make)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.make_room();
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Entries forgotten so far.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    fn make_room(&mut self) {
        if self.young.len() >= self.half {
            self.evicted += self.old.len() as u64;
            self.old = std::mem::take(&mut self.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_small_and_keeps_what_is_used() {
        let mut map = Generations::new(4);
        for i in 0..100u32 {
            map.insert(i, i);
            assert!(map.get_mut(0).is_some() || i == 0, "0 is used all the time, forgotten at {i}");
            assert!(map.len() <= 8);
        }
        assert!(map.evicted() > 80);
        assert!(map.get_mut(50).is_none());
    }
}
