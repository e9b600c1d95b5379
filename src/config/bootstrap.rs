//! `config.bootstrap.v3.Bootstrap`: from a file and the command line to what the server starts with.

use std::path::Path;
use std::sync::Arc;

use waypost_filters::metadata::json_of_struct;
use waypost_xds::envoy::config::bootstrap::v3;
use waypost_xds::envoy::config::bootstrap::v3::bootstrap as b;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::{any, json, yaml};

use super::convert::address;
use super::{ConfigError, Context, Process, refuse};
use crate::cluster::{self, ClusterTable};
use crate::listener::{self, Listener};
use crate::observe::access_log::AccessLogFiles;
use crate::observe::stats::Store;
use crate::overload::Overload;
use crate::tls::SecretStore;

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
}

/// Takes a bootstrap apart. What is not supported yet is refused.
pub fn settings(bootstrap: v3::Bootstrap) -> Result<Settings, ConfigError> {
    let v3::Bootstrap {
        node,
        node_context_params: _, // for discovery, which is refused
        static_resources,
        dynamic_resources,
        cluster_manager,
        hds_config,
        flags_path: _, // Envoy warns of it as deprecated and reads nothing that matters here
        stats_sinks,
        deferred_stat_options: _, // stats are as cheap as they can be
        stats_config,
        stats_flush_interval: _, // of sinks, which are refused
        watchdog: _,             // deprecated; a worker that hangs is not ended by anybody
        watchdogs,
        tracing,
        layered_runtime,
        admin,
        overload_manager,
        enable_dispatcher_stats: _, // of Envoy's event loop
        header_prefix,
        stats_server_version_override: _, // one gauge
        use_tcp_for_dns_lookups: _,       // names are not resolved yet
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
        grpc_async_client_manager_config: _, // gRPC clients come with discovery
        memory_allocator_manager: _,         // of tcmalloc
        enable_worker_cpu_affinity,
        stats_flush: _,    // of sinks
        stats_eviction: _, // a stat costs eight bytes a worker
    } = bootstrap;
    if dynamic_resources.is_some_and(|d| d != b::DynamicResources::default()) {
        return Err(ConfigError::unsupported("dynamic_resources"));
    }
    refuse(&cluster_manager, "cluster_manager", "*")?;
    refuse(&hds_config, "hds_config", "*")?;
    refuse(&stats_sinks, "stats_sinks", "*")?;
    refuse(&tracing, "tracing", "*")?;
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
            _ => return Err(ConfigError::unsupported(format!("bootstrap_extensions[{i}] ({name}): {kind}"))),
        }
    }
    let runtime = runtime(layered_runtime)?;
    let flat: Vec<(String, String)> = runtime.iter().flat_map(|(_, values)| values.clone()).collect();
    Ok(Settings {
        node: node.unwrap_or_default(),
        admin,
        stats_config,
        overload: Overload::compile(overload_manager, &flat, "overload_manager")?,
        runtime,
        log: application_log_config,
        resources: static_resources.unwrap_or_default(),
    })
}

/// The static layers of the runtime. Later layers win, so they are kept in order.
fn runtime(layered: Option<v3::LayeredRuntime>) -> Result<Vec<Layer>, ConfigError> {
    use v3::runtime_layer::LayerSpecifier as L;
    let mut out = Vec::new();
    for (i, v3::RuntimeLayer { name, layer_specifier }) in layered.unwrap_or_default().layers.into_iter().enumerate() {
        let values = match layer_specifier {
            Some(L::StaticLayer(s)) => flatten("", &json_of_struct(s)),
            Some(L::AdminLayer(_)) => Vec::new(),
            Some(L::DiskLayer(_)) => {
                return Err(ConfigError::unsupported(format!("layered_runtime.layers[{i}].disk_layer")));
            }
            Some(L::RtdsLayer(_)) => {
                return Err(ConfigError::unsupported(format!("layered_runtime.layers[{i}].rtds_layer")));
            }
            None => return Err(ConfigError::new(format!("layered_runtime.layers[{i}]"), "expected a layer")),
        };
        out.push((name, values));
    }
    Ok(out)
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
        strip_fragment: lookup("envoy.reloadable_features.http_reject_path_with_fragment") == Some("false"),
    }
}

/// The static resources, compiled.
pub struct Resources {
    /// Listeners in order.
    pub listeners: Vec<listener::compile::Compiled>,
}

/// Compiles the static resources: secrets, then clusters, then listeners.
pub fn compile(
    resources: b::StaticResources,
    stats: &Arc<Store>,
    clusters: &ClusterTable,
    logs: &AccessLogFiles,
    secrets: &SecretStore,
    process: &Process,
) -> Result<Resources, ConfigError> {
    let b::StaticResources { listeners, clusters: cluster_protos, secrets: secret_protos } = resources;
    for (i, secret) in secret_protos.into_iter().enumerate() {
        secrets.add_static(secret, &format!("static_resources.secrets[{i}]"))?;
    }
    let cx = Context { stats, clusters, logs, secrets, process };
    for (i, proto) in cluster_protos.into_iter().enumerate() {
        let path = format!("static_resources.clusters[{i}]");
        let cluster = cluster::compile::compile(proto, &cx, &path)?;
        let slot = clusters.slot(&cluster.names.name);
        if slot.set(Some(cluster)).is_some() {
            return Err(ConfigError::new(format!("{path}.name"), format!("there is another cluster '{}'", slot.name)));
        }
    }
    clusters.publish();
    let mut compiled: Vec<listener::compile::Compiled> = Vec::new();
    for (i, proto) in listeners.into_iter().enumerate() {
        let path = format!("static_resources.listeners[{i}]");
        let one = listener::compile::compile(proto, &cx, &path)?;
        let listener = &one.listener;
        if compiled.iter().any(|l| l.listener.name == listener.name) {
            return Err(ConfigError::new(
                format!("{path}.name"),
                format!("there is another listener '{}'", listener.name),
            ));
        }
        check_clusters(listener, clusters, &path)?;
        compiled.push(one);
    }
    clusters.publish();
    Ok(Resources { listeners: compiled })
}

/// Envoy refuses a static route or TCP proxy whose cluster does not exist.
fn check_clusters(listener: &Listener, clusters: &ClusterTable, path: &str) -> Result<(), ConfigError> {
    let known = |name: &str| clusters.find(name).is_some_and(|s| s.current.load().is_some());
    for (i, chain) in listener.chains.load().all.iter().enumerate() {
        let missing = match &chain.terminal {
            // Routes of the listener itself are checked unless they ask for it not to be done.
            listener::Terminal::Http(hcm) if hcm.routes.validate_clusters == Some(false) => None,
            listener::Terminal::Http(hcm) => hcm.routes.referenced_clusters().find(|c| !known(c)).cloned(),
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
