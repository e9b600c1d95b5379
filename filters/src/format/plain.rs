//! Operators without parameters, and addresses.

use std::time::Duration;

use super::FormatContext;
use super::certificate::{self, CertificateOp};
use super::headers;
use super::operator::{NumberFn, Op, TextFn, count, duration};
use super::place::{AddressFn, AddressOp, Part};
use super::status::{GrpcShape, write_flags, write_underscored, write_unique_id};
use crate::address::Address;
use crate::flags::Flag;
use crate::stream::Timing;

/// The operator of a name, if it takes no parameters.
pub(super) fn compile(name: &str) -> Option<Op> {
    plain(name).or_else(|| plain_address(name)).or_else(|| plain_certificate(name))
}

fn plain(name: &str) -> Option<Op> {
    let text = |f: TextFn| Op::Text(f);
    let number = |f: NumberFn| Op::Number(f);
    Some(match name {
        "PROTOCOL" => text(|cx| cx.info.protocol.map(|p| p.name())),
        "UPSTREAM_PROTOCOL" => text(|cx| cx.info.upstream.protocol.map(|p| p.name())),
        "RESPONSE_CODE" => number(|cx| Some(cx.info.response_code.into())),
        "CONNECTION_TERMINATION_DETAILS" => text(|cx| cx.info.termination_details.as_deref()),
        "RESPONSE_FLAGS" => Op::Write(|cx, out| write_flags(cx, out, Flag::short)),
        "RESPONSE_FLAGS_LONG" => Op::Write(|cx, out| write_flags(cx, out, Flag::long)),
        "BYTES_RECEIVED" => number(|cx| count(cx.info.bytes_received)),
        "BYTES_SENT" => number(|cx| count(cx.info.bytes_sent)),
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => text(|cx| cx.info.connection.transport_failure.as_deref()),
        // Virtual clusters are refused.
        "VIRTUAL_CLUSTER_NAME" => Op::Missing,
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => number(|cx| count(cx.info.downstream_wire.received)),
        "DOWNSTREAM_WIRE_BYTES_SENT" => number(|cx| count(cx.info.downstream_wire.sent)),
        "DOWNSTREAM_HEADER_BYTES_RECEIVED" => number(|cx| count(cx.info.downstream_wire.headers_received)),
        "DOWNSTREAM_HEADER_BYTES_SENT" => number(|cx| count(cx.info.downstream_wire.headers_sent)),
        "UPSTREAM_WIRE_BYTES_RECEIVED" => number(|cx| count(cx.info.upstream_wire.received)),
        "UPSTREAM_WIRE_BYTES_SENT" => number(|cx| count(cx.info.upstream_wire.sent)),
        "UPSTREAM_HEADER_BYTES_RECEIVED" => number(|cx| count(cx.info.upstream_wire.headers_received)),
        "UPSTREAM_HEADER_BYTES_SENT" => number(|cx| count(cx.info.upstream_wire.headers_sent)),
        // Of QUIC only.
        "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" => number(|_| Some(0)),
        "ROUNDTRIP_DURATION" => Op::Missing,
        "REQUEST_HEADERS_BYTES" => number(|cx| Some(cx.request.map_or(0, headers::request_size))),
        "RESPONSE_HEADERS_BYTES" => number(|cx| Some(cx.response.map_or(0, headers::response_size))),
        "RESPONSE_TRAILERS_BYTES" => number(|cx| Some(cx.trailers.map_or(0, headers::byte_size))),
        "DURATION" => number(|cx| millis(Some(duration(cx)))),
        "REQUEST_DURATION" => number(|cx| millis(cx.info.timing.request_received)),
        "REQUEST_TX_DURATION" => number(|cx| millis(cx.info.timing.last_upstream_sent)),
        "RESPONSE_DURATION" => number(|cx| millis(cx.info.timing.first_upstream_received)),
        "RESPONSE_TX_DURATION" => number(|cx| {
            let Timing { first_upstream_received, last_downstream_sent, .. } = cx.info.timing;
            millis(Some(last_downstream_sent?.saturating_sub(first_upstream_received?)))
        }),
        "ROUTE_NAME" => text(|cx| cx.info.route_name.as_deref()),
        "UPSTREAM_HOST_NAME" | "UPSTREAM_HOST_NAME_WITHOUT_PORT" => {
            let without_port = name.ends_with("PORT");
            Op::Write(if without_port { host_name_without_port } else { host_name })
        }
        "UPSTREAM_CLUSTER" => text(|cx| cx.info.upstream.cluster.as_ref().map(|c| &*c.observability_name)),
        "UPSTREAM_CLUSTER_RAW" => text(|cx| cx.info.upstream.cluster.as_ref().map(|c| &*c.name)),
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => number(|cx| Some(cx.info.upstream.attempts.into())),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => {
            Op::Write(|cx, out| write_underscored(cx.info.upstream.transport_failure.as_deref(), out))
        }
        "CONNECTION_ID" => number(|cx| count(cx.info.connection.id)),
        "UPSTREAM_CONNECTION_ID" => number(|cx| count(cx.info.upstream.connection_id.unwrap_or(0))),
        "STREAM_ID" => text(|cx| cx.info.request_id.as_deref()),
        "UNIQUE_ID" => Op::Write(write_unique_id),
        "GRPC_STATUS_NUMBER" => Op::GrpcStatus(GrpcShape::Number),
        "LOCAL_REPLY_BODY" => Op::Write(|cx, out| super::operator::append(out, cx.local_reply_body.as_bytes())),
        "ACCESS_LOG_TYPE" => text(|cx| Some(cx.access_log_type.name())),
        "FILTER_CHAIN_NAME" => text(|cx| Some(&cx.info.connection.filter_chain)),
        "LISTENER_NAME" => text(|cx| Some(&cx.info.connection.listener)),
        "HOSTNAME" => Op::Constant(hostname().into()),
        // No tracer, no custom flags and no fingerprints yet: configurations that ask for them are refused where they do.
        "TRACE_ID" | "SPAN_ID" | "TLS_JA3_FINGERPRINT" | "TLS_JA4_FINGERPRINT" => Op::Missing,
        "CUSTOM_FLAGS" => Op::Write(|_, _| true),
        "DOWNSTREAM_TLS_VERSION" => text(|cx| certificate::downstream(cx).map(|t| t.version)),
        "DOWNSTREAM_TLS_CIPHER" => text(|cx| certificate::downstream(cx).map(|t| t.cipher)),
        "DOWNSTREAM_TLS_SESSION_ID" => text(|cx| certificate::downstream(cx).map(|t| &*t.session_id)),
        "UPSTREAM_TLS_VERSION" => text(|cx| certificate::upstream(cx).map(|t| t.version)),
        "UPSTREAM_TLS_CIPHER" => text(|cx| certificate::upstream(cx).map(|t| t.cipher)),
        "UPSTREAM_TLS_SESSION_ID" => text(|cx| certificate::upstream(cx).map(|t| &*t.session_id)),
        _ => return None,
    })
}

fn millis(duration: Option<Duration>) -> Option<i64> {
    i64::try_from(duration?.as_millis()).ok()
}

fn host_name(cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let Some(host) = &cx.info.upstream.host else { return false };
    if host.hostname.is_empty() {
        return super::place::write(&host.address, out);
    }
    super::operator::append(out, host.hostname.as_bytes())
}

fn host_name_without_port(cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let Some(host) = &cx.info.upstream.host else { return false };
    if host.hostname.is_empty() {
        return AddressOp { which: upstream_host, part: Part::WithoutPort }.text(cx, out);
    }
    let name = match host.hostname.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.contains(':') => name,
        _ => &host.hostname,
    };
    super::operator::append(out, name.as_bytes())
}

/// The host name of the machine (`gethostname`).
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "-".to_owned() } else { name.to_owned() }
}

fn upstream_host<'a>(cx: &FormatContext<'a>) -> Option<&'a Address> {
    cx.info.upstream.host.as_ref().map(|h| &h.address)
}

/// The side of a connection that the beginning of a name stands for, and the rest of the name.
fn address_side(name: &str) -> Option<(AddressFn, &str)> {
    const SIDES: [(&str, AddressFn); 6] = [
        ("DOWNSTREAM_DIRECT_REMOTE_", |cx| Some(&cx.info.connection.direct_remote)),
        ("DOWNSTREAM_DIRECT_LOCAL_", |cx| Some(&cx.info.connection.direct_local)),
        ("DOWNSTREAM_REMOTE_", |cx| Some(&cx.info.remote)),
        ("DOWNSTREAM_LOCAL_", |cx| Some(&cx.info.connection.local)),
        // The peer of a connection, which there is once it has a local address.
        ("UPSTREAM_REMOTE_", |cx| cx.info.upstream.local.as_ref().and_then(|_| upstream_host(cx))),
        ("UPSTREAM_LOCAL_", |cx| cx.info.upstream.local.as_ref()),
    ];
    SIDES.iter().find_map(|(prefix, which)| Some((*which, name.strip_prefix(prefix)?)))
}

fn plain_address(name: &str) -> Option<Op> {
    if name == "UPSTREAM_HOST" {
        return Some(Op::Address(AddressOp { which: upstream_host, part: Part::Whole }));
    }
    let (which, rest) = address_side(name)?;
    let part = match rest {
        "ADDRESS" => Part::Whole,
        "PORT" => Part::Port,
        // Envoy has it for these three only.
        "ADDRESS_ENDPOINT_ID"
            if name.starts_with("UPSTREAM_REMOTE") || name.contains("_LOCAL_") && name.starts_with('D') =>
        {
            Part::EndpointId
        }
        _ => return None,
    };
    Some(Op::Address(AddressOp { which, part }))
}

/// `…_ADDRESS_WITHOUT_PORT(bits)`
pub(super) fn masked_address(name: &str, params: &str) -> Option<Op> {
    let (which, rest) = address_side(name)?;
    // What is no number is ignored, and what is too large is cut, as Envoy does.
    let part = params.parse::<u32>().map_or(Part::WithoutPort, |bits| Part::Masked(bits.min(128) as u8));
    (rest == "ADDRESS_WITHOUT_PORT").then_some(Op::Address(AddressOp { which, part }))
}

fn plain_certificate(name: &str) -> Option<Op> {
    // Of upstream certificates Envoy prints these only.
    const UPSTREAM_PEER: [&str; 6] = ["URI_SAN", "DNS_SAN", "IP_SAN", "SUBJECT", "ISSUER", "CERT"];
    const LOCAL: [&str; 5] = ["URI_SAN", "DNS_SAN", "IP_SAN", "EMAIL_SAN", "SUBJECT"];
    let (which, rest, allowed): (certificate::CertificateFn, &str, &[&str]) =
        if let Some(rest) = name.strip_prefix("DOWNSTREAM_PEER_") {
            (certificate::downstream_peer, rest, &[])
        } else if let Some(rest) = name.strip_prefix("DOWNSTREAM_LOCAL_") {
            (certificate::downstream_local, rest, &LOCAL)
        } else if let Some(rest) = name.strip_prefix("UPSTREAM_PEER_") {
            (certificate::upstream_peer, rest, &UPSTREAM_PEER)
        } else {
            (certificate::upstream_local, name.strip_prefix("UPSTREAM_LOCAL_")?, &LOCAL[..3])
        };
    if !allowed.is_empty() && !allowed.contains(&rest) {
        return None;
    }
    Some(Op::Certificate(CertificateOp { which, field: certificate::field(rest)? }))
}
