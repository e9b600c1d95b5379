//! Configuration that comes while the proxy runs: the manager that receives it, compiles it, warms it and puts it in force.
//!
//! ```text
//! streams ──events──▶ Manager ── compile ──▶ warm? ──▶ cluster slots, route slots, secret slots, listeners (workers read them without a lock)
//!    ▲                   │
//!    └──── commands ─────┘  subscriptions, ACK and NACK
//! ```
//!
//! All of it runs on the control thread, one update after the other: nothing here needs a lock, and a worker never waits for it.

mod apply;
mod bootstrap;
mod clusters;
mod demand;
mod endpoints;
mod extensions;
mod fetch;
mod hosts;
mod init;
mod listeners;
mod routes;
mod runtime;
mod scopes;
mod secrets;
pub mod slots;
pub mod source;
mod stats;
mod streams;
mod transport;
mod workloads;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use waypost_xds::client::Event;
use waypost_xds::envoy::config::core::v3::Node;

pub use self::bootstrap::{Dynamic, RuntimeSource};
use self::clusters::Clusters;
use self::demand::Demands;
use self::fetch::{Fetches, Subject};
use self::hosts::Hosts;
use self::init::Init;
use self::listeners::Listeners;
use self::scopes::AllScopes;
use self::stats::{ManagerStats, SubscriptionStats};
use self::streams::{StreamId, Streams};
pub use self::workloads::Workloads;
use crate::admin::{ConfigStore, RuntimeLayer};
use crate::config::extension_slot::ExtensionSlots;
use crate::config::{Context, Process};
use crate::lifecycle::Control;
use crate::listener::compile::Compiled;
use crate::listener::manager::{ListenerError, ListenerManager};
use crate::observe::access_log::AccessLogFiles;
use crate::route::slot::RouteSlots;
use crate::tls::{SecretSlot, SecretStore};
use crate::worker::{Shared, Worker};

/// A type of resource, with what is known of it (`envoy.service.discovery.v3`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    /// `envoy.config.cluster.v3.Cluster`
    Cluster,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`
    Endpoints,
    /// `envoy.config.listener.v3.Listener`
    Listener,
    /// `envoy.config.route.v3.RouteConfiguration`
    Route,
    /// `envoy.config.route.v3.ScopedRouteConfiguration`
    ScopedRoutes,
    /// `envoy.config.route.v3.VirtualHost`
    VirtualHost,
    /// `envoy.extensions.transport_sockets.tls.v3.Secret`
    Secret,
    /// `envoy.config.core.v3.TypedExtensionConfig`
    Extension,
    /// `envoy.service.runtime.v3.Runtime`
    Runtime,
    /// `istio.workload.Workload`
    Workload,
}

impl Type {
    const ALL: [Type; 10] = [
        Type::Cluster,
        Type::Endpoints,
        Type::Listener,
        Type::Route,
        Type::ScopedRoutes,
        Type::VirtualHost,
        Type::Secret,
        Type::Extension,
        Type::Runtime,
        Type::Workload,
    ];

    /// The type URL.
    pub fn url(self) -> &'static str {
        match self {
            Type::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Type::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Type::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Type::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Type::ScopedRoutes => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Type::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Type::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Type::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Type::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Type::Workload => "type.googleapis.com/istio.workload.Workload",
        }
    }

    /// The type of a URL.
    pub fn of_url(url: &str) -> Option<Type> {
        Type::ALL.into_iter().find(|t| t.url() == url)
    }
}

/// What the server gives to its manager.
pub struct Setup {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// The control thread's own connections.
    pub worker: Rc<Worker>,
    /// What `/config_dump` shows.
    pub config: Arc<ConfigStore>,
    /// Access-log files.
    pub logs: Arc<AccessLogFiles>,
    /// TLS secrets.
    pub secrets: Arc<SecretStore>,
    /// Route slots.
    pub routes: Arc<RouteSlots>,
    /// Slots of extensions.
    pub extensions: Arc<ExtensionSlots>,
    /// What the bootstrap says of the process.
    pub process: Process,
    /// Who asks.
    pub node: Node,
    /// Where configuration comes from.
    pub dynamic: Dynamic,
    /// The listeners in force.
    pub listeners: ListenerManager,
    /// The bootstrap's listeners, not in force yet.
    pub compiled: Vec<Compiled>,
    /// The process's stages.
    pub control: Arc<Control>,
    /// What is known of the mesh's workloads.
    pub workloads: Arc<Workloads>,
    /// What `/runtime` shows.
    pub runtime: Arc<Mutex<Vec<RuntimeLayer>>>,
}

/// What compilers of resources use: shared, so that a resource can be compiled while the manager changes.
struct Parts {
    shared: Arc<Shared>,
    logs: Arc<AccessLogFiles>,
    secrets: Arc<SecretStore>,
    routes: Arc<RouteSlots>,
    extensions: Arc<ExtensionSlots>,
    process: Process,
}

impl Parts {
    fn context(&self) -> Context<'_> {
        Context {
            stats: &self.shared.stats,
            clusters: &self.shared.clusters,
            logs: &self.logs,
            secrets: &self.secrets,
            routes: &self.routes,
            extensions: &self.extensions,
            process: &self.process,
        }
    }
}

/// The manager: one for a process, on the control thread.
pub struct Manager {
    parts: Rc<Parts>,
    config: Arc<ConfigStore>,
    dynamic: Dynamic,
    control: Arc<Control>,
    workloads: Arc<Workloads>,
    runtime: Arc<Mutex<Vec<RuntimeLayer>>>,
    stats: ManagerStats,
    by_subject: HashMap<Subject, SubscriptionStats>,
    streams: Streams,
    events: UnboundedReceiver<(StreamId, Event)>,
    fetches: Fetches,
    /// Secrets of services, by what they are asked for as.
    secret_slots: HashMap<Subject, Arc<SecretSlot>>,
    clusters: Clusters,
    listeners: Listeners,
    scopes: AllScopes,
    hosts: Hosts,
    demands: Demands,
    init: Init,
    /// When memory is given back that a large update has left.
    tidy_at: Option<Instant>,
}

/// An update of this many bytes leaves enough behind to be worth tidying up: less is soon used again.
const LARGE: usize = 1 << 20;

/// Tidying up waits until no more updates come: clusters, endpoints and listeners do so in a row.
const QUIET: Duration = Duration::from_millis(250);

impl Manager {
    /// A manager that has asked for nothing yet.
    pub fn new(setup: Setup) -> Manager {
        let Setup {
            shared,
            worker,
            config,
            logs,
            secrets,
            routes,
            extensions,
            process,
            node,
            dynamic,
            listeners,
            compiled,
            control,
            workloads,
            runtime,
        } = setup;
        let stats = ManagerStats::new(&shared.stats);
        let demands = Demands::new(routes.take_asks());
        let (streams, events) = Streams::new(worker, node, dynamic.ads.clone());
        Manager {
            parts: Rc::new(Parts { shared, logs, secrets, routes, extensions, process }),
            config,
            dynamic,
            control,
            workloads,
            runtime,
            stats,
            by_subject: HashMap::new(),
            streams,
            events,
            fetches: Fetches::default(),
            secret_slots: HashMap::new(),
            clusters: Clusters::default(),
            listeners: Listeners::new(listeners, compiled),
            scopes: AllScopes::default(),
            hosts: Hosts::default(),
            demands,
            init: Init::default(),
            tidy_at: None,
        }
    }

    /// Serves discovery until the process ends. Fails when a listener of the bootstrap cannot be opened.
    pub async fn run(mut self) -> Result<(), (Arc<str>, ListenerError)> {
        self.start();
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(failed) = self.init.failed.take() {
                return Err(failed);
            }
            let deadline = self.fetches.next_deadline();
            let resolved = self.clusters.resolved.clone();
            tokio::select! {
                event = self.events.recv() => match event {
                    Some((stream, event)) => self.event(stream, event),
                    None => return Ok(()),
                },
                ask = self.demands.next() => self.demanded(ask),
                () = sleep_until(deadline) => {
                    for subject in self.fetches.expire(Instant::now()) {
                        self.expired(&subject);
                    }
                }
                () = resolved.notified() => {}
                () = sleep_until(self.tidy_at) => {
                    self.tidy_at = None;
                    crate::memory::give_back();
                }
                _ = sweep.tick() => self.sweep(),
            }
            self.settle();
        }
    }

    /// What may go into force now does; what is named now is asked for.
    fn settle(&mut self) {
        self.subscribe_wanted();
        self.warm_clusters();
        self.warm_hosts();
        self.warm_listeners();
        self.advance();
        self.wake();
        self.streams.flush();
    }
}

/// How often what nothing uses any more is unsubscribed from: a listener that was removed uses its routes until it has drained.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
