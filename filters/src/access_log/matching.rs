//! Matchers of access-log filters (`HeaderMatcher`, `MetadataMatcher`).

use regex::bytes::Regex;

use super::{AccessLogError, error};
use crate::head::RequestHead;
use crate::metadata::Metadata;
use serde_json::Value;
use waypost_xds::envoy::config::route::v3::HeaderMatcher;
use waypost_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use waypost_xds::envoy::r#type::matcher::v3::metadata_matcher::PathSegment;
use waypost_xds::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use waypost_xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use waypost_xds::envoy::r#type::matcher::v3::value_matcher::MatchPattern as ValuePattern;
use waypost_xds::envoy::r#type::matcher::v3::{MetadataMatcher, RegexMatcher, StringMatcher, ValueMatcher};
use waypost_xds::envoy::r#type::v3::Int64Range;

/// A compiled `HeaderMatcher`.
#[derive(Clone, Debug)]
pub(super) struct HeaderMatch {
    name: Name,
    pattern: Pattern,
    invert: bool,
    missing_as_empty: bool,
}

#[derive(Clone, Debug)]
enum Name {
    Method,
    Scheme,
    Path,
    Authority,
    Other(String),
}

#[derive(Clone, Debug)]
enum Pattern {
    Present(bool),
    Range(i64, i64),
    Text(Text),
}

/// A compiled `StringMatcher`; with `ignore_case` the text is in lower case.
#[derive(Clone, Debug)]
struct Text {
    kind: TextKind,
    ignore_case: bool,
}

#[derive(Clone, Debug)]
enum TextKind {
    Exact(Vec<u8>),
    Prefix(Vec<u8>),
    Suffix(Vec<u8>),
    Contains(Vec<u8>),
    Regex(Regex),
}

/// A compiled `MetadataMatcher` on dynamic metadata.
#[derive(Clone, Debug)]
pub(super) struct MetadataMatch {
    namespace: String,
    path: Vec<String>,
    value: ValueMatch,
    invert: bool,
}

#[derive(Clone, Debug)]
enum ValueMatch {
    Null,
    Bool(bool),
    Number(f64),
    Range(f64, f64),
    Text(Text),
    Present(bool),
}

impl HeaderMatch {
    pub fn compile(matcher: HeaderMatcher, path: &str) -> Result<HeaderMatch, AccessLogError> {
        let HeaderMatcher { name, invert_match, treat_missing_header_as_empty, header_match_specifier } = matcher;
        if name.is_empty() {
            return Err(error(&format!("{path}.name"), "value length must be at least 1 characters"));
        }
        let text = |kind| Pattern::Text(Text { kind, ignore_case: false });
        #[allow(deprecated, reason = "the deprecated fields are still supported")]
        let pattern = match header_match_specifier {
            None => Pattern::Present(true),
            Some(HeaderMatchSpecifier::PresentMatch(present)) => Pattern::Present(present),
            Some(HeaderMatchSpecifier::RangeMatch(Int64Range { start, end })) => Pattern::Range(start, end),
            Some(HeaderMatchSpecifier::ExactMatch(t)) => text(TextKind::Exact(t.into_bytes())),
            Some(HeaderMatchSpecifier::PrefixMatch(t)) => text(TextKind::Prefix(t.into_bytes())),
            Some(HeaderMatchSpecifier::SuffixMatch(t)) => text(TextKind::Suffix(t.into_bytes())),
            Some(HeaderMatchSpecifier::ContainsMatch(t)) => text(TextKind::Contains(t.into_bytes())),
            Some(HeaderMatchSpecifier::SafeRegexMatch(r)) => {
                text(TextKind::Regex(regex(r, &format!("{path}.safe_regex_match"))?))
            }
            Some(HeaderMatchSpecifier::StringMatch(m)) => {
                Pattern::Text(Text::compile(m, &format!("{path}.string_match"))?)
            }
        };
        let name = match name.to_ascii_lowercase().as_str() {
            ":method" => Name::Method,
            ":scheme" => Name::Scheme,
            ":path" => Name::Path,
            ":authority" | "host" => Name::Authority,
            other => Name::Other(other.to_owned()),
        };
        Ok(HeaderMatch { name, pattern, invert: invert_match, missing_as_empty: treat_missing_header_as_empty })
    }

    /// Each value is looked at by itself. A header that is not there matches nothing, inverted or not, but for `present_match`.
    pub fn matches(&self, request: &RequestHead) -> bool {
        let one = match &self.name {
            Name::Method => Some(request.method.as_str().as_bytes()),
            Name::Scheme => Some(request.scheme.as_str().as_bytes()),
            Name::Path => request.path.as_ref().map(|p| p.as_bytes()),
            Name::Authority => request.authority.as_ref().map(|a| a.as_bytes()),
            Name::Other(name) => {
                let mut values = request.headers.get_all(name).iter().map(|v| v.as_bytes()).peekable();
                let present = values.peek().is_some();
                return self.judge(present, |pattern| values.any(|v| pattern.matches(v)));
            }
        };
        self.judge(one.is_some(), |pattern| one.is_some_and(|v| pattern.matches(v)))
    }

    fn judge(&self, present: bool, any: impl FnOnce(&Pattern) -> bool) -> bool {
        match &self.pattern {
            Pattern::Present(wanted) => (present == *wanted) != self.invert,
            pattern if present => any(pattern) != self.invert,
            pattern if self.missing_as_empty => pattern.matches(b"") != self.invert,
            _ => false,
        }
    }
}

impl Pattern {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Pattern::Present(_) => true,
            Pattern::Range(start, end) => {
                let number = std::str::from_utf8(value).ok().and_then(|v| v.parse::<i64>().ok());
                number.is_some_and(|n| n >= *start && n < *end)
            }
            Pattern::Text(text) => text.matches(value),
        }
    }
}

impl Text {
    fn compile(matcher: StringMatcher, path: &str) -> Result<Text, AccessLogError> {
        let StringMatcher { ignore_case, match_pattern } = matcher;
        let bytes = |text: String| if ignore_case { text.to_ascii_lowercase() } else { text }.into_bytes();
        let kind = match match_pattern {
            Some(MatchPattern::Exact(t)) => TextKind::Exact(bytes(t)),
            Some(MatchPattern::Prefix(t)) => TextKind::Prefix(bytes(t)),
            Some(MatchPattern::Suffix(t)) => TextKind::Suffix(bytes(t)),
            Some(MatchPattern::Contains(t)) => TextKind::Contains(bytes(t)),
            Some(MatchPattern::SafeRegex(_)) if ignore_case => {
                return Err(error(path, "ignore_case has no effect for safe_regex."));
            }
            Some(MatchPattern::SafeRegex(r)) => TextKind::Regex(regex(r, &format!("{path}.safe_regex"))?),
            Some(MatchPattern::Custom(_)) => return Err(error(&format!("{path}.custom"), "is not supported yet")),
            None => return Err(error(path, "match_pattern is required")),
        };
        Ok(Text { kind, ignore_case })
    }

    fn matches(&self, value: &[u8]) -> bool {
        if self.ignore_case {
            return self.kind.matches(&value.to_ascii_lowercase());
        }
        self.kind.matches(value)
    }
}

impl TextKind {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            TextKind::Exact(t) => value == t,
            TextKind::Prefix(t) => value.starts_with(t),
            TextKind::Suffix(t) => value.ends_with(t),
            TextKind::Contains(t) => memchr::memmem::find(value, t).is_some(),
            TextKind::Regex(r) => r.is_match(value),
        }
    }
}

/// A regular expression that must match the whole value.
fn regex(matcher: RegexMatcher, path: &str) -> Result<Regex, AccessLogError> {
    // The engine is RE2 in any case, and its limits are not those of the engine here.
    let RegexMatcher { regex, engine_type: _ } = matcher;
    Regex::new(&format!("^(?:{regex})$")).map_err(|e| error(&format!("{path}.regex"), e.to_string()))
}

impl MetadataMatch {
    pub fn compile(matcher: MetadataMatcher, path: &str) -> Result<MetadataMatch, AccessLogError> {
        let MetadataMatcher { filter, path: segments, value, invert } = matcher;
        if segments.is_empty() {
            return Err(error(&format!("{path}.path"), "value must contain at least 1 item(s)"));
        }
        let keys = segments.into_iter().map(|PathSegment { segment }| segment.map(|Segment::Key(key)| key));
        let Some(keys) = keys.collect::<Option<Vec<String>>>() else {
            return Err(error(&format!("{path}.path"), "segment is required"));
        };
        let path = format!("{path}.value");
        let Some(ValueMatcher { match_pattern: Some(pattern) }) = value else {
            return Err(error(&path, "value is required"));
        };
        Ok(MetadataMatch { namespace: filter, path: keys, value: value_match(pattern, &path)?, invert })
    }

    pub fn matches(&self, metadata: &Metadata, if_missing: bool) -> bool {
        match metadata.at(&self.namespace, self.path.iter().map(String::as_str)) {
            Some(found) => self.value.matches(found) != self.invert,
            None => if_missing,
        }
    }
}

fn value_match(pattern: ValuePattern, path: &str) -> Result<ValueMatch, AccessLogError> {
    use waypost_xds::envoy::r#type::matcher::v3::{DoubleMatcher, double_matcher::MatchPattern};
    use waypost_xds::envoy::r#type::v3::DoubleRange;
    Ok(match pattern {
        ValuePattern::NullMatch(_) => ValueMatch::Null,
        ValuePattern::BoolMatch(b) => ValueMatch::Bool(b),
        ValuePattern::PresentMatch(b) => ValueMatch::Present(b),
        ValuePattern::StringMatch(m) => ValueMatch::Text(Text::compile(m, &format!("{path}.string_match"))?),
        ValuePattern::DoubleMatch(DoubleMatcher { match_pattern }) => match match_pattern {
            Some(MatchPattern::Exact(n)) => ValueMatch::Number(n),
            Some(MatchPattern::Range(DoubleRange { start, end })) => ValueMatch::Range(start, end),
            None => return Err(error(&format!("{path}.double_match"), "match_pattern is required")),
        },
        ValuePattern::ListMatch(_) => return Err(error(&format!("{path}.list_match"), "is not supported yet")),
        ValuePattern::OrMatch(_) => return Err(error(&format!("{path}.or_match"), "is not supported yet")),
    })
}

impl ValueMatch {
    fn matches(&self, value: &Value) -> bool {
        match (self, value) {
            (ValueMatch::Null, v) => v.is_null(),
            (ValueMatch::Present(wanted), v) => *wanted != v.is_null(),
            (ValueMatch::Bool(wanted), Value::Bool(b)) => wanted == b,
            (ValueMatch::Text(text), Value::String(s)) => text.matches(s.as_bytes()),
            #[allow(clippy::float_cmp, reason = "exact is what the field asks for")]
            (ValueMatch::Number(wanted), Value::Number(n)) => n.as_f64() == Some(*wanted),
            (ValueMatch::Range(start, end), Value::Number(n)) => n.as_f64().is_some_and(|n| n >= *start && n < *end),
            _ => false,
        }
    }
}
