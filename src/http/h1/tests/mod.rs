//! The codec against the cases recorded from Envoy 1.40 (groups A and B of the catalogue), and against itself.

mod body;
mod encode;
mod fuzz;
mod request;
mod response;

use bytes::BytesMut;
use waypost_filters::head::Scheme;

use super::*;

/// A request head whole.
fn request_with(bytes: &[u8], limits: &RequestLimits) -> Result<Option<ParsedRequest>, H1Error> {
    parse_request(&mut BytesMut::from(bytes), &mut ScanState::default(), limits, Scheme::Http)
}

/// A request that must parse.
fn accepted(bytes: &[u8]) -> ParsedRequest {
    request_with(bytes, &RequestLimits::default())
        .unwrap_or_else(|e| panic!("{e}: {}", bytes.escape_ascii()))
        .unwrap_or_else(|| panic!("incomplete: {}", bytes.escape_ascii()))
}

/// The error a request must end with.
fn refused(bytes: &[u8]) -> H1Error {
    match request_with(bytes, &RequestLimits::default()) {
        Err(error) => error,
        Ok(other) => panic!("accepted {}: {other:?}", bytes.escape_ascii()),
    }
}

/// A request with one `Host` and these header lines.
fn with_headers(lines: &[u8]) -> Vec<u8> {
    [b"POST / HTTP/1.1\r\nHost: h\r\n", lines, b"\r\n"].concat()
}

/// The headers, one `name: value` a line.
fn lines_of(headers: &::http::HeaderMap) -> Vec<String> {
    headers.iter().map(|(n, v)| format!("{n}: {}", v.as_bytes().escape_ascii())).collect()
}

/// A generator whose numbers are the same in every run.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}
