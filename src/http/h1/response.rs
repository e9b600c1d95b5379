//! A response head: bytes → status and headers.

use ::http::{HeaderMap, Method, StatusCode, header};
use bytes::{Bytes, BytesMut};
use waypost_filters::head::{Protocol, ResponseHead};

use super::body::BodyKind;
use super::error::H1Error;
use super::head::{Hop, Lines, ScanState, SpelledNames, content_length, parse_name};
use crate::http::spare::header_map;

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
        // 80 KiB is what Envoy's client codec takes where nothing is configured, not the 60 of its server.
        Self { max_headers_bytes: 80 * 1024, max_headers_count: 100, allow_chunked_length: false, preserve_case: false }
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
    buf: &mut BytesMut,
    scan: &mut ScanState,
    method: &Method,
    limits: &ResponseLimits,
) -> Result<Option<ParsedResponse>, H1Error> {
    // What does not begin like HTTP never will; an upstream that speaks TLS or nothing known is told apart at once.
    match buf.first() {
        None => return Ok(None),
        Some(b'H') => {}
        Some(_) => return Err(H1Error::CODEC),
    }
    let Some((end, lines)) = scan.find_end(buf, limits.max_headers_bytes)? else { return Ok(None) };
    let head = buf.split_to(end).freeze();
    parse_head(&head, lines, method, limits).map(Some)
}

fn parse_head(
    head: &Bytes,
    line_count: usize,
    method: &Method,
    limits: &ResponseLimits,
) -> Result<ParsedResponse, H1Error> {
    let mut lines = Lines::new(head);
    let (status, protocol) = parse_status_line(lines.next_line().unwrap_or_default())?;

    // Room for what the connection manager adds; a hostile head does not get to reserve much.
    let mut headers = header_map(line_count.saturating_add(4));
    let mut hop = Hop::default();
    let mut spelling = limits.preserve_case.then(SpelledNames::default);
    let mut count: usize = 0;
    while let Some((raw, value)) = lines.next_header()? {
        count = count.saturating_add(1);
        if count > limits.max_headers_count {
            return Err(H1Error::TOO_MANY_HEADERS);
        }
        let name = parse_name(raw)?;
        let Some(value) = hop.take(&name, value) else { continue };
        if let Some(spelling) = &mut spelling {
            spelling.push(lines.share(raw));
        }
        headers.try_append(name, value).map_err(|_| H1Error::TOO_MANY_HEADERS)?;
    }

    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = switching || (*method == Method::CONNECT && status.is_success());
    let body = framing(&hop, &mut headers, status, method, limits)?;
    if switching && let Some(protocol) = hop.upgrade.take() {
        headers.insert(header::UPGRADE, protocol);
        if let Some(connection) = hop.connection.clone() {
            headers.insert(header::CONNECTION, connection);
        }
    }
    let keep_alive = hop.keep_alive(protocol == Protocol::Http11)
        && body != BodyKind::UntilClose
        && !(protocol == Protocol::Http10 && hop.chunked);
    Ok(ParsedResponse {
        head: ResponseHead { status, headers },
        protocol,
        body,
        keep_alive,
        upgrade,
        informational: status.is_informational() && !switching,
        header_bytes: head.len(),
        spelling,
    })
}

/// `HTTP/x.y`, spaces, three digits, and a reason that nobody reads.
fn parse_status_line(line: &[u8]) -> Result<(StatusCode, Protocol), H1Error> {
    if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(H1Error::INVALID_CHARACTERS);
    }
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let protocol = match words.next() {
        Some(b"HTTP/1.1") => Protocol::Http11,
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Protocol::Http10
        }
        _ => return Err(H1Error::CODEC),
    };
    let status = words.next().and_then(|code| StatusCode::from_bytes(code).ok()).ok_or(H1Error::CODEC)?;
    Ok((status, protocol))
}

/// How the body is framed (RFC 9112 §6.3); removes a `Content-Length` that does not count.
fn framing(
    hop: &Hop,
    headers: &mut HeaderMap,
    status: StatusCode,
    method: &Method,
    limits: &ResponseLimits,
) -> Result<BodyKind, H1Error> {
    let mut length = None;
    if hop.transfer_encodings > 0 {
        if hop.transfer_encodings > 1 || !hop.chunked {
            return Err(H1Error::TRANSFER_ENCODING);
        }
        if headers.contains_key(header::CONTENT_LENGTH) {
            if !limits.allow_chunked_length {
                return Err(H1Error::LENGTH_AND_CHUNKED);
            }
            headers.remove(header::CONTENT_LENGTH);
        }
    } else if headers.contains_key(header::CONTENT_LENGTH) {
        length = content_length(headers.get_all(header::CONTENT_LENGTH).iter())?;
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        // Where no body can be, Envoy trusts none who announces one.
        if hop.chunked {
            return Err(H1Error::TRANSFER_ENCODING);
        }
        if length.is_some_and(|length| length > 0) {
            return Err(H1Error::BODY_DISALLOWED);
        }
        headers.remove(header::CONTENT_LENGTH);
        let switching = status == StatusCode::SWITCHING_PROTOCOLS;
        return Ok(if switching { BodyKind::UntilClose } else { BodyKind::None });
    }
    if *method == Method::CONNECT && status.is_success() {
        headers.remove(header::CONTENT_LENGTH);
        return Ok(BodyKind::UntilClose);
    }
    if *method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        return Ok(BodyKind::None);
    }
    Ok(match length {
        _ if hop.chunked => BodyKind::Chunked,
        Some(0) => BodyKind::None,
        Some(length) => BodyKind::Length(length),
        None => BodyKind::UntilClose,
    })
}
