//! Extensions that come over ECDS, by name.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use waypost_xds::google::protobuf::Any;

use super::ConfigError;
use crate::discovery::slots::Slots;
use crate::discovery::source::Fetch;
use crate::observe::stats::{Counter, Store};

/// What uses an extension: a filter chain.
pub trait User: Send + Sync {
    /// Tries what has come, or the default where it was taken away. Nothing changes until what is given back is called.
    fn prepare(self: Arc<Self>, slot: &ExtensionSlot, config: Option<&Any>) -> Result<Commit, ConfigError>;
}

/// Puts what was tried in force.
pub type Commit = Box<dyn FnOnce()>;

/// Which filters an extension is one of; the name that is part of its counters'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Of a connection manager.
    Http,
    /// Of a filter chain.
    Network,
}

impl Family {
    /// As in `extension_config_discovery.<family>.<name>.`.
    pub fn name(self) -> &'static str {
        match self {
            Family::Http => "http_filter",
            Family::Network => "network_filter",
        }
    }
}

/// One extension of ECDS. Filter chains that name the same one share it.
pub struct ExtensionSlot {
    /// The filter's name, which the resource has too.
    pub name: String,
    /// Where it comes from, and how long it is waited for.
    pub fetch: Fetch,
    /// That of the filter that named it first.
    pub family: Family,
    /// What is counted of it.
    pub stats: ExtensionStats,
    current: Mutex<Option<Any>>,
    users: Mutex<Vec<Weak<dyn User>>>,
}

/// `extension_config_discovery.<family>.<name>.…`
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are Envoy's stat names")]
pub struct ExtensionStats {
    pub config_reload: Counter,
    pub config_fail: Counter,
    pub config_conflict: Counter,
}

/// All slots.
pub type ExtensionSlots = Slots<ExtensionSlot>;

impl fmt::Debug for ExtensionSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtensionSlot").field("name", &self.name).field("fetch", &self.fetch).finish()
    }
}

impl ExtensionStats {
    fn new(store: &Store, family: Family, name: &str) -> ExtensionStats {
        let counter = |n: &str| store.counter(&format!("extension_config_discovery.{}.{name}.{n}", family.name()));
        ExtensionStats {
            config_reload: counter("config_reload"),
            config_fail: counter("config_fail"),
            config_conflict: counter("config_conflict"),
        }
    }
}

impl ExtensionSlot {
    /// What has come and was accepted.
    pub fn current(&self) -> Option<Any> {
        lock(&self.current).clone()
    }

    /// Whether it has come.
    pub fn is_here(&self) -> bool {
        lock(&self.current).is_some()
    }

    /// Whether just this has come before.
    pub fn holds(&self, config: &Any) -> bool {
        lock(&self.current).as_ref() == Some(config)
    }

    /// Tries a configuration on all users, or takes it away from them; where one refuses it, nothing changes for any.
    pub fn set(&self, config: Option<Any>) -> Result<(), ConfigError> {
        let users: Vec<_> = lock(&self.users).iter().filter_map(Weak::upgrade).collect();
        let tried = users.into_iter().map(|user| user.prepare(self, config.as_ref()));
        let tried = tried.collect::<Result<Vec<Commit>, _>>()?;
        *lock(&self.current) = config;
        for commit in tried {
            commit();
        }
        self.stats.config_reload.inc();
        Ok(())
    }

    /// From now on this user is told of changes, for as long as it lives.
    pub fn tell(&self, user: Weak<dyn User>) {
        let mut users = lock(&self.users);
        // Each listener update brings new users; looking through them only when the list would grow keeps that cheap.
        if users.len() == users.capacity() {
            users.retain(|u| u.strong_count() > 0);
        }
        users.push(user);
    }
}

impl ExtensionSlots {
    /// The slot of a name, made if there is none.
    pub fn slot(&self, fetch: Fetch, name: &str, family: Family, stats: &Store) -> Arc<ExtensionSlot> {
        self.get_or_make(fetch.source.clone(), name, || ExtensionSlot {
            name: name.to_owned(),
            fetch,
            family,
            stats: ExtensionStats::new(stats, family, name),
            current: Mutex::default(),
            users: Mutex::default(),
        })
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
