//! Clusters by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::Cluster;

/// Where a cluster of a name is, or will be, or was. Routes hold slots, so that a cluster can come, change and go without touching them.
#[derive(Debug)]
pub struct ClusterSlot {
    /// The cluster's name.
    pub name: Arc<str>,
    /// A number among all slots of the process.
    pub index: usize,
    /// The cluster, while there is one.
    pub current: ArcSwapOption<Cluster>,
}

type Slots = HashMap<Arc<str>, Arc<ClusterSlot>>;

/// All slots of the process, by name.
#[derive(Debug, Default)]
pub struct ClusterTable {
    /// Read without a lock by what names a cluster at request time (`cluster_header`).
    slots: ArcSwap<Slots>,
    changing: Mutex<()>,
}

impl ClusterTable {
    /// The slot of a name, made if there is none. For configuration time.
    pub fn slot(&self, name: &str) -> Arc<ClusterSlot> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = self.slots.load_full();
        if let Some(s) = slots.get(name) {
            return s.clone();
        }
        let name: Arc<str> = name.into();
        let slot = Arc::new(ClusterSlot { name: name.clone(), index: slots.len(), current: ArcSwapOption::empty() });
        let mut next = (*slots).clone();
        next.insert(name, slot.clone());
        self.slots.store(Arc::new(next));
        slot
    }

    /// The slot of a name, if anything ever named it. For request time.
    pub fn find(&self, name: &str) -> Option<Arc<ClusterSlot>> {
        self.slots.load().get(name).cloned()
    }

    /// All clusters there are now, by name.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        let mut all: Vec<Arc<Cluster>> = self.slots.load().values().filter_map(|s| s.current.load_full()).collect();
        all.sort_by(|a, b| a.names.name.cmp(&b.names.name));
        all
    }
}
