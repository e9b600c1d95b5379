//! The HTTP filters of a connection manager, and the chains they make.
//!
//! A filter is found by the type of its configuration, never by its name: istiod names filters as it likes. A filter that is disabled, or has
//! nothing to do, is not in the chain.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use prost::{Message, Name};
use waypost_filters::filter::HttpFilter;
use waypost_filters::http::set_filter_state::SetFilterState;
use waypost_xds::any;
use waypost_xds::envoy::extensions::filters::http::{
    cors::v3::Cors, fault::v3::HttpFault, grpc_stats::v3 as grpc_stats, router::v3 as router,
    set_filter_state::v3 as set_filter_state,
};
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use waypost_xds::google::protobuf::Any;

use crate::config::{ConfigError, refuse};
use crate::route::FilterOverrides;

/// One of `http_filters`, kept as configured, as routes may override it.
#[derive(Clone, Debug)]
pub struct FilterConfig {
    /// `name`, the key of `typed_per_filter_config`.
    pub name: Arc<str>,
    /// The type of the configuration.
    pub type_name: String,
    /// `typed_config`
    pub any: Any,
    /// `disabled`: only on routes that enable it.
    pub disabled: bool,
    /// `is_optional`: left out where it is not known.
    pub is_optional: bool,
    /// Where it stands.
    pub path: String,
}

/// The filters of a stream, in the order of requests, and the router that ends it.
#[derive(Clone)]
pub struct Chain {
    /// All but the router.
    pub filters: Vec<Arc<dyn HttpFilter>>,
    /// Their names, in the same order.
    pub names: Vec<Arc<str>>,
    /// The terminal filter.
    pub router: Arc<Router>,
}

/// `envoy.extensions.filters.http.router.v3.Router`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Router {
    /// `dynamic_stats`, true by default.
    pub dynamic_stats: bool,
    /// `suppress_envoy_headers`
    pub suppress_envoy_headers: bool,
    /// `respect_expected_rq_timeout`
    pub respect_expected_rq_timeout: bool,
    /// `suppress_grpc_request_failure_code_stats`
    pub suppress_grpc_request_failure_code_stats: bool,
    /// `strict_check_headers`
    pub strict_check_headers: Vec<HeaderName>,
    /// `reject_connect_request_early_data`
    pub reject_connect_early_data: bool,
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain").field("filters", &self.filters.len()).field("router", &self.router).finish()
    }
}

impl FilterConfig {
    /// Takes `http_filters`; `path` is that of the list.
    pub fn list(filters: Vec<proto::HttpFilter>, path: &str) -> Result<Vec<FilterConfig>, ConfigError> {
        filters.into_iter().enumerate().map(|(i, f)| FilterConfig::new(f, format!("{path}[{i}]"))).collect()
    }

    fn new(filter: proto::HttpFilter, path: String) -> Result<FilterConfig, ConfigError> {
        let proto::HttpFilter { name, is_optional, disabled, config_type } = filter;
        if name.is_empty() {
            return Err(ConfigError::new(format!("{path}.name"), "value is required"));
        }
        let any = match config_type {
            Some(proto::http_filter::ConfigType::TypedConfig(any)) => any,
            Some(proto::http_filter::ConfigType::ConfigDiscovery(_)) => {
                return Err(ConfigError::unsupported(format!("{path}.config_discovery")));
            }
            None => return Err(ConfigError::new(format!("{path}.typed_config"), "value is required")),
        };
        let (name, type_name) = (name.into(), any::type_name(&any));
        Ok(FilterConfig { name, type_name, any, disabled, is_optional, path: format!("{path}.typed_config") })
    }
}

/// Builds the chain of a route, or with no overrides that of the connection manager; `path` is that of the list of filters.
///
/// Filters of which a route says more than "on" or "off" are not among those that are built: the route table refuses such routes.
pub fn build_chain(filters: &[FilterConfig], overrides: &FilterOverrides, path: &str) -> Result<Chain, ConfigError> {
    let Some((last, others)) = filters.split_last().filter(|(last, _)| last.type_name == router::Router::full_name())
    else {
        return Err(ConfigError::new(path, "the last filter must be the terminal filter envoy.filters.http.router"));
    };
    let mut chain =
        Chain { filters: Vec::new(), names: Vec::new(), router: Arc::new(Router::compile(&last.any, &last.path)?) };
    for filter in others {
        if filter.type_name == router::Router::full_name() {
            let reason = "envoy.filters.http.router is a terminal filter and must be the last one";
            return Err(ConfigError::new(&filter.path, reason));
        }
        // What a filter says is checked even where it is disabled.
        let built = build(filter)?;
        if let Some(built) = built
            && !overrides.disabled(&filter.name).unwrap_or(filter.disabled)
        {
            chain.filters.push(built);
            chain.names.push(filter.name.clone());
        }
    }
    Ok(chain)
}

/// What a filter makes of its configuration: nothing where it has nothing to do.
fn build(filter: &FilterConfig) -> Result<Option<Arc<dyn HttpFilter>>, ConfigError> {
    let FilterConfig { type_name, any, path, is_optional, .. } = filter;
    if type_name == &set_filter_state::Config::full_name() {
        let filter = SetFilterState::compile(unpack(any, path)?, path).map_err(ConfigError::from)?;
        return Ok(Some(Arc::new(filter)));
    }
    if type_name == &Cors::full_name() {
        // Its work comes from routes alone.
        let Cors {} = unpack(any, path)?;
        return Ok(None);
    }
    if type_name == &HttpFault::full_name() {
        let config: HttpFault = unpack(any, path)?;
        if config != HttpFault::default() {
            return Err(unsupported(path, type_name));
        }
        return Ok(None);
    }
    if type_name == &grpc_stats::FilterConfig::full_name() {
        grpc_stats_without_effect(unpack(any, path)?, path)?;
        return Ok(None);
    }
    if is_telemetry(type_name) {
        // Once for each type and process: istiod puts them into every chain.
        static WARNED: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
        let mut warned = WARNED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !warned.contains(type_name) {
            tracing::warn!("{path}: {type_name} adds telemetry only and is left out");
            warned.push(type_name.clone());
        }
        return Ok(None);
    }
    if *is_optional {
        tracing::warn!("{path}: {type_name} is not known and left out, as it is optional");
        return Ok(None);
    }
    Err(unsupported(path, type_name))
}

/// Istio's own filters that no request is changed by.
fn is_telemetry(type_name: &str) -> bool {
    matches!(
        type_name,
        "io.istio.http.peer_metadata.Config"
            | "stats.PluginConfig"
            | "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig"
    )
}

fn grpc_stats_without_effect(config: grpc_stats::FilterConfig, path: &str) -> Result<(), ConfigError> {
    // The messages it counts are for `istio.stats` and for stats of clusters, neither of which reads them yet.
    let grpc_stats::FilterConfig {
        emit_filter_state: _,
        enable_upstream_stats,
        replace_dots_in_grpc_service_name: _,
        per_method_stat_specifier,
    } = config;
    if enable_upstream_stats {
        tracing::warn!("{path}.enable_upstream_stats: gRPC stats are not kept yet");
    }
    if let Some(grpc_stats::filter_config::PerMethodStatSpecifier::IndividualMethodStatsAllowlist(_)) =
        per_method_stat_specifier
    {
        tracing::warn!("{path}.individual_method_stats_allowlist: gRPC stats are not kept yet");
    }
    Ok(())
}

impl Router {
    #[allow(deprecated, reason = "a field that was replaced is still a field")]
    fn compile(any: &Any, path: &str) -> Result<Router, ConfigError> {
        let router::Router {
            dynamic_stats,
            start_child_span,
            upstream_log,
            upstream_log_options,
            suppress_envoy_headers,
            strict_check_headers,
            respect_expected_rq_timeout,
            suppress_grpc_request_failure_code_stats,
            upstream_http_filters,
            reject_connect_request_early_data,
        } = unpack(any, path)?;
        refuse(&upstream_log, path, "upstream_log")?;
        refuse(&upstream_log_options, path, "upstream_log_options")?;
        refuse(&upstream_http_filters, path, "upstream_http_filters")?;
        if start_child_span {
            // Spans go to a tracing provider, and those are refused where they are configured.
            tracing::warn!("{path}.start_child_span has no effect without a tracing provider");
        }
        // The list is Envoy's own; any other header is refused there too.
        const STRICT: [&str; 5] = [
            "x-envoy-upstream-rq-timeout-ms",
            "x-envoy-upstream-rq-per-try-timeout-ms",
            "x-envoy-max-retries",
            "x-envoy-retry-grpc-on",
            "x-envoy-retry-on",
        ];
        let strict_check_headers = strict_check_headers
            .into_iter()
            .enumerate()
            .map(|(i, name)| match STRICT.iter().find(|s| **s == name) {
                Some(name) => Ok(HeaderName::from_static(name)),
                None => {
                    let reason = format!("value must be in list {STRICT:?}");
                    Err(ConfigError::new(format!("{path}.strict_check_headers[{i}]"), reason))
                }
            })
            .collect::<Result<_, _>>()?;
        Ok(Router {
            dynamic_stats: dynamic_stats.is_none_or(|v| v.value),
            suppress_envoy_headers,
            respect_expected_rq_timeout,
            suppress_grpc_request_failure_code_stats,
            strict_check_headers,
            reject_connect_early_data: reject_connect_request_early_data.is_some_and(|v| v.value),
        })
    }
}

fn unpack<M: Message + Name + Default>(any: &Any, path: &str) -> Result<M, ConfigError> {
    any::unpack(any, path).map_err(ConfigError::from)
}

fn unsupported(path: &str, kind: &str) -> ConfigError {
    ConfigError::new(path, format!("not supported yet: {kind}"))
}
