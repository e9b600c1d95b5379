//! The HTTP filters of a connection manager, and the chains they make.
//!
//! A filter is found by the type of its configuration, never by its name: istiod names filters as it likes. A filter that is disabled, or has
//! nothing to do, is not in the chain.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use prost::Name;
use waypost_filters::filter::HttpFilter;
use waypost_filters::http::unsupported::{self, Unsupported};
use waypost_xds::any;
use waypost_xds::envoy::config::core::v3::ExtensionConfigSource;
use waypost_xds::envoy::extensions::filters::http::router::v3 as router;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use waypost_xds::google::protobuf::Any;

use super::registry::{self, Known, Role};
use crate::config::extension::{self, Discovered};
use crate::config::{ConfigError, refuse, warn_ignored};
use crate::route::{FilterEffect, FilterOverrides};

/// What becomes of requests on a chain with a guard that is not built.
const CLOSED: &str = "requests on chains with it are answered 500";

/// One of `http_filters`, as configured.
#[derive(Clone, Debug)]
pub struct FilterConfig {
    /// `name`, the key of `typed_per_filter_config`.
    pub name: Arc<str>,
    /// What it is.
    pub source: FilterSource,
    /// `disabled`: only on routes that enable it.
    pub disabled: bool,
    /// `is_optional`: left out where it is not known.
    pub is_optional: bool,
    /// Where its configuration stands.
    pub path: String,
}

/// Where a filter's configuration comes from.
#[derive(Clone, Debug)]
pub enum FilterSource {
    /// `typed_config`
    Inline(Any),
    /// `config_discovery`: not here yet.
    Discovery(Box<ExtensionConfigSource>),
}

/// The filters of a stream, in the order of requests, and the router that ends it.
#[derive(Clone)]
pub struct Chain {
    /// All that run, but the router.
    pub filters: Vec<Arc<dyn HttpFilter>>,
    /// The terminal filter.
    pub router: Arc<Router>,
    /// All that are configured, for routes that say something about them.
    configured: Arc<[Configured]>,
}

/// A filter of a chain, whether it runs or not.
struct Configured {
    name: Arc<str>,
    /// The full name of its configuration; empty where nobody knows it.
    type_name: &'static str,
    disabled: bool,
    filter: registry::Built,
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

impl Chain {
    /// The chain of a route that says `overrides` about filters; none where it is this one.
    pub fn on_route(&self, overrides: &FilterOverrides) -> Option<Arc<Chain>> {
        if overrides.is_empty() || !self.configured.iter().any(|c| c.changes(overrides)) {
            return None;
        }
        let filters = self.configured.iter().filter_map(|c| c.on_route(overrides)).collect();
        Some(Arc::new(Chain { filters, router: self.router.clone(), configured: self.configured.clone() }))
    }

    /// This chain for a request whose route was found late, when the filters up to `at` of another one had run: whatever has not run follows.
    pub fn resumed(&self, ran: &Chain, at: usize) -> Chain {
        let mut filters: Vec<_> = ran.filters.iter().take(at + 1).cloned().collect();
        let had = |f: &&Arc<dyn HttpFilter>| {
            ran.filters.iter().take(at + 1).any(|r| std::ptr::addr_eq(Arc::as_ptr(r), Arc::as_ptr(f)))
        };
        filters.extend(self.filters.iter().filter(|f| !had(f)).cloned());
        Chain { filters, router: self.router.clone(), configured: self.configured.clone() }
    }

    /// The details of a filter that guards on a route, and cannot.
    pub fn closed_on(&self, overrides: &FilterOverrides) -> Option<String> {
        let closed = |c: &&Configured| matches!(overrides.get(&c.name), Some(FilterEffect::Guards));
        self.configured.iter().find(closed).map(|c| unsupported::details(&c.name))
    }
}

impl Configured {
    fn changes(&self, overrides: &FilterOverrides) -> bool {
        match overrides.get(&self.name) {
            None => false,
            Some(FilterEffect::Off(of)) => !self.disabled && of.is_none_or(|of| of == self.type_name),
            Some(FilterEffect::On) => self.disabled,
            Some(FilterEffect::Guards) => true,
        }
    }

    fn on_route(&self, overrides: &FilterOverrides) -> registry::Built {
        match overrides.get(&self.name) {
            Some(FilterEffect::Guards) => Some(Arc::new(Unsupported::new(&self.name))),
            // What is said in a filter's own words is for filters of that type only.
            Some(FilterEffect::Off(of)) if of.is_none_or(|of| of == self.type_name) => None,
            Some(FilterEffect::On) => self.filter.clone(),
            Some(FilterEffect::Off(_)) | None => self.filter.clone().filter(|_| !self.disabled),
        }
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
        let (source, path) = match config_type {
            Some(proto::http_filter::ConfigType::TypedConfig(any)) => {
                (FilterSource::Inline(any), format!("{path}.typed_config"))
            }
            Some(proto::http_filter::ConfigType::ConfigDiscovery(source)) => {
                (FilterSource::Discovery(Box::new(source)), format!("{path}.config_discovery"))
            }
            None => return Err(ConfigError::new(format!("{path}.typed_config"), "value is required")),
        };
        Ok(FilterConfig { name: name.into(), source, disabled, is_optional, path })
    }

    fn router(&self) -> Option<&Any> {
        match &self.source {
            FilterSource::Inline(any) if any::type_name(any) == router::Router::full_name() => Some(any),
            _ => None,
        }
    }
}

/// Builds the chain of a connection manager or of an upgrade; `path` is that of the list of filters.
pub fn build_chain(filters: &[FilterConfig], path: &str) -> Result<Chain, ConfigError> {
    let end = filters.split_last().and_then(|(last, others)| Some((last, last.router()?, others)));
    let Some((last, router, others)) = end else {
        return Err(ConfigError::new(path, "the last filter must be the terminal filter envoy.filters.http.router"));
    };
    let router = Arc::new(Router::compile(router, &last.path)?);
    let mut configured = Vec::with_capacity(others.len());
    for filter in others {
        if filter.router().is_some() {
            let reason = "envoy.filters.http.router is a terminal filter and must be the last one";
            return Err(ConfigError::new(&filter.path, reason));
        }
        // What a filter says is checked even where it is disabled.
        let (type_name, built) = build(filter)?;
        let (name, disabled) = (filter.name.clone(), filter.disabled);
        configured.push(Configured { name, type_name, disabled, filter: built });
    }
    let filters = configured.iter().filter(|c| !c.disabled).filter_map(|c| c.filter.clone()).collect();
    Ok(Chain { filters, router, configured: configured.into() })
}

/// What a filter makes of its configuration, and the name of its type.
fn build(filter: &FilterConfig) -> Result<(&'static str, registry::Built), ConfigError> {
    let FilterConfig { source, path, is_optional, .. } = filter;
    match source {
        FilterSource::Inline(any) => {
            let type_name = any::type_name(any);
            match registry::find(&type_name) {
                Some(known) => Ok((known.type_name, build_known(known, any, filter)?)),
                None => extension::unknown(&type_name, *is_optional, path).map(|()| ("", None)),
            }
        }
        FilterSource::Discovery(source) => Ok(("", discovered(source, filter)?)),
    }
}

fn build_known(known: &Known, any: &Any, filter: &FilterConfig) -> Result<registry::Built, ConfigError> {
    let path = &filter.path;
    match known.role {
        Role::Build(build) => build(any, path),
        Role::Adds(missing) => {
            extension::checked(any, path)?;
            extension::warn_missing(known.type_name, missing, path);
            Ok(None)
        }
        Role::Guards(refuses_nothing) => {
            let wire = extension::checked(any, path)?;
            if refuses_nothing(&wire) {
                return Ok(None);
            }
            if !filter.disabled {
                extension::warn_closed(known.type_name, CLOSED, path);
            }
            Ok(Some(Arc::new(Unsupported::new(&filter.name))))
        }
    }
}

/// A filter whose configuration has not come: requests are answered as Envoy does until it has.
fn discovered(source: &ExtensionConfigSource, filter: &FilterConfig) -> Result<registry::Built, ConfigError> {
    let closed = extension::discovery(source, filter.is_optional, &filter.path, |type_name| {
        registry::find(type_name).map(|known| match known.role {
            Role::Adds(missing) => Discovered::Adds(missing),
            Role::Build(_) | Role::Guards(_) => Discovered::Acts,
        })
    })?;
    if !closed {
        return Ok(None);
    }
    if !filter.disabled {
        extension::warn_closed("http_filters.config_discovery", CLOSED, &filter.path);
    }
    Ok(Some(Arc::new(Unsupported::new(&filter.name))))
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
        } = any::unpack(any, path)?;
        warn_ignored(!upstream_log.is_empty(), path, "upstream_log");
        warn_ignored(upstream_log_options.is_some(), path, "upstream_log_options");
        refuse(&upstream_http_filters, path, "upstream_http_filters")?;
        // No spans are made yet.
        warn_ignored(start_child_span, path, "start_child_span");
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
