//! Envoy's attributes: the names that are known without being declared, and what they read.

use super::headers::{HeaderKey, Part};
use super::map::Map;
use super::value::Value;
use crate::address::Address;
use crate::connection::{CertificateInfo, Direction, TlsSession};
use crate::format::{FormatContext, byte_size, grpc_status, request_size, response_size};
use crate::metadata::Metadata;
use std::time::{Duration, UNIX_EPOCH};

/// A name that stands at the beginning of attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    Request,
    Response,
    Connection,
    Upstream,
    Source,
    Destination,
    Xds,
    FilterState,
}

/// Reads an attribute; none where there is no value, which is an error to the expression.
pub(super) type Read = for<'a> fn(&FormatContext<'a>) -> Option<Value<'a>>;

/// What a name stands for behind a root.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attribute {
    Value(Read),
    Headers(Part),
    /// An object of filter state.
    Object,
    /// Envoy has it and we do not.
    NoData,
    Unknown,
}

/// `metadata`, which is a message and so read whole.
pub(super) fn metadata<'a>(cx: &FormatContext<'a>) -> Option<Value<'a>> {
    message(&cx.info.metadata)
}

/// `upstream_filter_state`: upstream connections have no filter state of their own here.
pub(super) fn upstream_filter_state<'a>(cx: &FormatContext<'a>) -> Option<Value<'a>> {
    cx.info.upstream.local.as_ref().map(|_| Value::Map(Map::Empty))
}

impl Root {
    pub fn parse(name: &str) -> Option<Root> {
        Some(match name {
            "request" => Root::Request,
            "response" => Root::Response,
            "connection" => Root::Connection,
            "upstream" => Root::Upstream,
            "source" => Root::Source,
            "destination" => Root::Destination,
            "xds" => Root::Xds,
            "filter_state" => Root::FilterState,
            _ => return None,
        })
    }

    pub fn attribute(self, name: &str) -> Attribute {
        let read = match self {
            Root::Request if name == "headers" => return Attribute::Headers(Part::Request),
            Root::Response if name == "headers" => return Attribute::Headers(Part::Response),
            Root::Response if name == "trailers" => return Attribute::Headers(Part::Trailers),
            Root::FilterState => return Attribute::Object,
            Root::Upstream if matches!(name, "locality" | "cx_pool_ready_duration" | "num_endpoints") => {
                return Attribute::NoData;
            }
            Root::Xds if matches!(name, "node" | "listener_metadata" | "upstream_host_locality_metadata") => {
                return Attribute::NoData;
            }
            Root::Request => request(name),
            Root::Response => response(name),
            Root::Connection => connection(name),
            Root::Upstream => upstream(name),
            Root::Source => source(name),
            Root::Destination => destination(name),
            Root::Xds => xds(name),
        };
        read.map_or(Attribute::Unknown, Attribute::Value)
    }
}

fn request(name: &str) -> Option<Read> {
    Some(match name {
        "path" => |cx| HeaderKey::Path.find(Part::Request, cx).map(Value::String),
        "url_path" => |cx| cx.request.map(|r| bytes(r.path_without_query())),
        "query" => |cx| {
            let path = cx.request?.path_bytes();
            let query = memchr::memchr(b'?', path).and_then(|at| path.get(at + 1..)).unwrap_or_default();
            // A fragment is no part of it.
            Some(bytes(query.split(|b| *b == b'#').next().unwrap_or_default()))
        },
        "host" => |cx| HeaderKey::Authority.find(Part::Request, cx).map(Value::String),
        "scheme" => |cx| HeaderKey::Scheme.find(Part::Request, cx).map(Value::String),
        "method" => |cx| HeaderKey::Method.find(Part::Request, cx).map(Value::String),
        "referer" => |cx| cx.request?.headers.get("referer").map(|v| bytes(v.as_bytes())),
        "useragent" => |cx| cx.request?.headers.get("user-agent").map(|v| bytes(v.as_bytes())),
        "id" => |cx| cx.request?.headers.get("x-request-id").map(|v| bytes(v.as_bytes())),
        "protocol" => |cx| cx.info.protocol.map(|p| Value::string(p.name())),
        "time" => |cx| {
            let since = cx.info.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
            Some(Value::Timestamp(nanos(since)))
        },
        "duration" => |cx| cx.info.timing.complete.map(|d| Value::Duration(nanos(d))),
        "size" => |cx| match cx.request.and_then(|r| r.headers.get("content-length")) {
            Some(length) => length.to_str().ok()?.parse().ok().map(Value::Int),
            None => count(cx.info.bytes_received),
        },
        "headers_bytes" => |cx| Some(Value::Int(cx.request.map_or(0, request_size))),
        "total_size" => |cx| sum(cx.info.bytes_received, cx.request.map_or(0, request_size)),
        _ => return None,
    })
}

fn response(name: &str) -> Option<Read> {
    Some(match name {
        "code" => |cx| (cx.info.response_code != 0).then(|| Value::Int(cx.info.response_code.into())),
        "code_details" => |cx| cx.info.details.as_deref().map(Value::string),
        "flags" => |cx| Some(Value::Int(cx.info.flags.iter().map(|f| 1 << f as u8).sum())),
        "grpc_status" => |cx| {
            let named = [cx.trailers, cx.response.map(|r| &r.headers)];
            let known =
                cx.info.response_code != 0 || named.into_iter().flatten().any(|h| h.contains_key("grpc-status"));
            known.then(|| Value::Int(grpc_status(cx)))
        },
        "size" => |cx| count(cx.info.bytes_sent),
        "headers_bytes" => |cx| Some(Value::Int(cx.response.map_or(0, response_size))),
        "total_size" => |cx| {
            let heads = cx.response.map_or(0, response_size).saturating_add(cx.trailers.map_or(0, byte_size));
            sum(cx.info.bytes_sent, heads)
        },
        "backend_latency" => |cx| {
            let timing = &cx.info.timing;
            let spent = timing.last_upstream_received?.checked_sub(timing.first_upstream_sent?)?;
            Some(Value::Duration(nanos(spent)))
        },
        _ => return None,
    })
}

fn connection(name: &str) -> Option<Read> {
    Some(match name {
        "mtls" => |cx| Some(Value::Bool(cx.info.connection.tls.as_ref().is_some_and(|t| t.peer.is_some()))),
        "requested_server_name" => {
            |cx| Some(Value::string(cx.info.connection.server_name.as_deref().unwrap_or_default()))
        }
        "id" => |cx| Some(Value::Uint(cx.info.connection.id)),
        "termination_details" => |cx| cx.info.termination_details.as_deref().map(Value::string),
        "transport_failure_reason" => {
            |cx| cx.info.connection.transport_failure.as_deref().filter(|t| !t.is_empty()).map(Value::string)
        }
        "tls_version" => |cx| Some(Value::string(downstream(cx)?.version)),
        "subject_local_certificate" => |cx| subject(downstream(cx)?.local.as_deref()),
        "subject_peer_certificate" => |cx| subject(downstream(cx)?.peer.as_deref()),
        "uri_san_local_certificate" => |cx| first(&downstream(cx)?.local.as_deref()?.uri_sans),
        "uri_san_peer_certificate" => |cx| first(&downstream(cx)?.peer.as_deref()?.uri_sans),
        "dns_san_local_certificate" => |cx| first(&downstream(cx)?.local.as_deref()?.dns_sans),
        "dns_san_peer_certificate" => |cx| first(&downstream(cx)?.peer.as_deref()?.dns_sans),
        "sha256_peer_certificate_digest" => |cx| Some(Value::string(&downstream(cx)?.peer.as_deref()?.sha256)),
        _ => return None,
    })
}

fn upstream(name: &str) -> Option<Read> {
    Some(match name {
        "address" => |cx| cx.info.upstream.host.as_ref().map(|h| address(&h.address)),
        "port" => |cx| cx.info.upstream.host.as_ref().and_then(|h| port(&h.address)),
        "local_address" => |cx| cx.info.upstream.local.as_ref().map(address),
        "transport_failure_reason" => {
            |cx| Some(Value::string(cx.info.upstream.transport_failure.as_deref().unwrap_or_default()))
        }
        "request_attempt_count" => |cx| Some(Value::Uint(cx.info.upstream.attempts.into())),
        "tls_version" => |cx| Some(Value::string(upstream_tls(cx)?.version)),
        "subject_local_certificate" => |cx| subject(upstream_tls(cx)?.local.as_deref()),
        "subject_peer_certificate" => |cx| subject(upstream_tls(cx)?.peer.as_deref()),
        "uri_san_local_certificate" => |cx| first(&upstream_tls(cx)?.local.as_deref()?.uri_sans),
        "uri_san_peer_certificate" => |cx| first(&upstream_tls(cx)?.peer.as_deref()?.uri_sans),
        "dns_san_local_certificate" => |cx| first(&upstream_tls(cx)?.local.as_deref()?.dns_sans),
        "dns_san_peer_certificate" => |cx| first(&upstream_tls(cx)?.peer.as_deref()?.dns_sans),
        "sha256_peer_certificate_digest" => |cx| Some(Value::string(&upstream_tls(cx)?.peer.as_deref()?.sha256)),
        _ => return None,
    })
}

fn source(name: &str) -> Option<Read> {
    Some(match name {
        "address" => |cx| Some(address(&cx.info.remote)),
        "port" => |cx| port(&cx.info.remote),
        _ => return None,
    })
}

fn destination(name: &str) -> Option<Read> {
    Some(match name {
        "address" => |cx| Some(address(&cx.info.connection.local)),
        "port" => |cx| port(&cx.info.connection.local),
        _ => return None,
    })
}

fn xds(name: &str) -> Option<Read> {
    Some(match name {
        "cluster_name" => |cx| cx.info.upstream.cluster.as_ref().map(|c| Value::string(&c.name)),
        "cluster_metadata" => |cx| message(cx.info.upstream.cluster_metadata.as_deref()?),
        "route_name" => |cx| cx.info.route_name.as_deref().map(Value::string),
        "route_metadata" => |cx| message(cx.info.route_metadata.as_deref()?),
        "virtual_host_name" => |cx| cx.info.virtual_host.as_deref().map(Value::string),
        "virtual_host_metadata" => |cx| message(cx.info.virtual_host_metadata.as_deref()?),
        "upstream_host_metadata" => |cx| cx.info.upstream.host.as_ref().and_then(|h| message(&h.metadata)),
        "filter_chain_name" => |cx| Some(Value::string(&cx.info.connection.filter_chain)),
        "listener_direction" => |cx| {
            // As numbered in `config.core.v3.TrafficDirection`.
            Some(Value::Int(match cx.info.connection.direction {
                Direction::Unspecified => 0,
                Direction::Inbound => 1,
                Direction::Outbound => 2,
            }))
        },
        _ => return None,
    })
}

fn downstream<'a>(cx: &FormatContext<'a>) -> Option<&'a TlsSession> {
    cx.info.connection.tls.as_deref()
}

fn upstream_tls<'a>(cx: &FormatContext<'a>) -> Option<&'a TlsSession> {
    cx.info.upstream.tls.as_deref()
}

/// Empty without a certificate, as long as there is TLS.
fn subject(certificate: Option<&CertificateInfo>) -> Option<Value<'_>> {
    Some(Value::string(certificate.map_or("", |c| &c.subject)))
}

fn first(names: &[String]) -> Option<Value<'_>> {
    names.first().map(|n| Value::string(n))
}

fn message(metadata: &Metadata) -> Option<Value<'_>> {
    Some(Value::Map(Map::Metadata(metadata)))
}

fn address<'a>(address: &Address) -> Value<'a> {
    Value::String(address.to_string().into_bytes().into())
}

fn port<'a>(address: &Address) -> Option<Value<'a>> {
    address.port().map(|p| Value::Int(p.into()))
}

fn bytes(text: &[u8]) -> Value<'_> {
    Value::String(text.into())
}

fn count<'a>(n: u64) -> Option<Value<'a>> {
    i64::try_from(n).ok().map(Value::Int)
}

fn sum<'a>(n: u64, more: i64) -> Option<Value<'a>> {
    i64::try_from(n).ok()?.checked_add(more).map(Value::Int)
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}
