//! `/server_info`, `/ready`, `/memory`, `/runtime` and `/certs`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::AdminState;
use super::page::Page;
use super::query::Query;
use super::state::Memory;
use crate::cli::{IpVersion, Mode, Options, VERSION};
use crate::lifecycle::{DrainStrategy, ServerState};

/// `GET /ready`.
pub fn ready(state: &AdminState) -> Page {
    let now = state.state();
    let status = if now == ServerState::Live { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Page::status(status, format!("{}\n", now.name()))
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

/// `GET /server_info` (`admin.v3.ServerInfo`); unlike elsewhere fields that hold their default are printed too.
pub fn page(state: &AdminState) -> Page {
    let uptime = format!("{}s", state.started.0.elapsed().as_secs());
    // A node that was read cannot fail to be written.
    let node = waypost_xds::json::to_value(&state.node, true).unwrap_or_default();
    Page::json(&json!({
        "version": VERSION,
        "state": state.state().name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": "disabled",
        "command_line_options": command_line(&state.options),
        "node": node,
        "hot_restart_initializing": false,
    }))
}

fn command_line(options: &Options) -> Value {
    let Options {
        config_path,
        config_yaml,
        mode,
        concurrency,
        log_level,
        component_log_level,
        component_log_levels: _,
        log_path,
        log_format,
        log_format_set: _,
        log_format_escaped,
        service_cluster,
        service_node,
        service_zone,
        drain_time,
        drain_strategy,
        parent_shutdown_time,
        file_flush_interval,
        file_flush_min_size_kb,
        local_address_ip_version,
        admin_address_path,
        base_id,
        base_id_path,
        use_dynamic_base_id,
        restart_epoch,
        disable_hot_restart,
        skip_hot_restart_on_no_parent,
        skip_hot_restart_parent_stats,
        allow_unknown_static_fields,
        reject_unknown_dynamic_fields,
        ignore_unknown_dynamic_fields,
        skip_deprecated_logs,
        enable_mutex_tracing,
        enable_fine_grain_logging,
        enable_core_dump,
        log_stacktrace_single_entry,
        cpuset_threads,
        disabled_extensions,
        socket_path,
        socket_mode,
        stats_tags,
    } = options;
    json!({
        "base_id": base_id.to_string(),
        "concurrency": concurrency,
        "config_path": config_path,
        "config_yaml": config_yaml,
        "allow_unknown_static_fields": allow_unknown_static_fields,
        "admin_address_path": admin_address_path,
        "local_address_ip_version": match local_address_ip_version { IpVersion::V4 => "v4", IpVersion::V6 => "v6" },
        "log_level": log_level.name(),
        "component_log_level": component_log_level,
        "log_format": log_format,
        "log_path": log_path,
        "service_cluster": service_cluster,
        "service_node": service_node,
        "service_zone": service_zone,
        "file_flush_interval": seconds(*file_flush_interval),
        "drain_time": seconds(*drain_time),
        "parent_shutdown_time": seconds(*parent_shutdown_time),
        "mode": match mode { Mode::Serve => "Serve", Mode::Validate => "Validate", Mode::InitOnly => "InitOnly" },
        "disable_hot_restart": disable_hot_restart,
        "enable_mutex_tracing": enable_mutex_tracing,
        "restart_epoch": restart_epoch,
        "cpuset_threads": cpuset_threads,
        "reject_unknown_dynamic_fields": reject_unknown_dynamic_fields,
        "log_format_escaped": log_format_escaped,
        "disabled_extensions": disabled_extensions,
        "ignore_unknown_dynamic_fields": ignore_unknown_dynamic_fields,
        "use_dynamic_base_id": use_dynamic_base_id,
        "base_id_path": base_id_path,
        "drain_strategy": match drain_strategy { DrainStrategy::Gradual => "Gradual", DrainStrategy::Immediate => "Immediate" },
        "enable_fine_grain_logging": enable_fine_grain_logging,
        "socket_path": socket_path,
        "socket_mode": socket_mode,
        "enable_core_dump": enable_core_dump,
        "stats_tag": stats_tags.iter().map(|(t, v)| format!("{t}:{v}")).collect::<Vec<_>>(),
        "skip_hot_restart_on_no_parent": skip_hot_restart_on_no_parent,
        "skip_hot_restart_parent_stats": skip_hot_restart_parent_stats,
        "skip_deprecated_logs": skip_deprecated_logs,
        "file_flush_min_size": file_flush_min_size_kb,
        "log_stacktrace_single_entry": log_stacktrace_single_entry,
    })
}

/// `GET /certs` (`admin.v3.Certificates`).
pub fn certs(state: &AdminState) -> Page {
    let now = SystemTime::now();
    let all: Vec<Value> = state.secrets.certificates().iter().map(|c| c.json(now)).collect();
    Page::json(&json!({ "certificates": all }))
}

/// `GET /memory` (`admin.v3.Memory`), as far as the kernel knows.
pub fn memory() -> Page {
    let Memory { allocated, heap, physical } = Memory::now();
    Page::json(&json!({
        "allocated": allocated.to_string(),
        "heap_size": heap.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": physical.to_string(),
    }))
}

/// `GET /runtime`.
pub fn runtime(state: &AdminState) -> Page {
    let layers = state.runtime.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (i, layer) in layers.iter().enumerate() {
        for (key, value) in &layer.values {
            if let Some(v) = keys.entry(key).or_insert_with(|| vec![""; layers.len()]).get_mut(i) {
                *v = value;
            }
        }
    }
    let entries: Map<String, Value> = keys
        .into_iter()
        .map(|(key, values)| {
            let last = values.iter().rev().find(|v| !v.is_empty()).copied().unwrap_or_default();
            (key.to_owned(), json!({ "final_value": last, "layer_values": values }))
        })
        .collect();
    let names: Vec<&str> = layers.iter().map(|l| l.name.as_str()).collect();
    Page::json(&json!({ "entries": entries, "layers": names }))
}

/// `POST /runtime_modify`. Runtime values are compiled into what runs, so they cannot be changed here; the answer is Envoy's for a
/// configuration without an admin layer.
pub fn runtime_modify(query: &Query) -> Page {
    if query.params().is_empty() {
        return Page::bad_request(
            "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\n\
             use an empty value to remove a previously added override",
        );
    }
    tracing::error!(target: "admin", "No admin layer specified");
    Page::status(StatusCode::SERVICE_UNAVAILABLE, "No admin layer specified")
}
