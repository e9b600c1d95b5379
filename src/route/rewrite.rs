//! Rewriting of host and path.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use waypost_filters::head::RequestHead;
use waypost_filters::matcher::RegexRewrite;
use waypost_filters::stream::HttpStream;

use super::Forward;
use super::matching::Condition;

pub(super) const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub(super) const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// How the path changes.
#[derive(Debug, Default)]
pub enum PathRewrite {
    /// Not at all.
    #[default]
    None,
    /// `prefix_rewrite`: what the route matched is replaced; all but the query for regular expressions.
    Prefix(Box<[u8]>),
    /// `regex_rewrite`: applied to the path without query.
    Regex(RegexRewrite),
}

/// How the authority changes.
#[derive(Debug, Default)]
pub enum HostRewrite {
    /// Not at all.
    #[default]
    None,
    /// `host_rewrite_literal`
    Literal(HeaderValue),
    /// `auto_host_rewrite`: the router takes the chosen host's name, by [`set_host`] through [`Forward::rewrite_host`].
    Auto,
    /// `host_rewrite_header`: the first value of a header, unless missing or empty.
    Header(HeaderName),
    /// `host_rewrite_path_regex`: made of the path without query.
    PathRegex(RegexRewrite),
}

impl PathRewrite {
    /// The new path with its query; none if nothing is to be rewritten, or the result could not be a path.
    pub(super) fn apply(&self, condition: &Condition, request: &RequestHead) -> Option<HeaderValue> {
        let (whole, path) = (request.path_bytes(), request.path_without_query());
        let (start, end): (Cow<'_, [u8]>, usize) = match self {
            PathRewrite::None => return None,
            PathRewrite::Prefix(new) => (Cow::Borrowed(new), condition.matched_len(path)),
            PathRewrite::Regex(regex) => (regex.replace_all(path), path.len()),
        };
        let rest = whole.get(end..).unwrap_or_default();
        let mut new = Vec::with_capacity(start.len() + rest.len());
        new.extend_from_slice(&start);
        new.extend_from_slice(rest);
        HeaderValue::from_maybe_shared(Bytes::from(new)).ok()
    }
}

/// Sets a new path; `x-envoy-original-path` tells the one the request came with.
pub(super) fn set_path(request: &mut RequestHead, path: HeaderValue, keep_original: bool) {
    let Some(old) = request.path.replace(path) else { return };
    if keep_original {
        request.headers.insert(ORIGINAL_PATH, old.clone());
    }
    request.original_path.get_or_insert(old);
}

/// Sets a new authority. `append` is `append_x_forwarded_host`; `keep_original` asks for `x-envoy-original-host`.
pub(super) fn set_host(request: &mut RequestHead, host: HeaderValue, append: bool, keep_original: bool) {
    let old = request.authority.replace(host);
    let Some(old) = old.filter(|h| !h.is_empty()) else { return };
    if append {
        append_forwarded_host(&mut request.headers, &old);
    }
    if keep_original {
        request.headers.insert(ORIGINAL_HOST, old);
    }
}

/// Appends to `x-forwarded-host`, unless it ends in that host already.
fn append_forwarded_host(headers: &mut HeaderMap, host: &HeaderValue) {
    let joined = match headers.get(FORWARDED_HOST) {
        None => Some(host.clone()),
        Some(v) if v.is_empty() => Some(host.clone()),
        Some(v) if v.as_bytes().ends_with(host.as_bytes()) => None,
        Some(v) => HeaderValue::from_maybe_shared(Bytes::from([v.as_bytes(), host.as_bytes()].join(&b","[..]))).ok(),
    };
    if let Some(joined) = joined {
        headers.insert(FORWARDED_HOST, joined);
    }
}

/// Host, then path, of a route that forwards.
pub(super) fn forward(
    forward: &Forward,
    condition: &Condition,
    stream: &mut HttpStream,
    weighted_host: Option<&HeaderValue>,
    keep_original: bool,
) {
    let request = &mut stream.request;
    if let Some(host) = weighted_host {
        // A weighted cluster's host replaces the authority and leaves no trace of it, unlike the route's.
        request.authority = Some(host.clone());
    }
    let host = match &forward.host_rewrite {
        HostRewrite::None | HostRewrite::Auto => None,
        HostRewrite::Literal(host) => Some(host.clone()),
        HostRewrite::Header(name) => request.headers.get(name).filter(|v| !v.is_empty()).cloned(),
        HostRewrite::PathRegex(regex) => request
            .path
            .is_some()
            .then(|| regex.replace_all(request.path_without_query()))
            .and_then(|host| HeaderValue::from_maybe_shared(Bytes::from(host.into_owned())).ok()),
    };
    if let Some(host) = host {
        set_host(request, host, forward.append_x_forwarded_host, keep_original);
    }
    if let Some(path) = forward.path_rewrite.apply(condition, request) {
        set_path(request, path, keep_original);
    }
}
