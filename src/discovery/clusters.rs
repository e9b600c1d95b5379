//! CDS: clusters come, warm, change and go.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use prost::Message;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use waypost_xds::client::Update;
use waypost_xds::envoy::config::cluster::v3;
use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::apply::{Decoded, Failures};
use super::fetch::{Fetches, Subject};
use super::source::{Fetch, Source};
use super::{Manager, Type};
use crate::admin::Kind;
use crate::cluster::{self, Cluster, Discovery};
use crate::config::ConfigError;

/// What is known of a cluster.
#[derive(Default)]
struct Entry {
    /// In force.
    active: Option<Arc<Cluster>>,
    /// Waits for its endpoints, secrets or names.
    warming: Option<Arc<Cluster>>,
    /// What its endpoints are asked for as.
    endpoints: Option<Subject>,
    /// The task that resolves its names.
    resolver: Option<Resolver>,
    /// Whether names have been resolved once.
    resolved: Option<Rc<Cell<bool>>>,
    /// Whether it is the bootstrap's: CDS cannot change it.
    fixed: bool,
}

impl Entry {
    /// Whether its endpoints and names are known, or nobody waits for them any more.
    fn has_hosts(&self, fetches: &Fetches) -> bool {
        self.endpoints.as_ref().is_none_or(|s| fetches.settled(s)) && self.resolved.as_ref().is_none_or(|r| r.get())
    }
}

/// A task that ends with what it is for.
struct Resolver(JoinHandle<()>);

impl Drop for Resolver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All clusters.
#[derive(Default)]
pub(super) struct Clusters {
    all: HashMap<String, Entry>,
    /// Which clusters have the endpoints of a subject.
    by_endpoints: HashMap<Subject, BTreeSet<String>>,
    /// Those that are not in force yet.
    warming: BTreeSet<String>,
    /// Rung when names have been resolved.
    pub resolved: Rc<Notify>,
}

impl Clusters {
    /// Whether none waits any more, the bootstrap's among them.
    pub fn are_warm(&self, fetches: &Fetches) -> bool {
        self.warming.is_empty() && self.all.values().filter(|e| e.fixed).all(|e| e.has_hosts(fetches))
    }

    /// Counts a stream that broke off for the clusters whose endpoints it gives.
    pub fn lost(&self, source: &Source) {
        for (_, names) in self.by_endpoints.iter().filter(|(s, _)| s.source == *source) {
            let entries = names.iter().filter_map(|n| self.all.get(n));
            // Versions of a cluster share their counters.
            for cluster in entries.filter_map(|e| e.active.as_ref().or(e.warming.as_ref())) {
                cluster.stats.update_failure.inc();
            }
        }
    }

    /// The clusters with the endpoints of a subject, in force or not.
    pub fn with_endpoints(&self, subject: &Subject) -> Vec<Arc<Cluster>> {
        let names = self.by_endpoints.get(subject).into_iter().flatten();
        names.filter_map(|n| self.all.get(n)).flat_map(|e| e.active.iter().chain(&e.warming)).cloned().collect()
    }
}

impl Manager {
    /// Takes over the bootstrap's clusters: their endpoints and names are looked for like those of CDS.
    pub(super) fn adopt_clusters(&mut self) {
        for cluster in self.parts.shared.clusters.clusters() {
            let name = cluster.names.name.to_string();
            let entry = Entry { active: Some(cluster.clone()), fixed: true, ..Entry::default() };
            self.clusters.all.insert(name.clone(), entry);
            self.stats.cluster_added.inc();
            if let Err(e) = self.follow(&name, &cluster) {
                tracing::warn!(target: "config", "cluster '{name}': {e}");
            }
        }
    }

    pub(super) fn apply_clusters(&mut self, update: &Update) -> Result<(), String> {
        let decoded = self.decode::<v3::Cluster>(Type::Cluster, update)?;
        let mut failures = Failures::default();
        let named: HashSet<&str> = update.resources.iter().map(|r| r.name.as_str()).collect();
        let gone: Vec<String> = if update.complete {
            let is_gone = |(name, entry): &(&String, &Entry)| !entry.fixed && !named.contains(name.as_str());
            self.clusters.all.iter().filter(is_gone).map(|(name, _)| name.clone()).collect()
        } else {
            update.removed.clone()
        };
        let (mut added, mut changed) = (0usize, false);
        for one in decoded {
            let (name, resource) = (one.name, one.resource);
            match self.add_cluster(one, &update.version) {
                Ok(true) => (added, changed) = (added + 1, true),
                Ok(false) => {}
                Err(e) => {
                    self.refused(Kind::Cluster, resource, &update.version, &e);
                    failures.add(name, &e);
                }
            }
        }
        for name in &gone {
            changed |= self.remove_cluster(name);
        }
        tracing::info!(target: "upstream", "cds: add {added} cluster(s), remove {} cluster(s)", gone.len());
        if changed {
            self.parts.shared.clusters.publish();
            self.stats.cluster_updated.inc();
        }
        failures.summary("cluster(s)")
    }

    /// Adds or changes a cluster; false where nothing changes.
    fn add_cluster(&mut self, one: Decoded<'_, v3::Cluster>, version: &str) -> Result<bool, ConfigError> {
        let Decoded { name, message, resource } = one;
        if message.name != name {
            return Err(ConfigError::new("cluster.name", format!("the resource's name is '{name}'")));
        }
        let old = self.clusters.all.get(name);
        if old.is_some_and(|e| e.fixed) {
            return Ok(false);
        }
        let active = old.and_then(|e| e.active.clone());
        let cluster = cluster::compile::compile_after(message, &self.parts.context(), "cluster", active.as_deref())?;
        if active.is_some() {
            self.stats.cluster_modified.inc()
        } else {
            self.stats.cluster_added.inc()
        }
        self.follow(name, &cluster)?;
        self.config.put_dynamic(Kind::Cluster, name, resource.body.clone(), version, true);
        self.clusters.all.entry(name.to_owned()).or_default().warming = Some(cluster);
        self.clusters.warming.insert(name.to_owned());
        Ok(true)
    }

    /// Asks for what a cluster's hosts come from.
    fn follow(&mut self, name: &str, cluster: &Arc<Cluster>) -> Result<(), ConfigError> {
        let subject = match &cluster.discovery {
            Discovery::Eds { service_name, config } => {
                let fetch = Fetch::of(config, "cluster.eds_cluster_config.eds_config")?;
                let service = &**service_name;
                if self.fetches.add(Type::Endpoints, &fetch, service, Instant::now()) {
                    self.streams.subscribe(&fetch.source, Type::Endpoints, service);
                    // Envoy counts the first request, and then each response.
                    cluster.stats.update_attempt.inc();
                }
                let subject = Subject { kind: Type::Endpoints, source: fetch.source, name: service.to_owned() };
                if let Some(known) = self.config.get(Kind::Endpoints, service)
                    && let Ok(assignment) = ClusterLoadAssignment::decode(known.message.value.as_slice())
                {
                    // It was good for the cluster as it was; if it is not any more, new endpoints are waited for.
                    if let Err(e) = cluster.assign(&assignment, "endpoints") {
                        tracing::warn!(target: "config", "cluster '{name}': {e}");
                    }
                }
                Some(subject)
            }
            _ => None,
        };
        let entry = self.clusters.all.entry(name.to_owned()).or_default();
        let before = std::mem::replace(&mut entry.endpoints, subject.clone());
        entry.resolver = None;
        entry.resolved = None;
        let (first, names) = tokio::sync::oneshot::channel();
        if let Some(task) = cluster::dns::resolve(cluster, first) {
            entry.resolver = Some(Resolver(task));
            let done = Rc::new(Cell::new(!cluster.waits_for_names()));
            let (flag, bell) = (done.clone(), self.clusters.resolved.clone());
            tokio::task::spawn_local(async move {
                // It is dropped where the cluster is: then nobody looks any more.
                let _ = names.await;
                flag.set(true);
                bell.notify_one();
            });
            entry.resolved = Some(done);
        }
        if let Some(subject) = &subject {
            self.clusters.by_endpoints.entry(subject.clone()).or_default().insert(name.to_owned());
        }
        if let Some(before) = before.filter(|b| Some(b) != subject.as_ref()) {
            self.forget_endpoints(name, &before);
        }
        Ok(())
    }

    fn forget_endpoints(&mut self, name: &str, subject: &Subject) {
        let Some(users) = self.clusters.by_endpoints.get_mut(subject) else { return };
        users.remove(name);
        if users.is_empty() {
            self.clusters.by_endpoints.remove(subject);
            self.fetches.remove(subject);
            self.streams.unsubscribe(&subject.source, Type::Endpoints, &subject.name);
            self.config.remove(Kind::Endpoints, &subject.name);
        }
    }

    /// Removes a cluster; false where there is none that could be.
    fn remove_cluster(&mut self, name: &str) -> bool {
        if self.clusters.all.get(name).is_none_or(|e| e.fixed) {
            return false;
        }
        let Some(entry) = self.clusters.all.remove(name) else { return false };
        if let Some(subject) = &entry.endpoints {
            self.forget_endpoints(name, subject);
        }
        self.clusters.warming.remove(name);
        self.config.remove(Kind::Cluster, name);
        if let Some(slot) = self.parts.shared.clusters.find(name) {
            slot.set(None);
        }
        self.stats.cluster_removed.inc();
        true
    }

    /// Puts clusters in force that wait for nothing any more.
    pub(super) fn warm_clusters(&mut self) {
        if self.clusters.warming.is_empty() {
            return;
        }
        let ready: Vec<String> = self.clusters.warming.iter().filter(|n| self.cluster_is_warm(n)).cloned().collect();
        for name in ready {
            self.clusters.warming.remove(&name);
            let Some(entry) = self.clusters.all.get_mut(&name) else { continue };
            let Some(cluster) = entry.warming.take() else { continue };
            entry.active = Some(cluster.clone());
            self.parts.shared.clusters.slot(&name).set(Some(cluster));
            self.config.warmed(Kind::Cluster, &name);
        }
    }

    fn cluster_is_warm(&self, name: &str) -> bool {
        let Some(entry) = self.clusters.all.get(name) else { return false };
        let Some(cluster) = &entry.warming else { return false };
        entry.has_hosts(&self.fetches) && cluster.secrets_settled()
    }
}
