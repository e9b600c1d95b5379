//! `config.listener.v3.Listener` → [`Listener`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use waypost_filters::address::Address;
use waypost_filters::connection::Direction;
use waypost_filters::filter::NetworkFilter;
use waypost_filters::listener::{http_inspector, original_dst, tls_inspector};
use waypost_filters::network::set_filter_state::SetFilterState;
use waypost_xds::any;
use waypost_xds::envoy::config::core::v3::{self as core, transport_socket::ConfigType as SocketConfig};
use waypost_xds::envoy::config::listener::v3;
use waypost_xds::envoy::config::listener::v3::{filter, listener as l, listener_filter};
use waypost_xds::envoy::extensions::filters::network as net;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;

use super::chain_match::{ChainMatch, FilterDisabled};
use super::{FilterChain, Listener, ListenerFilter, ListenerStats, Terminal};
use crate::config::convert::{address, bool_of, timeout, timeout_or, u32_of};
use crate::config::{ConfigError, Context, refuse};
use crate::http::config::HttpConnectionManager;
use crate::net::socket::{DEFAULT_BACKLOG, ListenOptions};
use crate::tcp_proxy::TcpProxy;
use crate::tcp_proxy::compile::access_logs;
use crate::tls::ServerTls;

/// Envoy: `listener_filters_timeout` is 15 s unless it is set.
const FILTERS_TIMEOUT: Duration = Duration::from_secs(15);

/// Istio's network filters that only add telemetry: a connection without them is served all the same.
const ONLY_TELEMETRY: [&str; 2] = ["envoy.tcp.metadataexchange.config.MetadataExchange", "stats.PluginConfig"];

/// Compiles a listener. It has no sockets yet.
pub fn compile(proto: v3::Listener, cx: &Context<'_>, path: &str) -> Result<Arc<Listener>, ConfigError> {
    let v3::Listener {
        name,
        address: first,
        additional_addresses,
        stat_prefix,
        stats_matcher: _, // which of the listener's stats are kept; they all are
        filter_chains,
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        default_filter_chain,
        per_connection_buffer_limit_bytes: _, // a stream holds less than Envoy's default, which no configuration makes smaller than we do
        per_connection_buffer_high_watermark_timeout,
        metadata: _, // for logs of extensions that we do not have
        deprecated_v1,
        drain_type: _, // without updates there is nothing to drain but the process
        listener_filters,
        listener_filters_timeout,
        continue_on_listener_filters_timeout,
        transparent,
        freebind,
        socket_options,
        tcp_fast_open_queue_length,
        traffic_direction,
        udp_listener_config,
        api_listener,
        connection_balance_config,
        reuse_port: _, // deprecated; enable_reuse_port is looked at
        enable_reuse_port,
        access_log,
        tcp_backlog_size,
        max_connections_to_accept_per_socket_event: _, // how, not what
        bind_to_port,
        enable_mptcp,
        ignore_global_conn_limit: _, // there is no global limit yet; the bootstrap refuses one
        bypass_overload_manager: _,  // nor an overload manager
        tcp_keepalive,
        listener_specifier,
    } = proto;
    refuse(&fcds_config, path, "fcds_config")?;
    refuse(&per_connection_buffer_high_watermark_timeout, path, "per_connection_buffer_high_watermark_timeout")?;
    refuse(&udp_listener_config, path, "udp_listener_config")?;
    refuse(&api_listener, path, "api_listener")?;
    refuse(&socket_options, path, "socket_options")?;
    refuse(&tcp_fast_open_queue_length, path, "tcp_fast_open_queue_length")?;
    refuse(&enable_mptcp, path, "enable_mptcp")?;
    refuse(&tcp_keepalive, path, "tcp_keepalive")?;
    for (field, value) in [("transparent", transparent), ("freebind", freebind), ("use_original_dst", use_original_dst)]
    {
        if bool_of(value) == Some(true) {
            return Err(ConfigError::unsupported(format!("{path}.{field}")));
        }
    }
    let internal = matches!(listener_specifier, Some(l::ListenerSpecifier::InternalListener(_)));
    let mut bind = bool_of(bind_to_port) != Some(false);
    if let Some(l::DeprecatedV1 { bind_to_port }) = deprecated_v1 {
        bind &= bool_of(bind_to_port) != Some(false);
    }
    let (addresses, options) = if internal {
        if name.is_empty() {
            return Err(ConfigError::new(format!("{path}.name"), "expected a name, since the listener is internal"));
        }
        refuse(&first, path, "address")?;
        (Vec::new(), listen_options(None, true, None))
    } else {
        addresses(
            first,
            additional_addresses,
            bool_of(enable_reuse_port) != Some(false),
            u32_of(tcp_backlog_size),
            path,
        )?
    };
    let exact_balance = balance(connection_balance_config, path)?;
    let chain_match =
        ChainMatch::compile(&filter_chains, default_filter_chain.is_some(), filter_chain_matcher.as_ref(), path)?;
    let shown = addresses.first().map(ToString::to_string).unwrap_or_default();
    let name: Arc<str> = if name.is_empty() { shown.as_str().into() } else { name.into() };
    let stat_name = if !stat_prefix.is_empty() {
        stat_prefix
    } else if internal {
        format!("envoy_internal_{name}")
    } else {
        shown.replace(':', "_")
    };
    let mut chains = Vec::new();
    for (i, chain) in filter_chains.into_iter().enumerate() {
        chains.push(self::chain(chain, cx, &format!("{path}.filter_chains[{i}]"))?);
    }
    if let Some(chain) = default_filter_chain {
        chains.push(self::chain(chain, cx, &format!("{path}.default_filter_chain"))?);
    }
    if chains.is_empty() {
        return Err(ConfigError::new(format!("{path}.filter_chains"), "expected at least one filter chain"));
    }
    let tls = chains.iter().any(|c| c.tls.is_some());
    Ok(Arc::new(Listener {
        addresses,
        options,
        bind,
        internal,
        chains,
        chain_match,
        filters: filters(listener_filters, internal, path)?,
        filters_timeout: timeout_or(
            listener_filters_timeout,
            FILTERS_TIMEOUT,
            &format!("{path}.listener_filters_timeout"),
        )?,
        continue_on_timeout: continue_on_listener_filters_timeout,
        direction: match core::TrafficDirection::try_from(traffic_direction) {
            Ok(core::TrafficDirection::Inbound) => Direction::Inbound,
            Ok(core::TrafficDirection::Outbound) => Direction::Outbound,
            _ => Direction::Unspecified,
        },
        access_logs: access_logs(access_log, cx, &format!("{path}.access_log"))?,
        exact_balance,
        stats: ListenerStats::new(cx.stats, &stat_name, tls),
        name,
    }))
}

fn listen_options(backlog: Option<u32>, reuse_port: bool, first: Option<&core::Address>) -> ListenOptions {
    use core::address::Address as A;
    let (mut ipv4_compat, mut pipe_mode) = (false, 0);
    match first.and_then(|a| a.address.as_ref()) {
        Some(A::SocketAddress(s)) => ipv4_compat = s.ipv4_compat,
        Some(A::Pipe(p)) => pipe_mode = p.mode,
        _ => {}
    }
    let backlog = backlog.and_then(|b| i32::try_from(b).ok()).unwrap_or(DEFAULT_BACKLOG);
    ListenOptions { backlog, reuse_port, ipv4_compat, pipe_mode }
}

fn addresses(
    first: Option<core::Address>,
    more: Vec<v3::AdditionalAddress>,
    reuse_port: bool,
    backlog: Option<u32>,
    path: &str,
) -> Result<(Vec<Address>, ListenOptions), ConfigError> {
    let options = listen_options(backlog, reuse_port, first.as_ref());
    let mut out = vec![address(first, &format!("{path}.address"))?];
    for (i, v3::AdditionalAddress { address: a, socket_options, tcp_keepalive }) in more.into_iter().enumerate() {
        let path = format!("{path}.additional_addresses[{i}]");
        refuse(&socket_options, &path, "socket_options")?;
        refuse(&tcp_keepalive, &path, "tcp_keepalive")?;
        out.push(address(a, &format!("{path}.address"))?);
    }
    Ok((out, options))
}

fn balance(config: Option<l::ConnectionBalanceConfig>, path: &str) -> Result<bool, ConfigError> {
    use l::connection_balance_config::BalanceType;
    match config.and_then(|c| c.balance_type) {
        None => Ok(false),
        Some(BalanceType::ExactBalance(_)) => Ok(true),
        Some(BalanceType::ExtendBalance(_)) => {
            Err(ConfigError::unsupported(format!("{path}.connection_balance_config.extend_balance")))
        }
        Some(BalanceType::CpuLocalityBalance(_)) => {
            Err(ConfigError::unsupported(format!("{path}.connection_balance_config.cpu_locality_balance")))
        }
    }
}

fn filters(
    protos: Vec<v3::ListenerFilter>,
    internal: bool,
    path: &str,
) -> Result<Vec<(ListenerFilter, FilterDisabled)>, ConfigError> {
    let error = |e: waypost_xds::Error| ConfigError::from(e);
    protos
        .into_iter()
        .enumerate()
        .map(|(i, v3::ListenerFilter { name, filter_disabled, config_type })| {
            let path = format!("{path}.listener_filters[{i}]");
            let disabled = FilterDisabled::compile(filter_disabled.as_ref(), &format!("{path}.filter_disabled"))?;
            let config = match config_type {
                Some(listener_filter::ConfigType::TypedConfig(c)) => c,
                Some(listener_filter::ConfigType::ConfigDiscovery(_)) => {
                    return Err(ConfigError::unsupported(format!("{path}.config_discovery")));
                }
                None => {
                    return Err(ConfigError::new(
                        format!("{path}.typed_config"),
                        format!("expected a configuration of {name}"),
                    ));
                }
            };
            let path = format!("{path}.typed_config");
            let filter = match any::type_name(&config).as_str() {
                "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => {
                    original_dst::compile(&any::unpack(&config, &path)?, &path).map_err(error)?;
                    ListenerFilter::OriginalDst
                }
                "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => {
                    let config = any::unpack(&config, &path)?;
                    ListenerFilter::TlsInspector(tls_inspector::TlsInspector::compile(&config, &path).map_err(error)?)
                }
                "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => {
                    http_inspector::compile(&any::unpack(&config, &path)?, &path).map_err(error)?;
                    ListenerFilter::HttpInspector
                }
                other => return Err(ConfigError::unsupported(format!("{path}: {other}"))),
            };
            let _ = internal;
            Ok((filter, disabled))
        })
        .collect()
}

fn chain(proto: v3::FilterChain, cx: &Context<'_>, path: &str) -> Result<Arc<FilterChain>, ConfigError> {
    let v3::FilterChain {
        filter_chain_match: _, // compiled with the others of its listener
        filters,
        use_proxy_proto,
        metadata: _, // for logs of extensions that we do not have
        transport_socket,
        transport_socket_connect_timeout,
        name,
    } = proto;
    if bool_of(use_proxy_proto) == Some(true) {
        return Err(ConfigError::unsupported(format!("{path}.use_proxy_proto")));
    }
    let mut network: Vec<Box<dyn NetworkFilter>> = Vec::new();
    let mut network_names = Vec::new();
    let mut terminal = None;
    let count = filters.len();
    for (i, v3::Filter { name, config_type }) in filters.into_iter().enumerate() {
        let path = format!("{path}.filters[{i}]");
        let config = match config_type {
            Some(filter::ConfigType::TypedConfig(c)) => c,
            Some(filter::ConfigType::ConfigDiscovery(_)) => {
                return Err(ConfigError::unsupported(format!("{path}.config_discovery")));
            }
            None => {
                return Err(ConfigError::new(
                    format!("{path}.typed_config"),
                    format!("expected a configuration of {name}"),
                ));
            }
        };
        let path = format!("{path}.typed_config");
        let last = i + 1 == count;
        match network_filter(&config, cx, &path)? {
            Some(Kind::Terminal(_)) if !last => {
                return Err(ConfigError::new(path, format!("{name} has to be the last filter of its chain")));
            }
            Some(Kind::Terminal(t)) => terminal = Some(t),
            Some(Kind::Before(f)) if !last => {
                network.push(f);
                network_names.push(name.into());
            }
            Some(Kind::Before(_)) | None if last => {
                return Err(ConfigError::new(path, format!("{name} cannot be the last filter of its chain")));
            }
            Some(Kind::Before(_)) | None => {}
        }
    }
    Ok(Arc::new(FilterChain {
        name: name.into(),
        tls: transport(transport_socket, cx, &format!("{path}.transport_socket"))?,
        handshake_timeout: timeout(
            transport_socket_connect_timeout,
            &format!("{path}.transport_socket_connect_timeout"),
        )?,
        network,
        network_names,
        terminal: terminal.unwrap_or(Terminal::Nothing),
    }))
}

enum Kind {
    Before(Box<dyn NetworkFilter>),
    Terminal(Terminal),
}

/// Compiles a network filter; none for one that only adds telemetry, which is left out with a warning.
fn network_filter(
    config: &waypost_xds::google::protobuf::Any,
    cx: &Context<'_>,
    path: &str,
) -> Result<Option<Kind>, ConfigError> {
    let kind = any::type_name(config);
    let found = match kind.as_str() {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            Kind::Terminal(Terminal::Http(HttpConnectionManager::compile(any::unpack(config, path)?, cx, path)?))
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
            Kind::Terminal(Terminal::Tcp(TcpProxy::compile(any::unpack(config, path)?, cx, path)?))
        }
        "envoy.extensions.filters.network.echo.v3.Echo" => {
            let net::echo::v3::Echo {} = any::unpack(config, path)?;
            Kind::Terminal(Terminal::Echo)
        }
        "envoy.extensions.filters.network.direct_response.v3.Config" => {
            let net::direct_response::v3::Config { response } = any::unpack(config, path)?;
            let body =
                response.map(|r| crate::config::convert::data_source(r, &format!("{path}.response"))).transpose()?;
            Kind::Terminal(Terminal::DirectResponse(Bytes::from(body.unwrap_or_default())))
        }
        "envoy.extensions.filters.network.set_filter_state.v3.Config" => {
            Kind::Before(Box::new(SetFilterState::compile(any::unpack(config, path)?, path)?))
        }
        other if ONLY_TELEMETRY.contains(&other) => {
            tracing::warn!("{path}: {other} adds telemetry only and is not supported yet");
            return Ok(None);
        }
        other => return Err(ConfigError::unsupported(format!("{path}: {other}"))),
    };
    Ok(Some(found))
}

fn transport(
    socket: Option<core::TransportSocket>,
    cx: &Context<'_>,
    path: &str,
) -> Result<Option<Arc<ServerTls>>, ConfigError> {
    let Some(core::TransportSocket { name, config_type }) = socket else { return Ok(None) };
    let Some(SocketConfig::TypedConfig(config)) = config_type else {
        return match name.as_str() {
            "envoy.transport_sockets.raw_buffer" | "raw_buffer" => Ok(None),
            _ => Err(ConfigError::new(format!("{path}.typed_config"), "expected a transport socket's configuration")),
        };
    };
    let path = format!("{path}.typed_config");
    match any::type_name(&config).as_str() {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(None),
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {
            let tls: DownstreamTlsContext = any::unpack(&config, &path)?;
            Ok(Some(ServerTls::compile(tls, cx.secrets, &path)?))
        }
        other => Err(ConfigError::unsupported(format!("{path}: {other}"))),
    }
}
