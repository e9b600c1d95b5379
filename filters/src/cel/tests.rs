use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;

use super::{CelError, Expression, Options};
use crate::address::Address;
use crate::connection::{CertificateInfo, Connection, Direction, TlsSession};
use crate::filter_state::{Entry, Object, Shared};
use crate::format::FormatContext;
use crate::head::{Protocol, RequestHead, ResponseHead, Scheme};
use crate::metadata::Metadata;
use crate::stream::{ClusterNames, HostInfo, HttpStream, StreamInfo};

fn parse(text: &str) -> Result<Expression, CelError> {
    Expression::parse(text, Options::default())
}

fn refused(text: &str) -> String {
    parse(text).map(|_| format!("{text} was taken")).unwrap_err().to_string()
}

fn address(text: &str) -> Address {
    Address::parse_ip_port(text).unwrap()
}

fn headers(lines: &[(&str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(n, v)| (HeaderName::from_bytes(n.as_bytes()).unwrap(), HeaderValue::from_static(v))).collect()
}

fn metadata(namespace: &str, value: serde_json::Value) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set(namespace.into(), Arc::new(value));
    metadata
}

/// The request that the real Envoy was sent when the tables were made.
fn stream() -> HttpStream {
    let mut connection = Connection {
        direction: Direction::Inbound,
        ..Connection::new(address("127.0.0.1:80"), address("127.0.0.2:4"))
    };
    connection.filter_chain = "fc".into();
    let mut info = StreamInfo::new(Arc::new(connection), 1, Instant::now(), SystemTime::UNIX_EPOCH);
    info.protocol = Some(Protocol::Http11);
    info.response_code = 404;
    info.details = Some("via_upstream".into());
    info.bytes_received = 5;
    info.bytes_sent = 4;
    info.route_name = Some("rt".into());
    info.virtual_host = Some("vh".into());
    info.route_metadata = Some(Arc::new(metadata("rm", json!({"q": "route"}))));
    info.upstream.cluster = Some(Arc::new(ClusterNames { name: "up".into(), observability_name: "alt".into() }));
    info.upstream.cluster_metadata = Some(Arc::new(metadata("cm", json!({"c": "clu"}))));
    let host = metadata("hm", json!({"h": "host"}));
    info.upstream.host =
        Some(Arc::new(HostInfo { address: address("127.0.0.3:99"), hostname: "".into(), metadata: host }));
    info.upstream.local = Some(address("127.0.0.1:5"));
    info.upstream.attempts = 1;
    info.timing.complete = Some(Duration::from_nanos(2_678_845));
    info.timing.first_upstream_sent = Some(Duration::from_nanos(14_860));
    info.timing.last_upstream_received = Some(Duration::from_millis(2) + Duration::from_micros(100));
    let values = json!({"s": "text", "n": 2, "h": 2.5, "b": true, "l": ["x", 1], "m": {"k": "v"}, "z": null});
    info.metadata = metadata("dyn", values);
    for (key, object) in [("fs", Object::String("hello".into())), (LOCAL_IP, Object::Address(address("10.0.0.1:80")))] {
        info.filter_state.set(Entry { key: key.into(), object, shared: Shared::None, read_only: false });
    }
    let request = RequestHead {
        method: Method::POST,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("example.com:80")),
        path: Some(HeaderValue::from_static("/p/a?x=1&y=2")),
        upgrade: None,
        headers: headers(&[
            ("user-agent", "ua"),
            ("x-a", "one"),
            ("x-a", "two"),
            ("x-up", "V"),
            ("referer", "ref"),
            ("content-length", "5"),
            ("x-request-id", "the-id"),
        ]),
        original_path: None,
    };
    let response =
        ResponseHead { status: StatusCode::NOT_FOUND, headers: headers(&[("x-multi", "1"), ("x-multi", "2")]) };
    HttpStream {
        info,
        request,
        response: Some(response),
        response_trailers: None,
        reroute: false,
        body: Default::default(),
    }
}

const LOCAL_IP: &str = "envoy.filters.listener.original_dst.local_ip";

fn text(expression: &Expression, cx: &FormatContext<'_>) -> Option<String> {
    let mut out = Vec::new();
    expression.text(cx, &mut out).then(|| String::from_utf8(out).unwrap())
}

fn json_of(expression: &Expression, cx: &FormatContext<'_>) -> Option<String> {
    let mut out = Vec::new();
    expression.json(cx, &mut out).then(|| String::from_utf8(out).unwrap())
}

/// What Envoy 1.40 printed with `%CEL(…)%` for the same request; none for `-`.
#[test]
fn attributes_read_as_in_envoy() {
    let table = [
        ("request.path", Some("/p/a?x=1&y=2")),
        ("request['path']", Some("/p/a?x=1&y=2")),
        ("request.url_path", Some("/p/a")),
        ("request.query", Some("x=1&y=2")),
        ("request.host", Some("example.com:80")),
        ("request.scheme", Some("http")),
        ("request.method", Some("POST")),
        ("request.headers['x-a']", Some("one,two")),
        ("request.headers['X-Up']", Some("V")),
        ("request.headers[':method']", Some("POST")),
        ("request.headers.referer", Some("ref")),
        ("request.headers['nope']", None),
        ("request.headers['not a name']", None),
        ("'X-Up' in request.headers", Some("true")),
        ("'nope' in request.headers", Some("false")),
        ("request.headers['x-' + 'a']", None),
        ("request.headers[request.method]", None),
        ("request.headers", Some("CelMap value")),
        ("size(request.headers)", Some("10")),
        ("request.nope", None),
        ("request.id", Some("the-id")),
        ("request.protocol", Some("HTTP/1.1")),
        ("request.time", Some("1970-01-01T00:00:00+00:00")),
        ("request.duration", Some("2.678845ms")),
        ("request.size", Some("5")),
        ("request.total_size", Some("140")),
        ("request.useragent", Some("ua")),
        ("request.referer", Some("ref")),
        ("request", Some("CelMap value")),
        ("response.code", Some("404")),
        ("response.code_details", Some("via_upstream")),
        ("response.flags", Some("0")),
        ("response.headers['x-multi']", Some("1,2")),
        ("response.headers[':status']", Some("404")),
        ("response.trailers['a']", None),
        ("response.size", Some("4")),
        ("response.grpc_status", Some("12")),
        ("response.backend_latency", Some("2.08514ms")),
        ("connection.mtls", Some("false")),
        ("connection.requested_server_name", Some("")),
        ("connection.tls_version", None),
        ("connection.termination_details", None),
        ("connection.subject_peer_certificate", None),
        ("source.address", Some("127.0.0.2:4")),
        ("source.port", Some("4")),
        ("destination.address", Some("127.0.0.1:80")),
        ("destination.port + 1", Some("81")),
        ("upstream.address", Some("127.0.0.3:99")),
        ("upstream.port", Some("99")),
        ("upstream.local_address", Some("127.0.0.1:5")),
        ("upstream.transport_failure_reason", Some("")),
        ("upstream.request_attempt_count", Some("1")),
        ("xds.cluster_name", Some("up")),
        ("xds.route_name", Some("rt")),
        ("xds.virtual_host_name", Some("vh")),
        ("xds.filter_chain_name", Some("fc")),
        ("xds.listener_direction", Some("1")),
        ("xds.cluster_metadata.filter_metadata.cm.c", Some("clu")),
        ("xds.route_metadata.filter_metadata['rm']['q']", Some("route")),
        ("xds.upstream_host_metadata.filter_metadata.hm.h", Some("host")),
        ("xds.virtual_host_metadata", None),
        ("metadata.filter_metadata.dyn.s", Some("text")),
        ("metadata.filter_metadata['dyn']", Some("CelMap value")),
        ("metadata['dyn']", None),
        ("metadata.filter_metadata.dyn.n", Some("2")),
        ("metadata.filter_metadata.dyn.h", Some("2.5")),
        ("metadata.filter_metadata.dyn.b", Some("true")),
        ("metadata.filter_metadata.dyn.l[0]", Some("x")),
        ("metadata.filter_metadata.dyn.m == {'k': 'v'}", Some("true")),
        ("metadata.filter_metadata.dyn.l == ['x', 1]", Some("true")),
        ("metadata.filter_metadata.dyn.z", Some("NULL")),
        ("metadata.filter_metadata.dyn.nope", None),
        ("has(metadata.filter_metadata.dyn.nope)", Some("false")),
        ("has(metadata.filter_metadata.dyn.s)", Some("true")),
        ("has(request.path)", Some("true")),
        ("has(request.nope)", Some("false")),
        ("has(request.headers.foo)", Some("false")),
        ("has(nope.foo)", None),
        ("filter_state", Some("CelMap value")),
        ("filter_state['fs']", Some("hello")),
        ("filter_state.fs", Some("hello")),
        ("filter_state['fs'] == 'hello'", Some("false")),
        ("filter_state['fs'] == b'hello'", Some("true")),
        ("filter_state['nope']", None),
        ("'fs' in filter_state", Some("true")),
        ("'nope' in filter_state", Some("false")),
        ("'a' in upstream_filter_state", Some("false")),
        ("upstream_filter_state['a']", None),
        ("nope", None),
        ("nope.foo", None),
        // Unlike Envoy, see the head of the module.
        ("filter_state['envoy.filters.listener.original_dst.local_ip']", Some("10.0.0.1:80")),
        ("filter_state['envoy.filters.listener.original_dst.local_ip'].ip", Some("10.0.0.1")),
        ("filter_state['envoy.filters.listener.original_dst.local_ip'].port", Some("80")),
    ];
    let stream = stream();
    let cx = FormatContext::of_stream(&stream);
    for (expression, expected) in table {
        let compiled = parse(expression).unwrap();
        assert_eq!(text(&compiled, &cx).as_deref(), expected, "{expression}");
    }
}

/// The same table for what needs no request.
#[test]
fn values_are_those_of_envoy() {
    let table = [
        ("1", Some("1")),
        ("-1", Some("-1")),
        ("- 1", Some("-1")),
        ("--1", Some("1")),
        ("1u", Some("1")),
        ("0x1F", Some("31")),
        ("0xFFu", Some("255")),
        ("1.5", Some("1.5")),
        (".5", Some("0.5")),
        ("-1.5", Some("-1.5")),
        ("1e3", Some("1000")),
        ("1e100", Some("1e+100")),
        ("1e-7", Some("1e-07")),
        ("123456789.0", Some("1.23457e+08")),
        ("100000.0", Some("100000")),
        ("0.0001", Some("0.0001")),
        ("1.e3", None),
        ("true", Some("true")),
        ("null", Some("NULL")),
        ("b'abc'", Some("abc")),
        ("\"a\\tb\"", Some("a\tb")),
        ("r'a\\tb'", Some("a\\tb")),
        ("'''a'b'''", Some("a'b")),
        ("'\\u00e9\\x41\\101'", Some("éAA")),
        ("[1,2]", Some("CelList value")),
        ("[1, 2,]", Some("CelList value")),
        ("{}", Some("CelMap value")),
        ("{'a': 1,}.a", Some("1")),
        ("{'a': 1, 'a': 2}", None),
        ("{[]: 1}", None),
        ("1+2", Some("3")),
        ("1+2*3-4", Some("3")),
        ("(1+2)*3", Some("9")),
        ("1+2.0", None),
        ("1u-2u", None),
        ("7/2", Some("3")),
        ("-7/2", Some("-3")),
        ("7%3", Some("1")),
        ("1/0", None),
        ("1%0", None),
        ("1.0/0.0", Some("inf")),
        ("9223372036854775807+1", None),
        ("-9223372036854775808", Some("-9223372036854775808")),
        ("-9223372036854775808/-1", None),
        ("-(-9223372036854775808)", None),
        ("'a'+'b'", None),
        ("b'a'+b'b'", None),
        ("[1]+[2]", None),
        ("1 == 1.0", Some("true")),
        ("1 == 1u", Some("true")),
        ("1 < 1.5", Some("true")),
        ("1u < 2", Some("true")),
        ("9223372036854775807 < 9223372036854775808.0", Some("true")),
        ("0.0/0.0 < 1.0", Some("false")),
        ("'a' < 'b'", Some("true")),
        ("1 == 'a'", Some("false")),
        ("1 != 'a'", Some("true")),
        ("1 < 'a'", None),
        ("[1] == [1]", Some("true")),
        ("{'a':1} == {'a':1.0}", Some("true")),
        ("null == 1", Some("false")),
        ("false && (1/0 == 1)", Some("false")),
        ("(1/0 == 1) && false", Some("false")),
        ("(1/0 == 1) || true", Some("true")),
        ("(1/0 == 1) && true", None),
        ("(1/0 == 1) || false", None),
        ("nope || true", Some("true")),
        ("'a' && true", None),
        ("'a' && false", Some("false")),
        ("true ? 1 : 'b'", Some("1")),
        ("false ? 1 : true ? 2 : 3", Some("2")),
        ("1 ? 2 : 3", None),
        ("!true", Some("false")),
        ("!!true", Some("true")),
        ("!1", None),
        ("-'a'", None),
        ("size('héllo')", Some("5")),
        ("size(b'h\\xff')", Some("2")),
        ("'abc'.size()", Some("3")),
        ("[1].size()", Some("1")),
        ("size(1)", None),
        ("'abc'.startsWith('a')", Some("true")),
        ("'abc'.endsWith('c')", Some("true")),
        ("'abc'.contains('b')", Some("true")),
        ("'abc'.contains('x')", Some("false")),
        ("'abc'.matches('b')", Some("true")),
        ("matches('abc', '^a.c$')", Some("true")),
        ("'é'.matches('^.$')", Some("true")),
        ("'٣'.matches(r'\\d')", Some("false")),
        ("'a b'.matches(r'\\bb\\b')", Some("true")),
        ("int('12')", Some("12")),
        ("int('x')", None),
        ("int(1.9)", Some("1")),
        ("int(3u)", Some("3")),
        ("int(true)", Some("1")),
        ("int(1e100)", None),
        ("uint(-1)", None),
        ("uint('12')", Some("12")),
        ("double('1.5')", Some("1.5")),
        ("double('x')", None),
        ("bytes('a')", Some("a")),
        ("bool('true')", Some("true")),
        ("bool(1)", None),
        ("type(1)", Some("CelType value")),
        ("type(1) == int", Some("true")),
        ("dyn(1)", Some("1")),
        ("duration('1s')", Some("1s")),
        ("duration('1.5h')", Some("1h30m")),
        ("duration('61.5s')", Some("1m1.5s")),
        ("duration('0')", Some("0")),
        ("duration('x')", None),
        ("duration('90m').getHours()", Some("1")),
        ("duration('1s') < duration('1h')", Some("true")),
        ("timestamp('2020-01-01T00:00:00Z')", Some("2020-01-01T00:00:00+00:00")),
        ("timestamp('2020-01-01T00:00:00Z').getFullYear()", Some("2020")),
        ("timestamp('2020-01-31T01:00:00+02:00') + duration('1.5s')", Some("2020-01-30T23:00:01.5+00:00")),
        ("timestamp('2020-02-30T00:00:00Z')", None),
        ("[1,2][0]", Some("1")),
        ("[1,2][5]", None),
        ("[1,2][-1]", None),
        ("[1][0u]", Some("1")),
        ("[1][0.0]", Some("1")),
        ("{'a':1}['b']", None),
        ("{1:2}[1u]", Some("2")),
        ("1 in [1,2]", Some("true")),
        ("'a' in {'a':1}", Some("true")),
        ("'a' in 'abc'", None),
        ("1//c", Some("1")),
        ("1 - 1", Some("0")),
        ("1-1", Some("0")),
    ];
    let stream = stream();
    let cx = FormatContext::of_stream(&stream);
    for (expression, expected) in table {
        let compiled = parse(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        assert_eq!(text(&compiled, &cx).as_deref(), expected, "{expression}");
    }
}

#[test]
fn typed_values_keep_their_types() {
    let table = [
        ("request.path", Some("\"/p/a?x=1&y=2\"")),
        ("'x-up' in request.headers", Some("true")),
        ("request.size", Some("5")),
        ("request.duration", Some("\"0.002678845s\"")),
        ("request.time", Some("\"1970-01-01T00:00:00Z\"")),
        ("response.backend_latency", Some("\"0.002085140s\"")),
        ("duration('1.5h')", Some("\"5400s\"")),
        ("request", None),
        ("filter_state['fs']", Some("\"aGVsbG8=\"")),
        ("b'\\xff'", Some("\"/w==\"")),
        ("[1,'a',null]", Some("[1,\"a\",null]")),
        ("{1:'x', 'b':[true]}", Some("{\"1\":\"x\",\"b\":[true]}")),
        ("1.0/0.0", None),
        ("123456789.0", Some("123456789")),
        ("xds.cluster_metadata", Some("{\"filter_metadata\":{\"cm\":{\"c\":\"clu\"}}}")),
        ("metadata.filter_metadata.dyn.m", Some("{\"k\":\"v\"}")),
        ("metadata.filter_metadata.dyn.l", Some("[\"x\",1]")),
        ("metadata.typed_filter_metadata", Some("{}")),
        ("response.headers", Some("{\":status\":\"404\",\"x-multi\":\"1,2\"}")),
        ("type(1)", None),
        ("1/0", None),
    ];
    let stream = stream();
    let cx = FormatContext::of_stream(&stream);
    for (expression, expected) in table {
        assert_eq!(json_of(&parse(expression).unwrap(), &cx).as_deref(), expected, "{expression}");
    }
}

#[test]
fn what_envoy_refuses_is_refused() {
    let (syntax, create) = ("Not able to parse expression: ", "failed to create an expression: ");
    for (expression, stage, reason) in [
        ("", syntax, "1:1: unexpected end"),
        ("a b", syntax, "1:3: unexpected 'b'"),
        ("(", syntax, "1:2: unexpected end"),
        ("'abc", syntax, "1:1: a string does not end"),
        ("'\\q'", syntax, "1:1: invalid escape in a string"),
        ("1 +\n ?", syntax, "2:2: unexpected '?'"),
        ("9223372036854775808", syntax, "1:1: invalid int literal"),
        ("1 ? 2", syntax, "1:6: unexpected end"),
        ("a.in", syntax, "1:3: unexpected 'in'"),
        ("for", syntax, "1:1: reserved identifier: for"),
        ("#", syntax, "1:1: unexpected '#'"),
        ("has(a)", syntax, "1:7: invalid argument to has() macro"),
        ("a.b{}", syntax, "1:4: messages are not supported"),
        ("[1].exists(x, x > 2)", syntax, "1:21: Comprehension support is disabled"),
        ("request.headers.all(h, true)", syntax, "1:29: Comprehension support is disabled"),
        ("nofunc(1)", create, "No overload found in reference resolve step for nofunc"),
        ("'abc'.lowerAscii()", create, "No overload found in reference resolve step for lowerAscii"),
        ("string(1)", create, "No overload found in reference resolve step for string"),
        ("startsWith('a', 'a')", create, "No overload found in reference resolve step for startsWith"),
        ("size()", create, "No overload found in reference resolve step for size"),
        ("'abc'.matches('[')", create, "invalid regular expression: unclosed character class"),
        ("xds.node.id == 'a'", create, "attribute xds.node is not supported yet"),
        ("has(upstream.locality)", create, "attribute upstream.locality is not supported yet"),
    ] {
        assert_eq!(refused(expression), format!("{stage}{reason}"), "{expression}");
    }
}

#[test]
fn strings_are_made_where_it_is_enabled() {
    let stream = stream();
    let cx = FormatContext::of_stream(&stream);
    let options = Options { string_conversion: true, string_concat: true };
    for (expression, expected) in [
        ("'a' + 'b'", Some("ab")),
        ("1 + 1", Some("2")),
        ("'a' + 1", None),
        ("string(1.5) + string(-2) + string(true)", Some("1.5-2true")),
        ("string(request.duration)", Some("0.002678845s")),
        ("string(b'\\xff')", None),
        ("request.headers['x-' + 'a']", Some("one,two")),
    ] {
        let compiled = Expression::parse(expression, options).unwrap();
        assert_eq!(text(&compiled, &cx).as_deref(), expected, "{expression}");
    }
}

#[test]
fn a_filter_takes_only_what_is_true() {
    let stream = stream();
    let cx = FormatContext::of_stream(&stream);
    for (expression, expected) in [
        ("response.code >= 400 || 'x-log' in request.headers", true),
        ("response.code >= 500 || 'x-log' in request.headers", false),
        ("request.headers['nope'] == 'a'", false),
        ("!(request.headers['nope'] == 'a')", false),
        ("response.code", false),
        ("(connection.mtls && request.headers['x'] == 'true') || request.url_path.contains('/a')", true),
    ] {
        assert_eq!(parse(expression).unwrap().is_true(&cx), expected, "{expression}");
    }
}

#[test]
fn a_connection_without_a_request_has_what_connections_have() {
    let certificate = |uri: &str| {
        Some(Arc::new(CertificateInfo { subject: "CN=x".into(), uri_sans: vec![uri.into()], ..Default::default() }))
    };
    let tls = TlsSession { version: "TLSv1.3", peer: certificate("spiffe://a"), ..TlsSession::default() };
    let connection = Connection {
        tls: Some(Arc::new(tls)),
        server_name: Some("sni".into()),
        ..Connection::new(address("10.0.0.1:1"), address("10.0.0.2:2"))
    };
    let info = StreamInfo::new(Arc::new(connection), 1, Instant::now(), SystemTime::UNIX_EPOCH);
    let cx = FormatContext::of_info(&info);
    for (expression, expected) in [
        ("connection.mtls", Some("true")),
        ("connection.uri_san_peer_certificate", Some("spiffe://a")),
        ("connection.uri_san_local_certificate", None),
        ("connection.subject_peer_certificate", Some("CN=x")),
        ("connection.subject_local_certificate", Some("")),
        ("connection.dns_san_peer_certificate", None),
        ("connection.tls_version", Some("TLSv1.3")),
        ("connection.requested_server_name", Some("sni")),
        ("source.port", Some("2")),
        ("request.path", None),
        ("request.url_path", None),
        ("request.protocol", None),
        ("request.headers.a", None),
        ("size(request.headers)", Some("0")),
        ("'a' in request.headers", Some("false")),
        ("response.code", None),
        ("response.grpc_status", None),
        ("xds.cluster_name", None),
        ("upstream.address", None),
        ("upstream_filter_state", None),
        (
            "'envoy.filters.listener.original_dst.local_ip' in filter_state \
             ? filter_state['envoy.filters.listener.original_dst.local_ip']: r'127.2.0.9:80'",
            Some("127.2.0.9:80"),
        ),
    ] {
        assert_eq!(text(&parse(expression).unwrap(), &cx).as_deref(), expected, "{expression}");
    }
}

#[test]
fn size_and_depth_have_limits() {
    let deep = |open: &str, inner: &str, close: &str, n: usize| open.repeat(n) + inner + &close.repeat(n);
    for (open, inner, close) in [
        ("(", "1", ")"),
        ("[", "1", "]"),
        ("{1:", "1", "}"),
        ("!", "true", ""),
        ("-", "(1)", ""),
        ("a[", "1", "]"),
        ("size(", "1", ")"),
        ("", "a", ".b"),
        ("1+", "1", ""),
        ("true ? 1 : ", "1", ""),
        ("'a'.contains(", "'a'", ")"),
    ] {
        assert!(parse(&deep(open, inner, close, 40)).is_ok(), "{open}");
        let error = refused(&deep(open, inner, close, 200));
        assert!(error.ends_with("the expression is nested too deeply"), "{open}: {error}");
        assert!(refused(&deep(open, inner, close, 10_000 / (open.len() + close.len()))).contains("nested"), "{open}");
    }
    assert!(parse(&["true"; 2000].join("&&")).is_ok());
    let long = format!("'{}'", "a".repeat(super::MAX_TEXT));
    assert!(refused(&long).ends_with("an expression of more than 16384 bytes"));
    assert!(refused("'a'.matches('(((a{100}){100}){100})')").contains("exceeds size limit"));
    let stream = stream();
    let cx = FormatContext::of_stream(&stream);
    assert_eq!(text(&parse("'a'.matches('(((a{100}){100}){' + request.size + '})')").unwrap(), &cx), None);
}

/// Random texts, some of them put together from words of the language, neither panic nor take long.
#[test]
fn random_texts_do_no_harm() {
    const WORDS: [&str; 48] = [
        "request",
        ".",
        "headers",
        "[",
        "]",
        "(",
        ")",
        "'a'",
        "\"b\"",
        "r'",
        "b'\\x",
        "1",
        "-",
        "+",
        "*",
        "/",
        "%",
        "0x",
        "1.5",
        "e9",
        "u",
        "&&",
        "||",
        "!",
        "?",
        ":",
        "{",
        "}",
        ",",
        " in ",
        "has(",
        "size(",
        "matches(",
        "==",
        "<",
        "filter_state",
        "metadata",
        "é",
        "\\",
        "'''",
        "\n",
        "//",
        "true",
        "duration('1h')",
        "timestamp('2020-01-01T00:00:00Z')",
        "getHours()",
        "9223372036854775807",
        "int(",
    ];
    let stream = stream();
    let cx = FormatContext::of_stream(&stream);
    // A linear congruential generator is random enough and the same each time.
    let mut seed = 1_u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let start = Instant::now();
    let mut taken = 0;
    for round in 0..20_000 {
        let text = if round % 4 == 0 {
            let bytes: Vec<u8> = (0..random(40)).map(|_| u8::try_from(random(256)).unwrap()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            (0..random(12)).map(|_| WORDS[random(WORDS.len())]).collect()
        };
        if let Ok(expression) = parse(&text) {
            taken += 1;
            let mut out = Vec::new();
            expression.is_true(&cx);
            expression.text(&cx, &mut out);
            expression.json(&cx, &mut out);
        }
    }
    assert!(taken > 100, "{taken}");
    assert!(start.elapsed() < Duration::from_secs(20));
}
