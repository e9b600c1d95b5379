//! What the endpoints look at.

use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use waypost_xds::envoy::config::core::v3::Node;

use super::{ConfigStore, Kind, StatsConfig};
use crate::cli::Options;
use crate::lifecycle::{Control, ServerState};
use crate::observe::access_log::AccessLogFiles;
use crate::observe::log::LogHandle;
use crate::observe::stats::{Gauge, Store};
use crate::tls::SecretStore;
use crate::worker::Shared;

/// What the endpoints look at, and what they can set off.
pub struct AdminState {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The command line.
    pub options: Options,
    /// `node`, with what the command line adds.
    pub node: Node,
    /// Drain and end.
    pub control: Arc<Control>,
    /// The messages in force.
    pub config: Arc<ConfigStore>,
    /// `stats_config` of the bootstrap and `--stats-tag`.
    pub stats_config: StatsConfig,
    /// Process logs.
    pub log: LogHandle,
    /// Access logs.
    pub access_logs: Arc<AccessLogFiles>,
    /// TLS secrets, for `/certs`.
    pub secrets: Arc<SecretStore>,
    /// `/runtime`: the layers of `layered_runtime`, the first the lowest.
    pub runtime: Arc<Mutex<Vec<RuntimeLayer>>>,
    /// When the process started.
    pub started: (Instant, SystemTime),
    /// The gauges that are looked up when they are asked for.
    pub gauges: ServerGauges,
}

/// A layer of `layered_runtime` with its values as `/runtime` prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeLayer {
    /// `name`
    pub name: String,
    /// Keys and values.
    pub values: Vec<(String, String)>,
}

/// Gauges about the process; they are set when stats are read.
#[allow(missing_docs, reason = "the fields are Envoy's stat names")]
pub struct ServerGauges {
    pub live: Gauge,
    pub state: Gauge,
    pub uptime: Gauge,
    pub concurrency: Gauge,
    pub version: Gauge,
    pub hot_restart_epoch: Gauge,
    pub hot_restart_generation: Gauge,
    pub parent_connections: Gauge,
    pub total_connections: Gauge,
    pub memory_allocated: Gauge,
    pub memory_heap_size: Gauge,
    pub memory_physical_size: Gauge,
    pub days_until_first_cert_expiring: Gauge,
    pub workers_started: Gauge,
    pub total_listeners_active: Gauge,
    pub total_listeners_warming: Gauge,
    pub active_clusters: Gauge,
    pub warming_clusters: Gauge,
}

impl ServerGauges {
    /// Handles for the gauges.
    pub fn new(store: &Store) -> ServerGauges {
        let server = |n: &str| store.gauge(&format!("server.{n}"));
        ServerGauges {
            live: server("live"),
            state: server("state"),
            uptime: server("uptime"),
            concurrency: server("concurrency"),
            version: server("version"),
            hot_restart_epoch: server("hot_restart_epoch"),
            hot_restart_generation: server("hot_restart_generation"),
            parent_connections: server("parent_connections"),
            total_connections: server("total_connections"),
            memory_allocated: server("memory_allocated"),
            memory_heap_size: server("memory_heap_size"),
            memory_physical_size: server("memory_physical_size"),
            days_until_first_cert_expiring: server("days_until_first_cert_expiring"),
            workers_started: store.gauge("listener_manager.workers_started"),
            total_listeners_active: store.gauge("listener_manager.total_listeners_active"),
            total_listeners_warming: store.gauge("listener_manager.total_listeners_warming"),
            active_clusters: store.gauge("cluster_manager.active_clusters"),
            warming_clusters: store.gauge("cluster_manager.warming_clusters"),
        }
    }
}

/// Memory of the process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Private memory that is resident: what was allocated, and what the allocator keeps.
    pub allocated: u64,
    /// Data and stack, resident or not.
    pub heap: u64,
    /// All that is resident.
    pub physical: u64,
}

impl Memory {
    /// What the kernel says now.
    pub fn now() -> Memory {
        Memory::from_statm(&std::fs::read_to_string("/proc/self/statm").unwrap_or_default())
    }

    /// Reads `/proc/self/statm`: pages of size, resident, shared, text, library, data.
    pub fn from_statm(text: &str) -> Memory {
        let pages: Vec<u64> = text.split_ascii_whitespace().filter_map(|w| w.parse().ok()).collect();
        // 4 KiB on every platform that the proxy is built for.
        let bytes = |n: usize| pages.get(n).copied().unwrap_or_default() * 4096;
        Memory { allocated: bytes(1).saturating_sub(bytes(2)), heap: bytes(5), physical: bytes(1) }
    }
}

impl AdminState {
    /// Where the process is.
    pub fn state(&self) -> ServerState {
        self.control.state()
    }

    /// Sets the gauges that nobody else keeps.
    pub fn refresh(&self) {
        let (g, memory) = (&self.gauges, Memory::now());
        let state = self.state();
        g.live.set(u64::from(state == ServerState::Live));
        g.state.set(state as u64);
        g.uptime.set(self.started.0.elapsed().as_secs());
        g.concurrency.set(self.options.concurrency as u64);
        g.version.set(0);
        g.hot_restart_epoch.set(self.options.restart_epoch.into());
        g.hot_restart_generation.set(1);
        g.parent_connections.set(0);
        g.total_connections.set(self.control.connections() as u64);
        g.memory_allocated.set(memory.allocated);
        g.memory_heap_size.set(memory.heap);
        g.memory_physical_size.set(memory.physical);
        g.days_until_first_cert_expiring.set(self.days_until_expiry());
        g.workers_started.set(u64::from(self.control.stage.workers_started()));
        g.total_listeners_active.set(self.shared.listeners.load().all.len() as u64);
        g.total_listeners_warming.set(self.config.warming(Kind::Listener) as u64);
        g.warming_clusters.set(self.config.warming(Kind::Cluster) as u64);
        g.active_clusters.set(self.shared.clusters.clusters().len() as u64);
    }

    fn days_until_expiry(&self) -> u64 {
        let now = SystemTime::now();
        let contexts = self.secrets.certificates();
        let all = contexts.iter().flat_map(|c| c.ca_cert.iter().chain(&c.cert_chain));
        // As in Envoy the largest number where there is no certificate.
        all.map(|c| c.days_until_expiration(now)).min().unwrap_or(u32::MAX.into())
    }
}
