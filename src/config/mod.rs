//! From protobuf to what runs: everything is compiled here, once.

pub mod access_log;
pub mod bootstrap;
pub mod convert;
pub mod extension;
pub mod extension_slot;
#[cfg(test)]
mod not_yet;
pub mod peers;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use waypost_filters::format::header_ops::HeaderOpsError;
use waypost_filters::matcher::MatcherError;

use crate::cluster::ClusterTable;
use crate::observe::access_log::AccessLogFiles;
use crate::observe::stats::Store;

/// What every compiler of a resource needs.
pub struct Context<'a> {
    /// Where stat handles come from.
    pub stats: &'a std::sync::Arc<Store>,
    /// Where cluster slots come from.
    pub clusters: &'a ClusterTable,
    /// Where access-log files are opened; one writer for each path.
    pub logs: &'a AccessLogFiles,
    /// Where TLS secrets come from.
    pub secrets: &'a crate::tls::SecretStore,
    /// Where route tables of RDS will be, and what connection managers share.
    pub routes: &'a crate::route::slot::RouteSlots,
    /// Where extensions of ECDS will be.
    pub extensions: &'a extension_slot::ExtensionSlots,
    /// What the command line and the bootstrap say about the process.
    pub process: &'a Process,
}

/// What is known of the process when resources are compiled.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// `node.id`.
    pub node_id: String,
    /// `node.cluster`.
    pub node_cluster: String,
    /// `node.metadata`.
    pub node_metadata: std::sync::Arc<serde_json::Value>,
    /// `--reject-unknown-dynamic-fields`
    pub reject_unknown_dynamic: bool,
    /// `envoy.reloadable_features.http_reject_path_with_fragment`; istiod sets it to false, and then a fragment is cut off.
    pub strip_fragment: bool,
}

/// A resource that cannot be used, with the path of the field that is why.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{path}: {reason}")]
pub struct ConfigError {
    /// The field, such as `static_resources.listeners[0].filter_chains[0].filters[0]`.
    pub path: String,
    /// What was expected, or what is not supported.
    pub reason: String,
}

impl ConfigError {
    /// An error at a path.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> ConfigError {
        ConfigError { path: path.into(), reason: reason.into() }
    }

    /// A field whose meaning is not built yet.
    pub fn unsupported(path: impl Into<String>) -> ConfigError {
        ConfigError::new(path, "not supported yet")
    }
}

impl From<waypost_xds::Error> for ConfigError {
    fn from(e: waypost_xds::Error) -> ConfigError {
        ConfigError { path: e.path, reason: e.reason }
    }
}

impl From<MatcherError> for ConfigError {
    fn from(e: MatcherError) -> ConfigError {
        ConfigError { path: e.path, reason: e.reason }
    }
}

impl From<HeaderOpsError> for ConfigError {
    fn from(e: HeaderOpsError) -> ConfigError {
        ConfigError { path: e.path, reason: e.reason }
    }
}

/// Says that a field is set which nothing acts on yet: traffic flows as if it were not there. Once for each field of a kind of message.
pub fn warn_ignored(set: bool, path: &str, field: &str) {
    if set {
        let message = path.rsplit('.').next().and_then(|last| last.split('[').next()).unwrap_or_default();
        warn_once(&format!("{message}.{field}"), || format!("{path}.{field} has no effect yet"));
    }
}

/// The keys of what [`warn_once`] has said. They come from the code or from type names; a control plane that makes up names stops being
/// listened to at this many.
const WARNED: usize = 1024;

/// Warns once for each key in the life of the process: istiod sends the same few fields with every resource of every push.
pub fn warn_once(key: &str, text: impl FnOnce() -> String) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.len() < WARNED && !said.contains(key) {
        said.insert(key.to_owned());
        drop(said);
        tracing::warn!("{}", text());
    }
}

/// Warns once of something that is told by its text. The text must not hold what a peer chooses.
pub fn say_once(text: &str) {
    warn_once(text, || text.to_owned());
}

/// A field that is not supported must hold its default.
pub fn refuse<T: Default + PartialEq>(value: &T, path: &str, field: &str) -> Result<(), ConfigError> {
    if *value == T::default() { Ok(()) } else { Err(ConfigError::unsupported(format!("{path}.{field}"))) }
}
