//! `config.route.v3.HeaderMatcher` and `CookieMatcher`.

use ::http::{HeaderMap, HeaderName};
use waypost_xds::envoy::config::route::v3 as proto;
use waypost_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use waypost_xds::envoy::r#type::v3::Int64Range;

use super::{HeaderPlace, MatcherError, Regex, StringMatcher, required};
use crate::head::{RequestHead, ResponseHead};

/// What a header must look like. Each of its values is looked at on its own; one that matches is enough.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    name: HeaderPlace,
    test: Test,
    invert: bool,
    missing_is_empty: bool,
}

#[derive(Clone, Debug)]
enum Test {
    Present(bool),
    String(StringMatcher),
    /// From, and up to but not including.
    Range(i64, i64),
}

impl HeaderMatcher {
    /// Compiles a `HeaderMatcher`.
    pub fn compile(matcher: proto::HeaderMatcher, path: &str) -> Result<HeaderMatcher, MatcherError> {
        let proto::HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } =
            matcher;
        let exact = StringMatcher::exact;
        let filled = |s: String, field: &str| {
            if s.is_empty() {
                return Err(MatcherError::new(format!("{path}.{field}"), "value length must be at least 1 characters"));
            }
            Ok(s)
        };
        let test = match header_match_specifier {
            None => Test::Present(true),
            Some(HeaderMatchSpecifier::PresentMatch(present)) => Test::Present(present),
            Some(HeaderMatchSpecifier::ExactMatch(s)) => Test::String(exact(s)),
            Some(HeaderMatchSpecifier::PrefixMatch(s)) => {
                Test::String(StringMatcher::prefix(filled(s, "prefix_match")?))
            }
            Some(HeaderMatchSpecifier::SuffixMatch(s)) => {
                Test::String(StringMatcher::suffix(filled(s, "suffix_match")?))
            }
            Some(HeaderMatchSpecifier::ContainsMatch(s)) => {
                Test::String(StringMatcher::contains(filled(s, "contains_match")?.as_bytes()))
            }
            Some(HeaderMatchSpecifier::SafeRegexMatch(r)) => {
                Test::String(StringMatcher::regex(Regex::compile(r, &format!("{path}.safe_regex_match"))?))
            }
            Some(HeaderMatchSpecifier::RangeMatch(Int64Range { start, end })) => Test::Range(start, end),
            Some(HeaderMatchSpecifier::StringMatch(s)) => {
                Test::String(StringMatcher::compile(s, &format!("{path}.string_match"))?)
            }
        };
        let name =
            HeaderPlace::of(&name).ok_or_else(|| MatcherError::new(format!("{path}.name"), "not a header name"))?;
        Ok(HeaderMatcher { name, test, invert: invert_match, missing_is_empty: treat_missing_header_as_empty })
    }

    /// Compiles a repeated field; all must match.
    pub fn compile_all(matchers: Vec<proto::HeaderMatcher>, path: &str) -> Result<Box<[HeaderMatcher]>, MatcherError> {
        matchers.into_iter().enumerate().map(|(i, m)| HeaderMatcher::compile(m, &format!("{path}[{i}]"))).collect()
    }

    /// Whether a request matches.
    pub fn matches(&self, head: &RequestHead) -> bool {
        match &self.name {
            HeaderPlace::Header(name) => self.decide(values(&head.headers, name)),
            place => self.decide(place.value(head).into_iter()),
        }
    }

    /// The values that a request has for it, as text, to explain a decision.
    pub fn seen(&self, head: &RequestHead) -> Vec<String> {
        let text = |v: &[u8]| String::from_utf8_lossy(v).into_owned();
        match &self.name {
            HeaderPlace::Header(name) => values(&head.headers, name).map(text).collect(),
            place => place.value(head).map(text).into_iter().collect(),
        }
    }

    /// Whether a response matches.
    pub fn matches_response(&self, head: &ResponseHead) -> bool {
        match &self.name {
            HeaderPlace::Header(name) => self.decide(values(&head.headers, name)),
            HeaderPlace::Upgrade => self.decide(values(&head.headers, &::http::header::UPGRADE)),
            HeaderPlace::Status => self.decide(std::iter::once(head.status.as_str().as_bytes())),
            HeaderPlace::Method
            | HeaderPlace::Scheme
            | HeaderPlace::Authority
            | HeaderPlace::Path
            | HeaderPlace::Nowhere => self.decide(std::iter::empty()),
        }
    }

    /// Whether plain headers (trailers, say) match.
    pub fn matches_headers(&self, headers: &HeaderMap) -> bool {
        match &self.name {
            HeaderPlace::Header(name) => self.decide(values(headers, name)),
            _ => self.decide(std::iter::empty()),
        }
    }

    fn decide<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        let first = values.next().or(self.missing_is_empty.then_some(&b""[..]));
        let Some(first) = first else {
            // A missing header does not match, inverted or not, unless presence itself is the question.
            return matches!(self.test, Test::Present(present) if present == self.invert);
        };
        (self.test.one(first) || values.any(|v| self.test.one(v))) != self.invert
    }
}

impl Test {
    fn one(&self, value: &[u8]) -> bool {
        match self {
            Test::Present(present) => *present,
            Test::String(s) => s.matches(value),
            Test::Range(from, to) => {
                let number = std::str::from_utf8(value).ok().and_then(|v| v.trim_ascii().parse::<i64>().ok());
                number.is_some_and(|n| *from <= n && n < *to)
            }
        }
    }
}

impl std::fmt::Display for HeaderMatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let not = if self.invert { "not " } else { "" };
        write!(f, "{} {not}", self.name.as_str())?;
        match &self.test {
            Test::Present(true) => f.write_str("present"),
            Test::Present(false) => f.write_str("absent"),
            Test::String(s) => s.fmt(f),
            Test::Range(from, to) => write!(f, "from {from} up to {to}"),
        }
    }
}

impl std::fmt::Display for CookieMatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let not = if self.invert { "not " } else { "" };
        write!(f, "{} {not}{}", String::from_utf8_lossy(&self.name), self.value)
    }
}

fn values<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers.get_all(name).iter().map(|v| v.as_bytes())
}

/// What a cookie of the request must look like.
#[derive(Clone, Debug)]
pub struct CookieMatcher {
    name: Box<[u8]>,
    value: StringMatcher,
    invert: bool,
}

impl CookieMatcher {
    /// Compiles a `CookieMatcher`.
    pub fn compile(matcher: proto::CookieMatcher, path: &str) -> Result<CookieMatcher, MatcherError> {
        let proto::CookieMatcher { name, string_match, invert_match } = matcher;
        if name.is_empty() {
            return Err(MatcherError::new(format!("{path}.name"), "value length must be at least 1 characters"));
        }
        let value = required(string_match, path, "string_match")?;
        let value = StringMatcher::compile(value, &format!("{path}.string_match"))?;
        Ok(CookieMatcher { name: name.into_bytes().into(), value, invert: invert_match })
    }

    /// Whether a request matches: the first cookie of the name decides, and none is no match before inversion.
    pub fn matches(&self, head: &RequestHead) -> bool {
        cookie(&head.headers, &self.name).is_some_and(|v| self.value.matches(v)) != self.invert
    }
}

/// The value of the first cookie of a name, without the quotes it may have.
fn cookie<'a>(headers: &'a HeaderMap, name: &[u8]) -> Option<&'a [u8]> {
    let pairs = values(headers, &::http::header::COOKIE).flat_map(|line| line.split(|b| *b == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let at = memchr::memchr(b'=', pair)?;
        let (key, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        let bare = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\""));
        (key == name).then_some(bare.unwrap_or(value))
    })
}
