//! What the codec says when a peer breaks the protocol: Envoy's status, body and `%RESPONSE_CODE_DETAILS%`.

use ::http::StatusCode;

/// A protocol error of HTTP/1. The connection is closed after it: framing can no longer be trusted.
///
/// On a response of an upstream only `details` matters: the stream ends as 502 `UPE`, `protocol error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("HTTP/1 protocol error: {details}")]
pub struct H1Error {
    /// The status of the local reply.
    pub status: StatusCode,
    /// The body of the local reply; `text/plain`, or none at all if it is empty.
    pub body: &'static str,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub details: &'static str,
    /// Whether the access log gets the response flag `DPE`.
    pub flag_dpe: bool,
    /// Whether the request was refused before Envoy would have decoded its head: the access log then has no method, path or protocol.
    pub before_head: bool,
}

impl H1Error {
    const fn bad_request(details: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, body: "Bad Request", details, flag_dpe: true, before_head: true }
    }

    /// Whatever the tokenizer does not take.
    pub const CODEC: Self = Self::bad_request("http1.codec_error");
    /// A control character or NUL in a header value.
    pub const INVALID_CHARACTERS: Self = Self::bad_request("http1.invalid_characters");
    /// A target that is neither a path, `*` with OPTIONS, nor a URL with an authority.
    pub const INVALID_URL: Self = Self::bad_request("http1.invalid_url");
    /// A URL whose scheme is neither `http` nor `https`.
    pub const INVALID_SCHEME: Self = Self::bad_request("http1.invalid_scheme");
    /// A `Host` with characters no authority has.
    pub const INVALID_AUTHORITY: Self = Self::bad_request("http.invalid_authority");
    /// `headers_with_underscores_action: REJECT_REQUEST`.
    pub const UNDERSCORE: Self = Self::bad_request("http1.unexpected_underscore");
    /// Both lengths in one message, the classic of request smuggling.
    pub const LENGTH_AND_CHUNKED: Self = Self::bad_request("http1.content_length_and_chunked_not_allowed");
    /// `Connection` names a header that must not be taken away by a client.
    pub const CONNECTION_REJECTED: Self = Self::bad_request("http1.connection_header_rejected");
    /// CONNECT with a content-length other than 0.
    pub const BODY_DISALLOWED: Self = Self::bad_request("http1.body_disallowed");
    /// A transfer coding other than exactly one `chunked`.
    pub const TRANSFER_ENCODING: Self = Self {
        status: StatusCode::NOT_IMPLEMENTED,
        body: "Not Implemented",
        ..Self::bad_request("http1.invalid_transfer_encoding")
    };
    /// HTTP/1.0 without `accept_http_10`, and any other version.
    pub const LOW_VERSION: Self =
        Self { status: StatusCode::UPGRADE_REQUIRED, body: "Upgrade Required", ..Self::bad_request("low_version") };
    /// More bytes than `max_request_headers_kb`.
    pub const HEADERS_TOO_LARGE: Self = Self {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        body: "Request Header Fields Too Large",
        ..Self::bad_request("http1.headers_too_large")
    };
    /// More headers than `max_headers_count`.
    pub const TOO_MANY_HEADERS: Self = Self {
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        body: "Request Header Fields Too Large",
        ..Self::bad_request("http1.too_many_headers")
    };

    /// The same for an error in a body: method and path are known by then.
    pub(super) const fn in_body(self) -> Self {
        Self { before_head: false, ..self }
    }
}
