//! Heads, chunks and trailers → bytes.

use ::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use bytes::{BufMut, BytesMut};
use waypost_filters::head::{Protocol, RequestHead};

use super::body::is_forbidden_trailer;
use super::framing::Framing;
use super::head::SpelledNames;

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

/// Room for most heads: a larger one makes its buffer grow, which costs less than measuring every one. A connection keeps it.
const USUAL_HEAD: usize = 1024;

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

/// Writes a request head: `host` first, then the headers, then the framing.
///
/// A target of CONNECT is the authority. Bytes that would end the target early, which only a rewrite can have put there,
/// are percent-encoded.
pub fn encode_request(head: &RequestHead, framing: Framing, casing: Casing<'_>, out: &mut BytesMut) {
    out.reserve(USUAL_HEAD);
    out.put_slice(head.method.as_str().as_bytes());
    out.put_u8(b' ');
    if head.method == Method::CONNECT {
        put_target(head.authority_bytes(), out);
    } else {
        put_target(head.path.as_ref().map_or(b"/", |path| path.as_bytes()), out);
    }
    out.put_slice(b" HTTP/1.1\r\n");
    put_header("host", head.authority_bytes(), casing, out);
    if let Some(upgrade) = &head.upgrade {
        let connection = head.headers.get(header::CONNECTION).map_or(&b"upgrade"[..], |value| value.as_bytes());
        put_header("connection", connection, casing, out);
        put_header("upgrade", upgrade.as_bytes(), casing, out);
    }
    for (name, value) in &head.headers {
        if is_of_hop(name) || *name == header::HOST || *name == header::UPGRADE || framing.replaces(name) {
            continue;
        }
        put_header(name.as_str(), value.as_bytes(), casing, out);
    }
    put_framing(framing, casing, out);
    out.put_slice(b"\r\n");
}

/// Writes a response head: the headers, `connection`, then the framing.
pub fn encode_response(
    status: StatusCode,
    headers: &HeaderMap,
    framing: Framing,
    connection: Connection,
    protocol: Protocol,
    casing: Casing<'_>,
    out: &mut BytesMut,
) {
    out.reserve(USUAL_HEAD);
    out.put_slice(if protocol == Protocol::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    put_status(status, out);
    let upgrade = connection == Connection::Upgrade;
    if upgrade {
        let said = headers.get(header::CONNECTION).map_or(&b"upgrade"[..], |value| value.as_bytes());
        put_header("connection", said, casing, out);
    }
    for (name, value) in headers {
        if is_of_hop(name) || (*name == header::UPGRADE && !upgrade) || framing.replaces(name) {
            continue;
        }
        put_header(name.as_str(), value.as_bytes(), casing, out);
    }
    match connection {
        Connection::Close => put_header("connection", b"close", casing, out),
        Connection::KeepAlive => put_header("connection", b"keep-alive", casing, out),
        Connection::Default | Connection::Upgrade => {}
    }
    put_framing(framing, casing, out);
    out.put_slice(b"\r\n");
}

/// Writes `HTTP/1.1 100 Continue`.
pub fn encode_continue(out: &mut BytesMut) {
    out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
}

/// Writes a 1xx head with headers (103).
pub fn encode_informational(status: StatusCode, headers: &HeaderMap, casing: Casing<'_>, out: &mut BytesMut) {
    encode_response(status, headers, Framing::None, Connection::Default, Protocol::Http11, casing, out);
}

/// What follows the data of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Writes what comes before the data of a chunk: its size and CRLF. The data follow, then [`CHUNK_END`].
///
/// An empty chunk would end the body, so nothing is written for it; the caller leaves out its end as well.
pub fn encode_chunk_header(len: usize, out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if len == 0 {
        return;
    }
    let nibbles = (usize::BITS - len.leading_zeros()).div_ceil(4);
    out.reserve(20);
    for nibble in (0..nibbles).rev() {
        let digit = (len >> (nibble * 4)) & 0xf;
        out.put_u8(DIGITS.get(digit).copied().unwrap_or(b'0'));
    }
    out.put_slice(b"\r\n");
}

/// Writes the last chunk, without trailers.
pub fn encode_last_chunk(out: &mut BytesMut) {
    out.extend_from_slice(b"0\r\n\r\n");
}

/// Writes the last chunk with trailers, but for those that no trailer may be.
pub fn encode_trailers(trailers: &HeaderMap, casing: Casing<'_>, out: &mut BytesMut) {
    out.put_slice(b"0\r\n");
    for (name, value) in trailers {
        if !is_forbidden_trailer(name) {
            put_header(name.as_str(), value.as_bytes(), casing, out);
        }
    }
    out.put_slice(b"\r\n");
}

/// Headers that the codec alone writes.
fn is_of_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

fn put_header(name: &str, value: &[u8], casing: Casing<'_>, out: &mut BytesMut) {
    match casing {
        Casing::Lower => out.put_slice(name.as_bytes()),
        Casing::ProperWords => put_proper_words(name, out),
        Casing::Preserve(spelled) => out.put_slice(spelled.get(name).unwrap_or(name.as_bytes())),
    }
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// `proper_case_words`: a capital at the start and after whatever is neither letter nor digit.
fn put_proper_words(name: &str, out: &mut BytesMut) {
    let mut starts = true;
    for byte in name.bytes() {
        out.put_u8(if starts { byte.to_ascii_uppercase() } else { byte });
        starts = !byte.is_ascii_alphanumeric();
    }
}

fn put_framing(framing: Framing, casing: Casing<'_>, out: &mut BytesMut) {
    match framing {
        Framing::None | Framing::Headers => {}
        Framing::Length(length) => {
            put_header("content-length", itoa::Buffer::new().format(length).as_bytes(), casing, out);
        }
        Framing::Chunked => put_header("transfer-encoding", b"chunked", casing, out),
    }
}

fn put_target(target: &[u8], out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let ends_target = |byte: &u8| *byte <= b' ' || *byte == 0x7f;
    if !target.iter().any(ends_target) {
        out.put_slice(target);
        return;
    }
    for byte in target {
        if ends_target(byte) {
            let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
            out.put_slice(&[b'%', digit(byte >> 4), digit(byte & 0xf)]);
        } else {
            out.put_u8(*byte);
        }
    }
}

fn put_status(status: StatusCode, out: &mut BytesMut) {
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(reason_phrase(status).as_bytes());
    out.put_slice(b"\r\n");
}

/// The reason phrase Envoy writes for a status; `Unknown` for one it does not know.
pub fn reason_phrase(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Payload Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Entity",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        // Envoy's enumeration of codes has a name for its end.
        599 => "Last Unassigned Server Error Code",
        _ => "Unknown",
    }
}
