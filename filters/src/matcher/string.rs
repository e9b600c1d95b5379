//! `type.matcher.v3.StringMatcher`.

use memchr::memmem::Finder;
use waypost_xds::envoy::r#type::matcher::v3 as proto;
use waypost_xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use waypost_xds::xds::r#type::matcher::v3 as xds;
use waypost_xds::xds::r#type::matcher::v3::string_matcher::MatchPattern as XdsMatchPattern;

use super::{MatcherError, Regex, required};

/// What a text must look like. Texts are bytes: header values need not be UTF-8.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    pattern: Pattern,
    ignore_case: bool,
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<Finder<'static>>),
    Regex(Regex),
}

impl StringMatcher {
    /// Compiles a `type.matcher.v3.StringMatcher`.
    pub fn compile(matcher: proto::StringMatcher, path: &str) -> Result<StringMatcher, MatcherError> {
        let proto::StringMatcher { ignore_case, match_pattern } = matcher;
        let pattern = match required(match_pattern, path, "match_pattern")? {
            MatchPattern::Exact(s) => Pattern::Exact(s.into_bytes().into()),
            MatchPattern::Prefix(s) => Pattern::Prefix(not_empty(s, path, "prefix")?),
            MatchPattern::Suffix(s) => Pattern::Suffix(not_empty(s, path, "suffix")?),
            MatchPattern::Contains(s) => {
                Pattern::Contains(Box::new(Finder::new(&not_empty(s, path, "contains")?).into_owned()))
            }
            MatchPattern::SafeRegex(r) => {
                if ignore_case {
                    let reason = "ignore_case has no effect for safe_regex.";
                    return Err(MatcherError::new(format!("{path}.ignore_case"), reason));
                }
                Pattern::Regex(Regex::compile(r, &format!("{path}.safe_regex"))?)
            }
            MatchPattern::Custom(_) => return Err(MatcherError::unsupported(format!("{path}.custom"))),
        };
        Ok(StringMatcher { pattern, ignore_case })
    }

    /// Compiles a `xds.type.matcher.v3.StringMatcher`, which is the same in another package.
    pub fn compile_xds(matcher: xds::StringMatcher, path: &str) -> Result<StringMatcher, MatcherError> {
        let xds::StringMatcher { ignore_case, match_pattern } = matcher;
        let match_pattern = match required(match_pattern, path, "match_pattern")? {
            XdsMatchPattern::Exact(s) => MatchPattern::Exact(s),
            XdsMatchPattern::Prefix(s) => MatchPattern::Prefix(s),
            XdsMatchPattern::Suffix(s) => MatchPattern::Suffix(s),
            XdsMatchPattern::Contains(s) => MatchPattern::Contains(s),
            XdsMatchPattern::SafeRegex(xds::RegexMatcher { regex, engine_type: _ }) => {
                // `engine_type` has one value, `google_re2`, and that has no fields.
                MatchPattern::SafeRegex(proto::RegexMatcher { regex, engine_type: None })
            }
            XdsMatchPattern::Custom(c) => MatchPattern::Custom(c),
        };
        StringMatcher::compile(proto::StringMatcher { ignore_case, match_pattern: Some(match_pattern) }, path)
    }

    /// One that wants exactly this text.
    pub fn exact(text: impl Into<Vec<u8>>) -> StringMatcher {
        StringMatcher { pattern: Pattern::Exact(text.into().into()), ignore_case: false }
    }

    /// One that wants a text to start like this.
    pub fn prefix(text: impl Into<Vec<u8>>) -> StringMatcher {
        StringMatcher { pattern: Pattern::Prefix(text.into().into()), ignore_case: false }
    }

    /// One that wants a text to end like this.
    pub fn suffix(text: impl Into<Vec<u8>>) -> StringMatcher {
        StringMatcher { pattern: Pattern::Suffix(text.into().into()), ignore_case: false }
    }

    /// One that wants a text to hold this.
    pub fn contains(text: &[u8]) -> StringMatcher {
        StringMatcher { pattern: Pattern::Contains(Box::new(Finder::new(text).into_owned())), ignore_case: false }
    }

    /// One that wants a text to match as a whole.
    pub fn regex(regex: Regex) -> StringMatcher {
        StringMatcher { pattern: Pattern::Regex(regex), ignore_case: false }
    }

    /// Whether a text matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        match (&self.pattern, self.ignore_case) {
            (Pattern::Exact(p), false) => value == &**p,
            (Pattern::Exact(p), true) => value.eq_ignore_ascii_case(p),
            (Pattern::Prefix(p), false) => value.starts_with(p),
            (Pattern::Prefix(p), true) => value.get(..p.len()).is_some_and(|v| v.eq_ignore_ascii_case(p)),
            (Pattern::Suffix(p), false) => value.ends_with(p),
            (Pattern::Suffix(p), true) => value
                .len()
                .checked_sub(p.len())
                .and_then(|at| value.get(at..))
                .is_some_and(|v| v.eq_ignore_ascii_case(p)),
            (Pattern::Contains(f), false) => f.find(value).is_some(),
            (Pattern::Contains(f), true) => {
                // An empty needle, of which `windows` would panic, is refused at configuration time and by `contains` found anywhere.
                f.needle().is_empty() || value.windows(f.needle().len()).any(|w| w.eq_ignore_ascii_case(f.needle()))
            }
            (Pattern::Regex(r), _) => r.is_match(value),
        }
    }
}

impl std::fmt::Display for StringMatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match &self.pattern {
            Pattern::Exact(p) => write!(f, "exact {:?}", text(p)),
            Pattern::Prefix(p) => write!(f, "prefix {:?}", text(p)),
            Pattern::Suffix(p) => write!(f, "suffix {:?}", text(p)),
            Pattern::Contains(p) => write!(f, "contains {:?}", text(p.needle())),
            Pattern::Regex(r) => write!(f, "regex {r}"),
        }?;
        f.write_str(if self.ignore_case { " in any case" } else { "" })
    }
}

fn not_empty(text: String, path: &str, field: &str) -> Result<Box<[u8]>, MatcherError> {
    if text.is_empty() {
        return Err(MatcherError::new(format!("{path}.{field}"), "value length must be at least 1 characters"));
    }
    Ok(text.into_bytes().into())
}
