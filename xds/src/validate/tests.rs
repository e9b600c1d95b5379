use super::*;
use crate::{
    google::protobuf::Any,
    json::{self, Options},
    yaml,
};
use serde_json::Value;

fn reason(text: &str) -> String {
    let name = "envoy.config.bootstrap.v3.Bootstrap";
    let wire = json::decode(&yaml::parse(text).unwrap(), name, &Options::reject_unknown()).unwrap();
    check(name, &wire).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
}

fn cluster(text: &str) -> String {
    reason(&format!("static_resources: {{clusters: [{{name: a, {text}}}]}}"))
}

#[test]
fn a_broken_rule_is_named_with_its_field() {
    for (given, expected) in [
        ("name: b", "fine"),
        ("name: ''", "name: value length must be at least 1 characters"),
        ("connect_timeout: 0s", "connect_timeout: value must be greater than 0 ns"),
        ("connect_timeout: 1s", "fine"),
        ("type: 77", "type: value must be one of the defined enum values"),
        (
            "ring_hash_lb_config: {maximum_ring_size: 8388609}",
            "ring_hash_lb_config.maximum_ring_size: value must be less than or equal to 8388608",
        ),
        ("ring_hash_lb_config: {maximum_ring_size: 8388608}", "fine"),
        (
            "common_lb_config: {healthy_panic_threshold: {value: 100.5}}",
            "common_lb_config.healthy_panic_threshold.value: value must be less than or equal to 100",
        ),
        (
            "health_checks: [{timeout: 1s}]",
            "health_checks[0]: one of http_health_check, tcp_health_check, grpc_health_check, custom_health_check is required",
        ),
        ("health_checks: [{tcp_health_check: {}, timeout: 1s}]", "health_checks[0].interval: value is required"),
    ] {
        let expected =
            if expected == "fine" { expected.to_owned() } else { format!("static_resources.clusters[0].{expected}") };
        assert_eq!(cluster(given), expected, "{given}");
    }
}

#[test]
fn a_value_may_be_forbidden() {
    let name = "envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher";
    let check = |document: Value| {
        check(name, &json::decode(&document, name, &Options::reject_unknown()).unwrap())
            .map_err(|error| error.to_string())
    };
    assert_eq!(check(serde_json::json!({"san_type": "URI", "matcher": {"exact": "a"}})), Ok(()));
    assert_eq!(
        check(serde_json::json!({"matcher": {"exact": "a"}})),
        Err("san_type: value must not be in the list that the API gives".to_owned())
    );
    assert_eq!(check(serde_json::json!({"san_type": "URI"})), Err("matcher: value is required".to_owned()));
}

#[test]
fn lists_strings_and_headers_have_rules_too() {
    let listener = |chain: &str| {
        let document = yaml::parse(chain).unwrap();
        let name = "envoy.config.route.v3.VirtualHost";
        let wire = json::decode(&document, name, &Options::reject_unknown()).unwrap();
        check(name, &wire).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    };
    assert_eq!(listener("{name: a, domains: ['*']}"), "fine");
    assert_eq!(listener("{name: a}"), "domains: value must contain at least 1 item(s)");
    assert_eq!(
        listener("{name: a, domains: ['*', \"a\\nb\"]}"),
        "domains[1]: value does not match regex pattern of a header"
    );
    assert_eq!(
        listener("{name: a, domains: ['*'], request_headers_to_remove: [\"a\\nb\"]}"),
        "request_headers_to_remove[0]: value does not match regex pattern of a header"
    );
}

/// Every message of a push, those in an `Any` too.
fn check_all(value: &Value, path: &str) {
    if let Some(url) = value.get("@type").and_then(Value::as_str) {
        // The agent fetches remote Wasm and writes the checksum before Envoy sees it; istiod leaves it empty.
        if url.ends_with("wasm.v3.Wasm") {
            return;
        }
        let any: Any = json::from_value(value, &Options::reject_unknown()).unwrap();
        assert_eq!(check(json::type_name(url), &any.value), Ok(()), "{path}: {value:#}");
    }
    match value {
        Value::Array(list) => list.iter().for_each(|value| check_all(value, path)),
        Value::Object(object) => object.values().for_each(|value| check_all(value, path)),
        _ => {}
    }
}

#[test]
fn what_istiod_pushes_breaks_no_rule() {
    let mut paths = vec![];
    json::tests::files(&json::tests::fixtures(), "json", &mut paths);
    paths.retain(|path| path.iter().any(|part| part == "state"));
    assert!(paths.len() >= 6);
    for path in paths {
        check_all(&json::tests::read(&path), &path.display().to_string());
    }
}
