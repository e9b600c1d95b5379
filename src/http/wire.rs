//! What HTTP/2 messages take on the wire, for `%…WIRE_BYTES…%` in logs.
//!
//! The `h2` crate does not tell. Bodies are counted, with 9 bytes for each frame; header blocks are reckoned as HPACK codes them the it. Only
//! done where there is a log to show it.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use waypost_filters::head::RequestHead;

/// The head of every frame (RFC 9113, 4.1).
pub const FRAME: u64 = 9;

/// The payload of a DATA frame unless a peer asks for more.
const MAX_FRAME: u64 = 16 * 1024;

/// The bytes of a body's piece in its DATA frames.
pub fn data(len: usize) -> u64 {
    let len = len as u64;
    len + FRAME * len.div_ceil(MAX_FRAME).max(1)
}

/// How a header block is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// By a client, who may or may not use Huffman's code and an index: text is taken as it is.
    Client,
    /// By us, the first time on a connection.
    First,
    /// By us, later: both tables know all but what changes with each request.
    Again,
}

/// The bytes of a request's HEADERS frame.
pub fn request_head(head: &RequestHead, coding: Coding) -> u64 {
    // GET and POST are in the static table, and so are both schemes.
    let method = match head.method {
        Method::GET | Method::POST => 1,
        _ => literal(head.method.as_str().len(), coding),
    };
    let target = match &head.path {
        Some(path) if path == "/" => 2,
        Some(path) => 1 + literal(path.len(), coding),
        None => 0,
    };
    let authority = match &head.authority {
        Some(_) if coding == Coding::Again => 1,
        Some(authority) => literal(authority.len(), coding),
        None => 0,
    };
    FRAME + method + target + authority + fields(&head.headers, coding)
}

/// The bytes of a response's HEADERS frame.
pub fn response_head(status: StatusCode, headers: &HeaderMap) -> u64 {
    let status =
        if matches!(status.as_u16(), 200 | 204 | 206 | 304 | 400 | 404 | 500) { 1 } else { literal(3, Coding::First) };
    FRAME + status + fields(headers, Coding::First)
}

/// The bytes of trailers.
pub fn trailers(headers: &HeaderMap) -> u64 {
    FRAME + fields(headers, Coding::First)
}

fn fields(headers: &HeaderMap, coding: Coding) -> u64 {
    let field = |(name, value): (&HeaderName, &HeaderValue)| match coding {
        Coding::Again if !changes(name) => 1,
        Coding::Again => literal(value.len(), coding),
        _ if is_static(name) => literal(value.len(), coding),
        _ => literal(value.len(), coding) + text(name.as_str().len(), coding),
    };
    headers.iter().map(field).sum()
}

/// An indexed name with a literal value.
fn literal(len: usize, coding: Coding) -> u64 {
    1 + text(len, coding)
}

/// A string: its length, and its bytes, which take three quarters of a byte each in Huffman's code.
fn text(len: usize, coding: Coding) -> u64 {
    1 + if coding == Coding::Client { len as u64 } else { (len as u64 * 3).div_ceil(4) }
}

/// Headers whose value is another one with every request.
fn changes(name: &HeaderName) -> bool {
    const CHANGING: [HeaderName; 5] = [
        header::CONTENT_LENGTH,
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("traceparent"),
        HeaderName::from_static("x-b3-traceid"),
        HeaderName::from_static("x-b3-spanid"),
    ];
    CHANGING.contains(name)
}

/// Names of RFC 7541's static table that proxied messages often have.
fn is_static(name: &HeaderName) -> bool {
    const STATIC: [HeaderName; 18] = [
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::ACCEPT_LANGUAGE,
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::DATE,
        header::ETAG,
        header::LAST_MODIFIED,
        header::LOCATION,
        header::REFERER,
        header::SERVER,
        header::SET_COOKIE,
        header::USER_AGENT,
        header::VIA,
    ];
    STATIC.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_counted() {
        assert_eq!(data(0), 9);
        assert_eq!(data(5), 14);
        assert_eq!(data(16 * 1024), 16 * 1024 + 9);
        assert_eq!(data(16 * 1024 + 1), 16 * 1024 + 1 + 18);
    }

    #[test]
    fn heads_are_reckoned() {
        let mut headers = HeaderMap::new();
        assert_eq!(response_head(StatusCode::OK, &headers), 10);
        headers.insert(header::SERVER, HeaderValue::from_static("envoy"));
        assert_eq!(response_head(StatusCode::OK, &headers), 10 + 2 + 4);
        headers.insert("x-four", HeaderValue::from_static("abcd"));
        assert_eq!(response_head(StatusCode::OK, &headers), 16 + 2 + 3 + 1 + 5);
        assert_eq!(fields(&headers, Coding::Client), 2 + 5 + 2 + 4 + 1 + 6);
        headers.insert("x-request-id", HeaderValue::from_static("12345678"));
        assert_eq!(fields(&headers, Coding::Again), 1 + 1 + 2 + 6);
    }
}
