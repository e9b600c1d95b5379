//! `envoy.filters.http.header_mutation`: headers of the request and of the response are changed, one rule after the other.

use crate::filter::{HttpFilter, Step};
use crate::format::header_ops::{HeaderOps, HeaderOpsError};
use crate::matcher::StringMatcher;
use crate::stream::HttpStream;
use ::http::{HeaderMap, HeaderName};
use smallvec::SmallVec;
use waypost_xds::envoy::config::common::mutation_rules::v3 as rules;
use waypost_xds::envoy::config::common::mutation_rules::v3::header_mutation::{Action, RemoveOnMatch};
use waypost_xds::envoy::extensions::filters::http::header_mutation::v3 as proto;

/// The filter.
#[derive(Debug)]
pub struct HeaderMutation {
    request: Box<[Mutation]>,
    response: Box<[Mutation]>,
}

/// One rule. A later one sees what an earlier one did.
#[derive(Debug)]
enum Mutation {
    Change(HeaderOps),
    /// `remove_on_match`
    Remove(StringMatcher),
}

impl HeaderMutation {
    /// Compiles the filter; `path` is that of its configuration.
    pub fn compile(config: proto::HeaderMutation, path: &str) -> Result<HeaderMutation, HeaderOpsError> {
        // The order among levels of routes; what routes say is not here.
        let proto::HeaderMutation { mutations, most_specific_header_mutations_wins: _ } = config;
        let proto::Mutations {
            request_mutations,
            query_parameter_mutations,
            response_mutations,
            response_trailers_mutations,
            request_trailers_mutations,
        } = mutations.unwrap_or_default();
        let path = format!("{path}.mutations");
        for (field, empty) in [
            ("query_parameter_mutations", query_parameter_mutations.is_empty()),
            ("response_trailers_mutations", response_trailers_mutations.is_empty()),
            ("request_trailers_mutations", request_trailers_mutations.is_empty()),
        ] {
            if !empty {
                return Err(error(format!("{path}.{field}"), "not supported yet"));
            }
        }
        Ok(HeaderMutation {
            request: all(request_mutations, &format!("{path}.request_mutations"))?,
            response: all(response_mutations, &format!("{path}.response_mutations"))?,
        })
    }
}

fn all(mutations: Vec<rules::HeaderMutation>, path: &str) -> Result<Box<[Mutation]>, HeaderOpsError> {
    mutations.into_iter().enumerate().map(|(i, m)| Mutation::compile(m, &format!("{path}[{i}]"))).collect()
}

fn error(path: impl Into<String>, reason: &str) -> HeaderOpsError {
    HeaderOpsError { path: path.into(), reason: reason.to_owned() }
}

impl Mutation {
    fn compile(mutation: rules::HeaderMutation, path: &str) -> Result<Mutation, HeaderOpsError> {
        let rules::HeaderMutation { action } = mutation;
        Ok(match action {
            Some(Action::Remove(name)) => Mutation::Change(HeaderOps::one_removed(&name, &format!("{path}.remove"))?),
            Some(Action::Append(option)) => Mutation::Change(HeaderOps::one_added(option, &format!("{path}.append"))?),
            Some(Action::RemoveOnMatch(RemoveOnMatch { key_matcher: Some(matcher) })) => {
                let matcher = StringMatcher::compile(matcher, &format!("{path}.remove_on_match.key_matcher"))
                    .map_err(|e| error(e.path, &e.reason))?;
                Mutation::Remove(matcher)
            }
            Some(Action::RemoveOnMatch(RemoveOnMatch { key_matcher: None })) => {
                return Err(error(format!("{path}.remove_on_match.key_matcher"), "value is required"));
            }
            None => return Err(error(path, "one of remove, append, remove_on_match is required")),
        })
    }
}

fn remove(headers: &mut HeaderMap, matcher: &StringMatcher) {
    let found: SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| matcher.matches(name.as_str().as_bytes())).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

impl HttpFilter for HeaderMutation {
    fn on_request(&self, stream: &mut HttpStream) -> Step {
        for mutation in &self.request {
            match mutation {
                Mutation::Change(ops) => ops.apply_request(stream),
                Mutation::Remove(matcher) => remove(&mut stream.request.headers, matcher),
            }
        }
        Step::Continue
    }

    fn on_response(&self, stream: &mut HttpStream) {
        for mutation in &self.response {
            match (mutation, &mut stream.response) {
                (Mutation::Change(ops), _) => ops.apply_response(stream),
                (Mutation::Remove(matcher), Some(response)) => remove(&mut response.headers, matcher),
                (Mutation::Remove(_), None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::ResponseHead;
    use crate::http::test_stream;
    use waypost_xds::{json, yaml};

    fn compile(text: &str) -> Result<HeaderMutation, HeaderOpsError> {
        let config = json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap();
        HeaderMutation::compile(config, "f")
    }

    #[test]
    fn rules_change_headers_in_their_order() {
        let filter = compile(
            "mutations:
  request_mutations:
  - append: {header: {key: x-a, value: '%REQ(x-in)%'}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
  - append: {header: {key: x-b, value: 'b %REQ(x-a)%'}}
  - remove: x-in
  - remove_on_match: {key_matcher: {prefix: x-drop}}
  response_mutations:
  - append: {header: {key: x-r, value: r}}
  - remove: server",
        )
        .unwrap();
        let mut stream = test_stream(&[("x-in", "v"), ("x-a", "old"), ("x-drop-me", "1"), ("x-drop-too", "1")]);
        assert!(matches!(filter.on_request(&mut stream), Step::Continue));
        let mut request: Vec<_> =
            stream.request.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        request.sort_unstable();
        assert_eq!(request, [("x-a", "v"), ("x-b", "b v")]);
        let mut response = ResponseHead::default();
        response.headers.insert("server", "s".parse().unwrap());
        stream.response = Some(response);
        filter.on_response(&mut stream);
        let headers = &stream.response.as_ref().unwrap().headers;
        assert_eq!((headers.len(), headers.get("x-r").unwrap().as_bytes()), (1, &b"r"[..]));
    }

    #[test]
    fn mistakes_are_found_with_their_path() {
        for (text, expected) in [
            (
                "{mutations: {request_mutations: [{}]}}",
                "f.mutations.request_mutations[0]: one of remove, append, remove_on_match is required",
            ),
            (
                "{mutations: {response_mutations: [{remove: ':status'}]}}",
                "f.mutations.response_mutations[0].remove: :-prefixed or host headers may not be removed",
            ),
            (
                "{mutations: {request_trailers_mutations: [{remove: x}]}}",
                "f.mutations.request_trailers_mutations: not supported yet",
            ),
        ] {
            assert_eq!(compile(text).unwrap_err().to_string(), expected);
        }
    }
}
