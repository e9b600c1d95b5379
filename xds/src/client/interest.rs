//! Which resources of a type are wanted.

use super::WILDCARD;
use std::collections::BTreeSet;

/// Names, the wildcard apart from them. Sorted, so that requests can be foretold.
#[derive(Debug, Default)]
pub struct Interest {
    pub wildcard: bool,
    pub names: BTreeSet<String>,
}

impl Interest {
    /// Whether it is new.
    pub fn add(&mut self, name: &str) -> bool {
        if name == WILDCARD { !std::mem::replace(&mut self.wildcard, true) } else { self.names.insert(name.to_owned()) }
    }

    /// Whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        if name == WILDCARD { std::mem::take(&mut self.wildcard) } else { self.names.remove(name) }
    }

    /// Whether anybody wants the resource.
    pub fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    /// The list that asks for it all. A wildcard alone is the empty list, which servers of every age understand.
    pub fn list(&self) -> Vec<String> {
        let star = self.wildcard && !self.names.is_empty();
        star.then(|| WILDCARD.to_owned()).into_iter().chain(self.names.iter().cloned()).collect()
    }
}
