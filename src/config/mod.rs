//! From protobuf to what runs: everything is compiled here, once.

pub mod bootstrap;
pub mod convert;

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
    /// Where route tables of RDS will be.
    pub routes: &'a crate::route::slot::RouteSlots,
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

/// Says that a field is set which nothing acts on yet: traffic flows as if it were not there.
pub fn warn_ignored(set: bool, path: &str, field: &str) {
    if set {
        tracing::warn!("{path}.{field} has no effect yet");
    }
}

/// Says the same as [`warn_ignored`], but once in the life of the process for a field of whatever resource: a push has thousands of clusters.
pub fn warn_once(set: bool, path: &str, field: &str) {
    if set {
        say_once(&format!("{}.{field} has no effect yet", without_indexes(path)));
    }
}

/// Logs a warning, unless the same one was logged before. The text must not hold what a peer chooses: all of them are remembered.
pub fn say_once(text: &str) {
    static SAID: std::sync::Mutex<std::collections::BTreeSet<String>> =
        std::sync::Mutex::new(std::collections::BTreeSet::new());
    let mut said = SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !said.contains(text) {
        said.insert(text.to_owned());
        tracing::warn!(target: "config", "{text} (said once)");
    }
}

/// A path without what is in brackets and parentheses: indexes and names.
fn without_indexes(path: &str) -> String {
    let mut depth = 0u32;
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '[' | '(' => depth += 1,
            ']' | ')' => depth = depth.saturating_sub(1),
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out
}

/// A field that is not supported must hold its default.
pub fn refuse<T: Default + PartialEq>(value: &T, path: &str, field: &str) -> Result<(), ConfigError> {
    if *value == T::default() { Ok(()) } else { Err(ConfigError::unsupported(format!("{path}.{field}"))) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_path_is_one_key_whatever_is_counted_or_named_in_it() {
        assert_eq!(super::without_indexes("clusters[17].x (a[1]).y[outbound|80||a.b]"), "clusters.x .y");
    }
}
