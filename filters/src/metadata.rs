//! Dynamic metadata, and the metadata of hosts, clusters and routes (`config.core.v3.Metadata.filter_metadata`).

use std::sync::Arc;

use serde_json::Value;
use smallvec::SmallVec;

/// A few namespaces, each with a struct. Looked up by scanning: there are seldom more than three.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    namespaces: SmallVec<[(Arc<str>, Arc<Value>); 2]>,
}

impl Metadata {
    /// The struct of one namespace.
    pub fn get(&self, namespace: &str) -> Option<&Arc<Value>> {
        self.namespaces.iter().find(|(n, _)| &**n == namespace).map(|(_, v)| v)
    }

    /// The value at a path inside a namespace.
    pub fn at<'a>(&self, namespace: &str, path: impl IntoIterator<Item = &'a str>) -> Option<&Value> {
        path.into_iter().try_fold(&**self.get(namespace)?, |value, key| value.get(key))
    }

    /// Sets a namespace, replacing what it held.
    pub fn set(&mut self, namespace: Arc<str>, value: Arc<Value>) {
        match self.namespaces.iter_mut().find(|(n, _)| *n == namespace) {
            Some((_, v)) => *v = value,
            None => self.namespaces.push((namespace, value)),
        }
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }

    /// All namespaces.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Value>)> {
        self.namespaces.iter().map(|(n, v)| (n, v))
    }
}
