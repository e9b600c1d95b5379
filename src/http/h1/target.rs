//! The request target (RFC 9112 §3.2): path, `*`, URL or, for CONNECT, an authority.

use ::http::{HeaderValue, Method};
use bytes::Bytes;
use waypost_filters::head::Scheme;

use super::error::H1Error;
use super::head::refuse;

/// What a request target says.
#[derive(Debug, Default)]
pub(super) struct Target {
    /// Of a URL.
    pub(super) scheme: Option<Scheme>,
    /// Of a URL or of CONNECT; it wins over `Host`.
    pub(super) authority: Option<HeaderValue>,
    /// Path and query; none for CONNECT.
    pub(super) path: Option<HeaderValue>,
}

/// Takes a target apart. `text` is a part of `head`, so that path and authority are slices of it.
pub(super) fn parse_target(head: &Bytes, text: &[u8], method: &Method, absolute: bool) -> Result<Target, H1Error> {
    if !text.iter().all(u8::is_ascii_graphic) {
        return Err(refuse(text));
    }
    let value = |part: &[u8]| HeaderValue::from_maybe_shared(head.slice_ref(part)).map_err(|_| H1Error::CODEC);
    if *method == Method::CONNECT {
        // A port is a must, or there is nothing to connect to.
        return match host_and_port(text) {
            Some((_, Some(_))) => Ok(Target { authority: Some(value(text)?), ..Target::default() }),
            _ => Err(H1Error::INVALID_URL),
        };
    }
    match text.first() {
        Some(b'/') => return Ok(Target { path: Some(value(text)?), ..Target::default() }),
        Some(b'*') if *method == Method::OPTIONS => {
            return Ok(Target { path: Some(value(text)?), ..Target::default() });
        }
        Some(b'*') => return Err(H1Error::INVALID_URL),
        _ => {}
    }
    let (scheme, rest) = split_scheme(text).ok_or(H1Error::CODEC)?;
    if !absolute {
        // `allow_absolute_url: false` takes the URL for a path, which the connection manager then rejects as not absolute.
        return Ok(Target { path: Some(value(text)?), ..Target::default() });
    }
    let scheme = if scheme.eq_ignore_ascii_case(b"http") {
        Scheme::Http
    } else if scheme.eq_ignore_ascii_case(b"https") {
        Scheme::Https
    } else {
        return Err(H1Error::INVALID_SCHEME);
    };
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(H1Error::INVALID_URL)?;
    // User information is not for a proxy to send on (RFC 9110 §4.2.4). A second @ ends up in the host, which then is invalid.
    let host = match memchr::memchr(b'@', authority) {
        Some(at) => authority.get(at.saturating_add(1)..).unwrap_or_default(),
        None => authority,
    };
    host_and_port(host).ok_or(H1Error::INVALID_URL)?;
    let path = if path.is_empty() { HeaderValue::from_static("/") } else { value(path)? };
    Ok(Target { scheme: Some(scheme), authority: Some(value(host)?), path: Some(path) })
}

/// `scheme` and what comes after `://`.
fn split_scheme(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| !byte.is_ascii_alphabetic()).filter(|end| *end > 0)?;
    let (scheme, rest) = text.split_at_checked(end)?;
    Some((scheme, rest.strip_prefix(b"://")?))
}

/// A host with an optional port, in the strict form that URLs have.
fn host_and_port(text: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let (host, port) = if text.first() == Some(&b'[') {
        let end = memchr::memchr(b']', text)?;
        let address = text.get(1..end)?;
        if address.is_empty() || !address.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) {
            return None;
        }
        text.split_at_checked(end.checked_add(1)?)?
    } else {
        let end = memchr::memchr(b':', text).unwrap_or(text.len());
        let (host, port) = text.split_at_checked(end)?;
        if host.is_empty() || !host.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
            return None;
        }
        (host, port)
    };
    match port {
        [] => Some((host, None)),
        [b':', digits @ ..] if !digits.is_empty() && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => {
            Some((host, Some(std::str::from_utf8(digits).ok()?.parse().ok()?)))
        }
        _ => None,
    }
}

/// Whether `Host` has only characters that an authority may have. Commas pass, and so does user information, as in Envoy.
pub fn is_authority(text: &[u8]) -> bool {
    // Ranges become a few comparisons: every request has one of these.
    text.iter().all(|byte| {
        matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'!' | b'$'..=b'.' | b':' | b';' | b'=' | b'@' | b'[' | b']' | b'_' | b'~')
    })
}
