//! The HTTP filters of a connection manager, and the chains they make.
//!
//! A filter is found by the type of its configuration, never by its name: istiod names filters as it likes. A filter that is disabled, or has
//! nothing to do, is not in the chain.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use prost::Name;
use waypost_filters::filter::HttpFilter;
use waypost_filters::http::missing_config::MissingConfig;
use waypost_filters::http::unsupported::{self, Unsupported};
use waypost_xds::any;
use waypost_xds::envoy::extensions::filters::http::router::v3 as router;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use waypost_xds::google::protobuf::Any;

use super::registry::{self, Known, Role, Within};
use crate::config::extension::{self, Asker, Discovery};
use crate::config::extension_slot::Family;
use crate::config::{ConfigError, Context, refuse, warn_ignored};
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
    /// The connection manager that it is for.
    pub within: Within,
}

/// Where a filter's configuration comes from.
#[derive(Clone, Debug)]
pub enum FilterSource {
    /// `typed_config`
    Inline(Any),
    /// `config_discovery`; none where nothing that is known could come of it.
    Discovery(Option<Arc<Discovery>>),
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

    /// All filters but the router, and what becomes of them on a route; those that run are those of [`Chain::on_route`].
    pub fn each_on_route(&self, overrides: &FilterOverrides) -> impl Iterator<Item = OnRoute<'_>> {
        self.configured.iter().map(|c| OnRoute {
            name: &c.name,
            type_name: c.type_name,
            runs: c.on_route(overrides),
            has_work: c.filter.is_some(),
        })
    }

    /// The details of a filter that guards on a route, and cannot.
    pub fn closed_on(&self, overrides: &FilterOverrides) -> Option<String> {
        let closed = |c: &&Configured| matches!(overrides.get(&c.name), Some(FilterEffect::Guards));
        self.configured.iter().find(closed).map(|c| unsupported::details(&c.name))
    }
}

/// A filter of a chain on a route, for `waypost explain`.
pub struct OnRoute<'a> {
    /// `name`.
    pub name: &'a str,
    /// The full name of its configuration; empty where nobody knows it.
    pub type_name: &'static str,
    /// The filter, where it runs there.
    pub runs: registry::Built,
    /// Whether it would run if the chain and the route had not switched it off.
    pub has_work: bool,
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
    pub fn list(
        filters: Vec<proto::HttpFilter>,
        within: &Within,
        cx: &Context<'_>,
        path: &str,
    ) -> Result<Vec<FilterConfig>, ConfigError> {
        let one = |(i, f)| FilterConfig::new(f, within.clone(), cx, format!("{path}[{i}]"));
        filters.into_iter().enumerate().map(one).collect()
    }

    fn new(
        filter: proto::HttpFilter,
        within: Within,
        cx: &Context<'_>,
        path: String,
    ) -> Result<FilterConfig, ConfigError> {
        let proto::HttpFilter { name, is_optional, disabled, config_type } = filter;
        if name.is_empty() {
            return Err(ConfigError::new(format!("{path}.name"), "value is required"));
        }
        let (source, path) = match config_type {
            Some(proto::http_filter::ConfigType::TypedConfig(any)) => {
                (FilterSource::Inline(any), format!("{path}.typed_config"))
            }
            Some(proto::http_filter::ConfigType::ConfigDiscovery(source)) => {
                let path = format!("{path}.config_discovery");
                let known = |t: &str| registry::find(t).is_some() || t == router::Router::full_name();
                let asker = Asker { name: &name, family: Family::Http, is_optional };
                let discovery = Discovery::compile(source, asker, cx, &path, known)?;
                (FilterSource::Discovery(discovery.map(Arc::new)), path)
            }
            None => return Err(ConfigError::new(format!("{path}.typed_config"), "value is required")),
        };
        Ok(FilterConfig { name: name.into(), source, disabled, is_optional, path, within })
    }

    /// Whether it can be the last of its list, as far as that is known now.
    pub(super) fn may_end(&self) -> bool {
        match &self.source {
            FilterSource::Inline(any) => any::type_name(any) == router::Router::full_name(),
            FilterSource::Discovery(discovery) => discovery.is_some(),
        }
    }

    /// What a configuration makes of this filter; `last` if it ends its list.
    pub(super) fn build(&self, any: &Any, last: bool, path: &str) -> Result<Content, ConfigError> {
        let type_name = any::type_name(any);
        let name = &self.name;
        if type_name == router::Router::full_name() {
            if !last {
                let reason = format!(
                    "Error: terminal filter named {name} of type {ROUTER} must be the last filter in a http filter chain."
                );
                return Err(ConfigError::new(path, reason));
            }
            return Ok(Content::Router(Arc::new(Router::compile(any, path)?)));
        }
        let content = match registry::find(&type_name) {
            Some(known) => Content::Filter { type_name: known.type_name, built: build_known(known, any, self, path)? },
            None => extension::unknown(&type_name, self.is_optional, path).map(|()| Content::NOTHING)?,
        };
        if last {
            let reason = format!(
                "Error: non-terminal filter named {name} of type {type_name} is the last filter in a http filter chain."
            );
            return Err(ConfigError::new(path, reason));
        }
        Ok(content)
    }
}

/// Envoy's name of the only terminal filter.
const ROUTER: &str = "envoy.filters.http.router";

/// A filter of a list, with what its configuration made of it.
pub(super) struct Piece {
    name: Arc<str>,
    disabled: bool,
    /// What it is now.
    pub content: Content,
}

/// What a configuration makes of a filter.
#[derive(Clone)]
pub(super) enum Content {
    /// The terminal filter.
    Router(Arc<Router>),
    /// Any other one.
    Filter { type_name: &'static str, built: registry::Built },
    /// Its configuration is not here.
    Missing,
}

impl Content {
    /// A filter that is left out.
    pub const NOTHING: Content = Content::Filter { type_name: "", built: None };
}

impl Piece {
    /// A filter of a list.
    pub fn new(filter: &FilterConfig, content: Content) -> Piece {
        Piece { name: filter.name.clone(), disabled: filter.disabled, content }
    }
}

/// The chain of a list of filters; all but the last have been checked not to be terminal, and the last to be.
pub(super) fn compose(pieces: &[Piece]) -> Chain {
    let mut configured = Vec::with_capacity(pieces.len());
    let mut end = None;
    for Piece { name, disabled, content } in pieces {
        let (type_name, filter): (_, registry::Built) = match content {
            Content::Router(router) => {
                end = Some(router.clone());
                continue;
            }
            Content::Filter { type_name, built } => (*type_name, built.clone()),
            Content::Missing => ("", Some(Arc::new(MissingConfig))),
        };
        configured.push(Configured { name: name.clone(), type_name, disabled: *disabled, filter });
    }
    let filters = configured.iter().filter(|c| !c.disabled).filter_map(|c| c.filter.clone()).collect();
    // Where the router itself is missing, no request gets that far.
    Chain { filters, router: end.unwrap_or_default(), configured: configured.into() }
}

fn build_known(known: &Known, any: &Any, filter: &FilterConfig, path: &str) -> Result<registry::Built, ConfigError> {
    match known.role {
        Role::Build(build) => build(any, path, &filter.within),
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

impl Default for Router {
    fn default() -> Router {
        Router {
            dynamic_stats: true,
            suppress_envoy_headers: false,
            respect_expected_rq_timeout: false,
            suppress_grpc_request_failure_code_stats: false,
            strict_check_headers: Vec::new(),
            reject_connect_early_data: false,
        }
    }
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
