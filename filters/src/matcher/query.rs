//! `config.route.v3.QueryParameterMatcher`.

use waypost_xds::envoy::config::route::v3 as proto;
use waypost_xds::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;

use super::{MatcherError, StringMatcher};

/// What a parameter of the query must look like. Nothing is URL-decoded, and the first parameter of a name decides.
#[derive(Clone, Debug)]
pub struct QueryMatcher {
    name: Box<[u8]>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present(bool),
    String(StringMatcher),
}

impl QueryMatcher {
    /// Compiles a `QueryParameterMatcher`.
    pub fn compile(matcher: proto::QueryParameterMatcher, path: &str) -> Result<QueryMatcher, MatcherError> {
        let proto::QueryParameterMatcher { name, query_parameter_match_specifier } = matcher;
        if name.is_empty() || name.len() > 1024 {
            let reason = "value length must be between 1 and 1024 bytes";
            return Err(MatcherError::new(format!("{path}.name"), reason));
        }
        let test = match query_parameter_match_specifier {
            None => Test::Present(true),
            Some(QueryParameterMatchSpecifier::PresentMatch(present)) => Test::Present(present),
            Some(QueryParameterMatchSpecifier::StringMatch(s)) => {
                Test::String(StringMatcher::compile(s, &format!("{path}.string_match"))?)
            }
        };
        Ok(QueryMatcher { name: name.into_bytes().into(), test })
    }

    /// Whether a path with its query matches.
    pub fn matches(&self, path: &[u8]) -> bool {
        let value = query_value(path, &self.name);
        match &self.test {
            Test::Present(present) => value.is_some() == *present,
            Test::String(s) => value.is_some_and(|v| s.matches(v)),
        }
    }
}

impl std::fmt::Display for QueryMatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", String::from_utf8_lossy(&self.name))?;
        match &self.test {
            Test::Present(true) => f.write_str("present"),
            Test::Present(false) => f.write_str("absent"),
            Test::String(s) => s.fmt(f),
        }
    }
}

/// The first value of a query parameter, as it stands in the path; empty for a key without `=`.
pub fn query_value<'a>(path: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let query = path.get(memchr::memchr(b'?', path)? + 1..)?;
    let query = query.split(|b| *b == b'#').next()?;
    query.split(|b| *b == b'&').find_map(|pair| match memchr::memchr(b'=', pair) {
        Some(at) => (pair.get(..at)? == name).then_some(pair.get(at + 1..)?),
        None => (pair == name).then_some(&[]),
    })
}
