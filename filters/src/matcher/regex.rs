//! `type.matcher.v3.RegexMatcher`: RE2 over Latin-1 bytes, by the crate `regex`.

use std::borrow::Cow;

use ::regex::bytes::{self, RegexBuilder};
use waypost_xds::envoy::r#type::matcher::v3::regex_matcher::{EngineType, GoogleRe2};
use waypost_xds::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};

use super::{MatcherError, required};

/// A compiled program may take this much: generous for a list of a thousand paths, and a bound on what one field can cost.
const SIZE_LIMIT: usize = 4 << 20;

/// A regular expression that matches a whole value.
#[derive(Clone, Debug)]
pub struct Regex {
    whole: bytes::Regex,
}

/// `type.matcher.v3.RegexMatchAndSubstitute`: replaces every match.
#[derive(Clone, Debug)]
pub struct RegexRewrite {
    pattern: bytes::Regex,
    /// The substitution in pieces.
    substitution: Box<[Piece]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<[u8]>),
    Group(usize),
}

impl std::fmt::Display for Regex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whole = self.whole.as_str();
        // As `new` wrapped it.
        let bare = whole.strip_prefix(r"\A(?:").and_then(|w| w.strip_suffix(r")\z"));
        f.write_str(bare.unwrap_or(whole))
    }
}

impl Regex {
    /// Compiles a `RegexMatcher`.
    pub fn compile(matcher: RegexMatcher, path: &str) -> Result<Regex, MatcherError> {
        let pattern = pattern_of(matcher, path)?;
        Regex::new(&pattern, &format!("{path}.regex"))
    }

    /// Compiles RE2 syntax; `path` is the field that holds it.
    pub fn new(pattern: &str, path: &str) -> Result<Regex, MatcherError> {
        // Alone first: "a)|(b" must not become valid by being wrapped.
        build(pattern, path)?;
        Ok(Regex { whole: build(&format!(r"\A(?:{pattern})\z"), path)? })
    }

    /// Whether the whole value matches.
    pub fn is_match(&self, value: &[u8]) -> bool {
        self.whole.is_match(value)
    }
}

impl RegexRewrite {
    /// Compiles pattern and substitution, in which `\1` is a group and `\\` a backslash.
    pub fn compile(rewrite: RegexMatchAndSubstitute, path: &str) -> Result<RegexRewrite, MatcherError> {
        let RegexMatchAndSubstitute { pattern, substitution } = rewrite;
        let pattern_path = format!("{path}.pattern");
        let pattern = pattern_of(required(pattern, path, "pattern")?, &pattern_path)?;
        let pattern = build(&pattern, &format!("{pattern_path}.regex"))?;
        let substitution = parse_substitution(&substitution, pattern.captures_len())
            .map_err(|reason| MatcherError::new(format!("{path}.substitution"), reason))?;
        Ok(RegexRewrite { pattern, substitution })
    }

    /// Replaces all matches, as RE2's `GlobalReplace`; the value itself where nothing matches.
    pub fn replace_all<'a>(&self, value: &'a [u8]) -> Cow<'a, [u8]> {
        self.pattern.replace_all(value, Substitution(&self.substitution))
    }
}

struct Substitution<'a>(&'a [Piece]);

impl bytes::Replacer for Substitution<'_> {
    fn replace_append(&mut self, captures: &bytes::Captures<'_>, out: &mut Vec<u8>) {
        for piece in self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Group(n) => out.extend_from_slice(captures.get(*n).map_or(&[], |m| m.as_bytes())),
            }
        }
    }
}

fn parse_substitution(text: &str, groups: usize) -> Result<Box<[Piece]>, String> {
    let (mut pieces, mut literal) = (Vec::new(), Vec::new());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'\\' {
            literal.push(b);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => literal.push(b'\\'),
            Some(d @ b'0'..=b'9') => {
                let group = usize::from(d - b'0');
                if group >= groups {
                    return Err(format!("invalid substitution: group {group} of a pattern with {}", groups - 1));
                }
                if !literal.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut literal).into()));
                }
                pieces.push(Piece::Group(group));
            }
            Some(_) => return Err("invalid substitution: after a backslash only a digit or a backslash".into()),
            None => return Err("invalid substitution: it ends in a backslash".into()),
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Text(literal.into()));
    }
    Ok(pieces.into())
}

fn pattern_of(matcher: RegexMatcher, path: &str) -> Result<String, MatcherError> {
    let RegexMatcher { regex, engine_type } = matcher;
    match engine_type {
        // Deprecated: RE2 is the only engine, and the program's size is limited by `SIZE_LIMIT` whatever stands here.
        None | Some(EngineType::GoogleRe2(GoogleRe2 { max_program_size: _ })) => {}
    }
    if regex.is_empty() {
        return Err(MatcherError::new(format!("{path}.regex"), "value length must be at least 1 characters"));
    }
    Ok(re2_to_rust(&regex))
}

/// Envoy matches Latin-1: a byte is a character, which is what `unicode(false)` gives.
fn build(pattern: &str, path: &str) -> Result<bytes::Regex, MatcherError> {
    RegexBuilder::new(pattern).unicode(false).size_limit(SIZE_LIMIT).build().map_err(|e| {
        let reason = e.to_string();
        MatcherError::new(path, reason.lines().last().unwrap_or("invalid regular expression"))
    })
}

/// RE2 takes a few things literally that the crate gives a meaning: a `{` that starts no repetition, `[`, `&&`, `--` and `~~` inside a class,
/// `\<` and `\>`. And it knows `\Q…\E` and `\C`, which the crate does not.
pub(crate) fn re2_to_rust(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 8);
    let mut rest = pattern;
    let mut class = false;
    while let Some(c) = rest.chars().next() {
        let after = rest.get(c.len_utf8()..).unwrap_or_default();
        let next = after.chars().next();
        if c == '\\' {
            match next {
                Some('Q') => {
                    let quoted = after.get(1..).unwrap_or_default();
                    let (text, tail) = quoted.split_once("\\E").unwrap_or((quoted, ""));
                    out.push_str(&::regex::escape(text));
                    rest = tail;
                    continue;
                }
                Some('C') if !class => out.push_str("(?s:.)"),
                Some(e @ ('<' | '>')) => out.push(e),
                Some(e) => out.extend(['\\', e]),
                None => out.push('\\'),
            }
            rest = next.and_then(|n| after.get(n.len_utf8()..)).unwrap_or_default();
            continue;
        }
        if class {
            match c {
                '[' if next == Some(':') => {
                    // A POSIX class, "[:alpha:]", is copied whole.
                    if let Some(end) = rest.find(":]") {
                        out.push_str(rest.get(..end + 2).unwrap_or_default());
                        rest = rest.get(end + 2..).unwrap_or_default();
                        continue;
                    }
                    out.push_str("\\[");
                }
                '[' => out.push_str("\\["),
                '&' | '~' if next == Some(c) => out.extend(['\\', c]),
                '-' if next == Some('-') => out.push_str("\\-"),
                ']' => {
                    class = false;
                    out.push(c);
                }
                _ => out.push(c),
            }
            rest = after;
            continue;
        }
        match c {
            '[' => {
                class = true;
                out.push(c);
                rest = after;
                // A "]" that comes first is a member.
                for first in ["^]", "]", "^"] {
                    if let Some(tail) = rest.strip_prefix(first) {
                        out.push_str(&first.replace(']', "\\]"));
                        rest = tail;
                        break;
                    }
                }
                continue;
            }
            '{' if !is_repetition(after) => out.push_str("\\{"),
            _ => out.push(c),
        }
        rest = after;
    }
    out
}

/// Whether `n}`, `n,}` or `n,m}` follows a brace.
fn is_repetition(after: &str) -> bool {
    let Some((inner, _)) = after.split_once('}') else { return false };
    let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}
