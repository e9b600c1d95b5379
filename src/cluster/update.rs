//! Clusters that change: hosts that come, change and go, and a cluster that takes the place of another. All of it happens on the control
//! thread; requests see one host set or the next.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use waypost_filters::address::Address;
use waypost_filters::stream::HostInfo;
use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::assignment::{self, Assignment, Endpoint, Target};
use super::{Cluster, Discovery, Health, Host, HostSet, HostState, Place, next_id};
use crate::config::ConfigError;

/// The namespace of host metadata that says where a connection behind an internal listener goes: connections that were made by another
/// value of it lead elsewhere.
const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";

impl Cluster {
    /// The name that EDS is asked for, if the cluster's hosts come from there.
    pub fn eds_service_name(&self) -> Option<&str> {
        match &self.discovery {
            Discovery::Eds { service_name, .. } => Some(service_name),
            _ => None,
        }
    }

    /// Whether nobody need wait for the secrets of its transport sockets any more.
    pub fn secrets_settled(&self) -> bool {
        self.transports.settled()
    }

    /// Takes an assignment of EDS. Hosts that are in both the old and the new one keep their pools and counters; an assignment that cannot be
    /// used leaves everything as it is. For the control thread.
    pub fn assign(&self, assignment: &ClusterLoadAssignment, path: &str) -> Result<(), ConfigError> {
        let stats = &self.stats;
        stats.update_attempt.inc();
        let result = self.read_assignment(assignment, path);
        match &result {
            Ok(read) => {
                stats.update_success.inc();
                if !self.set_hosts(read.endpoints.iter().map(Found::of), read.overprovisioning) {
                    stats.update_no_rebuild.inc();
                }
            }
            Err(_) => stats.update_rejected.inc(),
        }
        result.map(drop)
    }

    fn read_assignment(&self, assignment: &ClusterLoadAssignment, path: &str) -> Result<Assignment, ConfigError> {
        if let Some(expected) = self.eds_service_name()
            && expected != assignment.cluster_name
        {
            let reason = format!("Unexpected EDS cluster (expecting {expected}): {}", assignment.cluster_name);
            return Err(ConfigError::new(format!("{path}.cluster_name"), reason));
        }
        assignment::read(assignment, false, path)
    }

    /// Notes the version of the assignment that was last taken (`version`, a hash in Envoy too).
    pub fn set_version(&self, version: &str) {
        self.stats.version.set(hash_of(version));
    }

    /// Replaces the hosts. False where nothing has changed.
    pub(super) fn set_hosts<'a>(&self, found: impl Iterator<Item = Found<'a>>, overprovisioning: u32) -> bool {
        let old = self.hosts.load_full();
        let mut merge = Merge::new(self, &old);
        let all: Vec<Arc<Host>> = found.filter_map(|f| merge.host(f)).collect();
        let same = all.len() == old.all.len()
            && old.overprovisioning == overprovisioning
            && all.iter().zip(&old.all).all(|(a, b)| Arc::ptr_eq(a, b));
        if same {
            return false;
        }
        let added = merge.added;
        let gone = merge.gone();
        if added || !gone.is_empty() {
            self.stats.membership_change.inc();
        }
        self.publish(HostSet::new(all, overprovisioning, self.rules));
        if self.live.load(Relaxed) {
            gone.iter().for_each(|h| h.state.retire());
        }
        true
    }

    /// Whether it finds hosts in the same way and by the same name as another version of it.
    pub(super) fn finds_same(&self, other: &Cluster) -> bool {
        match (&self.discovery, &other.discovery) {
            (Discovery::Static, Discovery::Static) => true,
            (Discovery::Eds { service_name: a, .. }, Discovery::Eds { service_name: b, .. }) => a == b,
            (Discovery::Dns(a), Discovery::Dns(b)) => a.logical == b.logical && a.assignment == b.assignment,
            _ => false,
        }
    }

    /// Begins with the hosts of the version before, where that could use the same connections.
    pub(super) fn keep_hosts(&self, old: &Cluster) {
        let set = old.hosts.load();
        self.publish(HostSet::new(set.all.to_vec(), set.overprovisioning, self.rules));
    }

    fn publish(&self, set: HostSet) {
        let stats = &self.stats;
        stats.membership_total.set(set.all.len() as u64);
        stats.membership_healthy.set(set.count(Health::Healthy) as u64);
        stats.membership_degraded.set(set.count(Health::Degraded) as u64);
        self.hosts.store(Arc::new(set));
    }

    /// The cluster is in its slot now: from here on, hosts that leave it are nobody's.
    pub(super) fn enter(&self) {
        self.live.store(true, Relaxed);
    }

    /// The cluster is no longer in its slot. Hosts that are not those of `next` drain; requests in flight end well.
    pub(super) fn leave(&self, next: Option<&Cluster>) {
        self.live.store(false, Relaxed);
        let kept: std::collections::HashSet<u64> =
            next.iter().flat_map(|c| c.hosts.load().all.iter().map(|h| h.id).collect::<Vec<_>>()).collect();
        for host in self.hosts.load().all.iter().filter(|h| !kept.contains(&h.id)) {
            host.state.retire();
        }
        if let Discovery::OriginalDst(config) = &self.discovery {
            let kept = matches!(next.map(|c| &c.discovery), Some(Discovery::OriginalDst(n)) if n.origin.id == config.origin.id);
            if !kept {
                config.origin.state.retire();
            }
        }
    }
}

/// FNV-1a: short, and the same in every process.
fn hash_of(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// A host that discovery has found.
pub(super) struct Found<'a> {
    pub address: Option<Address>,
    pub endpoint: &'a Endpoint,
}

impl<'a> Found<'a> {
    /// An endpoint whose address is given.
    pub fn of(endpoint: &'a Endpoint) -> Found<'a> {
        let address = match &endpoint.target {
            Target::At(address) => Some(address.clone()),
            Target::Name { .. } => None,
        };
        Found { address, endpoint }
    }
}

/// Brings old hosts and found ones together.
struct Merge<'a> {
    cluster: &'a Cluster,
    /// By address. Each is taken once.
    old: HashMap<Address, Vec<Arc<Host>>>,
    seen: std::collections::HashSet<(Address, u32)>,
    places: Vec<Arc<Place>>,
    added: bool,
}

impl<'a> Merge<'a> {
    fn new(cluster: &'a Cluster, set: &HostSet) -> Merge<'a> {
        let mut old: HashMap<Address, Vec<Arc<Host>>> = HashMap::new();
        let mut places: Vec<Arc<Place>> = Vec::new();
        // Backwards, as each list is taken from its end.
        for host in set.all.iter().rev() {
            old.entry(cluster.identity(&host.info.address)).or_default().push(host.clone());
            if !places.iter().any(|p| Arc::ptr_eq(p, &host.place)) {
                places.push(host.place.clone());
            }
        }
        Merge { cluster, old, seen: Default::default(), places, added: false }
    }

    fn host(&mut self, Found { address, endpoint }: Found<'_>) -> Option<Arc<Host>> {
        let address = address?;
        let identity = self.cluster.identity(&address);
        // A static list may name a host twice, and then it counts twice; discovery's is a set.
        let is_set = !matches!(self.cluster.discovery, Discovery::Static);
        if is_set && !self.seen.insert((identity.clone(), endpoint.place.priority)) {
            return None;
        }
        let Endpoint { target: _, additional, hostname, metadata, weight, health, place } = endpoint;
        let transport = self.cluster.transports.of_host(metadata);
        let old = self.old.get_mut(&identity).and_then(Vec::pop);
        let same_info =
            |h: &Host| h.info.address == address && h.info.hostname == *hostname && h.info.metadata == *metadata;
        if let Some(old) = &old
            && same_info(old)
            && old.additional == *additional
            && old.weight == *weight
            && old.health == *health
            && *old.place == **place
            && Arc::ptr_eq(&old.transport, &transport)
        {
            return Some(old.clone());
        }
        let place = match self.places.iter().find(|p| **p == *place) {
            Some(known) => known.clone(),
            None => {
                self.places.push(place.clone());
                place.clone()
            }
        };
        // What connections are made by stays, or the host is another one to its pools.
        let same = old.as_ref().filter(|h| {
            Arc::ptr_eq(&h.transport, &transport)
                && h.info.hostname == *hostname
                && h.info.metadata.get(ORIGINAL_DST) == metadata.get(ORIGINAL_DST)
        });
        let (id, state) = match same {
            Some(h) => (h.id, h.state.clone()),
            None => (next_id(), Arc::<HostState>::default()),
        };
        let info = match &old {
            Some(h) if same_info(h) => h.info.clone(),
            _ => Arc::new(HostInfo { address, hostname: hostname.clone(), metadata: metadata.clone() }),
        };
        if same.is_none() {
            self.added = true;
            // Not taken over: its pools drain with those of hosts that are gone.
            if let Some(old) = old {
                self.old.entry(identity).or_default().insert(0, old);
            }
        }
        Some(Arc::new(Host {
            id,
            info,
            additional: additional.clone(),
            weight: *weight,
            health: *health,
            place,
            transport,
            state,
        }))
    }

    /// Hosts that were not found again.
    fn gone(self) -> Vec<Arc<Host>> {
        self.old.into_values().flatten().collect()
    }
}
