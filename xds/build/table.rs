//! The layout of the table. `src/schema.rs` reads what is written here; all numbers are little-endian.
//!
//! | section | record |
//! |---|---|
//! | header | number of messages, enums, then where messages, fields, enums, values and strings begin: u32 each |
//! | messages, by name | name u32 + u16, shape u8, 0 u8, first field u32, fields u16, set of required oneofs u16 |
//! | fields, by message and number | number u32, name u32 + u16, kind u8, flags u8, type u16, oneof u16, rules u32 + u16, 0 u16 |
//! | enums, by name | name u32 + u16, values u16, first value u32 |
//! | values, by enum in their order | number i32, name u32 + u16, 0 u16 |
//! | strings | each once, and the validation rules as protobuf wire |

use crate::descriptor::{Descriptor, Enum, Field, File};
use std::collections::{BTreeMap, HashMap};

const TYPE_MESSAGE: i32 = 11;
const TYPE_ENUM: i32 = 14;
const LABEL_REPEATED: i32 = 3;

const REPEATED: u8 = 1;
const MAP: u8 = 2;
const PRESENCE: u8 = 4;
const PACKED: u8 = 8;
const SENSITIVE: u8 = 16;

/// Packages that describe descriptors, and occur in no message.
const LEFT_OUT: [&str; 5] = ["validate", "udpa.annotations", "envoy.annotations", "xds.annotations.v3", "google.api"];

#[derive(Default)]
struct Types<'a> {
    messages: BTreeMap<String, (&'a Descriptor, bool)>,
    enums: BTreeMap<String, &'a Enum>,
}

impl<'a> Types<'a> {
    fn message(&mut self, scope: &str, message: &'a Descriptor, proto3: bool) {
        let name = join(scope, &message.name);
        for nested in &message.nested_type {
            self.message(&name, nested, proto3);
        }
        for nested in &message.enum_type {
            self.enums.insert(join(&name, &nested.name), nested);
        }
        self.messages.insert(name, (message, proto3));
    }
}

fn join(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    known: HashMap<Vec<u8>, u32>,
}

impl Strings {
    /// Offset and length.
    fn put(&mut self, into: &mut Vec<u8>, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        let at = *self.known.entry(text.to_owned()).or_insert_with(|| {
            let at = self.bytes.len() as u32;
            self.bytes.extend_from_slice(text);
            at
        });
        into.extend_from_slice(&at.to_le_bytes());
        into.extend_from_slice(&u16::try_from(text.len()).unwrap().to_le_bytes());
    }
}

pub fn build(files: &[File]) -> Vec<u8> {
    let mut types = Types::default();
    for file in files {
        if LEFT_OUT.contains(&file.package.as_str()) || file.name == "google/protobuf/descriptor.proto" {
            continue;
        }
        for message in &file.message_type {
            types.message(&file.package, message, file.syntax == "proto3");
        }
        for r#enum in &file.enum_type {
            types.enums.insert(join(&file.package, &r#enum.name), r#enum);
        }
    }
    let message_index: HashMap<&str, u16> = index(types.messages.keys());
    let enum_index: HashMap<&str, u16> = index(types.enums.keys());

    let mut strings = Strings::default();
    let (mut messages, mut fields, mut enums, mut values) = (vec![], vec![], vec![], vec![]);
    let mut count = 0u32;
    for (name, (message, proto3)) in &types.messages {
        strings.put(&mut messages, name);
        messages.extend_from_slice(&[shape(name, message), 0]);
        messages.extend_from_slice(&count.to_le_bytes());
        messages.extend_from_slice(&u16::try_from(message.field.len()).unwrap().to_le_bytes());
        messages.extend_from_slice(&required_oneofs(message).to_le_bytes());
        let mut sorted: Vec<&Field> = message.field.iter().collect();
        sorted.sort_by_key(|field| field.number);
        for field in sorted {
            let wanted = field.type_name.trim_start_matches('.');
            let r#type = match field.r#type {
                TYPE_MESSAGE => {
                    *message_index.get(wanted).unwrap_or_else(|| panic!("{name}.{}: no {wanted}", field.name))
                }
                TYPE_ENUM => *enum_index.get(wanted).unwrap_or_else(|| panic!("{name}.{}: no {wanted}", field.name)),
                _ => u16::MAX,
            };
            let map = field.r#type == TYPE_MESSAGE && is_map_entry(types.messages[wanted].0);
            assert_eq!(
                field.json_name,
                lower_camel(&field.name),
                "{name}: the table has no room for JSON names of their own"
            );
            fields.extend_from_slice(&u32::try_from(field.number).unwrap().to_le_bytes());
            strings.put(&mut fields, &field.name);
            fields.extend_from_slice(&[u8::try_from(field.r#type).unwrap(), flags(field, *proto3, map)]);
            fields.extend_from_slice(&r#type.to_le_bytes());
            let oneof =
                field.oneof_index.filter(|_| !field.proto3_optional).map_or(u16::MAX, |at| u16::try_from(at).unwrap());
            fields.extend_from_slice(&oneof.to_le_bytes());
            strings
                .put(&mut fields, field.options.as_ref().map(|options| options.rules.as_slice()).unwrap_or_default());
            fields.extend_from_slice(&[0; 2]);
            count += 1;
        }
    }
    count = 0;
    for (name, r#enum) in &types.enums {
        strings.put(&mut enums, name);
        enums.extend_from_slice(&u16::try_from(r#enum.value.len()).unwrap().to_le_bytes());
        enums.extend_from_slice(&count.to_le_bytes());
        for value in &r#enum.value {
            values.extend_from_slice(&value.number.to_le_bytes());
            strings.put(&mut values, &value.name);
            values.extend_from_slice(&[0; 2]);
            count += 1;
        }
    }

    let mut out = vec![];
    let header = [types.messages.len(), types.enums.len()];
    let sections = [messages, fields, enums, values, strings.bytes];
    let mut at = (header.len() + sections.len()) * 4;
    for number in header {
        out.extend_from_slice(&(number as u32).to_le_bytes());
    }
    for section in &sections {
        out.extend_from_slice(&(at as u32).to_le_bytes());
        at += section.len();
    }
    out.extend(sections.concat());
    out
}

fn index<'a>(names: impl Iterator<Item = &'a String>) -> HashMap<&'a str, u16> {
    names
        .enumerate()
        .map(|(at, name)| (name.as_str(), u16::try_from(at).expect("the table has room for 65535 types")))
        .collect()
}

fn required_oneofs(message: &Descriptor) -> u16 {
    let required = |index: &usize| message.oneof_decl[*index].options.as_ref().is_some_and(|options| options.required);
    (0..message.oneof_decl.len())
        .filter(required)
        .fold(0, |set, index| set | 1u16.checked_shl(index as u32).expect("the table has room for 16 oneofs"))
}

fn is_map_entry(message: &Descriptor) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry)
}

/// The messages whose JSON is not an object of their fields; the numbers are those of `schema::Shape`.
fn shape(name: &str, message: &Descriptor) -> u8 {
    match name {
        "google.protobuf.Any" => 1,
        "google.protobuf.Duration" => 2,
        "google.protobuf.Timestamp" => 3,
        "google.protobuf.FieldMask" => 4,
        "google.protobuf.Struct" => 5,
        "google.protobuf.Value" => 6,
        "google.protobuf.ListValue" => 7,
        "google.protobuf.DoubleValue"
        | "google.protobuf.FloatValue"
        | "google.protobuf.Int64Value"
        | "google.protobuf.UInt64Value"
        | "google.protobuf.Int32Value"
        | "google.protobuf.UInt32Value"
        | "google.protobuf.BoolValue"
        | "google.protobuf.StringValue"
        | "google.protobuf.BytesValue" => 8,
        "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => 9,
        _ if is_map_entry(message) => 10,
        _ => 0,
    }
}

fn flags(field: &Field, proto3: bool, map: bool) -> u8 {
    let repeated = field.label == LABEL_REPEATED;
    let number = !matches!(field.r#type, 9..=12);
    let options = field.options.clone().unwrap_or_default();
    let mut flags = 0;
    if repeated {
        flags |= REPEATED;
    }
    if map {
        flags |= MAP;
    }
    if !repeated && (!proto3 || field.oneof_index.is_some() || field.r#type == TYPE_MESSAGE) {
        flags |= PRESENCE;
    }
    if repeated && number && options.packed.unwrap_or(proto3) {
        flags |= PACKED;
    }
    if options.sensitive {
        flags |= SENSITIVE;
    }
    flags
}

/// The JSON name that protoc gives a field.
fn lower_camel(name: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            out.push(c.to_ascii_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}
