//! One host of a cluster: what it is, what discovery may change of it, and what is counted on it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use waypost_filters::address::Address;
use waypost_filters::stream::HostInfo;

use super::{Transport, next_id};

/// One host of a cluster, as discovery last described it. It never changes: a host whose health, weight, metadata or place changes is a new
/// `Host` with the old one's `id` and `state`, so that its pools, its requests in flight and its counters go on.
#[derive(Debug)]
pub struct Host {
    /// A number that no other host of the process has. What connections depend on is the same for as long as it is.
    pub id: u64,
    /// What filters and logs see.
    pub info: Arc<HostInfo>,
    /// `additional_addresses`, which are tried in turn where the first does not answer.
    pub additional: Box<[Address]>,
    /// `load_balancing_weight`.
    pub weight: u32,
    /// `health_status` of the endpoint.
    pub health: Health,
    /// Its locality and priority.
    pub place: Arc<Place>,
    /// How to connect to it.
    pub transport: Arc<Transport>,
    /// What is counted of it.
    pub state: Arc<HostState>,
}

/// A locality of one priority (`LocalityLbEndpoints`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Region, zone and sub-zone.
    pub locality: [Arc<str>; 3],
    /// `priority`.
    pub priority: u32,
    /// `load_balancing_weight`; 0 unless it is set.
    pub weight: u32,
}

/// What stays of a host while it is known by whatever description.
#[derive(Debug, Default)]
pub struct HostState {
    /// Requests in flight on all workers, which least-request compares.
    pub active: AtomicU32,
    /// Counters for `/clusters`.
    pub counts: HostCounts,
    retired: AtomicBool,
}

/// What `/clusters` prints for a host.
#[derive(Debug, Default)]
pub struct HostCounts {
    /// `cx_total`
    pub connections: AtomicU64,
    /// `cx_active`
    pub connections_active: AtomicU64,
    /// `cx_connect_fail`
    pub connect_failures: AtomicU64,
    /// `rq_total`
    pub requests: AtomicU64,
    /// `rq_success`
    pub successes: AtomicU64,
    /// `rq_error`
    pub errors: AtomicU64,
}

/// `config.core.v3.HealthStatus`, as far as it decides whether a host may be picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// `HEALTHY`, `UNKNOWN`.
    #[default]
    Healthy,
    /// `DEGRADED`.
    Degraded,
    /// `UNHEALTHY`, `DRAINING`, `TIMEOUT`.
    Unhealthy,
}

impl Host {
    /// A host with no weight of its own.
    pub fn new(info: HostInfo, transport: Arc<Transport>) -> Host {
        Host {
            id: next_id(),
            info: Arc::new(info),
            additional: Box::default(),
            weight: 1,
            health: Health::Healthy,
            place: Arc::default(),
            transport,
            state: Arc::default(),
        }
    }
}

impl HostState {
    /// No host set holds it any more: its idle connections close, and busy ones when they are done.
    pub fn retire(&self) {
        self.retired.store(true, Relaxed);
    }

    /// Whether it has been [retired](HostState::retire).
    pub fn retired(&self) -> bool {
        self.retired.load(Relaxed)
    }
}

impl PartialEq for Host {
    fn eq(&self, other: &Host) -> bool {
        self.id == other.id
    }
}

impl Eq for Host {}

impl Hash for Host {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}
