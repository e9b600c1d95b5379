//! What `Connection`, `Upgrade` and `TE` of a request mean for this hop only (RFC 9110 §7.6.1), with Envoy's own rules.

use ::http::{HeaderMap, HeaderName, HeaderValue, header};
use waypost_filters::head::Protocol;

use super::error::H1Error;
use super::head::{Hop, tokens};

/// A request with as many tokens in `Connection` is refused (Envoy's `MAX_ALLOWED_NOMINATED_HEADERS`).
const MAX_NOMINATED: usize = 10;

/// A longer `TE` that `Connection` names is refused (Envoy's `MAX_ALLOWED_TE_VALUE_SIZE`).
const MAX_TE: usize = 256;

/// What the request asks to be upgraded to. `h2c` is not offered, and taken away as if it had not been asked for.
pub(super) fn take_upgrade(
    hop: &mut Hop,
    headers: &mut HeaderMap,
    protocol: Protocol,
    is_connect: bool,
) -> Option<HeaderValue> {
    let upgrade = hop.upgrade.take()?;
    // HTTP/1.0 has no upgrades: RFC 9110 §7.8.
    if is_connect || protocol != Protocol::Http11 || !hop.has(b"upgrade") {
        return None;
    }
    if upgrade.as_bytes().eq_ignore_ascii_case(b"h2c") {
        headers.remove("http2-settings");
        return None;
    }
    Some(upgrade)
}

/// Removes the headers that `Connection` names, and refuses a request that would have others' headers removed.
pub(super) fn remove_nominated(
    connection: &HeaderValue,
    headers: &mut HeaderMap,
    host: &mut Option<HeaderValue>,
) -> Result<(), H1Error> {
    if tokens(connection.as_bytes()).count() >= MAX_NOMINATED {
        return Err(H1Error::CONNECTION_REJECTED);
    }
    for token in tokens(connection.as_bytes()) {
        if token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive") {
            continue;
        }
        if token.first() == Some(&b':')
            || token.eq_ignore_ascii_case(b"x-forwarded-for")
            || token.eq_ignore_ascii_case(b"x-forwarded-host")
            || token.eq_ignore_ascii_case(b"x-forwarded-proto")
        {
            return Err(H1Error::CONNECTION_REJECTED);
        }
        if token.eq_ignore_ascii_case(b"host") {
            *host = None;
        } else if token.eq_ignore_ascii_case(b"te") {
            reduce_te(headers)?;
        } else if let Ok(name) = HeaderName::from_bytes(token) {
            headers.remove(name);
        }
    }
    Ok(())
}

/// `TE` that `Connection` names: `trailers`, in any case, is all that is passed on.
fn reduce_te(headers: &mut HeaderMap) -> Result<(), H1Error> {
    let mut trailers = false;
    for value in headers.get_all(header::TE) {
        if value.len() > MAX_TE {
            return Err(H1Error::CONNECTION_REJECTED);
        }
        trailers |= tokens(value.as_bytes()).any(|token| token.eq_ignore_ascii_case(b"trailers"));
    }
    set_te(headers, trailers);
    Ok(())
}

/// `TE` of any request: passed on as `trailers` if it has that member, exactly so.
pub(super) fn keep_te_trailers(headers: &mut HeaderMap) {
    if headers.contains_key(header::TE) {
        let trailers = headers.get_all(header::TE).iter().any(|v| tokens(v.as_bytes()).any(|t| t == b"trailers"));
        set_te(headers, trailers);
    }
}

fn set_te(headers: &mut HeaderMap, trailers: bool) {
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(header::TE);
    }
}
