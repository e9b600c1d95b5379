//! The rules that the API states for its fields (`validate.rules`), which Envoy holds every configuration to.
//!
//! They are read from the schema table. Left out are `pattern`, `uri`, `hostname` and `address`, each of which a few fields have.

use crate::{
    Error,
    json::{MAX_DEPTH, fields, joined, read_packed},
    schema::{Field, Kind, Message, Shape},
    wire::{Malformed, Raw, Reader},
};
use std::borrow::Cow;

// The numbers of `validate.FieldRules`; below 13 are the rules for numbers, one for each type.
const STRING: u32 = 14;
const BYTES: u32 = 15;
const ENUM: u32 = 16;
const MESSAGE: u32 = 17;
const REPEATED: u32 = 18;
const MAP: u32 = 19;
const ANY: u32 = 20;
const DURATION: u32 = 21;
const TIMESTAMP: u32 = 22;

type Result<T> = std::result::Result<T, Error>;

/// Checks the wire form of the message `full_name` and of the messages within, except those in an `Any`.
pub fn check(full_name: &str, wire: &[u8]) -> Result<()> {
    match Message::find(full_name) {
        Some(found) => message(wire, found, 0),
        None => Err(Error::new("", format!("unknown type `{full_name}`"))),
    }
}

/// The fields that the API does not have, by their paths (`filters[0].99`): in the message, and in what its `Any`s hold. At most `limit` are listed.
pub fn unknown_fields(full_name: &str, wire: &[u8], limit: usize) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(message) = Message::find(full_name) {
        unknown(wire, message, "", 0, limit, &mut found);
    }
    found
}

/// What cannot be read at all is for [`check`] to refuse.
fn unknown(wire: &[u8], message: Message, path: &str, depth: usize, limit: usize, found: &mut Vec<String>) {
    let mut reader = Reader(wire);
    let any = matches!(message.shape(), Shape::Any);
    let (mut url, mut content) = (None, None);
    while let Ok(Some((number, raw))) = reader.next() {
        if found.len() >= limit || depth > MAX_DEPTH {
            return;
        }
        let Some(field) = message.number(number) else {
            found.push(format!("{path}{number}"));
            continue;
        };
        match (field.kind, raw) {
            (Kind::Message(inner), Raw::Len(bytes)) => {
                let path = format!("{path}{}.", field.name);
                unknown(bytes, inner, &path, depth + 1, limit, found);
            }
            (_, Raw::Len(bytes)) if any && field.name == "type_url" => url = std::str::from_utf8(bytes).ok(),
            (_, Raw::Len(bytes)) if any => content = Some(bytes),
            _ => {}
        }
    }
    if let (Some(url), Some(content)) = (url, content)
        && let Some(inner) = Message::find(crate::json::type_name(url))
    {
        unknown(content, inner, path, depth + 1, limit, found);
    }
}

/// Checks a message; see [`check`].
pub fn check_message<M: prost::Message + prost::Name>(message: &M) -> Result<()> {
    check(&M::full_name(), &message.encode_to_vec())
}

fn message(wire: &[u8], message: Message, depth: usize) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(Error::new("", format!("nested more than {MAX_DEPTH} deep")));
    }
    if !matches!(message.shape(), Shape::Object | Shape::MapEntry) {
        return Ok(());
    }
    let present = fields(wire, message)?;
    for oneof in message.required_oneofs() {
        if !present.iter().any(|(field, _)| field.oneof == Some(oneof)) {
            let names: Vec<&str> =
                message.fields().filter(|field| field.oneof == Some(oneof)).map(|field| field.name).collect();
            return Err(Error::new("", format!("one of {} is required", names.join(", "))));
        }
    }
    for field in message.fields() {
        let values = present
            .iter()
            .find(|(other, _)| other.number == field.number)
            .map(|(_, values)| values.as_slice())
            .unwrap_or_default();
        if !values.is_empty() || !field.rules.is_empty() {
            self::field(values, field, depth).map_err(|error| error.within(field.name))?;
        }
    }
    Ok(())
}

fn field(values: &[Raw<'_>], field: Field, depth: usize) -> Result<()> {
    let rules = Rules::read(field.rules)?;
    if let Some((key, item)) = field.map() {
        return map(values, &rules, key, item, depth);
    }
    if !field.is_repeated() {
        return match values.last() {
            // Which field of a oneof is set is the oneof's matter.
            None if field.oneof.is_some() => Ok(()),
            None if field.has_presence() => rules.absent(),
            None => rules.value(default(field.kind), field.kind),
            Some(_) if matches!(field.kind, Kind::Message(_)) => {
                rules.item(Raw::Len(&joined(values)?), field.kind, depth)
            }
            Some(last) => rules.item(*last, field.kind, depth),
        };
    }
    let mut items = Vec::new();
    for raw in values {
        match (field.kind, raw) {
            (Kind::String | Kind::Bytes | Kind::Message(_), _) => items.push(*raw),
            (kind, Raw::Len(packed)) => {
                let mut reader = Reader(packed);
                while !reader.is_empty() {
                    items.push(read_packed(&mut reader, kind)?);
                }
            }
            _ => items.push(*raw),
        }
    }
    let count = items.len() as u64;
    let item_rules = Rules::read(rules.bytes(REPEATED, 4).unwrap_or_default())?;
    let ignored = count == 0 && rules.flag(REPEATED, 5);
    if !ignored {
        rules.count(REPEATED, 1, 2, count, "item(s)")?;
    }
    if rules.flag(REPEATED, 3)
        && items.iter().enumerate().any(|(at, item)| items.iter().take(at).any(|other| other == item))
    {
        return fail("repeated value must contain unique items");
    }
    for (at, item) in items.into_iter().enumerate() {
        item_rules.item(item, field.kind, depth).map_err(|error| error.within(&format!("[{at}]")))?;
    }
    Ok(())
}

fn map(values: &[Raw<'_>], rules: &Rules<'_>, key: Field, item: Field, depth: usize) -> Result<()> {
    if !(values.is_empty() && rules.flag(MAP, 6)) {
        rules.count(MAP, 1, 2, values.len() as u64, "pair(s)")?;
    }
    let (key_rules, item_rules) =
        (Rules::read(rules.bytes(MAP, 4).unwrap_or_default())?, Rules::read(rules.bytes(MAP, 5).unwrap_or_default())?);
    for raw in values {
        let Raw::Len(entry) = raw else { return Err(Malformed.into()) };
        let (mut name, mut value) = (default(key.kind), default(item.kind));
        let mut reader = Reader(entry);
        while let Some((number, raw)) = reader.next()? {
            match number {
                1 => name = raw,
                2 => value = raw,
                _ => {}
            }
        }
        let within = |error: Error| match name {
            Raw::Len(text) => error.within(&format!("[{:?}]", String::from_utf8_lossy(text))),
            other => error.within(&format!("[{other:?}]")),
        };
        key_rules.item(name, key.kind, depth).map_err(within)?;
        item_rules.item(value, item.kind, depth).map_err(within)?;
    }
    Ok(())
}

fn default(kind: Kind) -> Raw<'static> {
    match kind {
        Kind::String | Kind::Bytes | Kind::Message(_) => Raw::Len(&[]),
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => Raw::I64(0),
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => Raw::I32(0),
        _ => Raw::Varint(0),
    }
}

fn fail<T>(reason: impl Into<String>) -> Result<T> {
    Err(Error::new("", reason))
}

/// Numbers of one type, which compare as the type does.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Number {
    Whole(i128),
    Float(f64),
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Number::Whole(value) => write!(f, "{value}"),
            Number::Float(value) => write!(f, "{value}"),
        }
    }
}

fn number(raw: Raw<'_>, kind: Kind) -> Option<Number> {
    Some(match (kind, raw) {
        (Kind::Double, Raw::I64(bits)) => Number::Float(f64::from_bits(bits)),
        (Kind::Float, Raw::I32(bits)) => Number::Float(f32::from_bits(bits).into()),
        (Kind::Int64, Raw::Varint(value)) | (Kind::Sfixed64, Raw::I64(value)) => Number::Whole((value as i64).into()),
        (Kind::Int32 | Kind::Enum(_), Raw::Varint(value)) => Number::Whole((value as i32).into()),
        (Kind::Sfixed32, Raw::I32(value)) => Number::Whole((value as i32).into()),
        (Kind::Sint32 | Kind::Sint64, Raw::Varint(value)) => {
            Number::Whole(((value >> 1) as i64 ^ -((value & 1) as i64)).into())
        }
        (Kind::Uint32, Raw::Varint(value)) => Number::Whole((value as u32).into()),
        (_, Raw::Varint(value) | Raw::I64(value)) => Number::Whole(value.into()),
        (_, Raw::I32(value)) => Number::Whole(value.into()),
        (_, Raw::Len(_)) => return None,
    })
}

/// A Duration in nanoseconds, so that it compares as a number.
fn nanoseconds(wire: &[u8]) -> Option<Number> {
    let mut total = 0i128;
    let mut reader = Reader(wire);
    while let Some(field) = reader.next().ok()? {
        match field {
            (1, Raw::Varint(seconds)) => total += i128::from(seconds as i64) * 1_000_000_000,
            (2, Raw::Varint(nanos)) => total += i128::from(nanos as i32),
            _ => {}
        }
    }
    Some(Number::Whole(total))
}

/// `validate.FieldRules`: a few messages, each of one kind of rule.
struct Rules<'a>(Vec<(u32, &'a [u8])>);

impl<'a> Rules<'a> {
    fn read(wire: &'a [u8]) -> Result<Self> {
        let mut rules = Vec::new();
        let mut reader = Reader(wire);
        while let Some((number, raw)) = reader.next()? {
            if let Raw::Len(bytes) = raw {
                rules.push((number, bytes));
            }
        }
        Ok(Self(rules))
    }

    /// The rules of a kind, one by one.
    fn each(&self, kind: u32) -> impl Iterator<Item = (u32, Raw<'a>)> {
        let of_kind = self.0.iter().filter(move |(number, _)| *number == kind);
        of_kind.flat_map(|(_, bytes)| {
            let mut reader = Reader(bytes);
            std::iter::from_fn(move || reader.next().ok().flatten())
        })
    }

    fn get(&self, kind: u32, rule: u32) -> Option<Raw<'a>> {
        self.each(kind).find(|(number, _)| *number == rule).map(|(_, raw)| raw)
    }

    fn flag(&self, kind: u32, rule: u32) -> bool {
        matches!(self.get(kind, rule), Some(Raw::Varint(1..)))
    }

    fn limit(&self, kind: u32, rule: u32) -> Option<u64> {
        self.get(kind, rule).and_then(|raw| if let Raw::Varint(value) = raw { Some(value) } else { None })
    }

    fn bytes(&self, kind: u32, rule: u32) -> Option<&'a [u8]> {
        self.get(kind, rule).and_then(|raw| if let Raw::Len(bytes) = raw { Some(bytes) } else { None })
    }

    fn absent(&self) -> Result<()> {
        let required = self.flag(MESSAGE, 2) || [ANY, DURATION, TIMESTAMP].iter().any(|kind| self.flag(*kind, 1));
        if required { fail("value is required") } else { Ok(()) }
    }

    fn count(&self, kind: u32, min: u32, max: u32, count: u64, what: &str) -> Result<()> {
        if let Some(min) = self.limit(kind, min).filter(|min| count < *min) {
            return fail(format!("value must contain at least {min} {what}"));
        }
        if let Some(max) = self.limit(kind, max).filter(|max| count > *max) {
            return fail(format!("value must contain no more than {max} {what}"));
        }
        Ok(())
    }

    /// A value that is there: itself, and what is within.
    fn item(&self, raw: Raw<'_>, kind: Kind, depth: usize) -> Result<()> {
        let Kind::Message(found) = kind else { return self.value(raw, kind) };
        let Raw::Len(bytes) = raw else { return Err(Malformed.into()) };
        match found.shape() {
            Shape::Wrapper => match found.number(1) {
                Some(inner) => {
                    let mut value = default(inner.kind);
                    let mut reader = Reader(bytes);
                    while let Some((number, raw)) = reader.next()? {
                        if number == inner.number {
                            value = raw;
                        }
                    }
                    self.value(value, inner.kind)
                }
                None => Ok(()),
            },
            Shape::Duration => {
                let bound = |raw: Raw<'_>| if let Raw::Len(bytes) = raw { nanoseconds(bytes) } else { None };
                // Two is `const` and the others follow: one more than with numbers.
                self.ordered(DURATION, 1, nanoseconds(bytes), &bound)
            }
            _ if self.flag(MESSAGE, 1) => Ok(()),
            _ => message(bytes, found, depth + 1),
        }
    }

    fn value(&self, raw: Raw<'_>, kind: Kind) -> Result<()> {
        match (kind, raw) {
            (Kind::Message(_), _) => Ok(()),
            (Kind::String, Raw::Len(bytes)) => self.text(bytes),
            (Kind::Bytes, Raw::Len(bytes)) => {
                if bytes.is_empty() && self.flag(BYTES, 14) {
                    return Ok(());
                }
                self.length(BYTES, [13, 2, 3], bytes.len() as u64, "bytes")
            }
            (Kind::Bool, Raw::Varint(value)) => match self.limit(13, 1) {
                Some(wanted) if wanted != value => fail(format!("value must equal {}", wanted == 1)),
                _ => Ok(()),
            },
            (Kind::Enum(r#enum), raw) => {
                if let (true, Some(Number::Whole(value))) = (self.flag(ENUM, 2), number(raw, kind))
                    && i32::try_from(value).ok().and_then(|value| r#enum.value_name(value)).is_none()
                {
                    return fail("value must be one of the defined enum values");
                }
                self.listed(ENUM, [3, 4], number(raw, kind), &|raw| number(raw, kind))
            }
            _ => {
                let Some((rules, _)) = self.0.iter().find(|(number, _)| *number <= 12) else { return Ok(()) };
                // A number's `ignore_empty`.
                if raw.is_default() && self.flag(*rules, 8) {
                    return Ok(());
                }
                self.ordered(*rules, 0, number(raw, kind), &|raw| number(raw, kind))
            }
        }
    }

    /// `const`, `lt`, `lte`, `gt`, `gte`, `in` and `not_in`, numbered from one or from two.
    fn ordered(
        &self,
        kind: u32,
        shift: u32,
        value: Option<Number>,
        read: &dyn Fn(Raw<'_>) -> Option<Number>,
    ) -> Result<()> {
        let Some(value) = value else { return Err(Malformed.into()) };
        let bound = |rule: u32| self.get(kind, rule + shift).and_then(read);
        if let Some(wanted) = bound(1).filter(|wanted| value != *wanted) {
            return fail(format!("value must equal {wanted}"));
        }
        let above = match (bound(2), bound(3)) {
            (Some(limit), _) if value >= limit => Some(format!("value must be less than {limit}")),
            (_, Some(limit)) if value > limit => Some(format!("value must be less than or equal to {limit}")),
            _ => None,
        };
        let below = match (bound(4), bound(5)) {
            (Some(limit), _) if value <= limit => Some(format!("value must be greater than {limit}")),
            (_, Some(limit)) if value < limit => Some(format!("value must be greater than or equal to {limit}")),
            _ => None,
        };
        match above.or(below) {
            Some(reason) if kind == DURATION => fail(format!("{reason} ns")),
            Some(reason) => fail(reason),
            None => self.listed(kind, [6 + shift, 7 + shift], Some(value), read),
        }
    }

    fn listed(
        &self,
        kind: u32,
        [within, without]: [u32; 2],
        value: Option<Number>,
        read: &dyn Fn(Raw<'_>) -> Option<Number>,
    ) -> Result<()> {
        let mut allowed = self.each(kind).filter(|(rule, _)| *rule == within).peekable();
        if allowed.peek().is_some() && !allowed.any(|(_, raw)| read(raw) == value) {
            return fail("value must be in the list that the API gives");
        }
        if self.each(kind).any(|(rule, raw)| rule == without && read(raw) == value) {
            return fail("value must not be in the list that the API gives");
        }
        Ok(())
    }

    fn length(&self, kind: u32, [exact, min, max]: [u32; 3], length: u64, unit: &str) -> Result<()> {
        if let Some(exact) = self.limit(kind, exact).filter(|exact| length != *exact) {
            return fail(format!("value length must be {exact} {unit}"));
        }
        if let Some(min) = self.limit(kind, min).filter(|min| length < *min) {
            return fail(format!("value length must be at least {min} {unit}"));
        }
        if let Some(max) = self.limit(kind, max).filter(|max| length > *max) {
            return fail(format!("value length must be at most {max} {unit}"));
        }
        Ok(())
    }

    fn text(&self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() && self.flag(STRING, 26) || self.0.iter().all(|(kind, _)| *kind != STRING) {
            return Ok(());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed)?;
        self.length(STRING, [19, 2, 3], text.chars().count() as u64, "characters")?;
        self.length(STRING, [20, 4, 5], bytes.len() as u64, "bytes")?;
        let shown = |part: &[u8]| String::from_utf8_lossy(part).into_owned();
        for (rule, raw) in self.each(STRING) {
            let Raw::Len(part) = raw else { continue };
            match rule {
                1 if bytes != part => return fail(format!("value must equal {:?}", shown(part))),
                7 if !bytes.starts_with(part) => return fail(format!("value does not have prefix {:?}", shown(part))),
                8 if !bytes.ends_with(part) => return fail(format!("value does not have suffix {:?}", shown(part))),
                9 if !text.contains(&*shown(part)) => return fail(format!("value does not contain {:?}", shown(part))),
                23 if text.contains(&*shown(part)) => return fail(format!("value contains {:?}", shown(part))),
                11 if bytes == part => return fail(format!("value must not be {:?}", shown(part))),
                _ => {}
            }
        }
        let allowed: Vec<Cow<'_, str>> =
            self.each(STRING)
                .filter_map(|(rule, raw)| {
                    if let (10, Raw::Len(part)) = (rule, raw) { Some(String::from_utf8_lossy(part)) } else { None }
                })
                .collect();
        if !allowed.is_empty() && !allowed.iter().any(|part| part == text) {
            return fail(format!("value must be one of {}", allowed.join(", ")));
        }
        if self.flag(STRING, 14) && text.parse::<std::net::IpAddr>().is_err() {
            return fail("value must be a valid IP address");
        }
        self.header(text)
    }

    /// `well_known_regex`, which is strict unless it says otherwise.
    fn header(&self, text: &str) -> Result<()> {
        let strict = self.limit(STRING, 25) != Some(0);
        let fits = match self.limit(STRING, 24) {
            Some(1) if strict => {
                let name = text.strip_prefix(':').unwrap_or(text);
                !name.is_empty()
                    && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&byte))
            }
            Some(2) if strict => !text.bytes().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127)),
            Some(1 | 2) => !text.bytes().any(|byte| matches!(byte, 0 | b'\r' | b'\n')),
            _ => true,
        };
        if fits { Ok(()) } else { fail("value does not match regex pattern of a header") }
    }
}

#[cfg(test)]
mod tests;
