//! `config.listener.v3.Listener` → [`Listener`].

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use waypost_filters::address::Address;
use waypost_filters::connection::Direction;
use waypost_filters::listener::proxy_protocol::ProxyProtocol;
use waypost_filters::listener::{http_inspector, original_dst, tls_inspector};
use waypost_xds::any;
use waypost_xds::envoy::config::core::v3::{self as core, transport_socket::ConfigType as SocketConfig};
use waypost_xds::envoy::config::listener::v3;
use waypost_xds::envoy::config::listener::v3::{listener as l, listener_filter};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;

use super::chain_match::{ChainMatch, FilterDisabled};
use super::identity::{self, ChainKey, ChainProtos, Digest, Identity};
use super::{Chains, FilterChain, Listener, ListenerFilter, ListenerStats, network};
use crate::config::convert::{address, bool_of, timeout, timeout_or, u32_of};
use crate::config::{ConfigError, Context, refuse, warn_ignored};
use crate::net::socket::{DEFAULT_BACKLOG, ListenOptions};
use crate::tls::ServerTls;

/// Envoy: `listener_filters_timeout` is 15 s unless it is set.
const FILTERS_TIMEOUT: Duration = Duration::from_secs(15);

/// A listener, and what it was compiled from.
pub struct Compiled {
    /// The listener. It has no sockets yet.
    pub listener: Arc<Listener>,
    /// What tells it from an update.
    pub identity: Identity,
}

/// Chains that have been compiled before, by what they were compiled from.
#[derive(Default)]
pub struct Known {
    /// Chains that can be used as they are, connections and all.
    same: HashMap<ChainKey, Arc<FilterChain>>,
    /// Chains whose parts can be used.
    parts: HashMap<Digest, Arc<FilterChain>>,
    /// How chains were chosen: where none of them has come, gone or moved, that is the same.
    choices: Vec<(Digest, Arc<ChainMatch>)>,
}

impl Known {
    /// Adds chains; `kept` if those that are found again keep their connections.
    pub fn add(&mut self, chains: &Chains, kept: bool) {
        self.choices.push((chains.choice, chains.chain_match.clone()));
        for chain in &chains.all {
            if kept {
                self.same.entry(chain.key).or_insert_with(|| chain.clone());
            }
            self.parts.entry(chain.key.body).or_insert_with(|| chain.clone());
        }
    }
}

/// Compiles a listener.
pub fn compile(mut proto: v3::Listener, cx: &Context<'_>, path: &str) -> Result<Compiled, ConfigError> {
    let (identity, protos) = identity::split(&mut proto);
    let chains = chains(protos, &mut Known::default(), cx, path)?;
    Ok(Compiled { listener: listener(proto, chains, cx, path)?, identity })
}

/// Compiles the filter chains of a listener, but for those that are known.
pub(super) fn chains(
    protos: ChainProtos,
    known: &mut Known,
    cx: &Context<'_>,
    path: &str,
) -> Result<Chains, ConfigError> {
    let ChainProtos { chains, default, matcher, keys, choice } = protos;
    let chain_match = match known.choices.iter().find(|(c, _)| *c == choice) {
        Some((_, same)) => same.clone(),
        None => Arc::new(ChainMatch::compile(&chains, default.is_some(), matcher.as_ref(), path)?),
    };
    let mut all = Vec::with_capacity(keys.len());
    let places = (0..chains.len()).map(Some).chain([None]);
    for ((place, proto), key) in places.zip(chains.into_iter().chain(default)).zip(keys) {
        // Taken out: of two chains that are the same, each has connections of its own.
        if let Some(same) = known.same.remove(&key) {
            all.push(same);
        } else if let Some(known) = known.parts.get(&key.body) {
            all.push(Arc::new(known.renewed(key)));
        } else {
            let path = match place {
                Some(i) => format!("{path}.filter_chains[{i}]"),
                None => format!("{path}.default_filter_chain"),
            };
            all.push(Arc::new(chain(proto, key, cx, &path)?));
        }
    }
    if all.is_empty() {
        return Err(ConfigError::new(format!("{path}.filter_chains"), "expected at least one filter chain"));
    }
    Ok(Chains { all, chain_match, choice })
}

/// Compiles all of a listener but its filter chains, which have been taken out.
pub(super) fn listener(
    proto: v3::Listener,
    chains: Chains,
    cx: &Context<'_>,
    path: &str,
) -> Result<Arc<Listener>, ConfigError> {
    let v3::Listener {
        name,
        address: first,
        additional_addresses,
        stat_prefix,
        stats_matcher: _, // which of the listener's stats are kept; they all are
        filter_chains: _, // taken out
        fcds_config,
        filter_chain_matcher: _, // taken out
        use_original_dst,
        default_filter_chain: _,              // taken out
        per_connection_buffer_limit_bytes: _, // a stream holds less than Envoy's default, which no configuration makes smaller than we do
        per_connection_buffer_high_watermark_timeout,
        metadata: _, // for logs of extensions that we do not have
        deprecated_v1,
        drain_type: _, // MODIFY_ONLY spares connections when health checks fail; they are not spared
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
    let shown = addresses.first().map(ToString::to_string).unwrap_or_default();
    let name: Arc<str> = if name.is_empty() { shown.as_str().into() } else { name.into() };
    let stat_name = if !stat_prefix.is_empty() {
        stat_prefix
    } else if internal {
        format!("envoy_internal_{name}")
    } else {
        shown.replace(':', "_")
    };
    let listener = Arc::new(Listener {
        addresses,
        options,
        bind,
        internal,
        chains: ArcSwap::from_pointee(chains),
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
        access_logs: crate::config::access_log::compile(access_log, cx, &format!("{path}.access_log"))?,
        exact_balance,
        stats: ListenerStats::new(cx.stats, &stat_name),
        stat_name: stat_name.into(),
        name,
    });
    listener.count_tls(cx.stats, &listener.chains.load());
    Ok(listener)
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
                "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" => {
                    let config = any::unpack(&config, &path)?;
                    let (filter, ignored) = ProxyProtocol::compile(config, &path).map_err(error)?;
                    for field in ignored {
                        warn_ignored(true, &path, field);
                    }
                    ListenerFilter::ProxyProtocol(filter)
                }
                other => return Err(ConfigError::unsupported(format!("{path}: {other}"))),
            };
            let _ = internal;
            Ok((filter, disabled))
        })
        .collect()
}

fn chain(proto: v3::FilterChain, key: ChainKey, cx: &Context<'_>, path: &str) -> Result<FilterChain, ConfigError> {
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
    let network::Compiled { before, discovered, exchange, terminal } = network::compile(filters, cx, path)?;
    Ok(FilterChain {
        key,
        state: Arc::default(),
        name: name.into(),
        tls: transport(transport_socket, cx, &format!("{path}.transport_socket"))?,
        handshake_timeout: timeout(
            transport_socket_connect_timeout,
            &format!("{path}.transport_socket_connect_timeout"),
        )?,
        network: before.into(),
        discovered: discovered.into(),
        exchange,
        terminal,
    })
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
