//! `common_http_protocol_options`, `http_protocol_options` and `http2_protocol_options`.

use std::time::Duration;

use http::HeaderValue;
use waypost_xds::any;
use waypost_xds::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions, KeepaliveSettings, TypedExtensionConfig,
    http_protocol_options::HeadersWithUnderscoresAction,
    http1_protocol_options::{HeaderKeyFormat, header_key_format},
};
use waypost_xds::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use waypost_xds::google::protobuf as pb;

use super::convert::{at, boolean, duration, header, percent, timeout, uint};
use super::{HeaderCasing, Http1Options, Http2Options, Keepalive, Underscores};
use crate::config::{ConfigError, refuse, warn_ignored};

/// The part of `common_http_protocol_options` that a listener uses.
pub(super) struct Common {
    pub(super) idle: Option<Duration>,
    pub(super) max_connection_duration: Option<Duration>,
    pub(super) max_stream_duration: Option<Duration>,
    pub(super) max_headers_count: u32,
    pub(super) max_requests_per_connection: u32,
    pub(super) underscores: Underscores,
}

impl Common {
    pub(super) fn compile(proto: Option<HttpProtocolOptions>, path: &str) -> Result<Common, ConfigError> {
        let HttpProtocolOptions {
            idle_timeout,
            max_connection_duration,
            max_connection_duration_jitter,
            max_headers_count,
            max_response_headers_kb,
            max_stream_duration,
            headers_with_underscores_action,
            max_requests_per_connection,
        } = proto.unwrap_or_default();
        refuse(&max_connection_duration_jitter, path, "max_connection_duration_jitter")?;
        if max_response_headers_kb.is_some() {
            // As in Envoy: it limits what clusters read, and a listener reads no responses.
            tracing::warn!("{path}.max_response_headers_kb has no effect on a listener");
        }
        const HOUR: Duration = Duration::from_secs(3600);
        Ok(Common {
            idle: timeout(idle_timeout, Some(HOUR), path, "idle_timeout")?,
            max_connection_duration: timeout(max_connection_duration, None, path, "max_connection_duration")?,
            max_stream_duration: timeout(max_stream_duration, None, path, "max_stream_duration")?,
            max_headers_count: uint(max_headers_count, 100, 1..=u32::MAX, path, "max_headers_count")?,
            max_requests_per_connection: uint(
                max_requests_per_connection,
                0,
                0..=u32::MAX,
                path,
                "max_requests_per_connection",
            )?,
            underscores: match HeadersWithUnderscoresAction::try_from(headers_with_underscores_action) {
                Ok(HeadersWithUnderscoresAction::Allow) => Underscores::Allow,
                Ok(HeadersWithUnderscoresAction::RejectRequest) => Underscores::Reject,
                Ok(HeadersWithUnderscoresAction::DropHeader) => Underscores::Drop,
                Err(_) => return Err(ConfigError::new(at(path, "headers_with_underscores_action"), "unknown value")),
            },
        })
    }
}

impl Http1Options {
    /// `stream_error` is `stream_error_on_invalid_http_message` of the connection manager.
    #[allow(deprecated, reason = "a field that was replaced is still a field")]
    pub(super) fn compile(
        proto: Option<Http1ProtocolOptions>,
        stream_error: bool,
        path: &str,
    ) -> Result<Http1Options, ConfigError> {
        let Http1ProtocolOptions {
            allow_absolute_url,
            accept_http_10,
            default_host_for_http_10,
            header_key_format,
            enable_trailers,
            allow_chunked_length,
            override_stream_error_on_invalid_http_message,
            send_fully_qualified_url,
            use_balsa_parser,
            allow_custom_methods,
            ignore_http_11_upgrade,
        } = proto.unwrap_or_default();
        if send_fully_qualified_url {
            tracing::warn!("{path}.send_fully_qualified_url has no effect on a listener");
        }
        if !boolean(use_balsa_parser, true) {
            return Err(ConfigError::unsupported(at(path, "use_balsa_parser")));
        }
        refuse(&ignore_http_11_upgrade, path, "ignore_http_11_upgrade")?;
        Ok(Http1Options {
            allow_absolute_url: boolean(allow_absolute_url, true),
            accept_http_10,
            default_host: header(&default_host_for_http_10, path, "default_host_for_http_10")?,
            casing: casing(header_key_format, &at(path, "header_key_format"))?,
            enable_trailers,
            allow_chunked_length,
            allow_custom_methods,
            stream_error: boolean(override_stream_error_on_invalid_http_message, stream_error),
        })
    }
}

fn casing(proto: Option<HeaderKeyFormat>, path: &str) -> Result<HeaderCasing, ConfigError> {
    let Some(HeaderKeyFormat { header_format }) = proto else { return Ok(HeaderCasing::Lower) };
    match header_format {
        Some(header_key_format::HeaderFormat::ProperCaseWords(header_key_format::ProperCaseWords {})) => {
            Ok(HeaderCasing::ProperCaseWords)
        }
        Some(header_key_format::HeaderFormat::StatefulFormatter(TypedExtensionConfig { name: _, typed_config })) => {
            let path = at(path, "stateful_formatter.typed_config");
            let Some(config) = typed_config else { return Err(ConfigError::new(path, "value is required")) };
            let kind = any::type_name(&config);
            if kind != "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig" {
                return Err(ConfigError::new(path, format!("not supported yet: {kind}")));
            }
            let PreserveCaseFormatterConfig { forward_reason_phrase, formatter_type_on_envoy_headers } =
                any::unpack(&config, &path).map_err(|e| ConfigError::new(e.path, e.reason))?;
            refuse(&forward_reason_phrase, &path, "forward_reason_phrase")?;
            refuse(&formatter_type_on_envoy_headers, &path, "formatter_type_on_envoy_headers")?;
            Ok(HeaderCasing::PreserveCase)
        }
        None => Err(ConfigError::new(at(path, "header_format"), "value is required")),
    }
}

impl Http2Options {
    /// `stream_error` is `stream_error_on_invalid_http_message` of the connection manager.
    #[allow(deprecated, reason = "a field that was replaced is still a field")]
    pub(super) fn compile(
        proto: Option<Http2ProtocolOptions>,
        stream_error: bool,
        path: &str,
    ) -> Result<Http2Options, ConfigError> {
        let Http2ProtocolOptions {
            hpack_table_size,
            max_concurrent_streams,
            initial_stream_window_size,
            initial_connection_window_size,
            allow_connect,
            allow_metadata,
            max_outbound_frames,
            max_outbound_control_frames,
            max_consecutive_inbound_frames_with_empty_payload,
            max_inbound_priority_frames_per_stream,
            max_inbound_window_update_frames_per_data_frame_sent,
            stream_error_on_invalid_http_messaging,
            override_stream_error_on_invalid_http_message,
            custom_settings_parameters,
            connection_keepalive,
            use_oghttp2_codec,
            max_metadata_size,
            enable_huffman_encoding,
            max_header_field_size_kb,
            disallow_obs_text,
            stream_reset_burst,
            stream_reset_rate,
        } = proto.unwrap_or_default();
        refuse(&allow_metadata, path, "allow_metadata")?;
        refuse(&custom_settings_parameters, path, "custom_settings_parameters")?;
        refuse(&max_metadata_size, path, "max_metadata_size")?;
        refuse(&enable_huffman_encoding, path, "enable_huffman_encoding")?;
        refuse(&max_header_field_size_kb, path, "max_header_field_size_kb")?;
        refuse(&disallow_obs_text, path, "disallow_obs_text")?;
        refuse(&stream_reset_burst, path, "stream_reset_burst")?;
        refuse(&stream_reset_rate, path, "stream_reset_rate")?;
        if use_oghttp2_codec.is_some() {
            // The choice between two libraries of Envoy, of which we have neither.
            tracing::warn!("{path}.use_oghttp2_codec has no effect");
        }
        // RFC 9113 6.9.1: windows end at 2^31-1; Envoy takes none below 65535, the protocol's default.
        const WINDOW: std::ops::RangeInclusive<u32> = 65_535..=0x7fff_ffff;
        const ANY: std::ops::RangeInclusive<u32> = 0..=u32::MAX;
        let number = |value: Option<pb::UInt32Value>, default, field| uint(value, default, ANY, path, field);
        Ok(Http2Options {
            hpack_table_size: number(hpack_table_size, 4096, "hpack_table_size")?,
            max_concurrent_streams: uint(
                max_concurrent_streams,
                1024,
                1..=0x7fff_ffff,
                path,
                "max_concurrent_streams",
            )?,
            initial_stream_window: uint(
                initial_stream_window_size,
                // Envoy offers 16 MiB; what a client may send, we may have to hold when the other side reads slowly. 1 MiB is Envoy's
                // own buffer limit, and at 1 ms it carries a gigabyte each second.
                1 << 20,
                WINDOW,
                path,
                "initial_stream_window_size",
            )?,
            initial_connection_window: uint(
                initial_connection_window_size,
                24 << 20,
                WINDOW,
                path,
                "initial_connection_window_size",
            )?,
            allow_connect,
            max_outbound_frames: uint(max_outbound_frames, 10_000, 1..=u32::MAX, path, "max_outbound_frames")?,
            max_outbound_control_frames: uint(
                max_outbound_control_frames,
                1_000,
                1..=u32::MAX,
                path,
                "max_outbound_control_frames",
            )?,
            max_consecutive_empty_frames: number(
                max_consecutive_inbound_frames_with_empty_payload,
                1,
                "max_consecutive_inbound_frames_with_empty_payload",
            )?,
            max_priority_frames_per_stream: number(
                max_inbound_priority_frames_per_stream,
                100,
                "max_inbound_priority_frames_per_stream",
            )?,
            max_window_updates_per_data_frame: uint(
                max_inbound_window_update_frames_per_data_frame_sent,
                10,
                1..=u32::MAX,
                path,
                "max_inbound_window_update_frames_per_data_frame_sent",
            )?,
            stream_error: match override_stream_error_on_invalid_http_message {
                Some(pb::BoolValue { value }) => value,
                None => stream_error || stream_error_on_invalid_http_messaging,
            },
            keepalive: keepalive(connection_keepalive, &at(path, "connection_keepalive"))?,
        })
    }
}

fn keepalive(proto: Option<KeepaliveSettings>, path: &str) -> Result<Option<Keepalive>, ConfigError> {
    let Some(KeepaliveSettings { interval, timeout: wait, interval_jitter, connection_idle_interval }) = proto else {
        return Ok(None);
    };
    const LEAST: Duration = Duration::from_millis(1);
    let within = |value: Option<pb::Duration>, field| match duration(value, path, field)? {
        Some(d) if d < LEAST => Err(ConfigError::new(at(path, field), "value must be at least 0.001s")),
        d => Ok(d),
    };
    let Some(wait) = within(wait, "timeout")? else {
        return Err(ConfigError::new(at(path, "timeout"), "value is required"));
    };
    warn_ignored(interval_jitter.is_some(), path, "interval_jitter");
    warn_ignored(connection_idle_interval.is_some(), path, "connection_idle_interval");
    Ok(Some(Keepalive {
        interval: within(interval, "interval")?,
        timeout: wait,
        jitter: percent(interval_jitter, 1500, path, "interval_jitter")?,
        idle_interval: within(connection_idle_interval, "connection_idle_interval")?,
    }))
}

/// `server_name` where there is none.
pub(super) const DEFAULT_SERVER_NAME: HeaderValue = HeaderValue::from_static("envoy");
