//! `config.cluster.v3.Cluster` → [`Cluster`].

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use waypost_filters::metadata::Metadata;
use waypost_filters::network::metadata_exchange::MetadataExchange;
use waypost_filters::stream::ClusterNames;
use waypost_xds::envoy::config::cluster::v3;
use waypost_xds::envoy::config::cluster::v3::cluster as c;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::google::protobuf as pb;

use super::limits::Thresholds;
use super::stats::ClusterStats;
use super::update::Found;
use super::{
    Cluster, Discovery, HostRules, HostState, Limits, OVERPROVISIONING, Origin, OriginalDst, Policy, Transports,
    assignment, next_id,
};
use crate::config::convert::{bool_of, duration, socket_address, u32_of};
use crate::config::{ConfigError, Context, peers, refuse, say_once, warn_ignored};
use crate::net::socket::Keepalive;
use crate::tls::TlsStats;

mod connections;
mod dns;
mod http;
mod policy;

/// Envoy: `connect_timeout` is 5 s unless it is set.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Compiles a cluster. It is not in the table yet: the caller puts it into its slot when it is warm.
pub fn compile(proto: v3::Cluster, cx: &Context<'_>, path: &str) -> Result<Arc<Cluster>, ConfigError> {
    compile_after(proto, cx, path, None)
}

/// Compiles the next version of a cluster. What the two have in use counts together against the new limits. Where all that connections
/// depend on is the same, the new one begins with the hosts of the old one, and their pools stay; else its hosts are others.
pub fn compile_after(
    proto: v3::Cluster,
    cx: &Context<'_>,
    path: &str,
    old: Option<&Cluster>,
) -> Result<Arc<Cluster>, ConfigError> {
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
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init,
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
    refuse(&per_connection_buffer_high_watermark_timeout, path, "per_connection_buffer_high_watermark_timeout")?;
    refuse(&upstream_config, path, "upstream_config")?;
    // These say how load is spread, watched or counted: traffic flows without them.
    warn_ignored(!health_checks.is_empty(), path, "health_checks");
    warn_ignored(outlier_detection.is_some(), path, "outlier_detection");
    warn_ignored(lb_subset_config.is_some(), path, "lb_subset_config");
    warn_ignored(lrs_server.is_some(), path, "lrs_server");
    warn_ignored(track_timeout_budgets, path, "track_timeout_budgets");
    warn_ignored(track_cluster_stats.is_some(), path, "track_cluster_stats");
    warn_ignored(preconnect_policy.is_some(), path, "preconnect_policy");
    warn_ignored(connection_pool_per_downstream_connection, path, "connection_pool_per_downstream_connection");
    warn_ignored(queuing_policies.is_some(), path, "queuing_policies");
    let exchange = cluster_filters(&filters, cx, path)?;

    let connections = connections::hash(&connections::Parts {
        transport_socket_matches: &transport_socket_matches,
        transport_socket: transport_socket.as_ref(),
        typed: &typed_extension_protocol_options,
        common: common_http_protocol_options.as_ref(),
        upstream: upstream_http_protocol_options.as_ref(),
        h1: http_protocol_options.as_ref(),
        h2: http2_protocol_options.as_ref(),
        protocol_selection,
        max_requests_per_connection,
        connect_timeout: connect_timeout.as_ref(),
        buffer_limit: per_connection_buffer_limit_bytes,
        bind: upstream_bind_config.as_ref(),
        options: upstream_connection_options.as_ref(),
    });
    let kept = old.filter(|o| o.connections == connections);
    let transports = match kept {
        Some(old) => old.transports.clone(),
        None => Arc::new(Transports::compile(transport_socket_matches, transport_socket, cx, path)?),
    };
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
    let name: Arc<str> = name.into();
    let rules = common_lb(common_lb_config, path)?;
    let (mut policy, original) = policy::compile(lb_policy, lb_config, load_balancing_policy, path)?;
    let kind = discovery_kind(cluster_discovery_type, path)?;
    let names = dns::Options {
        refresh: dns_refresh_rate,
        jitter: dns_jitter,
        failure: dns_failure_refresh_rate,
        respect_ttl: respect_dns_ttl,
        family: dns_lookup_family,
        resolvers: dns_resolvers,
        tcp: use_tcp_for_dns_lookups,
        resolution: dns_resolution_config,
        typed: typed_dns_resolver_config,
        wait: wait_for_warm_on_init,
    };
    let (discovery, assignment) = match kind {
        Some(kind @ (c::DiscoveryType::StrictDns | c::DiscoveryType::LogicalDns)) => {
            if eds_cluster_config.is_some() {
                return Err(ConfigError::new(format!("{path}.eds_cluster_config"), EDS_ELSEWHERE));
            }
            let logical = kind == c::DiscoveryType::LogicalDns;
            (Discovery::Dns(Box::new(dns::compile(names, logical, &load_assignment.unwrap_or_default(), path)?)), None)
        }
        kind => {
            let discovery = discovery(kind, &name, eds_cluster_config, original, &transports, kept, path)?;
            let path = format!("{path}.load_assignment");
            let assignment = match (load_assignment, &discovery) {
                (None, _) => None,
                (Some(a), Discovery::Static) => Some(assignment::read(&a, false, &path)?),
                (Some(_), Discovery::OriginalDst(_)) => {
                    return Err(ConfigError::new(path, "ORIGINAL_DST clusters have no hosts of their own"));
                }
                (Some(_), _) => return Err(ConfigError::new(path, "hosts are discovered, and not listed")),
            };
            (discovery, assignment)
        }
    };
    if matches!(discovery, Discovery::OriginalDst(_)) {
        policy = Policy::ClusterProvided;
    }
    let observability_name: Arc<str> =
        if alt_stat_name.is_empty() { name.clone() } else { shared(alt_stat_name.trim_end_matches(';'), &name) };
    let stats = ClusterStats::new(cx.stats, &observability_name);
    let ssl = transports.any_tls().then(|| TlsStats::client(cx.stats, &format!("cluster.{observability_name}.")));
    if let Some(ssl) = &ssl {
        transports.follow(ssl);
    }
    let (keepalive, bind) = connection_options(upstream_connection_options, upstream_bind_config, path)?;
    let cluster = Cluster {
        names: Arc::new(ClusterNames { name, observability_name: observability_name.clone() }),
        id: next_id(),
        hosts: ArcSwap::default(),
        policy,
        connect_timeout: duration(connect_timeout, &format!("{path}.connect_timeout"))?.unwrap_or(CONNECT_TIMEOUT),
        buffer_limit: u32_of(per_connection_buffer_limit_bytes).unwrap_or(1 << 20) as usize,
        http,
        keepalive,
        bind,
        limits: Limits::new(thresholds(circuit_breakers, path)?, old.map(|o| &o.limits)),
        shares: transports.any_internal(),
        metadata: Arc::new(cluster_metadata.map(Metadata::compile).unwrap_or_default()),
        exchange,
        ssl,
        stats,
        rules,
        transports,
        connections,
        live: AtomicBool::new(false),
        discovery,
    };
    if let Some(old) = kept
        && cluster.finds_same(old)
    {
        cluster.keep_hosts(old);
    }
    if let Some(assignment) = assignment {
        cluster.set_hosts(assignment.endpoints.iter().map(Found::of), assignment.overprovisioning);
    } else if matches!(cluster.discovery, Discovery::Static) {
        cluster.set_hosts(std::iter::empty(), OVERPROVISIONING);
    } else if cluster.hosts.load().all.is_empty() {
        // Addresses need not be looked up.
        cluster.set_resolved(&Default::default());
    }
    Ok(Arc::new(cluster))
}

/// A text that is often the same as another one.
fn shared(text: &str, other: &Arc<str>) -> Arc<str> {
    if text == &**other { other.clone() } else { text.into() }
}

/// Filters that tell peers who we are: the one that is seen on the wire is built, the other is passed over, as nothing but telemetry misses
/// it. Any other is refused.
fn cluster_filters(
    filters: &[v3::Filter],
    cx: &Context<'_>,
    path: &str,
) -> Result<Option<Arc<MetadataExchange>>, ConfigError> {
    let mut exchange = None;
    for (i, v3::Filter { name, typed_config, config_discovery }) in filters.iter().enumerate() {
        let path = format!("{path}.filters[{i}]");
        refuse(config_discovery, &path, "config_discovery")?;
        let kind = typed_config.as_ref().map(waypost_xds::any::type_name).unwrap_or_default();
        match (kind.as_str(), typed_config) {
            ("envoy.tcp.metadataexchange.config.MetadataExchange", Some(any)) => {
                exchange = Some(peers::exchange(any, cx, &format!("{path}.typed_config"))?);
            }
            ("envoy.extensions.network_filters.peer_metadata.UpstreamConfig", _) => {
                say_once(&format!("clusters.filters: {kind}: peer metadata is not exchanged yet"));
            }
            _ => return Err(ConfigError::unsupported(format!("{path} ({name}): {kind}"))),
        }
    }
    Ok(exchange)
}

/// What Envoy says of `eds_cluster_config` in another cluster.
const EDS_ELSEWHERE: &str = "eds_cluster_config set in a non-EDS cluster";

/// `type`; none for the cluster types that have no hosts yet.
fn discovery_kind(kind: Option<c::ClusterDiscoveryType>, path: &str) -> Result<Option<c::DiscoveryType>, ConfigError> {
    use c::{ClusterDiscoveryType as T, DiscoveryType as D};
    match kind {
        None => Ok(Some(D::Static)),
        Some(T::Type(t)) => match D::try_from(t) {
            Ok(kind) => Ok(Some(kind)),
            Err(_) => Err(ConfigError::new(format!("{path}.type"), "expected a known type")),
        },
        Some(T::ClusterType(c::CustomClusterType { name, typed_config: _ })) => {
            if name != "envoy.clusters.dynamic_forward_proxy" {
                return Err(ConfigError::unsupported(format!("{path}.cluster_type: {name}")));
            }
            say_once("clusters.cluster_type: envoy.clusters.dynamic_forward_proxy has no hosts yet");
            Ok(None)
        }
    }
}

fn discovery(
    kind: Option<c::DiscoveryType>,
    name: &Arc<str>,
    eds: Option<c::EdsClusterConfig>,
    original: Option<c::OriginalDstLbConfig>,
    transports: &Transports,
    kept: Option<&Cluster>,
    path: &str,
) -> Result<Discovery, ConfigError> {
    use c::DiscoveryType as D;
    let Some(kind) = kind else { return Ok(Discovery::None) };
    match (kind, eds) {
        (D::Eds, eds) => {
            let c::EdsClusterConfig { eds_config, service_name } = eds.unwrap_or_default();
            let config = eds_config.ok_or_else(|| {
                ConfigError::new(format!("{path}.eds_cluster_config.eds_config"), "value is required")
            })?;
            let service_name = if service_name.is_empty() { name.clone() } else { shared(&service_name, name) };
            Ok(Discovery::Eds { service_name, config: one_of_many(config) })
        }
        (_, Some(_)) => Err(ConfigError::new(format!("{path}.eds_cluster_config"), EDS_ELSEWHERE)),
        (D::Static, None) => Ok(Discovery::Static),
        (D::OriginalDst, None) => {
            Ok(Discovery::OriginalDst(original_dst(original.unwrap_or_default(), transports, kept, path)?))
        }
        (other, None) => Err(ConfigError::unsupported(format!("{path}.type: {}", other.as_str_name()))),
    }
}

/// Thousands of clusters in a row say the same of where their hosts come from.
fn one_of_many(config: core::ConfigSource) -> Arc<core::ConfigSource> {
    static LAST: Mutex<Weak<core::ConfigSource>> = Mutex::new(Weak::new());
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(same) = last.upgrade().filter(|l| **l == config) {
        return same;
    }
    let config = Arc::new(config);
    *last = Arc::downgrade(&config);
    config
}

fn original_dst(
    config: c::OriginalDstLbConfig,
    transports: &Transports,
    kept: Option<&Cluster>,
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
    let origin = match kept.map(|c| &c.discovery) {
        Some(Discovery::OriginalDst(old)) => old.origin.clone(),
        _ => Arc::new(Origin { id: next_id(), state: HostState::default() }),
    };
    Ok(OriginalDst { header, port, metadata_key, transport: transports.default(), origin })
}

fn common_lb(config: Option<c::CommonLbConfig>, path: &str) -> Result<HostRules, ConfigError> {
    let mut out = HostRules::default();
    let Some(config) = config else { return Ok(out) };
    let c::CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window: _,             // updates are few and cheap: each is applied at once
        ignore_new_hosts_until_first_hc: _, // without health checks there is no first one
        close_connections_on_host_set_change,
        consistent_hashing_lb_config: _, // for ring hash and maglev, which are warned about by their policy
        override_host_status,
        locality_config_specifier,
    } = config;
    let path = format!("{path}.common_lb_config");
    warn_ignored(close_connections_on_host_set_change, &path, "close_connections_on_host_set_change");
    warn_ignored(override_host_status.is_some(), &path, "override_host_status");
    if let Some(p) = healthy_panic_threshold {
        out.panic_threshold = p.value;
    }
    use c::common_lb_config::LocalityConfigSpecifier as L;
    match locality_config_specifier {
        None => {}
        Some(L::LocalityWeightedLbConfig(_)) => out.locality_weighted = true,
        Some(L::ZoneAwareLbConfig(_)) => warn_ignored(true, &path, "zone_aware_lb_config"),
    }
    Ok(out)
}

fn thresholds(breakers: Option<v3::CircuitBreakers>, path: &str) -> Result<Thresholds, ConfigError> {
    let mut out = Thresholds::default();
    let Some(v3::CircuitBreakers { thresholds, per_host_thresholds }) = breakers else { return Ok(out) };
    let path = format!("{path}.circuit_breakers");
    warn_ignored(!per_host_thresholds.is_empty(), &path, "per_host_thresholds");
    for t in thresholds {
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
        warn_ignored(retry_budget.is_some(), &path, "thresholds.retry_budget");
        warn_ignored(max_connection_pools.is_some(), &path, "thresholds.max_connection_pools");
        if priority != core::RoutingPriority::Default as i32 {
            // Nothing counts against these: a route with `priority: HIGH` is warned about and counts as default.
            continue;
        }
        let set = |limit: &mut u32, v: Option<pb::UInt32Value>| *limit = u32_of(v).unwrap_or(*limit);
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
        happy_eyeballs_config: _,                            // additional_addresses are tried one after the other
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
