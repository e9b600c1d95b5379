//! `RetryPolicy`.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use waypost_filters::matcher::HeaderMatcher;
use waypost_xds::any;
use waypost_xds::envoy::config::route::v3 as proto;
use waypost_xds::envoy::config::route::v3::retry_policy as parts;
use waypost_xds::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use waypost_xds::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;

use super::fields::duration;
use crate::config::{ConfigError, refuse, warn_ignored};

/// When, how often and where a request is sent again.
#[derive(Debug)]
pub struct RetryPolicy {
    /// `retry_on`
    pub on: RetryOn,
    /// `num_retries`
    pub num_retries: u32,
    /// `per_try_timeout`; none if it is the route's.
    pub per_try_timeout: Option<Duration>,
    /// `per_try_idle_timeout`
    pub per_try_idle_timeout: Option<Duration>,
    /// `retry_host_predicate` has `previous_hosts`: hosts that were tried are passed over.
    pub previous_hosts: bool,
    /// `retry_priority` is `previous_priorities`, with its `update_frequency`.
    pub previous_priorities: Option<u32>,
    /// `host_selection_retry_max_attempts`: how often another host is chosen when a predicate refuses one.
    pub host_selection_attempts: u32,
    /// `retriable_status_codes`
    pub status_codes: Box<[u16]>,
    /// `retry_back_off`
    pub back_off: BackOff,
    /// `rate_limited_retry_back_off`
    pub rate_limited_back_off: Option<RateLimitedBackOff>,
    /// `retriable_headers`: of responses.
    pub headers: Box<[HeaderMatcher]>,
    /// `retriable_request_headers`: of requests that may be sent again; all if empty.
    pub request_headers: Box<[HeaderMatcher]>,
}

/// Bounds of the exponential back-off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    /// `base_interval`
    pub base: Duration,
    /// `max_interval`
    pub max: Duration,
}

/// How long a response asks us to wait.
#[derive(Debug)]
pub struct RateLimitedBackOff {
    /// `reset_headers`, in order.
    pub headers: Box<[ResetHeader]>,
    /// `max_interval`
    pub max: Duration,
}

/// A header that tells when to try again.
#[derive(Debug)]
pub struct ResetHeader {
    /// `name`
    pub name: HeaderName,
    /// `format`
    pub format: ResetFormat,
}

/// `ResetHeaderFormat`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetFormat {
    /// `SECONDS`
    Seconds,
    /// `UNIX_TIMESTAMP`
    UnixTimestamp,
}

/// The set of conditions in `retry_on`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

impl RetryOn {
    /// `5xx`
    pub const FIVE_XX: RetryOn = RetryOn(1);
    /// `gateway-error`
    pub const GATEWAY_ERROR: RetryOn = RetryOn(1 << 1);
    /// `connect-failure`
    pub const CONNECT_FAILURE: RetryOn = RetryOn(1 << 2);
    /// `retriable-4xx`
    pub const RETRIABLE_4XX: RetryOn = RetryOn(1 << 3);
    /// `refused-stream`
    pub const REFUSED_STREAM: RetryOn = RetryOn(1 << 4);
    /// `retriable-status-codes`
    pub const STATUS_CODES: RetryOn = RetryOn(1 << 5);
    /// `reset`
    pub const RESET: RetryOn = RetryOn(1 << 6);
    /// `retriable-headers`
    pub const HEADERS: RetryOn = RetryOn(1 << 7);
    /// `envoy-ratelimited`
    pub const ENVOY_RATE_LIMITED: RetryOn = RetryOn(1 << 8);
    /// `reset-before-request`
    pub const RESET_BEFORE_REQUEST: RetryOn = RetryOn(1 << 9);
    /// `http3-post-connect-failure`
    pub const HTTP3_POST_CONNECT_FAILURE: RetryOn = RetryOn(1 << 10);
    /// gRPC `cancelled`
    pub const GRPC_CANCELLED: RetryOn = RetryOn(1 << 16);
    /// gRPC `deadline-exceeded`
    pub const GRPC_DEADLINE_EXCEEDED: RetryOn = RetryOn(1 << 17);
    /// gRPC `resource-exhausted`
    pub const GRPC_RESOURCE_EXHAUSTED: RetryOn = RetryOn(1 << 18);
    /// gRPC `unavailable`
    pub const GRPC_UNAVAILABLE: RetryOn = RetryOn(1 << 19);
    /// gRPC `internal`
    pub const GRPC_INTERNAL: RetryOn = RetryOn(1 << 20);

    /// Reads a comma-separated list, of a configuration or of `x-envoy-retry-on` and `x-envoy-retry-grpc-on`. The flag tells whether all names
    /// are known; Envoy passes over unknown ones unless a strict header check asks.
    pub fn parse(list: &str) -> (RetryOn, bool) {
        let (mut on, mut known) = (0, true);
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match RetryOn::named(name) {
                Some(RetryOn(bit)) => on |= bit,
                None => known = false,
            }
        }
        (RetryOn(on), known)
    }

    fn named(name: &str) -> Option<RetryOn> {
        Some(match name {
            "5xx" => RetryOn::FIVE_XX,
            "gateway-error" => RetryOn::GATEWAY_ERROR,
            "connect-failure" => RetryOn::CONNECT_FAILURE,
            "retriable-4xx" => RetryOn::RETRIABLE_4XX,
            "refused-stream" => RetryOn::REFUSED_STREAM,
            "retriable-status-codes" => RetryOn::STATUS_CODES,
            "reset" => RetryOn::RESET,
            "retriable-headers" => RetryOn::HEADERS,
            "envoy-ratelimited" => RetryOn::ENVOY_RATE_LIMITED,
            "reset-before-request" => RetryOn::RESET_BEFORE_REQUEST,
            "http3-post-connect-failure" => RetryOn::HTTP3_POST_CONNECT_FAILURE,
            "cancelled" => RetryOn::GRPC_CANCELLED,
            "deadline-exceeded" => RetryOn::GRPC_DEADLINE_EXCEEDED,
            "resource-exhausted" => RetryOn::GRPC_RESOURCE_EXHAUSTED,
            "unavailable" => RetryOn::GRPC_UNAVAILABLE,
            "internal" => RetryOn::GRPC_INTERNAL,
            _ => return None,
        })
    }

    /// Whether any of these conditions is in the set.
    pub const fn any(self, of: RetryOn) -> bool {
        self.0 & of.0 != 0
    }

    /// Both sets.
    pub const fn union(self, other: RetryOn) -> RetryOn {
        RetryOn(self.0 | other.0)
    }

    /// Whether nothing is retried.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Envoy's defaults: full jitter over 25 ms, doubled up to ten times that.
const BACK_OFF: BackOff = BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) };

impl RetryPolicy {
    /// Compiles a `RetryPolicy`.
    pub fn compile(config: proto::RetryPolicy, path: &str) -> Result<RetryPolicy, ConfigError> {
        let proto::RetryPolicy {
            retry_on,
            num_retries,
            per_try_timeout,
            per_try_idle_timeout,
            retry_priority,
            retry_host_predicate,
            retry_options_predicates,
            host_selection_retry_max_attempts,
            retriable_status_codes,
            retry_back_off,
            rate_limited_retry_back_off,
            retriable_headers,
            retriable_request_headers,
            refresh_cluster_on_retry,
        } = config;
        refuse(&retry_options_predicates, path, "retry_options_predicates")?;
        refuse(&refresh_cluster_on_retry, path, "refresh_cluster_on_retry")?;
        warn_ignored(per_try_idle_timeout.is_some(), path, "per_try_idle_timeout");
        warn_ignored(retry_priority.is_some(), path, "retry_priority");
        warn_ignored(rate_limited_retry_back_off.is_some(), path, "rate_limited_retry_back_off");
        let previous_hosts = !retry_host_predicate.is_empty();
        for (i, predicate) in retry_host_predicate.into_iter().enumerate() {
            host_predicate(predicate, &format!("{path}.retry_host_predicate[{i}]"))?;
        }
        let code = |c: u32| {
            u16::try_from(c).ok().filter(|c| StatusCode::from_u16(*c).is_ok()).ok_or_else(|| {
                ConfigError::new(format!("{path}.retriable_status_codes"), format!("{c} is not a status code"))
            })
        };
        let attempts = host_selection_retry_max_attempts;
        Ok(RetryPolicy {
            // Unknown conditions are passed over, as Envoy does: istiod sends what users wrote.
            on: RetryOn::parse(&retry_on).0,
            num_retries: num_retries.map_or(1, |n| n.value),
            per_try_timeout: duration(per_try_timeout, path, "per_try_timeout")?.filter(|d| !d.is_zero()),
            per_try_idle_timeout: duration(per_try_idle_timeout, path, "per_try_idle_timeout")?
                .filter(|d| !d.is_zero()),
            previous_hosts,
            previous_priorities: retry_priority.map(|p| priority(p, &format!("{path}.retry_priority"))).transpose()?,
            host_selection_attempts: if attempts == 0 { 1 } else { attempts.clamp(0, u32::MAX.into()) as u32 },
            status_codes: retriable_status_codes.into_iter().map(code).collect::<Result<_, _>>()?,
            back_off: match retry_back_off {
                None => BACK_OFF,
                Some(b) => back_off(b, &format!("{path}.retry_back_off"))?,
            },
            rate_limited_back_off: rate_limited_retry_back_off
                .map(|b| rate_limited(b, &format!("{path}.rate_limited_retry_back_off")))
                .transpose()?,
            headers: HeaderMatcher::compile_all(retriable_headers, &format!("{path}.retriable_headers"))?,
            request_headers: HeaderMatcher::compile_all(
                retriable_request_headers,
                &format!("{path}.retriable_request_headers"),
            )?,
        })
    }
}

fn host_predicate(config: parts::RetryHostPredicate, path: &str) -> Result<(), ConfigError> {
    let parts::RetryHostPredicate { name, config_type } = config;
    match config_type {
        Some(parts::retry_host_predicate::ConfigType::TypedConfig(c))
            if any::type_name(&c) == "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" =>
        {
            let PreviousHostsPredicate {} = any::unpack(&c, &format!("{path}.typed_config"))?;
            Ok(())
        }
        None if name == "envoy.retry_host_predicates.previous_hosts" => Ok(()),
        _ => Err(ConfigError::unsupported(path)),
    }
}

fn priority(config: parts::RetryPriority, path: &str) -> Result<u32, ConfigError> {
    let parts::RetryPriority { name: _, config_type } = config;
    match config_type {
        Some(parts::retry_priority::ConfigType::TypedConfig(c))
            if any::type_name(&c)
                == "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig" =>
        {
            let path = format!("{path}.typed_config");
            let PreviousPrioritiesConfig { update_frequency } = any::unpack(&c, &path)?;
            match u32::try_from(update_frequency) {
                Ok(n) if n > 0 => Ok(n),
                _ => Err(ConfigError::new(format!("{path}.update_frequency"), "value must be greater than 0")),
            }
        }
        _ => Err(ConfigError::unsupported(path)),
    }
}

fn back_off(config: parts::RetryBackOff, path: &str) -> Result<BackOff, ConfigError> {
    let parts::RetryBackOff { base_interval, max_interval } = config;
    let millisecond = Duration::from_millis(1);
    let Some(base) = duration(base_interval, path, "base_interval")?.filter(|d| !d.is_zero()) else {
        return Err(ConfigError::new(format!("{path}.base_interval"), "value is required and must be greater than 0"));
    };
    // Envoy rounds up what is below a millisecond.
    let base = base.max(millisecond);
    let max = match duration(max_interval, path, "max_interval")? {
        None => base.saturating_mul(10),
        Some(max) => max.max(millisecond),
    };
    if max < base {
        let reason = "max_interval must be greater than or equal to the base_interval";
        return Err(ConfigError::new(format!("{path}.max_interval"), reason));
    }
    Ok(BackOff { base, max })
}

fn rate_limited(config: parts::RateLimitedRetryBackOff, path: &str) -> Result<RateLimitedBackOff, ConfigError> {
    let parts::RateLimitedRetryBackOff { reset_headers, max_interval } = config;
    if reset_headers.is_empty() {
        return Err(ConfigError::new(format!("{path}.reset_headers"), "value must contain at least 1 item(s)"));
    }
    let header = |(i, parts::ResetHeader { name, format }): (usize, parts::ResetHeader)| {
        let path = format!("{path}.reset_headers[{i}]");
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| ConfigError::new(format!("{path}.name"), "not a header name"))?;
        let format = match parts::ResetHeaderFormat::try_from(format) {
            Ok(parts::ResetHeaderFormat::Seconds) => ResetFormat::Seconds,
            Ok(parts::ResetHeaderFormat::UnixTimestamp) => ResetFormat::UnixTimestamp,
            Err(_) => return Err(ConfigError::new(format!("{path}.format"), "not a format")),
        };
        Ok(ResetHeader { name, format })
    };
    Ok(RateLimitedBackOff {
        headers: reset_headers.into_iter().enumerate().map(header).collect::<Result<_, ConfigError>>()?,
        max: duration(max_interval, path, "max_interval")?.unwrap_or(Duration::from_secs(300)),
    })
}
