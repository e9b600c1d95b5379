//! Evaluation.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::compile::{Comparison, Node, Pattern};
use super::convert::convert;
use super::functions::pattern;
use super::map::{Map, object};
use super::number::{self, Arithmetic};
use super::value::{List, Value};
use super::{EvalError, Evaluated};
use crate::format::FormatContext;

const OVERLOAD: EvalError = EvalError("no such overload");
const NO_KEY: EvalError = EvalError("no such key");

impl Node {
    /// The value in a context.
    pub fn eval<'a>(&'a self, cx: &FormatContext<'a>) -> Evaluated<'a> {
        match self {
            Node::Const(value) => Ok(value.borrowed()),
            Node::Missing => Err(EvalError("no value with such a name")),
            Node::Root(root) => Ok(Value::Map(Map::Root(*root))),
            Node::Read(read) => read(cx).ok_or(NO_KEY),
            Node::Headers(part) => Ok(Value::Map(Map::Headers(*part))),
            Node::Header(part, key) => key.find(*part, cx).map(Value::String).ok_or(NO_KEY),
            Node::Object(key) => cx.info.object(key).map(object).ok_or(NO_KEY),
            Node::Member(operand, key) => map(operand, cx)?.member(key, cx).ok_or(NO_KEY),
            Node::Has(operand, key) => Ok(Value::Bool(map(operand, cx)?.member(key, cx).is_some())),
            Node::Index(both) => index(both.0.eval(cx)?, &both.1.eval(cx)?, cx),
            Node::List(items) => {
                items.iter().map(|i| i.eval(cx)).collect::<Result<_, _>>().map(|i| Value::List(List::Owned(i)))
            }
            Node::Map(entries) => literal_map(entries, cx),
            Node::Not(operand) => operand.bool(cx).map(|b| Value::Bool(!b)),
            Node::Negate(operand) => number::negate(&operand.eval(cx)?),
            Node::And(terms) => decide(terms, false, cx),
            Node::Or(terms) => decide(terms, true, cx),
            Node::Choose(parts) => {
                if parts.0.bool(cx)? {
                    parts.1.eval(cx)
                } else {
                    parts.2.eval(cx)
                }
            }
            Node::Compare(how, both) => {
                let (a, b) = (both.0.eval(cx)?, both.1.eval(cx)?);
                compare(*how, &a, &b).map(Value::Bool)
            }
            Node::Calculate(how, both) => number::calculate(*how, &both.0.eval(cx)?, &both.1.eval(cx)?),
            Node::Concat(both) => concat(both.0.eval(cx)?, both.1.eval(cx)?),
            Node::In(both) => is_in(&both.0.eval(cx)?, &both.1.eval(cx)?, cx).map(Value::Bool),
            Node::Size(operand) => size(&operand.eval(cx)?, cx),
            Node::Convert(conversion, operand) => convert(*conversion, operand.eval(cx)?),
            Node::Text(test, both) => match (both.0.eval(cx)?, both.1.eval(cx)?) {
                (Value::String(text), Value::String(part)) => Ok(Value::Bool(test.holds(&text, &part))),
                _ => Err(OVERLOAD),
            },
            Node::Matches(text, by) => matches(&text.eval(cx)?, by, cx).map(Value::Bool),
            Node::Get(getter, operand) => getter.get(&operand.eval(cx)?).map(Value::Int).ok_or(OVERLOAD),
        }
    }

    fn bool(&self, cx: &FormatContext<'_>) -> Result<bool, EvalError> {
        match self.eval(cx)? {
            Value::Bool(b) => Ok(b),
            _ => Err(OVERLOAD),
        }
    }
}

fn map<'a>(operand: &'a Node, cx: &FormatContext<'a>) -> Result<Map<'a>, EvalError> {
    match operand.eval(cx)? {
        Value::Map(map) => Ok(map),
        _ => Err(OVERLOAD),
    }
}

/// `&&` and `||`: a term that decides does so whatever errs beside it.
fn decide<'a>(terms: &[Node], deciding: bool, cx: &FormatContext<'_>) -> Evaluated<'a> {
    let mut error = None;
    for term in terms {
        match term.bool(cx) {
            Ok(b) if b == deciding => return Ok(Value::Bool(deciding)),
            Ok(_) => {}
            Err(e) => error = error.or(Some(e)),
        }
    }
    error.map_or(Ok(Value::Bool(!deciding)), Err)
}

fn index<'a>(operand: Value<'a>, key: &Value<'_>, cx: &FormatContext<'a>) -> Evaluated<'a> {
    match operand {
        Value::Map(map) => map.get(key, cx).ok_or(NO_KEY),
        Value::List(list) => position(key).and_then(|at| list.take(at)).ok_or(EvalError("index out of bounds")),
        _ => Err(OVERLOAD),
    }
}

/// A number that can count.
fn position(key: &Value<'_>) -> Option<usize> {
    match key {
        Value::Int(n) => usize::try_from(*n).ok(),
        Value::Uint(n) => usize::try_from(*n).ok(),
        // No list is longer than a double counts exactly.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, not negative and small")]
        Value::Double(n) if n.fract() == 0.0 && (0.0..4e9).contains(n) => Some(*n as usize),
        _ => None,
    }
}

fn literal_map<'a>(entries: &'a [(Node, Node)], cx: &FormatContext<'a>) -> Evaluated<'a> {
    let mut members: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let key = key.eval(cx)?;
        if !matches!(key, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::String(_)) {
            return Err(EvalError("a key of a map is of another type"));
        }
        if members.iter().any(|(k, _)| k.equals(&key)) {
            return Err(EvalError("duplicate key in a map"));
        }
        members.push((key, value.eval(cx)?));
    }
    Ok(Value::Map(Map::Owned(members)))
}

fn compare(how: Comparison, a: &Value<'_>, b: &Value<'_>) -> Result<bool, EvalError> {
    let order = |is: fn(Ordering) -> bool| a.order(b).map(|o| o.is_some_and(is));
    match how {
        Comparison::Equal => Ok(a.equals(b)),
        Comparison::NotEqual => Ok(!a.equals(b)),
        Comparison::Less => order(Ordering::is_lt),
        Comparison::LessOrEqual => order(Ordering::is_le),
        Comparison::Greater => order(Ordering::is_gt),
        Comparison::GreaterOrEqual => order(Ordering::is_ge),
    }
}

fn concat<'a>(a: Value<'a>, b: Value<'a>) -> Evaluated<'a> {
    let joined = |a: Cow<'a, [u8]>, b: Cow<'a, [u8]>| {
        let mut text = a.into_owned();
        text.extend_from_slice(&b);
        Cow::Owned(text)
    };
    match (a, b) {
        (Value::String(a), Value::String(b)) => Ok(Value::String(joined(a, b))),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes(joined(a, b))),
        (a, b) => number::calculate(Arithmetic::Add, &a, &b),
    }
}

fn is_in<'a>(item: &Value<'_>, within: &Value<'a>, cx: &FormatContext<'a>) -> Result<bool, EvalError> {
    match within {
        Value::List(list) => Ok((0..list.len()).any(|i| list.at(i).is_some_and(|v| v.equals(item)))),
        Value::Map(map) => Ok(map.get(item, cx).is_some()),
        _ => Err(OVERLOAD),
    }
}

fn size<'a>(value: &Value<'_>, cx: &FormatContext<'_>) -> Evaluated<'a> {
    let size = match value {
        // Bytes that begin a character; for text that is not UTF-8 it is as good as any.
        Value::String(text) => text.iter().filter(|b| **b & 0xc0 != 0x80).count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(cx),
        _ => return Err(OVERLOAD),
    };
    i64::try_from(size).map(Value::Int).map_err(|_| OVERLOAD)
}

fn matches<'a>(text: &Value<'_>, by: &'a Pattern, cx: &FormatContext<'a>) -> Result<bool, EvalError> {
    let Value::String(text) = text else { return Err(OVERLOAD) };
    match by {
        Pattern::Fixed(regex) => Ok(regex.is_match(text)),
        Pattern::Computed(node) => {
            let Value::String(by) = node.eval(cx)? else { return Err(OVERLOAD) };
            pattern(&by).map(|r| r.is_match(text)).map_err(|_| EvalError("invalid regular expression"))
        }
    }
}
