//! `TcpProxy` → [`super::TcpProxy`].

use std::sync::Arc;
use std::time::Duration;

use waypost_filters::format::Format;
use waypost_filters::format::header_ops::HeaderOps;
use waypost_xds::envoy::extensions::filters::network::tcp_proxy::v3;
use waypost_xds::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy as t;

use super::{TcpProxy, TcpStats, Tunneling};
use crate::config::convert::{bool_of, timeout, timeout_or, u32_of};
use crate::config::{ConfigError, Context, refuse};

/// Envoy closes a proxied connection after an hour without a byte unless it is told otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

impl TcpProxy {
    /// Compiles it.
    pub fn compile(proto: v3::TcpProxy, cx: &Context<'_>, path: &str) -> Result<Arc<TcpProxy>, ConfigError> {
        let v3::TcpProxy {
            stat_prefix,
            on_demand,
            metadata_match,
            idle_timeout,
            downstream_idle_timeout,
            upstream_idle_timeout,
            access_log,
            max_connect_attempts,
            backoff_options,
            hash_policy: _, // for ring hash and maglev, which are refused by their policy
            tunneling_config,
            max_downstream_connection_duration,
            max_downstream_connection_duration_jitter_percentage,
            access_log_flush_interval,
            flush_access_log_on_connected,
            access_log_options,
            proxy_protocol_tlvs,
            proxy_protocol_tlv_merge_policy: _, // with proxy_protocol_tlvs only
            upstream_connect_mode,
            max_early_data_bytes,
            check_drain_close,
            cluster_specifier,
        } = proto;
        if stat_prefix.is_empty() {
            return Err(ConfigError::new(format!("{path}.stat_prefix"), "expected a name"));
        }
        refuse(&on_demand, path, "on_demand")?;
        refuse(&metadata_match, path, "metadata_match")?;
        refuse(&downstream_idle_timeout, path, "downstream_idle_timeout")?;
        refuse(&upstream_idle_timeout, path, "upstream_idle_timeout")?;
        refuse(&backoff_options, path, "backoff_options")?;
        refuse(
            &max_downstream_connection_duration_jitter_percentage,
            path,
            "max_downstream_connection_duration_jitter_percentage",
        )?;
        refuse(&access_log_flush_interval, path, "access_log_flush_interval")?;
        refuse(&proxy_protocol_tlvs, path, "proxy_protocol_tlvs")?;
        refuse(&upstream_connect_mode, path, "upstream_connect_mode")?;
        refuse(&max_early_data_bytes, path, "max_early_data_bytes")?;
        if bool_of(check_drain_close) == Some(true) {
            return Err(ConfigError::unsupported(format!("{path}.check_drain_close")));
        }
        let mut log_on_connected = flush_access_log_on_connected;
        if let Some(t::TcpAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_connected,
            flush_access_log_on_start,
        }) = access_log_options
        {
            refuse(&access_log_flush_interval, path, "access_log_options.access_log_flush_interval")?;
            refuse(&flush_access_log_on_start, path, "access_log_options.flush_access_log_on_start")?;
            log_on_connected |= flush_access_log_on_connected;
        }
        let stat = |name: &str| format!("tcp.{stat_prefix}.{name}");
        let stats = TcpStats {
            downstream_cx_total: cx.stats.counter(&stat("downstream_cx_total")),
            downstream_cx_no_route: cx.stats.counter(&stat("downstream_cx_no_route")),
            downstream_cx_rx_bytes_total: cx.stats.counter(&stat("downstream_cx_rx_bytes_total")),
            downstream_cx_tx_bytes_total: cx.stats.counter(&stat("downstream_cx_tx_bytes_total")),
            idle_timeout: cx.stats.counter(&stat("idle_timeout")),
            max_downstream_connection_duration: cx.stats.counter(&stat("max_downstream_connection_duration")),
            upstream_flush_active: cx.stats.gauge(&stat("upstream_flush_active")),
        };
        Ok(Arc::new(TcpProxy {
            stat_prefix: stat_prefix.into(),
            clusters: clusters(cluster_specifier, cx, path)?,
            idle_timeout: timeout_or(idle_timeout, IDLE_TIMEOUT, &format!("{path}.idle_timeout"))?,
            max_duration: timeout(
                max_downstream_connection_duration,
                &format!("{path}.max_downstream_connection_duration"),
            )?,
            attempts: u32_of(max_connect_attempts).unwrap_or(1),
            access_logs: crate::config::access_log::compile(access_log, cx, &format!("{path}.access_log"))?,
            log_on_connected,
            tunneling: tunneling_config.map(|c| tunneling(c, &format!("{path}.tunneling_config"))).transpose()?,
            stats,
        }))
    }
}

fn clusters(
    specifier: Option<t::ClusterSpecifier>,
    cx: &Context<'_>,
    path: &str,
) -> Result<Vec<(Arc<crate::cluster::ClusterSlot>, u64)>, ConfigError> {
    match specifier {
        Some(t::ClusterSpecifier::Cluster(name)) => Ok(vec![(cx.clusters.slot(&name), 1)]),
        Some(t::ClusterSpecifier::WeightedClusters(t::WeightedCluster { clusters })) => {
            let mut total = 0;
            clusters
                .into_iter()
                .enumerate()
                .map(|(i, t::weighted_cluster::ClusterWeight { name, weight, metadata_match })| {
                    let path = format!("{path}.weighted_clusters.clusters[{i}]");
                    refuse(&metadata_match, &path, "metadata_match")?;
                    if weight == 0 {
                        return Err(ConfigError::new(format!("{path}.weight"), "expected a number of at least 1"));
                    }
                    total += u64::from(weight);
                    Ok((cx.clusters.slot(&name), total))
                })
                .collect()
        }
        None => Err(ConfigError::new(path, "expected cluster or weighted_clusters")),
    }
}

fn tunneling(config: t::TunnelingConfig, path: &str) -> Result<Tunneling, ConfigError> {
    let t::TunnelingConfig {
        hostname,
        use_post,
        headers_to_add,
        propagate_response_headers,
        post_path,
        propagate_response_trailers,
        request_id_extension,
        request_id_header,
        request_id_metadata_key,
        formatters,
    } = config;
    if hostname.is_empty() {
        return Err(ConfigError::new(format!("{path}.hostname"), "expected a host name"));
    }
    // They end up in filter state that only Istio's baggage filters read, which are refused by themselves.
    if propagate_response_headers || propagate_response_trailers {
        tracing::warn!("{path}: response headers and trailers of the tunnel are not propagated yet");
    }
    refuse(&request_id_extension, path, "request_id_extension")?;
    refuse(&request_id_header, path, "request_id_header")?;
    refuse(&request_id_metadata_key, path, "request_id_metadata_key")?;
    refuse(&formatters, path, "formatters")?;
    if !use_post && !post_path.is_empty() {
        return Err(ConfigError::new(format!("{path}.post_path"), "expected use_post with it"));
    }
    let hostname = Format::parse(&hostname).map_err(|e| ConfigError::new(format!("{path}.hostname"), e.to_string()))?;
    let headers = HeaderOps::compile(
        headers_to_add,
        Vec::new(),
        waypost_filters::format::header_ops::Side::Request,
        &format!("{path}.headers_to_add"),
    )
    .map_err(|e| ConfigError::new(e.path, e.reason))?;
    let post = use_post.then(|| if post_path.is_empty() { "/".into() } else { post_path.into() });
    Ok(Tunneling { hostname, headers, post })
}
