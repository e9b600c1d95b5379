//! JSON to the wire.

use super::{
    MAX_DEPTH, Options,
    scalar::{self, Refusal, expected},
    time,
};
use crate::{
    Error,
    schema::{Field, Kind, Message, Shape},
    wire::{self, Raw},
};
use serde_json::{Map, Value};

/// One document on its way.
pub struct Decoder<'a> {
    options: &'a Options,
    /// Where we are, in Envoy's field names.
    path: String,
    depth: usize,
}

impl<'a> Decoder<'a> {
    pub fn new(options: &'a Options) -> Self {
        Self { options, path: String::new(), depth: 0 }
    }

    fn fail<T>(&self, reason: impl Into<String>) -> Result<T, Error> {
        Err(Error::new(self.path.as_str(), reason))
    }

    /// Does something with the path lengthened.
    fn at<T>(&mut self, step: std::fmt::Arguments<'_>, f: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        // Writing to a String does not fail.
        let _ = std::fmt::Write::write_fmt(&mut self.path, step);
        let result = f(self);
        self.path.truncate(length);
        result
    }

    fn at_name<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        if self.path.is_empty() { self.at(format_args!("{name}"), f) } else { self.at(format_args!(".{name}"), f) }
    }

    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        if self.depth >= MAX_DEPTH {
            return self.fail(format!("nested more than {MAX_DEPTH} deep"));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    fn unknown(&self, reason: impl FnOnce() -> String) -> Result<(), Error> {
        if self.options.reject_unknown {
            return self.fail(reason());
        }
        self.options.unknown.borrow_mut().push(self.path.clone());
        Ok(())
    }

    pub fn message(&mut self, value: &Value, message: Message, out: &mut Vec<u8>) -> Result<(), Error> {
        self.deeper(|this| match (message.shape(), value) {
            (Shape::Any, _) => this.any(value, out),
            (Shape::Struct, Value::Object(object)) => this.r#struct(object, out),
            (Shape::ListValue, Value::Array(list)) => this.list_value(list, out),
            (Shape::Struct, _) => this.fail(expected("an object", value)),
            (Shape::ListValue, _) => this.fail(expected("a list", value)),
            (Shape::Value, _) => this.value(value, out),
            (Shape::Wrapper, value) if !value.is_object() => match message.number(1) {
                Some(field) => this.scalar(value, field, out),
                None => Ok(()),
            },
            (Shape::Duration, Value::String(text)) => match time::parse_duration(text) {
                Ok(parts) => {
                    seconds_and_nanos(parts, out);
                    Ok(())
                }
                Err(reason) => this.fail(reason),
            },
            (Shape::Duration, value) if !value.is_object() => this.fail(expected("a duration such as `1.5s`", value)),
            (Shape::Timestamp, Value::String(text)) => match time::parse_timestamp(text) {
                Some(parts) => {
                    seconds_and_nanos(parts, out);
                    Ok(())
                }
                None => this.fail("this is not a time as of RFC 3339"),
            },
            (Shape::FieldMask, Value::String(text)) => match time::parse_field_mask(text) {
                Some(paths) => {
                    paths.iter().for_each(|path| wire::put_bytes(out, 1, path.as_bytes()));
                    Ok(())
                }
                None => this.fail("this is not a list of fields"),
            },
            // Envoy's parser also takes the fields of a Duration, a Timestamp, a FieldMask or a wrapper.
            (_, Value::Object(object)) => this.object(object, message, out),
            _ => this.fail(expected("an object", value)),
        })
    }

    fn object(&mut self, object: &Map<String, Value>, message: Message, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut oneofs: Vec<(u16, &str)> = Vec::new();
        for (key, value) in object {
            // The name of the type, where the message is the content of an Any.
            if key == "@type" {
                continue;
            }
            let Some(field) = message.field(key) else {
                self.at_name(key, |this| this.unknown(|| format!("{} has no such field", message.name())))?;
                continue;
            };
            if value.is_null() && !matches!(field.kind, Kind::Message(message) if message.shape() == Shape::Value) {
                continue;
            }
            self.at_name(field.name, |this| {
                if let Some(oneof) = field.oneof {
                    if let Some((_, first)) = oneofs.iter().find(|(other, _)| *other == oneof) {
                        return this.fail(format!("`{first}` is set already, and only one of the two can be"));
                    }
                    oneofs.push((oneof, field.name));
                }
                this.field(value, field, out)
            })?;
        }
        Ok(())
    }

    fn field(&mut self, value: &Value, field: Field, out: &mut Vec<u8>) -> Result<(), Error> {
        if let Some((key, item)) = field.map() {
            return self.map(value, field, key, item, out);
        }
        match field.kind {
            _ if field.is_repeated() && field.is_packed() => {
                let mut packed = Vec::new();
                self.each(value, &mut 0, &mut |this, value| this.bare(value, field, &mut packed))?;
                if !packed.is_empty() {
                    wire::put_bytes(out, field.number, &packed);
                }
                Ok(())
            }
            _ if field.is_repeated() => self.each(value, &mut 0, &mut |this, value| this.single(value, field, out)),
            _ => self.single(value, field, out),
        }
    }

    /// Envoy's parser takes a lone value for a list of one, and lists in a list for their items.
    fn each(
        &mut self,
        value: &Value,
        index: &mut usize,
        f: &mut dyn FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match value {
            Value::Array(list) => self.deeper(|this| {
                for value in list {
                    this.each(value, index, f)?;
                }
                Ok(())
            }),
            _ => {
                let at = *index;
                *index += 1;
                self.at(format_args!("[{at}]"), |this| f(this, value))
            }
        }
    }

    fn single(&mut self, value: &Value, field: Field, out: &mut Vec<u8>) -> Result<(), Error> {
        let Kind::Message(message) = field.kind else { return self.scalar(value, field, out) };
        let mut inner = Vec::new();
        // Within a list, null is an empty message.
        if !value.is_null() || message.shape() == Shape::Value {
            self.message(value, message, &mut inner)?;
        }
        wire::put_bytes(out, field.number, &inner);
        Ok(())
    }

    fn scalar(&mut self, value: &Value, field: Field, out: &mut Vec<u8>) -> Result<(), Error> {
        match scalar::from_json(value, field.kind) {
            Ok(scalar) => {
                if field.is_repeated() || field.has_presence() || !scalar.raw().is_default() {
                    wire::put(out, field.number, scalar.raw());
                }
                Ok(())
            }
            Err(refusal) => self.refuse(value, refusal),
        }
    }

    fn bare(&mut self, value: &Value, field: Field, out: &mut Vec<u8>) -> Result<(), Error> {
        match scalar::from_json(value, field.kind) {
            Ok(scalar) => {
                wire::put_bare(out, scalar.raw());
                Ok(())
            }
            Err(refusal) => self.refuse(value, refusal),
        }
    }

    fn refuse(&self, value: &Value, refusal: Refusal) -> Result<(), Error> {
        match refusal {
            Refusal::Reason(reason) => self.fail(reason),
            Refusal::UnknownEnumName => self.unknown(|| format!("there is no enum value {value}")),
        }
    }

    fn map(&mut self, value: &Value, field: Field, key: Field, item: Field, out: &mut Vec<u8>) -> Result<(), Error> {
        let Value::Object(object) = value else { return self.fail(expected("an object", value)) };
        for (name, value) in object {
            self.at(format_args!("[{name:?}]"), |this| {
                let mut entry = Vec::new();
                match scalar::from_json(&Value::String(name.clone()), key.kind) {
                    Ok(scalar) => wire::put(&mut entry, key.number, scalar.raw()),
                    Err(Refusal::Reason(reason)) => return this.fail(format!("the key is wrong: {reason}")),
                    Err(Refusal::UnknownEnumName) => return this.fail("the key is wrong"),
                }
                this.single(value, item, &mut entry)?;
                wire::put_bytes(out, field.number, &entry);
                Ok(())
            })?;
        }
        Ok(())
    }

    fn any(&mut self, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        let Value::Object(object) = value else { return self.fail(expected("an object with `@type`", value)) };
        if object.is_empty() {
            return Ok(());
        }
        let Some(url) = object.get("@type") else { return self.fail("`@type` is missing") };
        let Value::String(url) = url else { return self.at_name("@type", |this| this.fail(expected("a string", url))) };
        let Some((_, name)) = url.rsplit_once('/').filter(|(host, _)| !host.is_empty()) else {
            return self.at_name("@type", |this| {
                this.fail(format!("`{url}` is not of the form `type.googleapis.com/` and a message"))
            });
        };
        let Some(message) = Message::find(name) else {
            return self.at_name("@type", |this| this.fail(format!("unknown type `{url}`")));
        };
        wire::put_bytes(out, 1, url.as_bytes());
        let mut inner = Vec::new();
        if is_value(message.shape()) {
            if let Some(key) = object.keys().find(|key| *key != "@type" && *key != "value") {
                return self.at_name(key, |this| this.fail(format!("{name} in an Any has `value` alone")));
            }
            if let Some(value) = object.get("value") {
                self.at_name("value", |this| this.message(value, message, &mut inner))?;
            }
        } else {
            self.message(value, message, &mut inner)?;
        }
        if !inner.is_empty() {
            wire::put_bytes(out, 2, &inner);
        }
        Ok(())
    }

    fn r#struct(&mut self, object: &Map<String, Value>, out: &mut Vec<u8>) -> Result<(), Error> {
        for (name, value) in object {
            let (mut entry, mut inner) = (Vec::new(), Vec::new());
            wire::put_bytes(&mut entry, 1, name.as_bytes());
            self.at_name(name, |this| this.value(value, &mut inner))?;
            wire::put_bytes(&mut entry, 2, &inner);
            wire::put_bytes(out, 1, &entry);
        }
        Ok(())
    }

    fn list_value(&mut self, list: &[Value], out: &mut Vec<u8>) -> Result<(), Error> {
        for (index, value) in list.iter().enumerate() {
            let mut inner = Vec::new();
            self.at(format_args!("[{index}]"), |this| this.value(value, &mut inner))?;
            wire::put_bytes(out, 1, &inner);
        }
        Ok(())
    }

    /// `google.protobuf.Value`; its fields are null, number, string, boolean, struct and list.
    fn value(&mut self, value: &Value, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut inner = Vec::new();
        match value {
            Value::Null => wire::put(out, 1, Raw::Varint(0)),
            Value::Number(number) => match number.as_f64() {
                Some(number) => wire::put(out, 2, Raw::I64(number.to_bits())),
                None => return self.fail(format!("{number} is out of range")),
            },
            Value::String(text) => wire::put_bytes(out, 3, text.as_bytes()),
            Value::Bool(value) => wire::put(out, 4, Raw::Varint(u64::from(*value))),
            Value::Object(object) => {
                self.deeper(|this| this.r#struct(object, &mut inner))?;
                wire::put_bytes(out, 5, &inner);
            }
            Value::Array(list) => {
                self.deeper(|this| this.list_value(list, &mut inner))?;
                wire::put_bytes(out, 6, &inner);
            }
        }
        Ok(())
    }
}

/// Whether a message in an `Any` stands under `value`, having no fields of its own in JSON.
pub fn is_value(shape: Shape) -> bool {
    match shape {
        Shape::Object | Shape::TypedStruct | Shape::MapEntry => false,
        Shape::Any
        | Shape::Duration
        | Shape::Timestamp
        | Shape::FieldMask
        | Shape::Struct
        | Shape::Value
        | Shape::ListValue
        | Shape::Wrapper => true,
    }
}

/// The fields that Duration and Timestamp share.
fn seconds_and_nanos((seconds, nanos): (i64, i32), out: &mut Vec<u8>) {
    for (number, value) in [(1, seconds), (2, i64::from(nanos))] {
        if value != 0 {
            wire::put(out, number, Raw::Varint(value as u64));
        }
    }
}
