//! `int(x)`, `string(x)` and their kin.

use std::borrow::Cow;

use super::value::Value;
use super::{EvalError, Evaluated, moment};
use crate::format::value as json;

/// A conversion, by the function's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversion {
    Int,
    Uint,
    Double,
    Bool,
    Bytes,
    String,
    Type,
    Dyn,
    Duration,
    Timestamp,
}

impl Conversion {
    pub fn parse(name: &str) -> Option<Conversion> {
        Some(match name {
            "int" => Conversion::Int,
            "uint" => Conversion::Uint,
            "double" => Conversion::Double,
            "bool" => Conversion::Bool,
            "bytes" => Conversion::Bytes,
            "string" => Conversion::String,
            "type" => Conversion::Type,
            "dyn" => Conversion::Dyn,
            "duration" => Conversion::Duration,
            "timestamp" => Conversion::Timestamp,
            _ => return None,
        })
    }
}

/// The value as another type.
pub(super) fn convert(to: Conversion, value: Value<'_>) -> Evaluated<'_> {
    let converted = match to {
        Conversion::Type => Some(Value::Type(value.type_name())),
        Conversion::Dyn => Some(value),
        Conversion::Int => int(&value).map(Value::Int),
        Conversion::Uint => uint(&value).map(Value::Uint),
        Conversion::Double => double(&value).map(Value::Double),
        Conversion::Bool => bool(&value).map(Value::Bool),
        Conversion::Bytes => match value {
            Value::String(text) | Value::Bytes(text) => Some(Value::Bytes(text)),
            _ => None,
        },
        Conversion::String => string(value).map(Value::String),
        Conversion::Duration => match &value {
            Value::String(text) => text_of(text).and_then(moment::parse_duration).map(Value::Duration),
            Value::Duration(n) => Some(Value::Duration(*n)),
            _ => None,
        },
        Conversion::Timestamp => match &value {
            Value::String(text) => text_of(text).and_then(moment::parse_timestamp).map(Value::Timestamp),
            Value::Int(seconds) => Some(Value::Timestamp(i128::from(*seconds) * 1_000_000_000)),
            Value::Timestamp(n) => Some(Value::Timestamp(*n)),
            _ => None,
        },
    };
    converted.ok_or(EvalError("no such conversion"))
}

fn text_of(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok()
}

fn int(value: &Value<'_>) -> Option<i64> {
    // The first double that is too large.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    match value {
        Value::Int(n) => Some(*n),
        Value::Uint(n) => i64::try_from(*n).ok(),
        #[allow(clippy::cast_possible_truncation, reason = "within the limits, and cut as CEL does")]
        Value::Double(n) if *n > -LIMIT && *n < LIMIT => Some(*n as i64),
        Value::Bool(b) => Some((*b).into()),
        Value::String(text) => text_of(text)?.parse().ok(),
        Value::Timestamp(n) => i64::try_from(n.div_euclid(1_000_000_000)).ok(),
        _ => None,
    }
}

fn uint(value: &Value<'_>) -> Option<u64> {
    // The first double that is too large.
    const LIMIT: f64 = 18_446_744_073_709_551_616.0;
    match value {
        Value::Uint(n) => Some(*n),
        Value::Int(n) => u64::try_from(*n).ok(),
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within the limits, cut as CEL does"
        )]
        Value::Double(n) if *n >= 0.0 && *n < LIMIT => Some(*n as u64),
        Value::String(text) => text_of(text)?.parse().ok(),
        _ => None,
    }
}

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(n) => Some(*n),
        #[allow(clippy::cast_precision_loss, reason = "to the nearest, as CEL does")]
        Value::Int(n) => Some(*n as f64),
        #[allow(clippy::cast_precision_loss, reason = "to the nearest, as CEL does")]
        Value::Uint(n) => Some(*n as f64),
        Value::String(text) => text_of(text)?.parse().ok(),
        _ => None,
    }
}

fn bool(value: &Value<'_>) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::String(text) => match &**text {
            b"true" | b"True" | b"TRUE" | b"t" | b"1" => Some(true),
            b"false" | b"False" | b"FALSE" | b"f" | b"0" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn string(value: Value<'_>) -> Option<Cow<'_, [u8]>> {
    let mut out = Vec::new();
    match value {
        Value::String(text) => return Some(text),
        Value::Bytes(bytes) => return text_of(&bytes).is_some().then_some(bytes),
        Value::Bool(b) => out.extend_from_slice(if b { b"true" } else { b"false" }),
        Value::Int(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
        Value::Uint(n) => out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes()),
        Value::Double(n) => json::write_number(&mut out, n),
        Value::Duration(n) => moment::write_seconds(n, &mut out),
        Value::Timestamp(n) => moment::write_timestamp(n, "Z", &mut out).then_some(())?,
        Value::Null | Value::Type(_) | Value::List(_) | Value::Map(_) => return None,
    }
    Some(Cow::Owned(out))
}
