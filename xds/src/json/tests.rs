use super::*;
use crate::{
    Error,
    envoy::{
        config::{bootstrap::v3::Bootstrap, cluster::v3::Cluster, core::v3::Node, listener::v3::Listener},
        extensions::transport_sockets::tls::v3::{DownstreamTlsContext, Secret},
        service::discovery::v3::DeltaDiscoveryResponse,
    },
    google::protobuf::{Any, StringValue, Struct},
    udpa::r#type::v1::TypedStruct,
    yaml,
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// Our own test data, or all of the recordings where `WAYPOST_FIXTURES` says.
pub(crate) fn fixtures() -> PathBuf {
    std::env::var_os("WAYPOST_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata"), PathBuf::from)
}

pub(crate) fn files(directory: &Path, extension: &str, into: &mut Vec<PathBuf>) {
    for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files(&path, extension, into);
        } else if path.extension().is_some_and(|found| found == extension) {
            into.push(path);
        }
    }
    into.sort();
}

pub(crate) fn read(path: &Path) -> Value {
    parse(&fs::read_to_string(path).unwrap()).unwrap()
}

fn wire(value: &Value, name: &str) -> Vec<u8> {
    decode(value, name, &Options::reject_unknown()).unwrap()
}

/// There and back.
fn canonical(value: &Value, name: &str) -> Value {
    encode(name, &wire(value, name), false).unwrap()
}

fn error(value: &Value, name: &str) -> String {
    decode(value, name, &Options::reject_unknown()).unwrap_err().to_string()
}

fn bootstrap_error(text: &str) -> String {
    error(&yaml::parse(text).unwrap(), BOOTSTRAP)
}

#[test]
fn what_istiod_pushes_goes_to_the_wire_and_back() {
    let mut paths = vec![];
    files(&fixtures(), "json", &mut paths);
    paths.retain(|path| path.iter().any(|part| part == "state"));
    assert!(paths.len() >= 6);
    for path in paths {
        for resource in read(&path).as_array().unwrap() {
            let options = Options::reject_unknown();
            let wire = decode(resource, "google.protobuf.Any", &options)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(encode("google.protobuf.Any", &wire, false).unwrap(), *resource, "{}", path.display());
        }
    }
}

#[test]
fn recorded_pushes_are_shown_as_istiod_shows_them() {
    let root = fixtures();
    let mut compared = 0;
    let mut paths = vec![];
    files(&root, "pb", &mut paths);
    for path in paths {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let kind = name.split_once('-').unwrap().1;
        let folder = path.parent().unwrap();
        // The first push of a kind is the initial state, in another order.
        let first = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let first = first.filter(|found| found.ends_with(&format!("-{kind}.pb"))).min().unwrap();
        let state = folder.join("state/0-initial").join(kind).with_extension("json");
        if !first.starts_with(name) || !state.exists() || folder.parent().unwrap().ends_with("waypoint-basic-sotw") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let expected = read(&state);
        let shown = encode("envoy.service.discovery.v3.DeltaDiscoveryResponse", &bytes, false).unwrap();
        for resource in shown["resources"].as_array().unwrap() {
            let name = &resource["name"];
            let resource = &resource["resource"];
            let known = expected.as_array().unwrap().iter();
            assert!(known.clone().any(|known| known == resource), "{}: {name}: {resource:#}", path.display());
            compared += 1;
        }
        // The Rust types agree on what that means.
        for (recorded, resource) in DeltaDiscoveryResponse::decode(bytes.as_slice())
            .unwrap()
            .resources
            .iter()
            .zip(shown["resources"].as_array().unwrap())
        {
            let any = recorded.resource.as_ref().unwrap();
            let ours = Any::decode(wire(&resource["resource"], "google.protobuf.Any").as_slice()).unwrap();
            assert_eq!(any.type_url, ours.type_url);
            if any.type_url.ends_with("Cluster") {
                assert_eq!(
                    as_json(&Cluster::decode(any.value.as_slice()).unwrap()),
                    as_json(&Cluster::decode(ours.value.as_slice()).unwrap())
                );
            } else if any.type_url.ends_with("Listener") {
                assert_eq!(
                    as_json(&Listener::decode(any.value.as_slice()).unwrap()),
                    as_json(&Listener::decode(ours.value.as_slice()).unwrap())
                );
            }
        }
    }
    assert!(compared >= 30, "{compared}");
}

fn as_json<M: Message + Name>(message: &M) -> Value {
    to_value(message, false).unwrap()
}

#[test]
fn the_agents_bootstrap_is_understood() {
    let mut paths = vec![];
    files(&fixtures().join("bootstrap"), "json", &mut paths);
    for path in paths {
        let document = read(&path);
        let options = Options::ignore_unknown();
        let bootstrap: Bootstrap =
            from_value(&document, &options).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(options.take_unknown(), Vec::<String>::new());
        assert_eq!(bootstrap.node.as_ref().unwrap().id, document["node"]["id"].as_str().unwrap());
        let shown = to_value(&bootstrap, false).unwrap();
        assert_eq!(canonical(&shown, BOOTSTRAP), shown);
    }
}

#[test]
fn errors_name_the_field() {
    for (text, expected) in [
        ("node: {id: on}", "node.id: expected a string, found a boolean"),
        ("node: {id: 5}", "node.id: expected a string, found a number"),
        ("node: {idd: x}", "node.idd: envoy.config.core.v3.Node has no such field"),
        ("node: [1]", "node: expected an object, found a list"),
        ("stats_flush_interval: 5", "stats_flush_interval: expected a duration such as `1.5s`, found a number"),
        (
            "stats_flush_interval: 5ms",
            "stats_flush_interval: a duration is a number with up to nine decimals and `s`, as in `1.5s`",
        ),
        ("stats_flush_interval: 5m", "stats_flush_interval: a duration ends in `s`, as in `1.5s`"),
        (
            "static_resources: {clusters: [{name: a}, {name: b, type: FOO}]}",
            "static_resources.clusters[1].type: there is no enum value \"FOO\"",
        ),
        (
            "static_resources: {clusters: [{type: STATIC, cluster_type: {name: x}}]}",
            "static_resources.clusters[0].cluster_type: `type` is set already, and only one of the two can be",
        ),
        (
            "static_resources: {clusters: [{perConnectionBufferLimitBytes: 4294967296}]}",
            "static_resources.clusters[0].per_connection_buffer_limit_bytes: 4294967296 is not between 0 and 4294967295",
        ),
        (
            "static_resources: {clusters: [{per_connection_buffer_limit_bytes: 17.5}]}",
            "static_resources.clusters[0].per_connection_buffer_limit_bytes: expected a whole number, found 17.5",
        ),
        (
            "static_resources: {listeners: [{filter_chains: [{filters: [{typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: 7}}]}]}]}",
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.stat_prefix: expected a string, found a number",
        ),
        (
            "static_resources: {listeners: [{filter_chains: [{filters: [{typed_config: {'@type': type.googleapis.com/foo.Bar}}]}]}]}",
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.@type: unknown type `type.googleapis.com/foo.Bar`",
        ),
        (
            "static_resources: {clusters: [{typed_extension_protocol_options: {x: {a: 1}}}]}",
            "static_resources.clusters[0].typed_extension_protocol_options[\"x\"]: `@type` is missing",
        ),
        (
            "static_resources: {clusters: [{typed_extension_protocol_options: {x: {'@type': google.protobuf.Empty}}}]}",
            "static_resources.clusters[0].typed_extension_protocol_options[\"x\"].@type: `google.protobuf.Empty` is not of the form `type.googleapis.com/` and a message",
        ),
        ("[1]", "expected an object, found a list"),
    ] {
        assert_eq!(bootstrap_error(text), expected, "{text}");
    }
    assert_eq!(
        decode(&json!({}), "foo.Bar", &Options::default()).unwrap_err(),
        Error::new("", "unknown type `foo.Bar`")
    );
}

#[test]
fn unknown_fields_are_collected_when_they_are_ignored() {
    let document = yaml::parse("node: {id: a, idd: 1}\nstatic_resources: {clusters: [{name: a, lb_policy: BEST, typed_extension_protocol_options: {x: {'@type': type.googleapis.com/google.protobuf.Empty, z: 1}}}]}").unwrap();
    let options = Options::ignore_unknown();
    let bootstrap: Bootstrap = from_value(&document, &options).unwrap();
    assert_eq!(bootstrap.node.unwrap().id, "a");
    let expected = [
        "node.idd",
        "static_resources.clusters[0].lb_policy",
        "static_resources.clusters[0].typed_extension_protocol_options[\"x\"].z",
    ];
    assert_eq!(options.take_unknown(), expected);
    assert!(options.take_unknown().is_empty());
}

/// Each of these was tried on Envoy 1.40 with `--mode validate`.
#[test]
fn what_envoys_parser_forgives_is_forgiven() {
    for (given, shown) in [
        (json!({"perConnectionBufferLimitBytes": "17"}), json!({"per_connection_buffer_limit_bytes": 17})),
        (json!({"per_connection_buffer_limit_bytes": "1e3"}), json!({"per_connection_buffer_limit_bytes": 1000})),
        (json!({"per_connection_buffer_limit_bytes": 17.0}), json!({"per_connection_buffer_limit_bytes": 17})),
        (json!({"per_connection_buffer_limit_bytes": "+5"}), json!({"per_connection_buffer_limit_bytes": 5})),
        (json!({"per_connection_buffer_limit_bytes": "007"}), json!({"per_connection_buffer_limit_bytes": 7})),
        (json!({"per_connection_buffer_limit_bytes": {"value": 5}}), json!({"per_connection_buffer_limit_bytes": 5})),
        (json!({"per_connection_buffer_limit_bytes": null}), json!({})),
        (json!({"connect_timeout": {"seconds": 1, "nanos": 500_000_000}}), json!({"connect_timeout": "1.500s"})),
        (json!({"ignore_health_on_host_removal": "yes"}), json!({"ignore_health_on_host_removal": true})),
        (json!({"lb_policy": "maglev"}), json!({"lb_policy": "MAGLEV"})),
        (json!({"lb_policy": "5"}), json!({"lb_policy": "MAGLEV"})),
        (json!({"lb_policy": 77}), json!({"lb_policy": 77})),
        (json!({"type": "STATIC", "cluster_type": null}), json!({"type": "STATIC"})),
        (json!({"connect_timeout": "1s", "connectTimeout": "2s"}), json!({"connect_timeout": "2s"})),
        (
            json!({"typed_extension_protocol_options": {"x": {}}}),
            json!({"typed_extension_protocol_options": {"x": {}}}),
        ),
        (json!({"metadata": {"filter_metadata": {"x": null}}}), json!({"metadata": {"filter_metadata": {"x": {}}}})),
        (json!({"health_checks": {"timeout": "1s"}}), json!({"health_checks": [{"timeout": "1s"}]})),
        (json!({"health_checks": [null]}), json!({"health_checks": [{}]})),
    ] {
        assert_eq!(canonical(&given, "envoy.config.cluster.v3.Cluster"), shown, "{given}");
    }
    let nested = json!({"server_names": [["a", "b"], "c"], "destination_port": 1});
    assert_eq!(canonical(&nested, "envoy.config.listener.v3.FilterChainMatch")["server_names"], json!(["a", "b", "c"]));
}

#[test]
fn well_known_types_have_forms_of_their_own() {
    for (name, given, shown) in [
        ("google.protobuf.Duration", json!("1.5s"), json!("1.500s")),
        ("google.protobuf.Timestamp", json!("1970-01-01T01:00:00+01:00"), json!("1970-01-01T00:00:00Z")),
        ("google.protobuf.FieldMask", json!("fooBar,b"), json!("fooBar,b")),
        ("google.protobuf.BytesValue", json!("-_8"), json!("+/8=")),
        ("google.protobuf.BoolValue", json!(false), json!(false)),
        ("google.protobuf.Int64Value", json!(-9_223_372_036_854_775_808i64), json!("-9223372036854775808")),
        ("google.protobuf.UInt64Value", json!("18446744073709551615"), json!("18446744073709551615")),
        ("google.protobuf.Int32Value", json!(-1), json!(-1)),
        ("google.protobuf.FloatValue", json!(0.1), json!(0.1)),
        ("google.protobuf.DoubleValue", json!("NaN"), json!("NaN")),
        ("google.protobuf.DoubleValue", json!("-Infinity"), json!("-Infinity")),
        ("google.protobuf.DoubleValue", json!(2.0), json!(2)),
        ("google.protobuf.DoubleValue", json!("5.5 "), json!(5.5)),
        ("google.protobuf.Value", json!(null), json!(null)),
        (
            "google.protobuf.ListValue",
            json!([1, "a", null, true, {"b": [0.5]}]),
            json!([1, "a", null, true, {"b": [0.5]}]),
        ),
        ("google.protobuf.Struct", json!({"b": 1, "a": {"@type": "x"}}), json!({"a": {"@type": "x"}, "b": 1})),
        ("google.protobuf.Empty", json!({}), json!({})),
        (
            "google.protobuf.Any",
            json!({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}),
            json!({"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}),
        ),
    ] {
        assert_eq!(canonical(&given, name), shown, "{name} {given}");
    }
    for (name, given) in [
        ("google.protobuf.BytesValue", json!("a")),
        ("google.protobuf.BytesValue", json!("ä")),
        ("google.protobuf.Int64Value", json!("9223372036854775808")),
        ("google.protobuf.Int64Value", json!(1e300)),
        ("google.protobuf.Int32Value", json!(" 1")),
        ("google.protobuf.Int32Value", json!("")),
        ("google.protobuf.UInt32Value", json!(-1)),
        ("google.protobuf.UInt32Value", json!(true)),
        ("google.protobuf.FloatValue", json!(1e39)),
        ("google.protobuf.DoubleValue", json!("1e999")),
        ("google.protobuf.DoubleValue", json!("inf")),
        ("google.protobuf.BoolValue", json!(1)),
        ("google.protobuf.BoolValue", json!("maybe")),
        ("google.protobuf.Struct", json!([])),
        ("google.protobuf.ListValue", json!({})),
        ("google.protobuf.Timestamp", json!("yesterday")),
        (
            "google.protobuf.Any",
            json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "a", "z": 1}),
        ),
    ] {
        assert!(!error(&given, name).is_empty(), "{name} {given}");
    }
}

#[test]
fn secrets_are_hidden_wherever_they_are() {
    let options = Options::reject_unknown();
    let secret: Secret = from_value(
        &json!({"name": "a", "tls_certificate": {"certificate_chain": {"inline_string": "public"}, "private_key": {"inline_bytes": "c2VjcmV0"}, "password": {"inline_string": "secret"}}}),
        &options,
    )
    .unwrap();
    let hidden = json!({"name": "a", "tls_certificate": {"certificate_chain": {"inline_string": "public"}, "private_key": {"inline_bytes": "W3JlZGFjdGVkXQ=="}, "password": {"inline_string": "[redacted]"}}});
    assert_eq!(to_value(&secret, true).unwrap(), hidden);
    assert_eq!(to_value(&secret, false).unwrap()["tls_certificate"]["password"]["inline_string"], "secret");

    let url = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let any = json!({"@type": url, "tls_certificate": {"password": {"inline_string": "secret"}}});
    let hidden = json!({"@type": url, "tls_certificate": {"password": {"inline_string": "[redacted]"}}});
    let name = "google.protobuf.Any";
    assert_eq!(encode(name, &wire(&any, name), true).unwrap(), hidden);

    let typed = |value: Value| json!({"@type": "type.googleapis.com/udpa.type.v1.TypedStruct", "type_url": url, "value": value});
    let shown = |value| encode(name, &wire(&typed(value), name), true).unwrap();
    let inner = json!({"tlsCertificate": {"password": {"inline_string": "secret"}}});
    assert_eq!(shown(inner), typed(json!({"tls_certificate": {"password": {"inline_string": "[redacted]"}}})));
    assert_eq!(shown(json!({"tls_certificate": "secret"})), typed(json!("[redacted]")));
}

#[test]
fn a_second_document_is_merged_over_the_first() {
    let options = Options::reject_unknown();
    let mut node: Node = from_value(
        &json!({"id": "a", "cluster": "c", "locality": {"region": "r"}, "client_features": ["x"]}),
        &options,
    )
    .unwrap();
    merge(&mut node, &json!({"id": "b", "locality": {"zone": "z"}, "client_features": ["y"]}), &options).unwrap();
    let expected =
        json!({"id": "b", "cluster": "c", "locality": {"region": "r", "zone": "z"}, "client_features": ["x", "y"]});
    assert_eq!(to_value(&node, false).unwrap(), expected);
}

#[test]
fn messages_in_pieces_are_one_and_the_last_of_a_oneof_counts() {
    let name = "envoy.config.cluster.v3.Cluster";
    let mut bytes =
        wire(&json!({"type": "STATIC", "common_lb_config": {"healthy_panic_threshold": {"value": 5}}}), name);
    bytes.extend(wire(
        &json!({"cluster_type": {"name": "x"}, "common_lb_config": {"close_connections_on_host_set_change": true}}),
        name,
    ));
    let expected = json!({"cluster_type": {"name": "x"}, "common_lb_config": {"healthy_panic_threshold": {"value": 5}, "close_connections_on_host_set_change": true}});
    let shown = encode(name, &bytes, false).unwrap();
    assert_eq!(shown, expected);
    assert_eq!(to_value(&Cluster::decode(bytes.as_slice()).unwrap(), false).unwrap(), expected);
}

#[test]
fn an_any_that_nobody_knows_is_shown_as_bytes() {
    let any = Any { type_url: "type.googleapis.com/foo.Bar".to_owned(), value: vec![1, 2, 3] };
    assert_eq!(to_value(&any, true).unwrap(), json!({"@type": "type.googleapis.com/foo.Bar", "value": "AQID"}));
    assert_eq!(to_value(&Any::default(), true).unwrap(), json!({}));
}

#[test]
fn an_any_in_an_any_and_a_typed_struct_keep_their_order() {
    let options = Options::reject_unknown();
    let any = json!({"@type": "type.googleapis.com/google.protobuf.Any", "value": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "x"}});
    let outer: Any = from_value(&any, &options).unwrap();
    let inner = Any::decode(outer.value.as_slice()).unwrap();
    assert_eq!(StringValue::decode(inner.value.as_slice()).unwrap().value, "x");
    let typed: TypedStruct = from_value(&json!({"type_url": "t", "value": {"b": 1}}), &options).unwrap();
    assert_eq!(typed.value.unwrap().fields.len(), 1);
}

#[test]
fn nothing_nests_without_end() {
    let mut deep = json!(1);
    for _ in 0..1000 {
        deep = json!({ "a": deep });
    }
    assert!(error(&json!({"metadata": deep}), "envoy.config.core.v3.Node").ends_with("nested more than 100 deep"));
    let mut list = json!([]);
    for _ in 0..1000 {
        list = json!([list]);
    }
    assert!(
        error(&json!({ "clusters": list }), "envoy.config.bootstrap.v3.Bootstrap.StaticResources")
            .ends_with("nested more than 100 deep")
    );

    // An Any in an Any in an Any, and a struct in a struct.
    for (name, url) in [("google.protobuf.Any", true), ("google.protobuf.Struct", false)] {
        let mut bytes = vec![];
        for _ in 0..10_000 {
            let mut outer = vec![];
            if url {
                crate::wire::put_bytes(&mut outer, 1, b"x/google.protobuf.Any");
                crate::wire::put_bytes(&mut outer, 2, &bytes);
            } else {
                let (mut entry, mut value) = (vec![], vec![]);
                crate::wire::put_bytes(&mut value, 5, &bytes);
                crate::wire::put_bytes(&mut entry, 2, &value);
                crate::wire::put_bytes(&mut outer, 1, &entry);
            }
            bytes = outer;
        }
        assert!(encode(name, &bytes, false).unwrap_err().reason.starts_with("nested more than 100 deep"), "{name}");
    }
    assert!(parse(&"[".repeat(100_000)).is_err());
    assert!(parse(&"{\"a\":".repeat(100_000)).is_err());
}

#[test]
fn a_hundred_levels_are_a_document() {
    // The Rust types stop earlier: prost's own limit counts the map entries between.
    let mut deep = json!(1);
    // Node and Struct are two of them.
    for _ in 0..99 {
        deep = json!({ "a": deep });
    }
    let document = json!({ "metadata": deep });
    assert_eq!(canonical(&document, "envoy.config.core.v3.Node"), document);
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    for bytes in [&b"\x0a"[..], b"\x0a\xff\xff\xff\xff\x0f", b"\x0b", b"\x08\x01", b"\x0a\x01\xff", b"\xff"] {
        assert!(encode("envoy.config.core.v3.Node", bytes, false).is_err(), "{bytes:?}");
    }
}

#[test]
fn every_message_of_the_api_survives_hostile_bytes() {
    // A small generator: what matters is that nothing panics, and that what is accepted can be shown.
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    for message in schema::messages() {
        for _ in 0..4 {
            let mut bytes = vec![];
            for field in message.fields() {
                let length = next() % 12;
                let noise: Vec<u8> = (0..length).map(|_| next() as u8 >> (next() % 8)).collect();
                match next() % 3 {
                    0 => crate::wire::put_bytes(&mut bytes, field.number, &noise),
                    1 => crate::wire::put(&mut bytes, field.number, crate::wire::Raw::Varint(next().into())),
                    _ => {}
                }
            }
            let shown = encode(message.name(), &bytes, next() % 2 == 0);
            if let Ok(value @ Value::Object(_)) = &shown {
                assert!(
                    decode(value, message.name(), &Options::ignore_unknown()).is_ok()
                        || value.to_string().contains("@type"),
                    "{}: {value}",
                    message.name()
                );
            }
        }
    }
}

#[test]
fn every_field_of_every_message_can_be_written() {
    for message in schema::messages().filter(|message| message.shape() == schema::Shape::Object) {
        for field in message.fields().filter(|field| field.map().is_none()) {
            let (given, repeated) = (sample(field.kind), field.is_repeated());
            let document = json!({ field.name: if repeated { json!([given]) } else { given } });
            let shown = canonical(&document, message.name());
            assert_eq!(shown, document, "{}", message.name());
        }
    }
}

/// A value that is no default.
fn sample(kind: schema::Kind) -> Value {
    use schema::{Kind, Shape};
    match kind {
        Kind::Double | Kind::Float => json!(0.5),
        Kind::Int64 | Kind::Uint64 | Kind::Fixed64 | Kind::Sfixed64 | Kind::Sint64 => json!("77"),
        Kind::Int32 | Kind::Uint32 | Kind::Fixed32 | Kind::Sfixed32 | Kind::Sint32 => json!(77),
        Kind::Bool => json!(true),
        Kind::String => json!("a"),
        Kind::Bytes => json!("AQID"),
        Kind::Enum(_) => json!(12_345),
        Kind::Message(message) => match message.shape() {
            Shape::Wrapper => message.number(1).map_or(Value::Null, |field| sample(field.kind)),
            Shape::Duration => json!("1s"),
            Shape::Timestamp => json!("2026-01-01T00:00:00Z"),
            Shape::FieldMask => json!("a"),
            Shape::Value | Shape::ListValue => json!([1]),
            _ => json!({}),
        },
    }
}

#[test]
fn json_with_a_comma_too_many_is_read() {
    assert_eq!(parse("{\"node\": {'id': 'a', x: 1.5,},}").unwrap(), json!({"node": {"id": "a", "x": 1.5}}));
    for bad in ["", "{", "{\"a\": 1} /* c */", "{\"a\": b}", "a: 1", "{\"a\" 1}"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_struct_in_rust_has_the_same_content() {
    let options = Options::reject_unknown();
    let metadata: Struct = from_value(&json!({"a": {"b": [1, "x", null]}}), &options).unwrap();
    assert_eq!(to_value(&metadata, false).unwrap(), json!({"a": {"b": [1, "x", null]}}));
    let context: DownstreamTlsContext = from_value(&json!({"requireClientCertificate": true}), &options).unwrap();
    assert_eq!(context.require_client_certificate.map(|value| value.value), Some(true));
}
