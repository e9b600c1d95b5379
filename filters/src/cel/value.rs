//! Values, their equality and their order.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::map::Map;
use super::{EvalError, number};
use serde_json::Value as Json;

/// A value. Strings are bytes, since headers need not be UTF-8.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Cow<'a, [u8]>),
    Bytes(Cow<'a, [u8]>),
    /// Nanoseconds.
    Duration(i128),
    /// Nanoseconds since the epoch.
    Timestamp(i128),
    /// A type by its name.
    Type(&'static str),
    List(List<'a>),
    Map(Map<'a>),
}

/// A list. (`PartialEq` of this and of [`Value`] is that of the representation; CEL's is [`Value::equals`].)
#[derive(Clone, Debug, PartialEq)]
pub(super) enum List<'a> {
    Json(&'a [Json]),
    Slice(&'a [Value<'a>]),
    Owned(Vec<Value<'a>>),
}

impl<'a> Value<'a> {
    pub fn string(text: &'a str) -> Value<'a> {
        Value::String(Cow::Borrowed(text.as_bytes()))
    }

    pub fn json(value: &'a Json) -> Value<'a> {
        match value {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            // Numbers of a protobuf Struct are doubles.
            Json::Number(n) => Value::Double(n.as_f64().unwrap_or_default()),
            Json::String(s) => Value::string(s),
            Json::Array(items) => Value::List(List::Json(items)),
            Json::Object(members) => Value::Map(Map::Json(members)),
        }
    }

    /// The same value, with nothing copied that has a length.
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(b) => Value::Bool(*b),
            Value::Int(n) => Value::Int(*n),
            Value::Uint(n) => Value::Uint(*n),
            Value::Double(n) => Value::Double(*n),
            Value::String(s) => Value::String(Cow::Borrowed(s)),
            Value::Bytes(b) => Value::Bytes(Cow::Borrowed(b)),
            Value::Duration(n) => Value::Duration(*n),
            Value::Timestamp(n) => Value::Timestamp(*n),
            Value::Type(name) => Value::Type(name),
            Value::List(list) => Value::List(match list {
                List::Json(items) => List::Json(items),
                List::Slice(items) => List::Slice(items),
                List::Owned(items) => List::Slice(items),
            }),
            Value::Map(map) => Value::Map(map.borrowed()),
        }
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Type(_) => "type",
            Value::List(_) => "list",
            Value::Map(_) => "map",
        }
    }

    /// `==`: numbers by their value whatever their kind; values of different types are not equal.
    pub fn equals(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) | (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::Type(a), Value::Type(b)) => a == b,
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && (0..a.len()).all(|i| a.at(i).zip(b.at(i)).is_some_and(|(x, y)| x.equals(&y)))
            }
            (Value::Map(a), Value::Map(b)) => a.equals(b),
            (a, b) => number::compare(a, b).is_some_and(|o| o == Some(Ordering::Equal)),
        }
    }

    /// `<` and its kin; none where one side is no number at all (NaN), an error where the two have no order.
    pub fn order(&self, other: &Value<'_>) -> Result<Option<Ordering>, EvalError> {
        Ok(match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::String(a), Value::String(b)) | (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            (Value::Duration(a), Value::Duration(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
            (a, b) => return number::compare(a, b).ok_or(EvalError("no such overload")),
        })
    }
}

impl<'a> List<'a> {
    pub fn len(&self) -> usize {
        match self {
            List::Json(items) => items.len(),
            List::Slice(items) => items.len(),
            List::Owned(items) => items.len(),
        }
    }

    /// An item.
    pub fn at(&self, index: usize) -> Option<Value<'_>> {
        match self {
            List::Json(items) => items.get(index).map(Value::json),
            List::Slice(items) => items.get(index).map(Value::borrowed),
            List::Owned(items) => items.get(index).map(Value::borrowed),
        }
    }

    /// An item that outlives the list.
    pub fn take(self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(items) => items.get(index).map(Value::json),
            List::Slice(items) => items.get(index).map(Value::borrowed),
            List::Owned(items) => items.into_iter().nth(index),
        }
    }
}
