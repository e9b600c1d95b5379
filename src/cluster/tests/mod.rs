//! Clusters that change.

mod dns;
mod pushes;
mod update;

use std::sync::Arc;

use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypost_xds::{json, yaml};

use super::compile::{compile, compile_after};
use super::{Cluster, ClusterTable, Host};
use crate::config::{ConfigError, Context, Process};
use crate::observe::access_log::AccessLogFiles;
use crate::observe::stats::Store;
use crate::tls::SecretStore;

struct Rig {
    stats: Arc<Store>,
    clusters: ClusterTable,
    logs: AccessLogFiles,
    secrets: Arc<SecretStore>,
    process: Process,
}

impl Rig {
    fn new() -> Rig {
        Rig {
            stats: Arc::default(),
            clusters: ClusterTable::default(),
            logs: AccessLogFiles::new(std::time::Duration::from_secs(10)),
            secrets: SecretStore::new(),
            process: Process::default(),
        }
    }

    fn after(&self, text: &str, old: Option<&Cluster>) -> Result<Arc<Cluster>, ConfigError> {
        self.proto(json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap(), old)
    }

    fn proto(
        &self,
        proto: waypost_xds::envoy::config::cluster::v3::Cluster,
        old: Option<&Cluster>,
    ) -> Result<Arc<Cluster>, ConfigError> {
        let cx = Context {
            stats: &self.stats,
            clusters: &self.clusters,
            logs: &self.logs,
            secrets: &self.secrets,
            routes: &Default::default(),
            extensions: &Default::default(),
            process: &self.process,
        };
        match old {
            None => compile(proto, &cx, "c"),
            some => compile_after(proto, &cx, "c", some),
        }
    }

    /// An EDS cluster, in its slot.
    fn eds(&self, more: &str) -> Arc<Cluster> {
        let cluster = self.after(&eds(more), None).unwrap();
        self.clusters.slot("a").set(Some(cluster.clone()));
        cluster
    }

    fn stat(&self, name: &str) -> u64 {
        self.stats.find(&format!("cluster.a.{name}")).unwrap()
    }
}

fn eds(more: &str) -> String {
    format!("{{name: a, type: EDS, eds_cluster_config: {{service_name: s, eds_config: {{ads: {{}}}}}}{more}}}")
}

fn assignment(endpoints: &str) -> ClusterLoadAssignment {
    let text = format!("{{cluster_name: s, endpoints: [{endpoints}]}}");
    json::from_value(&yaml::parse(&text).unwrap(), &json::Options::reject_unknown()).unwrap()
}

fn at(ports: &[u16]) -> String {
    let one =
        |p: &u16| format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {p}}}}}}}}}");
    format!("{{lb_endpoints: [{}]}}", ports.iter().map(one).collect::<Vec<_>>().join(","))
}

fn hosts(cluster: &Cluster) -> Vec<Arc<Host>> {
    cluster.hosts.load().all.to_vec()
}

fn ids(cluster: &Cluster) -> Vec<u64> {
    hosts(cluster).iter().map(|h| h.id).collect()
}
