//! What comes by name from a source, and is shared by all that name it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::source::Source;

/// The slots of one kind of resource. One lives as long as something besides this table holds it.
#[derive(Debug)]
pub struct Slots<S> {
    slots: Mutex<HashMap<(Source, String), Arc<S>>>,
    wanted: Mutex<Vec<Arc<S>>>,
}

impl<S> Default for Slots<S> {
    fn default() -> Self {
        Slots { slots: Mutex::default(), wanted: Mutex::default() }
    }
}

impl<S> Slots<S> {
    /// The slot of a name, made if there is none.
    pub fn get_or_make(&self, source: Source, name: &str, make: impl FnOnce() -> S) -> Arc<S> {
        let mut slots = lock(&self.slots);
        let slot = slots.entry((source, name.to_owned())).or_insert_with(|| {
            let slot = Arc::new(make());
            lock(&self.wanted).push(slot.clone());
            slot
        });
        slot.clone()
    }

    /// The slot of a name, if anything names it.
    pub fn find(&self, source: &Source, name: &str) -> Option<Arc<S>> {
        lock(&self.slots).get(&(source.clone(), name.to_owned())).cloned()
    }

    /// The slots that were made since the last call.
    pub fn take_wanted(&self) -> Vec<Arc<S>> {
        std::mem::take(&mut *lock(&self.wanted))
    }

    /// Forgets the slots that nothing uses any more, and gives them.
    pub fn sweep(&self) -> Vec<Arc<S>> {
        // One that was made just now is used by what is being compiled.
        if !lock(&self.wanted).is_empty() {
            return Vec::new();
        }
        lock(&self.slots).extract_if(|_, slot| Arc::strong_count(slot) == 1).map(|(_, slot)| slot).collect()
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
