//! The grammar of format texts: `%COMMAND%`, `%COMMAND(params)%`, `%COMMAND(params):length%`, `%%`.

use super::compile::{Extensions, compile};
use super::operator::{Op, Operator};
use super::{FormatError, Piece};

/// One command as it stands in the text.
struct Command<'a> {
    name: &'a str,
    params: Option<&'a str>,
    max_length: Option<usize>,
    rest: &'a str,
}

/// Compiles a text. Neighbouring constants become one literal.
pub(super) fn pieces(text: &str, extensions: Extensions) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut literal = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        literal.extend_from_slice(before.as_bytes());
        if let Some(after) = after.strip_prefix('%') {
            literal.push(b'%');
            rest = after;
            continue;
        }
        let Some(command) = command(after) else {
            let position = text.len() - after.len() - 1;
            return Err(FormatError(format!(
                "Incorrect configuration: {text}. Couldn't find valid command at position {position}"
            )));
        };
        match compile(command.name, command.params.unwrap_or_default(), command.max_length, extensions)? {
            Operator { op: Op::Constant(text), max_length: None } => literal.extend_from_slice(text.as_bytes()),
            operator => {
                if !literal.is_empty() {
                    pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
                }
                pieces.push(Piece::Operator(operator));
            }
        }
        rest = command.rest;
    }
    literal.extend_from_slice(rest.as_bytes());
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(pieces)
}

/// The command behind a `%`. The parameters end at the first `)` that is followed by `%` or by `:length%`, so they may hold `)` and `%`.
fn command(text: &str) -> Option<Command<'_>> {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')).unwrap_or(text.len());
    let (name, after) = text.split_at_checked(end)?;
    if name.is_empty() {
        return None;
    }
    let Some(inside) = after.strip_prefix('(') else {
        let (max_length, rest) = tail(after)?;
        return Some(Command { name, params: None, max_length, rest });
    };
    inside.match_indices(')').find_map(|(at, _)| {
        let (params, after) = inside.split_at_checked(at)?;
        let (max_length, rest) = tail(after.strip_prefix(')')?)?;
        (!params.contains('\n')).then_some(Command { name, params: Some(params), max_length, rest })
    })
}

/// `%` or `:length%`, and what follows.
fn tail(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(rest) = text.strip_prefix('%') {
        return Some((None, rest));
    }
    let (digits, rest) = text.strip_prefix(':')?.split_once('%')?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((Some(digits.parse().unwrap_or(usize::MAX)), rest))
}
