//! How a cluster's names are looked up.

use std::time::Duration;

use waypost_xds::envoy::config::cluster::v3::cluster as c;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypost_xds::google::protobuf as pb;

use super::super::assignment::{self, Target};
use super::super::dns::{Dns, Family, Schedule};
use crate::config::convert::{bool_of, duration};
use crate::config::{ConfigError, warn_ignored};

/// Envoy's `dns_refresh_rate`.
const REFRESH: Duration = Duration::from_secs(5);

/// The fields of a cluster that say how.
pub struct Options {
    /// `dns_refresh_rate`
    pub refresh: Option<pb::Duration>,
    /// `dns_jitter`
    pub jitter: Option<pb::Duration>,
    /// `dns_failure_refresh_rate`
    pub failure: Option<c::RefreshRate>,
    /// `respect_dns_ttl`
    pub respect_ttl: bool,
    /// `dns_lookup_family`
    pub family: i32,
    /// `dns_resolvers`
    pub resolvers: Vec<core::Address>,
    /// `use_tcp_for_dns_lookups`
    pub tcp: bool,
    /// `dns_resolution_config`
    pub resolution: Option<core::DnsResolutionConfig>,
    /// `typed_dns_resolver_config`: which resolver, and how it asks
    pub typed: Option<core::TypedExtensionConfig>,
    /// `wait_for_warm_on_init`
    pub wait: Option<pb::BoolValue>,
}

/// Compiles a `STRICT_DNS` or `LOGICAL_DNS` cluster's discovery.
pub fn compile(
    options: Options,
    logical: bool,
    assignment: &ClusterLoadAssignment,
    path: &str,
) -> Result<Dns, ConfigError> {
    let Options { refresh, jitter, failure, respect_ttl, family, resolvers, tcp, resolution, typed, wait } = options;
    warn_ignored(respect_ttl, path, "respect_dns_ttl");
    warn_ignored(!resolvers.is_empty(), path, "dns_resolvers");
    warn_ignored(tcp, path, "use_tcp_for_dns_lookups");
    warn_ignored(resolution.is_some(), path, "dns_resolution_config");
    // istiod names c-ares on every cluster, with its default of queries at once.
    let cares = typed.as_ref().is_none_or(|t| t.name == "envoy.network.dns_resolver.cares");
    warn_ignored(!cares, path, "typed_dns_resolver_config");
    let positive = |d: Option<pb::Duration>, field: &str| match duration(d, &format!("{path}.{field}"))? {
        Some(d) if d < Duration::from_millis(1) => {
            Err(ConfigError::new(format!("{path}.{field}"), "value must be greater than 1ms"))
        }
        other => Ok(other),
    };
    let failure = match failure {
        None => None,
        Some(c::RefreshRate { base_interval, max_interval }) => {
            let base = positive(base_interval, "dns_failure_refresh_rate.base_interval")?.ok_or_else(|| {
                ConfigError::new(format!("{path}.dns_failure_refresh_rate.base_interval"), "value is required")
            })?;
            let max = positive(max_interval, "dns_failure_refresh_rate.max_interval")?;
            // Ten times the base unless it is set.
            let max = max.unwrap_or(base.saturating_mul(10));
            if max < base {
                return Err(ConfigError::new(
                    format!("{path}.dns_failure_refresh_rate"),
                    "dns_failure_refresh_rate must have max_interval greater than or equal to the base_interval",
                ));
            }
            Some((base, max))
        }
    };
    use c::DnsLookupFamily as F;
    let family = match F::try_from(family) {
        Ok(F::Auto) => Family::V6Preferred,
        Ok(F::V4Only) => Family::V4Only,
        Ok(F::V6Only) => Family::V6Only,
        Ok(F::V4Preferred) => Family::V4Preferred,
        Ok(F::All) => Family::All,
        Err(_) => return Err(ConfigError::new(format!("{path}.dns_lookup_family"), "expected a known family")),
    };
    let mut assignment = assignment::read(assignment, true, &format!("{path}.load_assignment"))?;
    if logical && assignment.endpoints.len() != 1 {
        return Err(ConfigError::new(
            format!("{path}.load_assignment"),
            "LOGICAL_DNS clusters must have a single locality_lb_endpoint and a single lb_endpoint",
        ));
    }
    for endpoint in &mut assignment.endpoints {
        if let Target::Name { name, .. } = &endpoint.target
            && endpoint.hostname.is_empty()
        {
            endpoint.hostname = name.clone();
        }
    }
    Ok(Dns {
        logical,
        assignment,
        family,
        schedule: Schedule {
            refresh: positive(refresh, "dns_refresh_rate")?.unwrap_or(REFRESH),
            jitter: duration(jitter, &format!("{path}.dns_jitter"))?.unwrap_or_default(),
            failure,
        },
        wait: bool_of(wait).unwrap_or(true),
    })
}
