//! The head of a message: the pseudo headers and the headers, the same for HTTP/1 and HTTP/2.

use ::http::{HeaderMap, HeaderValue, Method, StatusCode};

/// A protocol that a stream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.0, where `accept_http_10` lets it in.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// As `%PROTOCOL%` prints it.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Http10 => "HTTP/1.0",
            Protocol::Http11 => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
        }
    }
}

/// The head of a request. `authority` and `path` are bytes that are valid as a header value; `Host` is never among `headers`.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// `:method`.
    pub method: Method,
    /// `:scheme`: `http` or `https` (others are refused by the codec or the connection manager).
    pub scheme: Scheme,
    /// `:authority` or `Host`; may be empty, absent only where the client sent none.
    pub authority: Option<HeaderValue>,
    /// `:path` with its query; none for CONNECT.
    pub path: Option<HeaderValue>,
    /// What a request asks to be upgraded to: the `Upgrade` header of HTTP/1, `:protocol` of HTTP/2. CONNECT itself is in `method`.
    pub upgrade: Option<HeaderValue>,
    /// All other headers, names in lower case.
    pub headers: HeaderMap,
    /// The path and authority as they came, where routing has rewritten them.
    pub original_path: Option<HeaderValue>,
}

/// `:scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// The scheme in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

impl RequestHead {
    /// The path as bytes; empty for CONNECT.
    pub fn path_bytes(&self) -> &[u8] {
        self.path.as_ref().map_or(&[], |p| p.as_bytes())
    }

    /// The path up to `?`.
    pub fn path_without_query(&self) -> &[u8] {
        let path = self.path_bytes();
        memchr::memchr(b'?', path).and_then(|at| path.get(..at)).unwrap_or(path)
    }

    /// The authority as bytes; empty if there is none.
    pub fn authority_bytes(&self) -> &[u8] {
        self.authority.as_ref().map_or(&[], |p| p.as_bytes())
    }

    /// Whether this is a gRPC request: content-type `application/grpc` or `application/grpc+…`.
    pub fn is_grpc(&self) -> bool {
        self.headers.get(::http::header::CONTENT_TYPE).is_some_and(|v| is_grpc_content_type(v.as_bytes()))
    }

    /// Whether this is a CONNECT (of HTTP/1, or of HTTP/2 without `:protocol`).
    pub fn is_connect(&self) -> bool {
        self.method == Method::CONNECT
    }
}

/// `application/grpc` or `application/grpc+…`, and not grpc-web.
pub fn is_grpc_content_type(value: &[u8]) -> bool {
    match value.strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest.first() == Some(&b'+'),
        None => false,
    }
}

/// The head of a response.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// `:status`.
    pub status: StatusCode,
    /// All headers, names in lower case.
    pub headers: HeaderMap,
}
