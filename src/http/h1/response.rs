//! A response head: bytes → status and headers.

use ::http::Method;
use bytes::BytesMut;
use waypost_filters::head::{Protocol, ResponseHead};

use super::body::BodyKind;
use super::error::H1Error;
use super::head::{ScanState, SpelledNames};

/// `HttpProtocolOptions` of a cluster, as far as they concern the codec.
#[derive(Clone, Debug)]
pub struct ResponseLimits {
    /// `max_response_headers_kb` in bytes.
    pub max_headers_bytes: usize,
    /// `max_headers_count`.
    pub max_headers_count: usize,
    /// `allow_chunked_length`.
    pub allow_chunked_length: bool,
    /// `header_key_format: stateful_formatter preserve_case`.
    pub preserve_case: bool,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        Self { max_headers_bytes: 60 * 1024, max_headers_count: 100, allow_chunked_length: false, preserve_case: false }
    }
}

/// A response head and what the connection has to know of it.
#[derive(Debug)]
pub struct ParsedResponse {
    /// Status and headers, without `connection`, `keep-alive`, `proxy-connection` and `transfer-encoding`.
    pub head: ResponseHead,
    /// The version of the status line.
    pub protocol: Protocol,
    /// How the body is framed; `UntilClose` after 101 and a 2xx to CONNECT.
    pub body: BodyKind,
    /// Whether the connection can take another request after the body.
    pub keep_alive: bool,
    /// 101, or 2xx to CONNECT: what follows are raw bytes.
    pub upgrade: bool,
    /// 1xx other than 101: another head follows.
    pub informational: bool,
    /// How many bytes the head took on the wire.
    pub header_bytes: usize,
    /// How names were spelled, if that is to be preserved.
    pub spelling: Option<SpelledNames>,
}

/// Takes a response head to a request of `method` off `buf`; `None` if more bytes are needed.
pub fn parse_response(
    _buf: &mut BytesMut,
    _scan: &mut ScanState,
    _method: &Method,
    _limits: &ResponseLimits,
) -> Result<Option<ParsedResponse>, H1Error> {
    Ok(None)
}
