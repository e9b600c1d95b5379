//! From a command's name and parameters to its operator. Messages are Envoy's.

use std::time::SystemTime;

use super::certificate;
use super::headers::{HeaderOp, Key, MessagePart, PathOp, QueryOp, ServerNameOp, ServerNameOrder, Source};
use super::operator::{Between, CelOp, FilterStateOp, FilterStateShape, MetadataFn, MetadataOp, Op, Operator, Point};
use super::plain;
use super::status::{GrpcShape, write_underscored};
use super::time::{Moment, TimeFormat, TimeOp};
use super::{FormatContext, FormatError};
use crate::cel::{Expression, Options};

/// Formatter extensions of a format (`formatters`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Whether `envoy.formatter.req_without_query` is configured.
    pub req_without_query: bool,
    /// `cel_config` of `envoy.formatter.cel`; `%CEL(…)%` itself is always there.
    pub cel: Options,
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
    if let Some(op) = plain::compile(name) {
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
        "CEL" | "TYPED_CEL" => {
            let expression = Expression::parse(params, extensions.cel).map_err(|e| FormatError(e.to_string()))?;
            Op::Cel(CelOp { expression, typed: name == "TYPED_CEL" })
        }
        _ => match plain::masked_address(name, params) {
            Some(op) => op,
            None => return Ok(None),
        },
    }))
}

/// Operators of Envoy 1.40 for which the stream has no data yet. They are refused rather than printed as missing.
fn is_known(name: &str) -> bool {
    const KNOWN: &[&str] = &[
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
        "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
        "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
        "STREAM_INFO_REQ",
    ];
    KNOWN.contains(&name)
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
