//! `config.core.v3.ConfigSource`: where resources come from.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::envoy::config::core::v3::api_config_source::ApiType;
use waypost_xds::envoy::config::core::v3::config_source::ConfigSourceSpecifier;

use crate::config::convert::duration;
use crate::config::{ConfigError, refuse};

/// `initial_fetch_timeout` where it is not set.
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// Where resources come from. Two sources that are equal share what is open.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// `ads`, and `self` of what came over it.
    Ads,
    /// `api_config_source`, encoded: the message has no order or hash of its own.
    Service(Arc<[u8]>),
    /// `path_config_source`.
    Path(PathBuf),
}

/// How long a resource is waited for, and where it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Where.
    pub source: Source,
    /// `initial_fetch_timeout`: none waits for ever.
    pub timeout: Option<Duration>,
}

/// How a service is spoken to.
#[derive(Clone, Debug, PartialEq)]
pub enum Api {
    /// `GRPC` and `DELTA_GRPC`.
    Grpc {
        /// Whether it is the incremental dialect.
        delta: bool,
        /// `grpc_services[].envoy_grpc`.
        targets: Vec<GrpcTarget>,
        /// `set_node_on_first_message_only`.
        node_once: bool,
    },
    /// `REST`.
    Rest {
        /// `cluster_names`.
        clusters: Vec<String>,
        /// `refresh_delay`.
        delay: Duration,
        /// `request_timeout`.
        timeout: Duration,
    },
}

/// `config.core.v3.GrpcService.EnvoyGrpc`, with the metadata of its service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrpcTarget {
    /// `cluster_name`.
    pub cluster: String,
    /// `authority`; the cluster's name unless it is set.
    pub authority: String,
    /// `initial_metadata`.
    pub metadata: Vec<(String, String)>,
    /// `retry_policy.retry_back_off`: the base and the longest wait between streams.
    pub back_off: Option<(Duration, Duration)>,
}

impl Fetch {
    /// Reads a `ConfigSource`.
    pub fn of(source: &core::ConfigSource, path: &str) -> Result<Fetch, ConfigError> {
        // Only the API's third version exists any more, whatever is said.
        let core::ConfigSource { authorities, initial_fetch_timeout, resource_api_version: _, config_source_specifier } =
            source;
        refuse(authorities, path, "authorities")?;
        let timeout = duration(*initial_fetch_timeout, &format!("{path}.initial_fetch_timeout"))?;
        let timeout = Some(timeout.unwrap_or(INITIAL_FETCH_TIMEOUT)).filter(|t| !t.is_zero());
        let source = match config_source_specifier {
            Some(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})) => Source::Ads,
            Some(ConfigSourceSpecifier::Self_(core::SelfConfigSource { transport_api_version: _ })) => Source::Ads,
            Some(ConfigSourceSpecifier::ApiConfigSource(api)) => {
                let path = format!("{path}.api_config_source");
                if ApiType::try_from(api.api_type) == Ok(ApiType::AggregatedGrpc)
                    || ApiType::try_from(api.api_type) == Ok(ApiType::AggregatedDeltaGrpc)
                {
                    Source::Ads
                } else {
                    Api::compile(api, &path)?;
                    Source::Service(api.encode_to_vec().into())
                }
            }
            Some(ConfigSourceSpecifier::PathConfigSource(core::PathConfigSource {
                path,
                // A file is looked at each second whatever happens to its directory.
                watched_directory: _,
                poll_interval: _,
            })) => Source::Path(PathBuf::from(path)),
            Some(ConfigSourceSpecifier::Path(file)) => Source::Path(PathBuf::from(file)),
            None => return Err(ConfigError::new(path, "config source must be set")),
        };
        Ok(Fetch { source, timeout })
    }
}

impl Api {
    /// Reads what [`Source::Service`] holds.
    pub fn decode(bytes: &[u8]) -> Result<Api, ConfigError> {
        let api =
            core::ApiConfigSource::decode(bytes).map_err(|e| ConfigError::new("api_config_source", e.to_string()))?;
        Api::compile(&api, "api_config_source")
    }

    /// Reads an `ApiConfigSource`.
    pub fn compile(api: &core::ApiConfigSource, path: &str) -> Result<Api, ConfigError> {
        let core::ApiConfigSource {
            api_type,
            transport_api_version: _, // only the third version exists any more
            cluster_names,
            grpc_services,
            refresh_delay,
            request_timeout,
            rate_limit_settings: _, // requests are answers to responses and changes of names; there is no flood to hold back
            set_node_on_first_message_only,
            config_validators,
        } = api;
        refuse(config_validators, path, "config_validators")?;
        match ApiType::try_from(*api_type) {
            Ok(kind @ (ApiType::Grpc | ApiType::DeltaGrpc)) => {
                let targets = grpc_services
                    .iter()
                    .enumerate()
                    .map(|(i, service)| GrpcTarget::of(service, &format!("{path}.grpc_services[{i}]")))
                    .collect::<Result<Vec<_>, _>>()?;
                if targets.is_empty() {
                    return Err(ConfigError::new(
                        format!("{path}.grpc_services"),
                        "API configs must have either a gRPC service or a cluster name defined",
                    ));
                }
                Ok(Api::Grpc { delta: kind == ApiType::DeltaGrpc, targets, node_once: *set_node_on_first_message_only })
            }
            Ok(ApiType::Rest) => {
                if cluster_names.is_empty() {
                    return Err(ConfigError::new(format!("{path}.cluster_names"), "REST needs a cluster"));
                }
                let delay = duration(*refresh_delay, &format!("{path}.refresh_delay"))?;
                let Some(delay) = delay.filter(|d| !d.is_zero()) else {
                    return Err(ConfigError::new(
                        format!("{path}.refresh_delay"),
                        "refresh_delay is required for REST API configuration sources",
                    ));
                };
                let timeout = duration(*request_timeout, &format!("{path}.request_timeout"))?;
                Ok(Api::Rest {
                    clusters: cluster_names.clone(),
                    delay,
                    // Envoy's default.
                    timeout: timeout.unwrap_or(Duration::from_secs(1)),
                })
            }
            _ => Err(ConfigError::new(format!("{path}.api_type"), "expected GRPC, DELTA_GRPC or REST")),
        }
    }
}

impl GrpcTarget {
    /// Reads a `GrpcService`.
    pub fn of(service: &core::GrpcService, path: &str) -> Result<GrpcTarget, ConfigError> {
        use core::grpc_service::TargetSpecifier;
        let core::GrpcService {
            timeout: _, // of single calls: a stream has no end
            initial_metadata,
            retry_policy: _, // streams are opened again for ever, with Envoy's default back-off
            target_specifier,
        } = service;
        let metadata = initial_metadata
            .iter()
            .map(|core::HeaderValue { key, value, raw_value: _ }| (key.to_ascii_lowercase(), value.clone()))
            .collect();
        match target_specifier {
            Some(TargetSpecifier::EnvoyGrpc(core::grpc_service::EnvoyGrpc {
                cluster_name,
                authority,
                retry_policy,
                max_receive_message_length: _, // a limit of our own holds
                skip_envoy_headers: _,         // none are sent
            })) => Ok(GrpcTarget {
                cluster: cluster_name.clone(),
                authority: authority.clone(),
                metadata,
                back_off: back_off(retry_policy.as_ref(), &format!("{path}.envoy_grpc.retry_policy"))?,
            }),
            Some(TargetSpecifier::GoogleGrpc(_)) => Err(ConfigError::unsupported(format!("{path}.google_grpc"))),
            None => Err(ConfigError::new(path, "expected envoy_grpc")),
        }
    }
}

/// The waits between streams. Streams are opened again for ever, whatever `num_retries` says.
fn back_off(policy: Option<&core::RetryPolicy>, path: &str) -> Result<Option<(Duration, Duration)>, ConfigError> {
    let Some(core::RetryPolicy {
        retry_back_off,
        num_retries: _,
        retry_on: _,
        retry_priority: _,
        retry_host_predicate: _,
        host_selection_retry_max_attempts: _,
    }) = policy
    else {
        return Ok(None);
    };
    let Some(core::BackoffStrategy { base_interval, max_interval }) = retry_back_off else { return Ok(None) };
    let path = format!("{path}.retry_back_off");
    let Some(base) = duration(*base_interval, &format!("{path}.base_interval"))? else {
        return Err(ConfigError::new(format!("{path}.base_interval"), "value is required"));
    };
    // Envoy: ten times the base unless it is set.
    let max = duration(*max_interval, &format!("{path}.max_interval"))?.unwrap_or(base * 10);
    if max < base {
        return Err(ConfigError::new(path, "max_interval must be greater than or equal to the base_interval"));
    }
    Ok(Some((base, max)))
}
