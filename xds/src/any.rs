//! `google.protobuf.Any` in extension configuration: plain, or a `TypedStruct` around JSON.

use crate::{
    Error,
    google::protobuf::Any,
    json::{self, Options, type_name as last},
    messages::typed_struct,
    validate,
    wire::{Raw, Reader},
};
use prost::{Message, Name};
use serde_json::Value;

/// Reads the message within and checks it ([`validate`]); `path` is the field that holds the `Any`. Fields that a `TypedStruct` has and the message has not are passed over.
pub fn unpack<M: Message + Name + Default>(any: &Any, path: &str) -> Result<M, Error> {
    unpack_with(any, path, &Options::ignore_unknown())
}

/// As [`unpack`], and `options` say what becomes of a `TypedStruct`'s unknown fields.
pub fn unpack_with<M: Message + Name + Default>(any: &Any, path: &str, options: &Options) -> Result<M, Error> {
    let wanted = M::full_name();
    let found = last(&any.type_url);
    // A TypedStruct may be wanted for itself.
    if found != wanted
        && let Some((url, value)) = typed_struct(any).map_err(|error| error.within(path))?
    {
        check(&wanted, last(&url), path)?;
        let wire = json::decode(&value, &wanted, options).map_err(|error| error.within(path))?;
        return unpack_with(&Any { type_url: url, value: wire }, path, options);
    }
    check(&wanted, found, path)?;
    validate::check(&wanted, &any.value).map_err(|error| error.within(path))?;
    M::decode(any.value.as_slice()).map_err(|error| Error::new(path, format!("this is not a {wanted}: {error}")))
}

/// The full name and the wire form of the message within, seen through a `TypedStruct` and checked ([`validate`]): for extensions of which no
/// more than that is wanted. A type that the API does not have is an error.
pub fn content(any: &Any, path: &str) -> Result<(String, Vec<u8>), Error> {
    if let Some((url, value)) = typed_struct(any).map_err(|error| error.within(path))? {
        let name = last(&url).to_owned();
        let wire = json::decode(&value, &name, &Options::ignore_unknown()).map_err(|error| error.within(path))?;
        return content(&Any { type_url: url, value: wire }, path);
    }
    let name = last(&any.type_url);
    validate::check(name, &any.value).map_err(|error| error.within(path))?;
    Ok((name.to_owned(), any.value.clone()))
}

/// Whether the message within is one of this type, and not in a `TypedStruct`.
pub fn is<M: Name>(any: &Any) -> bool {
    last(&any.type_url) == M::full_name()
}

/// The message in field `number` of a message in wire form, and all other fields as they came. None where it is absent or there twice, where one of
/// `others` (those of the same oneof) is there too, or where this is no message.
pub fn take_field<'a>(wire: &'a [u8], number: u32, others: &[u32]) -> Option<(&'a [u8], Vec<u8>)> {
    let (mut found, mut rest, mut reader) = (None, Vec::with_capacity(wire.len()), Reader(wire));
    loop {
        let before = reader.0;
        let Some((at, raw)) = reader.next().ok()? else { break };
        match raw {
            Raw::Len(bytes) if at == number && found.is_none() => found = Some(bytes),
            _ if at == number || others.contains(&at) => return None,
            _ => rest.extend_from_slice(before.get(..before.len() - reader.0.len())?),
        }
    }
    Some((found?, rest))
}

/// Whether the API has a message of this full name.
pub fn is_known(full_name: &str) -> bool {
    crate::schema::Message::find(full_name).is_some()
}

fn check(wanted: &str, found: &str, path: &str) -> Result<(), Error> {
    if wanted == found { Ok(()) } else { Err(Error::new(path, format!("expected a {wanted}, found a {found}"))) }
}

/// The full name of the message within, seen through a `TypedStruct`: what an extension is looked up by.
pub fn type_name(any: &Any) -> String {
    let url = if is_typed_struct(any) { json::url_and_value(&any.value).ok().map(|(url, _)| url) } else { None };
    last(url.unwrap_or(&any.type_url)).to_owned()
}

/// The JSON of a `TypedStruct`, whatever its type; `None` when the `Any` holds something else.
pub fn struct_value(any: &Any) -> Result<Option<Value>, Error> {
    Ok(typed_struct(any)?.map(|(_, value)| value))
}

/// Wraps a message.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn is_typed_struct(any: &Any) -> bool {
    let name = last(&any.type_url);
    [typed_struct::udpa_v1::TypedStruct::full_name(), typed_struct::xds_v3::TypedStruct::full_name()]
        .iter()
        .any(|known| known == name)
}

/// Type URL and content, in JSON without the detour over Rust's Struct, which would lose the order and depth.
fn typed_struct(any: &Any) -> Result<Option<(String, Value)>, Error> {
    if !is_typed_struct(any) {
        return Ok(None);
    }
    let mut parts = json::encode(last(&any.type_url), &any.value, false)?;
    let mut take = |name: &str| parts.get_mut(name).map(Value::take);
    let url = take("type_url").and_then(|url| url.as_str().map(str::to_owned)).unwrap_or_default();
    let value = take("value").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    Ok(Some((url, value)))
}

#[cfg(test)]
mod tests;
