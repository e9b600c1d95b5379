//! The proxy inside the test's own process, so that a test can do what the control thread does.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use waypost::cluster::compile::compile_after;
use waypost::cluster::{Cluster, ClusterTable};
use waypost::config::{Context, Process, bootstrap};
use waypost::lifecycle::{Drain, DrainStrategy};
use waypost::listener::manager::ListenerManager;
use waypost::observe::access_log::AccessLogFiles;
use waypost::observe::stats::Store;
use waypost::tls::SecretStore;
use waypost::worker::{self, Command, Shared};
use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypost_xds::{json, yaml};

use super::{Config, Wire};

/// A proxy of one worker.
pub struct Inside {
    shared: Arc<Shared>,
    logs: AccessLogFiles,
    secrets: Arc<SecretStore>,
    config: Config,
}

impl Config {
    /// Starts it in this process; it listens when this returns.
    pub fn start_inside(self) -> Inside {
        let mut settings = bootstrap::settings(bootstrap::read("", &self.yaml(), true).unwrap()).unwrap();
        let (stats, clusters) = (Arc::new(Store::default()), ClusterTable::default());
        let logs = AccessLogFiles::new(Duration::from_millis(20));
        let secrets = SecretStore::new();
        let resources = std::mem::take(&mut settings.resources);
        let context = Context {
            stats: &stats,
            clusters: &clusters,
            logs: &logs,
            secrets: &secrets,
            routes: &Default::default(),
            extensions: &Default::default(),
            process: &Process::default(),
        };
        let compiled = bootstrap::compile(resources, &context).unwrap();
        let shared = Arc::new(Shared {
            clusters,
            listeners: Default::default(),
            stats,
            drain: Drain::new(DrainStrategy::Immediate, Duration::from_secs(1)),
            workers: OnceLock::new(),
            overload: settings.overload,
        });
        drop(worker::start(&shared, 1).unwrap());
        let mut listeners = ListenerManager::new(shared.clone());
        for listener in compiled.listeners {
            listeners.add_static(listener).unwrap();
        }
        Inside { shared, logs, secrets, config: self }
    }
}

impl Inside {
    /// A client's connection to the listener `main`.
    pub async fn connect(&self) -> Wire {
        Wire::connect(self.config.addr("main")).await
    }

    /// The cluster of a name.
    pub fn cluster(&self, name: &str) -> Arc<Cluster> {
        self.shared.clusters.find(name).unwrap().current.load_full().unwrap()
    }

    /// Gives a cluster an assignment, as EDS does.
    pub fn assign(&self, name: &str, endpoints: &str) {
        let text = format!("{{cluster_name: {name}, endpoints: [{{lb_endpoints: [{endpoints}]}}]}}");
        let options = json::Options::reject_unknown();
        let assignment: ClusterLoadAssignment = json::from_value(&yaml::parse(&text).unwrap(), &options).unwrap();
        self.cluster(name).assign(&assignment, "eds").unwrap();
    }

    /// Replaces a cluster by its next version, as CDS does.
    pub fn replace(&self, name: &str, text: &str) {
        let proto = json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap();
        let Inside { shared, logs, secrets, .. } = self;
        let process = Process::default();
        let (stats, clusters, routes) = (&shared.stats, &shared.clusters, &Default::default());
        let cx = Context { stats, clusters, logs, secrets, routes, extensions: &Default::default(), process: &process };
        let next = compile_after(proto, &cx, "cds", Some(&self.cluster(name))).unwrap();
        shared.clusters.slot(name).set(Some(next));
    }

    /// Removes a cluster.
    pub fn remove(&self, name: &str) {
        self.shared.clusters.slot(name).set(None);
    }

    /// A counter or gauge; none where nothing of that name is counted.
    pub fn stat(&self, name: &str) -> Option<u64> {
        self.shared.stats.find(name)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        for worker in self.shared.workers.get().into_iter().flatten() {
            worker.sender.send(Command::Stop).ok();
        }
    }
}
