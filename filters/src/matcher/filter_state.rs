//! `type.matcher.v3.FilterStateMatcher`.

use waypost_xds::envoy::r#type::matcher::v3 as proto;
use waypost_xds::envoy::r#type::matcher::v3::filter_state_matcher::Matcher;

use super::{CidrSet, MatcherError, StringMatcher, required};
use crate::address::Address;
use crate::filter_state::Object;

/// What an object of filter state must look like.
#[derive(Clone, Debug)]
pub struct FilterStateMatcher {
    /// The object's name.
    pub key: Box<str>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    String(StringMatcher),
    Address { ranges: CidrSet, invert: bool },
}

impl FilterStateMatcher {
    /// Compiles a `FilterStateMatcher`.
    pub fn compile(matcher: proto::FilterStateMatcher, path: &str) -> Result<FilterStateMatcher, MatcherError> {
        let proto::FilterStateMatcher { key, matcher } = matcher;
        if key.is_empty() {
            return Err(MatcherError::new(format!("{path}.key"), "value length must be at least 1 characters"));
        }
        let test = match required(matcher, path, "matcher")? {
            Matcher::StringMatch(s) => Test::String(StringMatcher::compile(s, &format!("{path}.string_match"))?),
            Matcher::AddressMatch(proto::AddressMatcher { ranges, invert_match }) => {
                let ranges = CidrSet::compile_xds(&ranges, &format!("{path}.address_match.ranges"))?;
                Test::Address { ranges, invert: invert_match }
            }
        };
        Ok(FilterStateMatcher { key: key.into(), test })
    }

    /// Whether an object matches; none never does.
    pub fn matches(&self, object: Option<&Object>) -> bool {
        let Some(object) = object else { return false };
        match &self.test {
            Test::String(s) => s.matches(object.plain().as_bytes()),
            Test::Address { ranges, invert } => match object {
                Object::Address(Address::Ip(a)) => ranges.contains(a.ip()) != *invert,
                _ => false,
            },
        }
    }
}
