//! A request head: bytes → [`RequestHead`].

use bytes::{Bytes, BytesMut};
use waypost_filters::head::{Protocol, RequestHead, Scheme};

use super::body::BodyKind;
use super::error::H1Error;
use super::head::{ScanState, SpelledNames};

/// `HttpConnectionManager.common_http_protocol_options` and `http_protocol_options`, as far as they concern the codec.
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// `max_request_headers_kb` in bytes; the target counts.
    pub max_headers_bytes: usize,
    /// `max_headers_count`.
    pub max_headers_count: usize,
    /// `accept_http_10`.
    pub accept_http_10: bool,
    /// `default_host_for_http_10`, where an HTTP/1.0 request has no `Host`.
    pub default_host_for_http_10: Option<Bytes>,
    /// `allow_absolute_url`, on unless set to false.
    pub allow_absolute_url: bool,
    /// `allow_chunked_length`: a content-length beside `chunked` is dropped instead of refused.
    pub allow_chunked_length: bool,
    /// `headers_with_underscores_action`.
    pub underscores: Underscores,
    /// `allow_custom_methods`.
    pub allow_custom_methods: bool,
    /// `header_key_format: stateful_formatter preserve_case`: remember how names were spelled.
    pub preserve_case: bool,
}

/// `headers_with_underscores_action`.
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

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            max_headers_bytes: 60 * 1024,
            max_headers_count: 100,
            accept_http_10: false,
            default_host_for_http_10: None,
            allow_absolute_url: true,
            allow_chunked_length: false,
            underscores: Underscores::Allow,
            allow_custom_methods: false,
            preserve_case: false,
        }
    }
}

/// A request head and what the connection has to know of it.
#[derive(Debug)]
pub struct ParsedRequest {
    /// The request. Hop-by-hop headers are gone; `expect` is not (the connection manager answers or forwards it).
    pub head: RequestHead,
    /// The version of the request line.
    pub protocol: Protocol,
    /// How the body is framed. `UntilClose` after CONNECT and upgrades: bytes are not to be read before the peer agreed.
    pub body: BodyKind,
    /// Whether the client allows another request on this connection.
    pub keep_alive: bool,
    /// `Expect: 100-continue` is among the headers.
    pub expect_continue: bool,
    /// How many bytes the head took on the wire.
    pub header_bytes: usize,
    /// How many headers `Underscores::Drop` took away, for `dropped_headers_with_underscores`.
    pub dropped_underscores: u32,
    /// How names were spelled, if that is to be preserved.
    pub spelling: Option<SpelledNames>,
}

/// Takes a request head off `buf`; `None` if more bytes are needed. `transport` is the scheme of the connection.
pub fn parse_request(
    _buf: &mut BytesMut,
    _scan: &mut ScanState,
    _limits: &RequestLimits,
    _transport: Scheme,
) -> Result<Option<ParsedRequest>, H1Error> {
    Ok(None)
}
