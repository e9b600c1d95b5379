//! Route tables that come over RDS, by name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwapOption, Guard};

use super::RouteTable;
use crate::discovery::source::{Fetch, Source};
use crate::http::config::KnownSettings;

/// Where a connection manager's routes are: in its own configuration, or in a slot that RDS fills.
#[derive(Clone, Debug)]
pub enum Routes {
    /// `route_config`
    Here(Arc<RouteTable>),
    /// `rds`
    Slot(Arc<RouteSlot>),
}

/// A route table while a request uses it. A guard costs no reference count, so no cache line that other workers write.
pub enum TableRef<'a> {
    /// One that does not change.
    Here(&'a RouteTable),
    /// What the slot held when the request came.
    Loaded(Guard<Option<Arc<RouteTable>>>),
}

/// One route table of RDS. Connection managers that name the same one share it.
#[derive(Debug)]
pub struct RouteSlot {
    /// `route_config_name`
    pub name: String,
    /// Where it comes from, and how long it is waited for.
    pub fetch: Fetch,
    /// The `stat_prefix` of the first connection manager that named it.
    pub prefix: String,
    /// The table, once there is one.
    pub current: ArcSwapOption<RouteTable>,
}

/// What connection managers share: all slots, and settings.
#[derive(Debug, Default)]
pub struct RouteSlots {
    /// Settings that have been compiled before.
    pub settings: KnownSettings,
    slots: Mutex<HashMap<(Source, String), Arc<RouteSlot>>>,
    wanted: Mutex<Vec<Arc<RouteSlot>>>,
}

impl Routes {
    /// The table for a request that comes now.
    pub fn load(&self) -> TableRef<'_> {
        match self {
            Routes::Here(table) => TableRef::Here(table),
            Routes::Slot(slot) => TableRef::Loaded(slot.current.load()),
        }
    }

    /// The slot, where RDS gives the table.
    pub fn slot(&self) -> Option<&Arc<RouteSlot>> {
        match self {
            Routes::Here(_) => None,
            Routes::Slot(slot) => Some(slot),
        }
    }
}

impl TableRef<'_> {
    /// The table; none while RDS has not given one.
    pub fn get(&self) -> Option<&RouteTable> {
        match self {
            TableRef::Here(table) => Some(table),
            TableRef::Loaded(loaded) => loaded.as_deref(),
        }
    }
}

impl RouteSlots {
    /// The slot of a name, made if there is none.
    pub fn slot(&self, fetch: Fetch, name: &str, prefix: &str) -> Arc<RouteSlot> {
        let key = (fetch.source.clone(), name.to_owned());
        let mut slots = lock(&self.slots);
        let slot = slots.entry(key).or_insert_with(|| {
            let slot = Arc::new(RouteSlot {
                name: name.to_owned(),
                fetch,
                prefix: prefix.to_owned(),
                current: ArcSwapOption::empty(),
            });
            lock(&self.wanted).push(slot.clone());
            slot
        });
        slot.clone()
    }

    /// The slot of a name, if anything names it.
    pub fn find(&self, source: &Source, name: &str) -> Option<Arc<RouteSlot>> {
        lock(&self.slots).get(&(source.clone(), name.to_owned())).cloned()
    }

    /// The slots that were made since the last call.
    pub fn take_wanted(&self) -> Vec<Arc<RouteSlot>> {
        std::mem::take(&mut *lock(&self.wanted))
    }

    /// Forgets the slots that nothing uses any more, and gives them.
    pub fn sweep(&self) -> Vec<Arc<RouteSlot>> {
        // One that was made just now is used by what is being compiled.
        if !lock(&self.wanted).is_empty() {
            return Vec::new();
        }
        let mut gone = Vec::new();
        lock(&self.slots).retain(|_, slot| {
            let used = Arc::strong_count(slot) > 1;
            if !used {
                gone.push(slot.clone());
            }
            used
        });
        gone
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
