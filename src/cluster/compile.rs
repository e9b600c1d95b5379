//! `config.cluster.v3.Cluster` → [`Cluster`].

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use waypost_filters::metadata::{Metadata, json_of_struct};
use waypost_filters::stream::{ClusterNames, HostInfo};
use waypost_xds::envoy::config::cluster::v3;
use waypost_xds::envoy::config::cluster::v3::cluster as c;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::envoy::config::endpoint::v3 as ep;
use waypost_xds::google::protobuf as pb;

use super::limits::Limit;
use super::stats::ClusterStats;
use super::{Cluster, Discovery, Health, Host, HostSet, Limits, OriginalDst, Policy, next_id};
use crate::config::convert::{address, bool_of, duration, socket_address, u32_of};
use crate::config::{ConfigError, Context, refuse};
use crate::net::socket::Keepalive;
use crate::tls::TlsStats;

mod http;
mod transport;

/// Envoy: `connect_timeout` is 5 s unless it is set.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Compiles a cluster. It is not in the table yet: the caller puts it into its slot when it is warm.
pub fn compile(proto: v3::Cluster, cx: &Context<'_>, path: &str) -> Result<Arc<Cluster>, ConfigError> {
    let v3::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        alt_stat_name,
        stats_matcher: _, // which of the cluster's stats are kept; they all are
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        // How names are resolved matters to the DNS types only, which are refused by their type.
        dns_refresh_rate: _,
        dns_jitter: _,
        dns_failure_refresh_rate: _,
        respect_dns_ttl: _,
        dns_lookup_family: _,
        dns_resolvers: _,
        use_tcp_for_dns_lookups: _,
        dns_resolution_config: _,
        typed_dns_resolver_config: _,
        wait_for_warm_on_init: _, // a static cluster is warm at once
        outlier_detection,
        cleanup_interval: _, // hosts of ORIGINAL_DST live as long as a pool uses them
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket,
        metadata: cluster_metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure: _, // health is as configured; there is no failure to act on
        ignore_health_on_host_removal: _,            // likewise
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics: _, // only with lrs_server
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = proto;
    if name.is_empty() {
        return Err(ConfigError::new(format!("{path}.name"), "expected a name"));
    }
    refuse(&transport_socket_matcher, path, "transport_socket_matcher")?;
    refuse(&eds_cluster_config, path, "eds_cluster_config")?;
    refuse(&per_connection_buffer_high_watermark_timeout, path, "per_connection_buffer_high_watermark_timeout")?;
    refuse(&health_checks, path, "health_checks")?;
    refuse(&outlier_detection, path, "outlier_detection")?;
    refuse(&lb_subset_config, path, "lb_subset_config")?;
    refuse(&load_balancing_policy, path, "load_balancing_policy")?;
    refuse(&lrs_server, path, "lrs_server")?;
    refuse(&track_timeout_budgets, path, "track_timeout_budgets")?;
    refuse(&upstream_config, path, "upstream_config")?;
    refuse(&preconnect_policy, path, "preconnect_policy")?;
    refuse(&connection_pool_per_downstream_connection, path, "connection_pool_per_downstream_connection")?;
    refuse(&queuing_policies, path, "queuing_policies")?;
    refuse(&track_cluster_stats, path, "track_cluster_stats")?;
    refuse_cluster_filters(&filters, path)?;

    let transports = transport::Transports::compile(transport_socket_matches, transport_socket, cx, path)?;
    let mut http = http::compile(
        http::Legacy {
            common: common_http_protocol_options,
            upstream: upstream_http_protocol_options,
            h1: http_protocol_options,
            h2: http2_protocol_options,
            protocol_selection,
        },
        typed_extension_protocol_options,
        path,
    )?;
    if let Some(n) = u32_of(max_requests_per_connection) {
        http.max_requests_per_connection = n;
    }
    let (discovery, mut policy) = discovery(cluster_discovery_type, lb_config, lb_policy, &transports, path)?;
    let common = common_lb(common_lb_config, path)?;
    let mut hosts = Vec::new();
    if let Some(assignment) = load_assignment {
        if matches!(discovery, Discovery::OriginalDst(_)) {
            return Err(ConfigError::new(
                format!("{path}.load_assignment"),
                "ORIGINAL_DST clusters have no hosts of their own",
            ));
        }
        hosts = self::hosts(assignment, &transports, common.locality_weighted, &format!("{path}.load_assignment"))?;
    }
    if matches!(discovery, Discovery::OriginalDst(_)) {
        policy = Policy::ClusterProvided;
    }
    let observability_name: Arc<str> =
        if alt_stat_name.is_empty() { name.as_str().into() } else { alt_stat_name.trim_end_matches(';').into() };
    let observability = observability_name.clone();
    let stats = ClusterStats::new(cx.stats, &observability_name);
    let set = HostSet::new(hosts, common.panic_threshold);
    stats.membership_total.set(set.all.len() as u64);
    stats.membership_healthy.set(set.all.iter().filter(|h| h.health == Health::Healthy).count() as u64);
    let ssl = transports.any_tls().then(|| TlsStats::client(cx.stats, &format!("cluster.{observability}.")));
    if let Some(ssl) = &ssl {
        transports.follow(ssl);
    }
    let (keepalive, bind) = connection_options(upstream_connection_options, upstream_bind_config, path)?;
    Ok(Arc::new(Cluster {
        names: Arc::new(ClusterNames { name: name.into(), observability_name }),
        id: next_id(),
        discovery,
        hosts: ArcSwap::from_pointee(set),
        policy,
        connect_timeout: duration(connect_timeout, &format!("{path}.connect_timeout"))?.unwrap_or(CONNECT_TIMEOUT),
        buffer_limit: u32_of(per_connection_buffer_limit_bytes).unwrap_or(1 << 20) as usize,
        http,
        keepalive,
        bind,
        limits: limits(circuit_breakers, path)?,
        shares: transports.any_internal(),
        metadata: Arc::new(cluster_metadata.map(Metadata::compile).unwrap_or_default()),
        ssl,
        stats,
    }))
}

/// Istio's metadata exchange on clusters speaks only with peers that negotiated `istio-peer-exchange`; anything else is refused.
fn refuse_cluster_filters(filters: &[v3::Filter], path: &str) -> Result<(), ConfigError> {
    for (i, v3::Filter { name, typed_config, config_discovery }) in filters.iter().enumerate() {
        let path = format!("{path}.filters[{i}]");
        refuse(config_discovery, &path, "config_discovery")?;
        let kind = typed_config.as_ref().map(waypost_xds::any::type_name).unwrap_or_default();
        if kind == "envoy.tcp.metadataexchange.config.MetadataExchange" {
            tracing::warn!("{path} ({name}): peer metadata is not exchanged yet");
        } else {
            return Err(ConfigError::unsupported(format!("{path}: {kind}")));
        }
    }
    Ok(())
}

fn discovery(
    kind: Option<c::ClusterDiscoveryType>,
    config: Option<c::LbConfig>,
    policy: i32,
    transports: &transport::Transports,
    path: &str,
) -> Result<(Discovery, Policy), ConfigError> {
    use c::LbPolicy;
    let mut policy = match LbPolicy::try_from(policy) {
        Ok(LbPolicy::RoundRobin) => Policy::RoundRobin,
        // Envoy's default is two choices.
        Ok(LbPolicy::LeastRequest) => Policy::LeastRequest { choices: 2 },
        Ok(LbPolicy::Random) => Policy::Random,
        Ok(LbPolicy::ClusterProvided) => Policy::ClusterProvided,
        Ok(other) => {
            return Err(ConfigError::unsupported(format!("{path}.lb_policy: {}", other.as_str_name())));
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
            refuse(&active_request_bias, &path, "active_request_bias")?;
            refuse(&slow_start_config, &path, "slow_start_config")?;
            if let Policy::LeastRequest { choices } = &mut policy {
                *choices = u32_of(choice_count).unwrap_or(2).max(2);
            }
        }
        Some(c::LbConfig::RoundRobinLbConfig(c::RoundRobinLbConfig { slow_start_config })) => {
            refuse(&slow_start_config, path, "round_robin_lb_config.slow_start_config")?;
        }
        Some(c::LbConfig::OriginalDstLbConfig(config)) => original = Some(config),
        Some(c::LbConfig::RingHashLbConfig(_)) => {
            return Err(ConfigError::unsupported(format!("{path}.ring_hash_lb_config")));
        }
        Some(c::LbConfig::MaglevLbConfig(_)) => {
            return Err(ConfigError::unsupported(format!("{path}.maglev_lb_config")));
        }
    }
    use c::{ClusterDiscoveryType as T, DiscoveryType as D};
    let discovery = match kind {
        None => Discovery::Static,
        Some(T::Type(t)) => match D::try_from(t) {
            Ok(D::Static) => Discovery::Static,
            Ok(D::OriginalDst) => Discovery::OriginalDst(original_dst(original.unwrap_or_default(), transports, path)?),
            Ok(other) => return Err(ConfigError::unsupported(format!("{path}.type: {}", other.as_str_name()))),
            Err(_) => return Err(ConfigError::new(format!("{path}.type"), "expected a known type")),
        },
        Some(T::ClusterType(c::CustomClusterType { name, typed_config: _ })) => {
            return Err(ConfigError::unsupported(format!("{path}.cluster_type: {name}")));
        }
    };
    Ok((discovery, policy))
}

fn original_dst(
    config: c::OriginalDstLbConfig,
    transports: &transport::Transports,
    path: &str,
) -> Result<OriginalDst, ConfigError> {
    let path = format!("{path}.original_dst_lb_config");
    let c::OriginalDstLbConfig { use_http_header, http_header_name, upstream_port_override, metadata_key } = config;
    let header = use_http_header
        .then(|| {
            let name = if http_header_name.is_empty() { "x-envoy-original-dst-host" } else { &http_header_name };
            name.parse().map_err(|_| ConfigError::new(format!("{path}.http_header_name"), "expected a header name"))
        })
        .transpose()?;
    let port = u32_of(upstream_port_override)
        .map(|p| {
            u16::try_from(p).map_err(|_| ConfigError::new(format!("{path}.upstream_port_override"), "expected a port"))
        })
        .transpose()?;
    let metadata_key = metadata_key
        .map(|k| {
            use waypost_xds::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
            let segments = k
                .path
                .into_iter()
                .filter_map(|s| s.segment)
                .map(|s| match s {
                    Segment::Key(key) => Ok(key),
                    Segment::Index(_) => Err(ConfigError::unsupported(format!("{path}.metadata_key.path.index"))),
                })
                .collect::<Result<_, _>>()?;
            Ok::<_, ConfigError>((k.key, segments))
        })
        .transpose()?;
    Ok(OriginalDst { header, port, metadata_key, transport: transports.default() })
}

struct CommonLb {
    panic_threshold: f64,
    locality_weighted: bool,
}

fn common_lb(config: Option<c::CommonLbConfig>, path: &str) -> Result<CommonLb, ConfigError> {
    // Envoy panics below 50 % unless it is told otherwise.
    let mut out = CommonLb { panic_threshold: 50.0, locality_weighted: false };
    let Some(config) = config else { return Ok(out) };
    let c::CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window: _, // batches updates of discovery, of which there are none
        ignore_new_hosts_until_first_hc: _, // without health checks there is no first one
        close_connections_on_host_set_change,
        consistent_hashing_lb_config: _, // for ring hash and maglev, which are refused by their policy
        override_host_status,
        locality_config_specifier,
    } = config;
    let path = format!("{path}.common_lb_config");
    refuse(&close_connections_on_host_set_change, &path, "close_connections_on_host_set_change")?;
    refuse(&override_host_status, &path, "override_host_status")?;
    if let Some(p) = healthy_panic_threshold {
        out.panic_threshold = p.value;
    }
    use c::common_lb_config::LocalityConfigSpecifier as L;
    match locality_config_specifier {
        None => {}
        Some(L::LocalityWeightedLbConfig(_)) => out.locality_weighted = true,
        Some(L::ZoneAwareLbConfig(_)) => return Err(ConfigError::unsupported(format!("{path}.zone_aware_lb_config"))),
    }
    Ok(out)
}

fn hosts(
    assignment: ep::ClusterLoadAssignment,
    transports: &transport::Transports,
    locality_weighted: bool,
    path: &str,
) -> Result<Vec<Arc<Host>>, ConfigError> {
    let ep::ClusterLoadAssignment { cluster_name: _, endpoints, named_endpoints, policy } = assignment;
    refuse(&named_endpoints, path, "named_endpoints")?;
    if let Some(ep::cluster_load_assignment::Policy {
        drop_overloads,
        overprovisioning_factor: _, // spreads load over priorities in part; here a priority is used whole or not at all
        endpoint_stale_after: _,    // of EDS
        weighted_priority_health: _,
    }) = policy
    {
        refuse(&drop_overloads, path, "policy.drop_overloads")?;
    }
    if locality_weighted && endpoints.len() > 1 {
        return Err(ConfigError::unsupported(format!(
            "{path}.endpoints: several localities with locality_weighted_lb_config"
        )));
    }
    let mut hosts = Vec::new();
    for (i, locality) in endpoints.into_iter().enumerate() {
        let path = format!("{path}.endpoints[{i}]");
        let ep::LocalityLbEndpoints {
            locality,
            metadata: _, // of the locality; nothing reads it
            lb_endpoints,
            load_balancing_weight: _, // of the locality: for locality-weighted balancing, where there is one locality
            priority,
            proximity: _, // not used by Envoy either
            lb_config,
        } = locality;
        refuse(&lb_config, &path, "lb_config")?;
        let core::Locality { region, zone, sub_zone } = locality.unwrap_or_default();
        let locality: [Arc<str>; 3] = [region.into(), zone.into(), sub_zone.into()];
        for (j, endpoint) in lb_endpoints.into_iter().enumerate() {
            hosts.push(host(endpoint, priority, &locality, transports, &format!("{path}.lb_endpoints[{j}]"))?);
        }
    }
    Ok(hosts)
}

fn host(
    endpoint: ep::LbEndpoint,
    priority: u32,
    locality: &[Arc<str>; 3],
    transports: &transport::Transports,
    path: &str,
) -> Result<Arc<Host>, ConfigError> {
    let ep::LbEndpoint { health_status, metadata: m, load_balancing_weight, host_identifier } = endpoint;
    let Some(ep::lb_endpoint::HostIdentifier::Endpoint(ep::Endpoint {
        address: a,
        health_check_config: _, // without health checks it says nothing
        hostname,
        additional_addresses,
        observability_name: _,
    })) = host_identifier
    else {
        return Err(ConfigError::new(format!("{path}.endpoint"), "expected an endpoint"));
    };
    refuse(&additional_addresses, path, "endpoint.additional_addresses")?;
    let metadata = m.map(Metadata::compile).unwrap_or_default();
    let transport = transports.of_host(&metadata);
    let info =
        HostInfo { address: address(a, &format!("{path}.endpoint.address"))?, hostname: hostname.into(), metadata };
    let mut host = Host::new(info, transport);
    host.weight = u32_of(load_balancing_weight).unwrap_or(1);
    host.priority = priority;
    host.locality = locality.clone();
    use core::HealthStatus as H;
    host.health = match H::try_from(health_status) {
        Ok(H::Unknown | H::Healthy) => Health::Healthy,
        Ok(H::Degraded) => Health::Degraded,
        Ok(H::Unhealthy | H::Draining | H::Timeout) => Health::Unhealthy,
        Err(_) => return Err(ConfigError::new(format!("{path}.health_status"), "expected a known status")),
    };
    Ok(Arc::new(host))
}

fn limits(breakers: Option<v3::CircuitBreakers>, path: &str) -> Result<Limits, ConfigError> {
    let mut out = Limits::default();
    let Some(v3::CircuitBreakers { thresholds, per_host_thresholds }) = breakers else { return Ok(out) };
    let path = format!("{path}.circuit_breakers");
    refuse(&per_host_thresholds, &path, "per_host_thresholds")?;
    for (i, t) in thresholds.into_iter().enumerate() {
        let v3::circuit_breakers::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining: _, // adds gauges only
            max_connection_pools,
        } = t;
        let path = format!("{path}.thresholds[{i}]");
        refuse(&retry_budget, &path, "retry_budget")?;
        refuse(&max_connection_pools, &path, "max_connection_pools")?;
        if priority != core::RoutingPriority::Default as i32 {
            // Nothing counts against these: a route with `priority: HIGH` is warned about and counts as default.
            continue;
        }
        let set = |limit: &mut Arc<Limit>, v: Option<pb::UInt32Value>| {
            if let Some(v) = u32_of(v) {
                *limit = Limit::new(v);
            }
        };
        set(&mut out.connections, max_connections);
        set(&mut out.pending, max_pending_requests);
        set(&mut out.requests, max_requests);
        set(&mut out.retries, max_retries);
    }
    Ok(out)
}

fn connection_options(
    options: Option<v3::UpstreamConnectionOptions>,
    bind: Option<core::BindConfig>,
    path: &str,
) -> Result<(Option<Keepalive>, Option<std::net::SocketAddr>), ConfigError> {
    let mut keepalive = None;
    if let Some(v3::UpstreamConnectionOptions {
        tcp_keepalive,
        set_local_interface_name_on_upstream_connections: _, // for a filter-state object that nothing reads
        happy_eyeballs_config: _,                            // for additional_addresses, which are refused
    }) = options
        && let Some(core::TcpKeepalive { keepalive_probes, keepalive_time, keepalive_interval }) = tcp_keepalive
    {
        let seconds = |v: Option<pb::UInt32Value>| u32_of(v).map(|s| Duration::from_secs(s.into()));
        keepalive = Some(Keepalive {
            time: seconds(keepalive_time),
            interval: seconds(keepalive_interval),
            probes: u32_of(keepalive_probes),
        });
    }
    let Some(bind) = bind else { return Ok((keepalive, None)) };
    let path = format!("{path}.upstream_bind_config");
    let core::BindConfig {
        source_address,
        freebind,
        socket_options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces: _,
    } = bind;
    if bool_of(freebind) == Some(true) {
        return Err(ConfigError::unsupported(format!("{path}.freebind")));
    }
    refuse(&socket_options, &path, "socket_options")?;
    refuse(&extra_source_addresses, &path, "extra_source_addresses")?;
    refuse(&additional_source_addresses, &path, "additional_source_addresses")?;
    refuse(&local_address_selector, &path, "local_address_selector")?;
    let source = source_address.map(|s| socket_address(s, &format!("{path}.source_address"))).transpose()?;
    Ok((keepalive, source.map(|(a, _)| a)))
}

/// A struct as JSON, for matching transport sockets against host metadata.
fn match_json(s: Option<pb::Struct>) -> serde_json::Value {
    s.map_or(serde_json::Value::Null, json_of_struct)
}
