// SPDX-License-Identifier: MIT OR Apache-2.0
//! The objects of one kind as they are now. Written by the thread that watches them, read by anyone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::object::{Key, Object};

/// Objects of one kind, at most; more are counted.
const MOST: usize = 50_000;

/// How far the objects of a kind can be relied on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// The server has been asked.
    #[default]
    Asked,
    /// They are as the server has them.
    Known,
    /// The cluster has no such kind.
    Absent,
    /// The server said why not, or did not answer; safe to print. What was known before is kept.
    Failed(String),
}

#[derive(Debug)]
struct StoreContents<K> {
    objects: BTreeMap<Key, Arc<K>>,
    state: State,
    beyond: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Store<K> {
    inside: RwLock<StoreContents<K>>,
    changes: AtomicU64,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        let inside = StoreContents { objects: BTreeMap::new(), state: State::Asked, beyond: 0 };
        Self { inside: RwLock::new(inside), changes: AtomicU64::new(0) }
    }
}

impl<K: Object> Store<K> {
    pub fn state(&self) -> State {
        self.read().state.clone()
    }

    /// Goes up with every change of objects or state.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.read().objects.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// By namespace and name.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    /// Objects for which there was no room.
    pub fn beyond(&self) -> usize {
        self.read().beyond
    }

    /// What the server has is this.
    pub fn replace(&self, objects: Vec<K>) {
        let mut inside = self.write();
        inside.beyond = objects.len().saturating_sub(MOST);
        inside.objects =
            objects.into_iter().take(MOST).map(|object| (object.meta().key(), Arc::new(object))).collect();
        inside.state = State::Known;
        self.changed(inside);
    }

    /// One came, or is another now.
    pub fn apply(&self, object: K) {
        let mut inside = self.write();
        let key = object.meta().key();
        if inside.objects.len() < MOST || inside.objects.contains_key(&key) {
            inside.objects.insert(key, Arc::new(object));
        } else {
            inside.beyond += 1;
        }
        self.changed(inside);
    }

    pub fn remove(&self, key: &Key) {
        let mut inside = self.write();
        inside.objects.remove(key);
        self.changed(inside);
    }

    pub fn set_state(&self, state: State) {
        let mut inside = self.write();
        if inside.state != state {
            if state == State::Absent {
                inside.objects.clear();
            }
            inside.state = state;
            self.changed(inside);
        }
    }

    fn changed(&self, inside: RwLockWriteGuard<'_, StoreContents<K>>) {
        // Before the lock goes: who sees the new number reads the new objects.
        self.changes.fetch_add(1, Ordering::Release);
        drop(inside);
    }

    fn read(&self) -> RwLockReadGuard<'_, StoreContents<K>> {
        self.inside.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, StoreContents<K>> {
        self.inside.write().unwrap_or_else(PoisonError::into_inner)
    }
}
