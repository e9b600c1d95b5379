//! Tests of the keys and tables of scopes.

use std::sync::Arc;

use waypost_xds::envoy::config::route::v3::ScopedRouteConfiguration;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3::scoped_routes::ScopeKeyBuilder;
use waypost_xds::{json, yaml};

use super::scopes::{KeyBuilder, Scope, ScopeRoutes, ScopeTable, key_of};
use super::tests::stream;
use crate::config::ConfigError;

fn builder(fragments: &str) -> Result<KeyBuilder, ConfigError> {
    let value = yaml::parse(&format!("{{fragments: [{fragments}]}}")).unwrap();
    let config: ScopeKeyBuilder = json::from_value(&value, &json::Options::reject_unknown()).unwrap();
    KeyBuilder::compile(config, "b")
}

fn scope(text: &str) -> Result<super::scopes::ScopeKey, ConfigError> {
    let config: ScopedRouteConfiguration =
        json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap();
    key_of(&config, "s")
}

const ELEMENT: &str =
    "{header_value_extractor: {name: X-Route, element_separator: ';', element: {key: vip, separator: '='}}}";

fn key(fragments: &str, headers: &[(&str, &str)]) -> Option<Vec<Vec<u8>>> {
    let key = builder(fragments).unwrap().key(&stream("ex.com", "/p", headers).request)?;
    let (mut rest, mut out) = (&key[..], Vec::new());
    while let Some((length, more)) = rest.split_at_checked(4) {
        let (fragment, after) = more.split_at(u32::from_le_bytes(length.try_into().unwrap()) as usize);
        out.push(fragment.to_vec());
        rest = after;
    }
    Some(out)
}

#[test]
fn a_fragment_is_an_element_of_a_header_by_its_key_or_its_place() {
    let index = |n: u32| format!("{{header_value_extractor: {{name: x-route, element_separator: ', ', index: {n}}}}}");
    let whole = "{header_value_extractor: {name: x-route, index: 0}}";
    let host = "{header_value_extractor: {name: host, index: 0}}";
    for (fragments, value, expected) in [
        (ELEMENT, "a=1;vip=10.0.0.1;vip=2", Some("10.0.0.1")),
        (ELEMENT, "vip=a=b", Some("a=b")),
        (ELEMENT, "vip", Some("")),
        (ELEMENT, "VIP=1", None),
        (ELEMENT, "", None),
        (&index(0), "a, b,c", Some("a")),
        (&index(1), "a, b,c", Some("b,c")),
        (&index(2), "a, b,c", None),
        (&index(1), "a, ", Some("")),
        (whole, "a, b", Some("a, b")),
        (host, "-", Some("ex.com")),
        ("{header_value_extractor: {name: ':path', index: 0}}", "-", Some("/p")),
        ("{header_value_extractor: {name: ':method', index: 0}}", "-", Some("GET")),
        ("{header_value_extractor: {name: ':status', index: 0}}", "-", None),
    ] {
        let expected = expected.map(|e| vec![e.as_bytes().to_vec()]);
        assert_eq!(key(fragments, &[("x-route", value)]), expected, "{fragments} of {value}");
    }
    assert_eq!(key(ELEMENT, &[]), None, "no header");
    assert_eq!(key(ELEMENT, &[("x-route", "a=1"), ("x-route", "vip=2")]), None, "only the first value counts");
    let two = format!("{ELEMENT}, {host}");
    assert_eq!(key(&two, &[("x-route", "vip=1")]), Some(vec![b"1".to_vec(), b"ex.com".to_vec()]));
    assert_eq!(key(&two, &[]), None, "one fragment of two is no key");
}

#[test]
fn a_scope_is_found_by_the_fragments_of_its_key_and_not_by_their_text_run_together() {
    let two = "{header_value_extractor: {name: a, index: 0}}, {header_value_extractor: {name: b, index: 0}}";
    let mut table = ScopeTable::default();
    for (name, fragments) in
        [("one", "{string_key: '1'}, {string_key: '23'}"), ("two", "{string_key: '12'}, {string_key: '3'}")]
    {
        let key = scope(&format!("{{name: {name}, route_configuration_name: r, key: {{fragments: [{fragments}]}}}}"));
        table.insert(&key.unwrap(), Scope { name: name.into(), routes: ScopeRoutes::OnDemand(Arc::from("r")) });
    }
    let builder = builder(two).unwrap();
    let find = |a: &str, b: &str| {
        let key = builder.key(&stream("h", "/", &[("a", a), ("b", b)]).request).unwrap();
        table.find(&key).map_or("-".to_owned(), |s| s.name.to_string())
    };
    assert_eq!((find("1", "23"), find("12", "3"), find("123", "")), ("one".into(), "two".into(), "-".into()));
}

#[test]
fn what_makes_no_key_is_refused_with_its_path() {
    let extractor = |text: &str| builder(&format!("{{header_value_extractor: {{{text}}}}}")).unwrap_err().to_string();
    let path = "b.fragments[0].header_value_extractor";
    for (text, expected) in [
        ("name: x, index: 1", "index: Index > 0 for empty string element separator."),
        ("name: x, element: {key: '', separator: '='}", "element.key: value length must be at least 1 characters"),
        ("name: x, element: {key: a}", "element.separator: value length must be at least 1 characters"),
        ("index: 0", "name: value length must be at least 1 characters"),
        ("name: 'a b', index: 0", "name: not a header name"),
    ] {
        assert_eq!(extractor(text), format!("{path}.{expected}"));
    }
    assert_eq!(extractor("name: x"), format!("{path}: HeaderValueExtractor extract_type not set."));
    assert_eq!(builder("{}").unwrap_err().to_string(), "b.fragments[0].type: value is required");
    assert_eq!(builder("").unwrap_err().to_string(), "b.fragments: value must contain at least 1 item(s)");
    for (text, expected) in [
        ("{key: {fragments: [{string_key: a}]}}", "s.name: value length must be at least 1 characters"),
        ("{name: a}", "s.key: value is required"),
        ("{name: a, key: {}}", "s.key.fragments: value must contain at least 1 item(s)"),
        ("{name: a, key: {fragments: [{}]}}", "s.key.fragments[0].type: value is required"),
    ] {
        assert_eq!(scope(text).unwrap_err().to_string(), expected);
    }
}
