//! The dumps of all resource types, made of what the store holds.

use std::collections::BTreeMap;
use std::time::SystemTime;

use prost::{Message as _, Name};
use regex::Regex;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use waypost_xds::envoy::config::listener::v3::Listener;
use waypost_xds::envoy::config::listener::v3::filter::ConfigType;
use waypost_xds::envoy::config::route::v3::{RouteConfiguration, ScopedRouteConfiguration};
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::ConfigSpecifier;
use waypost_xds::google::protobuf::Any;

use super::super::AdminState;
use super::super::clusters;
use super::super::config_store::{DumpedScopes, Failed, Inner, Kind, Resource};
use crate::cluster::{Cluster, Place};

/// A message of `envoy.admin.v3`.
pub struct Dump {
    /// Its name.
    pub name: &'static str,
    /// Whether it is part of every dump.
    pub always: bool,
    /// Fields that are no lists.
    pub single: &'static [&'static str],
    /// Lists.
    pub lists: &'static [List],
}

/// A list of a dump.
pub struct List {
    /// The field.
    pub field: &'static str,
    /// The message of its elements.
    pub message: &'static str,
    /// The fields of that message.
    pub fields: &'static [&'static str],
}

const fn list(field: &'static str, message: &'static str, fields: &'static [&'static str]) -> List {
    List { field, message, fields }
}

/// The dumps in Envoy's order.
pub static DUMPS: [Dump; 8] = [
    Dump { name: "BootstrapConfigDump", always: true, single: &["bootstrap", "last_updated"], lists: &[] },
    Dump {
        name: "ClustersConfigDump",
        always: true,
        single: &["version_info"],
        lists: &[
            list("static_clusters", "StaticCluster", &["cluster", "last_updated"]),
            list("dynamic_active_clusters", "DynamicCluster", DYNAMIC_CLUSTER),
            list("dynamic_warming_clusters", "DynamicCluster", DYNAMIC_CLUSTER),
        ],
    },
    Dump {
        name: "EcdsConfigDump",
        always: false,
        single: &[],
        lists: &[list(
            "ecds_filters",
            "EcdsFilterConfig",
            &["version_info", "ecds_filter", "last_updated", "error_state", "client_status"],
        )],
    },
    Dump {
        name: "EndpointsConfigDump",
        always: false,
        single: &[],
        lists: &[
            list("static_endpoint_configs", "StaticEndpointConfig", &["endpoint_config", "last_updated"]),
            list(
                "dynamic_endpoint_configs",
                "DynamicEndpointConfig",
                &["version_info", "endpoint_config", "last_updated", "error_state", "client_status"],
            ),
        ],
    },
    Dump {
        name: "ListenersConfigDump",
        always: true,
        single: &["version_info"],
        lists: &[
            list("static_listeners", "StaticListener", &["listener", "last_updated"]),
            list(
                "dynamic_listeners",
                "DynamicListener",
                &["name", "active_state", "warming_state", "draining_state", "error_state", "client_status"],
            ),
        ],
    },
    Dump {
        name: "ScopedRoutesConfigDump",
        always: true,
        single: &[],
        lists: &[
            list(
                "inline_scoped_route_configs",
                "InlineScopedRouteConfigs",
                &["name", "scoped_route_configs", "last_updated"],
            ),
            list(
                "dynamic_scoped_route_configs",
                "DynamicScopedRouteConfigs",
                &["name", "version_info", "scoped_route_configs", "last_updated", "error_state", "client_status"],
            ),
        ],
    },
    Dump {
        name: "RoutesConfigDump",
        always: true,
        single: &[],
        lists: &[
            list("static_route_configs", "StaticRouteConfig", &["route_config", "last_updated"]),
            list(
                "dynamic_route_configs",
                "DynamicRouteConfig",
                &["version_info", "route_config", "last_updated", "error_state", "client_status"],
            ),
        ],
    },
    Dump {
        name: "SecretsConfigDump",
        always: true,
        single: &[],
        lists: &[
            list("static_secrets", "StaticSecret", &["name", "last_updated", "secret"]),
            list("dynamic_active_secrets", "DynamicSecret", DYNAMIC_SECRET),
            list("dynamic_warming_secrets", "DynamicSecret", DYNAMIC_SECRET),
        ],
    },
];

const DYNAMIC_CLUSTER: &[&str] = &["version_info", "cluster", "last_updated", "error_state", "client_status"];
const DYNAMIC_SECRET: &[&str] = &["name", "version_info", "last_updated", "secret", "error_state", "client_status"];

/// A dump as JSON.
#[derive(Default)]
pub struct Message(Map<String, Value>);

impl Message {
    /// All fields.
    pub fn into_map(self) -> Map<String, Value> {
        self.0
    }

    /// The elements of one list.
    pub fn into_list(mut self, field: &str) -> Vec<Value> {
        match self.0.remove(field) {
            Some(Value::Array(list)) => list,
            _ => Vec::new(),
        }
    }

    fn put(&mut self, field: &str, value: Value) {
        self.0.insert(field.to_owned(), value);
    }

    fn put_list(&mut self, field: &str, list: Vec<Value>) {
        if !list.is_empty() {
            self.put(field, list.into());
        }
    }
}

/// All dumps; with `names` only resources of matching names.
pub fn all(state: &AdminState, include_eds: bool, names: Option<&Regex>) -> Vec<(&'static Dump, Message)> {
    let inner = state.config.lock();
    let wanted = |name: &str| names.is_none_or(|r| r.is_match(name));
    let dumps = DUMPS.iter().filter_map(|dump| {
        let message = match dump.name {
            "BootstrapConfigDump" => bootstrap(&inner),
            "ClustersConfigDump" => clusters_dump(&inner, &wanted),
            "EcdsConfigDump" => plain(&inner, &wanted, Kind::Extension, ["", "ecds_filters", ""], "ecds_filter"),
            "EndpointsConfigDump" if include_eds => endpoints(state, &inner, &wanted),
            "ListenersConfigDump" => listeners(&inner, &wanted),
            "RoutesConfigDump" => routes(&inner, &wanted),
            "ScopedRoutesConfigDump" => scoped_routes(&inner, &wanted),
            "SecretsConfigDump" => secrets(&inner, &wanted),
            _ => Message::default(),
        };
        (dump.always || !message.0.is_empty()).then_some((dump, message))
    });
    dumps.collect()
}

fn timestamp(time: SystemTime) -> Value {
    let t = OffsetDateTime::from(time);
    let (h, m, s) = t.to_hms();
    let date = format!("{:04}-{:02}-{:02}", t.year(), u8::from(t.month()), t.day());
    format!("{date}T{h:02}:{m:02}:{s:02}.{:03}Z", t.millisecond()).into()
}

/// A message, its secrets hidden. What cannot be read is named, not left out.
fn any(message: &Any) -> Value {
    waypost_xds::json::encode("google.protobuf.Any", &message.encode_to_vec(), true)
        .unwrap_or_else(|e| json!({ "@type": message.type_url, "error": e.to_string() }))
}

fn failure(failed: &Failed) -> Value {
    let mut out = Map::new();
    if let Some(message) = &failed.message {
        out.insert("failed_configuration".to_owned(), any(message));
    }
    out.insert("last_update_attempt".to_owned(), timestamp(failed.at));
    out.insert("details".to_owned(), failed.details.clone().into());
    if !failed.version.is_empty() {
        out.insert("version_info".to_owned(), failed.version.clone().into());
    }
    out.into()
}

fn bootstrap(inner: &Inner) -> Message {
    let mut out = Message::default();
    if let Some((bootstrap, at)) = &inner.bootstrap {
        let value = waypost_xds::json::encode("envoy.config.bootstrap.v3.Bootstrap", bootstrap, true)
            .unwrap_or_else(|e| json!({ "error": e.to_string() }));
        out.put("bootstrap", value);
        out.put("last_updated", timestamp(*at));
    }
    out
}

type Wanted<'a> = dyn Fn(&str) -> bool + 'a;

/// The resources of a type: static, active and warming ones.
fn sorted<'a>(inner: &'a Inner, wanted: &Wanted<'_>, kind: Kind) -> [Vec<(&'a String, &'a Resource)>; 3] {
    let of = |all: &'a BTreeMap<Kind, BTreeMap<String, Resource>>| {
        all.get(&kind).into_iter().flatten().filter(|(n, _)| wanted(n))
    };
    let (fixed, active) = of(&inner.resources).partition(|(_, r)| r.version.is_none());
    [fixed, active, of(&inner.warming).collect()]
}

/// `version_info`, the message, `last_updated` and `error_state`, as most elements have them.
fn element(resource: &Resource, field: &str) -> Value {
    let mut out = Map::new();
    if let Some(version) = resource.version.as_ref().filter(|v| !v.is_empty()) {
        out.insert("version_info".to_owned(), version.clone().into());
    }
    out.insert(field.to_owned(), any(&resource.message));
    out.insert("last_updated".to_owned(), timestamp(resource.updated));
    if let Some(failed) = &resource.failed {
        out.insert("error_state".to_owned(), failure(failed));
    }
    out.into()
}

fn plain(inner: &Inner, wanted: &Wanted<'_>, kind: Kind, fields: [&str; 3], message: &str) -> Message {
    let mut out = Message::default();
    for (field, list) in fields.iter().zip(sorted(inner, wanted, kind)).filter(|(f, _)| !f.is_empty()) {
        out.put_list(field, list.iter().map(|(_, r)| element(r, message)).collect());
    }
    out
}

fn version(inner: &Inner, kind: Kind, out: &mut Message) {
    if let Some(version) = inner.versions.get(&kind).filter(|v| !v.is_empty()) {
        out.put("version_info", version.clone().into());
    }
}

fn clusters_dump(inner: &Inner, wanted: &Wanted<'_>) -> Message {
    let mut out = Message::default();
    version(inner, Kind::Cluster, &mut out);
    let fields = ["static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters"];
    out.0.extend(plain(inner, wanted, Kind::Cluster, fields, "cluster").0);
    out
}

fn listeners(inner: &Inner, wanted: &Wanted<'_>) -> Message {
    let mut out = Message::default();
    version(inner, Kind::Listener, &mut out);
    let [fixed, active, warming] = sorted(inner, wanted, Kind::Listener);
    out.put_list("static_listeners", fixed.iter().map(|(_, r)| element(r, "listener")).collect());
    // One element for a name, with the state that is in force and the one that waits.
    let mut dynamic: BTreeMap<&String, Map<String, Value>> = BTreeMap::new();
    for (state, list) in [("active_state", active), ("warming_state", warming)] {
        for (name, resource) in list {
            let whole = dynamic.entry(name).or_default();
            whole.entry("name".to_owned()).or_insert_with(|| name.clone().into());
            let mut inner = element(resource, "listener");
            let failed = inner.as_object_mut().and_then(|m| m.remove("error_state"));
            whole.insert(state.to_owned(), inner);
            whole.extend(failed.map(|f| ("error_state".to_owned(), f)));
        }
    }
    for (name, failed) in inner.refused.get(&Kind::Listener).into_iter().flatten().filter(|(n, _)| wanted(n)) {
        let whole = dynamic.entry(name).or_default();
        whole.insert("name".to_owned(), name.clone().into());
        whole.insert("error_state".to_owned(), failure(failed));
    }
    out.put_list("dynamic_listeners", dynamic.into_values().map(Value::Object).collect());
    out
}

/// Routes within listeners, then those of RDS.
fn routes(inner: &Inner, wanted: &Wanted<'_>) -> Message {
    let mut out = Message::default();
    let listeners = inner.resources.get(&Kind::Listener).into_iter().flatten();
    let inline = listeners.flat_map(|(_, l)| inline_routes(&l.message).into_iter().map(|r| (r, l.updated)));
    let inline = inline.filter(|(r, _)| wanted(&r.name)).map(|(route, updated)| {
        json!({ "route_config": any(&waypost_xds::any::pack(&route)), "last_updated": timestamp(updated) })
    });
    out.put_list("static_route_configs", inline.collect());
    let fields = ["", "dynamic_route_configs", ""];
    out.0.extend(plain(inner, wanted, Kind::Route, fields, "route_config").0);
    out
}

/// Scopes within listeners, and those of SRDS, each list under its name.
fn scoped_routes(inner: &Inner, wanted: &Wanted<'_>) -> Message {
    let mut out = Message::default();
    let listeners = inner.resources.get(&Kind::Listener).into_iter().flatten();
    let inline = listeners.flat_map(|(_, l)| inline_scopes(&l.message).into_iter().map(|s| (s, l.updated)));
    let inline = inline.map(|((name, scopes), updated)| {
        let scopes = scopes.iter().filter(|s| wanted(&s.name)).map(|s| any(&waypost_xds::any::pack(s)));
        json!({ "name": name, "scoped_route_configs": scopes.collect::<Vec<_>>(), "last_updated": timestamp(updated) })
    });
    out.put_list("inline_scoped_route_configs", inline.collect());
    let dynamic = inner.scopes.iter().map(|(name, DumpedScopes { version, updated, scopes })| {
        let scopes = scopes.iter().filter(|(n, _)| wanted(n)).map(|(_, body)| any(body));
        let (scopes, updated) = (scopes.collect::<Vec<_>>(), timestamp(*updated));
        json!({ "name": name, "version_info": version, "scoped_route_configs": scopes, "last_updated": updated })
    });
    out.put_list("dynamic_scoped_route_configs", dynamic.collect());
    out
}

fn inline_scopes(listener: &Any) -> Vec<(String, Vec<ScopedRouteConfiguration>)> {
    let scoped = managers(listener).into_iter().filter_map(|m| match m.route_specifier {
        Some(RouteSpecifier::ScopedRoutes(scoped)) => match scoped.config_specifier {
            Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) => {
                Some((scoped.name, list.scoped_route_configurations))
            }
            _ => None,
        },
        _ => None,
    });
    scoped.collect()
}

fn inline_routes(listener: &Any) -> Vec<RouteConfiguration> {
    let routes = managers(listener).into_iter().filter_map(|m| match m.route_specifier {
        Some(RouteSpecifier::RouteConfig(route)) => Some(route),
        _ => None,
    });
    routes.collect()
}

fn managers(listener: &Any) -> Vec<HttpConnectionManager> {
    let Ok(listener) = waypost_xds::any::unpack::<Listener>(listener, "listener") else { return Vec::new() };
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    let configs = chains.flat_map(|c| &c.filters).filter_map(|f| match &f.config_type {
        Some(ConfigType::TypedConfig(config)) => Some(config),
        _ => None,
    });
    let managers = configs.filter(|c| waypost_xds::any::type_name(c) == HttpConnectionManager::full_name());
    managers.filter_map(|c| waypost_xds::any::unpack::<HttpConnectionManager>(c, "typed_config").ok()).collect()
}

fn secrets(inner: &Inner, wanted: &Wanted<'_>) -> Message {
    let mut out = Message::default();
    let fields = ["static_secrets", "dynamic_active_secrets", "dynamic_warming_secrets"];
    for (field, list) in fields.iter().zip(sorted(inner, wanted, Kind::Secret)) {
        let list = list.iter().map(|(name, r)| {
            let mut whole = Map::new();
            whole.insert("name".to_owned(), (*name).clone().into());
            if let Some(version) = r.version.as_ref().filter(|v| !v.is_empty()) {
                whole.insert("version_info".to_owned(), version.clone().into());
            }
            // As Envoy has it, a static secret has no time.
            if r.version.is_some() {
                whole.insert("last_updated".to_owned(), timestamp(r.updated));
            }
            whole.insert("secret".to_owned(), any(&r.message));
            if let Some(failed) = &r.failed {
                whole.insert("error_state".to_owned(), failure(failed));
            }
            Value::Object(whole)
        });
        out.put_list(field, list.collect());
    }
    out
}

/// The hosts that clusters have now, as load assignments.
fn endpoints(state: &AdminState, inner: &Inner, wanted: &Wanted<'_>) -> Message {
    let mut out = Message::default();
    let (mut fixed, mut dynamic) = (Vec::new(), Vec::new());
    for cluster in state.shared.clusters.clusters() {
        let name = &*cluster.names.name;
        if !wanted(name) {
            continue;
        }
        let resource = |kind: Kind| inner.resources.get(&kind).and_then(|m| m.get(name));
        let config = json!({ "endpoint_config": assignment(&cluster) });
        match resource(Kind::Cluster).is_some_and(|r| r.version.is_some()) {
            true => dynamic.push(config),
            false => fixed.push(config),
        }
    }
    out.put_list("static_endpoint_configs", fixed);
    out.put_list("dynamic_endpoint_configs", dynamic);
    out
}

/// Where hosts are, and the hosts there.
type Hosts<'a> = (&'a Place, Vec<Value>);

fn assignment(cluster: &Cluster) -> Value {
    let hosts = cluster.hosts.load();
    let mut places: Vec<Hosts<'_>> = Vec::new();
    for host in hosts.all.iter() {
        let mut endpoint = Map::new();
        endpoint.insert("address".to_owned(), clusters::address(&host.info.address));
        endpoint.insert("health_check_config".to_owned(), json!({}));
        if !host.info.hostname.is_empty() {
            endpoint.insert("hostname".to_owned(), json!(&*host.info.hostname));
        }
        let mut entry = Map::new();
        entry.insert("endpoint".to_owned(), endpoint.into());
        entry.insert("health_status".to_owned(), json!(clusters::health_status(host.health)));
        let metadata = &host.info.metadata;
        if !metadata.is_empty() {
            let namespaces = metadata.iter().map(|(name, value)| (name.to_string(), Value::clone(value)));
            entry.insert("metadata".to_owned(), json!({ "filter_metadata": namespaces.collect::<Map<_, _>>() }));
        }
        entry.insert("load_balancing_weight".to_owned(), host.weight.into());
        let same = |p: &Place| p.locality == host.place.locality && p.priority == host.place.priority;
        match places.iter_mut().find(|(place, _)| same(place)) {
            Some((_, list)) => list.push(entry.into()),
            None => places.push((&host.place, vec![entry.into()])),
        }
    }
    places.sort_by_key(|(place, _)| place.priority);
    let endpoints = places.into_iter().map(|(place, hosts)| {
        let Place { locality, priority, weight } = place;
        let mut out = Map::new();
        out.insert("locality".to_owned(), clusters::locality(locality));
        out.insert("lb_endpoints".to_owned(), hosts.into());
        out.insert("load_balancing_weight".to_owned(), json!(weight));
        if *priority > 0 {
            out.insert("priority".to_owned(), json!(priority));
        }
        Value::Object(out)
    });
    let endpoints: Vec<Value> = endpoints.collect();
    let mut out = Map::new();
    out.insert("@type".to_owned(), "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment".into());
    out.insert("cluster_name".to_owned(), json!(cluster.eds_service_name().unwrap_or(&cluster.names.name)));
    if !endpoints.is_empty() {
        out.insert("endpoints".to_owned(), endpoints.into());
    }
    out.insert("policy".to_owned(), json!({ "overprovisioning_factor": hosts.overprovisioning }));
    out.into()
}
