//! What is compiled from `envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`.
//!
//! Everything a request needs is here as plain data: names are header values, sizes are bytes, times are durations, and what is
//! switched off is `None`.

mod compile;
mod convert;
pub mod local_reply;
mod mapper_filter;
mod protocol;
mod shared;
pub mod stats;
#[cfg(test)]
pub(crate) mod tests;

pub use self::compile::TRACERS;
pub use self::shared::KnownSettings;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use waypost_filters::access_log::AccessLog;
use waypost_filters::head::Scheme;

use crate::http::chain_slot::ChainSlot;
use crate::route::slot::Routes;
use local_reply::LocalReplyConfig;
use stats::Stats;

/// A compiled `HttpConnectionManager`. It reads as its settings do.
#[derive(Debug)]
pub struct HttpConnectionManager {
    /// All but the routes. Thousands of filter chains of a waypoint differ in nothing but these, and share one of them.
    pub settings: Arc<Settings>,
    /// `route_config` or `rds`
    pub routes: Routes,
}

impl std::ops::Deref for HttpConnectionManager {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

/// What a connection manager is configured to do with any request.
#[derive(Debug)]
pub struct Settings {
    /// `codec_type`
    pub codec: Codec,
    /// `stat_prefix`
    pub stat_prefix: Arc<str>,
    /// Everything under `http.<stat_prefix>.`.
    pub stats: Stats,
    /// All its timeouts.
    pub timeouts: Timeouts,
    /// Limits on heads and connections.
    pub limits: Limits,
    /// `http_protocol_options`
    pub http1: Http1Options,
    /// `http2_protocol_options`
    pub http2: Http2Options,
    /// `server_name` and `server_header_transformation`
    pub server: ServerHeader,
    /// `scheme_header_transformation.scheme_to_overwrite`
    pub scheme_to_overwrite: Option<Scheme>,
    /// `scheme_header_transformation.match_upstream`: the scheme becomes that of the upstream connection.
    pub scheme_match_upstream: bool,
    /// `via`
    pub via: Option<HeaderValue>,
    /// `add_user_agent`: the value of `user-agent` and `x-envoy-downstream-service-cluster`, and of `…-service-node`.
    pub user_agent: Option<UserAgent>,
    /// Who the client is.
    pub client: ClientAddress,
    /// `x-request-id`.
    pub request_id: RequestId,
    /// `tracing`: without a provider only what it does to the request id.
    pub tracing: Option<Sampling>,
    /// `x-forwarded-client-cert`.
    pub xfcc: Xfcc,
    /// What is done to `:path`.
    pub path: PathOptions,
    /// What is done to `:authority`.
    pub host: HostOptions,
    /// `proxy_100_continue`: `Expect: 100-continue` goes upstream rather than being answered here.
    pub proxy_100_continue: bool,
    /// `upgrade_configs`
    pub upgrades: Vec<UpgradeConfig>,
    /// `local_reply_config`
    pub local_reply: LocalReplyConfig,
    /// `access_log`
    pub access_logs: Vec<AccessLog>,
    /// When lines are written before the end.
    pub access_log_options: AccessLogOptions,
    /// `http_filters`: the chain of a route that overrides nothing.
    pub chain: ChainSlot,
}

/// `codec_type`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// `AUTO`: by ALPN, or by the first bytes.
    Auto,
    /// `HTTP1`
    Http1,
    /// `HTTP2`
    Http2,
}

/// Timeouts; `None` is "disabled".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// `stream_idle_timeout`, 5 minutes by default.
    pub stream_idle: Option<Duration>,
    /// `stream_flush_timeout`; the stream idle timeout by default.
    pub stream_flush: Option<Duration>,
    /// `request_timeout`
    pub request: Option<Duration>,
    /// `request_headers_timeout`
    pub request_headers: Option<Duration>,
    /// `common_http_protocol_options.idle_timeout`, 1 hour by default.
    pub connection_idle: Option<Duration>,
    /// `common_http_protocol_options.max_connection_duration`
    pub max_connection_duration: Option<Duration>,
    /// `common_http_protocol_options.max_stream_duration`
    pub max_stream_duration: Option<Duration>,
    /// `drain_timeout`, 5 s by default.
    pub drain: Duration,
    /// `delayed_close_timeout`, 1 s by default.
    pub delayed_close: Option<Duration>,
}

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `max_request_headers_kb`, 60 by default, in bytes.
    pub max_request_headers_bytes: usize,
    /// `common_http_protocol_options.max_headers_count`, 100 by default.
    pub max_headers_count: usize,
    /// `common_http_protocol_options.max_requests_per_connection`; 0 is no limit.
    pub max_requests_per_connection: u32,
    /// `common_http_protocol_options.headers_with_underscores_action`
    pub underscores: Underscores,
    /// `http1_safe_max_connection_duration`: HTTP/1 connections are closed only after a response that says so.
    pub http1_safe_max_connection_duration: bool,
}

/// `headers_with_underscores_action`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// `ALLOW`
    #[default]
    Allow,
    /// `REJECT_REQUEST`
    Reject,
    /// `DROP_HEADER`
    Drop,
}

/// `http_protocol_options`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http1Options {
    /// `allow_absolute_url`, true by default.
    pub allow_absolute_url: bool,
    /// `accept_http_10`
    pub accept_http_10: bool,
    /// `default_host_for_http_10`
    pub default_host: Option<HeaderValue>,
    /// `header_key_format`
    pub casing: HeaderCasing,
    /// `enable_trailers`
    pub enable_trailers: bool,
    /// `allow_chunked_length`
    pub allow_chunked_length: bool,
    /// `allow_custom_methods`
    pub allow_custom_methods: bool,
    /// `override_stream_error_on_invalid_http_message`: the connection outlives a request that is refused.
    pub stream_error: bool,
}

/// `header_key_format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderCasing {
    /// Lower case.
    #[default]
    Lower,
    /// `proper_case_words`
    ProperCaseWords,
    /// `envoy.http.stateful_header_formatters.preserve_case`
    PreserveCase,
}

/// `http2_protocol_options`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Options {
    /// `hpack_table_size`, 4096 by default.
    pub hpack_table_size: u32,
    /// `max_concurrent_streams`, 1024 by default.
    pub max_concurrent_streams: u32,
    /// `initial_stream_window_size`, 1 MiB by default where Envoy has 16: it bounds what is held for a stream.
    pub initial_stream_window: u32,
    /// `initial_connection_window_size`, 24 MiB by default.
    pub initial_connection_window: u32,
    /// `allow_connect`: extended CONNECT.
    pub allow_connect: bool,
    /// `max_outbound_frames`, 10000 by default.
    pub max_outbound_frames: u32,
    /// `max_outbound_control_frames`, 1000 by default.
    pub max_outbound_control_frames: u32,
    /// `max_consecutive_inbound_frames_with_empty_payload`, 1 by default.
    pub max_consecutive_empty_frames: u32,
    /// `max_inbound_priority_frames_per_stream`, 100 by default.
    pub max_priority_frames_per_stream: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`, 10 by default.
    pub max_window_updates_per_data_frame: u32,
    /// `override_stream_error_on_invalid_http_message`
    pub stream_error: bool,
    /// `connection_keepalive`
    pub keepalive: Option<Keepalive>,
}

/// `connection_keepalive`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// `interval`; without one PINGs are sent only after `idle_interval`.
    pub interval: Option<Duration>,
    /// `timeout`
    pub timeout: Duration,
    /// `interval_jitter`, as a part of the interval of 10000; 15 % by default.
    pub jitter: u16,
    /// `connection_idle_interval`
    pub idle_interval: Option<Duration>,
}

/// `server_name` and what is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHeader {
    /// `server_name`, `envoy` by default.
    pub name: HeaderValue,
    /// `server_header_transformation`
    pub mode: ServerMode,
}

/// `server_header_transformation`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerMode {
    /// `OVERWRITE`
    #[default]
    Overwrite,
    /// `APPEND_IF_ABSENT`
    AppendIfAbsent,
    /// `PASS_THROUGH`
    PassThrough,
}

/// `add_user_agent`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserAgent {
    /// The cluster of this process (`--service-cluster`).
    pub cluster: HeaderValue,
    /// The node id of this process (`--service-node`), if it has one.
    pub node: Option<HeaderValue>,
}

/// How the client's address is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// `use_remote_address`
    pub use_remote_address: bool,
    /// `xff_num_trusted_hops`
    pub trusted_hops: u32,
    /// `skip_xff_append`
    pub skip_xff_append: bool,
    /// `append_x_forwarded_port`
    pub append_port: bool,
    /// `represent_ipv4_remote_address_as_ipv4_mapped_ipv6`
    pub ipv4_as_ipv6: bool,
    /// `internal_address_config`; nobody is internal without it.
    pub internal: InternalAddresses,
    /// The address of this host, which stands for loopback peers in `x-forwarded-for`.
    pub local_address: IpAddr,
}

/// `internal_address_config`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InternalAddresses {
    /// `unix_sockets`
    pub unix_sockets: bool,
    /// `cidr_ranges`
    pub ranges: Vec<Cidr>,
}

/// `config.core.v3.CidrRange`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// `address_prefix`
    pub address: IpAddr,
    /// `prefix_len`
    pub prefix_len: u8,
}

/// The options about `x-request-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// `generate_request_id`, true by default.
    pub generate: bool,
    /// `preserve_external_request_id`
    pub preserve_external: bool,
    /// `always_set_request_id_in_response`
    pub always_in_response: bool,
    /// `pack_trace_reason` of `UuidRequestIdConfig`, true by default.
    pub pack_trace_reason: bool,
    /// `use_request_id_for_trace_sampling` of `UuidRequestIdConfig`, true by default.
    pub sample_by_id: bool,
}

/// `tracing`, as far as it marks request ids; each a part of 10000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// `client_sampling`, 100 % by default.
    pub client: u16,
    /// `random_sampling`, 100 % by default.
    pub random: u16,
    /// `overall_sampling`, 100 % by default.
    pub overall: u16,
}

/// `forward_client_cert_details` and `set_current_client_cert_details`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Xfcc {
    /// `forward_client_cert_details`
    pub mode: XfccMode,
    /// `subject`
    pub subject: bool,
    /// `cert`
    pub cert: bool,
    /// `chain`
    pub chain: bool,
    /// `dns`
    pub dns: bool,
    /// `uri`
    pub uri: bool,
    /// `issuer`
    pub issuer: bool,
}

/// `forward_client_cert_details`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XfccMode {
    /// `SANITIZE`
    #[default]
    Sanitize,
    /// `FORWARD_ONLY`
    ForwardOnly,
    /// `APPEND_FORWARD`
    AppendForward,
    /// `SANITIZE_SET`
    SanitizeSet,
    /// `ALWAYS_FORWARD_ONLY`
    AlwaysForwardOnly,
}

/// What is done to `:path`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathOptions {
    /// `normalize_path`
    pub normalize: bool,
    /// `merge_slashes`
    pub merge_slashes: bool,
    /// `path_with_escaped_slashes_action`
    pub escaped_slashes: EscapedSlashes,
    /// `envoy.reloadable_features.http_reject_path_with_fragment` is false: a fragment is cut off rather than refused.
    pub strip_fragment: bool,
}

/// `path_with_escaped_slashes_action`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// `KEEP_UNCHANGED`, also the implementation-specific default.
    #[default]
    Keep,
    /// `REJECT_REQUEST`
    Reject,
    /// `UNESCAPE_AND_REDIRECT`
    UnescapeAndRedirect,
    /// `UNESCAPE_AND_FORWARD`
    UnescapeAndForward,
}

/// What is done to `:authority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostOptions {
    /// `strip_matching_host_port`, `strip_any_host_port`
    pub strip_port: StripPort,
    /// `strip_trailing_host_dot`
    pub strip_trailing_dot: bool,
}

/// Which ports are taken off `:authority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    /// None.
    #[default]
    Never,
    /// `strip_matching_host_port`: the listener's own.
    Matching,
    /// `strip_any_host_port`
    Any,
}

/// One of `upgrade_configs`.
#[derive(Clone, Debug)]
pub struct UpgradeConfig {
    /// `upgrade_type`, compared without regard to case.
    pub kind: Arc<str>,
    /// `enabled`, true by default.
    pub enabled: bool,
    /// `filters`, where the upgrade has a chain of its own.
    pub chain: Option<ChainSlot>,
}

/// `access_log_options`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccessLogOptions {
    /// `access_log_flush_interval`
    pub flush_interval: Option<Duration>,
    /// `flush_access_log_on_new_request`
    pub flush_on_new_request: bool,
    /// `flush_log_on_tunnel_successfully_established`
    pub flush_on_tunnel: bool,
}

impl Cidr {
    /// Whether an address is in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        fn bits(ip: IpAddr) -> (u128, u32) {
            match ip {
                IpAddr::V4(a) => (u128::from(u32::from(a)), 32),
                IpAddr::V6(a) => (u128::from(a), 128),
            }
        }
        let ((a, width), (b, other)) = (bits(self.address), bits(ip));
        let free = width.saturating_sub(u32::from(self.prefix_len));
        width == other && (free >= width || a >> free == b >> free)
    }
}
