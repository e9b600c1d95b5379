//! `HttpProtocolOptions` of a cluster, and the older fields that say the same.

use std::collections::HashMap;
use std::time::Duration;

use waypost_xds::any;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::envoy::extensions::upstreams::http::v3 as up;
use waypost_xds::google::protobuf::Any;

use super::super::{Http1Options, Http2Options, HttpOptions, UpstreamProtocol};
use crate::config::convert::{bool_of, duration, timeout, timeout_or, u32_of};
use crate::config::{ConfigError, refuse, warn_ignored};

/// Envoy closes an idle upstream connection after an hour unless it is told otherwise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// The fields of `Cluster` that `HttpProtocolOptions` replaced.
pub struct Legacy {
    /// `common_http_protocol_options`
    pub common: Option<core::HttpProtocolOptions>,
    /// `upstream_http_protocol_options`
    pub upstream: Option<core::UpstreamHttpProtocolOptions>,
    /// `http_protocol_options`
    pub h1: Option<core::Http1ProtocolOptions>,
    /// `http2_protocol_options`
    pub h2: Option<core::Http2ProtocolOptions>,
    /// `protocol_selection`
    pub protocol_selection: i32,
}

/// Compiles them.
pub fn compile(legacy: Legacy, typed: HashMap<String, Any>, path: &str) -> Result<HttpOptions, ConfigError> {
    let mut out = HttpOptions::default();
    let Legacy { common, upstream, h1, h2, protocol_selection } = legacy;
    let base = path;
    set_common(&mut out, common, &format!("{base}.common_http_protocol_options"))?;
    set_upstream(&mut out, upstream, &format!("{base}.upstream_http_protocol_options"))?;
    set_h1(&mut out, h1, &format!("{base}.http_protocol_options"))?;
    if h2.is_some() {
        out.protocol = UpstreamProtocol::Http2;
    }
    out.h2 = http2(h2, &format!("{base}.http2_protocol_options"))?;
    if protocol_selection == 1 {
        out.protocol = UpstreamProtocol::Downstream;
    }
    for (key, config) in typed {
        let path = format!("{base}.typed_extension_protocol_options[{key}]");
        let kind = any::type_name(&config);
        if kind != "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" {
            return Err(ConfigError::unsupported(format!("{path}: {kind}")));
        }
        let up::HttpProtocolOptions {
            common_http_protocol_options,
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy: _, // for ring hash and maglev, which are warned about by their policy
            retry_policy,
            upstream_protocol_options,
        } = any::unpack(&config, &path)?;
        // The upstream codec filter is what there is anyway.
        if http_filters.iter().any(|f| f.name != "envoy.filters.http.upstream_codec") {
            return Err(ConfigError::unsupported(format!("{path}.http_filters")));
        }
        refuse(&header_validation_config, &path, "header_validation_config")?;
        warn_ignored(outlier_detection.is_some(), &path, "outlier_detection");
        refuse(&request_mirror_policies, &path, "request_mirror_policies")?;
        refuse(&retry_policy, &path, "retry_policy")?;
        set_common(&mut out, common_http_protocol_options, &format!("{path}.common_http_protocol_options"))?;
        set_upstream(&mut out, upstream_http_protocol_options, &format!("{path}.upstream_http_protocol_options"))?;
        use o::UpstreamProtocolOptions as P;
        use o::explicit_http_config::ProtocolConfig as C;
        use up::http_protocol_options as o;
        let (protocol, h1, h2) = match upstream_protocol_options {
            None => continue,
            Some(P::ExplicitHttpConfig(o::ExplicitHttpConfig { protocol_config })) => match protocol_config {
                None => continue,
                Some(C::HttpProtocolOptions(h1)) => (UpstreamProtocol::Http1, Some(h1), None),
                Some(C::Http2ProtocolOptions(h2)) => (UpstreamProtocol::Http2, None, Some(h2)),
                Some(C::Http3ProtocolOptions(_)) => {
                    return Err(ConfigError::unsupported(format!(
                        "{path}.explicit_http_config.http3_protocol_options"
                    )));
                }
            },
            Some(P::UseDownstreamProtocolConfig(o::UseDownstreamHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
            })) => {
                refuse(&http3_protocol_options, &path, "use_downstream_protocol_config.http3_protocol_options")?;
                (UpstreamProtocol::Downstream, http_protocol_options, http2_protocol_options)
            }
            Some(P::AutoConfig(o::AutoHttpConfig {
                http_protocol_options,
                http2_protocol_options,
                http3_protocol_options,
                alternate_protocols_cache_options,
            })) => {
                refuse(&http3_protocol_options, &path, "auto_config.http3_protocol_options")?;
                refuse(&alternate_protocols_cache_options, &path, "auto_config.alternate_protocols_cache_options")?;
                (UpstreamProtocol::Alpn, http_protocol_options, http2_protocol_options)
            }
        };
        out.protocol = protocol;
        set_h1(&mut out, h1, &format!("{path}.http_protocol_options"))?;
        out.h2 = http2(h2, &format!("{path}.http2_protocol_options"))?;
    }
    Ok(out)
}

fn set_common(out: &mut HttpOptions, o: Option<core::HttpProtocolOptions>, path: &str) -> Result<(), ConfigError> {
    let Some(core::HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    }) = o
    else {
        return Ok(());
    };
    refuse(&max_connection_duration_jitter, path, "max_connection_duration_jitter")?;
    refuse(&headers_with_underscores_action, path, "headers_with_underscores_action")?;
    out.idle_timeout = timeout_or(idle_timeout, IDLE_TIMEOUT, &format!("{path}.idle_timeout"))?;
    out.max_connection_duration = timeout(max_connection_duration, &format!("{path}.max_connection_duration"))?;
    out.max_stream_duration = timeout(max_stream_duration, &format!("{path}.max_stream_duration"))?;
    if let Some(n) = u32_of(max_headers_count) {
        out.max_headers_count = n as usize;
    }
    if let Some(n) = u32_of(max_response_headers_kb) {
        out.max_headers_bytes = n as usize * 1024;
    }
    if let Some(n) = u32_of(max_requests_per_connection) {
        out.max_requests_per_connection = n;
    }
    Ok(())
}

fn set_upstream(
    out: &mut HttpOptions,
    o: Option<core::UpstreamHttpProtocolOptions>,
    path: &str,
) -> Result<(), ConfigError> {
    let Some(core::UpstreamHttpProtocolOptions { auto_sni, auto_san_validation, override_auto_sni_header }) = o else {
        return Ok(());
    };
    refuse(&override_auto_sni_header, path, "override_auto_sni_header")?;
    out.auto_sni = auto_sni;
    out.auto_san_validation = auto_san_validation;
    Ok(())
}

fn set_h1(out: &mut HttpOptions, o: Option<core::Http1ProtocolOptions>, path: &str) -> Result<(), ConfigError> {
    let Some(core::Http1ProtocolOptions {
        allow_absolute_url: _,       // of requests received
        accept_http_10: _,           // of requests received; responses of HTTP/1.0 are always understood
        default_host_for_http_10: _, // of requests received
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message: _, // of requests received
        send_fully_qualified_url,
        use_balsa_parser: _,       // one parser or the other
        allow_custom_methods: _,   // of requests received
        ignore_http_11_upgrade: _, // of requests received
    }) = o
    else {
        return Ok(());
    };
    refuse(&allow_chunked_length, path, "allow_chunked_length")?;
    refuse(&send_fully_qualified_url, path, "send_fully_qualified_url")?;
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    let proper_case = match header_key_format.and_then(|f| f.header_format) {
        None => false,
        Some(HeaderFormat::ProperCaseWords(_)) => true,
        Some(HeaderFormat::StatefulFormatter(_)) => {
            return Err(ConfigError::unsupported(format!("{path}.header_key_format.stateful_formatter")));
        }
    };
    out.h1 = Http1Options { enable_trailers, proper_case };
    Ok(())
}

/// `Http2ProtocolOptions`, of either side.
pub fn http2(o: Option<core::Http2ProtocolOptions>, path: &str) -> Result<Http2Options, ConfigError> {
    let mut out = Http2Options::default();
    let Some(core::Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        // Floods are counted by the codec, with limits of its own that are at least as strict.
        max_outbound_frames: _,
        max_outbound_control_frames: _,
        max_consecutive_inbound_frames_with_empty_payload: _,
        max_inbound_priority_frames_per_stream: _,
        max_inbound_window_update_frames_per_data_frame_sent: _,
        // An invalid message ends its stream and no other, which is what this asks for.
        stream_error_on_invalid_http_messaging: _,
        override_stream_error_on_invalid_http_message: _,
        custom_settings_parameters,
        connection_keepalive,
        use_oghttp2_codec: _,        // one codec or the other
        max_metadata_size: _,        // with allow_metadata only
        enable_huffman_encoding: _,  // how, not what
        max_header_field_size_kb: _, // the limit for all headers together is lower
        disallow_obs_text,
        stream_reset_burst: _, // floods, as above
        stream_reset_rate: _,
    }) = o
    else {
        return Ok(out);
    };
    refuse(&allow_metadata, path, "allow_metadata")?;
    refuse(&custom_settings_parameters, path, "custom_settings_parameters")?;
    if bool_of(disallow_obs_text) == Some(true) {
        return Err(ConfigError::unsupported(format!("{path}.disallow_obs_text")));
    }
    if let Some(n) = u32_of(hpack_table_size) {
        out.table_size = n;
    }
    if let Some(n) = u32_of(max_concurrent_streams) {
        out.max_concurrent_streams = n;
    }
    // RFC 9113: a window is at least 65,535 at the start and at most 2^31 - 1.
    let window = |v, field: &str| match u32_of(v) {
        Some(n) if !(65_535..=0x7fff_ffff).contains(&n) => {
            Err(ConfigError::new(format!("{path}.{field}"), "expected a number from 65535 to 2147483647"))
        }
        other => Ok(other),
    };
    if let Some(n) = window(initial_stream_window_size, "initial_stream_window_size")? {
        out.stream_window = n;
    }
    if let Some(n) = window(initial_connection_window_size, "initial_connection_window_size")? {
        out.connection_window = n;
    }
    out.allow_connect = allow_connect;
    if let Some(core::KeepaliveSettings { interval, timeout, interval_jitter: _, connection_idle_interval }) =
        connection_keepalive
    {
        warn_ignored(connection_idle_interval.is_some(), path, "connection_keepalive.connection_idle_interval");
        let interval = duration(interval, &format!("{path}.connection_keepalive.interval"))?;
        let timeout = duration(timeout, &format!("{path}.connection_keepalive.timeout"))?;
        if let (Some(i), Some(t)) = (interval, timeout) {
            out.keepalive = Some((i, t));
        }
    }
    Ok(out)
}
