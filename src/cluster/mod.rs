//! Clusters: hosts, load balancing, connection pools.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use waypost_filters::stream::ClusterNames;

/// Where a cluster of a name is, or will be, or was. Routes hold slots, so that a cluster can come, change and go without touching them.
#[derive(Debug)]
pub struct ClusterSlot {
    /// The cluster's name.
    pub name: Arc<str>,
    /// A number among all slots of the process; workers index their pools by it.
    pub index: usize,
    /// The cluster, while there is one.
    pub current: ArcSwapOption<Cluster>,
}

/// A cluster as it is now.
#[derive(Debug)]
pub struct Cluster {
    /// Its names.
    pub names: Arc<ClusterNames>,
}

/// All slots of the process, by name.
#[derive(Debug, Default)]
pub struct ClusterTable {
    slots: Mutex<HashMap<Arc<str>, Arc<ClusterSlot>>>,
}

impl ClusterTable {
    /// The slot of a name, made if there is none.
    pub fn slot(&self, name: &str) -> Arc<ClusterSlot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(s) = slots.get(name) {
            return s.clone();
        }
        let name: Arc<str> = name.into();
        let slot = Arc::new(ClusterSlot { name: name.clone(), index: slots.len(), current: ArcSwapOption::empty() });
        slots.insert(name, slot.clone());
        slot
    }
}
