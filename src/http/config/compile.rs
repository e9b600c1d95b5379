//! From the message to what runs.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use waypost_filters::head::Scheme;
use waypost_xds::any;
use waypost_xds::envoy::config::core::v3::{
    CidrRange, SchemeHeaderTransformation, scheme_header_transformation::Transformation,
};
use waypost_xds::envoy::config::trace::v3 as trace;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    self as proto, RequestIdExtension, http_connection_manager as inner,
};
use waypost_xds::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use waypost_xds::google::protobuf as pb;

use super::convert::{at, boolean, duration, header, percent, timeout, uint};
use super::protocol::{Common, DEFAULT_SERVER_NAME};
use super::{
    AccessLogOptions, Cidr, ClientAddress, Codec, EscapedSlashes, HostOptions, Http1Options, Http2Options,
    HttpConnectionManager, InternalAddresses, Limits, LocalReplyConfig, PathOptions, RequestId, Sampling, ServerHeader,
    ServerMode, Settings, Stats, StripPort, Timeouts, UpgradeConfig, UserAgent, Xfcc, XfccMode,
};
use crate::config::extension::Discovery;
use crate::config::{ConfigError, Context, extension, refuse, warn_ignored};
use crate::discovery::source::Fetch;
use crate::http::chain_slot::ChainSlot;
use crate::http::registry::Within;
use crate::route::RouteTable;
use crate::route::slot::Routes;

impl HttpConnectionManager {
    /// Compiles the message; `path` is where it stands.
    pub fn compile(
        mut proto: proto::HttpConnectionManager,
        cx: &Context<'_>,
        path: &str,
    ) -> Result<Arc<HttpConnectionManager>, ConfigError> {
        let (routes, stat_prefix) = (proto.route_specifier.take(), proto.stat_prefix.clone());
        let settings = Arc::new(Settings::compile(proto, cx, path)?);
        let routes = match routes {
            Some(inner::RouteSpecifier::RouteConfig(routes)) => {
                Routes::Here(RouteTable::compile(routes, cx, &at(path, "route_config"))?)
            }
            Some(inner::RouteSpecifier::Rds(proto::Rds { config_source, route_config_name })) => {
                let path = at(path, "rds");
                let fetch = Fetch::of(&config_source.unwrap_or_default(), &at(&path, "config_source"))?;
                Routes::Slot(cx.routes.slot(fetch, &route_config_name, &stat_prefix))
            }
            Some(inner::RouteSpecifier::ScopedRoutes(_)) => {
                return Err(ConfigError::unsupported(at(path, "scoped_routes")));
            }
            None => return Err(ConfigError::new(at(path, "route_specifier"), "value is required")),
        };
        Ok(Arc::new(HttpConnectionManager { settings, routes }))
    }
}

impl Settings {
    /// Compiles all of the message but its routes.
    #[allow(deprecated, reason = "a field that was replaced is still a field")]
    fn compile(proto: proto::HttpConnectionManager, cx: &Context<'_>, path: &str) -> Result<Settings, ConfigError> {
        let proto::HttpConnectionManager {
            codec_type,
            stat_prefix,
            http_filters,
            add_user_agent,
            tracing,
            common_http_protocol_options,
            http1_safe_max_connection_duration,
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options,
            server_name,
            server_header_transformation,
            scheme_header_transformation,
            max_request_headers_kb,
            stream_idle_timeout,
            stream_flush_timeout,
            request_timeout,
            request_headers_timeout,
            drain_timeout,
            drain_timeout_jitter,
            delayed_close_timeout,
            access_log,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            access_log_options,
            use_remote_address,
            xff_num_trusted_hops,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            internal_address_config,
            skip_xff_append,
            via,
            generate_request_id,
            preserve_external_request_id,
            always_set_request_id_in_response,
            forward_client_cert_details,
            set_current_client_cert_details,
            forward_client_cert_matcher,
            proxy_100_continue,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            upgrade_configs,
            normalize_path,
            merge_slashes,
            path_with_escaped_slashes_action,
            request_id_extension,
            local_reply_config,
            strip_matching_host_port,
            stream_error_on_invalid_http_message,
            path_normalization_options,
            strip_trailing_host_dot,
            proxy_status_config,
            typed_header_validation_config,
            append_x_forwarded_port,
            append_local_overload,
            add_proxy_protocol_connection_state: _, // there is no filter state of the PROXY protocol that it could keep out
            forward_proto_config,
            route_specifier: _, // compiled on its own
            strip_port_mode,
        } = proto;
        if stat_prefix.is_empty() {
            return Err(ConfigError::new(at(path, "stat_prefix"), "value length must be at least 1 characters"));
        }
        refuse(&http3_protocol_options, path, "http3_protocol_options")?;
        refuse(&drain_timeout_jitter, path, "drain_timeout_jitter")?;
        refuse(&original_ip_detection_extensions, path, "original_ip_detection_extensions")?;
        refuse(&early_header_mutation_extensions, path, "early_header_mutation_extensions")?;
        refuse(&forward_client_cert_matcher, path, "forward_client_cert_matcher")?;
        refuse(&path_normalization_options, path, "path_normalization_options")?;
        refuse(&proxy_status_config, path, "proxy_status_config")?;
        refuse(&typed_header_validation_config, path, "typed_header_validation_config")?;
        refuse(&append_local_overload, path, "append_local_overload")?;
        refuse(&forward_proto_config, path, "forward_proto_config")?;

        let common = Common::compile(common_http_protocol_options, &at(path, "common_http_protocol_options"))?;
        let stream_error = boolean(stream_error_on_invalid_http_message, false);
        warn_ignored(http1_safe_max_connection_duration, path, "http1_safe_max_connection_duration");
        let (scheme_to_overwrite, scheme_match_upstream) = scheme(scheme_header_transformation, path)?;
        let request_id = request_id(
            request_id_extension,
            boolean(generate_request_id, true),
            (preserve_external_request_id, always_set_request_id_in_response),
            path,
        )?;
        let stat_prefix: Arc<str> = stat_prefix.into();
        let within = Within { stats: cx.stats.clone(), stat_prefix: stat_prefix.clone() };
        let chain = ChainSlot::compile(http_filters, &within, cx, &at(path, "http_filters"))?;

        Ok(Settings {
            codec: match inner::CodecType::try_from(codec_type) {
                Ok(inner::CodecType::Auto) => Codec::Auto,
                Ok(inner::CodecType::Http1) => Codec::Http1,
                Ok(inner::CodecType::Http2) => Codec::Http2,
                Ok(inner::CodecType::Http3) => return Err(ConfigError::unsupported(at(path, "codec_type"))),
                Err(_) => return Err(unknown(path, "codec_type")),
            },
            stats: Stats::new(cx.stats, &stat_prefix),
            stat_prefix: stat_prefix.clone(),
            timeouts: {
                let idle = timeout(stream_idle_timeout, Some(Duration::from_secs(300)), path, "stream_idle_timeout")?;
                Timeouts {
                    stream_idle: idle,
                    stream_flush: timeout(stream_flush_timeout, idle, path, "stream_flush_timeout")?,
                    request: timeout(request_timeout, None, path, "request_timeout")?,
                    request_headers: timeout(request_headers_timeout, None, path, "request_headers_timeout")?,
                    connection_idle: common.idle,
                    max_connection_duration: common.max_connection_duration,
                    max_stream_duration: common.max_stream_duration,
                    drain: duration(drain_timeout, path, "drain_timeout")?.unwrap_or(Duration::from_secs(5)),
                    delayed_close: timeout(
                        delayed_close_timeout,
                        Some(Duration::from_secs(1)),
                        path,
                        "delayed_close_timeout",
                    )?,
                }
            },
            limits: Limits {
                // Envoy takes at most 8 MiB.
                max_request_headers_bytes: 1024
                    * uint(max_request_headers_kb, 60, 1..=8192, path, "max_request_headers_kb")? as usize,
                max_headers_count: common.max_headers_count as usize,
                max_requests_per_connection: common.max_requests_per_connection,
                underscores: common.underscores,
                http1_safe_max_connection_duration,
            },
            http1: Http1Options::compile(http_protocol_options, stream_error, &at(path, "http_protocol_options"))?,
            http2: Http2Options::compile(http2_protocol_options, stream_error, &at(path, "http2_protocol_options"))?,
            server: ServerHeader {
                name: header(&server_name, path, "server_name")?.unwrap_or(DEFAULT_SERVER_NAME),
                mode: match inner::ServerHeaderTransformation::try_from(server_header_transformation) {
                    Ok(inner::ServerHeaderTransformation::Overwrite) => ServerMode::Overwrite,
                    Ok(inner::ServerHeaderTransformation::AppendIfAbsent) => ServerMode::AppendIfAbsent,
                    Ok(inner::ServerHeaderTransformation::PassThrough) => ServerMode::PassThrough,
                    Err(_) => return Err(unknown(path, "server_header_transformation")),
                },
            },
            scheme_to_overwrite,
            scheme_match_upstream,
            via: header(&via, path, "via")?,
            user_agent: if boolean(add_user_agent, false) { user_agent(cx, path)? } else { None },
            client: ClientAddress {
                use_remote_address: boolean(use_remote_address, false),
                trusted_hops: xff_num_trusted_hops,
                skip_xff_append,
                append_port: append_x_forwarded_port,
                ipv4_as_ipv6: represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
                internal: internal_addresses(internal_address_config, path)?,
                local_address: local_address(),
            },
            request_id,
            tracing: sampling(tracing, &at(path, "tracing"))?,
            xfcc: xfcc(forward_client_cert_details, set_current_client_cert_details, path)?,
            path: PathOptions {
                normalize: boolean(normalize_path, false),
                merge_slashes,
                escaped_slashes: escaped_slashes(path_with_escaped_slashes_action, path)?,
                strip_fragment: cx.process.strip_fragment,
            },
            host: HostOptions {
                strip_port: match strip_port_mode {
                    Some(inner::StripPortMode::StripAnyHostPort(true)) if strip_matching_host_port => {
                        let reason = "strip_matching_host_port and strip_any_host_port cannot both be set";
                        return Err(ConfigError::new(path, reason));
                    }
                    Some(inner::StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
                    _ if strip_matching_host_port => StripPort::Matching,
                    Some(inner::StripPortMode::StripAnyHostPort(false)) | None => StripPort::Never,
                },
                strip_trailing_dot: strip_trailing_host_dot,
            },
            proxy_100_continue,
            upgrades: upgrades(upgrade_configs, &within, cx, path)?,
            local_reply: LocalReplyConfig::compile(local_reply_config, &at(path, "local_reply_config"))?,
            access_logs: crate::config::access_log::compile(access_log, cx, &at(path, "access_log"))?,
            access_log_options: log_options(
                access_log_options,
                access_log_flush_interval,
                flush_access_log_on_new_request,
                path,
            )?,
            chain,
        })
    }

    /// What is done with a request that asks to be upgraded: its own chain, or the usual one; none where it is refused
    /// (403 `upgrade_failed`). `route` is what the route's `upgrade_configs` say of the type, and wins.
    pub fn upgrade(&self, kind: &[u8], route: Option<bool>) -> Option<&ChainSlot> {
        let config = self.upgrades.iter().find(|u| u.kind.as_bytes().eq_ignore_ascii_case(kind));
        if !route.unwrap_or_else(|| config.is_some_and(|u| u.enabled)) {
            return None;
        }
        Some(config.and_then(|u| u.chain.as_ref()).unwrap_or(&self.chain))
    }

    /// What filters of all its chains wait for.
    pub fn discovered(&self) -> impl Iterator<Item = &Discovery> {
        let upgrades = self.upgrades.iter().filter_map(|u| u.chain.as_ref());
        std::iter::once(&self.chain).chain(upgrades).flat_map(ChainSlot::discovered)
    }
}

fn unknown(path: &str, field: &str) -> ConfigError {
    ConfigError::new(at(path, field), "unknown value")
}

fn scheme(proto: Option<SchemeHeaderTransformation>, path: &str) -> Result<(Option<Scheme>, bool), ConfigError> {
    let Some(SchemeHeaderTransformation { match_upstream, transformation }) = proto else { return Ok((None, false)) };
    let overwrite = match transformation {
        Some(Transformation::SchemeToOverwrite(s)) if s == "http" => Some(Scheme::Http),
        Some(Transformation::SchemeToOverwrite(s)) if s == "https" => Some(Scheme::Https),
        Some(Transformation::SchemeToOverwrite(_)) => {
            let field = at(path, "scheme_header_transformation.scheme_to_overwrite");
            return Err(ConfigError::new(field, "value must be in list [http https]"));
        }
        None => None,
    };
    warn_ignored(match_upstream, path, "scheme_header_transformation.match_upstream");
    Ok((overwrite, match_upstream))
}

fn user_agent(cx: &Context<'_>, path: &str) -> Result<Option<UserAgent>, ConfigError> {
    let Some(cluster) = header(&cx.process.node_cluster, path, "add_user_agent")? else {
        // Envoy refuses to start such a process.
        return Err(ConfigError::new(
            at(path, "add_user_agent"),
            "needs the cluster name of the process (--service-cluster)",
        ));
    };
    Ok(Some(UserAgent { cluster, node: header(&cx.process.node_id, path, "add_user_agent")? }))
}

fn request_id(
    proto: Option<RequestIdExtension>,
    generate: bool,
    (preserve_external, always_in_response): (bool, bool),
    path: &str,
) -> Result<RequestId, ConfigError> {
    let path = at(path, "request_id_extension.typed_config");
    let config = match proto {
        None | Some(RequestIdExtension { typed_config: None }) => UuidRequestIdConfig::default(),
        Some(RequestIdExtension { typed_config: Some(config) }) => {
            let kind = any::type_name(&config);
            if kind != "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig" {
                return Err(ConfigError::new(path, format!("not supported yet: {kind}")));
            }
            any::unpack(&config, &path)?
        }
    };
    let UuidRequestIdConfig { pack_trace_reason, use_request_id_for_trace_sampling } = config;
    Ok(RequestId {
        generate,
        preserve_external,
        always_in_response,
        pack_trace_reason: boolean(pack_trace_reason, true),
        sample_by_id: boolean(use_request_id_for_trace_sampling, true),
    })
}

fn sampling(proto: Option<inner::Tracing>, path: &str) -> Result<Option<Sampling>, ConfigError> {
    let Some(inner::Tracing {
        client_sampling,
        random_sampling,
        overall_sampling,
        // How spans look; there are none yet.
        verbose: _,
        max_path_tag_length: _,
        custom_tags: _,
        provider,
        spawn_upstream_span: _,
        operation: _,
        upstream_operation: _,
        no_context_propagation: _,
    }) = proto
    else {
        return Ok(None);
    };
    if let Some(provider) = provider {
        tracer(provider, &at(path, "provider"))?;
    }
    Ok(Some(Sampling {
        client: percent(client_sampling, 10_000, path, "client_sampling")?,
        random: percent(random_sampling, 10_000, path, "random_sampling")?,
        overall: percent(overall_sampling, 10_000, path, "overall_sampling")?,
    }))
}

/// Tracing providers that are known. Requests are sampled as they ask, and no spans are made.
pub const TRACERS: &[&str] = &[
    "envoy.config.trace.v3.OpenTelemetryConfig",
    "envoy.config.trace.v3.ZipkinConfig",
    "envoy.config.trace.v3.DatadogConfig",
    "envoy.config.trace.v3.SkyWalkingConfig",
    "envoy.config.trace.v3.LightstepConfig",
    "envoy.config.trace.v3.XRayConfig",
    "envoy.config.trace.v3.DynamicOtConfig",
];

fn tracer(provider: trace::tracing::Http, path: &str) -> Result<(), ConfigError> {
    let trace::tracing::Http { name, config_type } = provider;
    let Some(trace::tracing::http::ConfigType::TypedConfig(config)) = config_type else {
        let reason = format!("expected a configuration of {name}");
        return Err(ConfigError::new(at(path, "typed_config"), reason));
    };
    let (path, type_name) = (at(path, "typed_config"), any::type_name(&config));
    if !TRACERS.contains(&&*type_name) {
        return Err(ConfigError::new(path, format!("not supported: {type_name}")));
    }
    extension::checked(&config, &path)?;
    extension::warn_missing(&type_name, "no spans are reported", &path);
    Ok(())
}

fn internal_addresses(
    proto: Option<inner::InternalAddressConfig>,
    path: &str,
) -> Result<InternalAddresses, ConfigError> {
    let inner::InternalAddressConfig { unix_sockets, cidr_ranges } = proto.unwrap_or_default();
    let path = at(path, "internal_address_config.cidr_ranges");
    let range = |(i, CidrRange { address_prefix, prefix_len }): (usize, CidrRange)| {
        let address = IpAddr::from_str(&address_prefix)
            .map_err(|_| ConfigError::new(format!("{path}[{i}].address_prefix"), "malformed IP address"))?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let prefix_len = prefix_len.map_or(0, |pb::UInt32Value { value }| value);
        match u8::try_from(prefix_len) {
            Ok(prefix_len) if prefix_len <= width => Ok(Cidr { address, prefix_len }),
            _ => {
                Err(ConfigError::new(format!("{path}[{i}].prefix_len"), format!("value must be within 0 and {width}")))
            }
        }
    };
    let ranges = cidr_ranges.into_iter().enumerate().map(range).collect::<Result<_, _>>()?;
    Ok(InternalAddresses { unix_sockets, ranges })
}

/// The address by which other hosts know this one: Envoy takes the first of an interface that is up, we take the one that packets to
/// the outside have. (192.0.2.1 is for documentation, RFC 5737; connecting a datagram socket sends nothing.)
fn local_address() -> IpAddr {
    static ADDRESS: OnceLock<IpAddr> = OnceLock::new();
    *ADDRESS.get_or_init(|| {
        let outside = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
            socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
            socket.local_addr()
        });
        outside.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |a| a.ip())
    })
}

fn xfcc(mode: i32, details: Option<inner::SetCurrentClientCertDetails>, path: &str) -> Result<Xfcc, ConfigError> {
    let inner::SetCurrentClientCertDetails { subject, cert, chain, dns, uri, issuer, format } =
        details.unwrap_or_default();
    refuse(&format, path, "set_current_client_cert_details.format")?;
    let mode = match inner::ForwardClientCertDetails::try_from(mode) {
        Ok(inner::ForwardClientCertDetails::Sanitize) => XfccMode::Sanitize,
        Ok(inner::ForwardClientCertDetails::ForwardOnly) => XfccMode::ForwardOnly,
        Ok(inner::ForwardClientCertDetails::AppendForward) => XfccMode::AppendForward,
        Ok(inner::ForwardClientCertDetails::SanitizeSet) => XfccMode::SanitizeSet,
        Ok(inner::ForwardClientCertDetails::AlwaysForwardOnly) => XfccMode::AlwaysForwardOnly,
        Err(_) => return Err(unknown(path, "forward_client_cert_details")),
    };
    Ok(Xfcc { mode, subject: boolean(subject, false), cert, chain, dns, uri, issuer })
}

fn escaped_slashes(action: i32, path: &str) -> Result<EscapedSlashes, ConfigError> {
    use inner::PathWithEscapedSlashesAction as Action;
    Ok(match Action::try_from(action) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => EscapedSlashes::Keep,
        Ok(Action::RejectRequest) => EscapedSlashes::Reject,
        Ok(Action::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Ok(Action::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
        Err(_) => return Err(unknown(path, "path_with_escaped_slashes_action")),
    })
}

fn upgrades(
    protos: Vec<inner::UpgradeConfig>,
    within: &Within,
    cx: &Context<'_>,
    path: &str,
) -> Result<Vec<UpgradeConfig>, ConfigError> {
    let mut upgrades: Vec<UpgradeConfig> = Vec::new();
    for (i, inner::UpgradeConfig { upgrade_type, filters, enabled }) in protos.into_iter().enumerate() {
        let path = format!("{path}.upgrade_configs[{i}]");
        if upgrades.iter().any(|u| u.kind.eq_ignore_ascii_case(&upgrade_type)) {
            return Err(ConfigError::new(path, "multiple upgrade configs with the same name"));
        }
        let chain = if filters.is_empty() {
            None
        } else {
            Some(ChainSlot::compile(filters, within, cx, &at(&path, "filters"))?)
        };
        upgrades.push(UpgradeConfig { kind: upgrade_type.into(), enabled: boolean(enabled, true), chain });
    }
    Ok(upgrades)
}

fn log_options(
    options: Option<inner::HcmAccessLogOptions>,
    old_interval: Option<pb::Duration>,
    old_on_new_request: bool,
    path: &str,
) -> Result<AccessLogOptions, ConfigError> {
    let (interval, on_new_request, on_tunnel) = match options {
        None => (old_interval, old_on_new_request, false),
        Some(_) if old_interval.is_some() || old_on_new_request => {
            let reason = "only one of access_log_options and the fields that it replaces can be specified";
            return Err(ConfigError::new(at(path, "access_log_options"), reason));
        }
        Some(inner::HcmAccessLogOptions {
            access_log_flush_interval,
            flush_access_log_on_new_request,
            flush_log_on_tunnel_successfully_established,
        }) => {
            (access_log_flush_interval, flush_access_log_on_new_request, flush_log_on_tunnel_successfully_established)
        }
    };
    let flush_interval = duration(interval, path, "access_log_flush_interval")?;
    if flush_interval.is_some_and(|i| i < Duration::from_millis(1)) {
        return Err(ConfigError::new(at(path, "access_log_flush_interval"), "value must be at least 0.001s"));
    }
    Ok(AccessLogOptions { flush_interval, flush_on_new_request: on_new_request, flush_on_tunnel: on_tunnel })
}
