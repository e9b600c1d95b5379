//! `RouteConfiguration`, `VirtualHost` and `Route` become a [`RouteTable`].

use std::sync::Arc;

use waypost_filters::format::header_ops::HeaderOpsChain;
use waypost_filters::metadata::Metadata;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::envoy::config::route::v3 as proto;
use waypost_xds::envoy::config::route::v3::virtual_host::TlsRequirementType;
use waypost_xds::google::protobuf;

use super::fields::header_name;
use super::hosts::{Duplicate, HostIndex};
use super::index::{RouteIndex, WORTH_IT};
use super::levels::{Global, Level, Parent, Rules};
use super::matching::Condition;
use super::{
    Action, ClusterChoice, Decorator, DirectResponse, Entries, FilterOverrides, Forward, Redirect, RequireTls,
    RetryPolicy, Route, RouteStats, RouteTable, VirtualHost,
};
use crate::config::{ConfigError, Context, refuse, warn_ignored};
use crate::discovery::source::Fetch;

/// `max_direct_response_body_size_bytes` where the configuration has none.
const DIRECT_BODY_LIMIT: u32 = 4096;

/// What the routes of a virtual host are given.
struct Host<'a> {
    global: &'a Global<'a>,
    config: &'a Level,
    level: Level,
    host: Arc<VirtualHost>,
    retry: Option<Arc<RetryPolicy>>,
    body_buffer_limit: Option<u64>,
}

pub(super) fn table(
    config: proto::RouteConfiguration,
    cx: &Context<'_>,
    path: &str,
) -> Result<RouteTable, ConfigError> {
    let proto::RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = config;
    let vhds = match vhds {
        Some(proto::Vhds { config_source: Some(source) }) => {
            Some(Fetch::of(&source, &format!("{path}.vhds.config_source"))?)
        }
        Some(proto::Vhds { config_source: None }) => {
            return Err(ConfigError::new(format!("{path}.vhds.config_source"), "value is required"));
        }
        None => None,
    };
    refuse(&cluster_specifier_plugins, path, "cluster_specifier_plugins")?;
    warn_ignored(!request_mirror_policies.is_empty(), path, "request_mirror_policies");
    refuse(&route_specifiers, path, "route_specifiers")?;
    let global = Global {
        cx,
        direct_body_limit: max_direct_response_body_size_bytes.map_or(DIRECT_BODY_LIMIT, |n| n.value),
        most_specific_wins: most_specific_header_mutations_wins,
        clusters: Default::default(),
    };
    let request = (request_headers_to_add, request_headers_to_remove);
    let response = (response_headers_to_add, response_headers_to_remove);
    let level = Level {
        rules: Rules::compile(request, response, path)?,
        filters: FilterOverrides::compile(typed_per_filter_config, path)?,
    };
    let mut hosts = HostIndex::default();
    let mut entries = Vec::with_capacity(virtual_hosts.len());
    for (i, host) in virtual_hosts.into_iter().enumerate() {
        let path = format!("{path}.virtual_hosts[{i}]");
        for (d, domain) in host.domains.iter().enumerate() {
            hosts.insert(domain, i).map_err(|e| {
                let reason = match e {
                    Duplicate::Any => format!("Only a single wildcard domain is permitted in route {name}"),
                    Duplicate::Domain => format!(
                        "Only unique values for domains are permitted. Duplicate entry of domain {domain} in route {name}"
                    ),
                };
                ConfigError::new(format!("{path}.domains[{d}]"), reason)
            })?;
        }
        entries.push(virtual_host(host, &global, &level, &path)?);
    }
    let internal_only = |(i, h): (usize, String)| header_name(&h, path, &format!("internal_only_headers[{i}]"));
    Ok(RouteTable {
        name: name.into(),
        metadata: shared_metadata(metadata),
        internal_only_headers: internal_only_headers
            .into_iter()
            .enumerate()
            .map(internal_only)
            .collect::<Result<_, _>>()?,
        vhost_header: (!vhost_header.is_empty())
            .then(|| header_name(&vhost_header, path, "vhost_header"))
            .transpose()?,
        vhds,
        validate_clusters: validate_clusters.map(|v| v.value),
        ignore_port: ignore_port_in_host_matching,
        ignore_path_parameters: ignore_path_parameters_in_path_matching,
        hosts,
        virtual_hosts: entries.into(),
        clusters: global.clusters.into_inner(),
    })
}

fn virtual_host(
    config: proto::VirtualHost,
    global: &Global<'_>,
    config_level: &Level,
    path: &str,
) -> Result<Entries, ConfigError> {
    let proto::VirtualHost {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata,
        route_specifiers,
    } = config;
    refuse(&matcher, path, "matcher")?;
    refuse(&retry_policy_typed_config, path, "retry_policy_typed_config")?;
    // Only statistics.
    warn_ignored(!virtual_clusters.is_empty(), path, "virtual_clusters");
    // What the rate-limit filters would ask about; chains with one of those are closed.
    warn_ignored(!rate_limits.is_empty(), path, "rate_limits");
    warn_ignored(cors.is_some(), path, "cors");
    warn_ignored(hedge_policy.is_some_and(|h| h != proto::HedgePolicy::default()), path, "hedge_policy");
    warn_ignored(!request_mirror_policies.is_empty(), path, "request_mirror_policies");
    refuse(&route_specifiers, path, "route_specifiers")?;
    if name.is_empty() {
        return Err(ConfigError::new(format!("{path}.name"), "value length must be at least 1 characters"));
    }
    if domains.is_empty() {
        return Err(ConfigError::new(format!("{path}.domains"), "value must contain at least 1 item(s)"));
    }
    let require_tls = match TlsRequirementType::try_from(require_tls) {
        Ok(TlsRequirementType::None) => RequireTls::None,
        Ok(TlsRequirementType::ExternalOnly) => RequireTls::External,
        Ok(TlsRequirementType::All) => RequireTls::All,
        Err(_) => return Err(ConfigError::new(format!("{path}.require_tls"), "not a TLS requirement")),
    };
    let request = (request_headers_to_add, request_headers_to_remove);
    let response = (response_headers_to_add, response_headers_to_remove);
    let host = Host {
        global,
        config: config_level,
        level: Level {
            rules: Rules::compile(request, response, path)?,
            filters: FilterOverrides::compile(typed_per_filter_config, path)?.over(&config_level.filters),
        },
        host: Arc::new(VirtualHost {
            name: name.into(),
            metadata: shared_metadata(metadata),
            include_request_attempt_count,
            include_attempt_count_in_response,
            include_is_timeout_retry_header,
        }),
        retry: retry_policy
            .map(|p| RetryPolicy::compile(p, &format!("{path}.retry_policy")))
            .transpose()?
            .map(Arc::new),
        body_buffer_limit: body_limit(per_request_buffer_limit_bytes, request_body_buffer_limit, path)?,
    };
    let routes: Box<[Arc<Route>]> = routes
        .into_iter()
        .enumerate()
        .map(|(i, r)| host.route(r, &format!("{path}.routes[{i}]")).map(Arc::new))
        .collect::<Result<_, _>>()?;
    let index = (routes.len() >= WORTH_IT).then(|| RouteIndex::new(routes.iter().map(|r| r.condition.literal())));
    Ok(Entries { require_tls, tls_redirect: Arc::new(host.tls_redirect()), routes, index })
}

impl Host<'_> {
    fn route(&self, config: proto::Route, path: &str) -> Result<Route, ConfigError> {
        let proto::Route {
            name,
            r#match,
            metadata,
            decorator,
            typed_per_filter_config,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            tracing,
            per_request_buffer_limit_bytes,
            stat_prefix,
            request_body_buffer_limit,
            route_specifiers,
            action,
        } = config;
        warn_ignored(tracing.is_some(), path, "tracing");
        refuse(&route_specifiers, path, "route_specifiers")?;
        let Some(condition) = r#match else {
            return Err(ConfigError::new(format!("{path}.match"), "value is required"));
        };
        let condition = Condition::compile(condition, &format!("{path}.match"))?;
        let filters = FilterOverrides::compile(typed_per_filter_config, path)?.over(&self.level.filters);
        let request = (request_headers_to_add, request_headers_to_remove);
        let response = (response_headers_to_add, response_headers_to_remove);
        let level = Level { rules: Rules::compile(request, response, path)?, filters: filters.clone() };
        let parent = Parent { global: self.global, levels: [&level, &self.level, self.config], filters: &filters };
        use proto::route::Action as Specified;
        let action = match action {
            Some(Specified::Route(a)) => {
                let forward = Forward::compile(a, &parent, self.retry.as_ref(), &format!("{path}.route"))?;
                Action::Forward(Box::new(forward))
            }
            Some(Specified::Redirect(a)) => Action::Redirect(Redirect::compile(a, &format!("{path}.redirect"))?),
            Some(Specified::DirectResponse(a)) => Action::DirectResponse(DirectResponse::compile(
                a,
                self.global.direct_body_limit,
                &format!("{path}.direct_response"),
            )?),
            Some(Specified::NonForwardingAction(proto::NonForwardingAction {})) => Action::NonForwarding,
            Some(Specified::FilterAction(_)) => return Err(ConfigError::unsupported(format!("{path}.filter_action"))),
            None => return Err(ConfigError::new(format!("{path}.action"), "value is required")),
        };
        let (request_headers, response_headers) = parent.chains(None);
        let filters = match &action {
            Action::Forward(f) => match &f.cluster {
                ClusterChoice::Weighted(w) => filters.with_clusters(w.clusters.iter().map(|c| &c.filters)),
                ClusterChoice::One(_) => filters,
            },
            _ => filters,
        };
        Ok(Route {
            name: name.into(),
            virtual_host: self.host.clone(),
            metadata: shared_metadata(metadata),
            decorator: decorator.map(|d| Decorator::compile(d, &format!("{path}.decorator"))).transpose()?,
            request_headers,
            response_headers,
            body_buffer_limit: body_limit(per_request_buffer_limit_bytes, request_body_buffer_limit, path)?
                .or(self.body_buffer_limit),
            stats: (!stat_prefix.is_empty()).then(|| RouteStats::new(self.global.cx, &self.host.name, &stat_prefix)),
            filters,
            action,
            condition,
        })
    }

    /// Envoy's redirect to TLS is a route of its own, which no header rules apply to.
    fn tls_redirect(&self) -> Route {
        Route {
            name: Arc::from(""),
            virtual_host: self.host.clone(),
            metadata: None,
            decorator: None,
            request_headers: HeaderOpsChain::default(),
            response_headers: HeaderOpsChain::default(),
            body_buffer_limit: None,
            stats: None,
            filters: FilterOverrides::default(),
            action: Action::Redirect(Redirect::to_https()),
            condition: Condition::always(),
        }
    }
}

impl Decorator {
    fn compile(config: proto::Decorator, path: &str) -> Result<Decorator, ConfigError> {
        let proto::Decorator { operation, propagate } = config;
        if operation.is_empty() {
            return Err(ConfigError::new(format!("{path}.operation"), "value length must be at least 1 characters"));
        }
        let propagated =
            if propagate.is_none_or(|b| b.value) { http::HeaderValue::from_str(&operation).ok() } else { None };
        Ok(Decorator { operation: operation.into(), propagated })
    }
}

impl RouteStats {
    fn new(cx: &Context<'_>, host: &str, prefix: &str) -> RouteStats {
        let counter = |name: &str| cx.stats.counter(&format!("vhost.{host}.route.{prefix}.upstream_rq_{name}"));
        RouteStats {
            total: counter("total"),
            completed: counter("completed"),
            classes: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(counter),
            retry: counter("retry"),
            retry_limit_exceeded: counter("retry_limit_exceeded"),
            retry_overflow: counter("retry_overflow"),
            retry_success: counter("retry_success"),
            timeout: counter("timeout"),
        }
    }
}

fn body_limit(
    per_request: Option<protobuf::UInt32Value>,
    body: Option<protobuf::UInt64Value>,
    path: &str,
) -> Result<Option<u64>, ConfigError> {
    match (per_request, body) {
        (Some(_), Some(_)) => {
            let reason = "Only one of request_body_buffer_limit and per_request_buffer_limit_bytes can be specified.";
            Err(ConfigError::new(path, reason))
        }
        (Some(n), None) => Ok(Some(n.value.into())),
        (None, Some(n)) => Ok(Some(n.value)),
        (None, None) => Ok(None),
    }
}

fn shared_metadata(metadata: Option<core::Metadata>) -> Option<Arc<Metadata>> {
    metadata.map(Metadata::compile).filter(|m| !m.is_empty()).map(Arc::new)
}
