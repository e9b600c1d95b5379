//! A request head: bytes → [`RequestHead`].

use ::http::{HeaderMap, HeaderValue, Method, header};
use bytes::{Bytes, BytesMut};
use waypost_filters::head::{Protocol, RequestHead, Scheme};

use super::body::BodyKind;
use super::error::H1Error;
use super::head::{Hop, Lines, ScanState, SpelledNames, content_length, parse_name, refuse, skip_blank_lines};
use super::hop::{keep_te_trailers, remove_nominated, take_upgrade};
use super::name::is_token_byte;
use super::target::{Target, is_authority, parse_target};
use crate::http::spare::header_map;

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
    pub default_host_for_http_10: Option<HeaderValue>,
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
    /// The request. Hop-by-hop headers are gone, but for `connection` beside an upgrade, which is passed on as it came;
    /// so is `expect` (the connection manager answers or forwards it).
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
///
/// The errors are for a local reply after which the connection is closed; what is left in `buf` is not to be parsed.
pub fn parse_request(
    buf: &mut BytesMut,
    scan: &mut ScanState,
    limits: &RequestLimits,
    transport: Scheme,
) -> Result<Option<ParsedRequest>, H1Error> {
    if !skip_blank_lines(buf) {
        return Ok(None);
    }
    // Whoever speaks TLS or nonsense is told at once instead of after a header timeout.
    if !buf.first().is_some_and(|first| is_token_byte(*first)) {
        return Err(H1Error::CODEC);
    }
    let Some((end, lines)) = scan.find_end(buf, limits.max_headers_bytes)? else { return Ok(None) };
    let head = buf.split_to(end).freeze();
    parse_head(&head, lines, limits, transport).map(Some)
}

fn parse_head(
    head: &Bytes,
    line_count: usize,
    limits: &RequestLimits,
    transport: Scheme,
) -> Result<ParsedRequest, H1Error> {
    let mut lines = Lines::new(head);
    let (method, target, protocol) = parse_request_line(head, lines.next_line().unwrap_or_default(), limits)?;
    let read = read_headers(&mut lines, line_count, limits)?;
    let ReadHeaders { mut headers, mut hop, mut host, spelling, dropped_underscores } = read;
    if protocol == Protocol::Http10 && !limits.accept_http_10 {
        return Err(H1Error::LOW_VERSION);
    }

    let is_connect = method == Method::CONNECT;
    let upgrade = take_upgrade(&mut hop, &mut headers, protocol, is_connect);
    let mut body = framing(&hop, &mut headers, is_connect, limits)?;
    let keep_alive = hop.keep_alive(protocol == Protocol::Http11)
        // RFC 9112 §6.1: framing of HTTP/1.0 with a transfer coding is not to be trusted beyond this message.
        && !(protocol == Protocol::Http10 && hop.chunked);
    if upgrade.is_some() || is_connect {
        body = BodyKind::UntilClose;
    } else if let Some(connection) = &hop.connection {
        remove_nominated(connection, &mut headers, &mut host)?;
    }
    if upgrade.is_some()
        && let Some(connection) = hop.connection
    {
        headers.insert(header::CONNECTION, connection);
    }
    keep_te_trailers(&mut headers);

    let authority = match target.authority.or(host) {
        None if protocol == Protocol::Http10 => limits.default_host_for_http_10.clone(),
        authority => authority,
    };
    if authority.as_ref().is_some_and(|authority| !is_authority(authority.as_bytes())) {
        return Err(H1Error::INVALID_AUTHORITY);
    }
    let expect_continue = protocol == Protocol::Http11
        && headers.get(header::EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    Ok(ParsedRequest {
        head: RequestHead {
            method,
            scheme: target.scheme.unwrap_or(transport),
            authority,
            path: target.path,
            upgrade,
            headers,
            original_path: None,
        },
        protocol,
        body,
        keep_alive,
        expect_continue,
        header_bytes: head.len(),
        dropped_underscores,
        spelling,
    })
}

/// Method, target and version. Envoy takes any number of spaces between and after them.
fn parse_request_line(
    head: &Bytes,
    line: &[u8],
    limits: &RequestLimits,
) -> Result<(Method, Target, Protocol), H1Error> {
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Err(refuse(line)) };
    let version = words.next();
    if words.next().is_some() {
        return Err(refuse(line));
    }
    let method = parse_method(method, limits.allow_custom_methods).ok_or_else(|| refuse(line))?;
    let protocol = match version {
        Some(b"HTTP/1.1") => Protocol::Http11,
        // HTTP/0.9 has no version at all, and Envoy takes any other for HTTP/1.0.
        None => Protocol::Http10,
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Protocol::Http10
        }
        Some(_) => return Err(refuse(line)),
    };
    let target = parse_target(head, target, &method, limits.allow_absolute_url)?;
    Ok((method, target, protocol))
}

/// The methods Envoy's parser knows; any token if custom ones are allowed.
fn parse_method(text: &[u8], custom: bool) -> Option<Method> {
    Some(match text {
        b"GET" => Method::GET,
        b"POST" => Method::POST,
        b"PUT" => Method::PUT,
        b"DELETE" => Method::DELETE,
        b"HEAD" => Method::HEAD,
        b"OPTIONS" => Method::OPTIONS,
        b"PATCH" => Method::PATCH,
        b"CONNECT" => Method::CONNECT,
        b"TRACE" => Method::TRACE,
        b"ACL" | b"BIND" | b"CHECKOUT" | b"COPY" | b"LINK" | b"LOCK" | b"MERGE" | b"MKACTIVITY" | b"MKCALENDAR"
        | b"MKCOL" | b"MOVE" | b"MSEARCH" | b"NOTIFY" | b"PROPFIND" | b"PROPPATCH" | b"PURGE" | b"REBIND"
        | b"QUERY" | b"REPORT" | b"SEARCH" | b"SOURCE" | b"SUBSCRIBE" | b"UNBIND" | b"UNLINK" | b"UNLOCK"
        | b"UNSUBSCRIBE" => Method::from_bytes(text).ok()?,
        _ if custom => Method::from_bytes(text).ok()?,
        _ => return None,
    })
}

/// The header lines of a request, with those taken out that are not for the next hop.
struct ReadHeaders {
    headers: HeaderMap,
    hop: Hop,
    host: Option<HeaderValue>,
    spelling: Option<SpelledNames>,
    dropped_underscores: u32,
}

fn read_headers(lines: &mut Lines<'_>, line_count: usize, limits: &RequestLimits) -> Result<ReadHeaders, H1Error> {
    // Room for what the connection manager and the router add; a hostile head does not get to reserve much.
    let mut headers = header_map(line_count.saturating_add(8));
    let mut hop = Hop::default();
    let mut host = None;
    let mut spelling = limits.preserve_case.then(SpelledNames::default);
    let mut dropped_underscores: u32 = 0;
    let mut count: usize = 0;
    while let Some((raw, value)) = lines.next_header()? {
        count = count.saturating_add(1);
        if count > limits.max_headers_count {
            return Err(H1Error::TOO_MANY_HEADERS);
        }
        let name = parse_name(raw)?;
        if limits.underscores != Underscores::Allow && memchr::memchr(b'_', raw).is_some() {
            if limits.underscores == Underscores::Reject {
                return Err(H1Error::UNDERSCORE);
            }
            dropped_underscores = dropped_underscores.saturating_add(1);
            continue;
        }
        if name == header::HOST {
            // Envoy joins two of them to "a,b", which no route, policy and backend reads alike.
            if host.replace(value).is_some() {
                return Err(H1Error::INVALID_AUTHORITY);
            }
            continue;
        }
        let Some(value) = hop.take(&name, value) else { continue };
        if let Some(spelling) = &mut spelling {
            spelling.push(lines.share(raw));
        }
        headers.try_append(name, value).map_err(|_| H1Error::TOO_MANY_HEADERS)?;
    }
    Ok(ReadHeaders { headers, hop, host, spelling, dropped_underscores })
}

/// How the body is framed; removes a `Content-Length` that does not count.
fn framing(hop: &Hop, headers: &mut HeaderMap, is_connect: bool, limits: &RequestLimits) -> Result<BodyKind, H1Error> {
    let has_length = headers.contains_key(header::CONTENT_LENGTH);
    if hop.transfer_encodings > 0 {
        if hop.transfer_encodings > 1 || !hop.chunked || is_connect {
            return Err(H1Error::TRANSFER_ENCODING);
        }
        if has_length {
            if !limits.allow_chunked_length {
                return Err(H1Error::LENGTH_AND_CHUNKED);
            }
            headers.remove(header::CONTENT_LENGTH);
        }
        return Ok(BodyKind::Chunked);
    }
    if !has_length {
        return Ok(BodyKind::None);
    }
    match content_length(headers.get_all(header::CONTENT_LENGTH).iter())? {
        Some(length) if is_connect => {
            if length > 0 {
                return Err(H1Error::BODY_DISALLOWED);
            }
            headers.remove(header::CONTENT_LENGTH);
            Ok(BodyKind::None)
        }
        Some(length) if length > 0 => Ok(BodyKind::Length(length)),
        _ => Ok(BodyKind::None),
    }
}
