//! The overload manager (`config.overload.v3.OverloadManager`) and the connection limits of the runtime.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use waypost_xds::any;
use waypost_xds::envoy::config::overload::v3;
use waypost_xds::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use waypost_xds::envoy::extensions::resource_monitors::fixed_heap::v3::FixedHeapConfig;

use crate::config::convert::duration;
use crate::config::{ConfigError, refuse};

/// What is limited, and what is refused at the moment.
#[derive(Debug, Default)]
pub struct Overload {
    /// `envoy.resource_monitors.global_downstream_max_connections`, or `overload.global_downstream_max_connections`.
    connections: Option<Arc<ConnectionLimit>>,
    /// `envoy.resource_limits.listener.<name>.connection_limit`.
    listeners: HashMap<String, Arc<ConnectionLimit>>,
    /// `envoy.resource_monitors.fixed_heap`: bytes.
    max_heap: Option<u64>,
    /// Actions and the heap pressure from which they are taken.
    actions: Vec<(Action, f64)>,
    /// `refresh_interval`.
    pub interval: Duration,
    stop_requests: AtomicBool,
    disable_keepalive: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    StopAcceptingRequests,
    DisableHttpKeepalive,
    /// Memory goes back to the system by itself; there is no heap of our own to shrink.
    ShrinkHeap,
}

/// How many connections there may be, and how many there are.
#[derive(Debug)]
pub struct ConnectionLimit {
    max: u64,
    now: AtomicU64,
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub struct Place(Arc<ConnectionLimit>);

impl ConnectionLimit {
    fn new(max: u64) -> Arc<ConnectionLimit> {
        Arc::new(ConnectionLimit { max, now: AtomicU64::new(0) })
    }

    fn take(self: &Arc<Self>) -> Option<Place> {
        let before = self.now.fetch_add(1, Relaxed);
        let place = Place(self.clone());
        (before < self.max).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Relaxed);
    }
}

impl Overload {
    /// Compiles `overload_manager` and the runtime keys that limit connections.
    pub fn compile(
        proto: Option<v3::OverloadManager>,
        runtime: &[(String, String)],
        path: &str,
    ) -> Result<Overload, ConfigError> {
        let mut out = Overload { interval: Duration::from_secs(1), ..Overload::default() };
        for (key, value) in runtime {
            let limit = || {
                value.parse().map(ConnectionLimit::new).map_err(|_| {
                    ConfigError::new(format!("layered_runtime: {key}"), format!("expected a number, found '{value}'"))
                })
            };
            if key == "overload.global_downstream_max_connections" {
                out.connections = Some(limit()?);
            } else if let Some(name) =
                key.strip_prefix("envoy.resource_limits.listener.").and_then(|k| k.strip_suffix(".connection_limit"))
            {
                out.listeners.insert(name.to_owned(), limit()?);
            }
        }
        let Some(proto) = proto else { return Ok(out) };
        let v3::OverloadManager {
            refresh_interval,
            resource_monitors,
            actions,
            loadshed_points,
            buffer_factory_config,
        } = proto;
        refuse(&loadshed_points, path, "loadshed_points")?;
        refuse(&buffer_factory_config, path, "buffer_factory_config")?;
        if let Some(d) = duration(refresh_interval, &format!("{path}.refresh_interval"))? {
            out.interval = d.max(Duration::from_millis(10));
        }
        for (i, v3::ResourceMonitor { name: _, config_type }) in resource_monitors.into_iter().enumerate() {
            let path = format!("{path}.resource_monitors[{i}].typed_config");
            let Some(v3::resource_monitor::ConfigType::TypedConfig(config)) = config_type else {
                return Err(ConfigError::new(path, "expected a resource monitor's configuration"));
            };
            match any::type_name(&config).as_str() {
                "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig" => {
                    let DownstreamConnectionsConfig { max_active_downstream_connections } =
                        any::unpack(&config, &path)?;
                    out.connections =
                        Some(ConnectionLimit::new(u64::try_from(max_active_downstream_connections).unwrap_or(0)));
                }
                "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig" => {
                    let config: FixedHeapConfig = any::unpack(&config, &path)?;
                    out.max_heap = Some(config.max_heap_size_bytes);
                }
                other => return Err(ConfigError::unsupported(format!("{path}: {other}"))),
            }
        }
        for (i, v3::OverloadAction { name, triggers, typed_config }) in actions.into_iter().enumerate() {
            let path = format!("{path}.actions[{i}]");
            refuse(&typed_config, &path, "typed_config")?;
            let action = match name.as_str() {
                "envoy.overload_actions.stop_accepting_requests" => Action::StopAcceptingRequests,
                "envoy.overload_actions.disable_http_keepalive" => Action::DisableHttpKeepalive,
                "envoy.overload_actions.shrink_heap" => Action::ShrinkHeap,
                other => return Err(ConfigError::unsupported(format!("{path}.name: {other}"))),
            };
            for (j, v3::Trigger { name, trigger_oneof }) in triggers.into_iter().enumerate() {
                let path = format!("{path}.triggers[{j}]");
                if name != "envoy.resource_monitors.fixed_heap" {
                    return Err(ConfigError::unsupported(format!("{path}.name: {name}")));
                }
                match trigger_oneof {
                    Some(v3::trigger::TriggerOneof::Threshold(v3::ThresholdTrigger { value })) => {
                        out.actions.push((action, value))
                    }
                    Some(v3::trigger::TriggerOneof::Scaled(_)) => {
                        return Err(ConfigError::unsupported(format!("{path}.scaled")));
                    }
                    None => return Err(ConfigError::new(path, "expected a threshold")),
                }
            }
        }
        Ok(out)
    }

    /// A place for a connection of a listener; none where a limit is reached: then it is closed at once.
    pub fn admit(&self, listener: &str) -> Option<(Option<Place>, Option<Place>)> {
        let global = match &self.connections {
            Some(limit) => Some(limit.take()?),
            None => None,
        };
        let own = match self.listeners.get(listener) {
            Some(limit) => Some(limit.take()?),
            None => None,
        };
        Some((global, own))
    }

    /// Whether requests are answered with 503 `envoy overloaded`.
    pub fn stops_requests(&self) -> bool {
        self.stop_requests.load(Relaxed)
    }

    /// Whether responses close their connections.
    pub fn disables_keepalive(&self) -> bool {
        self.disable_keepalive.load(Relaxed)
    }

    /// Whether there is anything to look at from time to time.
    pub fn watches(&self) -> bool {
        self.max_heap.is_some() && !self.actions.is_empty()
    }

    /// Takes or leaves actions for the heap that is in use, in bytes.
    pub fn update(&self, heap: u64) {
        let Some(max) = self.max_heap.filter(|m| *m > 0) else { return };
        let pressure = heap as f64 / max as f64;
        let on = |action| self.actions.iter().any(|(a, from)| *a == action && pressure >= *from);
        self.stop_requests.store(on(Action::StopAcceptingRequests), Relaxed);
        self.disable_keepalive.store(on(Action::DisableHttpKeepalive), Relaxed);
    }
}

/// Bytes of memory that the process holds (`/proc/self/statm`, resident pages).
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|p| p.parse().ok()).unwrap_or(0);
    // Linux's page size on every machine we run on.
    pages * 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_follow_the_heap_and_limits_count_places() {
        let o = Overload {
            max_heap: Some(1000),
            actions: vec![(Action::StopAcceptingRequests, 0.98)],
            connections: Some(ConnectionLimit::new(1)),
            ..Overload::default()
        };
        o.update(979);
        assert!(!o.stops_requests());
        o.update(980);
        assert!(o.stops_requests());
        o.update(10);
        assert!(!o.stops_requests());
        let place = o.admit("any");
        assert!(place.is_some() && o.admit("any").is_none());
        drop(place);
        assert!(o.admit("any").is_some());
    }
}
