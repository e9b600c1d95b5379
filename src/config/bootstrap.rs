//! `config.bootstrap.v3.Bootstrap`: from a file and the command line to what the server starts with.

use std::path::Path;
use std::sync::Arc;

use waypost_filters::metadata::json_of_struct;
use waypost_xds::envoy::config::bootstrap::v3;
use waypost_xds::envoy::config::bootstrap::v3::bootstrap as b;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::{any, json, yaml};

use super::convert::address;
use super::{ConfigError, Context, Process, refuse, warn_ignored};
use crate::cluster::{self, ClusterTable};
use crate::discovery::source::Fetch;
use crate::discovery::{Dynamic, RuntimeSource};
use crate::listener;
use crate::overload::Overload;
use crate::route::slot::Routes;

/// Reads a bootstrap: a file, text that is merged over it, or both. `strict` refuses fields that the API does not have.
pub fn read(path: &str, over: &str, strict: bool) -> Result<v3::Bootstrap, ConfigError> {
    if path.is_empty() && over.is_empty() {
        return Err(ConfigError::new("--config-path", "expected a file, or --config-yaml"));
    }
    let options = if strict { json::Options::reject_unknown() } else { json::Options::ignore_unknown() };
    let mut bootstrap = v3::Bootstrap::default();
    if !path.is_empty() {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError::new(path, e.to_string()))?;
        let is_json = Path::new(path).extension().is_some_and(|e| e.eq_ignore_ascii_case("json"));
        let value = if is_json { json::parse(&text)? } else { yaml::parse(&text)? };
        bootstrap = json::from_value(&value, &options)?;
    }
    if !over.is_empty() {
        json::merge(&mut bootstrap, &yaml::parse(over)?, &options)?;
    }
    let unknown = options.take_unknown();
    if !unknown.is_empty() {
        tracing::warn!(target: "config", "fields that are not known are ignored: {}", unknown.join(", "));
    }
    waypost_xds::validate::check_message(&bootstrap)?;
    Ok(bootstrap)
}

/// A layer of the runtime: its name, and its keys and values as text.
pub type Layer = (String, Vec<(String, String)>);

/// What a bootstrap says beside its static resources.
pub struct Settings {
    /// `node`.
    pub node: core::Node,
    /// `admin`.
    pub admin: Option<v3::Admin>,
    /// `stats_config`.
    pub stats_config: Option<waypost_xds::envoy::config::metrics::v3::StatsConfig>,
    /// `layered_runtime`: the static layers, each with its keys and values as text.
    pub runtime: Vec<Layer>,
    /// `application_log_config`.
    pub log: Option<b::ApplicationLogConfig>,
    /// `overload_manager` and connection limits.
    pub overload: Overload,
    /// `static_resources`.
    pub resources: b::StaticResources,
    /// `dynamic_resources`, and what else asks for configuration.
    pub dynamic: Dynamic,
}

/// Takes a bootstrap apart. What is not supported yet is refused.
pub fn settings(bootstrap: v3::Bootstrap) -> Result<Settings, ConfigError> {
    let v3::Bootstrap {
        node,
        node_context_params: _, // for xdstp:// names, which are refused
        static_resources,
        dynamic_resources,
        cluster_manager,
        hds_config,
        flags_path: _, // Envoy warns of it as deprecated and reads nothing that matters here
        stats_sinks,
        deferred_stat_options: _, // stats are as cheap as they can be
        stats_config,
        stats_flush_interval: _, // of sinks
        watchdog: _,             // deprecated; a worker that hangs is not ended by anybody
        watchdogs,
        tracing,
        layered_runtime,
        admin,
        overload_manager,
        enable_dispatcher_stats: _, // of Envoy's event loop
        header_prefix,
        stats_server_version_override: _, // one gauge
        use_tcp_for_dns_lookups: _,       // names are resolved by the system's resolver
        dns_resolution_config: _,
        typed_dns_resolver_config: _,
        bootstrap_extensions,
        fatal_actions,
        config_sources,
        default_config_source,
        default_socket_interface,
        certificate_provider_instances,
        inline_headers: _, // how headers are stored
        perf_tracing_file_path: _,
        default_regex_engine,
        xds_delegate_extension,
        xds_config_tracker_extension,
        listener_manager,
        application_log_config,
        grpc_async_client_manager_config: _, // how many gRPC clients are kept; a stream has its own connection
        memory_allocator_manager: _,         // of tcmalloc
        enable_worker_cpu_affinity,
        stats_flush: _,    // of sinks
        stats_eviction: _, // a stat costs eight bytes a worker
    } = bootstrap;
    let mut dynamic = Dynamic::compile(dynamic_resources, "dynamic_resources")?;
    self::cluster_manager(cluster_manager, "cluster_manager")?;
    refuse(&hds_config, "hds_config", "*")?;
    // These only add: what flows is the same without them.
    warn_ignored(!stats_sinks.is_empty(), "bootstrap", "stats_sinks");
    warn_ignored(tracing.is_some(), "bootstrap", "tracing");
    refuse(&header_prefix, "header_prefix", "*")?;
    refuse(&fatal_actions, "fatal_actions", "*")?;
    refuse(&config_sources, "config_sources", "*")?;
    refuse(&default_config_source, "default_config_source", "*")?;
    refuse(&default_socket_interface, "default_socket_interface", "*")?;
    refuse(&certificate_provider_instances, "certificate_provider_instances", "*")?;
    refuse(&default_regex_engine, "default_regex_engine", "*")?;
    refuse(&xds_delegate_extension, "xds_delegate_extension", "*")?;
    refuse(&xds_config_tracker_extension, "xds_config_tracker_extension", "*")?;
    refuse(&listener_manager, "listener_manager", "*")?;
    refuse(&enable_worker_cpu_affinity, "enable_worker_cpu_affinity", "*")?;
    if watchdogs.is_some() {
        tracing::warn!(target: "config", "watchdogs: there is none; workers are not watched");
    }
    for (i, core::TypedExtensionConfig { name, typed_config }) in bootstrap_extensions.into_iter().enumerate() {
        let kind = typed_config.as_ref().map(any::type_name).unwrap_or_default();
        match kind.as_str() {
            // Pipes have a buffer of the size that istiod sets; nothing else needs to be told that internal listeners exist.
            "envoy.extensions.bootstrap.internal_listener.v3.InternalListener" => {}
            "istio.workload.BootstrapExtension" => {
                if let Some(config) = &typed_config {
                    dynamic.workload_discovery(config, &format!("bootstrap_extensions[{i}].typed_config"))?;
                }
            }
            _ => return Err(ConfigError::unsupported(format!("bootstrap_extensions[{i}] ({name}): {kind}"))),
        }
    }
    let runtime = runtime(layered_runtime, &mut dynamic)?;
    let flat: Vec<(String, String)> = runtime.iter().flat_map(|(_, values)| values.clone()).collect();
    Ok(Settings {
        node: node.unwrap_or_default(),
        admin,
        stats_config,
        overload: Overload::compile(overload_manager, &flat, "overload_manager")?,
        runtime,
        log: application_log_config,
        resources: static_resources.unwrap_or_default(),
        dynamic,
    })
}

/// `cluster_manager`: what of it is set by istiod's annotations only adds; what would change where connections go is refused.
fn cluster_manager(proto: Option<v3::ClusterManager>, path: &str) -> Result<(), ConfigError> {
    let Some(proto) = proto else { return Ok(()) };
    let v3::ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        enable_deferred_cluster_creation: _, // a cluster costs little before it is used
    } = proto;
    refuse(&upstream_bind_config, path, "upstream_bind_config")?;
    warn_ignored(!local_cluster_name.is_empty(), path, "local_cluster_name");
    warn_ignored(outlier_detection.is_some(), path, "outlier_detection");
    warn_ignored(load_stats_config.is_some(), path, "load_stats_config");
    Ok(())
}

/// The layers of the runtime. Later layers win, so they are kept in order.
fn runtime(layered: Option<v3::LayeredRuntime>, dynamic: &mut Dynamic) -> Result<Vec<Layer>, ConfigError> {
    use v3::runtime_layer::LayerSpecifier as L;
    let mut out = Vec::new();
    let layers = layered.unwrap_or_default().layers;
    for (i, v3::RuntimeLayer { name: layer_name, layer_specifier }) in layers.into_iter().enumerate() {
        let values = match layer_specifier {
            Some(L::StaticLayer(s)) => flatten("", &json_of_struct(s)),
            Some(L::AdminLayer(_)) => Vec::new(),
            Some(L::DiskLayer(_)) => {
                return Err(ConfigError::unsupported(format!("layered_runtime.layers[{i}].disk_layer")));
            }
            Some(L::RtdsLayer(v3::runtime_layer::RtdsLayer { name, rtds_config })) => {
                let path = format!("layered_runtime.layers[{i}].rtds_layer.rtds_config");
                let fetch = Fetch::of(&rtds_config.unwrap_or_default(), &path)?;
                dynamic.runtime.push(RuntimeSource { layer: layer_name.clone(), name, fetch });
                Vec::new()
            }
            None => return Err(ConfigError::new(format!("layered_runtime.layers[{i}]"), "expected a layer")),
        };
        out.push((layer_name, values));
    }
    Ok(out)
}

/// The values of a layer as text.
pub fn runtime_values(layer: Option<waypost_xds::google::protobuf::Struct>) -> Vec<(String, String)> {
    layer.map(|l| flatten("", &json_of_struct(l))).unwrap_or_default()
}

fn flatten(prefix: &str, value: &serde_json::Value) -> Vec<(String, String)> {
    use serde_json::Value;
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(k, v)| flatten(&if prefix.is_empty() { k.clone() } else { format!("{prefix}.{k}") }, v))
            .collect(),
        Value::String(s) => vec![(prefix.to_owned(), s.clone())],
        // Numbers come as doubles; whole ones are printed as such.
        Value::Number(n) => {
            let text = match n.as_f64() {
                Some(f) if f.fract() == 0.0 && f.abs() < 1e15 => format!("{f:.0}"),
                _ => n.to_string(),
            };
            vec![(prefix.to_owned(), text)]
        }
        other => vec![(prefix.to_owned(), other.to_string())],
    }
}

/// What is known of the process when resources are compiled.
pub fn process(settings: &Settings) -> Process {
    let lookup = |key: &str| {
        settings.runtime.iter().rev().find_map(|(_, v)| v.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str()))
    };
    Process {
        node_id: settings.node.id.clone(),
        node_cluster: settings.node.cluster.clone(),
        node_metadata: Arc::new(settings.node.metadata.clone().map(json_of_struct).unwrap_or_default()),
        reject_unknown_dynamic: false,
        strip_fragment: lookup("envoy.reloadable_features.http_reject_path_with_fragment") == Some("false"),
    }
}

/// The static resources, compiled.
pub struct Resources {
    /// Listeners in order.
    pub listeners: Vec<listener::compile::Compiled>,
}

/// Compiles the static resources: secrets, then clusters, then listeners. Clusters that CDS may bring are not missed.
pub fn compile(resources: b::StaticResources, cx: &Context<'_>) -> Result<Resources, ConfigError> {
    let b::StaticResources { listeners, clusters: cluster_protos, secrets: secret_protos } = resources;
    for (i, secret) in secret_protos.into_iter().enumerate() {
        cx.secrets.add_static(secret, &format!("static_resources.secrets[{i}]"))?;
    }
    let clusters = cx.clusters;
    for (i, proto) in cluster_protos.into_iter().enumerate() {
        let path = format!("static_resources.clusters[{i}]");
        let cluster = cluster::compile::compile(proto, cx, &path)?;
        let slot = clusters.slot(&cluster.names.name);
        if slot.set(Some(cluster)).is_some() {
            return Err(ConfigError::new(format!("{path}.name"), format!("there is another cluster '{}'", slot.name)));
        }
    }
    clusters.publish();
    let mut compiled: Vec<listener::compile::Compiled> = Vec::new();
    for (i, proto) in listeners.into_iter().enumerate() {
        let path = format!("static_resources.listeners[{i}]");
        let one = listener::compile::compile(proto, cx, &path)?;
        let listener = &one.listener;
        if compiled.iter().any(|l| l.listener.name == listener.name) {
            return Err(ConfigError::new(
                format!("{path}.name"),
                format!("there is another listener '{}'", listener.name),
            ));
        }
        check_clusters(&listener.chains.load(), clusters, &path)?;
        compiled.push(one);
    }
    clusters.publish();
    Ok(Resources { listeners: compiled })
}

/// Envoy refuses a listener with a route of its own to a cluster that does not exist, unless it is told not to look (`validate_clusters`).
pub fn check_clusters(chains: &listener::Chains, clusters: &ClusterTable, path: &str) -> Result<(), ConfigError> {
    let known = |name: &str| clusters.find(name).is_some_and(|s| s.current.load().is_some());
    for (i, chain) in chains.all.iter().enumerate() {
        let missing = match &chain.terminal {
            // Routes of the listener itself are checked unless they ask for it not to be done.
            listener::Terminal::Http(hcm) => match &hcm.routes {
                Routes::Here(table) if table.validate_clusters != Some(false) => {
                    table.referenced_clusters().find(|c| !known(c)).cloned()
                }
                _ => None,
            },
            listener::Terminal::Tcp(proxy) => {
                // tcp_proxy is not checked by Envoy: the connection is closed with flag NC.
                let _ = proxy;
                None
            }
            _ => None,
        };
        if let Some(name) = missing {
            return Err(ConfigError::new(
                format!("{path}.filter_chains[{i}]"),
                format!("route: unknown cluster '{name}'"),
            ));
        }
    }
    Ok(())
}

/// `admin.address`.
pub fn admin_address(admin: Option<core::Address>) -> Result<Option<std::net::SocketAddr>, ConfigError> {
    match admin {
        None => Ok(None),
        Some(a) => match address(Some(a), "admin.address")?.socket() {
            Some(a) => Ok(Some(a)),
            None => Err(ConfigError::unsupported("admin.address: not a socket address")),
        },
    }
}
