//! `type.matcher.v3.MetadataMatcher` and `ValueMatcher`.

use serde_json::Value;
use waypost_xds::envoy::r#type::matcher::v3 as proto;
use waypost_xds::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment::Segment};
use waypost_xds::envoy::r#type::matcher::v3::{double_matcher, list_matcher, value_matcher};
use waypost_xds::envoy::r#type::v3::DoubleRange;

use super::{MatcherError, StringMatcher, required};
use crate::metadata::Metadata;

/// What a value of dynamic metadata must look like.
#[derive(Clone, Debug)]
pub struct MetadataMatcher {
    namespace: Box<str>,
    path: Box<[Box<str>]>,
    value: ValueMatcher,
    invert: bool,
}

/// What a value of a struct must look like.
#[derive(Clone, Debug)]
pub enum ValueMatcher {
    /// `null_match`
    Null,
    /// `double_match.exact`
    Double(f64),
    /// `double_match.range`: from, and up to but not including.
    DoubleRange(f64, f64),
    /// `string_match`
    String(StringMatcher),
    /// `bool_match`
    Bool(bool),
    /// `present_match`
    Present(bool),
    /// `list_match.one_of`
    OneOf(Box<ValueMatcher>),
    /// `or_match`
    Or(Box<[ValueMatcher]>),
}

impl MetadataMatcher {
    /// Compiles a `MetadataMatcher`.
    pub fn compile(matcher: proto::MetadataMatcher, path: &str) -> Result<MetadataMatcher, MatcherError> {
        let proto::MetadataMatcher { filter, path: segments, value, invert } = matcher;
        if filter.is_empty() {
            return Err(MatcherError::new(format!("{path}.filter"), "value length must be at least 1 characters"));
        }
        if segments.is_empty() {
            return Err(MatcherError::new(format!("{path}.path"), "value must contain at least 1 item(s)"));
        }
        let key = |(i, PathSegment { segment })| match segment {
            Some(Segment::Key(key)) => Ok(Box::from(key)),
            None => Err(MatcherError::new(format!("{path}.path[{i}].segment"), "value is required")),
        };
        Ok(MetadataMatcher {
            namespace: filter.into(),
            path: segments.into_iter().enumerate().map(key).collect::<Result<_, _>>()?,
            value: ValueMatcher::compile(required(value, path, "value")?, &format!("{path}.value"))?,
            invert,
        })
    }

    /// Whether metadata matches.
    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.value.matches(metadata.at(&self.namespace, self.path.iter().map(|k| &**k))) != self.invert
    }
}

impl ValueMatcher {
    /// Compiles a `ValueMatcher`.
    pub fn compile(matcher: proto::ValueMatcher, path: &str) -> Result<ValueMatcher, MatcherError> {
        use value_matcher::MatchPattern;
        Ok(match required(matcher.match_pattern, path, "match_pattern")? {
            MatchPattern::NullMatch(value_matcher::NullMatch {}) => ValueMatcher::Null,
            MatchPattern::DoubleMatch(proto::DoubleMatcher { match_pattern }) => {
                match required(match_pattern, path, "double_match.match_pattern")? {
                    double_matcher::MatchPattern::Range(DoubleRange { start, end }) => {
                        ValueMatcher::DoubleRange(start, end)
                    }
                    double_matcher::MatchPattern::Exact(n) => ValueMatcher::Double(n),
                }
            }
            MatchPattern::StringMatch(s) => {
                ValueMatcher::String(StringMatcher::compile(s, &format!("{path}.string_match"))?)
            }
            MatchPattern::BoolMatch(b) => ValueMatcher::Bool(b),
            MatchPattern::PresentMatch(b) => ValueMatcher::Present(b),
            MatchPattern::ListMatch(list) => {
                let proto::ListMatcher { match_pattern } = *list;
                let list_matcher::MatchPattern::OneOf(inner) =
                    required(match_pattern, path, "list_match.match_pattern")?;
                ValueMatcher::OneOf(Box::new(ValueMatcher::compile(*inner, &format!("{path}.list_match.one_of"))?))
            }
            MatchPattern::OrMatch(proto::OrMatcher { value_matchers }) => {
                if value_matchers.len() < 2 {
                    let path = format!("{path}.or_match.value_matchers");
                    return Err(MatcherError::new(path, "value must contain at least 2 item(s)"));
                }
                let one = |(i, m)| ValueMatcher::compile(m, &format!("{path}.or_match.value_matchers[{i}]"));
                ValueMatcher::Or(value_matchers.into_iter().enumerate().map(one).collect::<Result<_, _>>()?)
            }
        })
    }

    /// Whether a value matches, or its absence.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (ValueMatcher::Present(present), v) => v.is_some() == *present,
            (ValueMatcher::Or(any), v) => any.iter().any(|m| m.matches(v)),
            (ValueMatcher::Null, Some(Value::Null)) => true,
            (ValueMatcher::Double(d), Some(Value::Number(n))) => n.as_f64() == Some(*d),
            (ValueMatcher::DoubleRange(from, to), Some(Value::Number(n))) => {
                n.as_f64().is_some_and(|n| *from <= n && n < *to)
            }
            (ValueMatcher::String(m), Some(Value::String(s))) => m.matches(s.as_bytes()),
            (ValueMatcher::Bool(b), Some(Value::Bool(v))) => b == v,
            (ValueMatcher::OneOf(m), Some(Value::Array(items))) => items.iter().any(|v| m.matches(Some(v))),
            _ => false,
        }
    }
}
