//! The protobuf JSON mapping, by the schema table.

mod decode;
mod encode;
mod scalar;
mod time;

pub(crate) use encode::{fields, joined, type_name, url_and_value};
pub(crate) use scalar::read_packed;

use crate::{Error, schema, yaml};
use prost::{Message, Name};
use serde_json::Value;
use std::cell::RefCell;

/// How deep messages, lists and objects may nest, in both directions; protobuf's own limit.
pub const MAX_DEPTH: usize = 100;

/// What to do with fields that a message does not have.
#[derive(Debug, Default)]
pub struct Options {
    reject_unknown: bool,
    unknown: RefCell<Vec<String>>,
}

impl Options {
    /// Unknown fields are errors, as in Envoy's static configuration.
    #[must_use]
    pub fn reject_unknown() -> Self {
        Self { reject_unknown: true, unknown: RefCell::default() }
    }

    /// Unknown fields are passed over (`--allow-unknown-static-fields`, dynamic resources).
    #[must_use]
    pub fn ignore_unknown() -> Self {
        Self::default()
    }

    /// The paths of the unknown fields passed over since the last call, for one warning.
    pub fn take_unknown(&self) -> Vec<String> {
        self.unknown.take()
    }
}

/// Reads a JSON document. What Envoy's parser forgives (a comma behind the last item, bare or single-quoted names) is forgiven.
pub fn parse(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text)
        .or_else(|error| yaml::parse_lenient_json(text).ok_or_else(|| Error::new("", error.to_string())))
}

/// Turns JSON into the wire form of the message `full_name`.
pub fn decode(value: &Value, full_name: &str, options: &Options) -> Result<Vec<u8>, Error> {
    let mut wire = Vec::new();
    decode::Decoder::new(options).message(value, find(full_name)?, &mut wire)?;
    Ok(wire)
}

/// Turns JSON into a message.
pub fn from_value<M: Message + Name + Default>(value: &Value, options: &Options) -> Result<M, Error> {
    let wire = decode(value, &M::full_name(), options)?;
    M::decode(wire.as_slice()).map_err(|error| Error::new("", error.to_string()))
}

/// Turns the wire form of the message `full_name` into JSON as Envoy's `config_dump` shows it: `snake_case` names in the order of their
/// numbers, enums by name, defaults left out, an `Any` of unknown type as base64 under `value`. With `redact`, what is marked
/// `udpa.annotations.sensitive` is replaced by `[redacted]`, also within an `Any` or a `TypedStruct`.
pub fn encode(full_name: &str, wire: &[u8], redact: bool) -> Result<Value, Error> {
    encode::Encoder { redact, depth: 0 }.message(wire, find(full_name)?, encode::Hide::Marked)
}

/// Turns a message into JSON; see [`encode`].
pub fn to_value<M: Message + Name>(message: &M, redact: bool) -> Result<Value, Error> {
    encode(&M::full_name(), &message.encode_to_vec(), redact)
}

/// Merges a second document (scalars replaced, lists appended, messages merged) over a message as `--config-yaml` does.
pub fn merge<M: Message + Name + Default>(base: &mut M, over: &Value, options: &Options) -> Result<(), Error> {
    let wire = decode(over, &M::full_name(), options)?;
    base.merge(wire.as_slice()).map_err(|error| Error::new("", error.to_string()))
}

/// Whether the API (or Istio) has a message of this full name.
pub fn is_known(full_name: &str) -> bool {
    schema::Message::find(full_name).is_some()
}

fn find(full_name: &str) -> Result<schema::Message, Error> {
    schema::Message::find(full_name).ok_or_else(|| Error::new("", format!("unknown type `{full_name}`")))
}

#[cfg(test)]
pub(crate) mod tests;
