//! The protobuf JSON mapping, by the schema table.

use crate::Error;
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

/// Reads a JSON document.
pub fn parse(text: &str) -> Result<Value, Error> {
    serde_json::from_str(text).map_err(|error| Error::new("", error.to_string()))
}

/// Turns JSON into the wire form of the message `full_name`.
pub fn decode(_value: &Value, full_name: &str, _options: &Options) -> Result<Vec<u8>, Error> {
    Err(Error::new("", format!("not read yet: {full_name}")))
}

/// Turns JSON into a message.
pub fn from_value<M: Message + Name + Default>(value: &Value, options: &Options) -> Result<M, Error> {
    let wire = decode(value, &M::full_name(), options)?;
    M::decode(wire.as_slice()).map_err(|error| Error::new("", error.to_string()))
}

/// Turns the wire form of the message `full_name` into JSON as Envoy's `config_dump` shows it: `snake_case` names, enums by name, defaults left
/// out. With `redact`, fields marked sensitive are hidden.
pub fn encode(full_name: &str, _wire: &[u8], _redact: bool) -> Result<Value, Error> {
    Err(Error::new("", format!("not written yet: {full_name}")))
}

/// Turns a message into JSON; see [`encode`].
pub fn to_value<M: Message + Name>(message: &M, redact: bool) -> Result<Value, Error> {
    encode(&M::full_name(), &message.encode_to_vec(), redact)
}

/// Merges a second document over a message as `--config-yaml` does: scalars are replaced, lists appended, messages merged.
pub fn merge<M: Message + Name + Default>(base: &mut M, over: &Value, options: &Options) -> Result<(), Error> {
    let wire = decode(over, &M::full_name(), options)?;
    base.merge(wire.as_slice()).map_err(|error| Error::new("", error.to_string()))
}
