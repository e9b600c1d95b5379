//! YAML as Envoy reads it, which is yaml-cpp's view and then some:
//!
//! * A plain `y`, `yes`, `on`, `true` (and `n`, `no`, `off`, `false`) in lower, upper or capitalised form is a boolean, even where a string is meant.
//! * A plain number in C notation (`0x1F`, `010`) that fits 32 bits is a number; a larger one becomes a string, and so does any with a fraction,
//!   which the fields of a message take for numbers all the same.
//! * Quoted scalars and blocks are strings. A tag other than `!` changes nothing.
//! * A key with the tag `!ignore` is left out with its value, a place for anchors. `<<` is no merge key.
//! * A key that occurs twice counts the second time; of several documents the first counts.

use crate::Error;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Tag};
use serde_json::{Map, Value};
use std::{borrow::Cow, collections::HashMap};

/// Deeper than any message may nest, and shallow enough for a walk by recursion.
const MAX_DEPTH: usize = 200;

/// The most values that aliases may add; the largest configurations seen have a tenth.
const MAX_COPIES: usize = 1_000_000;

/// Reads a YAML document.
pub fn parse(text: &str) -> Result<Value, Error> {
    let value = Builder::default().run(text, Dialect::Yaml)?;
    if value.is_object() || value.is_array() {
        return Ok(value);
    }
    Err(Error::new("", "the document is neither an object nor a list"))
}

/// Reads JSON that strict parsers refuse: flow style is almost that.
pub(crate) fn parse_lenient_json(text: &str) -> Option<Value> {
    let value = text.trim_start().starts_with('{').then(|| Builder::default().run(text, Dialect::Json).ok())??;
    value.is_object().then_some(value)
}

/// What a plain scalar means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Yaml,
    Json,
}

/// A collection whose end has not come.
enum Open {
    List(Vec<Value>),
    /// With the key that awaits its value; `Key::Ignored` drops both.
    Object(Map<String, Value>, Option<Key>),
}

enum Key {
    Name(String),
    Ignored,
}

/// A value that aliases can stand for, and how many values it is made of.
struct Anchored {
    value: Value,
    size: usize,
}

#[derive(Default)]
struct Builder {
    /// The open collections, each with its anchor (0 is none) and the number of values completed before it.
    open: Vec<(Open, usize, usize)>,
    anchors: HashMap<usize, Anchored>,
    completed: usize,
    copies: usize,
    root: Option<Value>,
}

impl Builder {
    fn run(mut self, text: &str, dialect: Dialect) -> Result<Value, Error> {
        let mut parser = Parser::new_from_str(text);
        while let Some(next) = parser.next_event() {
            let (event, span) = next.map_err(|error| scan_error(&error))?;
            match event {
                Event::Scalar(text, style, anchor, tag) => self.scalar(&text, style, tag.as_deref(), anchor, dialect),
                Event::SequenceStart(anchor, _) => self.begin(Open::List(Vec::new()), anchor),
                Event::MappingStart(anchor, _) => self.begin(Open::Object(Map::new(), None), anchor),
                Event::SequenceEnd | Event::MappingEnd => self.end(),
                Event::Alias(anchor) => self.alias(anchor),
                Event::DocumentEnd => break,
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) => Ok(()),
            }
            .map_err(|reason| Error::new("", format!("line {}: {reason}", span.start.line())))?;
        }
        Ok(self.root.unwrap_or(Value::Null))
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some((Open::Object(_, None), ..)))
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        anchor: usize,
        dialect: Dialect,
    ) -> Result<(), String> {
        if self.awaits_key() {
            if anchor != 0 {
                self.anchors.insert(anchor, Anchored { value: resolve(text, style, tag), size: 1 });
            }
            // yaml-cpp gives a key its text, whatever it looks like; only null has another name.
            let is_null = style == ScalarStyle::Plain && matches!(text, "" | "~" | "Null" | "NULL");
            let ignored = tag.is_some_and(|tag| tag.handle == "!" && tag.suffix == "ignore");
            let key = if ignored {
                Key::Ignored
            } else {
                Key::Name(if is_null { "null".to_owned() } else { text.to_owned() })
            };
            self.set_key(key);
            return Ok(());
        }
        let value = match dialect {
            Dialect::Yaml => resolve(text, style, tag),
            Dialect::Json => resolve_json(text, style)?,
        };
        self.put(value, anchor, 1);
        Ok(())
    }

    fn set_key(&mut self, key: Key) {
        if let Some((Open::Object(_, waiting), ..)) = self.open.last_mut() {
            *waiting = Some(key);
        }
    }

    fn begin(&mut self, open: Open, anchor: usize) -> Result<(), String> {
        if self.awaits_key() {
            return Err("a key is a plain value, not a list or an object".to_owned());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} deep"));
        }
        self.open.push((open, anchor, self.completed));
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some((open, anchor, before)) = self.open.pop() else { return Ok(()) };
        let value = match open {
            Open::List(list) => Value::Array(list),
            Open::Object(object, _) => Value::Object(object),
        };
        // What is within was counted as it came.
        let size = self.completed.saturating_sub(before) + 1;
        self.completed = before;
        self.put(value, anchor, size);
        Ok(())
    }

    fn alias(&mut self, anchor: usize) -> Result<(), String> {
        let Some(Anchored { value, size }) = self.anchors.get(&anchor) else {
            // The parser knows the anchor, so what it names has not ended: the value holds itself.
            return Err("a value cannot hold an alias of itself".to_owned());
        };
        let (value, size) = (value, *size);
        self.copies += size;
        if self.copies > MAX_COPIES {
            return Err("the aliases stand for too many values".to_owned());
        }
        if depth(value) + self.open.len() > MAX_DEPTH {
            return Err(format!("nested more than {MAX_DEPTH} deep"));
        }
        let value = value.clone();
        if self.awaits_key() {
            let Value::String(name) = value else {
                return Err("a key is a plain value, not a list or an object".to_owned());
            };
            self.set_key(Key::Name(name));
            return Ok(());
        }
        self.put(value, 0, size);
        Ok(())
    }

    /// Puts a complete value in its place.
    fn put(&mut self, value: Value, anchor: usize, size: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, Anchored { value: value.clone(), size });
        }
        self.completed = self.completed.saturating_add(size);
        match self.open.last_mut() {
            Some((Open::List(list), ..)) => list.push(value),
            Some((Open::Object(object, key), ..)) => {
                if let Some(Key::Name(name)) = key.take() {
                    object.insert(name, value);
                }
            }
            None => self.root = Some(value),
        }
    }
}

/// How deep a value nests. It was built within [`MAX_DEPTH`], so recursion ends.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn scan_error(error: &ScanError) -> Error {
    let marker: &Marker = error.marker();
    Error::new("", format!("line {}, column {}: {}", marker.line(), marker.col() + 1, error.info()))
}

/// What a scalar is in Envoy's eyes.
fn resolve(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let is_string = match tag {
        // The tag `!` alone means a string.
        Some(tag) => tag.handle.is_empty() && tag.suffix == "!" || tag.handle == "!" && tag.suffix.is_empty(),
        None => style != ScalarStyle::Plain,
    };
    if is_string {
        return Value::from(text);
    }
    if tag.is_none() && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    if let Some(value) = boolean(text) {
        return Value::Bool(value);
    }
    match integer(text) {
        Some(value) if i32::try_from(value).is_ok() => Value::from(value),
        Some(value) => Value::String(value.to_string()),
        None => Value::from(text),
    }
}

fn resolve_json(text: &str, style: ScalarStyle) -> Result<Value, String> {
    if style != ScalarStyle::Plain {
        return Ok(Value::from(text));
    }
    serde_json::from_str(text).map_err(|_| format!("`{text}` is not JSON"))
}

/// The booleans of YAML 1.1 in one of three forms: `on`, `On`, `ON`.
fn boolean(text: &str) -> Option<bool> {
    let rest = text.get(1..)?;
    let lower = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase());
    let upper = text.bytes().all(|byte| byte.is_ascii_uppercase());
    if !(lower(text) || upper || lower(rest) && text.as_bytes().first().is_some_and(u8::is_ascii_uppercase)) {
        return None;
    }
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "on" => Some(true),
        "n" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// An integer as `strtoll` reads it: decimal, `0x` or octal behind a `0`.
fn integer(text: &str) -> Option<i64> {
    let (digits, negative) = match text.as_bytes().first()? {
        b'-' => (text.get(1..)?, true),
        b'+' => (text.get(1..)?, false),
        _ => (text, false),
    };
    let (digits, radix): (Cow<'_, str>, u32) =
        if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            (hex.into(), 16)
        } else if digits.len() > 1 && digits.starts_with('0') {
            (digits.into(), 8)
        } else {
            (digits.into(), 10)
        };
    if !digits.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let value = i128::from_str_radix(&digits, radix).ok()?;
    i64::try_from(if negative { -value } else { value }).ok()
}

#[cfg(test)]
mod tests;
