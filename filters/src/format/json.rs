//! `json_format`: a struct whose leaves are formats.
//!
//! Without `omit_empty_values` the shape never changes, so the program is flat: literals with values between them.

use super::operator::Operator;
use super::{Extensions, FormatContext, FormatError, Piece, parse, value};
use waypost_xds::google::protobuf::{Struct, Value, value::Kind};

/// How a struct format is written. Keys are always sorted: `json_format_options.sort_properties` says no more than Envoy does anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JsonOptions {
    /// `omit_empty_values`: members that are missing are left out.
    pub omit_empty_values: bool,
    /// `formatters`
    pub extensions: Extensions,
}

/// A compiled `json_format`.
#[derive(Clone, Debug)]
pub struct JsonFormat {
    program: Program,
}

#[derive(Clone, Debug)]
enum Program {
    Flat(Box<[Step]>),
    /// With `omit_empty_values`.
    Tree(Members),
}

/// Members with their keys as they are written, colon included; sorted.
type Members = Box<[(Box<str>, Node)]>;

#[derive(Clone, Debug)]
enum Step {
    Literal(Box<[u8]>),
    /// A value with its JSON type.
    Value(Operator),
    /// A part of a string.
    Part(Operator),
}

#[derive(Clone, Debug)]
enum Node {
    Object(Members),
    Array(Box<[Node]>),
    Null,
    Literal(Box<[u8]>),
    Value(Operator),
    /// A string of several pieces; literals are escaped.
    String(Box<[Piece]>),
}

impl JsonFormat {
    /// Compiles a struct.
    pub fn parse(format: &Struct, options: JsonOptions) -> Result<JsonFormat, FormatError> {
        let members = members(format, options)?;
        let program = if options.omit_empty_values {
            Program::Tree(members)
        } else {
            let mut steps = Vec::new();
            flatten(Node::Object(members), &mut steps);
            Program::Flat(steps.into())
        };
        Ok(JsonFormat { program })
    }

    /// Appends the JSON and a newline.
    pub fn write(&self, out: &mut Vec<u8>, cx: &FormatContext<'_>) {
        match &self.program {
            Program::Flat(steps) => {
                for step in steps {
                    match step {
                        Step::Literal(text) => out.extend_from_slice(text),
                        Step::Value(operator) => {
                            if !operator.json(cx, out) {
                                out.extend_from_slice(b"null");
                            }
                        }
                        Step::Part(operator) => {
                            if !operator.escaped(cx, out) {
                                out.push(b'-');
                            }
                        }
                    }
                }
            }
            Program::Tree(members) => {
                if !object(members, out, cx) {
                    out.extend_from_slice(b"{}");
                }
            }
        }
        out.push(b'\n');
    }
}

fn members(format: &Struct, options: JsonOptions) -> Result<Members, FormatError> {
    let Struct { fields } = format;
    let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    sorted
        .into_iter()
        .map(|(key, member)| {
            let mut written = Vec::new();
            value::write_string(&mut written, key);
            written.push(b':');
            Ok((String::from_utf8_lossy(&written).into(), node(member, options)?))
        })
        .collect()
}

fn node(value: &Value, options: JsonOptions) -> Result<Node, FormatError> {
    let Value { kind } = value;
    Ok(match kind {
        None | Some(Kind::NullValue(_)) => Node::Null,
        Some(Kind::BoolValue(b)) => Node::Literal(b.to_string().into_bytes().into()),
        Some(Kind::NumberValue(n)) => {
            let mut text = Vec::new();
            value::write_number(&mut text, *n);
            Node::Literal(text.into())
        }
        Some(Kind::StructValue(s)) => Node::Object(members(s, options)?),
        Some(Kind::ListValue(l)) => Node::Array(l.values.iter().map(|v| node(v, options)).collect::<Result<_, _>>()?),
        Some(Kind::StringValue(text)) => string(parse::pieces(text, options.extensions)?),
    })
}

/// A single operator keeps its type; anything else is a string.
fn string(mut pieces: Vec<Piece>) -> Node {
    if let [Piece::Operator(_)] = &*pieces
        && let Some(Piece::Operator(operator)) = pieces.pop()
    {
        return Node::Value(operator);
    }
    for piece in &mut pieces {
        if let Piece::Literal(text) = piece {
            let mut escaped = text.to_vec();
            value::escape_from(&mut escaped, 0);
            *text = escaped.into();
        }
    }
    Node::String(pieces.into())
}

fn flatten(node: Node, steps: &mut Vec<Step>) {
    match node {
        Node::Null => push_literal(steps, b"null"),
        Node::Literal(text) => push_literal(steps, &text),
        Node::Value(operator) => steps.push(Step::Value(operator)),
        Node::String(pieces) => {
            push_literal(steps, b"\"");
            for piece in pieces {
                match piece {
                    Piece::Literal(text) => push_literal(steps, &text),
                    Piece::Operator(operator) => steps.push(Step::Part(operator)),
                }
            }
            push_literal(steps, b"\"");
        }
        Node::Array(items) => {
            push_literal(steps, b"[");
            for (i, item) in items.into_iter().enumerate() {
                if i > 0 {
                    push_literal(steps, b",");
                }
                flatten(item, steps);
            }
            push_literal(steps, b"]");
        }
        Node::Object(members) => {
            push_literal(steps, b"{");
            for (i, (key, member)) in members.into_iter().enumerate() {
                if i > 0 {
                    push_literal(steps, b",");
                }
                push_literal(steps, key.as_bytes());
                flatten(member, steps);
            }
            push_literal(steps, b"}");
        }
    }
}

fn push_literal(steps: &mut Vec<Step>, text: &[u8]) {
    match steps.last_mut() {
        Some(Step::Literal(last)) => *last = [last, text].concat().into(),
        _ => steps.push(Step::Literal(text.into())),
    }
}

impl Node {
    /// Appends the value; false, with nothing appended, where it is left out.
    fn write(&self, out: &mut Vec<u8>, cx: &FormatContext<'_>) -> bool {
        match self {
            Node::Null => return false,
            Node::Literal(text) => out.extend_from_slice(text),
            Node::Value(operator) => return operator.json(cx, out),
            Node::String(pieces) => {
                out.push(b'"');
                for piece in pieces {
                    match piece {
                        Piece::Literal(text) => out.extend_from_slice(text),
                        Piece::Operator(operator) => {
                            operator.escaped(cx, out);
                        }
                    }
                }
                out.push(b'"');
            }
            Node::Array(items) => {
                out.push(b'[');
                let mut is_first = true;
                for item in items {
                    is_first &= !separated(is_first, out, |out| item.write(out, cx));
                }
                out.push(b']');
            }
            Node::Object(members) => return object(members, out, cx),
        }
        true
    }
}

/// Appends an object; false, with nothing appended, if all its members were left out.
fn object(members: &[(Box<str>, Node)], out: &mut Vec<u8>, cx: &FormatContext<'_>) -> bool {
    let start = out.len();
    out.push(b'{');
    let mut is_first = true;
    for (key, member) in members {
        is_first &= !separated(is_first, out, |out| {
            out.extend_from_slice(key.as_bytes());
            member.write(out, cx)
        });
    }
    if is_first {
        out.truncate(start);
        return false;
    }
    out.push(b'}');
    true
}

/// Appends something behind a comma, and takes all of it back where it is left out.
fn separated(is_first: bool, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
    let start = out.len();
    if !is_first {
        out.push(b',');
    }
    let written = write(out);
    if !written {
        out.truncate(start);
    }
    written
}
