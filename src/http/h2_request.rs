//! Requests that the codec hands over and Envoy's codec would not have.

use http::request::Parts;
use http::{HeaderName, Method, header};

use super::config::{HttpConnectionManager, Underscores};
use super::rules::request::is_authority;
use super::watch::{BROKEN_RULE, INVALID_HEADER};
use waypost_filters::head::Protocol;

/// Why a request is refused, as `%RESPONSE_CODE_DETAILS%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A limit: the stream is reset (`INTERNAL_ERROR`).
    Limit(&'static str),
    /// No valid message (RFC 9113, 8.1.1): the connection ends, or the stream with `override_stream_error_on_invalid_http_message`.
    Message(&'static str),
}

/// Checks a request as it came, and takes away the headers that are to be dropped for their names.
pub fn check(hcm: &HttpConnectionManager, parts: &mut Parts) -> Result<(), Refusal> {
    let Parts { method, uri, headers, .. } = &*parts;
    let pseudo = 1 + usize::from(uri.authority().is_some()) + if *method == Method::CONNECT { 0 } else { 2 };
    if headers.len() + pseudo > hcm.limits.max_headers_count {
        return Err(Refusal::Limit("http2.too_many_headers"));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::Message(INVALID_HEADER));
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some() && lengths.next().is_some() {
        // Equal or not: two lengths are one too many on the way to an HTTP/1 host.
        return Err(Refusal::Message(BROKEN_RULE));
    }
    match uri.authority() {
        Some(authority) if !is_authority(authority.as_str().as_bytes(), Some(Protocol::Http2)) => {
            return Err(Refusal::Message(INVALID_HEADER));
        }
        None if *method == Method::CONNECT || host.is_none() => return Err(Refusal::Message(BROKEN_RULE)),
        Some(_) | None => {}
    }
    // An empty scheme; the codec drops a valid one only where there is no authority.
    if *method != Method::CONNECT && uri.authority().is_some() && uri.scheme_str().is_none_or(str::is_empty) {
        return Err(Refusal::Message(BROKEN_RULE));
    }
    if uri.path() == "*" && *method != Method::OPTIONS {
        return Err(Refusal::Message(BROKEN_RULE));
    }
    if hcm.limits.underscores != Underscores::Allow {
        underscores(hcm.limits.underscores, parts)?;
    }
    Ok(())
}

fn underscores(action: Underscores, parts: &mut Parts) -> Result<(), Refusal> {
    let has_one = |name: &&HeaderName| memchr::memchr(b'_', name.as_str().as_bytes()).is_some();
    if action == Underscores::Reject && parts.headers.keys().any(|name| has_one(&name)) {
        return Err(Refusal::Limit("http2.unexpected_underscore"));
    }
    while let Some(name) = parts.headers.keys().find(has_one).cloned() {
        parts.headers.remove(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
