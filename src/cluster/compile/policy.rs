//! `lb_policy`, its options, and `load_balancing_policy`, which goes before both.

use waypost_xds::any;
use waypost_xds::envoy::config::cluster::v3::LoadBalancingPolicy;
use waypost_xds::envoy::config::cluster::v3::cluster as c;
use waypost_xds::envoy::config::core::v3::TypedExtensionConfig;
use waypost_xds::envoy::extensions::load_balancing_policies as lb;
use waypost_xds::google::protobuf as pb;
use waypost_xds::google::protobuf::Any;

use super::super::Policy;
use crate::config::convert::u32_of;
use crate::config::{ConfigError, say_once, warn_ignored};

/// Envoy's default is two choices.
const CHOICES: u32 = 2;

/// How deep policies may be nested in each other; istiod nests one.
const DEPTH: u32 = 8;

/// What stands for a policy that is not built: it spreads load evenly, but does not keep a client with a host.
const FALLBACK: Policy = Policy::LeastRequest { choices: CHOICES };

/// Which policy, and `original_dst_lb_config`.
pub fn compile(
    policy: i32,
    config: Option<c::LbConfig>,
    typed: Option<LoadBalancingPolicy>,
    path: &str,
) -> Result<(Policy, Option<c::OriginalDstLbConfig>), ConfigError> {
    use c::LbPolicy;
    let mut policy = match LbPolicy::try_from(policy) {
        Ok(LbPolicy::RoundRobin) => Policy::RoundRobin,
        Ok(LbPolicy::LeastRequest) => Policy::LeastRequest { choices: CHOICES },
        Ok(LbPolicy::Random) => Policy::Random,
        Ok(LbPolicy::ClusterProvided) => Policy::ClusterProvided,
        Ok(other @ (LbPolicy::RingHash | LbPolicy::Maglev)) => {
            say_once(&format!(
                "clusters.lb_policy: {} is not supported yet: LEAST_REQUEST instead",
                other.as_str_name()
            ));
            FALLBACK
        }
        Ok(LbPolicy::LoadBalancingPolicyConfig) if typed.is_some() => FALLBACK,
        Ok(LbPolicy::LoadBalancingPolicyConfig) => {
            return Err(ConfigError::new(format!("{path}.load_balancing_policy"), "value is required"));
        }
        Err(_) => return Err(ConfigError::new(format!("{path}.lb_policy"), "expected a known policy")),
    };
    let mut original = None;
    match config {
        None => {}
        Some(c::LbConfig::LeastRequestLbConfig(c::LeastRequestLbConfig {
            choice_count,
            active_request_bias,
            slow_start_config,
        })) => {
            let path = format!("{path}.least_request_lb_config");
            warn_ignored(active_request_bias.is_some(), &path, "active_request_bias");
            warn_ignored(slow_start_config.is_some(), &path, "slow_start_config");
            if let Policy::LeastRequest { choices } = &mut policy {
                *choices = u32_of(choice_count).unwrap_or(CHOICES).max(CHOICES);
            }
        }
        Some(c::LbConfig::RoundRobinLbConfig(c::RoundRobinLbConfig { slow_start_config })) => {
            warn_ignored(slow_start_config.is_some(), path, "round_robin_lb_config.slow_start_config");
        }
        Some(c::LbConfig::OriginalDstLbConfig(config)) => original = Some(config),
        // That hashing is not built has been said with the policy already.
        Some(c::LbConfig::RingHashLbConfig(c::RingHashLbConfig {
            minimum_ring_size,
            maximum_ring_size,
            hash_function: _,
        })) => {
            let size = |v: Option<pb::UInt64Value>, default: u64| v.map_or(default, |v| v.value);
            // Envoy's defaults.
            let (least, most) = (size(minimum_ring_size, 1024), size(maximum_ring_size, 8 << 20));
            if least > most {
                return Err(ConfigError::new(
                    format!("{path}.ring_hash_lb_config"),
                    format!("ring hash: minimum_ring_size ({least}) > maximum_ring_size ({most})"),
                ));
            }
        }
        Some(c::LbConfig::MaglevLbConfig(_)) => {}
    }
    if let Some(typed) = typed {
        policy = of_list(typed, &format!("{path}.load_balancing_policy"), 0)?;
    }
    Ok((policy, original))
}

/// The first policy of a list that there is, as Envoy does; the fallback where there is none.
fn of_list(list: LoadBalancingPolicy, path: &str, depth: u32) -> Result<Policy, ConfigError> {
    if depth > DEPTH {
        return Err(ConfigError::new(path, "policies are nested too deep"));
    }
    let LoadBalancingPolicy { policies } = list;
    for (i, p) in policies.into_iter().enumerate() {
        let path = format!("{path}.policies[{i}].typed_extension_config");
        let Some(TypedExtensionConfig { name: _, typed_config: Some(config) }) = p.typed_extension_config else {
            return Err(ConfigError::new(format!("{path}.typed_config"), "value is required"));
        };
        if let Some(policy) = of_type(&config, &path, depth)? {
            return Ok(policy);
        }
        say_once(&format!("clusters.load_balancing_policy: {} is not supported yet", any::type_name(&config)));
    }
    say_once("clusters.load_balancing_policy: none of the policies is supported yet: LEAST_REQUEST instead");
    Ok(FALLBACK)
}

fn of_type(config: &Any, path: &str, depth: u32) -> Result<Option<Policy>, ConfigError> {
    let kind = any::type_name(config);
    let path = &format!("{path}.typed_config");
    Ok(Some(match kind.strip_prefix("envoy.extensions.load_balancing_policies.").unwrap_or_default() {
        "least_request.v3.LeastRequest" => {
            let lb::least_request::v3::LeastRequest {
                choice_count,
                active_request_bias,
                slow_start_config,
                locality_lb_config,
                enable_full_scan,
                selection_method,
            } = any::unpack(config, path)?;
            warn_ignored(active_request_bias.is_some(), &kind, "active_request_bias");
            warn_ignored(slow_start_config.is_some(), &kind, "slow_start_config");
            warn_ignored(locality_lb_config.is_some(), &kind, "locality_lb_config");
            warn_ignored(enable_full_scan.is_some(), &kind, "enable_full_scan");
            warn_ignored(selection_method != 0, &kind, "selection_method");
            Policy::LeastRequest { choices: u32_of(choice_count).unwrap_or(CHOICES).max(CHOICES) }
        }
        "round_robin.v3.RoundRobin" => {
            let lb::round_robin::v3::RoundRobin { slow_start_config, locality_lb_config } = any::unpack(config, path)?;
            warn_ignored(slow_start_config.is_some(), &kind, "slow_start_config");
            warn_ignored(locality_lb_config.is_some(), &kind, "locality_lb_config");
            Policy::RoundRobin
        }
        "random.v3.Random" => {
            let lb::random::v3::Random { locality_lb_config } = any::unpack(config, path)?;
            warn_ignored(locality_lb_config.is_some(), &kind, "locality_lb_config");
            Policy::Random
        }
        "cluster_provided.v3.ClusterProvided" => Policy::ClusterProvided,
        "wrr_locality.v3.WrrLocality" => {
            let lb::wrr_locality::v3::WrrLocality { endpoint_picking_policy } = any::unpack(config, path)?;
            say_once("clusters.load_balancing_policy: WrrLocality: weights of localities have no effect yet");
            return nested(endpoint_picking_policy, path, "endpoint_picking_policy", depth);
        }
        "override_host.v3.OverrideHost" => {
            let lb::override_host::v3::OverrideHost { override_host_sources: _, selected_host_key: _, fallback_policy } =
                any::unpack(config, path)?;
            say_once("clusters.load_balancing_policy: OverrideHost: hosts are chosen by its fallback_policy");
            return nested(fallback_policy, path, "fallback_policy", depth);
        }
        _ => return Ok(None),
    }))
}

fn nested(
    policy: Option<LoadBalancingPolicy>,
    path: &str,
    field: &str,
    depth: u32,
) -> Result<Option<Policy>, ConfigError> {
    let path = format!("{path}.{field}");
    match policy {
        Some(list) => of_list(list, &path, depth + 1).map(Some),
        None => Err(ConfigError::new(path, "value is required")),
    }
}
