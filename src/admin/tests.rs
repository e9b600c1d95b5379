//! The texts are what Envoy 1.40 answered to the same requests.

mod dump;
mod names;
mod pages;
mod serve;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use http::Method;
use waypost_xds::envoy::config::bootstrap::v3::Bootstrap;
use waypost_xds::{json, yaml};

use super::help::{self, Request};
use super::page::Page;
use super::query::Query;
use super::state::{RuntimeLayer, ServerGauges};
use super::{AdminState, ConfigStore, StatsConfig};
use crate::cli::{Invocation, Options};
use crate::cluster::ClusterTable;
use crate::config::{Context, Process};
use crate::lifecycle::{Control, ServerState};
use crate::observe::log::{LogHandle, LogOptions};
use crate::observe::stats::Store;
use crate::worker::Shared;

/// The configuration that Envoy was asked about.
const BOOTSTRAP: &str = r#"
node: {id: n1, cluster: c1, metadata: {K: v}}
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 29901}}}
static_resources:
  secrets:
  - {name: s1, generic_secret: {secret: {inline_string: abc}}}
  listeners:
  - name: l1
    address: {socket_address: {address: 127.0.0.1, port_value: 29902}}
    filter_chains:
    - name: fc
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: ing<b>
          route_config: {name: r1, virtual_hosts: [{name: v, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200}}]}]}
  clusters:
  - {name: c1, type: STATIC, alt_stat_name: c1alt}
  - {name: xds, type: STATIC}
"#;

fn options(args: &[&str]) -> Options {
    let args = std::iter::once("envoy").chain(args.iter().copied()).map(Into::into);
    match crate::cli::parse(args) {
        Ok(Invocation::Proxy(options)) => *options,
        other => panic!("{other:?}"),
    }
}

fn state_with(args: &[&str], stats: StatsConfig) -> Arc<AdminState> {
    let store = Arc::new(Store::default());
    let shared = Arc::new(Shared {
        clusters: ClusterTable::default(),
        listeners: Default::default(),
        stats: store.clone(),
        drain: Default::default(),
        workers: OnceLock::new(),
        overload: Default::default(),
    });
    let options = options(args);
    let control = Control::new(shared.clone());
    control.stage.set(ServerState::Live);
    let log = LogHandle::new(&LogOptions::default()).unwrap();
    Arc::new(AdminState {
        shared,
        options,
        node: Default::default(),
        control,
        config: Arc::new(ConfigStore::default()),
        stats_config: stats,
        log,
        access_logs: Default::default(),
        secrets: crate::tls::SecretStore::new(),
        runtime: Arc::new(std::sync::Mutex::new(vec![
            RuntimeLayer { name: "base".into(), values: vec![("a.b".into(), "5".into()), ("c".into(), "x".into())] },
            RuntimeLayer { name: "admin".into(), values: vec![("c".into(), "y".into())] },
        ])),
        started: (Instant::now(), SystemTime::now()),
        gauges: ServerGauges::new(&store),
    })
}

fn state() -> Arc<AdminState> {
    state_with(&["--concurrency", "2"], StatsConfig::compile(None, &[]).unwrap())
}

/// A state that holds [`BOOTSTRAP`].
fn loaded() -> Arc<AdminState> {
    let state = state();
    let bootstrap: Bootstrap =
        json::from_value(&yaml::parse(BOOTSTRAP).unwrap(), &json::Options::reject_unknown()).unwrap();
    super::keep_static(&state.config, &bootstrap);
    state.config.set_bootstrap(&bootstrap);
    state
}

fn ask(state: &Arc<AdminState>, method: Method, target: &str) -> Page {
    help::answer(&method, &Request { state, query: &Query::parse(target) })
}

fn get(state: &Arc<AdminState>, target: &str) -> String {
    ask(state, Method::GET, target).body
}

fn post(state: &Arc<AdminState>, target: &str) -> String {
    ask(state, Method::POST, target).body
}

/// A cluster with two hosts, as Envoy was asked about it.
fn add_cluster(state: &AdminState) {
    let text = "
name: c1
type: STATIC
alt_stat_name: c1alt
load_assignment:
  cluster_name: c1
  endpoints:
  - locality: {region: r, zone: z, sub_zone: s}
    lb_endpoints:
    - {load_balancing_weight: 3, metadata: {filter_metadata: {a: {b: c}}}, endpoint: {hostname: h, address: {socket_address: {address: 127.0.0.1, port_value: 29902}}}}
    - {health_status: UNHEALTHY, endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 29905}}}}
";
    let proto = json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap();
    let context = Context {
        stats: &state.shared.stats,
        clusters: &state.shared.clusters,
        logs: &state.access_logs,
        secrets: &state.secrets,
        routes: &crate::route::slot::RouteSlots::default(),
        extensions: &crate::config::extension_slot::ExtensionSlots::default(),
        process: &Process::default(),
    };
    let cluster = crate::cluster::compile::compile(proto, &context, "c").unwrap();
    let hosts = cluster.hosts.load_full();
    let counts = &hosts.all.first().unwrap().state.counts;
    counts.connections.store(5940, Relaxed);
    counts.connections_active.store(1, Relaxed);
    counts.requests.store(5939, Relaxed);
    state.shared.clusters.slot("c1").set(Some(cluster));
    state.shared.clusters.publish();
}
