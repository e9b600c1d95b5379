//! From text to tree.

use super::literal;
use super::token::{Token, Tokens};
use super::tree::{Kind, Tree};
use super::value::Value;
use super::{MAX_DEPTH, MAX_TEXT};

/// Words that may not be names.
const RESERVED: [&str; 18] = [
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Operators on two sides: text, name and how tightly they bind. `&&` and `||` are listed too; `?:` is not.
const BINARY: [(&str, &str, u8); 14] = [
    ("||", "_||_", 1),
    ("&&", "_&&_", 2),
    ("<", "_<_", 3),
    ("<=", "_<=_", 3),
    (">", "_>_", 3),
    (">=", "_>=_", 3),
    ("==", "_==_", 3),
    ("!=", "_!=_", 3),
    ("in", "@in", 3),
    ("+", "_+_", 4),
    ("-", "_-_", 4),
    ("*", "_*_", 5),
    ("/", "_/_", 5),
    ("%", "_%_", 5),
];

struct Parser<'t> {
    tokens: Tokens<'t>,
    /// The token that comes next, and where it stands.
    next: Token<'t>,
    position: (usize, usize),
    depth: u8,
}

type Parsed<T = Tree> = Result<T, String>;

/// Parses a text; an error begins with line and column.
pub(super) fn parse(text: &str) -> Parsed {
    if text.len() > MAX_TEXT {
        return Err(format!("an expression of more than {MAX_TEXT} bytes"));
    }
    let mut parser = Parser { tokens: Tokens::new(text), next: Token::End, position: (1, 1), depth: 0 };
    let parsed = parser.advance().and_then(|_| parser.expression()).and_then(|tree| match parser.next {
        Token::End => Ok(tree),
        _ => Err(parser.unexpected()),
    });
    parsed.map_err(|reason| format!("{}:{}: {reason}", parser.position.0, parser.position.1))
}

impl<'t> Parser<'t> {
    /// Takes the next token and reads the one behind it.
    fn advance(&mut self) -> Parsed<Token<'t>> {
        self.tokens.skip_blanks();
        self.position = self.tokens.position();
        Ok(std::mem::replace(&mut self.next, self.tokens.next()?))
    }

    fn unexpected(&self) -> String {
        match &self.next {
            Token::End => "unexpected end".into(),
            Token::Name(text) | Token::Int(text) => format!("unexpected '{text}'"),
            Token::Symbol(text) => format!("unexpected '{text}'"),
            Token::Literal(_) => "unexpected literal".into(),
        }
    }

    /// Takes a symbol if it comes next.
    fn take(&mut self, symbol: &str) -> Parsed<bool> {
        let found = matches!(self.next, Token::Symbol(s) if s == symbol);
        if found {
            self.advance()?;
        }
        Ok(found)
    }

    fn expect(&mut self, symbol: &str) -> Parsed<()> {
        if self.take(symbol)? { Ok(()) } else { Err(self.unexpected()) }
    }

    fn expression(&mut self) -> Parsed {
        self.deeper(|parser| {
            let condition = parser.binary(1)?;
            if !parser.take("?")? {
                return Ok(condition);
            }
            let then = parser.binary(1)?;
            parser.expect(":")?;
            let otherwise = parser.expression()?;
            Ok(Tree::operator("_?_:_", vec![condition, then, otherwise])?)
        })
    }

    fn deeper(&mut self, parse: impl FnOnce(&mut Parser<'t>) -> Parsed) -> Parsed {
        if self.depth >= MAX_DEPTH {
            return Err("the expression is nested too deeply".into());
        }
        self.depth += 1;
        let parsed = parse(self)?;
        self.depth -= 1;
        Ok(parsed)
    }

    /// Operators that bind at least so tightly.
    fn binary(&mut self, least: u8) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let text = match self.next {
                Token::Symbol(text) | Token::Name(text) => text,
                _ => return Ok(left),
            };
            let Some((_, name, tightness)) = BINARY.into_iter().find(|(t, _, n)| *t == text && *n >= least) else {
                return Ok(left);
            };
            self.advance()?;
            let right = self.binary(tightness + 1)?;
            left = match left {
                // A row of these is one node, as many terms in a row are common and no nesting.
                Tree { kind: Kind::Call { function, target: None, mut args }, .. }
                    if tightness < 3 && function == name =>
                {
                    args.push(right);
                    Tree::operator(name, args)?
                }
                left => Tree::operator(name, vec![left, right])?,
            };
        }
    }

    fn unary(&mut self) -> Parsed {
        self.deeper(|parser| {
            if parser.take("!")? {
                return Ok(Tree::operator("!_", vec![parser.unary()?])?);
            }
            if !parser.take("-")? {
                return parser.member();
            }
            // The sign of a number belongs to the number.
            let number = match &parser.next {
                Token::Int(text) => Value::Int(literal::signed(text, true).ok_or("invalid int literal")?),
                Token::Literal(Value::Double(n)) => Value::Double(-n),
                _ => return Ok(Tree::operator("-_", vec![parser.unary()?])?),
            };
            parser.advance()?;
            let number = Tree::new(Kind::Const(number))?;
            parser.suffixes(number)
        })
    }

    fn member(&mut self) -> Parsed {
        let primary = self.primary()?;
        self.suffixes(primary)
    }

    fn suffixes(&mut self, mut operand: Tree) -> Parsed {
        loop {
            if self.take(".")? {
                let Token::Name(name) = self.next else { return Err(self.unexpected()) };
                if matches!(name, "in" | "true" | "false" | "null") {
                    return Err(self.unexpected());
                }
                self.advance()?;
                operand = if self.take("(")? {
                    let args = self.list(")")?;
                    if is_loop(name, args.len()) {
                        return Err("Comprehension support is disabled".into());
                    }
                    let target = Some(Box::new(operand));
                    Tree::new(Kind::Call { function: name.to_owned().into(), target, args })?
                } else {
                    Tree::new(Kind::Select { operand: operand.into(), field: name.into(), test_only: false })?
                };
            } else if self.take("[")? {
                let index = self.expression()?;
                self.expect("]")?;
                operand = Tree::operator("_[_]", vec![operand, index])?;
            } else if self.next == Token::Symbol("{") {
                return Err("messages are not supported".into());
            } else {
                return Ok(operand);
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let rooted = self.take(".")?;
        if rooted && !matches!(self.next, Token::Name(_)) {
            return Err(self.unexpected());
        }
        let kind = match &self.next {
            Token::Literal(value) => {
                let value = value.clone();
                self.advance()?;
                Kind::Const(value)
            }
            Token::Int(text) => {
                let value = Value::Int(literal::signed(text, false).ok_or("invalid int literal")?);
                self.advance()?;
                Kind::Const(value)
            }
            Token::Name(name) => return self.name(name),
            Token::Symbol("(") => {
                self.advance()?;
                let inner = self.expression()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Symbol("[") => {
                self.advance()?;
                Kind::List(self.list("]")?)
            }
            Token::Symbol("{") => {
                self.advance()?;
                Kind::Map(self.entries()?)
            }
            _ => return Err(self.unexpected()),
        };
        Ok(Tree::new(kind)?)
    }

    fn name(&mut self, name: &str) -> Parsed {
        if RESERVED.contains(&name) {
            return Err(if name == "in" { self.unexpected() } else { format!("reserved identifier: {name}") });
        }
        self.advance()?;
        if !self.take("(")? {
            return Ok(Tree::new(match name {
                "true" => Kind::Const(Value::Bool(true)),
                "false" => Kind::Const(Value::Bool(false)),
                "null" => Kind::Const(Value::Null),
                _ => Kind::Ident(name.into()),
            })?);
        }
        let mut args = self.list(")")?;
        if name != "has" || args.len() != 1 {
            return Ok(Tree::new(Kind::Call { function: name.to_owned().into(), target: None, args })?);
        }
        match args.pop().map(|t| t.kind) {
            Some(Kind::Select { operand, field, test_only: false }) => {
                Ok(Tree::new(Kind::Select { operand, field, test_only: true })?)
            }
            _ => Err("invalid argument to has() macro".into()),
        }
    }

    /// Expressions with commas between them, and maybe one behind them, up to a closing bracket.
    fn list(&mut self, close: &str) -> Parsed<Vec<Tree>> {
        let mut items = Vec::new();
        while !self.take(close)? {
            items.push(self.expression()?);
            if !self.take(",")? {
                self.expect(close)?;
                break;
            }
            if close == ")" && self.next == Token::Symbol(")") {
                return Err(self.unexpected());
            }
        }
        Ok(items)
    }

    fn entries(&mut self) -> Parsed<Vec<(Tree, Tree)>> {
        let mut entries = Vec::new();
        while !self.take("}")? {
            let key = self.expression()?;
            self.expect(":")?;
            entries.push((key, self.expression()?));
            if !self.take(",")? {
                self.expect("}")?;
                break;
            }
        }
        Ok(entries)
    }
}

/// The macros that go through a list.
fn is_loop(name: &str, args: usize) -> bool {
    matches!((name, args), ("all" | "exists" | "exists_one" | "existsOne" | "filter", 2) | ("map", 2 | 3))
}
