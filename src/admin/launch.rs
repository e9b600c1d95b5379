//! From the bootstrap to the admin thread.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use prost::Name;
use waypost_filters::access_log::Sink;
use waypost_xds::any;
use waypost_xds::envoy::config::accesslog::v3::AccessLog;
use waypost_xds::envoy::config::accesslog::v3::access_log::ConfigType;
use waypost_xds::envoy::config::bootstrap::v3::Bootstrap;
use waypost_xds::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use waypost_xds::envoy::extensions::access_loggers::stream::v3::{StderrAccessLog, StdoutAccessLog};

use super::state::{RuntimeLayer, ServerGauges};
use super::{AdminConfig, AdminState, ConfigStore, Kind, StatsConfig, start};
use crate::cli::Options;
use crate::config::bootstrap::Settings;
use crate::lifecycle::Control;
use crate::observe::access_log::AccessLogFiles;
use crate::observe::log::LogHandle;
use crate::tls::SecretStore;
use crate::worker::Shared;

/// Keeps `static_resources` for `/config_dump`.
pub fn keep_static(config: &ConfigStore, bootstrap: &Bootstrap) {
    let Some(resources) = &bootstrap.static_resources else { return };
    for c in &resources.clusters {
        config.put_static(Kind::Cluster, &c.name, any::pack(c));
    }
    for (i, l) in resources.listeners.iter().enumerate() {
        // A listener without a name is told apart by its place.
        let name = if l.name.is_empty() { format!("listeners[{i}]") } else { l.name.clone() };
        config.put_static(Kind::Listener, &name, any::pack(l));
    }
    for s in &resources.secrets {
        config.put_static(Kind::Secret, &s.name, any::pack(s));
    }
}

/// Starts the admin thread with all that it looks at.
#[allow(clippy::too_many_arguments, reason = "it is what the endpoints show: everything")]
pub fn launch(
    address: SocketAddr,
    options: &Options,
    settings: &Settings,
    shared: &Arc<Shared>,
    control: &Arc<Control>,
    config: Arc<ConfigStore>,
    log: LogHandle,
    access_logs: &Arc<AccessLogFiles>,
    secrets: &Arc<SecretStore>,
    runtime: Arc<Mutex<Vec<RuntimeLayer>>>,
) -> std::io::Result<()> {
    let invalid = |e: crate::config::ConfigError| std::io::Error::new(std::io::ErrorKind::InvalidInput, e);
    let state = AdminState {
        shared: shared.clone(),
        options: options.clone(),
        node: settings.node.clone(),
        control: control.clone(),
        config,
        stats_config: StatsConfig::compile(settings.stats_config.clone(), &options.stats_tags).map_err(invalid)?,
        log,
        access_logs: access_logs.clone(),
        secrets: secrets.clone(),
        runtime,
        started: (Instant::now(), SystemTime::now()),
        gauges: ServerGauges::new(&shared.stats),
    };
    let mut sinks = Vec::new();
    for entry in settings.admin.iter().flat_map(|a| &a.access_log) {
        sinks.extend(sink(entry, access_logs)?);
    }
    // The thread ends by itself when the process is to end.
    let _thread = start(AdminConfig { address, access_log: sinks }, Arc::new(state))?;
    Ok(())
}

/// Where a log of the admin interface goes; nowhere is `/dev/null`, which istiod sets.
fn sink(entry: &AccessLog, files: &AccessLogFiles) -> std::io::Result<Option<Arc<dyn Sink>>> {
    let AccessLog { name, filter, config_type } = entry;
    let Some(ConfigType::TypedConfig(config)) = config_type else { return Ok(None) };
    let invalid = |e: waypost_xds::Error| std::io::Error::new(std::io::ErrorKind::InvalidInput, e.to_string());
    let kind = any::type_name(config);
    let path = if kind == FileAccessLog::full_name() {
        let FileAccessLog { path, access_log_format } = any::unpack(config, "admin.access_log").map_err(invalid)?;
        if access_log_format.is_some() {
            tracing::warn!(target: "admin", "admin.access_log: lines have the default format");
        }
        path
    } else if kind == StdoutAccessLog::full_name() {
        "/dev/stdout".to_owned()
    } else if kind == StderrAccessLog::full_name() {
        "/dev/stderr".to_owned()
    } else {
        tracing::warn!(target: "admin", "admin.access_log ({name}): {kind} is not supported, nothing is logged");
        return Ok(None);
    };
    if filter.is_some() {
        tracing::warn!(target: "admin", "admin.access_log: the filter is not looked at");
    }
    if path == "/dev/null" {
        return Ok(None);
    }
    files.open(&path).map(Some).map_err(std::io::Error::other)
}
