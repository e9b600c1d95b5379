//! From a command's name and parameters to its operator. Messages are Envoy's.

use std::time::{Duration, SystemTime};

use super::certificate::{self, CertificateOp};
use super::headers::{self, HeaderOp, Key, MessagePart, PathOp, QueryOp, ServerNameOp, ServerNameOrder, Source};
use super::operator::{Between, FilterStateOp, FilterStateShape, MetadataFn, MetadataOp, Op, Operator, Point};
use super::operator::{NumberFn, TextFn, duration};
use super::place::{AddressFn, AddressOp, Part};
use super::status::{GrpcShape, write_flags, write_underscored, write_unique_id};
use super::time::{Moment, TimeFormat, TimeOp};
use super::{FormatContext, FormatError};
use crate::address::Address;
use crate::flags::Flag;
use crate::stream::Timing;

/// Formatter extensions of the format.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extensions {
    pub req_without_query: bool,
}

type Compiled = Result<Op, FormatError>;

fn error<T>(text: impl Into<String>) -> Result<T, FormatError> {
    Err(FormatError(text.into()))
}

/// Compiles a command.
pub(super) fn compile(
    name: &str,
    params: &str,
    max_length: Option<usize>,
    extensions: Extensions,
) -> Result<Operator, FormatError> {
    let op = match command(name, params, max_length, extensions)? {
        Some(op) => op,
        None if is_known(name) => return error(format!("{name} is not supported yet")),
        None => return error(format!("Not supported field in StreamInfo: {name}")),
    };
    // What is constant is cut here.
    Ok(match (op, max_length) {
        (Op::Constant(text), Some(max)) => {
            let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            Operator { op: Op::Constant(text.get(..end).unwrap_or_default().into()), max_length: None }
        }
        (op, max_length) => Operator { op, max_length },
    })
}

fn command(
    name: &str,
    params: &str,
    max_length: Option<usize>,
    extensions: Extensions,
) -> Result<Option<Op>, FormatError> {
    if let Some(op) = plain(name).or_else(|| plain_address(name)).or_else(|| plain_certificate(name)) {
        if !params.is_empty() || max_length.is_some() {
            return error(format!("{name} does not take any parameters or length"));
        }
        return Ok(Some(op));
    }
    if let Some(time) = time(name, params) {
        if max_length.is_some() {
            return error(format!("{name} does not allow length to be specified."));
        }
        return time.map(Some);
    }
    let needs_params = matches!(
        name,
        "REQ"
            | "REQUEST_HEADER"
            | "RESP"
            | "RESPONSE_HEADER"
            | "TRAILER"
            | "RESPONSE_TRAILER"
            | "REQ_WITHOUT_QUERY"
            | "DYNAMIC_METADATA"
            | "CLUSTER_METADATA"
            | "UPSTREAM_METADATA"
            | "METADATA"
            | "ENVIRONMENT"
            | "QUERY_PARAM"
            | "COALESCE"
            | "COMMON_DURATION"
    );
    if needs_params && params.is_empty() {
        return error(format!("{name} requires parameters"));
    }
    Ok(Some(match name {
        "REQ" | "REQUEST_HEADER" => header(MessagePart::Request, params, false)?,
        "RESP" | "RESPONSE_HEADER" => header(MessagePart::Response, params, false)?,
        "TRAILER" | "RESPONSE_TRAILER" => header(MessagePart::Trailers, params, false)?,
        "REQ_WITHOUT_QUERY" if extensions.req_without_query => header(MessagePart::Request, params, true)?,
        "PATH" => path(params)?,
        "QUERY_PARAM" => Op::Query(QueryOp::Param(params.into())),
        "QUERY_PARAMS" => match params {
            "" | "ORIG" => Op::Query(QueryOp::All { decoded: false }),
            "DECODED" => Op::Query(QueryOp::All { decoded: true }),
            x => return error(format!("Invalid QUERY_PARAMS option: '{x}', only 'ORIG'/'DECODED' are allowed")),
        },
        "REQUESTED_SERVER_NAME" => server_name(params)?,
        "RESPONSE_CODE_DETAILS" if params == "ALLOW_WHITESPACES" => Op::Text(|cx| cx.info.details.as_deref()),
        "RESPONSE_CODE_DETAILS" => Op::Write(|cx, out| write_underscored(cx.info.details.as_deref(), out)),
        "GRPC_STATUS" => Op::GrpcStatus(match params {
            "" | "CAMEL_STRING" => GrpcShape::Camel,
            "SNAKE_STRING" => GrpcShape::Snake,
            "NUMBER" => GrpcShape::Number,
            x => {
                return error(format!(
                    "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER. Got: {x}"
                ));
            }
        }),
        "COMMON_DURATION" => between(params)?,
        "DYNAMIC_METADATA" => metadata(|cx| Some(&cx.info.metadata), params),
        "CLUSTER_METADATA" => metadata(|cx| cx.info.upstream.cluster_metadata.as_deref(), params),
        "UPSTREAM_METADATA" => metadata(|cx| cx.info.upstream.host.as_ref().map(|h| &h.metadata), params),
        "METADATA" => typed_metadata(params)?,
        "FILTER_STATE" => filter_state(params)?,
        // Nothing here gives upstream connections filter state of their own.
        "UPSTREAM_FILTER_STATE" => filter_state(params).map(|_| Op::Missing)?,
        "ENVIRONMENT" => Op::Constant(std::env::var(params).unwrap_or_else(|_| "-".to_owned()).into()),
        "COALESCE" => coalesce(params, extensions)?,
        _ => match masked_address(name, params) {
            Some(op) => op,
            None => return Ok(None),
        },
    }))
}

/// Operators of Envoy 1.40 for which the stream has no data yet. They are refused rather than printed as missing.
fn is_known(name: &str) -> bool {
    const KNOWN: &[&str] = &[
        "CEL",
        "TYPED_CEL",
        "DOWNSTREAM_CX_RTT",
        "DOWNSTREAM_DETECTED_CLOSE_TYPE",
        "DOWNSTREAM_LOCAL_CLOSE_REASON",
        "DOWNSTREAM_HANDSHAKE_DURATION",
        "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
        "DOWNSTREAM_PEER_OTHERNAME_SAN",
        "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
        "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
        "DOWNSTREAM_PEER_CHAIN_SERIALS",
        "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256",
        "DOWNSTREAM_PEER_ISSUER_SERIAL",
        "DOWNSTREAM_TLS_GROUP",
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
        "DOWNSTREAM_WIRE_BYTES_RECEIVED",
        "DOWNSTREAM_WIRE_BYTES_SENT",
        "DOWNSTREAM_HEADER_BYTES_RECEIVED",
        "DOWNSTREAM_HEADER_BYTES_SENT",
        "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
        "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
        "UPSTREAM_CONNECTION_POOL_READY_DURATION",
        "UPSTREAM_DETECTED_CLOSE_TYPE",
        "UPSTREAM_HOSTS_ATTEMPTED",
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
        "UPSTREAM_HOST_NAMES_ATTEMPTED",
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
        "UPSTREAM_LOCAL_CLOSE_REASON",
        "UPSTREAM_TLS_GROUP",
        "UPSTREAM_WIRE_BYTES_RECEIVED",
        "UPSTREAM_WIRE_BYTES_SENT",
        "UPSTREAM_HEADER_BYTES_RECEIVED",
        "UPSTREAM_HEADER_BYTES_SENT",
        "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
        "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
        "STREAM_INFO_REQ",
        "VIRTUAL_CLUSTER_NAME",
    ];
    KNOWN.contains(&name)
}

/// Operators without parameters.
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
        "BYTES_RECEIVED" => number(|cx| Some(cx.info.bytes_received.into())),
        "BYTES_SENT" => number(|cx| Some(cx.info.bytes_sent.into())),
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
        "CONNECTION_ID" => number(|cx| Some(cx.info.connection.id.into())),
        "UPSTREAM_CONNECTION_ID" => number(|cx| Some(cx.info.upstream.connection_id.unwrap_or(0).into())),
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

fn millis(duration: Option<Duration>) -> Option<i128> {
    i128::try_from(duration?.as_millis()).ok()
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

fn masked_address(name: &str, params: &str) -> Option<Op> {
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

fn time(name: &str, params: &str) -> Option<Compiled> {
    fn validity(seconds: i64) -> Moment {
        Moment { seconds, nanos: 0 }
    }
    let which: fn(&FormatContext<'_>) -> Option<Moment> = match name {
        "START_TIME" | "START_TIME_LOCAL" => |cx| Some(Moment::of(cx.info.start_time)),
        "EMIT_TIME" | "EMIT_TIME_LOCAL" => |_| Some(Moment::of(SystemTime::now())),
        "DOWNSTREAM_PEER_CERT_V_START" => |cx| certificate::downstream_peer(cx).map(|c| validity(c.not_before)),
        "DOWNSTREAM_PEER_CERT_V_END" => |cx| certificate::downstream_peer(cx).map(|c| validity(c.not_after)),
        "UPSTREAM_PEER_CERT_V_START" => |cx| certificate::upstream_peer(cx).map(|c| validity(c.not_before)),
        "UPSTREAM_PEER_CERT_V_END" => |cx| certificate::upstream_peer(cx).map(|c| validity(c.not_after)),
        _ => return None,
    };
    Some(TimeFormat::parse(params, name.ends_with("_LOCAL")).map(|format| Op::Time(TimeOp { which, format })))
}

fn header(part: MessagePart, params: &str, without_query: bool) -> Compiled {
    let mut names = params.split('?');
    let (main, alternative) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    if names.next().is_some() {
        return error(format!("More than 1 alternative header specified in token: {params}"));
    }
    Ok(Op::Header(HeaderOp { part, main: Key::parse(main)?, alternative: Key::parse(alternative)?, without_query }))
}

fn path(params: &str) -> Compiled {
    let (query, source) = params.split_once(':').unwrap_or((params, ""));
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        x => return error(format!("Invalid PATH option: '{x}', only 'WQ'/'NQ' are allowed")),
    };
    let source = match source {
        "" | "ORIG_OR_PATH" => Source::OriginalOrCurrent,
        "ORIG" => Source::Original,
        "PATH" => Source::Current,
        x => return error(format!("Invalid PATH option: '{x}', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed")),
    };
    Ok(Op::Path(PathOp { query, source }))
}

fn server_name(params: &str) -> Compiled {
    let (order, host) = params.split_once(':').unwrap_or((params, ""));
    let invalid = |x: &str, allowed: &str| {
        error(format!("Invalid REQUESTED_SERVER_NAME option: '{x}', only {allowed} are allowed"))
    };
    let order = match order {
        "" | "SNI_ONLY" => ServerNameOrder::SniOnly,
        "SNI_FIRST" => ServerNameOrder::SniFirst,
        "HOST_FIRST" => ServerNameOrder::HostFirst,
        x => return invalid(x, "'SNI_ONLY'/'SNI_FIRST'/'HOST_FIRST'"),
    };
    let host = match host {
        "" | "ORIG_OR_HOST" => Source::OriginalOrCurrent,
        "HOST" => Source::Current,
        "ORIG" => Source::Original,
        x => return invalid(x, "'ORIG_OR_HOST'/'HOST'/'ORIG'"),
    };
    Ok(Op::ServerName(ServerNameOp { order, host }))
}

fn between(params: &str) -> Compiled {
    let parts: Vec<&str> = params.split(':').collect();
    let (from, to, unit) = match *parts {
        [from, to] => (from, to, "ms"),
        [from, to, unit] => (from, to, unit),
        _ => return error(format!("Invalid common duration configuration: {params}.")),
    };
    let unit = match unit {
        "ms" => 1_000_000,
        "us" => 1_000,
        "ns" => 1,
        x => return error(format!("Invalid common duration precision: {x}.")),
    };
    Ok(Op::Between(Between { from: point(from)?, to: point(to)?, unit }))
}

fn point(name: &str) -> Result<Point, FormatError> {
    Ok(match name {
        "DS_RX_BEG" => Point::Start,
        "DS_RX_END" => Point::At(|t| t.request_received),
        "US_TX_BEG" => Point::At(|t| t.first_upstream_sent),
        "US_TX_END" => Point::At(|t| t.last_upstream_sent),
        "US_RX_BEG" => Point::At(|t| t.first_upstream_received),
        "US_RX_END" => Point::At(|t| t.last_upstream_received),
        "DS_TX_BEG" => Point::At(|t| t.first_downstream_sent),
        "DS_TX_END" => Point::At(|t| t.last_downstream_sent),
        "US_CX_BEG" | "US_CX_END" | "US_HS_END" | "US_RX_BODY_BEG" => {
            return error(format!("COMMON_DURATION of {name} is not supported yet"));
        }
        _ => Point::Unknown,
    })
}

fn metadata(source: MetadataFn, params: &str) -> Op {
    let mut parts = params.split(':').map(Box::from);
    let namespace = parts.next().unwrap_or_default();
    Op::Metadata(MetadataOp { source, namespace, path: parts.collect() })
}

fn typed_metadata(params: &str) -> Compiled {
    let (kind, rest) = params.split_once(':').unwrap_or((params, ""));
    let source: MetadataFn = match kind {
        "DYNAMIC" => |cx| Some(&cx.info.metadata),
        "CLUSTER" => |cx| cx.info.upstream.cluster_metadata.as_deref(),
        "ROUTE" => |cx| cx.info.route_metadata.as_deref(),
        "UPSTREAM_HOST" => |cx| cx.info.upstream.host.as_ref().map(|h| &h.metadata),
        "VIRTUAL_HOST" => |cx| cx.info.virtual_host_metadata.as_deref(),
        "LISTENER" | "LISTENER_FILTER_CHAIN" => return error(format!("METADATA of {kind} is not supported yet")),
        x => return error(format!("{x} is not supported type of metadata")),
    };
    Ok(metadata(source, rest))
}

fn filter_state(params: &str) -> Compiled {
    let mut parts = params.splitn(3, ':');
    let (key, shape, field) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if key.is_empty() {
        return error("Invalid filter state configuration, key cannot be empty.");
    }
    if !matches!(shape, "" | "PLAIN" | "TYPED" | "FIELD") {
        return error("Invalid filter state serialize type, only support PLAIN/TYPED/FIELD.");
    }
    if (shape == "FIELD") == field.is_empty() {
        return error("Invalid filter state serialize type, FIELD should be used with the field name.");
    }
    let shape = match shape {
        "PLAIN" => FilterStateShape::Plain,
        "FIELD" => FilterStateShape::Field(field.into()),
        _ => FilterStateShape::Typed,
    };
    Ok(Op::FilterState(FilterStateOp { key: key.into(), shape }))
}

/// `COALESCE({"operators": [NAME | {"command": NAME, "param": X, "max_length": Z}, …]})`
fn coalesce(params: &str, extensions: Extensions) -> Compiled {
    let config: serde_json::Value = serde_json::from_str(params)
        .map_err(|e| FormatError(format!("COALESCE: failed to parse JSON configuration: {e}")))?;
    let Some(operators) = config.get("operators").and_then(|o| o.as_array()) else {
        return error("COALESCE: JSON configuration must contain 'operators' array");
    };
    if operators.is_empty() {
        return error("COALESCE: 'operators' array must not be empty");
    }
    let mut compiled = Vec::with_capacity(operators.len());
    for (i, entry) in operators.iter().enumerate() {
        let operator = coalesce_entry(entry, extensions)
            .map_err(|e| FormatError(format!("COALESCE: failed to parse operator at index {i}: {e}")))?;
        compiled.push(operator);
    }
    Ok(Op::Coalesce(compiled.into()))
}

fn coalesce_entry(entry: &serde_json::Value, extensions: Extensions) -> Result<Operator, FormatError> {
    use serde_json::Value;
    let (name, param, max_length) = match entry {
        Value::String(name) => (name.as_str(), "", None),
        Value::Object(fields) => {
            let Some(name) = fields.get("command").and_then(Value::as_str) else {
                return error("operator object must have 'command' field");
            };
            let param = match fields.get("param") {
                None => "",
                Some(Value::String(p)) => p,
                Some(_) => return error("'param' field must be a string"),
            };
            let max_length = match fields.get("max_length") {
                None => None,
                Some(n) => match n.as_u64() {
                    Some(n) => Some(usize::try_from(n).unwrap_or(usize::MAX)),
                    None => return error("'max_length' field must be an integer"),
                },
            };
            (name, param, max_length)
        }
        _ => {
            return error("operator entry must be either a string (command name) or an object with 'command' field");
        }
    };
    let unknown = FormatError(format!("Not supported field in StreamInfo: {name}"));
    compile(name, param, max_length, extensions)
        .map_err(|e| if e == unknown { FormatError(format!("unknown command: '{name}'")) } else { e })
}
