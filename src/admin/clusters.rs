//! `/clusters` as text and JSON (`admin.v3.Clusters`).

use std::sync::atomic::Ordering::Relaxed;

use regex::Regex;
use serde_json::{Map, Value, json};
use waypost_filters::address::Address;

use super::page::Page;
use super::query::Query;
use super::{AdminState, Kind};
use crate::cluster::{Cluster, Health, Host};

/// `GET /clusters`.
pub fn page(state: &AdminState, query: &Query) -> Page {
    let filter = match query.get("filter").filter(|f| !f.is_empty()).map(Regex::new).transpose() {
        Ok(f) => f,
        Err(_) => return Page::bad_request("Invalid re2 regex"),
    };
    let mut clusters = state.shared.clusters.clusters();
    clusters.retain(|c| filter.as_ref().is_none_or(|f| f.is_match(&c.names.name)));
    if query.get("format") == Some("json") {
        let all: Vec<Value> = clusters.iter().map(|c| status(state, c)).collect();
        let mut out = Map::new();
        put(&mut out, "cluster_statuses", all.into());
        return Page::json(&out.into());
    }
    let mut out = String::new();
    for cluster in clusters {
        lines(&cluster, added_via_api(state, &cluster), &mut out);
    }
    Page::text(out)
}

fn added_via_api(state: &AdminState, cluster: &Cluster) -> bool {
    state.config.get(Kind::Cluster, &cluster.names.name).is_some_and(|r| r.version.is_some())
}

/// The limits of both priorities; those of `HIGH` are Envoy's defaults, as no others are held.
fn limits(cluster: &Cluster) -> [[(&'static str, u32); 4]; 2] {
    let l = &cluster.limits;
    let of = |v: [u32; 4]| {
        let [connections, pending, requests, retries] = v;
        [
            ("max_connections", connections),
            ("max_pending_requests", pending),
            ("max_requests", requests),
            ("max_retries", retries),
        ]
    };
    [of([l.connections.max(), l.pending.max(), l.requests.max(), l.retries.max()]), of([1024, 1024, 1024, 3])]
}

fn lines(cluster: &Cluster, via_api: bool, out: &mut String) {
    let name = &cluster.names.name;
    let mut line = |text: String| {
        out.push_str(name);
        out.push_str("::");
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("observability_name::{}", cluster.names.observability_name));
    for (priority, limits) in ["default", "high"].iter().zip(limits(cluster)) {
        for (limit, value) in limits {
            line(format!("{priority}_priority::{limit}::{value}"));
        }
    }
    line(format!("added_via_api::{via_api}"));
    for host in cluster.hosts.load().all.iter() {
        let address = &host.info.address;
        for (stat, value) in host_lines(host) {
            line(format!("{address}::{stat}::{value}"));
        }
    }
}

fn host_lines(host: &Host) -> Vec<(&'static str, String)> {
    let c = &host.state.counts;
    let [region, zone, sub_zone] = host.place.locality.each_ref().map(ToString::to_string);
    let health = match host.health {
        Health::Healthy => "healthy",
        Health::Degraded => "/degraded_eds_health",
        Health::Unhealthy => "/failed_eds_health",
    };
    let count = |n: &std::sync::atomic::AtomicU64| n.load(Relaxed).to_string();
    vec![
        ("cx_active", count(&c.connections_active)),
        ("cx_connect_fail", count(&c.connect_failures)),
        ("cx_total", count(&c.connections)),
        ("rq_active", host.state.active.load(Relaxed).to_string()),
        ("rq_error", count(&c.errors)),
        ("rq_pending_active", "0".to_owned()),
        ("rq_success", count(&c.successes)),
        ("rq_timeout", "0".to_owned()),
        ("rq_total", count(&c.requests)),
        ("hostname", host.info.hostname.to_string()),
        ("health_flags", health.to_owned()),
        ("weight", host.weight.to_string()),
        ("region", region),
        ("zone", zone),
        ("sub_zone", sub_zone),
        ("canary", "false".to_owned()),
        ("priority", host.place.priority.to_string()),
        ("success_rate", "-1".to_owned()),
        ("local_origin_success_rate", "-1".to_owned()),
    ]
}

fn status(state: &AdminState, cluster: &Cluster) -> Value {
    let mut out = Map::new();
    put(&mut out, "name", json!(&*cluster.names.name));
    put(&mut out, "added_via_api", json!(added_via_api(state, cluster)));
    let hosts: Vec<Value> = cluster.hosts.load().all.iter().map(|h| host_status(h)).collect();
    put(&mut out, "host_statuses", hosts.into());
    let thresholds = limits(cluster).into_iter().enumerate().map(|(i, limits)| {
        let mut t = Map::new();
        put(&mut t, "priority", json!(if i == 1 { "HIGH" } else { "" }));
        limits.iter().for_each(|(name, value)| drop(t.insert((*name).to_owned(), json!(value))));
        Value::Object(t)
    });
    put(&mut out, "circuit_breakers", json!({ "thresholds": thresholds.collect::<Vec<_>>() }));
    put(&mut out, "observability_name", json!(&*cluster.names.observability_name));
    Value::Object(out)
}

fn host_status(host: &Host) -> Value {
    let c = &host.state.counts;
    let metric = |gauge: bool, name: &str, value: u64| {
        let mut m = Map::new();
        put(&mut m, "type", json!(if gauge { "GAUGE" } else { "" }));
        // 64-bit numbers are strings in protobuf's JSON.
        put(&mut m, "value", json!(if value == 0 { String::new() } else { value.to_string() }));
        put(&mut m, "name", json!(name));
        Value::Object(m)
    };
    let stats = json!([
        metric(false, "cx_connect_fail", c.connect_failures.load(Relaxed)),
        metric(false, "cx_total", c.connections.load(Relaxed)),
        metric(false, "rq_error", c.errors.load(Relaxed)),
        metric(false, "rq_success", c.successes.load(Relaxed)),
        metric(false, "rq_timeout", 0),
        metric(false, "rq_total", c.requests.load(Relaxed)),
        metric(true, "cx_active", c.connections_active.load(Relaxed)),
        metric(true, "rq_active", host.state.active.load(Relaxed).into()),
        metric(true, "rq_pending_active", 0),
    ]);
    let mut out = Map::new();
    put(&mut out, "address", address(&host.info.address));
    put(&mut out, "stats", stats);
    put(&mut out, "health_status", json!({ "eds_health_status": health_status(host.health) }));
    put(&mut out, "weight", json!(host.weight));
    put(&mut out, "hostname", json!(&*host.info.hostname));
    put(&mut out, "priority", json!(host.place.priority));
    out.insert("locality".to_owned(), locality(&host.place.locality));
    Value::Object(out)
}

/// `config.core.v3.HealthStatus` of a host.
pub fn health_status(health: Health) -> &'static str {
    match health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
    }
}

/// `config.core.v3.Locality`.
pub fn locality(parts: &[std::sync::Arc<str>; 3]) -> Value {
    let mut out = Map::new();
    for (name, part) in ["region", "zone", "sub_zone"].iter().zip(parts) {
        put(&mut out, name, json!(&**part));
    }
    Value::Object(out)
}

/// `config.core.v3.Address`.
pub fn address(address: &Address) -> Value {
    match address {
        Address::Ip(a) => {
            json!({ "socket_address": { "address": a.ip().to_string(), "port_value": a.port() } })
        }
        Address::Pipe(path) => json!({ "pipe": { "path": &**path } }),
        Address::Internal { listener, endpoint_id } => {
            let mut inner = Map::new();
            put(&mut inner, "server_listener_name", json!(&**listener));
            put(&mut inner, "endpoint_id", json!(&**endpoint_id));
            json!({ "envoy_internal_address": inner })
        }
    }
}

/// Adds a field unless it holds its default, as protobuf's JSON leaves those out.
fn put(map: &mut Map<String, Value>, name: &str, value: Value) {
    let default = match &value {
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_u64() == Some(0),
        Value::Bool(b) => !b,
        Value::Array(l) => l.is_empty(),
        Value::Object(_) => false,
        Value::Null => true,
    };
    if !default {
        map.insert(name.to_owned(), value);
    }
}
