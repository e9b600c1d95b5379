//! Operators on the heads of messages.

use ::http::header::{HOST, UPGRADE};
use ::http::{HeaderMap, HeaderName, HeaderValue};

use super::operator::append;
use super::{FormatContext, FormatError};
use crate::head::{RequestHead, ResponseHead};

/// `REQ(X?Y)`, `RESP(X?Y)`, `TRAILER(X?Y)`, `REQ_WITHOUT_QUERY(X?Y)`.
#[derive(Clone, Debug)]
pub(super) struct HeaderOp {
    pub part: MessagePart,
    pub main: Key,
    pub alternative: Key,
    pub without_query: bool,
}

/// Where a header is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessagePart {
    Request,
    Response,
    Trailers,
}

/// A header, or what Envoy holds as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// No name: never there.
    None,
    Method,
    Scheme,
    Path,
    Authority,
    Status,
    /// `x-envoy-original-path`
    OriginalPath,
    /// `upgrade` and `:protocol`
    Upgrade,
    Name(HeaderName),
    /// A header of which Envoy holds one value; several lines are joined by commas.
    Joined(HeaderName),
}

/// `PATH(X:Y)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathOp {
    pub query: bool,
    pub source: Source,
}

/// Whether the value before rewriting is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Original,
    Current,
    OriginalOrCurrent,
}

/// `QUERY_PARAM(X)` and `QUERY_PARAMS(X)`.
#[derive(Clone, Debug)]
pub(super) enum QueryOp {
    Param(Box<str>),
    All { decoded: bool },
}

/// `REQUESTED_SERVER_NAME(X:Y)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerNameOp {
    pub order: ServerNameOrder,
    pub host: Source,
}

/// `X` of `REQUESTED_SERVER_NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerNameOrder {
    SniOnly,
    SniFirst,
    HostFirst,
}

/// Whether Envoy keeps this header as a single value, so that a second one is appended to it with a comma (its inline headers).
pub(super) fn is_joined(name: &HeaderName) -> bool {
    // The O(1) headers of Envoy's header maps, those that filters register among them.
    matches!(
        name.as_str(),
        "accept"
            | "accept-encoding"
            | "access-control-allow-credentials"
            | "access-control-allow-headers"
            | "access-control-allow-methods"
            | "access-control-allow-origin"
            | "access-control-expose-headers"
            | "access-control-max-age"
            | "access-control-request-headers"
            | "access-control-request-method"
            | "age"
            | "authorization"
            | "cache-control"
            | "cache-status"
            | "connection"
            | "content-encoding"
            | "content-length"
            | "content-type"
            | "date"
            | "etag"
            | "expires"
            | "grpc-accept-encoding"
            | "grpc-message"
            | "grpc-status"
            | "grpc-timeout"
            | "if-match"
            | "if-modified-since"
            | "if-none-match"
            | "if-range"
            | "if-unmodified-since"
            | "keep-alive"
            | "last-modified"
            | "location"
            | "origin"
            | "pragma"
            | "proxy-connection"
            | "referer"
            | "server"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "user-agent"
            | "vary"
            | "via"
            | "x-client-trace-id"
            | "x-forwarded-client-cert"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-forwarded-proto"
            | "x-request-id"
    ) || name.as_str().starts_with("x-envoy-")
}

impl Key {
    /// A name as operators give it.
    pub fn parse(name: &str) -> Result<Key, FormatError> {
        let name = name.to_ascii_lowercase();
        Ok(match name.as_str() {
            "" => Key::None,
            ":method" => Key::Method,
            ":scheme" => Key::Scheme,
            ":path" => Key::Path,
            ":authority" | "host" => Key::Authority,
            ":status" => Key::Status,
            ":protocol" | "upgrade" => Key::Upgrade,
            "x-envoy-original-path" => Key::OriginalPath,
            name => match HeaderName::from_bytes(name.strip_prefix(':').unwrap_or(name).as_bytes()) {
                Ok(_) if name.starts_with(':') => Key::None,
                Ok(name) if is_joined(&name) => Key::Joined(name),
                Ok(name) => Key::Name(name),
                Err(_) => {
                    return Err(FormatError(
                        "Invalid header configuration. Format string contains invalid characters.".to_owned(),
                    ));
                }
            },
        })
    }
}

impl HeaderOp {
    pub fn text(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let found = self.find(&self.main, cx, out) || self.find(&self.alternative, cx, out);
        if self.without_query
            && let Some(at) = out.get(start..).and_then(|text| memchr::memchr(b'?', text))
        {
            out.truncate(start + at);
        }
        found
    }

    fn find(&self, key: &Key, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        match self.part {
            MessagePart::Request => cx.request.is_some_and(|r| request_header(r, key, out)),
            MessagePart::Response => cx.response.is_some_and(|r| response_header(r, key, out)),
            MessagePart::Trailers => cx.trailers.is_some_and(|t| plain_header(t, key, out)),
        }
    }
}

fn request_header(request: &RequestHead, key: &Key, out: &mut Vec<u8>) -> bool {
    match key {
        Key::Method => append(out, request.method.as_str().as_bytes()),
        Key::Scheme => append(out, request.scheme.as_str().as_bytes()),
        Key::Path => value(request.path.as_ref(), out),
        Key::Authority => value(request.authority.as_ref(), out),
        Key::OriginalPath => value(original_path(request), out),
        Key::Upgrade => value(request.headers.get(UPGRADE).or(request.upgrade.as_ref()), out),
        key => plain_header(&request.headers, key, out),
    }
}

fn response_header(response: &ResponseHead, key: &Key, out: &mut Vec<u8>) -> bool {
    match key {
        Key::Status => append(out, response.status.as_str().as_bytes()),
        key => plain_header(&response.headers, key, out),
    }
}

fn plain_header(headers: &HeaderMap, key: &Key, out: &mut Vec<u8>) -> bool {
    match key {
        Key::Name(name) => value(headers.get(name), out),
        Key::Upgrade => value(headers.get(UPGRADE), out),
        Key::OriginalPath => value(headers.get(ORIGINAL_PATH), out),
        Key::Authority => value(headers.get(HOST), out),
        Key::Joined(name) => {
            let mut values = headers.get_all(name).iter();
            if !value(values.next(), out) {
                return false;
            }
            for more in values {
                out.push(b',');
                out.extend_from_slice(more.as_bytes());
            }
            true
        }
        _ => false,
    }
}

fn value(value: Option<&HeaderValue>, out: &mut Vec<u8>) -> bool {
    value.is_some_and(|v| append(out, v.as_bytes()))
}

/// `x-envoy-original-path`
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// `x-envoy-original-host`
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

/// Only the header: with `suppress_envoy_headers` a rewritten path has no original.
fn original_path(request: &RequestHead) -> Option<&HeaderValue> {
    request.headers.get(ORIGINAL_PATH)
}

impl PathOp {
    pub fn text(self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let Some(request) = cx.request else { return false };
        let path = match self.source {
            Source::Original => original_path(request),
            Source::Current => request.path.as_ref(),
            Source::OriginalOrCurrent => original_path(request).or(request.path.as_ref()),
        };
        let Some(path) = path else { return false };
        let path = path.as_bytes();
        let end = if self.query { None } else { memchr::memchr(b'?', path) };
        append(out, end.and_then(|at| path.get(..at)).unwrap_or(path))
    }
}

impl QueryOp {
    pub fn text(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let Some(path) = cx.request.map(RequestHead::path_bytes) else { return false };
        let Some(query) = memchr::memchr(b'?', path).and_then(|at| path.get(at + 1..)) else { return false };
        // A fragment is no part of the query.
        let query = query.split(|b| *b == b'#').next().unwrap_or_default();
        match self {
            QueryOp::All { decoded: false } => append(out, query),
            QueryOp::All { decoded: true } => {
                decode(query, out, false);
                true
            }
            QueryOp::Param(name) => {
                let start = out.len();
                let found = query.split(|b| *b == b'&').find_map(|pair| {
                    let mut parts = pair.splitn(2, |b| *b == b'=');
                    decode(parts.next().unwrap_or_default(), out, true);
                    let is_it = out.get(start..) == Some(name.as_bytes());
                    out.truncate(start);
                    is_it.then(|| parts.next().unwrap_or_default())
                });
                if let Some(value) = found {
                    decode(value, out, true);
                }
                found.is_some()
            }
        }
    }
}

/// Percent-decodes. A `%` without two hex digits stays, or is left out where Envoy leaves it out.
fn decode(text: &[u8], out: &mut Vec<u8>, keep_stray: bool) {
    let hex = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                out.push(hex(high).unwrap_or_default() << 4 | hex(low).unwrap_or_default());
                rest = after;
            }
            (b'%', _) if !keep_stray => {}
            _ => out.push(*first),
        }
    }
}

impl ServerNameOp {
    pub fn text(self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let sni = |out: &mut Vec<u8>| {
            cx.info.connection.server_name.as_ref().is_some_and(|n| !n.is_empty() && append(out, n.as_bytes()))
        };
        let host = |out: &mut Vec<u8>| {
            let Some(request) = cx.request else { return false };
            let original = request.headers.get(ORIGINAL_HOST);
            let host = match self.host {
                Source::Original => original,
                Source::Current => request.authority.as_ref(),
                Source::OriginalOrCurrent => original.or(request.authority.as_ref()),
            };
            host.is_some_and(|h| !h.is_empty() && append(out, h.as_bytes()))
        };
        match self.order {
            ServerNameOrder::SniOnly => sni(out),
            ServerNameOrder::SniFirst => sni(out) || host(out),
            ServerNameOrder::HostFirst => host(out) || sni(out),
        }
    }
}

/// Bytes of all names and values (`HeaderMap::byteSize`).
pub(crate) fn byte_size(headers: &HeaderMap) -> i64 {
    headers.iter().map(|(n, v)| size(n.as_str(), v.len())).sum()
}

/// The same of a request, pseudo headers included.
pub(crate) fn request_size(request: &RequestHead) -> i64 {
    let of = |name, value: Option<&HeaderValue>| value.map_or(0, |v| size(name, v.len()));
    size(":method", request.method.as_str().len())
        + size(":scheme", request.scheme.as_str().len())
        + of(":authority", request.authority.as_ref())
        + of(":path", request.path.as_ref())
        + byte_size(&request.headers)
}

/// The same of a response.
pub(crate) fn response_size(response: &ResponseHead) -> i64 {
    size(":status", 3) + byte_size(&response.headers)
}

fn size(name: &str, value: usize) -> i64 {
    i64::try_from(name.len().saturating_add(value)).unwrap_or_default()
}
