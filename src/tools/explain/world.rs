//! The resources, compiled by the code that the proxy itself compiles them with.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prost::{Message, Name};
use serde_json::{Value, json};
use waypost_filters::address::Address;
use waypost_xds::envoy::config::cluster::v3 as cluster_proto;
use waypost_xds::envoy::config::core::v3::TypedExtensionConfig;
use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypost_xds::envoy::config::listener::v3 as listener_proto;
use waypost_xds::envoy::config::route::v3::RouteConfiguration;
use waypost_xds::json as protobuf_json;

use super::prepare;
use super::source::{Source, field};
use crate::cluster::dns::{Dns, Resolved};
use crate::cluster::{self, Cluster, ClusterTable, Discovery};
use crate::config::extension_slot::ExtensionSlots;
use crate::config::{ConfigError, Context, Process, bootstrap};
use crate::listener::{self, Listener, ListenerSet};
use crate::observe::access_log::AccessLogFiles;
use crate::observe::stats::Store;
use crate::route::RouteTable;
use crate::route::slot::RouteSlots;
use crate::tls::SecretStore;

/// All that could be compiled, and why the rest could not.
pub struct World {
    /// Listeners.
    pub listeners: ListenerSet,
    /// Clusters.
    pub clusters: ClusterTable,
    /// Clusters by name that cannot be used.
    pub broken_clusters: BTreeMap<String, ConfigError>,
    /// Listeners by name that cannot be used.
    pub broken_listeners: BTreeMap<String, ConfigError>,
    /// Route configurations of RDS by name that cannot be used.
    pub broken_routes: BTreeMap<String, ConfigError>,
    /// Extensions of ECDS by name that cannot be used.
    pub broken_extensions: BTreeMap<String, ConfigError>,
    /// Assignments of EDS by name that cannot be used.
    pub broken_endpoints: BTreeMap<String, ConfigError>,
    /// Filter chains that cannot be used, by listener and number. The proxy does not take such a listener at all.
    pub broken_chains: HashMap<(Arc<str>, usize), ConfigError>,
}

impl World {
    /// Compiles all there is.
    pub fn compile(source: Source) -> World {
        let stats = Arc::new(Store::default());
        let (logs, secrets) = (AccessLogFiles::default(), SecretStore::new());
        let process = process(&source.bootstrap);
        let mut world = World {
            listeners: ListenerSet::default(),
            clusters: ClusterTable::default(),
            broken_clusters: BTreeMap::new(),
            broken_listeners: BTreeMap::new(),
            broken_routes: BTreeMap::new(),
            broken_extensions: BTreeMap::new(),
            broken_endpoints: BTreeMap::new(),
            broken_chains: HashMap::new(),
        };
        let clusters = std::mem::take(&mut world.clusters);
        let (routes, extensions) = (RouteSlots::default(), ExtensionSlots::default());
        let cx = Context {
            stats: &stats,
            clusters: &clusters,
            logs: &logs,
            secrets: &secrets,
            routes: &routes,
            extensions: &extensions,
            process: &process,
        };
        for (path, mut value) in source.clusters {
            prepare::resource(&mut value);
            let compiled = message::<cluster_proto::Cluster>(&value, &path)
                .and_then(|proto| cluster::compile::compile(proto, &cx, &path));
            match compiled {
                Ok(cluster) => {
                    world.assign(&cluster, &source.endpoints);
                    if let Discovery::Dns(dns) = &cluster.discovery {
                        cluster.set_resolved(&unresolved(dns));
                    }
                    clusters.slot(&cluster.names.name).current.store(Some(cluster));
                }
                Err(e) => drop(world.broken_clusters.insert(name(&value), e)),
            }
        }
        for (path, mut value) in source.listeners {
            prepare::resource(&mut value);
            let compiled =
                message::<listener_proto::Listener>(&value, &path).and_then(|proto| world.listener(proto, &cx, &path));
            match compiled {
                Ok(listener) => {
                    if listener.internal {
                        world.listeners.internal.insert(listener.name.clone(), listener.clone());
                    }
                    world.listeners.all.push(listener);
                }
                Err(e) => drop(world.broken_listeners.insert(name(&value), e)),
            }
        }
        for slot in routes.tables.take_wanted() {
            let Some(value) = source.routes.get(&slot.name) else { continue };
            let path = format!("dynamic_route_configs[{}]", slot.name);
            let compiled = message::<RouteConfiguration>(&known(value), &path)
                .and_then(|proto| RouteTable::compile(proto, &cx, &path));
            match compiled {
                Ok(table) => slot.current.store(Some(table)),
                Err(e) => drop(world.broken_routes.insert(slot.name.clone(), e)),
            }
        }
        for slot in extensions.take_wanted() {
            let Some(value) = source.extensions.get(&slot.name) else { continue };
            let set = message::<TypedExtensionConfig>(&known(value), &format!("ecds_filters[{}]", slot.name))
                .and_then(|proto| slot.set(proto.typed_config));
            if let Err(e) = set {
                world.broken_extensions.insert(slot.name.clone(), e);
            }
        }
        world.clusters = clusters;
        world
    }

    /// Gives an EDS cluster its endpoints.
    fn assign(&mut self, cluster: &Cluster, endpoints: &HashMap<String, Value>) {
        let Some((name, value)) = cluster.eds_service_name().and_then(|name| endpoints.get_key_value(name)) else {
            return;
        };
        let path = format!("dynamic_endpoint_configs[{name}]");
        let mut value = known(value);
        prepare::weights(&mut value);
        let assigned =
            message::<ClusterLoadAssignment>(&value, &path).and_then(|assignment| cluster.assign(&assignment, &path));
        if let Err(e) = assigned {
            self.broken_endpoints.insert(name.clone(), e);
        }
    }

    /// Compiles a listener; filter chains that cannot be used are left empty.
    fn listener(
        &mut self,
        mut proto: listener_proto::Listener,
        cx: &Context<'_>,
        path: &str,
    ) -> Result<Arc<Listener>, ConfigError> {
        let mut broken: Vec<(usize, ConfigError)> = Vec::new();
        loop {
            let error = match listener::compile::compile(proto.clone(), cx, path) {
                Ok(listener::compile::Compiled { listener, .. }) => {
                    let name = |(i, e)| ((listener.name.clone(), i), e);
                    self.broken_chains.extend(broken.into_iter().map(name));
                    return Ok(listener);
                }
                Err(e) => e,
            };
            let within = error.path.strip_prefix(path).unwrap_or_default();
            let default = within.starts_with(".default_filter_chain");
            let number = within.strip_prefix(".filter_chains[").and_then(|r| r.split(']').next()?.parse().ok());
            let count = proto.filter_chains.len();
            let (at, chain) = match (number, default) {
                (Some(i), _) => (i, proto.filter_chains.get_mut(i)),
                (None, true) => (count, proto.default_filter_chain.as_mut()),
                (None, false) => return Err(error),
            };
            match chain {
                Some(chain) if !chain.filters.is_empty() => {
                    chain.filters.clear();
                    chain.transport_socket = None;
                }
                _ => return Err(error),
            }
            broken.push((at, error));
        }
    }

    /// The listener that accepts connections to an address: its own, or else any of that port.
    pub fn listening_at(&self, ip: Option<std::net::IpAddr>, port: u16) -> Option<&Arc<Listener>> {
        let listeners = || self.listeners.all.iter().filter(|l| !l.internal);
        let at = |fits: &dyn Fn(std::net::IpAddr) -> bool| {
            listeners()
                .find(|l| l.addresses.iter().any(|a| matches!(a, Address::Ip(a) if a.port() == port && fits(a.ip()))))
        };
        match ip {
            Some(ip) => at(&|own| own == ip).or_else(|| at(&|own| own.is_unspecified())),
            None => at(&|_| true),
        }
    }

    /// A listener by its name.
    pub fn named(&self, name: &str) -> Option<&Arc<Listener>> {
        self.listeners.all.iter().find(|l| &*l.name == name)
    }
}

/// Addresses in the place of those that names have, which nobody is asked for: of the block that no host can be in, by number.
fn unresolved(dns: &Dns) -> Resolved {
    (1u32..).zip(dns.names()).map(|(number, name)| (name, vec![std::net::Ipv4Addr::from_bits(number).into()])).collect()
}

/// The name and port that such an address stands for, or the address.
pub fn named(cluster: &Cluster, address: &Address) -> String {
    let name = || {
        let (Discovery::Dns(dns), Address::Ip(std::net::SocketAddr::V4(ip))) = (&cluster.discovery, address) else {
            return None;
        };
        let number = ip.ip().to_bits().checked_sub(1)?;
        Some(format!("{}:{}", dns.names().get(usize::try_from(number).ok()?)?, ip.port()))
    };
    name().unwrap_or_else(|| address.to_string())
}

/// A resource whose types are known, or said to be unknown.
fn known(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Object(object) = &mut value {
        // The message's own type is clear.
        object.shift_remove("@type");
    }
    prepare::resource(&mut value);
    value
}

fn name(value: &Value) -> String {
    value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn message<M: Message + Name + Default>(value: &Value, path: &str) -> Result<M, ConfigError> {
    let within = |e: waypost_xds::Error| ConfigError::from(e.within(path));
    let message: M = protobuf_json::from_value(value, &protobuf_json::Options::ignore_unknown()).map_err(within)?;
    waypost_xds::validate::check_message(&message).map_err(within)?;
    Ok(message)
}

/// What of the bootstrap matters to the way: who the node is, and the runtime. Anything else may be there or not.
fn process(value: &Value) -> Process {
    let part = |name: &str| field(value, name).cloned().unwrap_or(Value::Null);
    let read = |value: Value| {
        protobuf_json::from_value(&value, &protobuf_json::Options::ignore_unknown())
            .ok()
            .and_then(|proto| bootstrap::settings(proto).ok())
    };
    let whole = read(json!({ "node": part("node"), "layered_runtime": part("layered_runtime") }));
    let settings = whole.or_else(|| read(json!({ "node": part("node") })));
    settings.as_ref().map(bootstrap::process).unwrap_or_default()
}
