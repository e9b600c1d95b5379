//! The schema table: every message and enum of the API, read where it lies in the binary. `build/table.rs` describes its layout.

use std::ops::Range;

static TABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schema.bin"));

const MESSAGE_COUNT: usize = 0;
#[cfg(test)]
const ENUM_COUNT: usize = 4;
const MESSAGES: usize = 8;
const FIELDS: usize = 12;
const ENUMS: usize = 16;
const VALUES: usize = 20;
const STRINGS: usize = 24;

const MESSAGE_SIZE: usize = 16;
const FIELD_SIZE: usize = 24;
const ENUM_SIZE: usize = 12;
const VALUE_SIZE: usize = 12;

const REPEATED: u8 = 1;
const MAP: u8 = 2;
const PRESENCE: u8 = 4;
const PACKED: u8 = 8;
const SENSITIVE: u8 = 16;

/// A message of the API, by its place in the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message(u16);

/// An enum of the API, by its place in the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Enum(u16);

/// What a message looks like in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An object of its fields.
    Object,
    /// An object with `@type`.
    Any,
    /// `1.5s`.
    Duration,
    /// RFC 3339.
    Timestamp,
    /// `a,bC`.
    FieldMask,
    /// Any object.
    Struct,
    /// Anything.
    Value,
    /// Any list.
    ListValue,
    /// A bare value.
    Wrapper,
    /// An object of its fields, one of which is a message of the type the other names.
    TypedStruct,
    /// Never by itself.
    MapEntry,
}

/// The type of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Bytes,
    Uint32,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
    Enum(Enum),
    Message(Message),
}

/// A field of a message.
#[derive(Clone, Copy)]
pub struct Field {
    pub number: u32,
    pub name: &'static str,
    pub kind: Kind,
    /// Which of the message's oneofs it belongs to.
    pub oneof: Option<u16>,
    /// A `validate.FieldRules`; empty when there are none.
    pub rules: &'static [u8],
    flags: u8,
}

impl Message {
    /// Looks a message up by its full name.
    pub fn find(full_name: &str) -> Option<Self> {
        let at = search(u32_at(MESSAGE_COUNT), |at| Message(at).name().cmp(full_name))?;
        Some(Self(at))
    }

    fn at(self) -> usize {
        section(MESSAGES) + usize::from(self.0) * MESSAGE_SIZE
    }

    pub fn name(self) -> &'static str {
        text_at(self.at())
    }

    pub fn shape(self) -> Shape {
        match u8_at(self.at() + 6) {
            1 => Shape::Any,
            2 => Shape::Duration,
            3 => Shape::Timestamp,
            4 => Shape::FieldMask,
            5 => Shape::Struct,
            6 => Shape::Value,
            7 => Shape::ListValue,
            8 => Shape::Wrapper,
            9 => Shape::TypedStruct,
            10 => Shape::MapEntry,
            _ => Shape::Object,
        }
    }

    fn field_range(self) -> Range<usize> {
        let first = u32_at(self.at() + 8);
        first..first + usize::from(u16_at(self.at() + 12))
    }

    /// The oneofs of which one field must be set.
    pub fn required_oneofs(self) -> impl Iterator<Item = u16> {
        let set = u16_at(self.at() + 14);
        (0..16).filter(move |oneof| set >> oneof & 1 == 1)
    }

    /// The fields, by number.
    pub fn fields(self) -> impl Iterator<Item = Field> {
        self.field_range().map(Field::read)
    }

    /// Looks a field up by its name, `snake_case` or `camelCase`.
    pub fn field(self, name: &str) -> Option<Field> {
        self.field_range().find(|at| is_name(name, Field::name_at(*at))).map(Field::read)
    }

    /// Looks a field up by its number.
    pub fn number(self, number: u32) -> Option<Field> {
        self.field_range().find(|at| u32_at(Field::at(*at)) == number as usize).map(Field::read)
    }
}

impl Field {
    fn at(index: usize) -> usize {
        section(FIELDS) + index * FIELD_SIZE
    }

    fn name_at(index: usize) -> &'static str {
        text_at(Self::at(index) + 4)
    }

    fn read(index: usize) -> Self {
        let at = Self::at(index);
        let r#type = u16_at(at + 12);
        // The numbers are those of FieldDescriptorProto.Type; groups (10) do not occur.
        let kind = match u8_at(at + 10) {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            11 => Kind::Message(Message(r#type)),
            13 => Kind::Uint32,
            14 => Kind::Enum(Enum(r#type)),
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            18 => Kind::Sint64,
            _ => Kind::Bytes,
        };
        let oneof = Some(u16_at(at + 14)).filter(|oneof| *oneof != u16::MAX);
        Self {
            rules: slice_at(at + 16),
            number: u32::try_from(u32_at(at)).unwrap_or_default(),
            name: Self::name_at(index),
            kind,
            oneof,
            flags: u8_at(at + 11),
        }
    }

    pub fn is_repeated(self) -> bool {
        self.flags & REPEATED != 0
    }

    /// Key and value of a map's entry.
    pub fn map(self) -> Option<(Field, Field)> {
        match self.kind {
            Kind::Message(entry) if self.flags & MAP != 0 => Some((entry.number(1)?, entry.number(2)?)),
            _ => None,
        }
    }

    /// Whether absent and default are different things.
    pub fn has_presence(self) -> bool {
        self.flags & PRESENCE != 0
    }

    pub fn is_packed(self) -> bool {
        self.flags & PACKED != 0
    }

    /// `udpa.annotations.sensitive`.
    pub fn is_sensitive(self) -> bool {
        self.flags & SENSITIVE != 0
    }
}

impl Enum {
    fn at(self) -> usize {
        section(ENUMS) + usize::from(self.0) * ENUM_SIZE
    }

    #[cfg(test)]
    pub fn name(self) -> &'static str {
        text_at(self.at())
    }

    fn values(self) -> impl Iterator<Item = usize> {
        let first = u32_at(self.at() + 8);
        (first..first + usize::from(u16_at(self.at() + 6))).map(|index| section(VALUES) + index * VALUE_SIZE)
    }

    /// The number of a name. Envoy's parser does not mind case.
    pub fn number(self, name: &str) -> Option<i32> {
        let exact = self.values().find(|at| text_at(at + 4) == name);
        exact.or_else(|| self.values().find(|at| text_at(at + 4).eq_ignore_ascii_case(name))).map(i32_at)
    }

    /// The name of a number, the first when there are several.
    pub fn value_name(self, number: i32) -> Option<&'static str> {
        self.values().find(|at| i32_at(*at) == number).map(|at| text_at(at + 4))
    }
}

#[cfg(test)]
pub fn messages() -> impl Iterator<Item = Message> {
    (0..u32_at(MESSAGE_COUNT)).map(|at| Message(at as u16))
}

#[cfg(test)]
pub fn enums() -> impl Iterator<Item = Enum> {
    (0..u32_at(ENUM_COUNT)).map(|at| Enum(at as u16))
}

/// Whether `given` is the `snake_case` name `own` or its `camelCase` form.
fn is_name(given: &str, own: &str) -> bool {
    if given == own {
        return true;
    }
    let mut given = given.bytes();
    let mut upper = false;
    for byte in own.bytes() {
        if byte == b'_' {
            upper = true;
        } else {
            let wanted = if std::mem::take(&mut upper) { byte.to_ascii_uppercase() } else { byte };
            if given.next() != Some(wanted) {
                return false;
            }
        }
    }
    given.next().is_none()
}

fn search(count: usize, compare: impl Fn(u16) -> std::cmp::Ordering) -> Option<u16> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        let at = u16::try_from(middle).ok()?;
        match compare(at) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(at),
        }
    }
    None
}

fn section(header: usize) -> usize {
    u32_at(header)
}

fn bytes_at<const N: usize>(at: usize) -> [u8; N] {
    TABLE.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

fn u8_at(at: usize) -> u8 {
    u8::from_le_bytes(bytes_at(at))
}

fn u16_at(at: usize) -> u16 {
    u16::from_le_bytes(bytes_at(at))
}

fn u32_at(at: usize) -> usize {
    u32::from_le_bytes(bytes_at(at)) as usize
}

fn i32_at(at: usize) -> i32 {
    i32::from_le_bytes(bytes_at(at))
}

/// A string by its offset and length.
fn text_at(at: usize) -> &'static str {
    std::str::from_utf8(slice_at(at)).unwrap_or_default()
}

fn slice_at(at: usize) -> &'static [u8] {
    let start = section(STRINGS) + u32_at(at);
    TABLE.get(start..start + usize::from(u16_at(at + 4))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_found_by_its_name_and_is_whole() {
        let all: Vec<Message> = messages().collect();
        assert!(all.len() > 1500, "{}", all.len());
        for message in all {
            assert!(Message::find(message.name()) == Some(message), "{}", message.name());
            for field in message.fields() {
                assert!(
                    message.field(field.name).is_some_and(|found| found.number == field.number),
                    "{}.{}",
                    message.name(),
                    field.name
                );
                assert!(message.number(field.number).is_some_and(|found| found.name == field.name));
                assert_eq!(
                    field.map().is_some(),
                    matches!(field.kind, Kind::Message(m) if m.shape() == Shape::MapEntry)
                );
            }
        }
        assert!(Message::find("envoy.config.core.v3.Nod").is_none());
        assert!(Message::find("").is_none());
        assert!(Message::find("\u{10ffff}").is_none());
    }

    #[test]
    fn fields_have_two_names() {
        let cluster = Message::find("envoy.config.cluster.v3.Cluster").unwrap();
        for name in ["connect_timeout", "connectTimeout"] {
            assert_eq!(cluster.field(name).unwrap().number, 4);
        }
        for name in ["connecttimeout", "connect_Timeout", "ConnectTimeout", "connectTimeou", "connectTimeouts", ""] {
            assert!(cluster.field(name).is_none(), "{name}");
        }
    }

    #[test]
    fn enums_go_both_ways_and_mind_no_case() {
        let policy = enums().find(|found| found.name() == "envoy.config.cluster.v3.Cluster.LbPolicy").unwrap();
        assert_eq!(policy.value_name(5), Some("MAGLEV"));
        assert_eq!(policy.value_name(77), None);
        for name in ["ROUND_ROBIN", "round_robin", "Round_Robin"] {
            assert_eq!(policy.number(name), Some(0), "{name}");
        }
        assert_eq!(policy.number("round-robin"), None);
    }

    #[test]
    fn what_is_secret_is_marked() {
        let certificate = Message::find("envoy.extensions.transport_sockets.tls.v3.TlsCertificate").unwrap();
        assert!(certificate.field("private_key").unwrap().is_sensitive());
        assert!(!certificate.field("certificate_chain").unwrap().is_sensitive());
    }

    #[test]
    fn the_table_is_small() {
        assert!(TABLE.len() < 800_000, "{}", TABLE.len());
    }
}
