//! Heads, chunks and trailers → bytes.

use ::http::{HeaderMap, StatusCode};
use bytes::BytesMut;
use waypost_filters::head::{Protocol, RequestHead};

use super::head::SpelledNames;

/// How the body that follows is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body and nothing said about one.
    None,
    /// `content-length` is already among the headers.
    Headers,
    /// `content-length` is written from this number; one among the headers is skipped.
    Length(u64),
    /// `transfer-encoding: chunked` is written; `content-length` among the headers is skipped.
    Chunked,
}

/// `header_key_format`.
#[derive(Clone, Copy, Debug, Default)]
pub enum Casing<'a> {
    /// Lower case, the default.
    #[default]
    Lower,
    /// `proper_case_words`.
    ProperWords,
    /// `preserve_case`: as the other side spelled them; lower case for names of our own.
    Preserve(&'a SpelledNames),
}

/// Writes a request head.
pub fn encode_request(_head: &RequestHead, _framing: Framing, _casing: Casing<'_>, _out: &mut BytesMut) {}

/// Writes a response head. `close` writes `connection: close`; `upgrade` writes `connection: upgrade` beside an `upgrade` header.
pub fn encode_response(
    _status: StatusCode,
    _headers: &HeaderMap,
    _framing: Framing,
    _connection: Connection,
    _protocol: Protocol,
    _casing: Casing<'_>,
    _out: &mut BytesMut,
) {
}

/// `connection` of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Nothing is said: the version decides.
    Default,
    /// `connection: close`.
    Close,
    /// `connection: keep-alive`, for an HTTP/1.0 client that asked for it.
    KeepAlive,
    /// `connection: upgrade`, beside the `upgrade` header.
    Upgrade,
}

/// Writes `HTTP/1.1 100 Continue`.
pub fn encode_continue(_out: &mut BytesMut) {}

/// Writes a 1xx head with headers (103).
pub fn encode_informational(_status: StatusCode, _headers: &HeaderMap, _casing: Casing<'_>, _out: &mut BytesMut) {}

/// Writes what comes before the data of a chunk: its size and CRLF. The data follow, then CRLF.
pub fn encode_chunk_header(_len: usize, _out: &mut BytesMut) {}

/// Writes the last chunk, without trailers.
pub fn encode_last_chunk(_out: &mut BytesMut) {}

/// Writes the last chunk with trailers.
pub fn encode_trailers(_trailers: &HeaderMap, _casing: Casing<'_>, _out: &mut BytesMut) {}

/// The reason phrase Envoy writes for a status; `Unknown` for one it does not know.
pub fn reason_phrase(_status: StatusCode) -> &'static str {
    "Unknown"
}
