//! Operators, and how their values are written as text and as JSON.

use std::time::{Duration, Instant};

use super::FormatContext;
use super::certificate::CertificateOp;
use super::headers::{HeaderOp, PathOp, QueryOp, ServerNameOp};
use super::place::AddressOp;
use super::status::GrpcShape;
use super::time::TimeOp;
use super::value;
use crate::cel::Expression;
use crate::filter_state::Object;
use crate::metadata::Metadata;

/// An operator with its truncation (`:Z`).
#[derive(Clone, Debug)]
pub(super) struct Operator {
    pub op: Op,
    pub max_length: Option<usize>,
}

pub(super) type TextFn = for<'a> fn(&FormatContext<'a>) -> Option<&'a str>;
pub(super) type NumberFn = fn(&FormatContext<'_>) -> Option<i64>;
pub(super) type WriteFn = fn(&FormatContext<'_>, &mut Vec<u8>) -> bool;
pub(super) type MetadataFn = for<'a> fn(&FormatContext<'a>) -> Option<&'a Metadata>;

/// What an operator looks up.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Never there.
    Missing,
    /// The same for the life of the process.
    Constant(Box<str>),
    /// A text; an empty one is missing.
    Text(TextFn),
    /// A number, which JSON shows as one.
    Number(NumberFn),
    /// A text that is put together; false if it is missing.
    Write(WriteFn),
    Header(HeaderOp),
    Path(PathOp),
    Query(QueryOp),
    ServerName(ServerNameOp),
    Address(AddressOp),
    Certificate(CertificateOp),
    Time(TimeOp),
    Between(Between),
    Metadata(MetadataOp),
    FilterState(FilterStateOp),
    GrpcStatus(GrpcShape),
    Cel(CelOp),
    /// The first that is there and not empty.
    Coalesce(Box<[Operator]>),
}

/// `COMMON_DURATION`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Between {
    pub from: Point,
    pub to: Point,
    /// Nanoseconds to the unit.
    pub unit: i64,
}

/// A moment of a stream that `COMMON_DURATION` names; one that no filter sets is never there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Point {
    Start,
    At(fn(&crate::stream::Timing) -> Option<Duration>),
    Unknown,
}

/// `DYNAMIC_METADATA`, `METADATA` and their kin.
#[derive(Clone, Debug)]
pub(super) struct MetadataOp {
    pub source: MetadataFn,
    pub namespace: Box<str>,
    pub path: Box<[Box<str>]>,
}

/// `CEL` and `TYPED_CEL`, which differ in JSON.
#[derive(Clone, Debug)]
pub(super) struct CelOp {
    pub expression: Expression,
    pub typed: bool,
}

/// `FILTER_STATE`.
#[derive(Clone, Debug)]
pub(super) struct FilterStateOp {
    pub key: Box<str>,
    pub shape: FilterStateShape,
}

/// How an object of filter state is shown.
#[derive(Clone, Debug)]
pub(super) enum FilterStateShape {
    Plain,
    Typed,
    Field(Box<str>),
}

impl Operator {
    /// Appends the value as text; false, with nothing appended, if it is missing.
    pub fn text(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let present = self.op.text(cx, out);
        if let Some(max) = self.max_length {
            out.truncate(start.saturating_add(max));
        }
        present
    }

    /// Appends the value as JSON; false, with nothing appended, if it is missing.
    pub fn json(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        match &self.op {
            Op::Number(_) | Op::Between(_) | Op::GrpcStatus(GrpcShape::Number) => self.op.text(cx, out),
            Op::Address(a) if a.is_port() => self.op.text(cx, out),
            Op::Metadata(m) => m.find(cx).is_some_and(|v| self.metadata_json(v, out)),
            Op::FilterState(FilterStateOp { key, shape: FilterStateShape::Typed }) => {
                cx.info.object(key).is_some_and(|o| typed(o, out))
            }
            Op::Cel(CelOp { expression, typed: true }) => {
                let start = out.len();
                // Strings are cut, other values are not.
                if !expression.json(cx, out) {
                    return false;
                }
                if self.max_length.is_none() || out.get(start) != Some(&b'"') {
                    return true;
                }
                out.truncate(start);
                self.quoted(out, |out| expression.text(cx, out))
            }
            Op::Coalesce(operators) => {
                let start = out.len();
                let found = operators.iter().find(|o| {
                    out.truncate(start);
                    o.text(cx, out) && out.len() > start
                });
                out.truncate(start);
                match found {
                    // Strings are cut to the length of the whole, other values are not.
                    Some(o) if o.json(cx, out) && (self.max_length.is_none() || out.get(start) != Some(&b'"')) => true,
                    Some(o) => {
                        out.truncate(start);
                        self.quoted(out, |out| o.text(cx, out))
                    }
                    None => false,
                }
            }
            _ => self.quoted(out, |out| self.op.text(cx, out)),
        }
    }

    /// Appends the value as part of a JSON string.
    pub fn escaped(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let present = self.text(cx, out);
        value::escape_from(out, start);
        present
    }

    /// Strings are truncated, other values are not.
    fn metadata_json(&self, found: &serde_json::Value, out: &mut Vec<u8>) -> bool {
        match found {
            serde_json::Value::String(s) => self.quoted(out, |out| {
                out.extend_from_slice(s.as_bytes());
                true
            }),
            other => {
                value::write(out, other);
                true
            }
        }
    }

    fn quoted(&self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let before = out.len();
        out.push(b'"');
        let start = out.len();
        if !write(out) {
            out.truncate(before);
            return false;
        }
        if let Some(max) = self.max_length {
            out.truncate(start.saturating_add(max));
        }
        value::escape_from(out, start);
        out.push(b'"');
        true
    }
}

impl Op {
    fn text(&self, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        match self {
            Op::Missing => false,
            Op::Constant(text) => append(out, text.as_bytes()),
            Op::Text(f) => f(cx).is_some_and(|t| !t.is_empty() && append(out, t.as_bytes())),
            Op::Number(f) => f(cx).is_some_and(|n| number(out, n)),
            Op::Write(f) => f(cx, out),
            Op::Header(h) => h.text(cx, out),
            Op::Path(p) => p.text(cx, out),
            Op::Query(q) => q.text(cx, out),
            Op::ServerName(s) => s.text(cx, out),
            Op::Address(a) => a.text(cx, out),
            Op::Certificate(c) => c.text(cx, out),
            Op::Time(t) => t.text(cx, out),
            Op::Between(b) => b.value(cx).is_some_and(|n| number(out, n)),
            Op::Metadata(m) => m.find(cx).is_some_and(|v| match v {
                serde_json::Value::String(s) => append(out, s.as_bytes()),
                other => {
                    value::write(out, other);
                    true
                }
            }),
            Op::FilterState(f) => cx.info.object(&f.key).is_some_and(|o| f.shape.text(o, out)),
            Op::GrpcStatus(shape) => shape.text(cx, out),
            Op::Cel(c) => c.expression.text(cx, out),
            Op::Coalesce(operators) => {
                let start = out.len();
                operators.iter().any(|o| {
                    out.truncate(start);
                    o.text(cx, out) && out.len() > start
                })
            }
        }
    }
}

impl Between {
    fn value(&self, cx: &FormatContext<'_>) -> Option<i64> {
        let at = |point| {
            Some(match point {
                Point::Start => 0,
                Point::At(f) => i64::try_from(f(&cx.info.timing)?.as_nanos()).ok()?,
                Point::Unknown => return None,
            })
        };
        Some((at(self.to)? - at(self.from)?) / self.unit)
    }
}

impl MetadataOp {
    fn find<'a>(&self, cx: &FormatContext<'a>) -> Option<&'a serde_json::Value> {
        let metadata = (self.source)(cx)?;
        metadata.at(&self.namespace, self.path.iter().map(|p| &**p)).filter(|v| !v.is_null())
    }
}

impl FilterStateShape {
    fn text(&self, object: &Object, out: &mut Vec<u8>) -> bool {
        match (self, object) {
            (FilterStateShape::Typed, o) => typed(o, out),
            (FilterStateShape::Plain, Object::String(s) | Object::HashableString(s)) => append(out, s.as_bytes()),
            (FilterStateShape::Plain, Object::Address(a)) => super::place::write(a, out),
            (FilterStateShape::Plain, Object::Bool(b)) => append(out, if *b { b"true" } else { b"false" }),
            (FilterStateShape::Plain, Object::Number(n)) => count(*n).is_some_and(|n| number(out, n)),
            (FilterStateShape::Field(name), Object::Address(a)) => match &**name {
                "ip" => a.ip().is_some_and(|ip| super::place::write_ip(ip, out)),
                "port" => a.port().is_some_and(|p| number(out, i64::from(p))),
                _ => false,
            },
            (FilterStateShape::Field(_), _) => false,
        }
    }
}

/// The object as the JSON of its message (`serializeAsProto`); addresses have none.
fn typed(object: &Object, out: &mut Vec<u8>) -> bool {
    match object {
        Object::String(s) | Object::HashableString(s) => {
            value::write_string(out, s);
            true
        }
        Object::Address(_) => false,
        Object::Bool(b) => append(out, if *b { b"true" } else { b"false" }),
        // UInt64Value is a string in JSON.
        Object::Number(n) => {
            out.push(b'"');
            append(out, itoa::Buffer::new().format(*n).as_bytes());
            append(out, b"\"")
        }
    }
}

/// Appends and says that it was there.
pub(super) fn append(out: &mut Vec<u8>, text: &[u8]) -> bool {
    out.extend_from_slice(text);
    true
}

/// Appends a number.
pub(super) fn number(out: &mut Vec<u8>, n: i64) -> bool {
    append(out, itoa::Buffer::new().format(n).as_bytes())
}

/// A count as a number; none comes near the limit.
pub(super) fn count(n: u64) -> Option<i64> {
    i64::try_from(n).ok()
}

/// Milliseconds of the stream: to its end, or until now.
pub(crate) fn duration(cx: &FormatContext<'_>) -> Duration {
    cx.info.timing.complete.unwrap_or_else(|| cx.info.elapsed(Instant::now()))
}
