//! Numbers, booleans, strings, bytes and enums, from and to JSON.

use crate::{
    schema::Kind,
    wire::{Malformed, Raw, Reader},
};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD as BASE64},
};
use serde_json::{Number, Value};
use std::borrow::Cow;

/// Unpadded and forgiving about the last bits, as protobuf's parser is.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone),
);

/// A scalar on its way to the wire.
pub enum Scalar<'a> {
    Number(Raw<'static>),
    Bytes(Cow<'a, [u8]>),
}

impl Scalar<'_> {
    pub fn raw(&self) -> Raw<'_> {
        match self {
            Scalar::Number(raw) => *raw,
            Scalar::Bytes(bytes) => Raw::Len(bytes),
        }
    }
}

/// Why a scalar was not read.
pub enum Refusal {
    /// The value is wrong.
    Reason(String),
    /// An enum has no such name; a field with one counts as unknown.
    UnknownEnumName,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

/// What a value is called in an error.
pub fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

pub fn expected(what: &str, found: &Value) -> String {
    format!("expected {what}, found {}", describe(found))
}

/// Reads a scalar of the kind `kind`. `null` stands for the default, which is what Envoy makes of it in a list.
pub fn from_json(value: &Value, kind: Kind) -> Result<Scalar<'_>, Refusal> {
    use Scalar::{Bytes, Number};
    if value.is_null() {
        return Ok(match kind {
            Kind::String | Kind::Bytes | Kind::Message(_) => Bytes(Cow::Borrowed(&[])),
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => Number(Raw::I64(0)),
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => Number(Raw::I32(0)),
            _ => Number(Raw::Varint(0)),
        });
    }
    Ok(match kind {
        Kind::String => match value {
            Value::String(text) => Bytes(Cow::Borrowed(text.as_bytes())),
            _ => return Err(expected("a string", value).into()),
        },
        Kind::Bytes => match value {
            Value::String(text) => {
                Bytes(Cow::Owned(parse_base64(text).ok_or_else(|| "this is not base64".to_owned())?))
            }
            _ => return Err(expected("a base64 string", value).into()),
        },
        Kind::Bool => Number(Raw::Varint(u64::from(boolean(value)?))),
        Kind::Double => Number(Raw::I64(double(value)?.to_bits())),
        Kind::Float => {
            let wide = double(value)?;
            let narrow = wide as f32;
            if wide.is_finite() && narrow.is_infinite() {
                return Err(format!("{wide} is out of range for a float").into());
            }
            Number(Raw::I32(narrow.to_bits()))
        }
        Kind::Int64 => Number(Raw::Varint(integer(value, i64::MIN.into(), i64::MAX.into())? as u64)),
        Kind::Uint64 => Number(Raw::Varint(integer(value, 0, u64::MAX.into())? as u64)),
        // A negative int32 takes ten bytes, sign-extended.
        Kind::Int32 => Number(Raw::Varint(integer(value, i32::MIN.into(), i32::MAX.into())? as i64 as u64)),
        Kind::Uint32 => Number(Raw::Varint(integer(value, 0, u32::MAX.into())? as u64)),
        Kind::Fixed64 => Number(Raw::I64(integer(value, 0, u64::MAX.into())? as u64)),
        Kind::Fixed32 => Number(Raw::I32(integer(value, 0, u32::MAX.into())? as u32)),
        Kind::Sfixed64 => Number(Raw::I64(integer(value, i64::MIN.into(), i64::MAX.into())? as u64)),
        Kind::Sfixed32 => Number(Raw::I32(integer(value, i32::MIN.into(), i32::MAX.into())? as u32)),
        Kind::Sint64 => {
            let value = integer(value, i64::MIN.into(), i64::MAX.into())? as i64;
            Number(Raw::Varint(((value << 1) ^ (value >> 63)) as u64))
        }
        Kind::Sint32 => {
            let value = integer(value, i32::MIN.into(), i32::MAX.into())? as i64;
            Number(Raw::Varint(((value << 1) ^ (value >> 63)) as u64))
        }
        Kind::Enum(r#enum) => {
            let number = match value {
                Value::Number(_) => integer(value, i32::MIN.into(), i32::MAX.into())? as i64,
                Value::String(name) => match r#enum.number(name) {
                    Some(number) => i64::from(number),
                    None => i64::from(name.parse::<i32>().map_err(|_| Refusal::UnknownEnumName)?),
                },
                _ => return Err(expected("the name of an enum value", value).into()),
            };
            Number(Raw::Varint(number as u64))
        }
        Kind::Message(_) => return Err(expected("an object", value).into()),
    })
}

/// Envoy's parser also takes a boolean as a string, in the spellings of `absl::SimpleAtob`.
fn boolean(value: &Value) -> Result<bool, String> {
    match value {
        Value::Bool(value) => return Ok(*value),
        Value::String(text) => {
            let is = |names: [&str; 5]| names.iter().any(|name| name.eq_ignore_ascii_case(text));
            if is(["true", "t", "yes", "y", "1"]) {
                return Ok(true);
            }
            if is(["false", "f", "no", "n", "0"]) {
                return Ok(false);
            }
        }
        _ => {}
    }
    Err(expected("a boolean", value))
}

fn double(value: &Value) -> Result<f64, String> {
    match value {
        Value::Number(number) => number.as_f64().ok_or_else(|| format!("{number} is out of range")),
        Value::String(text) => match text.as_str() {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            // Unlike an integer, a decimal may have space around it.
            _ => parse_decimal(text.trim_ascii()),
        },
        _ => Err(expected("a number", value)),
    }
}

fn parse_decimal(text: &str) -> Result<f64, String> {
    // Rust reads `inf` and `nan` too, which JSON spells otherwise.
    let is_decimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    match text.parse::<f64>() {
        Ok(value) if is_decimal && value.is_finite() => Ok(value),
        Ok(_) if is_decimal => Err(format!("{text} is out of range")),
        _ => Err("expected a number, found a string".to_owned()),
    }
}

/// An integer, also as a string and also as a decimal without fraction (`1e3`).
pub fn integer(value: &Value, min: i128, max: i128) -> Result<i128, String> {
    let found = match value {
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => i128::from(value),
            (_, Some(value)) => i128::from(value),
            _ => whole(number.as_f64().unwrap_or(f64::NAN), &number.to_string())?,
        },
        Value::String(text) => match text.parse::<i128>() {
            Ok(value) => value,
            Err(_) => whole(parse_decimal(text)?, text)?,
        },
        _ => return Err(expected("a number", value)),
    };
    if (min..=max).contains(&found) { Ok(found) } else { Err(format!("{found} is not between {min} and {max}")) }
}

fn whole(value: f64, text: &str) -> Result<i128, String> {
    if value.fract() == 0.0 { Ok(value as i128) } else { Err(format!("expected a whole number, found {text}")) }
}

/// Either alphabet, padded or not.
pub fn parse_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let standard: Vec<u8> = text
        .bytes()
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    LENIENT.decode(standard).ok()
}

pub fn base64(bytes: &[u8]) -> Value {
    Value::String(BASE64.encode(bytes))
}

/// Writes a scalar as JSON. 64-bit integers become strings, which is all that JavaScript can hold.
pub fn to_json(raw: Raw<'_>, kind: Kind) -> Result<Value, Malformed> {
    Ok(match (kind, raw) {
        (Kind::String, Raw::Len(bytes)) => Value::String(std::str::from_utf8(bytes).map_err(|_| Malformed)?.to_owned()),
        (Kind::Bytes, Raw::Len(bytes)) => base64(bytes),
        (Kind::Bool, Raw::Varint(value)) => Value::Bool(value != 0),
        (Kind::Double, Raw::I64(bits)) => float(f64::from_bits(bits), |value| value),
        // Through its own shortest decimal, so that 0.1f32 is shown as 0.1.
        (Kind::Float, Raw::I32(bits)) => {
            float(f32::from_bits(bits).into(), |value| (value as f32).to_string().parse().unwrap_or(value))
        }
        (Kind::Int64, Raw::Varint(value)) => Value::String((value as i64).to_string()),
        (Kind::Uint64, Raw::Varint(value)) => Value::String(value.to_string()),
        (Kind::Int32, Raw::Varint(value)) => Value::from(value as i32),
        (Kind::Uint32, Raw::Varint(value)) => Value::from(value as u32),
        (Kind::Fixed64, Raw::I64(value)) => Value::String(value.to_string()),
        (Kind::Fixed32, Raw::I32(value)) => Value::from(value),
        (Kind::Sfixed64, Raw::I64(value)) => Value::String((value as i64).to_string()),
        (Kind::Sfixed32, Raw::I32(value)) => Value::from(value as i32),
        (Kind::Sint64, Raw::Varint(value)) => Value::String(((value >> 1) as i64 ^ -((value & 1) as i64)).to_string()),
        (Kind::Sint32, Raw::Varint(value)) => Value::from((value as u32 >> 1) as i32 ^ -((value & 1) as i32)),
        (Kind::Enum(r#enum), Raw::Varint(value)) => {
            let number = value as i32;
            r#enum.value_name(number).map_or_else(|| Value::from(number), Value::from)
        }
        _ => return Err(Malformed),
    })
}

/// Whole numbers are written without a fraction, as protobuf does.
pub fn float(value: f64, shortest: impl Fn(f64) -> f64) -> Value {
    // Up to here every whole f64 is an integer of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.is_nan() {
        return Value::from("NaN");
    }
    if value.is_infinite() {
        return Value::from(if value > 0.0 { "Infinity" } else { "-Infinity" });
    }
    if value.fract() == 0.0 && value.abs() <= EXACT {
        return Value::from(value as i64);
    }
    Number::from_f64(shortest(value)).map_or(Value::Null, Value::Number)
}

/// Reads one value of a packed list.
pub fn read_packed(reader: &mut Reader<'_>, kind: Kind) -> Result<Raw<'static>, Malformed> {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => reader.i64().map(Raw::I64),
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => reader.i32().map(Raw::I32),
        Kind::String | Kind::Bytes | Kind::Message(_) => Err(Malformed),
        _ => reader.varint().map(Raw::Varint),
    }
}
