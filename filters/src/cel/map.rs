//! What can be asked for a key: literals, structs of metadata, headers, attributes and filter state.

use std::borrow::Cow;

use super::attributes::{Attribute, Root};
use super::headers::{HeaderKey, Part};
use super::value::Value;
use crate::address::Address;
use crate::filter_state::Object;
use crate::format::FormatContext;
use crate::metadata::Metadata;
use serde_json::Value as Json;

/// A map. Those without data of their own read the context they are asked in.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Map<'a> {
    Json(&'a serde_json::Map<String, Json>),
    Slice(&'a [(Value<'a>, Value<'a>)]),
    Owned(Vec<(Value<'a>, Value<'a>)>),
    /// `request` and its like.
    Root(Root),
    Headers(Part),
    /// `config.core.v3.Metadata`, a message.
    Metadata(&'a Metadata),
    /// Its `filter_metadata`.
    Namespaces(&'a Metadata),
    /// An address in filter state.
    Address(&'a Address),
    /// Of what there is nothing of here.
    Empty,
}

/// The value of an object in filter state: an address has fields, all else is bytes.
pub(super) fn object(object: &Object) -> Value<'_> {
    match object {
        Object::Address(address) => Value::Map(Map::Address(address)),
        other => Value::Bytes(match other.plain() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        }),
    }
}

impl<'a> Map<'a> {
    /// The value of a key.
    pub fn get(&self, key: &Value<'_>, cx: &FormatContext<'a>) -> Option<Value<'a>> {
        match self {
            Map::Slice(entries) => entries.iter().find(|(k, _)| k.equals(key)).map(|(_, v)| v.borrowed()),
            Map::Owned(entries) => entries.iter().find(|(k, _)| k.equals(key)).map(|(_, v)| v.clone()),
            other => {
                let Value::String(key) = key else { return None };
                other.member(std::str::from_utf8(key).ok()?, cx)
            }
        }
    }

    /// The value of a key that is a string.
    pub fn member(&self, key: &str, cx: &FormatContext<'a>) -> Option<Value<'a>> {
        match self {
            Map::Json(members) => members.get(key).map(Value::json),
            Map::Slice(_) | Map::Owned(_) => self.get(&Value::string(key), cx),
            Map::Root(root) => match root.attribute(key) {
                Attribute::Value(read) => read(cx),
                Attribute::Headers(part) => Some(Value::Map(Map::Headers(part))),
                Attribute::Object => cx.info.object(key).map(object),
                Attribute::NoData | Attribute::Unknown => None,
            },
            Map::Headers(part) => HeaderKey::parse(key).find(*part, cx).map(Value::String),
            Map::Metadata(metadata) => match key {
                "filter_metadata" => Some(Value::Map(Map::Namespaces(metadata))),
                "typed_filter_metadata" => Some(Value::Map(Map::Empty)),
                _ => None,
            },
            Map::Namespaces(metadata) => metadata.get(key).map(|v| Value::json(v)),
            Map::Address(address) => match key {
                "ip" => address.ip().map(|ip| Value::String(ip.to_string().into_bytes().into())),
                "port" => address.port().map(|p| Value::Int(p.into())),
                _ => None,
            },
            Map::Empty => None,
        }
    }

    /// How many keys there are; 0 of what cannot be counted.
    pub fn len(&self, cx: &FormatContext<'_>) -> usize {
        match self {
            Map::Json(members) => members.len(),
            Map::Slice(entries) => entries.len(),
            Map::Owned(entries) => entries.len(),
            Map::Headers(part) => part.names(cx).len(),
            Map::Namespaces(metadata) => metadata.iter().count(),
            Map::Root(_) | Map::Metadata(_) | Map::Address(_) | Map::Empty => 0,
        }
    }

    pub fn borrowed(&self) -> Map<'_> {
        match self {
            Map::Json(members) => Map::Json(members),
            Map::Slice(entries) => Map::Slice(entries),
            Map::Owned(entries) => Map::Slice(entries),
            Map::Root(root) => Map::Root(*root),
            Map::Headers(part) => Map::Headers(*part),
            Map::Metadata(metadata) => Map::Metadata(metadata),
            Map::Namespaces(metadata) => Map::Namespaces(metadata),
            Map::Address(address) => Map::Address(address),
            Map::Empty => Map::Empty,
        }
    }

    /// Literals and structs have the same members; all others are equal to themselves only.
    pub fn equals(&self, other: &Map<'_>) -> bool {
        match (self.entries(), other.entries()) {
            (Some(a), Some(b)) => {
                let (a, b): (Vec<_>, Vec<_>) = (a.collect(), b.collect());
                let found = |key: &Value<'_>| b.iter().find(|(k, _)| k.equals(key)).map(|(_, v)| v);
                a.len() == b.len() && a.iter().all(|(key, x)| found(key).is_some_and(|y| x.equals(y)))
            }
            _ => self.borrowed() == other.borrowed(),
        }
    }

    /// The members of a literal or a struct.
    fn entries(&self) -> Option<Box<dyn Iterator<Item = (Value<'_>, Value<'_>)> + '_>> {
        Some(match self {
            Map::Json(members) => Box::new(members.iter().map(|(k, v)| (Value::string(k), Value::json(v)))),
            Map::Slice(entries) => Box::new(entries.iter().map(|(k, v)| (k.borrowed(), v.borrowed()))),
            Map::Owned(entries) => Box::new(entries.iter().map(|(k, v)| (k.borrowed(), v.borrowed()))),
            Map::Namespaces(metadata) => Box::new(metadata.iter().map(|(k, v)| (Value::string(k), Value::json(v)))),
            Map::Empty => Box::new(std::iter::empty()),
            Map::Root(_) | Map::Headers(_) | Map::Metadata(_) | Map::Address(_) => return None,
        })
    }
}
