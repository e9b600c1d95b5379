//! Values as `%CEL(…)%` prints them, and as the JSON of `%TYPED_CEL(…)%`.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::map::Map;
use super::moment;
use super::value::{List, Value};
use crate::format::{FormatContext, value as json};
use crate::metadata::Metadata;

/// Appends a value as text.
pub(super) fn text(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"NULL"),
        Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Value::Int(n) => out.extend_from_slice(itoa::Buffer::new().format(*n).as_bytes()),
        Value::Uint(n) => out.extend_from_slice(itoa::Buffer::new().format(*n).as_bytes()),
        Value::Double(n) => six_digits(*n, out),
        Value::String(text) | Value::Bytes(text) => out.extend_from_slice(text),
        Value::Duration(n) => moment::write_duration(*n, out),
        Value::Timestamp(n) => {
            moment::write_timestamp(*n, "+00:00", out);
        }
        Value::Type(_) => out.extend_from_slice(b"CelType value"),
        Value::List(_) => out.extend_from_slice(b"CelList value"),
        Value::Map(Map::Address(address)) => {
            let _ = write!(out, "{address}");
        }
        // Envoy prints protobuf's debug text, which nothing should depend on.
        Value::Map(Map::Metadata(m)) => metadata(m, out),
        Value::Map(_) => out.extend_from_slice(b"CelMap value"),
    }
}

/// Appends a value as JSON; false where it cannot be told in JSON.
pub(super) fn json<'a>(value: &Value<'a>, cx: &FormatContext<'a>, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(_) => text(value, out),
        // Numbers of a protobuf Value are doubles.
        #[allow(clippy::cast_precision_loss, reason = "numbers of JSON are doubles")]
        Value::Int(n) => json::write_number(out, *n as f64),
        #[allow(clippy::cast_precision_loss, reason = "numbers of JSON are doubles")]
        Value::Uint(n) => json::write_number(out, *n as f64),
        Value::Double(n) if n.is_finite() => json::write_number(out, *n),
        Value::Double(_) | Value::Type(_) => return false,
        Value::String(text) => quoted(out, |out| out.extend_from_slice(text)),
        Value::Bytes(bytes) => quoted(out, |out| out.extend_from_slice(STANDARD.encode(bytes).as_bytes())),
        Value::Duration(n) => quoted(out, |out| moment::write_seconds(*n, out)),
        Value::Timestamp(n) => quoted(out, |out| {
            moment::write_timestamp(*n, "Z", out);
        }),
        Value::List(List::Json(items)) => {
            items_of(out, items.iter(), |item, out| {
                json::write(out, item);
                true
            });
        }
        Value::List(list) => {
            return items_of(out, 0..list.len(), |i, out| list.at(i).is_some_and(|v| json(&v, cx, out)));
        }
        Value::Map(map) => return members(map, cx, out),
    }
    true
}

fn members<'a>(map: &Map<'a>, cx: &FormatContext<'a>, out: &mut Vec<u8>) -> bool {
    let pairs = |entries: &[(Value<'a>, Value<'a>)], out: &mut Vec<u8>| {
        let mut members = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let mut name = Vec::new();
            text(key, &mut name);
            members.push((name, value));
        }
        members.sort_by(|a, b| a.0.cmp(&b.0));
        object(out, members, |(name, value), out| {
            quoted(out, |out| out.extend_from_slice(&name));
            out.push(b':');
            json(value, cx, out)
        })
    };
    match map {
        Map::Json(members) => object(out, sorted(members.iter()), |(k, v), out| member(k, v, out)),
        Map::Slice(entries) => pairs(entries, out),
        Map::Owned(entries) => pairs(entries, out),
        Map::Headers(part) => object(out, part.names(cx), |name, out| {
            quoted(out, |out| out.extend_from_slice(name.as_bytes()));
            out.push(b':');
            map.member(name, cx).is_some_and(|v| json(&v, cx, out))
        }),
        Map::Metadata(m) => {
            metadata(m, out);
            true
        }
        Map::Namespaces(m) => namespaces(m, out),
        Map::Address(address) => {
            quoted(out, |out| {
                let _ = write!(out, "{address}");
            });
            true
        }
        Map::Empty => object(out, [(); 0], |(), _| true),
        // Attributes cannot be listed.
        Map::Root(_) => false,
    }
}

fn metadata(metadata: &Metadata, out: &mut Vec<u8>) {
    if metadata.is_empty() {
        out.extend_from_slice(b"{}");
        return;
    }
    out.extend_from_slice(b"{\"filter_metadata\":");
    namespaces(metadata, out);
    out.push(b'}');
}

fn namespaces(metadata: &Metadata, out: &mut Vec<u8>) -> bool {
    object(out, sorted(metadata.iter()), |(k, v), out| member(k, v, out))
}

fn member(key: &str, value: &serde_json::Value, out: &mut Vec<u8>) -> bool {
    json::write_string(out, key);
    out.push(b':');
    json::write(out, value);
    true
}

fn sorted<K: Ord, V>(members: impl Iterator<Item = (K, V)>) -> Vec<(K, V)> {
    let mut members: Vec<_> = members.collect();
    members.sort_by(|a, b| a.0.cmp(&b.0));
    members
}

fn object<T>(out: &mut Vec<u8>, members: impl IntoIterator<Item = T>, write: impl Fn(T, &mut Vec<u8>) -> bool) -> bool {
    out.push(b'{');
    let all = separated(out, members, write);
    out.push(b'}');
    all
}

fn items_of<T>(out: &mut Vec<u8>, items: impl IntoIterator<Item = T>, write: impl Fn(T, &mut Vec<u8>) -> bool) -> bool {
    out.push(b'[');
    let all = separated(out, items, write);
    out.push(b']');
    all
}

fn separated<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    write: impl Fn(T, &mut Vec<u8>) -> bool,
) -> bool {
    items.into_iter().enumerate().all(|(i, item)| {
        if i > 0 {
            out.push(b',');
        }
        write(item, out)
    })
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    let start = out.len();
    write(out);
    json::escape_from(out, start);
    out.push(b'"');
}

/// A double with six digits, as C's `%g` (which is how `absl::StrCat` does it).
fn six_digits(n: f64, out: &mut Vec<u8>) {
    if !n.is_finite() {
        let text = if n.is_nan() {
            "nan"
        } else if n < 0.0 {
            "-inf"
        } else {
            "inf"
        };
        return out.extend_from_slice(text.as_bytes());
    }
    let scientific = format!("{n:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trimmed = |text: &str, out: &mut Vec<u8>| {
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
        out.extend_from_slice(text.as_bytes());
    };
    if !(-4..6).contains(&exponent) {
        trimmed(mantissa, out);
        let _ = write!(out, "e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
        return;
    }
    let decimals = usize::try_from(5 - exponent).unwrap_or_default();
    trimmed(&format!("{n:.decimals$}"), out);
}
