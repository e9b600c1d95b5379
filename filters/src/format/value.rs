//! JSON as Envoy writes it: keys sorted, numbers in their shortest form, bytes that are not UTF-8 escaped one by one.

use std::io::Write as _;

use serde_json::Value;
use smallvec::SmallVec;

/// Appends a value.
pub(crate) fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        // Numbers of a protobuf Struct are doubles, whatever they looked like.
        Value::Number(n) => write_number(out, n.as_f64().unwrap_or_default()),
        Value::String(s) => write_string(out, s),
        Value::Array(items) => {
            out.push(b'[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, item);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut sorted: SmallVec<[(&String, &Value); 16]> = members.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            out.push(b'{');
            for (i, (key, member)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_string(out, key);
                out.push(b':');
                write(out, member);
            }
            out.push(b'}');
        }
    }
}

/// Appends a string with its quotes.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    escape_from(out, start);
    out.push(b'"');
}

/// Appends a double in the shortest form that reads back the same: fixed, or with an exponent where that is shorter (`std::to_chars`).
pub(crate) fn write_number(out: &mut Vec<u8>, n: f64) {
    // Up to here an exponent is never shorter.
    const PLAIN: f64 = 99_999.0;
    if n.fract() == 0.0 && n.abs() <= PLAIN && !(n == 0.0 && n.is_sign_negative()) {
        #[allow(clippy::cast_possible_truncation, reason = "a whole number of at most five digits")]
        let whole = n as i32;
        out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
        return;
    }
    let start = out.len();
    // Both forms are written to the end of the line, and one is kept. Writing to a vector does not fail.
    let _ = write!(out, "{n:e}");
    let scientific: SmallVec<[u8; 32]> = out.get(start..).unwrap_or_default().into();
    out.truncate(start);
    let _ = write!(out, "{n}");
    let mut parts = scientific.splitn(2, |b| *b == b'e');
    let (mantissa, exponent) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (sign, digits) = match exponent.strip_prefix(b"-") {
        Some(digits) => (b'-', digits),
        None => (b'+', exponent),
    };
    let length = mantissa.len() + 2 + digits.len().max(2);
    if exponent.is_empty() || out.len() - start <= length {
        return;
    }
    out.truncate(start);
    out.extend_from_slice(mantissa);
    out.extend_from_slice(&[b'e', sign]);
    if digits.len() < 2 {
        out.push(b'0');
    }
    out.extend_from_slice(digits);
}

/// Escapes what was appended since `start` for the inside of a JSON string. Most texts need nothing, and cost one scan.
pub(crate) fn escape_from(out: &mut Vec<u8>, start: usize) {
    let Some(text) = out.get(start..) else { return };
    // Without an early end, so that many bytes are looked at at once.
    if !text.iter().fold(false, |found, b| found | !is_plain(*b)) {
        return;
    }
    let is_utf8 = std::str::from_utf8(text).is_ok();
    let text: SmallVec<[u8; 256]> = text.into();
    out.truncate(start);
    for byte in text {
        match byte {
            b if is_plain(b) || (is_utf8 && b >= 0x80) => out.push(b),
            b'"' if is_utf8 => out.extend_from_slice(b"\\\""),
            b'\\' if is_utf8 => out.extend_from_slice(b"\\\\"),
            b'\n' if is_utf8 => out.extend_from_slice(b"\\n"),
            b'\r' if is_utf8 => out.extend_from_slice(b"\\r"),
            b'\t' if is_utf8 => out.extend_from_slice(b"\\t"),
            0x08 if is_utf8 => out.extend_from_slice(b"\\b"),
            0x0c if is_utf8 => out.extend_from_slice(b"\\f"),
            b => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let digit = |n: u8| HEX.get(usize::from(n)).copied().unwrap_or(b'0');
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit(b >> 4), digit(b & 15)]);
            }
        }
    }
}

fn is_plain(byte: u8) -> bool {
    (0x20..0x80).contains(&byte) && byte != b'"' && byte != b'\\'
}
