use http::Request;

use super::*;
use crate::http::config::tests::compile;

fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn verdict(method: &str, uri: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
    check(&compile(|_| {}).unwrap(), &mut parts(method, uri, headers))
}

#[test]
fn a_request_needs_one_authority() {
    assert_eq!(verdict("GET", "http://x.com/", &[]), Ok(()));
    assert_eq!(verdict("GET", "http://x.com/", &[("host", "y.com")]), Ok(()));
    assert_eq!(verdict("GET", "/", &[("host", "x.com")]), Ok(()));
    assert_eq!(verdict("CONNECT", "h:80", &[]), Ok(()));
    assert_eq!(verdict("GET", "/", &[]), Err(Refusal::Message(BROKEN_RULE)));
    assert_eq!(verdict("GET", "/", &[("host", "a"), ("host", "b")]), Err(Refusal::Message(INVALID_HEADER)));
    assert_eq!(verdict("GET", "http://u:p@h/", &[]), Err(Refusal::Message(INVALID_HEADER)));
}

#[test]
fn an_asterisk_is_for_options() {
    assert_eq!(verdict("OPTIONS", "*", &[("host", "x")]), Ok(()));
    assert_eq!(verdict("GET", "*", &[("host", "x")]), Err(Refusal::Message(BROKEN_RULE)));
}

#[test]
fn headers_are_counted_with_pseudo_headers() {
    let names: Vec<String> = (0..97).map(|i| format!("h{i}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|n| (n.as_str(), "v")).collect();
    assert_eq!(verdict("GET", "http://x.com/", headers.get(..96).unwrap()), Ok(()));
    assert_eq!(verdict("GET", "http://x.com/", &headers), Err(Refusal::Limit("http2.too_many_headers")));
}

#[test]
fn underscores_are_refused_or_dropped() {
    let mut with = parts("GET", "http://x.com/", &[("a_b", "1"), ("c-d", "2"), ("e_f", "3"), ("e_f", "4")]);
    assert_eq!(underscores(Underscores::Reject, &mut with), Err(Refusal::Limit("http2.unexpected_underscore")));
    assert_eq!(underscores(Underscores::Drop, &mut with), Ok(()));
    assert_eq!(with.headers.len(), 1);
    assert!(with.headers.contains_key("c-d"));
}
