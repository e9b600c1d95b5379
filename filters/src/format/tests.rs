//! Expected values are what Envoy 1.40 printed for the same stream, unless a comment says otherwise.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;

use super::*;
use crate::address::Address;
use crate::connection::{CertificateInfo, Connection, TlsSession};
use crate::filter_state::{Entry, Object, Shared};
use crate::flags::Flag;
use crate::head::{Protocol, Scheme};
use crate::metadata::Metadata;
use crate::stream::{ClusterNames, HostInfo};
use waypost_xds::google::protobuf::{ListValue, Struct, Value, value::Kind};

mod header_rules;

fn address(text: &str) -> Address {
    Address::Ip(text.parse().unwrap())
}

fn headers(list: &[(&str, &[u8])]) -> HeaderMap {
    let pair = |(n, v): &(&str, &[u8])| (n.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(v).unwrap());
    let mut map = HeaderMap::new();
    list.iter().map(pair).for_each(|(n, v)| {
        map.append(n, v);
    });
    map
}

fn metadata(namespace: &str, value: serde_json::Value) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set(namespace.into(), Arc::new(value));
    metadata
}

/// The request that Envoy was asked: `/rw/x?a=bc&enc=%20x&a=2`, rewritten to `/new/x`, answered 200 by the upstream.
fn stream() -> HttpStream {
    let mut connection = Connection::new(address("127.0.0.1:21880"), address("127.0.0.1:39100"));
    connection.filter_chain = "fc".into();
    connection.listener = "lst".into();
    let mut info = StreamInfo::new(
        Arc::new(connection),
        7,
        Instant::now(),
        UNIX_EPOCH + Duration::from_micros(1_795_365_819_149_727),
    );
    info.protocol = Some(Protocol::Http11);
    info.response_code = 200;
    info.details = Some("via_upstream".into());
    info.bytes_sent = 5;
    info.route_name = Some("rw".into());
    info.route_metadata = Some(Arc::new(metadata("rm", json!({"a": "r"}))));
    info.virtual_host_metadata = Some(Arc::new(metadata("vm", json!({"a": "v"}))));
    info.request_id = Some("8de32d11-cf67-4914-9554-2f59f7e317d1".into());
    info.upstream.cluster = Some(Arc::new(ClusterNames { name: "up".into(), observability_name: "alt_up".into() }));
    info.upstream.cluster_metadata = Some(Arc::new(metadata("cm", json!({"a": "c"}))));
    info.upstream.host = Some(Arc::new(HostInfo {
        address: address("127.0.0.1:21881"),
        hostname: "host.up".into(),
        metadata: metadata("um", json!({"a": "u"})),
    }));
    info.upstream.local = Some(address("127.0.0.1:52590"));
    info.upstream.protocol = Some(Protocol::Http11);
    info.upstream.attempts = 1;
    info.upstream.connection_id = Some(1);
    let micros = |n| Some(Duration::from_micros(n));
    info.timing.request_received = micros(1_400);
    info.timing.first_upstream_sent = micros(2_000);
    info.timing.last_upstream_sent = micros(2_500);
    info.timing.first_upstream_received = micros(7_100);
    info.timing.last_upstream_received = micros(9_308);
    info.timing.last_downstream_sent = micros(12_300);
    info.timing.complete = micros(12_400);
    let object = |key: &str, object| Entry { key: key.into(), object, shared: Shared::None, read_only: false };
    info.filter_state.set(object("str", Object::String("abc\"def\\x".into())));
    info.filter_state.set(object("hash", Object::HashableString("hv".into())));
    info.filter_state.set(object("dst", Object::Address(address("10.1.2.3:80"))));
    info.filter_state.set(object("bool", Object::Bool(true)));
    info.filter_state.set(object("num", Object::Number(77)));
    info.metadata = metadata(
        "my",
        json!({"s": "he\"l\tlo", "n": 42, "f": 1.5, "b": true, "o": {"z": 1, "in": "bar", "a": 2}, "l": [1, "x", null], "nul": null}),
    );
    let request = RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("127.0.0.1:21880")),
        path: Some(HeaderValue::from_static("/new/x?a=bc&enc=%20x&a=2")),
        upgrade: None,
        headers: headers(&[
            ("user-agent", b"curl/9 \"q\""),
            ("x-envoy-original-path", b"/rw/x?a=bc&enc=%20x&a=2"),
            ("x-empty", b""),
            ("x-bin", b"caf\xe9 \xc3\xa9 \"x\\ \t<"),
            ("x-dup", b"1"),
            ("x-dup", b"2"),
            ("accept", b"a"),
            ("accept", b"b"),
        ]),
        original_path: None,
    };
    let response = ResponseHead { status: StatusCode::OK, headers: headers(&[("server", b"envoy")]) };
    HttpStream {
        info,
        request,
        response: Some(response),
        response_trailers: None,
        reroute: false,
        body: Default::default(),
    }
}

fn context(stream: &HttpStream) -> FormatContext<'_> {
    FormatContext { access_log_type: AccessLogType::DownstreamEnd, ..FormatContext::of_stream(stream) }
}

fn text_of(format: &str, stream: &HttpStream) -> String {
    let mut out = Vec::new();
    Format::parse_with(format, Extensions { req_without_query: true, ..Extensions::default() })
        .unwrap()
        .write(&mut out, &context(stream));
    String::from_utf8_lossy(&out).into_owned()
}

fn text(format: &str) -> String {
    text_of(format, &stream())
}

fn string(text: &str) -> Value {
    Value { kind: Some(Kind::StringValue(text.to_owned())) }
}

fn structure(members: &[(&str, Value)]) -> Struct {
    Struct { fields: members.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect() }
}

fn json_with(members: &[(&str, Value)], omit_empty_values: bool, stream: &HttpStream) -> String {
    let options =
        JsonOptions { omit_empty_values, extensions: Extensions { req_without_query: true, ..Extensions::default() } };
    let mut out = Vec::new();
    JsonFormat::parse(&structure(members), options).unwrap().write(&mut out, &context(stream));
    String::from_utf8(out).unwrap()
}

/// One operator as a member of a JSON log.
fn json(format: &str) -> String {
    let line = json_with(&[("k", string(format))], false, &stream());
    line.strip_prefix("{\"k\":").and_then(|l| l.strip_suffix("}\n")).unwrap().to_owned()
}

#[test]
fn operators_as_text_and_as_json() {
    // Operator, text, JSON.
    let golden = [
        ("%ACCESS_LOG_TYPE%", "DownstreamEnd", r#""DownstreamEnd""#),
        ("%BYTES_RECEIVED%", "0", "0"),
        ("%BYTES_RETRANSMITTED%", "0", "0"),
        ("%BYTES_SENT%", "5", "5"),
        ("%CLUSTER_METADATA(cm:a)%", "c", r#""c""#),
        ("%CLUSTER_METADATA(nope)%", "-", "null"),
        (
            r#"%COALESCE({"operators": ["REQUESTED_SERVER_NAME", {"command": "REQ", "param": ":authority", "max_length": 4}]}):3%"#,
            "127",
            r#""127""#,
        ),
        (r#"%COALESCE({"operators": ["RESPONSE_CODE"]})%"#, "200", "200"),
        (r#"%COALESCE({"operators": ["TRACE_ID","PROTOCOL"]})%"#, "HTTP/1.1", r#""HTTP/1.1""#),
        (
            r#"%COALESCE({"operators":[{"command":"REQ","param":"x-empty"},"ACCESS_LOG_TYPE"]})%"#,
            "DownstreamEnd",
            r#""DownstreamEnd""#,
        ),
        (r#"%COALESCE({"operators":["TRACE_ID"]})%"#, "-", "null"),
        (r#"%COALESCE({"operators":["RESPONSE_CODE"]}):1%"#, "2", "200"),
        (
            r#"%COALESCE({"operators":[{"command":"DYNAMIC_METADATA","param":"rm"},{"command":"DYNAMIC_METADATA","param":"my:o"}]}):3%"#,
            "{\"a",
            r#"{"a":2,"in":"bar","z":1}"#,
        ),
        ("%CONNECTION_TERMINATION_DETAILS%", "-", "null"),
        ("%CUSTOM_FLAGS%", "", r#""""#),
        ("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT(9)%", "127.0.0.0/9", r#""127.0.0.0/9""#),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", "127.0.0.1:21880", r#""127.0.0.1:21880""#),
        ("%DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%", "", r#""""#),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(x)%", "127.0.0.1", r#""127.0.0.1""#),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(33)%", "127.0.0.1/32", r#""127.0.0.1/32""#),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(0)%", "0.0.0.0/0", r#""0.0.0.0/0""#),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(7)%", "126.0.0.0/7", r#""126.0.0.0/7""#),
        ("%DOWNSTREAM_REMOTE_PORT%", "39100", "39100"),
        ("%DOWNSTREAM_PEER_URI_SAN%", "-", "null"),
        ("%DOWNSTREAM_TLS_VERSION%", "-", "null"),
        (
            "%DYNAMIC_METADATA(my)%",
            "{\"b\":true,\"f\":1.5,\"l\":[1,\"x\",null],\"n\":42,\"nul\":null,\"o\":{\"a\":2,\"in\":\"bar\",\"z\":1},\"s\":\"he\\\"l\\tlo\"}",
            "{\"b\":true,\"f\":1.5,\"l\":[1,\"x\",null],\"n\":42,\"nul\":null,\"o\":{\"a\":2,\"in\":\"bar\",\"z\":1},\"s\":\"he\\\"l\\tlo\"}",
        ),
        ("%DYNAMIC_METADATA(my:o):3%", "{\"a", r#"{"a":2,"in":"bar","z":1}"#),
        ("%DYNAMIC_METADATA(my:b)%", "true", "true"),
        ("%DYNAMIC_METADATA(my:n)%", "42", "42"),
        ("%DYNAMIC_METADATA(my:nul)%", "-", "null"),
        ("%DYNAMIC_METADATA(my:)%", "-", "null"),
        ("%DYNAMIC_METADATA(my:o:in)%", "bar", r#""bar""#),
        ("%DYNAMIC_METADATA(my:s)%", "he\"l\tlo", r#""he\"l\tlo""#),
        ("%DYNAMIC_METADATA(my:s):2%", "he", r#""he""#),
        ("%DYNAMIC_METADATA(my:s:x)%", "-", "null"),
        ("%ENVIRONMENT(NO_SUCH_VARIABLE)%", "-", r#""-""#),
        ("%FILTER_CHAIN_NAME%", "fc", r#""fc""#),
        ("%FILTER_STATE(str:PLAIN)%", "abc\"def\\x", r#""abc\"def\\x""#),
        ("%FILTER_STATE(str:PLAIN):3%", "abc", r#""abc""#),
        ("%FILTER_STATE(str)%", r#""abc\"def\\x""#, r#""abc\"def\\x""#),
        ("%FILTER_STATE(str:TYPED):3%", "\"ab", r#""abc\"def\\x""#),
        ("%FILTER_STATE(str:FIELD:x)%", "-", "null"),
        ("%FILTER_STATE(hash)%", "\"hv\"", "\"hv\""),
        ("%FILTER_STATE(dst:PLAIN)%", "10.1.2.3:80", r#""10.1.2.3:80""#),
        ("%FILTER_STATE(dst:TYPED)%", "-", "null"),
        ("%FILTER_STATE(dst:FIELD:ip)%", "10.1.2.3", r#""10.1.2.3""#),
        ("%FILTER_STATE(dst:FIELD:port)%", "80", r#""80""#),
        ("%FILTER_STATE(bool:PLAIN)%", "true", r#""true""#),
        ("%FILTER_STATE(bool:TYPED)%", "true", "true"),
        ("%FILTER_STATE(num:PLAIN)%", "77", r#""77""#),
        ("%FILTER_STATE(num:TYPED)%", r#""77""#, r#""77""#),
        ("%FILTER_STATE(nope)%", "-", "null"),
        ("%GRPC_STATUS%", "-", "null"),
        ("%LISTENER_NAME%", "lst", r#""lst""#),
        ("%LOCAL_REPLY_BODY%", "", r#""""#),
        ("%METADATA(DYNAMIC:my:n)%", "42", "42"),
        ("%METADATA(ROUTE:rm:a)%", "r", r#""r""#),
        ("%METADATA(UPSTREAM_HOST:um:a)%", "u", r#""u""#),
        ("%METADATA(VIRTUAL_HOST:vm:a)%", "v", r#""v""#),
        ("%METADATA(DYNAMIC)%", "-", "null"),
        ("%PATH%", "/rw/x?a=bc&enc=%20x&a=2", r#""/rw/x?a=bc&enc=%20x&a=2""#),
        ("%PATH(NQ):3%", "/rw", r#""/rw""#),
        ("%PATH(NQ:ORIG)%", "/rw/x", r#""/rw/x""#),
        ("%PATH(WQ:PATH)%", "/new/x?a=bc&enc=%20x&a=2", r#""/new/x?a=bc&enc=%20x&a=2""#),
        ("%PROTOCOL()%", "HTTP/1.1", r#""HTTP/1.1""#),
        ("%QUERY_PARAM(a):1%", "b", r#""b""#),
        ("%QUERY_PARAM(enc)%", " x", r#"" x""#),
        ("%QUERY_PARAM(nope)%", "-", "null"),
        ("%QUERY_PARAMS%", "a=bc&enc=%20x&a=2", r#""a=bc&enc=%20x&a=2""#),
        ("%REQ(:AUTHORITY)%", "127.0.0.1:21880", r#""127.0.0.1:21880""#),
        ("%REQ(HOST)%", "127.0.0.1:21880", r#""127.0.0.1:21880""#),
        ("%REQ(:METHOD)%", "GET", r#""GET""#),
        ("%REQ(:SCHEME)%", "http", r#""http""#),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/rw/x?a=bc&enc=%20x&a=2", r#""/rw/x?a=bc&enc=%20x&a=2""#),
        ("%REQ(USER-AGENT?FOO):3%", "cur", r#""cur""#),
        ("%REQ(?user-agent):3%", "cur", r#""cur""#),
        ("%REQ(user-agent?):0%", "", r#""""#),
        ("%REQ(x-bin)%", "caf\u{fffd} é \"x\\ \t<", r#""caf\u00e9 \u00c3\u00a9 \u0022x\u005c \u0009<""#),
        ("%REQ(x-dup)%", "1", r#""1""#),
        ("%REQ(accept)%", "a,b", r#""a,b""#),
        ("%REQ(x-empty)%", "", r#""""#),
        ("%REQ(nope)%", "-", "null"),
        ("%REQUEST_HEADER(user-agent)%", "curl/9 \"q\"", r#""curl/9 \"q\"""#),
        ("%REQ_WITHOUT_QUERY(:PATH):3%", "/ne", r#""/ne""#),
        ("%REQ_WITHOUT_QUERY(:PATH)%", "/new/x", r#""/new/x""#),
        ("%REQUESTED_SERVER_NAME%", "-", "null"),
        ("%REQUESTED_SERVER_NAME(SNI_FIRST)%", "127.0.0.1:21880", r#""127.0.0.1:21880""#),
        ("%REQUESTED_SERVER_NAME(HOST_FIRST:ORIG)%", "-", "null"),
        ("%RESP(:STATUS)%", "200", r#""200""#),
        ("%RESP(server)%", "envoy", r#""envoy""#),
        ("%RESPONSE_CODE%", "200", "200"),
        ("%RESPONSE_CODE_DETAILS%", "via_upstream", r#""via_upstream""#),
        ("%RESPONSE_FLAGS%", "-", r#""-""#),
        ("%RESPONSE_TRAILERS_BYTES%", "0", "0"),
        ("%ROUNDTRIP_DURATION%", "-", "null"),
        ("%ROUTE_NAME%", "rw", r#""rw""#),
        ("%START_TIME%", "2026-11-22T16:43:39.149Z", r#""2026-11-22T16:43:39.149Z""#),
        ("%START_TIME(%s.%3f)%", "1795365819.149", r#""1795365819.149""#),
        ("x %START_TIME(a)b)% y", "x a)b y", r#""x a)b y""#),
        ("%STREAM_ID%", "8de32d11-cf67-4914-9554-2f59f7e317d1", r#""8de32d11-cf67-4914-9554-2f59f7e317d1""#),
        ("%TRAILER(x)%", "-", "null"),
        ("%UPSTREAM_CLUSTER%", "alt_up", r#""alt_up""#),
        ("%UPSTREAM_CLUSTER_RAW%", "up", r#""up""#),
        ("%UPSTREAM_CONNECTION_ID%", "1", "1"),
        ("%UPSTREAM_FILTER_STATE(nope)%", "-", "null"),
        ("%UPSTREAM_HOST%", "127.0.0.1:21881", r#""127.0.0.1:21881""#),
        ("%UPSTREAM_HOST_NAME%", "host.up", r#""host.up""#),
        ("%UPSTREAM_HOST_NAME_WITHOUT_PORT%", "host.up", r#""host.up""#),
        ("%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(16)%", "127.0.0.0/16", r#""127.0.0.0/16""#),
        ("%UPSTREAM_METADATA(um:a)%", "u", r#""u""#),
        ("%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)%", "127.0.0.0/8", r#""127.0.0.0/8""#),
        ("%UPSTREAM_REMOTE_PORT%", "21881", "21881"),
        ("%UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID%", "", r#""""#),
        ("%UPSTREAM_REQUEST_ATTEMPT_COUNT%", "1", "1"),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "-", "null"),
        // The timings of this stream are made up.
        ("%DURATION%", "12", "12"),
        ("%REQUEST_DURATION%", "1", "1"),
        ("%REQUEST_TX_DURATION%", "2", "2"),
        ("%RESPONSE_DURATION%", "7", "7"),
        ("%RESPONSE_TX_DURATION%", "5", "5"),
        ("%COMMON_DURATION(DS_RX_BEG:DS_TX_END:ns)%", "12300000", "12300000"),
        ("%COMMON_DURATION(US_TX_BEG:US_RX_END:us)%", "7308", "7308"),
        ("%COMMON_DURATION(DS_TX_END:DS_RX_BEG)%", "-12", "-12"),
        ("%COMMON_DURATION(foo:DS_TX_END:ms)%", "-", "null"),
        ("100%% %PROTOCOL%", "100% HTTP/1.1", r#""100% HTTP/1.1""#),
    ];
    for (format, as_text, as_json) in golden {
        assert_eq!(text(format), as_text, "{format}");
        assert_eq!(json(format), as_json, "{format} as JSON");
    }
}

#[test]
fn times_in_every_form() {
    assert_eq!(
        text(
            "%START_TIME(%Y/%m/%dT%H:%M:%S%z %s %f %3f %6f %9f %1f %a %A %b %B %e %j %U %y %Z %p %I %D %F %T %R %r %c %x %X %h %C %u \
             %w %V %G %g %W %t| %% %k %l %P %E4S %E*S %E3f %Ez)%"
        ),
        "2026/11/22T16:43:39+0000 1795365819 149727000 149 149727 149727000 1 Sun Sunday Nov November 22 326 47 26 UTC PM 04 11/22/26 \
         2026-11-22 16:43:39 16:43 04:43:39 PM Sun Nov 22 16:43:39 2026 11/22/26 16:43:39 Nov 20 7 0 47 2026 26 46 \t| % 16  4 pm \
         39.1497 39.149727 149 +00:00"
    );
    assert_eq!(text("%START_TIME(%q %0f %-d %i %Q %E %E4Y %ET %5 %)%"), "%q %0f 22 %i %Q %E 2026 T %5 %");
}

#[test]
fn dates_at_the_edges_of_years() {
    let at = |seconds: u64| {
        let mut stream = stream();
        stream.info.start_time = UNIX_EPOCH + Duration::from_secs(seconds);
        text_of("%START_TIME(%F %j %G-W%V %U %W %a)%", &stream)
    };
    // What GNU date prints.
    assert_eq!(at(0), "1970-01-01 001 1970-W01 00 00 Thu");
    assert_eq!(at(951_782_400), "2000-02-29 060 2000-W09 09 09 Tue");
    assert_eq!(at(978_220_800), "2000-12-31 366 2000-W52 53 52 Sun");
    assert_eq!(at(1_609_459_200), "2021-01-01 001 2020-W53 00 00 Fri");
    assert_eq!(at(1_735_603_200), "2024-12-31 366 2025-W01 52 53 Tue");
}

#[test]
fn grpc_status_names() {
    let mut stream = stream();
    stream.request.headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    let all = "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%";
    assert_eq!(text_of(all, &stream), "Unknown UNKNOWN 2 2");
    let response = &mut stream.response.as_mut().unwrap().headers;
    response.insert("grpc-status", HeaderValue::from_static("3"));
    assert_eq!(text_of(all, &stream), "InvalidArgument INVALID_ARGUMENT 3 3");
    stream.response_trailers = Some(headers(&[("grpc-status", b"99")]));
    assert_eq!(text_of(all, &stream), "99 99 99 99");
    assert_eq!(json_with(&[("s", string("%GRPC_STATUS_NUMBER%"))], false, &stream), "{\"s\":99}\n");
}

#[test]
fn a_failed_request() {
    let mut stream = stream();
    let info = &mut stream.info;
    info.flags.set(Flag::UpstreamRetryLimitExceeded);
    info.flags.set(Flag::UpstreamRequestTimeout);
    info.details = Some("connect error: Connection\trefused".into());
    info.upstream.local = None;
    info.upstream.transport_failure = Some("delayed connect error: Connection refused".into());
    stream.request.path = None;
    stream.request.headers.clear();
    assert_eq!(
        text_of(
            "%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS%|%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)% \
             %UPSTREAM_HOST% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_LOCAL_ADDRESS% %UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID% \
             %UPSTREAM_TRANSPORT_FAILURE_REASON% %PATH% %QUERY_PARAM(a)% %QUERY_PARAMS% %REQ(:PATH)%",
            &stream
        ),
        "URX,UT UpstreamRetryLimitExceeded,UpstreamRequestTimeout connect_error:_Connection_refused|connect error: Connection\trefused \
         127.0.0.1:21881 - - - delayed_connect_error:_Connection_refused - - - -"
    );
}

#[test]
fn query_parameters() {
    let mut stream = stream();
    stream.request.path = Some(HeaderValue::from_static("/dead/x?x&p=a+b%zz&q=%41"));
    assert_eq!(
        text_of("%QUERY_PARAM(x)%|%QUERY_PARAM(p)%|%QUERY_PARAM(q)%|%QUERY_PARAMS(DECODED)%", &stream),
        "|a+b%zz|A|x&p=a+bzz&q=A"
    );
}

#[test]
fn tls_sessions_and_internal_addresses() {
    let mut stream = stream();
    let peer = CertificateInfo {
        subject: "CN=client,O=Org".to_owned(),
        uri_sans: vec!["spiffe://td/ns/x/sa/y".to_owned(), "spiffe://td/z".to_owned()],
        dns_sans: vec!["a.b".to_owned()],
        sha256: "ab12".to_owned(),
        not_before: 951_782_400,
        ..CertificateInfo::default()
    };
    let mut connection = Connection::clone(&stream.info.connection);
    connection.server_name = Some("sni.example".into());
    connection.local = Address::Internal { listener: "main_internal".into(), endpoint_id: "10.1.2.3:80".into() };
    connection.tls = Some(Arc::new(TlsSession {
        version: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256",
        peer: Some(Arc::new(peer)),
        ..TlsSession::default()
    }));
    stream.info.connection = Arc::new(connection);
    assert_eq!(
        text_of(
            "%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_DNS_SAN% %DOWNSTREAM_PEER_IP_SAN% %DOWNSTREAM_PEER_SUBJECT% \
             %DOWNSTREAM_PEER_FINGERPRINT_256% %DOWNSTREAM_PEER_SERIAL% %DOWNSTREAM_LOCAL_URI_SAN% %DOWNSTREAM_TLS_VERSION% \
             %DOWNSTREAM_TLS_CIPHER% %DOWNSTREAM_TLS_SESSION_ID% %DOWNSTREAM_PEER_CERT_V_START(%F)% %REQUESTED_SERVER_NAME% \
             %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID% %DOWNSTREAM_LOCAL_PORT% %UPSTREAM_PEER_SUBJECT%",
            &stream
        ),
        "spiffe://td/ns/x/sa/y,spiffe://td/z a.b - CN=client,O=Org ab12 - - TLSv1.3 TLS_AES_128_GCM_SHA256 - 2000-02-29 sni.example \
         envoy://main_internal/10.1.2.3:80 10.1.2.3:80 - -"
    );
}

/// `json_format` of the comparison with Envoy.
fn shapes() -> Vec<(&'static str, Value)> {
    let object = |members: &[(&str, Value)]| Value { kind: Some(Kind::StructValue(structure(members))) };
    let number = |n| Value { kind: Some(Kind::NumberValue(n)) };
    let list = |values| Value { kind: Some(Kind::ListValue(ListValue { values })) };
    let boolean = Value { kind: Some(Kind::BoolValue(true)) };
    let null = Value { kind: Some(Kind::NullValue(0)) };
    let missing = || string("%REQ(nope)%");
    vec![
        ("z", string("%PROTOCOL%")),
        ("a", object(&[("y", missing()), ("x", string("%RESPONSE_CODE%"))])),
        (
            "l",
            list(vec![
                string("%PROTOCOL%"),
                missing(),
                number(1.0),
                boolean.clone(),
                null.clone(),
                object(&[("q", missing())]),
            ]),
        ),
        ("mix", string("a %REQ(nope)% b %RESPONSE_CODE%")),
        ("n", number(5.0)),
        ("b", boolean),
        ("nul", null),
        ("c", string("const")),
        ("empty", string("")),
        ("e2", string("%REQ(x-empty)%")),
        ("two", string("%REQ(nope)%%REQ(nope)%")),
        ("dict", object(&[("a", missing())])),
        ("ll", list(vec![missing()])),
        ("obj", object(&[])),
        ("mdmix", string("m=%DYNAMIC_METADATA(my:o)%")),
        ("quote", string("he said \"x\" \\ %PROTOCOL%/ é <>")),
        ("K\"ey", string("x")),
        ("lit", list(vec![number(0.1), number(4_294_967_296.0), number(-5.0), number(1e15)])),
        ("ctl", string("\u{1}\u{1f}\u{7f}\u{2028}/<>&'")),
    ]
}

#[test]
fn json_lines() {
    assert_eq!(
        json_with(&shapes(), false, &stream()),
        concat!(
            r#"{"K\"ey":"x","a":{"x":200,"y":null},"b":true,"c":"const","ctl":"\u0001\u001f"#,
            "\u{7f}\u{2028}",
            r#"/<>&'","dict":{"a":null},"e2":"","empty":"","l":["HTTP/1.1",null,1,true,null,{"q":null}],"lit":[0.1,4294967296,-5,1e+15],"#,
            r#""ll":[null],"mdmix":"m={\"a\":2,\"in\":\"bar\",\"z\":1}","mix":"a - b 200","n":5,"nul":null,"obj":{},"#,
            r#""quote":"he said \"x\" \\ HTTP/1.1/ é <>","two":"--","z":"HTTP/1.1"}"#,
            "\n"
        )
    );
    assert_eq!(
        json_with(&shapes(), true, &stream()),
        concat!(
            r#"{"K\"ey":"x","a":{"x":200},"b":true,"c":"const","ctl":"\u0001\u001f"#,
            "\u{7f}\u{2028}",
            r#"/<>&'","e2":"","empty":"","l":["HTTP/1.1",1,true],"lit":[0.1,4294967296,-5,1e+15],"ll":[],"#,
            r#""mdmix":"m={\"a\":2,\"in\":\"bar\",\"z\":1}","mix":"a  b 200","n":5,"#,
            r#""quote":"he said \"x\" \\ HTTP/1.1/ é <>","two":"","z":"HTTP/1.1"}"#,
            "\n"
        )
    );
    assert_eq!(json_with(&[("a", string("%REQ(nope)%"))], true, &stream()), "{}\n");
}

#[test]
fn numbers_in_their_shortest_form() {
    let numbers: &[f64] = &[
        0.0,
        0.1,
        -0.5,
        2_147_483_647.0,
        4_294_967_295.0,
        9_999_999_999.0,
        1e10,
        999_999_999_999_999.0,
        1e15,
        1e16,
        9_007_199_254_740_991.0,
        1e21,
        123_456.789,
        0.001,
        0.0001,
        0.00001,
        0.000_012_345,
        1e100,
        1e-300,
        3.333_333_333_333_333_5,
        123_456_789.125,
        -1e15,
        1_234_567.0,
        123_456.5,
        1e-7,
    ];
    let mut out = Vec::new();
    for n in numbers {
        value::write_number(&mut out, *n);
        out.push(b' ');
    }
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "0 0.1 -0.5 2147483647 4294967295 9999999999 1e+10 999999999999999 1e+15 1e+16 9007199254740991 1e+21 123456.789 0.001 1e-04 \
         1e-05 1.2345e-05 1e+100 1e-300 3.3333333333333335 123456789.125 -1e+15 1234567 123456.5 1e-07 "
    );
}

#[test]
fn what_is_missing_can_be_left_out() {
    let stream = stream();
    let format = Format::parse("[%REQ(nope)%|%RESPONSE_FLAGS%|%GRPC_STATUS%|%ENVIRONMENT(NO_SUCH_VARIABLE)%]").unwrap();
    let mut out = Vec::new();
    format.write_or_empty(&mut out, &context(&stream));
    assert_eq!(String::from_utf8(out).unwrap(), "[|-||-]");
    assert_eq!(Format::parse("%REQ(nope)%").unwrap().evaluate(&context(&stream)), None);
    assert_eq!(Format::parse("%PROTOCOL%").unwrap().evaluate(&context(&stream)), Some(b"HTTP/1.1".to_vec()));
}

#[test]
fn constants_are_known() {
    let constant = |t: &str| Format::parse(t).unwrap().is_constant();
    assert!(constant("") && constant("a 100%%") && constant("%HOSTNAME% %ENVIRONMENT(PATH)%"));
    assert!(!constant("%PROTOCOL%") && !constant("a%REQ(x)%"));
}

#[test]
fn tcp_has_no_heads() {
    let info = stream().info;
    let mut out = Vec::new();
    let format = "%REQ(:METHOD)% %PATH% %RESP(x)% %TRAILER(x)% %REQUEST_HEADERS_BYTES% %GRPC_STATUS% %REQUESTED_SERVER_NAME(HOST_FIRST)%";
    Format::parse(format).unwrap().write(&mut out, &FormatContext::of_info(&info));
    assert_eq!(String::from_utf8(out).unwrap(), "- - - - 0 - -");
}

#[test]
fn unique_ids_are_uuids_of_version_4() {
    let (a, b) = (text("%UNIQUE_ID%"), text("%UNIQUE_ID%"));
    assert_ne!(a, b);
    assert_eq!(a.len(), 36);
    assert_eq!(a.as_bytes()[14], b'4');
    assert!(matches!(a.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
    assert!(a.bytes().enumerate().all(|(i, c)| if matches!(i, 8 | 13 | 18 | 23) {
        c == b'-'
    } else {
        c.is_ascii_hexdigit()
    }));
}

#[test]
fn errors_in_envoys_words() {
    let golden = [
        ("%", "Incorrect configuration: %. Couldn't find valid command at position 0"),
        ("a%b", "Incorrect configuration: a%b. Couldn't find valid command at position 1"),
        ("%PROTOCOL", "Incorrect configuration: %PROTOCOL. Couldn't find valid command at position 0"),
        ("%PROTOCOL(x)%", "PROTOCOL does not take any parameters or length"),
        ("%PROTOCOL:3%", "PROTOCOL does not take any parameters or length"),
        ("%DOWNSTREAM_LOCAL_ADDRESS(8)%", "DOWNSTREAM_LOCAL_ADDRESS does not take any parameters or length"),
        ("%REQ%", "REQ requires parameters"),
        ("%REQ()%", "REQ requires parameters"),
        ("%REQ(a?b?c)%", "More than 1 alternative header specified in token: a?b?c"),
        ("%REQ(a):x%", "Incorrect configuration: %REQ(a):x%. Couldn't find valid command at position 0"),
        ("%REQ(a) :3%", "Incorrect configuration: %REQ(a) :3%. Couldn't find valid command at position 0"),
        ("%REQ(a%", "Incorrect configuration: %REQ(a%. Couldn't find valid command at position 0"),
        ("%REQ(a)::3%", "Incorrect configuration: %REQ(a)::3%. Couldn't find valid command at position 0"),
        ("%REQ(a b)%", "Invalid header configuration. Format string contains invalid characters."),
        ("%REQ(A:B)%", "Invalid header configuration. Format string contains invalid characters."),
        ("%NOPE%", "Not supported field in StreamInfo: NOPE"),
        ("%VIRTUAL_HOST_NAME%", "Not supported field in StreamInfo: VIRTUAL_HOST_NAME"),
        ("%UPSTREAM_PEER_SERIAL%", "Not supported field in StreamInfo: UPSTREAM_PEER_SERIAL"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS_ENDPOINT_ID%",
            "Not supported field in StreamInfo: DOWNSTREAM_REMOTE_ADDRESS_ENDPOINT_ID",
        ),
        ("%REQ_WITHOUT_QUERY(x)%", "Not supported field in StreamInfo: REQ_WITHOUT_QUERY"),
        ("%nope%", "Incorrect configuration: %nope%. Couldn't find valid command at position 0"),
        ("%DYNAMIC_METADATA%", "DYNAMIC_METADATA requires parameters"),
        ("%FILTER_STATE()%", "Invalid filter state configuration, key cannot be empty."),
        ("%FILTER_STATE(a:B)%", "Invalid filter state serialize type, only support PLAIN/TYPED/FIELD."),
        ("%FILTER_STATE(a:FIELD)%", "Invalid filter state serialize type, FIELD should be used with the field name."),
        ("%FILTER_STATE(a:PLAIN:x)%", "Invalid filter state serialize type, FIELD should be used with the field name."),
        ("%START_TIME(%n)%", "Invalid header configuration. Format string contains newline."),
        ("%START_TIME(%Y):3%", "START_TIME does not allow length to be specified."),
        ("%GRPC_STATUS(x)%", "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER. Got: x"),
        ("%PATH(x)%", "Invalid PATH option: 'x', only 'WQ'/'NQ' are allowed"),
        ("%PATH(NQ:x)%", "Invalid PATH option: 'x', only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed"),
        (
            "%REQUESTED_SERVER_NAME(x)%",
            "Invalid REQUESTED_SERVER_NAME option: 'x', only 'SNI_ONLY'/'SNI_FIRST'/'HOST_FIRST' are allowed",
        ),
        ("%METADATA(x:y)%", "x is not supported type of metadata"),
        ("%COMMON_DURATION(a:b:c)%", "Invalid common duration precision: c."),
        ("%COMMON_DURATION(DS_RX_BEG)%", "Invalid common duration configuration: DS_RX_BEG."),
        ("%COALESCE({})%", "COALESCE: JSON configuration must contain 'operators' array"),
        (r#"%COALESCE({"operators":[]})%"#, "COALESCE: 'operators' array must not be empty"),
        (
            r#"%COALESCE({"operators":["NOPE"]})%"#,
            "COALESCE: failed to parse operator at index 0: unknown command: 'NOPE'",
        ),
        (
            r#"%COALESCE({"operators":["REQ"]})%"#,
            "COALESCE: failed to parse operator at index 0: REQ requires parameters",
        ),
        ("%ENVIRONMENT%", "ENVIRONMENT requires parameters"),
        ("%QUERY_PARAMS(x)%", "Invalid QUERY_PARAMS option: 'x', only 'ORIG'/'DECODED' are allowed"),
        // Envoy has these; there is nothing to print for them here yet.
        ("%CEL(xds.node.id)%", "failed to create an expression: attribute xds.node is not supported yet"),
        ("%UPSTREAM_TLS_GROUP%", "UPSTREAM_TLS_GROUP is not supported yet"),
        ("%METADATA(LISTENER:a)%", "METADATA of LISTENER is not supported yet"),
    ];
    for (format, message) in golden {
        assert_eq!(Format::parse(format).map(|_| ()).unwrap_err().0, message, "{format}");
    }
    for accepted in [
        "",
        "%%",
        "%REQ(%)%",
        "%START_TIME()%",
        "%STREAM_ID%",
        "%DOWNSTREAM_PEER_CERT_V_START()%",
        "%DYNAMIC_METADATA(:a)%",
    ] {
        assert!(Format::parse(accepted).is_ok(), "{accepted}");
    }
}
