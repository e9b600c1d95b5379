//! From the tree to nodes in which every name is resolved.

use ::regex::bytes::Regex;

use super::Options;
use super::attributes::{self, Attribute, Read, Root};
use super::convert::{Conversion, convert};
use super::functions::{Getter, TextTest, pattern};
use super::headers::{HeaderKey, Part};
use super::number::Arithmetic;
use super::tree::{Kind, Tree};
use super::value::{List, Value};

/// A step of evaluation.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Const(Value<'static>),
    /// A name that is not known: always an error.
    Missing,
    Root(Root),
    Read(Read),
    Headers(Part),
    Header(Part, HeaderKey),
    /// An object of filter state.
    Object(Box<str>),
    Member(Box<Node>, Box<str>),
    Index(Box<(Node, Node)>),
    Has(Box<Node>, Box<str>),
    List(Box<[Node]>),
    Map(Box<[(Node, Node)]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<[Node]>),
    Or(Box<[Node]>),
    Choose(Box<(Node, Node, Node)>),
    Compare(Comparison, Box<(Node, Node)>),
    Calculate(Arithmetic, Box<(Node, Node)>),
    /// `+` where strings can be added.
    Concat(Box<(Node, Node)>),
    In(Box<(Node, Node)>),
    Size(Box<Node>),
    Convert(Conversion, Box<Node>),
    Text(TextTest, Box<(Node, Node)>),
    Matches(Box<Node>, Pattern),
    Get(Getter, Box<Node>),
}

/// The pattern of `matches`.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    Fixed(Regex),
    Computed(Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

type Compiled = Result<Node, String>;

/// Compiles a tree; the error is the reason.
pub(super) fn compile(tree: Tree, options: Options) -> Compiled {
    match tree.kind {
        Kind::Const(value) => Ok(Node::Const(value)),
        Kind::Ident(name) => Ok(identifier(&name)),
        Kind::Select { operand, field, test_only } => {
            let operand = compile(*operand, options)?;
            if test_only { has(operand, field) } else { member(operand, field) }
        }
        Kind::Call { function, target, args } => {
            let args = args.into_iter().map(|a| compile(a, options)).collect::<Result<Vec<_>, _>>()?;
            let target = target.map(|t| compile(*t, options)).transpose()?;
            call(&function, target, args, options)
        }
        Kind::List(items) => {
            let items = items.into_iter().map(|i| compile(i, options)).collect::<Result<Vec<_>, _>>()?;
            let constants = items.iter().map(|i| constant(i).cloned()).collect::<Option<Vec<_>>>();
            Ok(constants.map_or(Node::List(items.into()), |c| Node::Const(Value::List(List::Owned(c)))))
        }
        Kind::Map(entries) => {
            let compiled = |(k, v)| Ok::<_, String>((compile(k, options)?, compile(v, options)?));
            let entries = entries.into_iter().map(compiled).collect::<Result<Vec<_>, _>>()?;
            Ok(Node::Map(entries.into()))
        }
    }
}

fn constant(node: &Node) -> Option<&Value<'static>> {
    match node {
        Node::Const(value) => Some(value),
        _ => None,
    }
}

fn identifier(name: &str) -> Node {
    const TYPES: [&str; 10] = ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];
    match name {
        "metadata" => Node::Read(attributes::metadata),
        "upstream_filter_state" => Node::Read(attributes::upstream_filter_state),
        _ => match (Root::parse(name), TYPES.into_iter().find(|t| *t == name)) {
            (Some(root), _) => Node::Root(root),
            (None, Some(name)) => Node::Const(Value::Type(name)),
            (None, None) => Node::Missing,
        },
    }
}

fn member(operand: Node, field: Box<str>) -> Compiled {
    Ok(match operand {
        Node::Root(root) => match root.attribute(&field) {
            Attribute::Value(read) => Node::Read(read),
            Attribute::Headers(part) => Node::Headers(part),
            Attribute::Object => Node::Object(field),
            Attribute::Unknown => Node::Missing,
            Attribute::NoData => return Err(no_data(root, &field)),
        },
        Node::Headers(part) => Node::Header(part, HeaderKey::parse(&field)),
        operand => Node::Member(operand.into(), field),
    })
}

fn has(operand: Node, field: Box<str>) -> Compiled {
    match operand {
        Node::Root(root) if matches!(root.attribute(&field), Attribute::NoData) => Err(no_data(root, &field)),
        operand => Ok(Node::Has(operand.into(), field)),
    }
}

fn no_data(root: Root, field: &str) -> String {
    format!("attribute {}.{field} is not supported yet", format!("{root:?}").to_ascii_lowercase())
}

fn call(function: &str, target: Option<Node>, args: Vec<Node>, options: Options) -> Compiled {
    let is_member = target.is_some();
    let mut all: Vec<Node> = target.into_iter().chain(args).collect();
    match (function, all.len()) {
        ("_&&_", 2..) => return Ok(Node::And(all.into())),
        ("_||_", 2..) => return Ok(Node::Or(all.into())),
        _ => {}
    }
    let third = if all.len() == 3 { all.pop() } else { None };
    let second = if all.len() == 2 { all.pop() } else { None };
    let unknown = || Err(format!("No overload found in reference resolve step for {function}"));
    let Some(first) = all.pop().filter(|_| all.is_empty()) else { return unknown() };
    match (second, third) {
        (None, None) => unary(function, first, is_member, options).unwrap_or_else(unknown),
        (Some(second), None) => binary(function, first, second, is_member, options).unwrap_or_else(unknown),
        (Some(then), Some(otherwise)) if function == "_?_:_" => Ok(Node::Choose((first, then, otherwise).into())),
        _ => unknown(),
    }
}

fn unary(function: &str, operand: Node, is_member: bool, options: Options) -> Option<Compiled> {
    if is_member && let Some(getter) = Getter::parse(function) {
        return Some(Ok(Node::Get(getter, operand.into())));
    }
    Some(match function {
        "!_" => Ok(Node::Not(operand.into())),
        "-_" => Ok(Node::Negate(operand.into())),
        "size" => Ok(Node::Size(operand.into())),
        _ => {
            let conversion = Conversion::parse(function)
                .filter(|c| !is_member && (*c != Conversion::String || options.string_conversion))?;
            // What never changes is converted once, if it can be.
            let folded = constant(&operand).and_then(|v| convert(conversion, v.clone()).ok());
            Ok(folded.map_or_else(|| Node::Convert(conversion, operand.into()), Node::Const))
        }
    })
}

fn binary(function: &str, a: Node, b: Node, is_member: bool, options: Options) -> Option<Compiled> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    let compare = |how, a, b| Ok(Node::Compare(how, Box::new((a, b))));
    let calculate = |how, a, b| Ok(Node::Calculate(how, Box::new((a, b))));
    let test = |how, a, b| Ok(Node::Text(how, Box::new((a, b))));
    Some(match function {
        "_==_" => compare(Equal, a, b),
        "_!=_" => compare(NotEqual, a, b),
        "_<_" => compare(Less, a, b),
        "_<=_" => compare(LessOrEqual, a, b),
        "_>_" => compare(Greater, a, b),
        "_>=_" => compare(GreaterOrEqual, a, b),
        "_+_" if options.string_concat => Ok(Node::Concat(Box::new((a, b)))),
        "_+_" => calculate(Arithmetic::Add, a, b),
        "_-_" => calculate(Arithmetic::Subtract, a, b),
        "_*_" => calculate(Arithmetic::Multiply, a, b),
        "_/_" => calculate(Arithmetic::Divide, a, b),
        "_%_" => calculate(Arithmetic::Modulo, a, b),
        "@in" => Ok(Node::In(Box::new((a, b)))),
        "_[_]" => index(a, b),
        "startsWith" if is_member => test(TextTest::StartsWith, a, b),
        "endsWith" if is_member => test(TextTest::EndsWith, a, b),
        "contains" if is_member => test(TextTest::Contains, a, b),
        "matches" => matches(a, b),
        _ => return None,
    })
}

fn index(a: Node, b: Node) -> Compiled {
    match b {
        Node::Const(Value::String(key)) => match std::str::from_utf8(&key) {
            Ok(name) => member(a, name.into()),
            Err(_) => Ok(Node::Missing),
        },
        b => Ok(Node::Index(Box::new((a, b)))),
    }
}

fn matches(text: Node, by: Node) -> Compiled {
    let by = match &by {
        Node::Const(Value::String(p)) => {
            Pattern::Fixed(pattern(p).map_err(|e| format!("invalid regular expression: {e}"))?)
        }
        _ => Pattern::Computed(by.into()),
    };
    Ok(Node::Matches(text.into(), by))
}
