//! What is done to a request's head before it is routed (`ConnectionManagerUtility::mutateRequestHeaders` and what comes before it).

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use waypost_filters::connection::Connection;
use waypost_filters::filter::LocalReply;
use waypost_filters::head::{Protocol, RequestHead};
use waypost_filters::stream::{HttpStream, RequestId};

use super::forwarded::{self, X_FORWARDED_FOR, X_FORWARDED_PROTO};
use super::path::{self, PathAction};
use super::request_id::{self, X_REQUEST_ID};
use super::{append, join, xfcc};
use crate::http::config::{HostOptions, HttpConnectionManager, StripPort};
use crate::http::h1;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const X_ENVOY_EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");
const X_ENVOY_DOWNSTREAM_SERVICE_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");

/// Headers that only internal clients may send: they tell the router what to do.
const INTERNAL_ONLY: [HeaderName; 15] = [
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-upstream-stream-duration-ms"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
];

/// Headers that clients at the edge may not send either.
const NOT_FROM_THE_EDGE: [HeaderName; 5] = [
    HeaderName::from_static("x-envoy-decorator-operation"),
    X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER,
    X_ENVOY_DOWNSTREAM_SERVICE_NODE,
    HeaderName::from_static("x-envoy-original-path"),
    HeaderName::from_static("x-envoy-original-host"),
];

/// What one look at the names of a request's headers tells: most requests have few of the headers that need work.
#[derive(Default)]
struct Seen {
    hop_by_hop: bool,
    te: bool,
    referer: bool,
    expect: bool,
    envoy: bool,
    forwarded: bool,
    repeated: bool,
}

/// Checks a request and makes it what filters and upstreams are to see. `internal_only_headers` are those of the route configuration.
///
/// Sets `info.remote` and `info.request_id`.
pub fn mutate_request(
    hcm: &HttpConnectionManager,
    internal_only_headers: &[HeaderName],
    stream: &mut HttpStream,
) -> Result<(), Box<LocalReply>> {
    let (info, head) = (&mut stream.info, &mut stream.request);
    let connection = &*info.connection;
    check_host(head, info.protocol).and_then(|()| check_path(hcm, head)).map_err(|mut reply| {
        // `stream_error_on_invalid_http_message`: the head was whole, so the next request can be told from it.
        reply.close &= !hcm.http1.stream_error;
        reply
    })?;
    check_query(head)?;
    normalize_host(head, &hcm.host, connection.local.port());
    let seen = look(head);
    remove_hop_by_hop(hcm, head, &seen);
    if seen.repeated {
        // Envoy has these as one value each; what is trusted must not depend on how a client splits lines.
        for name in [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID, xfcc::X_FORWARDED_CLIENT_CERT] {
            join(&mut head.headers, &name);
        }
    }
    let client = forwarded::apply(&mut head.headers, &hcm.client, connection, seen.forwarded);
    set_scheme(hcm, head, info.protocol, connection, &seen);
    let remote = client.address.unwrap_or_else(|| connection.remote.clone());
    if client.internal {
        head.headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    } else {
        let edge: &[HeaderName] = if client.edge { &NOT_FROM_THE_EDGE } else { &[] };
        let envoy: &[HeaderName] = if seen.envoy { &INTERNAL_ONLY } else { &[] };
        for name in envoy.iter().chain(edge.iter().filter(|_| seen.envoy)).chain(internal_only_headers) {
            head.headers.remove(name);
        }
    }
    set_user_agent(hcm, head);
    if let Some(via) = &hcm.via {
        append(&mut head.headers, header::VIA, ", ", via);
    }
    if client.edge
        && let Some(value) = remote.ip().and_then(forwarded::address_value)
    {
        head.headers.insert(X_ENVOY_EXTERNAL_ADDRESS, value);
    }
    info.remote = remote;
    request_id::set(&mut head.headers, &hcm.request_id, client.edge);
    if seen.forwarded || connection.tls.is_some() {
        xfcc::apply(&mut head.headers, &hcm.xfcc, connection.tls.as_deref());
    }
    if let Some(sampling) = &hcm.tracing {
        request_id::sample(&mut head.headers, &hcm.request_id, sampling);
    }
    info.request_id = head.headers.get(X_REQUEST_ID).and_then(|v| v.to_str().ok()).map(RequestId::from);
    Ok(())
}

/// Whether bytes can be an authority: the characters of RFC 3986, but not `@` on HTTP/2 (RFC 9113 8.3.1 forbids user information).
pub fn is_authority(value: &[u8], protocol: Option<Protocol>) -> bool {
    h1::is_authority(value) && (protocol != Some(Protocol::Http2) || memchr::memchr(b'@', value).is_none())
}

fn check_host(head: &RequestHead, protocol: Option<Protocol>) -> Result<(), Box<LocalReply>> {
    match &head.authority {
        None => Err(bad_request("missing_host_header")),
        Some(v) if !is_authority(v.as_bytes(), protocol) => Err(bad_request("http.invalid_authority")),
        Some(_) => Ok(()),
    }
}

/// A QUERY without a media type says nothing; Envoy refuses it.
fn check_query(head: &RequestHead) -> Result<(), Box<LocalReply>> {
    let is_query = head.method.as_str() == "QUERY";
    if is_query && !head.headers.contains_key(header::CONTENT_TYPE) {
        return Err(bad_request("query_missing_content_type"));
    }
    Ok(())
}

fn check_path(hcm: &HttpConnectionManager, head: &mut RequestHead) -> Result<(), Box<LocalReply>> {
    let Some(path) = &head.path else {
        return if head.method == Method::CONNECT { Ok(()) } else { Err(not_relative(hcm)) };
    };
    if path.as_bytes().first() != Some(&b'/') {
        return Err(not_relative(hcm));
    }
    let action = path::normalize(path.as_bytes(), &hcm.path);
    let replaced = match &action {
        PathAction::Keep => return Ok(()),
        PathAction::Replace(path) | PathAction::Redirect(path) => HeaderValue::from_bytes(path).ok(),
        PathAction::Reject => None,
    };
    match (action, replaced) {
        (PathAction::Replace(_), Some(path)) => {
            head.path = Some(path);
            Ok(())
        }
        // gRPC clients follow no redirects.
        (PathAction::Redirect(_), Some(path)) if !head.is_grpc() => {
            hcm.stats.downstream_rq_redirected_with_normalized_path.inc();
            let mut reply = LocalReply::new(StatusCode::TEMPORARY_REDIRECT, "path_normalization_failed");
            head.path = Some(path.clone());
            reply.headers.insert(header::LOCATION, path);
            Err(Box::new(reply))
        }
        _ => {
            hcm.stats.downstream_rq_failed_path_normalization.inc();
            Err(bad_request("path_normalization_failed"))
        }
    }
}

/// `OPTIONS *` and what else is no path.
fn not_relative(hcm: &HttpConnectionManager) -> Box<LocalReply> {
    hcm.stats.downstream_rq_non_relative_path.inc();
    Box::new(LocalReply::new(StatusCode::NOT_FOUND, "absolute_path_rejected"))
}

fn bad_request(details: &'static str) -> Box<LocalReply> {
    Box::new(LocalReply::new(StatusCode::BAD_REQUEST, details).closing())
}

fn normalize_host(head: &mut RequestHead, options: &HostOptions, listener_port: Option<u16>) {
    if *options == HostOptions::default() {
        return;
    }
    let Some(host) = &head.authority else { return };
    let text = host.as_bytes();
    let (mut name, mut port) = split_port(text);
    if options.strip_trailing_dot {
        name = name.strip_suffix(b".").unwrap_or(name);
    }
    let number: Option<u32> = std::str::from_utf8(port).ok().and_then(|p| p.get(1..)?.parse().ok());
    let strip = match options.strip_port {
        StripPort::Never => false,
        StripPort::Matching => number.is_some() && number == listener_port.map(u32::from),
        StripPort::Any => number.is_some(),
    };
    if strip {
        port = &[];
    }
    if name.len() + port.len() != text.len()
        && let Ok(host) = HeaderValue::from_bytes(&[name, port].concat())
    {
        head.authority = Some(host);
    }
}

/// The name and the port with its colon; a colon within brackets belongs to an IPv6 address.
fn split_port(host: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memrchr2(b':', b']', host) {
        Some(at) if host.get(at) == Some(&b':') => host.split_at(at),
        _ => (host, &[]),
    }
}

fn look(head: &RequestHead) -> Seen {
    let mut seen = Seen::default();
    let mut last: Option<&HeaderName> = None;
    for (name, _) in &head.headers {
        // Lines of one name come one after the other.
        seen.repeated |= last == Some(name);
        last = Some(name);
        match name.as_str() {
            "te" => seen.te = true,
            "referer" => seen.referer = true,
            "expect" => seen.expect = true,
            "connection" | "upgrade" | "keep-alive" | "proxy-connection" | "transfer-encoding" => {
                seen.hop_by_hop = true
            }
            name => {
                seen.envoy |= name.starts_with("x-envoy-");
                seen.forwarded |= name.starts_with("x-forwarded-");
            }
        }
    }
    seen
}

fn remove_hop_by_hop(hcm: &HttpConnectionManager, head: &mut RequestHead, seen: &Seen) {
    if seen.envoy {
        head.headers.remove(X_ENVOY_INTERNAL);
    }
    if seen.hop_by_hop {
        // What is to be upgraded is in `head.upgrade`, from which the upstream codec makes the header anew; `connection` beside it stays as
        // the client spelled it.
        for name in [header::UPGRADE, KEEP_ALIVE, PROXY_CONNECTION, header::TRANSFER_ENCODING] {
            head.headers.remove(name);
        }
        if head.upgrade.is_none() {
            head.headers.remove(header::CONNECTION);
        }
    }
    if seen.te {
        // RFC 9110 10.1.4: `te` is about one hop, but for the wish for trailers, which gRPC has.
        let trailers = head
            .headers
            .get_all(header::TE)
            .iter()
            .any(|value| value.as_bytes().split(|&b| b == b',').any(|token| token.trim_ascii() == b"trailers"));
        if trailers {
            head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        } else {
            head.headers.remove(header::TE);
        }
    }
    if seen.referer {
        let mut values = head.headers.get_all(header::REFERER).iter();
        let valid = values.next().is_some_and(|v| is_referer(v.as_bytes())) && values.next().is_none();
        if !valid {
            head.headers.remove(header::REFERER);
        }
    }
    if seen.expect && !hcm.proxy_100_continue {
        let expect = head.headers.get(header::EXPECT);
        if expect.is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            head.headers.remove(header::EXPECT);
        }
    }
}

/// Whether a referer is a URL with a host, or no absolute URL at all; anything else may be an attack on whoever shows it.
fn is_referer(value: &[u8]) -> bool {
    if value.contains(&b' ') {
        return false;
    }
    // A colon before the first slash, `?` or `#` ends a scheme.
    let end = value.iter().position(|b| b"/?#".contains(b)).unwrap_or(value.len());
    let Some(colon) = value.iter().take(end).position(|&b| b == b':') else { return true };
    let Some(rest) = value.get(colon + 1..).and_then(|r| r.strip_prefix(b"//")) else { return false };
    let end = rest.iter().position(|b| b"/?#".contains(b)).unwrap_or(rest.len());
    let (name, port) = split_port(rest.get(..end).unwrap_or(rest));
    let port_is_valid = match port.get(1..) {
        None | Some([]) => true,
        Some(port) => std::str::from_utf8(port).is_ok_and(|p| p.parse::<u16>().is_ok()),
    };
    !name.is_empty() && port_is_valid
}

/// `:scheme`: as configured, or as the client said; over HTTP/1, where a request has none, that of `x-forwarded-proto`.
fn set_scheme(
    hcm: &HttpConnectionManager,
    head: &mut RequestHead,
    protocol: Option<Protocol>,
    connection: &Connection,
    seen: &Seen,
) {
    if let Some(scheme) = hcm.scheme_to_overwrite {
        head.scheme = scheme;
        head.headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
    } else if seen.forwarded && protocol != Some(Protocol::Http2) && head.scheme == forwarded::own_scheme(connection) {
        // The codec's default; a request in absolute form that names the other scheme keeps it.
        let forwarded = head.headers.get(X_FORWARDED_PROTO).and_then(|v| forwarded::scheme_of(v.as_bytes()));
        head.scheme = forwarded.unwrap_or(head.scheme);
    }
}

fn set_user_agent(hcm: &HttpConnectionManager, head: &mut RequestHead) {
    let Some(agent) = &hcm.user_agent else { return };
    head.headers.insert(X_ENVOY_DOWNSTREAM_SERVICE_CLUSTER, agent.cluster.clone());
    if head.headers.get(header::USER_AGENT).is_none_or(HeaderValue::is_empty) {
        head.headers.insert(header::USER_AGENT, agent.cluster.clone());
    }
    if let Some(node) = &agent.node {
        head.headers.insert(X_ENVOY_DOWNSTREAM_SERVICE_NODE, node.clone());
    }
}
