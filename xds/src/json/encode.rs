//! The wire to JSON, as Envoy's `config_dump` shows it.

use super::{
    MAX_DEPTH, Options,
    decode::{Decoder, is_value},
    scalar, time,
};
use crate::{
    Error,
    schema::{Field, Kind, Message, Shape},
    wire::{Malformed, Raw, Reader},
};
use serde_json::{Map, Value, json};
use std::{borrow::Cow, collections::BTreeMap};

/// What Envoy shows in the place of a secret; as base64 in a bytes field.
const REDACTED: &str = "[redacted]";

/// One message on its way.
pub struct Encoder {
    /// Whether fields marked sensitive are hidden.
    pub redact: bool,
    pub depth: usize,
}

/// What is hidden of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hide {
    /// The fields marked sensitive, if any at all.
    Marked,
    /// Everything: a message above was marked.
    All,
}

type Result<T> = std::result::Result<T, Error>;

impl From<Malformed> for Error {
    fn from(_: Malformed) -> Self {
        Self::new("", "this is not a protobuf message of its type")
    }
}

impl Encoder {
    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(Error::new("", format!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    pub fn message(&mut self, wire: &[u8], message: Message, hide: Hide) -> Result<Value> {
        self.deeper(|this| match message.shape() {
            Shape::Any => this.any(wire, hide),
            Shape::TypedStruct => this.typed_struct(wire, message, hide),
            Shape::Struct => this.r#struct(wire, hide),
            Shape::ListValue => this.list_value(wire, hide),
            Shape::Value => this.value(wire, hide),
            Shape::Wrapper => match message.number(1) {
                Some(field) => this.wrapper(wire, field, hide),
                None => Ok(Value::Null),
            },
            Shape::Duration => {
                let (seconds, nanos) = if hide == Hide::All { (0, 0) } else { seconds_and_nanos(wire)? };
                Ok(Value::String(time::format_duration(seconds, nanos)))
            }
            Shape::Timestamp => {
                let (seconds, nanos) = if hide == Hide::All { (0, 0) } else { seconds_and_nanos(wire)? };
                time::format_timestamp(seconds, nanos)
                    .map(Value::String)
                    .ok_or_else(|| Error::new("", "this time is out of range"))
            }
            Shape::FieldMask => {
                let mut paths = Vec::new();
                let mut reader = Reader(wire);
                while let Some((number, raw)) = reader.next()? {
                    if let (1, Raw::Len(bytes)) = (number, raw) {
                        paths.push(time::format_field_mask_path(std::str::from_utf8(bytes).map_err(|_| Malformed)?));
                    }
                }
                Ok(Value::String(paths.join(",")))
            }
            Shape::Object | Shape::MapEntry => this.object(wire, message, hide).map(Value::Object),
        })
    }

    fn object(&mut self, wire: &[u8], message: Message, hide: Hide) -> Result<Map<String, Value>> {
        let mut out = Map::new();
        for (field, values) in fields(wire, message)? {
            let hide = if self.redact && field.is_sensitive() { Hide::All } else { hide };
            let value = if let Some((key, item)) = field.map() {
                self.map(&values, key, item, hide)
            } else if field.is_repeated() {
                self.list(&values, field, hide)
            } else {
                self.single(&values, field, hide)
            };
            if let Some(value) = value.map_err(|error| error.within(field.name))? {
                out.insert(field.name.to_owned(), value);
            }
        }
        Ok(out)
    }

    /// The last of several values counts; several messages are one, in pieces.
    fn single(&mut self, values: &[Raw<'_>], field: Field, hide: Hide) -> Result<Option<Value>> {
        let Some(last) = values.last() else { return Ok(None) };
        if let Kind::Message(message) = field.kind {
            return self.message(&joined(values)?, message, hide).map(Some);
        }
        if !field.has_presence() && last.is_default() {
            return Ok(None);
        }
        scalar_value(*last, field.kind, hide)
    }

    fn list(&mut self, values: &[Raw<'_>], field: Field, hide: Hide) -> Result<Option<Value>> {
        let mut list = Vec::with_capacity(values.len());
        for raw in values {
            let at = list.len();
            match (field.kind, raw) {
                (Kind::Message(message), Raw::Len(bytes)) => {
                    list.push(self.message(bytes, message, hide).map_err(|error| error.within(&format!("[{at}]")))?);
                }
                (Kind::String | Kind::Bytes, _) => list.extend(scalar_value(*raw, field.kind, hide)?),
                (kind, Raw::Len(packed)) => {
                    let mut reader = Reader(packed);
                    while !reader.is_empty() {
                        list.extend(scalar_value(scalar::read_packed(&mut reader, kind)?, kind, hide)?);
                    }
                }
                (kind, raw) => list.extend(scalar_value(*raw, kind, hide)?),
            }
        }
        Ok((!list.is_empty()).then_some(Value::Array(list)))
    }

    /// Of a hidden map, the values are hidden and not the keys, which would all become one.
    fn map(&mut self, values: &[Raw<'_>], key: Field, item: Field, hide: Hide) -> Result<Option<Value>> {
        let mut entries = BTreeMap::new();
        for raw in values {
            let Raw::Len(entry) = raw else { return Err(Malformed.into()) };
            let (mut name, mut value) = (None, Vec::new());
            let mut reader = Reader(entry);
            while let Some((number, raw)) = reader.next()? {
                match number {
                    1 => name = Some(raw),
                    2 => value.push(raw),
                    _ => {}
                }
            }
            let name = match name.map(|raw| scalar::to_json(raw, key.kind)).transpose()? {
                Some(Value::String(name)) => name,
                Some(other) => other.to_string(),
                None => match key.kind {
                    Kind::String => String::new(),
                    Kind::Bool => "false".to_owned(),
                    _ => "0".to_owned(),
                },
            };
            let at = |error: Error| error.within(&format!("[{name:?}]"));
            let value = match (item.kind, value.last()) {
                (Kind::Message(message), _) => self.message(&joined(&value).map_err(at)?, message, hide).map_err(at)?,
                (kind, Some(raw)) => scalar_value(*raw, kind, hide)?.map_or_else(|| default(kind), Ok)?,
                (kind, None) => default(kind)?,
            };
            entries.insert(name, value);
        }
        Ok((!entries.is_empty()).then(|| Value::Object(entries.into_iter().collect())))
    }

    fn wrapper(&mut self, wire: &[u8], field: Field, hide: Hide) -> Result<Value> {
        let mut reader = Reader(wire);
        let mut found = None;
        while let Some((number, raw)) = reader.next()? {
            if number == field.number {
                found = Some(raw);
            }
        }
        match found {
            Some(raw) => scalar_value(raw, field.kind, hide)?.map_or_else(|| default(field.kind), Ok),
            None => default(field.kind),
        }
    }

    fn any(&mut self, wire: &[u8], hide: Hide) -> Result<Value> {
        let (url, value) = url_and_value(wire)?;
        let mut out = Map::new();
        if url.is_empty() && value.is_empty() {
            return Ok(Value::Object(out));
        }
        out.insert("@type".to_owned(), Value::from(url));
        match url.rsplit_once('/').and_then(|(_, name)| Message::find(name)) {
            Some(message) if is_value(message.shape()) => {
                out.insert("value".to_owned(), self.message(&value, message, hide)?);
            }
            Some(message) => {
                if let Value::Object(fields) = self.message(&value, message, hide)? {
                    out.extend(fields);
                }
            }
            // A type that only its sender knows; better than nothing.
            None => {
                let shown = if hide == Hide::All { REDACTED.as_bytes() } else { &value };
                out.insert("value".to_owned(), scalar::base64(shown));
            }
        }
        Ok(Value::Object(out))
    }

    /// The secrets in a TypedStruct are found by the type that it names.
    fn typed_struct(&mut self, wire: &[u8], message: Message, hide: Hide) -> Result<Value> {
        let mut out = self.object(wire, message, hide)?;
        if !self.redact || hide == Hide::All {
            return Ok(Value::Object(out));
        }
        let known = out.get("type_url").and_then(Value::as_str).and_then(|url| Message::find(type_name(url)));
        if let (Some(message), Some(value)) = (known, out.get_mut("value")) {
            let options = Options::ignore_unknown();
            let mut inner = Vec::new();
            // Whoever cannot be read may hold a secret.
            *value = match Decoder::new(&options).message(value, message, &mut inner) {
                Ok(()) => self.message(&inner, message, hide)?,
                Err(_) => Value::from(REDACTED),
            };
        }
        Ok(Value::Object(out))
    }

    fn r#struct(&mut self, wire: &[u8], hide: Hide) -> Result<Value> {
        let mut entries = BTreeMap::new();
        let mut reader = Reader(wire);
        while let Some((number, raw)) = reader.next()? {
            let (1, Raw::Len(entry)) = (number, raw) else { continue };
            let (name, value) = url_and_value(entry)?;
            entries.insert(name.to_owned(), self.value(&value, hide).map_err(|error| error.within(name))?);
        }
        Ok(Value::Object(entries.into_iter().collect()))
    }

    fn list_value(&mut self, wire: &[u8], hide: Hide) -> Result<Value> {
        let mut list = Vec::new();
        let mut reader = Reader(wire);
        while let Some((number, raw)) = reader.next()? {
            if let (1, Raw::Len(bytes)) = (number, raw) {
                list.push(self.value(bytes, hide)?);
            }
        }
        Ok(Value::Array(list))
    }

    fn value(&mut self, wire: &[u8], hide: Hide) -> Result<Value> {
        let mut reader = Reader(wire);
        let mut last = None;
        while let Some(field) = reader.next()? {
            last = Some(field);
        }
        Ok(match last {
            Some((2, Raw::I64(bits))) if hide == Hide::Marked => scalar::float(f64::from_bits(bits), |value| value),
            Some((3, Raw::Len(_))) if hide == Hide::All => Value::from(REDACTED),
            Some((3, raw @ Raw::Len(_))) => scalar::to_json(raw, Kind::String)?,
            Some((4, Raw::Varint(value))) if hide == Hide::Marked => Value::Bool(value != 0),
            Some((5, Raw::Len(bytes))) => self.deeper(|this| this.r#struct(bytes, hide))?,
            Some((6, Raw::Len(bytes))) => self.deeper(|this| this.list_value(bytes, hide))?,
            _ => Value::Null,
        })
    }
}

/// The name behind the last `/` of a type URL.
pub fn type_name(url: &str) -> &str {
    url.rsplit_once('/').map_or(url, |(_, name)| name)
}

/// The fields of a message by number, those of a oneof that a later one replaced left out.
pub fn fields(wire: &[u8], message: Message) -> Result<Vec<(Field, Vec<Raw<'_>>)>> {
    let mut found: Vec<(Field, Vec<Raw<'_>>)> = Vec::new();
    let mut reader = Reader(wire);
    while let Some((number, raw)) = reader.next()? {
        if let Some((_, values)) = found.iter_mut().find(|(field, _)| field.number == number) {
            values.push(raw);
        } else if let Some(field) = message.number(number) {
            if field.oneof.is_some() {
                found.retain(|(other, _)| other.oneof != field.oneof);
            }
            found.push((field, vec![raw]));
        }
    }
    found.sort_by_key(|(field, _)| field.number);
    Ok(found)
}

pub fn joined<'a>(pieces: &[Raw<'a>]) -> Result<Cow<'a, [u8]>> {
    let bytes = |raw: &Raw<'a>| match raw {
        Raw::Len(bytes) => Ok(*bytes),
        _ => Err(Error::from(Malformed)),
    };
    match pieces {
        [] => Ok(Cow::Borrowed(&[])),
        [piece] => bytes(piece).map(Cow::Borrowed),
        _ => pieces.iter().map(bytes).collect::<Result<Vec<_>>>().map(|pieces| Cow::Owned(pieces.concat())),
    }
}

/// Hidden strings and bytes are replaced, hidden numbers left out.
fn scalar_value(raw: Raw<'_>, kind: Kind, hide: Hide) -> Result<Option<Value>> {
    Ok(match (hide, kind) {
        (Hide::Marked, _) => Some(scalar::to_json(raw, kind)?),
        (Hide::All, Kind::String) => Some(Value::from(REDACTED)),
        (Hide::All, Kind::Bytes) => Some(scalar::base64(REDACTED.as_bytes())),
        (Hide::All, _) => None,
    })
}

fn default(kind: Kind) -> Result<Value> {
    let scalar = match scalar::from_json(&Value::Null, kind) {
        Ok(scalar) => scalar,
        Err(_) => return Ok(json!({})),
    };
    Ok(scalar::to_json(scalar.raw(), kind)?)
}

fn seconds_and_nanos(wire: &[u8]) -> Result<(i64, i32)> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader(wire);
    while let Some((number, raw)) = reader.next()? {
        match (number, raw) {
            (1, Raw::Varint(value)) => seconds = value as i64,
            (2, Raw::Varint(value)) => nanos = value as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

/// The two fields of an `Any`, and the key and value of a Struct's entry, which have the same numbers.
pub fn url_and_value(wire: &[u8]) -> Result<(&str, Cow<'_, [u8]>)> {
    let (mut url, mut value) = ("", Vec::new());
    let mut reader = Reader(wire);
    while let Some((number, raw)) = reader.next()? {
        match (number, raw) {
            (1, Raw::Len(bytes)) => url = std::str::from_utf8(bytes).map_err(|_| Malformed)?,
            (2, Raw::Len(_)) => value.push(raw),
            _ => {}
        }
    }
    // An Any's value is bytes and a Value a message; several of either do not occur, and the last may count.
    let last = value.last().copied();
    Ok((url, joined(last.as_slice())?))
}
