//! `RouteAction`: a request is sent to a cluster.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use waypost_filters::matcher::RegexRewrite;
use waypost_filters::stream::HttpStream;
use waypost_xds::envoy::config::core::v3::RoutingPriority;
use waypost_xds::envoy::config::route::v3 as proto;
use waypost_xds::envoy::config::route::v3::route_action as parts;
use waypost_xds::envoy::config::route::v3::route_action::hash_policy::PolicySpecifier;

use super::fields::{duration, header_name, header_value};
use super::levels::Parent;
use super::rewrite::{self, HostRewrite, PathRewrite};
use super::{ClusterChoice, RetryPolicy};
use crate::config::{ConfigError, refuse, warn_ignored};

/// How a request is sent on.
#[derive(Debug)]
pub struct Forward {
    /// `cluster_specifier`
    pub cluster: ClusterChoice,
    /// `cluster_not_found_response_code`
    pub cluster_not_found: StatusCode,
    /// `timeout`, 15 s unless set; none if it is 0.
    pub timeout: Option<Duration>,
    /// `idle_timeout`; zero switches the connection manager's off.
    pub idle_timeout: Option<Duration>,
    /// `flush_timeout`; zero switches the connection manager's off.
    pub flush_timeout: Option<Duration>,
    /// `max_stream_duration`
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// `max_grpc_timeout`: how much of `grpc-timeout` counts; zero for all of it, none if the header is not looked at.
    pub max_grpc_timeout: Option<Duration>,
    /// `grpc_timeout_offset`: taken off `grpc-timeout`.
    pub grpc_timeout_offset: Option<Duration>,
    /// How the path changes.
    pub path_rewrite: PathRewrite,
    /// How the authority changes.
    pub host_rewrite: HostRewrite,
    /// `append_x_forwarded_host`
    pub append_x_forwarded_host: bool,
    /// `retry_policy`, of the route or else of the virtual host.
    pub retry: Option<Arc<RetryPolicy>>,
    /// `upgrade_configs`
    pub upgrades: UpgradeConfigs,
    /// `hash_policy`, for ring-hash and Maglev clusters.
    pub hash_policy: Box<[HashPolicy]>,
    /// `priority`: which circuit breaker counts.
    pub priority: Priority,
}

/// `max_stream_duration`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxStreamDuration {
    /// `max_stream_duration`; zero switches the connection manager's off.
    pub max: Option<Duration>,
    /// `grpc_timeout_header_max`; zero for no limit.
    pub grpc_timeout_header_max: Option<Duration>,
    /// `grpc_timeout_header_offset`
    pub grpc_timeout_header_offset: Option<Duration>,
}

/// `RoutingPriority`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// `DEFAULT`
    #[default]
    Default,
    /// `HIGH`
    High,
}

/// What a route says about upgrades, by type in any case.
#[derive(Debug, Default)]
pub struct UpgradeConfigs(Box<[Upgrade]>);

/// One of `upgrade_configs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `upgrade_type`, such as `websocket` or `CONNECT`.
    pub upgrade_type: Box<str>,
    /// `enabled`
    pub enabled: bool,
    /// `connect_config`: CONNECT is ended here and its payload sent on as raw TCP.
    pub connect: Option<ConnectConfig>,
}

/// `connect_config`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectConfig {
    /// `allow_post`: POST is ended like CONNECT.
    pub allow_post: bool,
}

/// One of `hash_policy`.
#[derive(Debug)]
pub struct HashPolicy {
    /// `terminal`: if this gave a hash, the others are not looked at.
    pub terminal: bool,
    /// What is hashed.
    pub source: HashSource,
}

/// What a hash is made of.
#[derive(Debug)]
pub enum HashSource {
    /// `header`
    Header {
        /// `header_name`
        name: HeaderName,
        /// `regex_rewrite`
        rewrite: Option<RegexRewrite>,
    },
    /// `cookie`
    Cookie {
        /// `name`
        name: Box<str>,
        /// `ttl`: a cookie is made if there is none; zero for one of the session.
        ttl: Option<Duration>,
        /// `path`
        path: Box<str>,
        /// `attributes`, names and values.
        attributes: Box<[(Box<str>, Box<str>)]>,
    },
    /// `connection_properties.source_ip`
    SourceIp,
    /// `query_parameter`
    QueryParameter(Box<str>),
    /// `filter_state`
    FilterState(Box<str>),
}

/// `timeout` where the configuration has none.
const TIMEOUT: Duration = Duration::from_secs(15);

impl Forward {
    pub(super) fn compile(
        config: proto::RouteAction,
        parent: &Parent<'_>,
        vhost_retry: Option<&Arc<RetryPolicy>>,
        path: &str,
    ) -> Result<Forward, ConfigError> {
        let proto::RouteAction {
            cluster_not_found_response_code,
            metadata_match,
            prefix_rewrite,
            regex_rewrite,
            path_rewrite_policy,
            path_rewrite,
            append_x_forwarded_host,
            timeout,
            idle_timeout,
            flush_timeout,
            early_data_policy,
            retry_policy,
            retry_policy_typed_config,
            request_mirror_policies,
            priority,
            rate_limits,
            include_vh_rate_limits: _, // says which of the rate limits count
            hash_policy,
            cors,
            max_grpc_timeout,
            grpc_timeout_offset,
            upgrade_configs,
            internal_redirect_policy,
            internal_redirect_action,
            max_internal_redirects,
            hedge_policy,
            max_stream_duration,
            cluster_specifier,
            host_rewrite_specifier,
        } = config;
        refuse(&metadata_match, path, "metadata_match")?;
        refuse(&path_rewrite_policy, path, "path_rewrite_policy")?;
        refuse(&path_rewrite, path, "path_rewrite")?;
        refuse(&retry_policy_typed_config, path, "retry_policy_typed_config")?;
        // Requests reach the same hosts without these; what some of them add is missing.
        warn_ignored(early_data_policy.is_some(), path, "early_data_policy");
        warn_ignored(!request_mirror_policies.is_empty(), path, "request_mirror_policies");
        warn_ignored(!rate_limits.is_empty(), path, "rate_limits");
        warn_ignored(cors.is_some(), path, "cors");
        // A redirect of the upstream's goes to the client, as any response does.
        warn_ignored(internal_redirect_policy.is_some(), path, "internal_redirect_policy");
        warn_ignored(internal_redirect_action != 0, path, "internal_redirect_action");
        warn_ignored(max_internal_redirects.is_some(), path, "max_internal_redirects");
        warn_ignored(hedge_policy.is_some_and(|h| h != proto::HedgePolicy::default()), path, "hedge_policy");

        use parts::ClusterNotFoundResponseCode as NotFound;
        let cluster_not_found = match NotFound::try_from(cluster_not_found_response_code) {
            Ok(NotFound::ServiceUnavailable) => StatusCode::SERVICE_UNAVAILABLE,
            Ok(NotFound::NotFound) => StatusCode::NOT_FOUND,
            Ok(NotFound::InternalServerError) => StatusCode::INTERNAL_SERVER_ERROR,
            Err(_) => {
                return Err(ConfigError::new(format!("{path}.cluster_not_found_response_code"), "not a response code"));
            }
        };
        let path_rewrite = match (prefix_rewrite.is_empty(), regex_rewrite) {
            (true, None) => PathRewrite::None,
            (false, None) => {
                PathRewrite::Prefix(header_value(&prefix_rewrite, path, "prefix_rewrite")?.as_bytes().into())
            }
            (true, Some(r)) => PathRewrite::Regex(RegexRewrite::compile(r, &format!("{path}.regex_rewrite"))?),
            (false, Some(_)) => {
                let reason = "only one of prefix_rewrite and regex_rewrite can be specified";
                return Err(ConfigError::new(path, reason));
            }
        };
        use parts::HostRewriteSpecifier as Host;
        let host_rewrite = match host_rewrite_specifier {
            None => HostRewrite::None,
            Some(Host::HostRewriteLiteral(h)) if h.is_empty() => HostRewrite::None,
            Some(Host::HostRewriteLiteral(h)) => HostRewrite::Literal(header_value(&h, path, "host_rewrite_literal")?),
            Some(Host::AutoHostRewrite(b)) => {
                if b.value {
                    HostRewrite::Auto
                } else {
                    HostRewrite::None
                }
            }
            Some(Host::HostRewriteHeader(h)) if h.is_empty() => HostRewrite::None,
            Some(Host::HostRewriteHeader(h)) => HostRewrite::Header(header_name(&h, path, "host_rewrite_header")?),
            Some(Host::HostRewritePathRegex(r)) => {
                HostRewrite::PathRegex(RegexRewrite::compile(r, &format!("{path}.host_rewrite_path_regex"))?)
            }
            Some(Host::HostRewrite(_)) => return Err(ConfigError::unsupported(format!("{path}.host_rewrite"))),
        };
        let retry = match retry_policy {
            Some(p) => Some(Arc::new(RetryPolicy::compile(p, &format!("{path}.retry_policy"))?)),
            None => vhost_retry.cloned(),
        };
        Ok(Forward {
            cluster: parent.cluster_choice(cluster_specifier, path)?,
            cluster_not_found,
            timeout: Some(duration(timeout, path, "timeout")?.unwrap_or(TIMEOUT)).filter(|d| !d.is_zero()),
            idle_timeout: duration(idle_timeout, path, "idle_timeout")?,
            flush_timeout: duration(flush_timeout, path, "flush_timeout")?,
            max_stream_duration: max_stream_duration
                .map(|m| MaxStreamDuration::compile(m, &format!("{path}.max_stream_duration")))
                .transpose()?,
            max_grpc_timeout: duration(max_grpc_timeout, path, "max_grpc_timeout")?,
            grpc_timeout_offset: duration(grpc_timeout_offset, path, "grpc_timeout_offset")?,
            path_rewrite,
            host_rewrite,
            append_x_forwarded_host,
            retry,
            upgrades: UpgradeConfigs::compile(upgrade_configs, &format!("{path}.upgrade_configs"))?,
            hash_policy: hash_policy
                .into_iter()
                .enumerate()
                .filter_map(|(i, h)| HashPolicy::compile(h, &format!("{path}.hash_policy[{i}]")).transpose())
                .collect::<Result<_, _>>()?,
            priority: match RoutingPriority::try_from(priority) {
                Ok(RoutingPriority::Default) => Priority::Default,
                Ok(RoutingPriority::High) => {
                    warn_ignored(true, path, "priority: HIGH");
                    Priority::High
                }
                Err(_) => return Err(ConfigError::new(format!("{path}.priority"), "not a priority")),
            },
        })
    }

    /// Sets the authority to the chosen host's name, for routes with `auto_host_rewrite`.
    pub fn rewrite_host(&self, stream: &mut HttpStream, hostname: HeaderValue, keep_original: bool) {
        if matches!(self.host_rewrite, HostRewrite::Auto) && !hostname.is_empty() {
            rewrite::set_host(&mut stream.request, hostname, self.append_x_forwarded_host, keep_original);
        }
    }
}

impl MaxStreamDuration {
    fn compile(config: parts::MaxStreamDuration, path: &str) -> Result<MaxStreamDuration, ConfigError> {
        let parts::MaxStreamDuration { max_stream_duration, grpc_timeout_header_max, grpc_timeout_header_offset } =
            config;
        Ok(MaxStreamDuration {
            max: duration(max_stream_duration, path, "max_stream_duration")?,
            grpc_timeout_header_max: duration(grpc_timeout_header_max, path, "grpc_timeout_header_max")?,
            grpc_timeout_header_offset: duration(grpc_timeout_header_offset, path, "grpc_timeout_header_offset")?,
        })
    }
}

impl UpgradeConfigs {
    fn compile(configs: Vec<parts::UpgradeConfig>, path: &str) -> Result<UpgradeConfigs, ConfigError> {
        let mut all: Vec<Upgrade> = Vec::with_capacity(configs.len());
        for (i, config) in configs.into_iter().enumerate() {
            let path = format!("{path}[{i}]");
            let parts::UpgradeConfig { upgrade_type, enabled, connect_config } = config;
            header_value(&upgrade_type, &path, "upgrade_type")?;
            if upgrade_type.is_empty() {
                return Err(ConfigError::new(
                    format!("{path}.upgrade_type"),
                    "value length must be at least 1 characters",
                ));
            }
            if all.iter().any(|u| u.upgrade_type.eq_ignore_ascii_case(&upgrade_type)) {
                return Err(ConfigError::new(path, format!("Duplicate upgrade {upgrade_type}")));
            }
            let connect = match connect_config {
                None => None,
                Some(_) if !upgrade_type.eq_ignore_ascii_case("CONNECT") => {
                    let reason = "Non-CONNECT upgrade type has ConnectConfig";
                    return Err(ConfigError::new(format!("{path}.connect_config"), reason));
                }
                Some(parts::upgrade_config::ConnectConfig { proxy_protocol_config, allow_post }) => {
                    refuse(&proxy_protocol_config, &format!("{path}.connect_config"), "proxy_protocol_config")?;
                    Some(ConnectConfig { allow_post })
                }
            };
            all.push(Upgrade { upgrade_type: upgrade_type.into(), enabled: enabled.is_none_or(|b| b.value), connect });
        }
        Ok(UpgradeConfigs(all.into()))
    }

    /// What is said about an upgrade type.
    pub fn get(&self, upgrade_type: &[u8]) -> Option<&Upgrade> {
        self.0.iter().find(|u| u.upgrade_type.as_bytes().eq_ignore_ascii_case(upgrade_type))
    }

    /// All that is said.
    pub fn iter(&self) -> impl Iterator<Item = &Upgrade> {
        self.0.iter()
    }
}

impl HashPolicy {
    /// None for a policy that hashes nothing (`source_ip: false`).
    fn compile(config: parts::HashPolicy, path: &str) -> Result<Option<HashPolicy>, ConfigError> {
        let parts::HashPolicy { terminal, policy_specifier } = config;
        let filled = |s: String, field: &str| {
            if s.is_empty() {
                return Err(ConfigError::new(format!("{path}.{field}"), "value length must be at least 1 characters"));
            }
            Ok(Box::from(s))
        };
        let source = match policy_specifier {
            Some(PolicySpecifier::Header(parts::hash_policy::Header { header_name: name, regex_rewrite })) => {
                HashSource::Header {
                    name: header_name(&name, path, "header.header_name")?,
                    rewrite: regex_rewrite
                        .map(|r| RegexRewrite::compile(r, &format!("{path}.header.regex_rewrite")))
                        .transpose()?,
                }
            }
            Some(PolicySpecifier::Cookie(parts::hash_policy::Cookie { name, ttl, path: cookie_path, attributes })) => {
                let attribute =
                    |parts::hash_policy::CookieAttribute { name, value }| (Box::from(name), Box::from(value));
                HashSource::Cookie {
                    name: filled(name, "cookie.name")?,
                    ttl: duration(ttl, path, "cookie.ttl")?,
                    path: cookie_path.into(),
                    attributes: attributes.into_iter().map(attribute).collect(),
                }
            }
            Some(PolicySpecifier::ConnectionProperties(parts::hash_policy::ConnectionProperties { source_ip })) => {
                if !source_ip {
                    return Ok(None);
                }
                HashSource::SourceIp
            }
            Some(PolicySpecifier::QueryParameter(parts::hash_policy::QueryParameter { name })) => {
                HashSource::QueryParameter(filled(name, "query_parameter.name")?)
            }
            Some(PolicySpecifier::FilterState(parts::hash_policy::FilterState { key })) => {
                HashSource::FilterState(filled(key, "filter_state.key")?)
            }
            None => return Err(ConfigError::new(format!("{path}.policy_specifier"), "value is required")),
        };
        Ok(Some(HashPolicy { terminal, source }))
    }
}
