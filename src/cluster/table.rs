//! Clusters by name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::Cluster;

/// Where a cluster of a name is, or will be, or was. Routes hold slots, so that a cluster can come, change and go without touching them.
#[derive(Debug)]
pub struct ClusterSlot {
    /// The cluster's name.
    pub name: Arc<str>,
    /// The cluster, while there is one.
    pub current: ArcSwapOption<Cluster>,
}

type Slots = HashMap<Arc<str>, Arc<ClusterSlot>>;

/// All slots of the process, by name.
#[derive(Debug, Default)]
pub struct ClusterTable {
    /// Read without a lock by what names a cluster at request time (`cluster_header`).
    published: ArcSwap<Slots>,
    /// All of them: configuration makes thousands in a row, and publishes them at once.
    made: Mutex<Slots>,
    /// Whether some are made and not published.
    behind: AtomicBool,
}

/// Counts changes of slots, so that workers look for what is left over of clusters only when there may be something.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// How often any slot has changed.
pub fn changes() -> u64 {
    CHANGES.load(Relaxed)
}

impl ClusterSlot {
    /// Puts a cluster into the slot, or none. Pools of hosts that the old cluster had and the new one has not drain; requests in flight end well.
    /// For the control thread. Gives the old cluster.
    pub fn set(&self, next: Option<Arc<Cluster>>) -> Option<Arc<Cluster>> {
        if let Some(next) = &next {
            next.enter();
        }
        let old = self.current.swap(next.clone());
        if let Some(old) = &old {
            let same = next.as_ref().is_some_and(|n| Arc::ptr_eq(n, old));
            if !same {
                old.leave(next.as_deref());
            }
        }
        CHANGES.fetch_add(1, Relaxed);
        old
    }
}

impl ClusterTable {
    fn made(&self) -> MutexGuard<'_, Slots> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of a name, made if there is none. For configuration time; [`publish`](ClusterTable::publish) after a batch.
    pub fn slot(&self, name: &str) -> Arc<ClusterSlot> {
        let mut made = self.made();
        if let Some(s) = made.get(name) {
            return s.clone();
        }
        let name: Arc<str> = name.into();
        let slot = Arc::new(ClusterSlot { name: name.clone(), current: ArcSwapOption::empty() });
        made.insert(name, slot.clone());
        self.behind.store(true, Relaxed);
        slot
    }

    /// Lets requests find what has been made, without a lock, and forgets the slots that have no cluster and that nobody holds.
    pub fn publish(&self) {
        let mut made = self.made();
        let published = self.published.load_full();
        // Held by both maps, a slot is held by nobody else.
        let maps = |name: &Arc<str>| 1 + usize::from(published.contains_key(name));
        made.retain(|name, slot| slot.current.load().is_some() || Arc::strong_count(slot) > maps(name));
        made.shrink_to_fit();
        self.published.store(Arc::new(made.clone()));
        self.behind.store(false, Relaxed);
    }

    /// The slot of a name, if anything ever named it. For request time: it takes a lock only for a name that is not known, and only between the
    /// making of slots and their publication.
    pub fn find(&self, name: &str) -> Option<Arc<ClusterSlot>> {
        let found = self.published.load().get(name).cloned();
        if found.is_some() || !self.behind.load(Relaxed) {
            return found;
        }
        self.made().get(name).cloned()
    }

    /// All clusters there are now, by name.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        let mut all: Vec<Arc<Cluster>> = self.made().values().filter_map(|s| s.current.load_full()).collect();
        all.sort_by(|a, b| a.names.name.cmp(&b.names.name));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_found_at_once_and_forgotten_when_nobody_wants_it() {
        let table = ClusterTable::default();
        let kept = table.slot("a");
        drop(table.slot("b"));
        assert!(table.find("a").is_some() && table.find("b").is_some() && table.find("c").is_none());
        table.publish();
        assert!(Arc::ptr_eq(&table.find("a").unwrap(), &kept) && Arc::ptr_eq(&table.slot("a"), &kept));
        assert!(table.find("b").is_none());
    }
}
