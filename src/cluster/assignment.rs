//! `config.endpoint.v3.ClusterLoadAssignment`, read: the endpoints that EDS, a static cluster or a DNS cluster has.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use waypost_filters::address::Address;
use waypost_filters::metadata::Metadata;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::envoy::config::endpoint::v3 as ep;

use super::host_set::OVERPROVISIONING;
use super::{Health, Place};
use crate::config::convert::{address, socket_address, u32_of};
use crate::config::{ConfigError, refuse, warn_ignored};

/// The API allows priorities up to this.
const PRIORITY_MAX: u32 = 128;

/// An assignment that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Endpoints in order.
    pub endpoints: Vec<Endpoint>,
    /// `overprovisioning_factor`; 140 unless it is set.
    pub overprovisioning: u32,
}

/// One of `lb_endpoints`.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Where it is.
    pub target: Target,
    /// `additional_addresses`.
    pub additional: Box<[Address]>,
    /// `hostname`.
    pub hostname: Arc<str>,
    /// `metadata`.
    pub metadata: Metadata,
    /// `load_balancing_weight`.
    pub weight: u32,
    /// `health_status`.
    pub health: Health,
    /// Its locality and priority.
    pub place: Arc<Place>,
}

/// Where an endpoint is, as far as the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// At this address.
    At(Address),
    /// At the addresses that a name has (DNS clusters).
    Name {
        /// The name.
        name: Arc<str>,
        /// The port there.
        port: u16,
    },
}

/// Most hosts have no name and no zone: they all share this text.
static EMPTY: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

fn text(s: &str) -> Arc<str> {
    if s.is_empty() { EMPTY.clone() } else { s.into() }
}

/// Reads an assignment. `names`: whether addresses may be names to resolve.
pub fn read(assignment: &ep::ClusterLoadAssignment, names: bool, path: &str) -> Result<Assignment, ConfigError> {
    let ep::ClusterLoadAssignment { cluster_name: _, endpoints: localities, named_endpoints, policy } = assignment;
    let mut overprovisioning = OVERPROVISIONING;
    if let Some(ep::cluster_load_assignment::Policy {
        drop_overloads,
        overprovisioning_factor,
        endpoint_stale_after, // an assignment stays until the next one
        weighted_priority_health,
    }) = policy
    {
        warn_ignored(!drop_overloads.is_empty(), path, "policy.drop_overloads");
        warn_ignored(endpoint_stale_after.is_some(), path, "policy.endpoint_stale_after");
        warn_ignored(*weighted_priority_health, path, "policy.weighted_priority_health");
        overprovisioning = u32_of(*overprovisioning_factor).unwrap_or(OVERPROVISIONING);
    }
    let mut endpoints = Vec::with_capacity(localities.iter().map(|l| l.lb_endpoints.len()).sum());
    let mut priorities: BTreeMap<u32, u64> = BTreeMap::new();
    for (i, locality) in localities.iter().enumerate() {
        let path = format!("{path}.endpoints[{i}]");
        let ep::LocalityLbEndpoints {
            locality,
            metadata: _, // of the locality; nothing reads it
            lb_endpoints,
            load_balancing_weight,
            priority,
            proximity: _, // not used by Envoy either
            lb_config,
        } = locality;
        refuse(lb_config, &path, "lb_config")?;
        if *priority > PRIORITY_MAX {
            return Err(ConfigError::new(
                format!("{path}.priority"),
                format!("value must be less than or equal to {PRIORITY_MAX}"),
            ));
        }
        let core::Locality { region, zone, sub_zone } = locality.clone().unwrap_or_default();
        let weight = u32_of(*load_balancing_weight).unwrap_or_default();
        let place =
            Arc::new(Place { locality: [text(&region), text(&zone), text(&sub_zone)], priority: *priority, weight });
        let sum = priorities.entry(*priority).or_default();
        *sum += u64::from(weight);
        check_sum(*sum, "localities at the same priority", &path)?;
        let mut sum = 0;
        for (j, endpoint) in lb_endpoints.iter().enumerate() {
            let path = format!("{path}.lb_endpoints[{j}]");
            let endpoint = read_endpoint(endpoint, named_endpoints, names, &place, &path)?;
            sum += u64::from(endpoint.weight);
            check_sum(sum, "endpoints in a locality", &path)?;
            endpoints.push(endpoint);
        }
    }
    Ok(Assignment { endpoints, overprovisioning })
}

fn check_sum(sum: u64, of: &str, path: &str) -> Result<(), ConfigError> {
    if sum <= u64::from(u32::MAX) {
        return Ok(());
    }
    Err(ConfigError::new(
        format!("{path}.load_balancing_weight"),
        format!("The sum of weights of all {of} exceeds {}", u32::MAX),
    ))
}

fn read_endpoint(
    endpoint: &ep::LbEndpoint,
    named: &std::collections::HashMap<String, ep::Endpoint>,
    names: bool,
    place: &Arc<Place>,
    path: &str,
) -> Result<Endpoint, ConfigError> {
    use ep::lb_endpoint::HostIdentifier as Id;
    let ep::LbEndpoint { health_status, metadata, load_balancing_weight, host_identifier } = endpoint;
    let endpoint = match host_identifier {
        Some(Id::Endpoint(endpoint)) => endpoint,
        Some(Id::EndpointName(name)) => named.get(name).ok_or_else(|| {
            ConfigError::new(format!("{path}.endpoint_name"), format!("Unknown endpoint name: {name}"))
        })?,
        None => return Err(ConfigError::new(format!("{path}.endpoint"), "expected an endpoint")),
    };
    let ep::Endpoint {
        address: at,
        health_check_config: _, // of health checks
        hostname,
        additional_addresses,
        observability_name: _, // what /clusters prints in place of the address
    } = endpoint;
    let additional = additional_addresses
        .iter()
        .enumerate()
        .map(|(k, ep::endpoint::AdditionalAddress { address: at })| {
            address(at.clone(), &format!("{path}.endpoint.additional_addresses[{k}].address"))
        })
        .collect::<Result<_, _>>()?;
    use core::HealthStatus as H;
    let health = match H::try_from(*health_status) {
        Ok(H::Unknown | H::Healthy) => Health::Healthy,
        Ok(H::Degraded) => Health::Degraded,
        Ok(H::Unhealthy | H::Draining | H::Timeout) => Health::Unhealthy,
        Err(_) => return Err(ConfigError::new(format!("{path}.health_status"), "expected a known status")),
    };
    let weight = u32_of(*load_balancing_weight).unwrap_or(1);
    if weight == 0 {
        return Err(ConfigError::new(
            format!("{path}.load_balancing_weight"),
            "value must be greater than or equal to 1",
        ));
    }
    Ok(Endpoint {
        target: target(at, names, &format!("{path}.endpoint.address"))?,
        additional,
        hostname: text(hostname),
        metadata: metadata.clone().map(Metadata::compile).unwrap_or_default(),
        weight,
        health,
        place: place.clone(),
    })
}

fn target(at: &Option<core::Address>, names: bool, path: &str) -> Result<Target, ConfigError> {
    if let Some(core::Address { address: Some(core::address::Address::SocketAddress(s)) }) = at
        && s.address.parse::<IpAddr>().is_err()
    {
        if !names {
            let reason = format!(
                "malformed IP address: {}. Consider setting resolver_name or setting cluster type to 'STRICT_DNS' or 'LOGICAL_DNS'",
                s.address
            );
            return Err(ConfigError::new(format!("{path}.socket_address.address"), reason));
        }
        // All but the name is checked with an address in its place.
        let stand_in = core::SocketAddress { address: "0.0.0.0".to_owned(), resolver_name: String::new(), ..s.clone() };
        let port = socket_address(stand_in, &format!("{path}.socket_address"))?.0.port();
        return Ok(Target::Name { name: s.address.as_str().into(), port });
    }
    Ok(Target::At(address(at.clone(), path)?))
}
