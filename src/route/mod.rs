//! Routes (`config.route.v3`): which virtual host, which route, and what is done there.
//!
//! A [`RouteTable`] is made once of a `RouteConfiguration` and never changes. [`RouteTable::find`] is pure: it takes the stream and a random
//! number, allocates nothing and takes no lock.

#![allow(deprecated, reason = "messages are destructured with all their fields, the deprecated ones too")]

mod action;
mod chains;
mod compile;
pub mod demand;
mod direct;
mod explain;
mod fields;
mod filters;
mod forward;
mod hosts;
mod index;
#[cfg(test)]
mod index_tests;
mod levels;
mod matching;
mod redirect;
mod retry;
mod rewrite;
pub mod scopes;
#[cfg(test)]
mod scopes_tests;
pub mod slot;
#[cfg(test)]
mod tests;
mod weighted;

use std::collections::BTreeSet;
use std::sync::Arc;

use http::HeaderName;
use waypost_filters::format::header_ops::HeaderOpsChain;
use waypost_filters::head::RequestHead;
use waypost_filters::metadata::Metadata;
use waypost_filters::stream::HttpStream;

use crate::cluster::ClusterSlot;
use crate::config::{ConfigError, Context, refuse};
use crate::discovery::source::Fetch;
use crate::observe::stats::Counter;

pub use self::action::Action;
pub use self::direct::DirectResponse;
pub use self::explain::RouteSearch;
pub use self::filters::{FilterEffect, FilterOverride, FilterOverrides};
pub use self::forward::{
    ConnectConfig, Forward, HashPolicy, HashSource, MaxStreamDuration, Priority, Upgrade, UpgradeConfigs,
};
pub use self::redirect::Redirect;
pub use self::retry::{BackOff, RateLimitedBackOff, ResetFormat, ResetHeader, RetryOn, RetryPolicy};
pub use self::rewrite::{HostRewrite, PathRewrite};
pub use self::weighted::{ClusterChoice, ClusterPick, Weighted, WeightedCluster};

/// A compiled `RouteConfiguration`.
#[derive(Debug)]
pub struct RouteTable {
    /// `name`.
    pub name: Arc<str>,
    /// `metadata`.
    pub metadata: Option<Arc<Metadata>>,
    /// `internal_only_headers`: removed from requests that are not internal.
    pub internal_only_headers: Box<[HeaderName]>,
    /// `validate_clusters`: whether all clusters have to exist. What holds where it is not set depends on where the routes come from.
    pub validate_clusters: Option<bool>,
    /// `vhds`: where further virtual hosts come from.
    pub vhds: Option<Fetch>,
    /// `vhost_header`: looked at in place of the authority.
    vhost_header: Option<HeaderName>,
    ignore_port: bool,
    ignore_path_parameters: bool,
    hosts: hosts::HostIndex,
    /// Routes of each virtual host, in the order of `virtual_hosts`.
    virtual_hosts: Box<[Entries]>,
    clusters: BTreeSet<Arc<str>>,
}

/// A virtual host's routes and how they are found.
#[derive(Debug)]
struct Entries {
    require_tls: RequireTls,
    /// The route of requests that should have come over TLS.
    tls_redirect: Arc<Route>,
    routes: Box<[Arc<Route>]>,
    index: Option<index::RouteIndex>,
}

/// `require_tls`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequireTls {
    None,
    External,
    All,
}

/// What the routes of a virtual host share.
#[derive(Debug)]
pub struct VirtualHost {
    /// `name`
    pub name: Arc<str>,
    /// `metadata`
    pub metadata: Option<Arc<Metadata>>,
    /// `include_request_attempt_count`: `x-envoy-attempt-count` is sent upstream.
    pub include_request_attempt_count: bool,
    /// `include_attempt_count_in_response`: `x-envoy-attempt-count` is sent downstream.
    pub include_attempt_count_in_response: bool,
    /// `include_is_timeout_retry_header`: `x-envoy-is-timeout-retry` is sent upstream.
    pub include_is_timeout_retry_header: bool,
}

/// A compiled route, everything that virtual host and route configuration add to it included.
#[derive(Debug)]
pub struct Route {
    /// `name`; empty where the configuration has none.
    pub name: Arc<str>,
    /// Its virtual host.
    pub virtual_host: Arc<VirtualHost>,
    /// `metadata`
    pub metadata: Option<Arc<Metadata>>,
    /// `decorator`
    pub decorator: Option<Decorator>,
    /// Request header rules; with weighted clusters, [`ClusterPick`] has them.
    pub request_headers: HeaderOpsChain,
    /// Response header rules; with weighted clusters, [`ClusterPick`] has them.
    pub response_headers: HeaderOpsChain,
    /// `request_body_buffer_limit` or `per_request_buffer_limit_bytes`.
    pub body_buffer_limit: Option<u64>,
    /// Counters of a route with `stat_prefix`.
    pub stats: Option<RouteStats>,
    /// Which filters are switched on or off (`typed_per_filter_config`).
    pub filters: FilterOverrides,
    /// What is done with the request.
    pub action: Action,
    condition: matching::Condition,
}

/// `decorator`: the name of spans.
#[derive(Debug)]
pub struct Decorator {
    /// `operation`
    pub operation: Arc<str>,
    /// `propagate`: what is sent as `x-envoy-decorator-operation`, if anything is.
    pub propagated: Option<http::HeaderValue>,
}

/// `vhost.<virtual host>.route.<stat_prefix>.…`
#[derive(Debug)]
pub struct RouteStats {
    /// `upstream_rq_total`
    pub total: Counter,
    /// `upstream_rq_completed`
    pub completed: Counter,
    /// `upstream_rq_1xx` to `upstream_rq_5xx`.
    pub classes: [Counter; 5],
    /// `upstream_rq_retry`
    pub retry: Counter,
    /// `upstream_rq_retry_limit_exceeded`
    pub retry_limit_exceeded: Counter,
    /// `upstream_rq_retry_overflow`
    pub retry_overflow: Counter,
    /// `upstream_rq_retry_success`
    pub retry_success: Counter,
    /// `upstream_rq_timeout`
    pub timeout: Counter,
}

impl RouteTable {
    /// Compiles a `RouteConfiguration`; `path` is where it stands.
    pub fn compile(
        config: waypost_xds::envoy::config::route::v3::RouteConfiguration,
        cx: &Context<'_>,
        path: &str,
    ) -> Result<Arc<RouteTable>, ConfigError> {
        compile::table(config, cx, path).map(Arc::new)
    }

    /// Compiles one that must have all its virtual hosts in it.
    pub fn compile_whole(
        config: waypost_xds::envoy::config::route::v3::RouteConfiguration,
        cx: &Context<'_>,
        path: &str,
    ) -> Result<Arc<RouteTable>, ConfigError> {
        refuse(&config.vhds, path, "vhds")?;
        RouteTable::compile(config, cx, path)
    }

    /// The route of a request: the virtual host's first one that matches. `random` is the stream's random number, which
    /// `runtime_fraction` and weighted clusters share.
    pub fn find(&self, stream: &HttpStream, random: u64) -> Option<&Arc<Route>> {
        let entries = self.entries(&stream.request)?;
        if entries.wants_tls(&stream.request) {
            return Some(&entries.tls_redirect);
        }
        let path = self.matched_path(&stream.request);
        match &entries.index {
            Some(index) => index.candidates(path).find_map(|i| {
                let route = entries.routes.get(i)?;
                route.condition.matches(stream, path, random).then_some(route)
            }),
            None => entries.routes.iter().find(|r| r.condition.matches(stream, path, random)),
        }
    }

    /// Whether there is a virtual host for an authority.
    pub fn has_host(&self, host: &str) -> bool {
        self.hosts.find(Some(host.as_bytes()), self.ignore_port).is_some()
    }

    /// The names of all clusters that routes lead to.
    pub fn referenced_clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.clusters.iter()
    }

    /// All routes, in order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.virtual_hosts.iter().flat_map(|v| v.routes.iter())
    }

    fn entries(&self, request: &RequestHead) -> Option<&Entries> {
        let host = match &self.vhost_header {
            None => request.authority.as_ref(),
            Some(name) => request.headers.get(name),
        };
        let at = self.hosts.find(host.map(|h| h.as_bytes()), self.ignore_port)?;
        self.virtual_hosts.get(at)
    }

    /// The part of the path that routes match: without query and, if so configured, without `;parameters`.
    fn matched_path<'a>(&self, request: &'a RequestHead) -> &'a [u8] {
        let path = request.path_without_query();
        if !self.ignore_path_parameters {
            return path;
        }
        memchr::memchr(b';', path).and_then(|at| path.get(..at)).unwrap_or(path)
    }
}

impl Entries {
    /// Envoy goes by `x-forwarded-proto`, not by the connection.
    fn wants_tls(&self, request: &RequestHead) -> bool {
        let is = |name: &str, value: &[u8]| request.headers.get(name).is_some_and(|v| v.as_bytes() == value);
        match self.require_tls {
            RequireTls::None => false,
            RequireTls::All => !is("x-forwarded-proto", b"https"),
            RequireTls::External => !is("x-forwarded-proto", b"https") && !is("x-envoy-internal", b"true"),
        }
    }
}

impl Route {
    /// The cluster of a request, for routes that forward. `random` is the one given to [`RouteTable::find`].
    pub fn pick_cluster(&self, request: &RequestHead, random: u64) -> Option<ClusterPick<'_>> {
        match &self.action {
            Action::Forward(forward) => match &forward.cluster {
                ClusterChoice::One(slot) => Some(ClusterPick {
                    slot,
                    request_headers: &self.request_headers,
                    response_headers: &self.response_headers,
                    host_rewrite: None,
                    filters: &self.filters,
                }),
                ClusterChoice::Weighted(weighted) => weighted.pick(request, random),
            },
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => None,
        }
    }

    /// Header rules, then host, then path, as Envoy finalises the request of a route that forwards. `keep_original` is false with the router's
    /// `suppress_envoy_headers`: then `x-envoy-original-path` and `-host` are not set.
    pub fn finalize_request(&self, stream: &mut HttpStream, pick: &ClusterPick<'_>, keep_original: bool) {
        pick.request_headers.apply_request(stream);
        self.rewrite(stream, pick, keep_original);
    }

    /// Host and path rewriting of a route that forwards.
    pub fn rewrite(&self, stream: &mut HttpStream, pick: &ClusterPick<'_>, keep_original: bool) {
        if let Action::Forward(forward) = &self.action {
            rewrite::forward(forward, &self.condition, stream, pick.host_rewrite, keep_original);
        }
    }

    /// The `location` of a redirect. Envoy rewrites the request's path first, which access logs show; so does this. Without effect, and none,
    /// for other actions and for requests without a path.
    pub fn redirect_location(&self, stream: &mut HttpStream, keep_original: bool) -> Option<http::HeaderValue> {
        match &self.action {
            Action::Redirect(redirect) => redirect.location(&self.condition, stream, keep_original),
            _ => None,
        }
    }

    /// The slots of all clusters that the route may pick.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<ClusterSlot>> {
        let (one, many) = match &self.action {
            Action::Forward(f) => match &f.cluster {
                ClusterChoice::One(slot) => (Some(slot), None),
                ClusterChoice::Weighted(w) => (None, Some(w.clusters.iter().map(|c| &c.slot))),
            },
            _ => (None, None),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}
