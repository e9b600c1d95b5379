//! What is counted of discovery.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::Type;
use super::fetch::Subject;
use crate::observe::stats::{Counter, Gauge, Store};

/// The counters of a subscription (`<prefix>update_success` and so on).
#[allow(missing_docs, reason = "the fields are Envoy's stat names")]
pub struct SubscriptionStats {
    pub init_fetch_timeout: Counter,
    pub update_attempt: Counter,
    pub update_failure: Counter,
    pub update_rejected: Counter,
    pub update_success: Counter,
    pub version: Gauge,
}

impl SubscriptionStats {
    /// Handles under a prefix that ends with a dot.
    pub fn new(store: &Store, prefix: &str) -> SubscriptionStats {
        let counter = |n: &str| store.counter(&format!("{prefix}{n}"));
        SubscriptionStats {
            init_fetch_timeout: counter("init_fetch_timeout"),
            update_attempt: counter("update_attempt"),
            update_failure: counter("update_failure"),
            update_rejected: counter("update_rejected"),
            update_success: counter("update_success"),
            version: store.gauge(&format!("{prefix}version")),
        }
    }

    /// Under the prefix that Envoy has for a subject; none for those whose counters are a cluster's.
    pub fn of(store: &Store, subject: &Subject, owner: &str) -> Option<SubscriptionStats> {
        let name = &subject.name;
        let prefix = match subject.kind {
            Type::Cluster => "cluster_manager.cds.".to_owned(),
            Type::Listener => "listener_manager.lds.".to_owned(),
            Type::Route => format!("http.{owner}.rds.{name}."),
            Type::Secret => format!("sds.{name}."),
            Type::Extension => format!("extension_config_discovery.{owner}.{name}."),
            Type::Runtime => format!("runtime.{name}."),
            Type::Workload => "workload_discovery.".to_owned(),
            Type::Endpoints => return None,
        };
        Some(SubscriptionStats::new(store, &prefix))
    }

    /// Counts an update.
    pub fn update(&self, version: &str, accepted: bool) {
        self.update_attempt.inc();
        if accepted {
            self.update_success.inc();
            // Any number that changes with the version.
            let mut hasher = DefaultHasher::new();
            version.hash(&mut hasher);
            self.version.set(hasher.finish() >> 1);
        } else {
            self.update_rejected.inc();
        }
    }
}

/// What is counted of the manager itself.
#[allow(missing_docs, reason = "the fields are Envoy's stat names")]
pub struct ManagerStats {
    pub connected_state: Gauge,
    pub cluster_added: Counter,
    pub cluster_modified: Counter,
    pub cluster_removed: Counter,
    pub cluster_updated: Counter,
    pub workloads: Gauge,
    pub dynamic_unknown_fields: Counter,
}

impl ManagerStats {
    /// Handles.
    pub fn new(store: &Store) -> ManagerStats {
        ManagerStats {
            connected_state: store.gauge("control_plane.connected_state"),
            cluster_added: store.counter("cluster_manager.cluster_added"),
            cluster_modified: store.counter("cluster_manager.cluster_modified"),
            cluster_removed: store.counter("cluster_manager.cluster_removed"),
            cluster_updated: store.counter("cluster_manager.cluster_updated"),
            workloads: store.gauge("workload_discovery.total"),
            dynamic_unknown_fields: store.counter("server.dynamic_unknown_fields"),
        }
    }
}
