//! The messages that are in force, for `/config_dump`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use waypost_xds::envoy::config::bootstrap::v3::Bootstrap;
use waypost_xds::google::protobuf::Any;

/// The resource types of `/config_dump`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`, as EDS sent it.
    Endpoints,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`; those within listeners are static, those of RDS dynamic.
    Route,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
    /// `envoy.config.core.v3.TypedExtensionConfig` of ECDS.
    Extension,
}

/// One resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// The message as it came.
    pub message: Any,
    /// The version of the response it came in; `None` for what the bootstrap holds.
    pub version: Option<String>,
    /// When it came.
    pub updated: SystemTime,
    /// An update that was rejected after this one was accepted (`error_state`).
    pub failed: Option<Failed>,
}

/// An update that was rejected (`admin.v3.UpdateFailureState`).
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// The message.
    pub message: Option<Any>,
    /// Its version.
    pub version: String,
    /// Why.
    pub details: String,
    /// When.
    pub at: SystemTime,
}

/// All resources, and the bootstrap.
#[derive(Debug, Default)]
pub struct ConfigStore {
    inner: Mutex<Inner>,
}

/// What the store holds.
#[derive(Debug, Default)]
pub(super) struct Inner {
    /// In wire form, which is a fraction of the message's size in memory.
    pub bootstrap: Option<(Vec<u8>, SystemTime)>,
    /// In force.
    pub resources: BTreeMap<Kind, BTreeMap<String, Resource>>,
    /// Waiting for something before they take the place of those in force.
    pub warming: BTreeMap<Kind, BTreeMap<String, Resource>>,
    /// Refused, without one that had been accepted.
    pub refused: BTreeMap<Kind, BTreeMap<String, Failed>>,
    pub versions: BTreeMap<Kind, String>,
}

impl ConfigStore {
    /// Keeps the bootstrap, as merged from file and command line.
    pub fn set_bootstrap(&self, bootstrap: &Bootstrap) {
        self.lock().bootstrap = Some((prost::Message::encode_to_vec(bootstrap), SystemTime::now()));
    }

    /// Keeps a resource of the bootstrap.
    pub fn put_static(&self, kind: Kind, name: &str, message: Any) {
        self.put(kind, name, Resource::new(message, None));
    }

    /// Keeps a resource of a discovery service.
    pub fn put_dynamic(&self, kind: Kind, name: &str, message: Any, version: &str, warming: bool) {
        let mut resource = Resource::new(message, Some(version.to_owned()));
        let mut inner = self.lock();
        inner.refused.get_mut(&kind).and_then(|m| m.remove(name));
        let into = if warming {
            inner.warming.entry(kind).or_default()
        } else {
            inner.warming.get_mut(&kind).and_then(|m| m.remove(name));
            inner.resources.entry(kind).or_default()
        };
        match into.get_mut(name) {
            Some(old) => {
                // Most of a push is what was there before. It stays where it lies: thousands of copies would move to the end of the heap, one by
                // one, and hold what lies free before them.
                if old.message == resource.message {
                    std::mem::swap(&mut old.message, &mut resource.message);
                }
                *old = resource;
            }
            None => {
                into.insert(name.to_owned(), resource);
            }
        }
    }

    /// A resource is used from now on.
    pub fn warmed(&self, kind: Kind, name: &str) {
        let mut inner = self.lock();
        if let Some(resource) = inner.warming.get_mut(&kind).and_then(|m| m.remove(name)) {
            inner.resources.entry(kind).or_default().insert(name.to_owned(), resource);
        }
    }

    /// A resource that waited is not wanted any more.
    pub fn dropped(&self, kind: Kind, name: &str) {
        self.lock().warming.get_mut(&kind).and_then(|m| m.remove(name));
    }

    /// An update was rejected; what was in force, or waits to be, remains so.
    pub fn failed(&self, kind: Kind, name: &str, failed: Failed) {
        let mut inner = self.lock();
        let Inner { resources, warming, refused, .. } = &mut *inner;
        let mut of = [warming, resources].into_iter().filter_map(|all| all.get_mut(&kind)?.get_mut(name));
        match of.next() {
            Some(resource) => resource.failed = Some(failed),
            None => {
                refused.entry(kind).or_default().insert(name.to_owned(), failed);
            }
        }
    }

    /// Forgets a resource.
    pub fn remove(&self, kind: Kind, name: &str) {
        let mut inner = self.lock();
        inner.resources.get_mut(&kind).and_then(|m| m.remove(name));
        inner.warming.get_mut(&kind).and_then(|m| m.remove(name));
        inner.refused.get_mut(&kind).and_then(|m| m.remove(name));
    }

    /// The version of the last response that was accepted (`version_info` of clusters and listeners).
    pub fn set_version(&self, kind: Kind, version: &str) {
        self.lock().versions.insert(kind, version.to_owned());
    }

    /// Whether the newest content of a resource, in force or waiting, is just this.
    pub fn same(&self, kind: Kind, name: &str, message: &Any) -> bool {
        let inner = self.lock();
        let of = |m: &BTreeMap<Kind, BTreeMap<String, Resource>>| {
            m.get(&kind).and_then(|m| m.get(name)).map(|r| r.message == *message)
        };
        of(&inner.warming).or_else(|| of(&inner.resources)).unwrap_or(false)
    }

    /// One resource.
    pub fn get(&self, kind: Kind, name: &str) -> Option<Resource> {
        self.lock().resources.get(&kind)?.get(name).cloned()
    }

    /// How many resources of a type wait for something.
    pub fn warming(&self, kind: Kind) -> usize {
        self.lock().warming.get(&kind).map_or(0, BTreeMap::len)
    }

    fn put(&self, kind: Kind, name: &str, resource: Resource) {
        self.lock().resources.entry(kind).or_default().insert(name.to_owned(), resource);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resource {
    fn new(message: Any, version: Option<String>) -> Resource {
        Resource { message, version, updated: SystemTime::now(), failed: None }
    }
}
