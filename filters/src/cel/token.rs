//! From text to tokens.

use super::literal;
use super::value::Value;

/// The smallest piece of an expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'t> {
    /// A name; keywords are names here.
    Name(&'t str),
    /// A whole number as it stands, whose sign belongs to it (`-9223372036854775808`).
    Int(&'t str),
    /// A number of another kind, or a string.
    Literal(Value<'static>),
    /// An operator or a bracket.
    Symbol(&'static str),
    /// The end.
    End,
}

/// The symbols; those of two characters come first.
const SYMBOLS: [&str; 23] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "?", ":", "(", ")", "[", "]", "{", "}", ".", ",", "+", "-", "*",
    "/",
];

/// Reads one token after another.
#[derive(Debug)]
pub(super) struct Tokens<'t> {
    text: &'t str,
    rest: &'t str,
}

impl<'t> Tokens<'t> {
    pub fn new(text: &'t str) -> Tokens<'t> {
        Tokens { text, rest: text }
    }

    /// Line and column of what comes next, both from 1.
    pub fn position(&self) -> (usize, usize) {
        let before = self.text.get(..self.text.len() - self.rest.len()).unwrap_or_default();
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
        (before.matches('\n').count() + 1, column + 1)
    }

    /// Passes over blanks and comments.
    pub fn skip_blanks(&mut self) {
        loop {
            self.rest = self.rest.trim_start_matches(['\t', ' ', '\r', '\n', '\u{c}']);
            match self.rest.strip_prefix("//") {
                Some(comment) => self.rest = comment.find('\n').and_then(|at| comment.get(at..)).unwrap_or_default(),
                None => return,
            }
        }
    }

    /// The next token. Blanks are behind it already.
    pub fn next(&mut self) -> Result<Token<'t>, String> {
        let Some(first) = self.rest.chars().next() else { return Ok(Token::End) };
        if let Some((value, rest)) = literal::string(self.rest)? {
            self.rest = rest;
            return Ok(Token::Literal(value));
        }
        let digit_follows = || self.rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        if first.is_ascii_digit() || first == '.' && digit_follows() {
            return self.number();
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
            return Ok(Token::Name(self.take(end)));
        }
        for symbol in SYMBOLS.into_iter().chain(["%"]) {
            if let Some(rest) = self.rest.strip_prefix(symbol) {
                self.rest = rest;
                return Ok(Token::Symbol(symbol));
            }
        }
        Err(format!("unexpected '{first}'"))
    }

    fn take(&mut self, end: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    fn number(&mut self) -> Result<Token<'t>, String> {
        let bytes = self.rest.as_bytes();
        let digits = |from: usize, is: fn(&u8) -> bool| {
            bytes.get(from..).unwrap_or_default().iter().take_while(|b| is(b)).count() + from
        };
        let (end, mut is_float) = match bytes {
            [b'0', b'x', hex, ..] if hex.is_ascii_hexdigit() => (digits(2, u8::is_ascii_hexdigit), false),
            _ => {
                let whole = digits(0, u8::is_ascii_digit);
                // "1.e3" is a field of 1.
                let fraction = digits(whole + 1, u8::is_ascii_digit);
                if bytes.get(whole) == Some(&b'.') && fraction > whole + 1 { (fraction, true) } else { (whole, false) }
            }
        };
        let mut end = end;
        if !self.rest.starts_with("0x") && matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits(end + 1 + sign, u8::is_ascii_digit);
            if exponent > end + 1 + sign {
                (end, is_float) = (exponent, true);
            }
        }
        let text = self.take(end);
        if is_float {
            return text.parse().map(|n| Token::Literal(Value::Double(n))).map_err(|_| "invalid double literal".into());
        }
        if let Some(rest) = self.rest.strip_prefix(['u', 'U']) {
            self.rest = rest;
            return literal::unsigned(text)
                .map(|n| Token::Literal(Value::Uint(n)))
                .ok_or("invalid uint literal".into());
        }
        Ok(Token::Int(text))
    }
}
