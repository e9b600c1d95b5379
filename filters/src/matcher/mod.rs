//! Matchers of the API (`type.matcher.v3`, `config.route.v3`), compiled once and then run without allocation.

#![allow(deprecated, reason = "messages are destructured with all their fields, the deprecated ones too")]

mod cidr;
mod filter_state;
mod header;
mod metadata;
mod percent;
mod place;
mod query;
mod regex;
mod string;
#[cfg(test)]
mod tests;

pub use self::cidr::{Cidr, CidrSet, CidrTrie};
pub use self::filter_state::FilterStateMatcher;
pub use self::header::{CookieMatcher, HeaderMatcher};
pub use self::metadata::{MetadataMatcher, ValueMatcher};
pub use self::percent::FractionalPercent;
pub use self::place::HeaderPlace;
pub use self::query::{QueryMatcher, query_value};
pub(crate) use self::regex::re2_to_rust;
pub use self::regex::{Regex, RegexRewrite};
pub use self::string::StringMatcher;

/// A matcher that cannot be used, with the path of the field that is why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct MatcherError {
    /// The field.
    pub path: String,
    /// What was expected, or what is not supported.
    pub reason: String,
}

impl MatcherError {
    /// An error at a path.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> MatcherError {
        MatcherError { path: path.into(), reason: reason.into() }
    }

    /// A field whose meaning is not built yet.
    pub fn unsupported(path: impl Into<String>) -> MatcherError {
        MatcherError::new(path, "not supported yet")
    }
}

/// What `validate.rules.required` demands.
fn required<T>(value: Option<T>, path: &str, field: &str) -> Result<T, MatcherError> {
    value.ok_or_else(|| MatcherError::new(format!("{path}.{field}"), "value is required"))
}
