//! Tables of what Envoy 1.40 did, by the names of the case catalogue.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use waypost_filters::address::Address;
use waypost_filters::connection::{Connection, TlsSession};
use waypost_filters::filter::LocalReply;
use waypost_filters::flags::Flag;
use waypost_filters::head::{Protocol, RequestHead, ResponseHead, Scheme};
use waypost_filters::stream::{HttpStream, StreamInfo};
use waypost_xds::envoy::config::accesslog::v3 as accesslog;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3::{
    self as proto, http_connection_manager as inner,
};
use waypost_xds::google::protobuf as pb;

use super::request::mutate_request;
use super::response::{date, mutate_response};
use super::timeouts::{Circumstances, RouteTimeouts, request_timeouts};
use super::{local_reply, timeouts};
use crate::http::config::HttpConnectionManager;
use crate::http::config::tests::{Proto, compile};

fn hcm(change: impl FnOnce(&mut Proto)) -> Arc<HttpConnectionManager> {
    compile(change).unwrap()
}

fn headers(lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        let value = HeaderValue::from_str(value.trim()).unwrap();
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
    }
    headers
}

fn lines(headers: &HeaderMap) -> Vec<String> {
    headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect()
}

fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("-", |v| v.to_str().unwrap())
}

/// A GET from 127.0.0.1:1234 to port 8080.
fn stream(lines: &[&str]) -> HttpStream {
    let address = |text: &str| Address::Ip(text.parse::<SocketAddr>().unwrap());
    let connection = Connection::new(address("127.0.0.1:8080"), address("127.0.0.1:1234"));
    let mut info = StreamInfo::new(Arc::new(connection), 1, Instant::now(), SystemTime::UNIX_EPOCH);
    info.protocol = Some(Protocol::Http11);
    let request = RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("h")),
        path: Some(HeaderValue::from_static("/x")),
        upgrade: None,
        headers: headers(lines),
        original_path: None,
    };
    HttpStream { info, request, response: None, response_trailers: None, reroute: false, body: Default::default() }
}

fn from(mut stream: HttpStream, remote: &str) -> HttpStream {
    let connection = Connection { remote: Address::Ip(remote.parse().unwrap()), ..(*stream.info.connection).clone() };
    stream.info.connection = Arc::new(connection);
    stream
}

fn internal(proto: &mut Proto) {
    let range = |prefix: &str| core::CidrRange {
        address_prefix: prefix.into(),
        prefix_len: Some(pb::UInt32Value { value: 8 }),
    };
    proto.internal_address_config = Some(inner::InternalAddressConfig {
        unix_sockets: false,
        cidr_ranges: vec![range("127.0.0.0"), range("10.0.0.0")],
    });
}

fn remote_address(proto: &mut Proto) {
    proto.use_remote_address = Some(pb::BoolValue { value: true });
}

/// D01 to D07: XFF sent, and then XFF, external address, internal and remote address as they are seen.
#[test]
fn clients_are_found_as_in_envoy() {
    let plain = hcm(|_| {});
    let no_remote_1 = hcm(|p| p.xff_num_trusted_hops = 1);
    let remote = hcm(remote_address);
    let remote_1 = hcm(|p| {
        remote_address(p);
        p.xff_num_trusted_hops = 1;
    });
    let skip = hcm(|p| {
        remote_address(p);
        p.skip_xff_append = true;
    });
    let remote_internal = hcm(|p| {
        remote_address(p);
        internal(p);
    });
    let plain_internal = hcm(internal);
    let us = plain.client.local_address.to_string();
    type Case<'a> = (&'a str, &'a HttpConnectionManager, &'a [&'a str], &'a str, &'a str, &'a str, &'a str);
    let cases: &[Case<'_>] = &[
        ("D01", &plain, &["9.9.9.9"], "9.9.9.9", "-", "-", "9.9.9.9:0"),
        ("none", &plain, &[], "-", "-", "-", "127.0.0.1:1234"),
        ("not an address", &plain, &["[::1]:80"], "[::1]:80", "-", "-", "127.0.0.1:1234"),
        ("v6", &plain, &["::1"], "::1", "-", "-", "[::1]:0"),
        ("scoped", &plain, &["fe80::1%eth0"], "fe80::1%eth0", "-", "-", "127.0.0.1:1234"),
        ("trailing comma", &plain, &["a,1.1.1.1,"], "a,1.1.1.1,", "-", "-", "127.0.0.1:1234"),
        ("spaces", &plain, &["1.1.1.1  ,  2.2.2.2"], "1.1.1.1  ,  2.2.2.2", "-", "-", "2.2.2.2:0"),
        ("hops", &no_remote_1, &["1.1.1.1, 2.2.2.2"], "1.1.1.1, 2.2.2.2", "-", "-", "1.1.1.1:0"),
        ("too few hops", &no_remote_1, &["1.1.1.1"], "1.1.1.1", "-", "-", "127.0.0.1:1234"),
        ("D02", &remote, &["1.1.1.1"], "1.1.1.1,US", "127.0.0.1", "-", "127.0.0.1:1234"),
        ("D02 first", &remote, &[], "US", "127.0.0.1", "-", "127.0.0.1:1234"),
        ("two lines", &remote, &["1.1.1.1", "2.2.2.2"], "1.1.1.1,2.2.2.2,US", "127.0.0.1", "-", "127.0.0.1:1234"),
        ("D03", &remote_1, &["1.1.1.1, 2.2.2.2"], "1.1.1.1, 2.2.2.2,US", "2.2.2.2", "-", "2.2.2.2:0"),
        ("D03 bad", &remote_1, &["foo"], "foo,US", "127.0.0.1", "-", "127.0.0.1:1234"),
        ("D04", &skip, &["1.1.1.1"], "1.1.1.1", "127.0.0.1", "-", "127.0.0.1:1234"),
        ("D05", &remote_internal, &[], "US", "-", "true", "127.0.0.1:1234"),
        ("D05 through others", &remote_internal, &["10.0.0.1"], "10.0.0.1,US", "127.0.0.1", "-", "127.0.0.1:1234"),
        ("no header is not internal", &plain_internal, &[], "-", "-", "-", "127.0.0.1:1234"),
        ("one internal address", &plain_internal, &["10.0.0.1"], "10.0.0.1", "-", "true", "10.0.0.1:0"),
        ("D07", &plain_internal, &["8.8.8.8"], "8.8.8.8", "-", "-", "8.8.8.8:0"),
        ("two addresses", &plain_internal, &["8.8.8.8, 10.0.0.1"], "8.8.8.8, 10.0.0.1", "-", "-", "10.0.0.1:0"),
        ("two lines are two", &plain_internal, &["8.8.8.8", "10.0.0.1"], "8.8.8.8,10.0.0.1", "-", "-", "10.0.0.1:0"),
    ];
    for (name, hcm, sent, xff, external, inside, address) in cases {
        let mut s = stream(&[]);
        for xff in *sent {
            s.request.headers.append("x-forwarded-for", HeaderValue::from_str(xff).unwrap());
        }
        mutate_request(hcm, &[], &mut s).unwrap();
        let h = &s.request.headers;
        let got = (value(h, "x-forwarded-for"), value(h, "x-envoy-external-address"), value(h, "x-envoy-internal"));
        let xff = xff.replace("US", &us);
        assert_eq!((got, s.info.remote.to_string().as_str()), ((xff.as_str(), *external, *inside), *address), "{name}");
    }
    let mapped = hcm(|p| {
        remote_address(p);
        p.represent_ipv4_remote_address_as_ipv4_mapped_ipv6 = true;
    });
    let mut s = from(stream(&[]), "7.7.7.7:1");
    mutate_request(&mapped, &[], &mut s).unwrap();
    assert_eq!(value(&s.request.headers, "x-forwarded-for"), "::ffff:7.7.7.7");
}

/// D05 to D07: which of all `x-envoy-*` headers a client may send.
#[test]
fn headers_of_envoy_are_taken_from_those_who_may_not_send_them() {
    const INTERNAL: [&str; 15] = [
        "original-url",
        "force-trace",
        "hedge-on-per-try-timeout",
        "ip-tags",
        "max-retries",
        "retriable-status-codes",
        "retriable-header-names",
        "retry-on",
        "retry-grpc-on",
        "upstream-alt-stat-name",
        "upstream-rq-timeout-alt-response",
        "upstream-rq-timeout-ms",
        "upstream-rq-per-try-timeout-ms",
        "upstream-stream-duration-ms",
        "expected-rq-timeout-ms",
    ];
    const EDGE: [&str; 5] = [
        "original-path",
        "original-host",
        "decorator-operation",
        "downstream-service-cluster",
        "downstream-service-node",
    ];
    const OTHERS: [&str; 6] =
        ["attempt-count", "is-timeout-retry", "original-dst-host", "peer-metadata", "upstream-service-time", "foo"];
    let remote_internal = hcm(|p| {
        remote_address(p);
        internal(p);
    });
    for (hcm, edge, inside) in
        [(hcm(|_| {}), false, false), (hcm(remote_address), true, false), (remote_internal, false, true)]
    {
        let mut s = stream(&["x-secret: 1"]);
        for name in INTERNAL.iter().chain(&EDGE).chain(&OTHERS) {
            let name = HeaderName::try_from(format!("x-envoy-{name}")).unwrap();
            s.request.headers.insert(name, HeaderValue::from_static("77"));
        }
        mutate_request(&hcm, &[HeaderName::from_static("x-secret")], &mut s).unwrap();
        let has = |name: &&str| s.request.headers.contains_key(format!("x-envoy-{name}"));
        assert!(INTERNAL.iter().all(|n| has(n) == inside), "edge {edge}");
        assert!(EDGE.iter().all(|n| has(n) != edge) && OTHERS.iter().all(has), "edge {edge}");
        assert_eq!(s.request.headers.contains_key("x-secret"), inside);
    }
}

/// D08 to D11, at the edge and elsewhere.
#[test]
fn request_ids_are_replaced_at_the_edge() {
    let mut kept = stream(&["x-request-id: abc"]);
    mutate_request(&hcm(|_| {}), &[], &mut kept).unwrap();
    assert_eq!((value(&kept.request.headers, "x-request-id"), kept.info.request_id.as_deref()), ("abc", Some("abc")));
    let mut replaced = stream(&["x-request-id: abc"]);
    mutate_request(&hcm(remote_address), &[], &mut replaced).unwrap();
    assert_eq!(value(&replaced.request.headers, "x-request-id").len(), 36);
    let mut off = stream(&[]);
    mutate_request(&hcm(|p| p.generate_request_id = Some(pb::BoolValue { value: false })), &[], &mut off).unwrap();
    assert_eq!((value(&off.request.headers, "x-request-id"), off.info.request_id), ("-", None));
    let mut two = stream(&["x-request-id: a", "x-request-id: b"]);
    mutate_request(&hcm(|_| {}), &[], &mut two).unwrap();
    assert_eq!(value(&two.request.headers, "x-request-id"), "a,b");
}

/// D12, D13, and what an unencrypted request says of its scheme.
#[test]
fn schemes_follow_who_may_name_them() {
    let overwrite = hcm(|p| {
        p.scheme_header_transformation = Some(core::SchemeHeaderTransformation {
            match_upstream: false,
            transformation: Some(core::scheme_header_transformation::Transformation::SchemeToOverwrite("https".into())),
        });
    });
    let trusted = hcm(|p| {
        remote_address(p);
        p.xff_num_trusted_hops = 1;
    });
    let cases: &[(&HttpConnectionManager, Option<&str>, Scheme, &str)] = &[
        (&hcm(|_| {}), None, Scheme::Http, "http"),
        (&hcm(|_| {}), Some("HTTPS"), Scheme::Https, "HTTPS"),
        (&hcm(|_| {}), Some("ws"), Scheme::Http, "ws"),
        (&hcm(remote_address), Some("https"), Scheme::Http, "http"),
        (&trusted, Some("https"), Scheme::Https, "https"),
        (&overwrite, Some("http"), Scheme::Https, "https"),
    ];
    for (hcm, sent, scheme, forwarded) in cases {
        let mut s = stream(&[]);
        if let Some(sent) = sent {
            s.request.headers.insert("x-forwarded-proto", HeaderValue::from_str(sent).unwrap());
        }
        mutate_request(hcm, &[], &mut s).unwrap();
        assert_eq!(
            (s.request.scheme, value(&s.request.headers, "x-forwarded-proto")),
            (*scheme, *forwarded),
            "{sent:?}"
        );
    }
    let mut s = stream(&["x-forwarded-proto: http"]);
    s.request.scheme = Scheme::Https;
    s.info.protocol = Some(Protocol::Http2);
    let tls = Connection { tls: Some(Arc::new(TlsSession::default())), ..(*s.info.connection).clone() };
    s.info.connection = Arc::new(tls);
    mutate_request(&hcm(remote_address), &[], &mut s).unwrap();
    assert_eq!((s.request.scheme, value(&s.request.headers, "x-forwarded-proto")), (Scheme::Https, "https"));
}

/// B20 to B23, E30 to E39: requests that go no further.
#[test]
fn requests_are_refused_as_in_envoy() {
    let redirect =
        hcm(|p| p.path_with_escaped_slashes_action = inner::PathWithEscapedSlashesAction::UnescapeAndRedirect as i32);
    let plain = hcm(|_| {});
    type Change = fn(&mut RequestHead);
    let cases: &[(&HttpConnectionManager, Change, u16, &str, bool, &str)] = &[
        (&plain, |r| r.authority = None, 400, "missing_host_header", true, "-"),
        (&plain, |r| r.authority = Some(HeaderValue::from_static("a b")), 400, "http.invalid_authority", true, "-"),
        (&plain, |r| r.path = Some(HeaderValue::from_static("/a#f")), 400, "path_normalization_failed", true, "-"),
        (&plain, |r| r.path = Some(HeaderValue::from_static("*")), 404, "absolute_path_rejected", false, "-"),
        (&plain, |r| r.path = None, 404, "absolute_path_rejected", false, "-"),
        (
            &redirect,
            |r| r.path = Some(HeaderValue::from_static("/a%2fb?x=%2f")),
            307,
            "path_normalization_failed",
            false,
            "/a/b?x=%2f",
        ),
        (
            &redirect,
            |r| {
                r.path = Some(HeaderValue::from_static("/a%2fb"));
                r.headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            },
            400,
            "path_normalization_failed",
            true,
            "-",
        ),
    ];
    for (hcm, change, status, details, close, location) in cases {
        let mut s = stream(&[]);
        change(&mut s.request);
        let reply = mutate_request(hcm, &[], &mut s).unwrap_err();
        let got = (reply.status.as_u16(), &*reply.details, reply.close, value(&reply.headers, "location"));
        assert_eq!(got, (*status, *details, *close, *location));
        assert!(reply.body.is_empty());
    }
    let mut connect = stream(&[]);
    (connect.request.method, connect.request.path) = (Method::CONNECT, None);
    mutate_request(&plain, &[], &mut connect).unwrap();
}

#[test]
fn authorities_have_the_characters_of_rfc_3986() {
    use super::request::is_authority;
    let good: String =
        (0x21..0x7f_u8).map(char::from).filter(|c| is_authority(c.to_string().as_bytes(), None)).collect();
    assert_eq!(good, "!$%&'()*+,-.0123456789:;=@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]_abcdefghijklmnopqrstuvwxyz~");
    assert!(is_authority(b"u:p@h", Some(Protocol::Http11)) && !is_authority(b"u:p@h", Some(Protocol::Http2)));
    assert!(is_authority(b"", None) && !is_authority(b"\xe9", None));
}

/// D26: (authority, with `strip_matching_host_port`, with `strip_any_host_port`), both with `strip_trailing_host_dot`; port 8080.
#[test]
fn ports_and_dots_are_taken_off_hosts() {
    let matching = hcm(|p| (p.strip_matching_host_port, p.strip_trailing_host_dot) = (true, true));
    let all = hcm(|p| {
        p.strip_port_mode = Some(inner::StripPortMode::StripAnyHostPort(true));
        p.strip_trailing_host_dot = true;
    });
    for (host, with_matching, with_any) in [
        ("h.com:8080", "h.com", "h.com"),
        ("h.com.:8080", "h.com", "h.com"),
        ("h.com.", "h.com", "h.com"),
        ("h.com..", "h.com.", "h.com."),
        ("h.com:80", "h.com:80", "h.com"),
        ("h.com:", "h.com:", "h.com:"),
        ("h.com:abc", "h.com:abc", "h.com:abc"),
        ("[::1]:8080", "[::1]", "[::1]"),
        ("[::1]", "[::1]", "[::1]"),
        (".", "", ""),
        ("h.com:99999", "h.com:99999", "h.com"),
        ("h:1:8080", "h:1", "h:1"),
        (":8080", "", ""),
    ] {
        for (hcm, expected) in [(&matching, with_matching), (&all, with_any), (&hcm(|_| {}), host)] {
            let mut s = stream(&[]);
            s.request.authority = Some(HeaderValue::from_static(host));
            mutate_request(hcm, &[], &mut s).unwrap();
            assert_eq!(s.request.authority.unwrap(), expected, "{host}");
        }
    }
}

/// D30, and the others that are about one hop only.
#[test]
fn request_headers_about_the_connection_are_removed() {
    for (te, expected) in [
        ("trailers", "trailers"),
        ("trailers, deflate", "trailers"),
        ("gzip, trailers", "trailers"),
        ("gzip", "-"),
        ("trailers;q=0.5", "-"),
        ("TRAILERS", "-"),
    ] {
        let mut s = stream(&[]);
        s.request.headers.insert("te", HeaderValue::from_static(te));
        mutate_request(&hcm(|_| {}), &[], &mut s).unwrap();
        assert_eq!(value(&s.request.headers, "te"), expected, "{te}");
    }
    let sent = [
        "connection: close",
        "keep-alive: 1",
        "proxy-connection: keep-alive",
        "upgrade: foo",
        "transfer-encoding: chunked",
        "expect: 100-continue",
        "trailer: x",
        "proxy-authorization: a",
        "x-envoy-internal: true",
    ];
    let mut s = stream(&sent);
    mutate_request(&hcm(|p| p.generate_request_id = Some(pb::BoolValue { value: false })), &[], &mut s).unwrap();
    let mut left = lines(&s.request.headers);
    left.sort();
    assert_eq!(left, ["proxy-authorization: a", "trailer: x", "x-forwarded-proto: http"]);
    let mut s = stream(&["expect: 100-continue"]);
    mutate_request(&hcm(|p| p.proxy_100_continue = true), &[], &mut s).unwrap();
    assert_eq!(value(&s.request.headers, "expect"), "100-continue");
}

#[test]
fn referers_that_are_no_urls_are_removed() {
    for (referer, kept) in [
        ("http://a/b", true),
        ("https://x?y#z", true),
        ("ftp://x/y", true),
        ("nourl", true),
        ("//a/b", true),
        ("/rel", true),
        ("", true),
        ("?", true),
        ("foo bar", false),
        ("http://", false),
        ("http://a b", false),
        ("about:blank", false),
        ("http://a:99999/", false),
        ("javascript:x", false),
        ("http:///x", false),
        ("a:b", false),
    ] {
        let mut s = stream(&[]);
        s.request.headers.insert("referer", HeaderValue::from_static(referer));
        mutate_request(&hcm(|_| {}), &[], &mut s).unwrap();
        assert_eq!(s.request.headers.contains_key("referer"), kept, "{referer}");
    }
    let mut s = stream(&["referer: http://a", "referer: http://a"]);
    mutate_request(&hcm(|_| {}), &[], &mut s).unwrap();
    assert!(!s.request.headers.contains_key("referer"));
}

/// D15 and its neighbours.
#[test]
fn via_user_agent_and_port_are_added() {
    let hcm = hcm(|p| {
        p.via = "envoy-via".into();
        p.add_user_agent = Some(pb::BoolValue { value: true });
        p.append_x_forwarded_port = true;
        p.generate_request_id = Some(pb::BoolValue { value: false });
    });
    let mut s = stream(&["via: 1.0 a"]);
    mutate_request(&hcm, &[], &mut s).unwrap();
    assert_eq!(
        lines(&s.request.headers),
        [
            "via: 1.0 a, envoy-via",
            "x-forwarded-proto: http",
            "x-forwarded-port: 8080",
            "x-envoy-downstream-service-cluster: sc",
            "user-agent: sc",
            "x-envoy-downstream-service-node: sn",
        ]
    );
    let mut s = stream(&["user-agent: u", "x-forwarded-port: 9"]);
    mutate_request(&hcm, &[], &mut s).unwrap();
    let h = &s.request.headers;
    assert_eq!((value(h, "user-agent"), value(h, "x-forwarded-port"), value(h, "via")), ("u", "9", "envoy-via"));
}

/// D10, D14, D15, D29: an upstream's response as the client gets it.
#[test]
fn responses_come_out_as_in_envoy() {
    const DATE: &str = "date: Mon, 01 Jan 2020 00:00:00 GMT";
    let mode = |mode: inner::ServerHeaderTransformation| hcm(|p| p.server_header_transformation = mode as i32);
    let always = hcm(|p| {
        p.server_name = "srv".into();
        p.via = "v".into();
        p.always_set_request_id_in_response = true;
    });
    let plain = mode(inner::ServerHeaderTransformation::Overwrite);
    let absent = mode(inner::ServerHeaderTransformation::AppendIfAbsent);
    let pass = mode(inner::ServerHeaderTransformation::PassThrough);
    let cases: &[(&HttpConnectionManager, &[&str], &[&str])] = &[
        (&plain, &["a: b"], &["a: b", "date: Sun, 06 Nov 1994 08:49:37 GMT", "server: envoy"]),
        (&plain, &["server: be", DATE], &["server: envoy", DATE]),
        (&absent, &["server: be", DATE], &["server: be", DATE]),
        (&absent, &[DATE], &[DATE, "server: envoy"]),
        (&pass, &["server: be", DATE], &["server: be", DATE]),
        (&pass, &[DATE], &[DATE]),
        (
            &always,
            &[DATE, "x-request-id: up", "via: 1.1 up"],
            &[DATE, "x-request-id: id", "via: 1.1 up, v", "server: srv"],
        ),
        (&always, &[DATE], &[DATE, "server: srv", "x-request-id: id", "via: v"]),
        (&pass, &[DATE, "foo: 1", "connection: foo"], &[DATE, "foo: 1"]),
        (&pass, &[DATE, "upgrade: x", "keep-alive: 1"], &[DATE]),
        (&pass, &[DATE, "proxy-connection: a", "transfer-encoding: chunked"], &[DATE]),
    ];
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    for (hcm, upstream, expected) in cases {
        let mut s = stream(&["x-request-id: id"]);
        s.response = Some(ResponseHead { status: StatusCode::OK, headers: headers(upstream) });
        mutate_response(hcm, &mut s, now);
        assert_eq!(lines(&s.response.unwrap().headers), *expected);
    }
    assert_eq!(date(now + Duration::from_secs(1)), "Sun, 06 Nov 1994 08:49:38 GMT");
    let mut s = stream(&[]);
    s.request.upgrade = Some(HeaderValue::from_static("websocket"));
    let upgrade = headers(&["connection: upgrade", "upgrade: websocket", DATE]);
    s.response = Some(ResponseHead { status: StatusCode::SWITCHING_PROTOCOLS, headers: upgrade });
    mutate_response(&pass, &mut s, now);
    assert_eq!(value(&s.response.unwrap().headers, "upgrade"), "websocket");
}

const CONNECT_FAILURE: &str =
    "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure";

fn dead() -> LocalReply {
    LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "d").body(CONNECT_FAILURE).flag(Flag::UpstreamConnectionFailure)
}

fn reply_of(
    hcm: &HttpConnectionManager,
    mut s: HttpStream,
    reply: LocalReply,
) -> (u16, Vec<String>, String, HttpStream) {
    let body = local_reply::apply(reply, &mut s, hcm, None);
    let head = s.response.clone().unwrap();
    (head.status.as_u16(), lines(&head.headers), String::from_utf8(body.to_vec()).unwrap(), s)
}

/// A01, A02, A30 and what stays of a reply's own headers.
#[test]
fn local_replies_have_lengths_and_types() {
    let hcm = hcm(|_| {});
    let not_found = LocalReply::new(StatusCode::NOT_FOUND, "route_not_found").flag(Flag::NoRouteFound);
    let (status, headers, body, s) = reply_of(&hcm, stream(&[]), not_found);
    assert_eq!((status, headers.len(), body.as_str()), (404, 0, ""));
    assert_eq!((s.info.response_code, s.info.details.as_deref()), (404, Some("route_not_found")));
    assert!(s.info.flags.has(Flag::NoRouteFound));
    let (status, headers, body, _) = reply_of(&hcm, stream(&[]), dead());
    assert_eq!((status, body.as_str()), (503, CONNECT_FAILURE));
    assert_eq!(headers, ["content-length: 98", "content-type: text/plain"]);
    let mut head = stream(&[]);
    head.request.method = Method::HEAD;
    let (_, headers, body, _) = reply_of(&hcm, head, dead());
    assert_eq!((headers.len(), body.as_str()), (2, ""));
    let mut own = LocalReply::new(StatusCode::FORBIDDEN, "d").body("{}");
    own.headers = self::headers(&["set-cookie: a", "set-cookie: b", "content-type: application/json"]);
    let (_, headers, _, _) = reply_of(&hcm, stream(&[]), own);
    assert_eq!(headers, ["set-cookie: a", "set-cookie: b", "content-type: application/json", "content-length: 2"]);
}

/// A33 to A36.
#[test]
fn grpc_clients_get_trailers() {
    let hcm = hcm(|_| {});
    let grpc = || stream(&["content-type: application/grpc"]);
    let (status, headers, body, s) = reply_of(&hcm, grpc(), dead());
    assert_eq!((status, s.info.response_code, body.as_str()), (200, 200, ""));
    let message = format!("grpc-message: {CONNECT_FAILURE}");
    assert_eq!(headers, ["content-type: application/grpc", "grpc-status: 14", message.as_str()]);
    for (code, expected) in
        [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (500, 2), (502, 14), (503, 14), (504, 14), (418, 2)]
    {
        let reply = LocalReply::new(StatusCode::from_u16(code).unwrap(), "d");
        let (_, headers, _, _) = reply_of(&hcm, grpc(), reply);
        assert_eq!(headers, ["content-type: application/grpc", format!("grpc-status: {expected}").as_str()], "{code}");
    }
    let limited =
        LocalReply { grpc_status: Some(8), ..LocalReply::new(StatusCode::TOO_MANY_REQUESTS, "d") }.body("a%\n~é");
    let (_, headers, _, _) = reply_of(&hcm, grpc(), limited);
    assert_eq!(headers[1..], ["grpc-status: 8", "grpc-message: a%25%0A%7E%C3%A9"]);
    let mut head = grpc();
    head.request.method = Method::HEAD;
    assert_eq!(reply_of(&hcm, head, dead()).1.len(), 2);
    let web = stream(&["content-type: application/grpc-web"]);
    assert_eq!(reply_of(&hcm, web, dead()).0, 503);
}

/// A31, A32: code, body, headers (with the old code) and format of the first mapper that matches.
#[test]
fn mappers_rewrite_local_replies() {
    let text = |text: &str| core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text.into())),
        ..Default::default()
    };
    let hcm = hcm(|p| {
        let comparison = accesslog::ComparisonFilter {
            op: accesslog::comparison_filter::Op::Eq as i32,
            value: Some(core::RuntimeUInt32 { default_value: 503, runtime_key: "x".into() }),
        };
        let specifier = accesslog::access_log_filter::FilterSpecifier::StatusCodeFilter(accesslog::StatusCodeFilter {
            comparison: Some(comparison),
        });
        let header = core::HeaderValue { key: "x-lr".into(), value: "%RESPONSE_CODE%".into(), ..Default::default() };
        let mapper = proto::ResponseMapper {
            filter: Some(accesslog::AccessLogFilter { filter_specifier: Some(specifier) }),
            status_code: Some(pb::UInt32Value { value: 499 }),
            body: Some(text("nb")),
            headers_to_add: vec![core::HeaderValueOption { header: Some(header), ..Default::default() }],
            body_format_override: None,
        };
        let format =
            core::substitution_format_string::Format::TextFormatSource(text("LR %LOCAL_REPLY_BODY% %RESPONSE_CODE%"));
        p.local_reply_config = Some(proto::LocalReplyConfig {
            mappers: vec![mapper],
            body_format: Some(core::SubstitutionFormatString { format: Some(format), ..Default::default() }),
        });
    });
    let (status, headers, body, s) = reply_of(&hcm, stream(&[]), dead());
    assert_eq!((status, s.info.response_code, body.as_str()), (499, 499, "LR nb 499"));
    assert_eq!(headers, ["x-lr: 503", "content-length: 9", "content-type: text/plain"]);
    let (status, headers, body, _) = reply_of(&hcm, stream(&[]), LocalReply::new(StatusCode::NOT_FOUND, "d"));
    assert_eq!((status, headers.len(), body.as_str()), (404, 2, "LR  404"));
    let (_, headers, _, _) = reply_of(&hcm, stream(&["content-type: application/grpc"]), dead());
    let grpc = ["x-lr: 503", "content-type: application/grpc", "grpc-status: 2", "grpc-message: LR nb 499"];
    assert_eq!(headers, grpc);
}

const WITH: Circumstances = Circumstances {
    grpc: false,
    respect_expected: false,
    suppress_headers: false,
    stream_idle: Some(Duration::from_secs(300)),
    max_stream_duration: None,
};

/// D19, fact 2 of the specification: wishes sent, and global, per-try and expected timeout in milliseconds.
#[test]
fn timeouts_are_those_of_route_and_headers() {
    let ms = Duration::from_millis;
    let route = RouteTimeouts { timeout: ms(15_000), ..RouteTimeouts::default() };
    let per_try = RouteTimeouts { per_try: ms(200), ..route };
    let hedged = RouteTimeouts { hedge_on_per_try_timeout: true, ..per_try };
    let none = RouteTimeouts::default();
    const GLOBAL: &str = "x-envoy-upstream-rq-timeout-ms: 900";
    const PER_TRY: &str = "x-envoy-upstream-rq-per-try-timeout-ms: 300";
    const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms: 700";
    let respect = Circumstances { respect_expected: true, ..WITH };
    for (route, with, sent, global, each, expected) in [
        (route, WITH, &[][..], 15_000, 0, "15000"),
        (none, WITH, &[], 0, 0, "-"),
        (per_try, WITH, &[], 15_000, 200, "200"),
        (hedged, WITH, &[], 15_000, 200, "15000"),
        (RouteTimeouts { per_try: ms(20_000), ..route }, WITH, &[], 15_000, 0, "15000"),
        (RouteTimeouts { per_try: ms(200), ..none }, WITH, &[], 0, 200, "200"),
        (route, WITH, &[GLOBAL], 900, 0, "900"),
        (route, WITH, &[GLOBAL, PER_TRY], 900, 300, "300"),
        (route, WITH, &["x-envoy-upstream-rq-timeout-ms: abc"], 15_000, 0, "15000"),
        (route, WITH, &[EXPECTED], 15_000, 0, "15000"),
        (route, respect, &[EXPECTED, GLOBAL], 700, 0, "700"),
        (route, respect, &[GLOBAL], 900, 0, "900"),
        (route, Circumstances { suppress_headers: true, ..WITH }, &[], 15_000, 0, "-"),
        (RouteTimeouts { uses_stream_duration: true, ..route }, WITH, &[], 0, 0, "-"),
    ] {
        let mut h = headers(sent);
        let got = request_timeouts(&mut h, &route, with);
        let some = |v| (v > 0).then(|| ms(v));
        let wanted = (some(global), some(each), expected);
        assert_eq!(
            (got.global, got.per_try, value(&h, "x-envoy-expected-rq-timeout-ms")),
            wanted,
            "{route:?} {sent:?}"
        );
        assert!(!h.contains_key("x-envoy-upstream-rq-per-try-timeout-ms"));
    }
    let mut h = HeaderMap::new();
    let got = request_timeouts(&mut h, &per_try, WITH);
    timeouts::expect(&mut h, &got, ms(14_900), &per_try, WITH);
    assert_eq!(value(&h, "x-envoy-expected-rq-timeout-ms"), "100");
    timeouts::expect(&mut h, &got, ms(99_000), &per_try, WITH);
    assert_eq!(value(&h, "x-envoy-expected-rq-timeout-ms"), "1");
}

#[test]
fn grpc_timeouts_are_capped_by_the_route() {
    let s = Duration::from_secs;
    let grpc = Circumstances { grpc: true, max_stream_duration: Some(s(9)), ..WITH };
    let old = RouteTimeouts { timeout: s(15), max_grpc_timeout: Some(s(3)), ..RouteTimeouts::default() };
    for (sent, global, written) in [("5S", 3, "3000m"), ("1S", 1, "1000m"), ("", 3, "3000m"), ("x", 3, "3000m")] {
        let mut h = HeaderMap::new();
        if !sent.is_empty() {
            h.insert("grpc-timeout", HeaderValue::from_static(sent));
        }
        assert_eq!(request_timeouts(&mut h, &old, grpc).global, Some(s(global)), "{sent}");
        assert_eq!(value(&h, "grpc-timeout"), written, "{sent}");
    }
    let new = RouteTimeouts { uses_stream_duration: true, max_stream_duration: Some(s(2)), ..RouteTimeouts::default() };
    let capped = RouteTimeouts { grpc_timeout_header_max: Some(s(3)), grpc_timeout_header_offset: Some(s(1)), ..new };
    let ms = |v| Some(Duration::from_millis(v));
    for (route, sent, expected) in [
        (RouteTimeouts::default(), "5S", ms(9_000)),
        (RouteTimeouts { max_stream_duration: Some(s(0)), ..new }, "", None),
        (new, "5S", ms(2_000)),
        (capped, "", ms(2_000)),
        (capped, "5S", ms(2_000)),
        (capped, "2500m", ms(1_500)),
        (capped, "1500001u", ms(501)),
        (capped, "1S", ms(0)),
        (capped, "123456789S", ms(2_000)),
    ] {
        let mut h = HeaderMap::new();
        if !sent.is_empty() {
            h.insert("grpc-timeout", HeaderValue::from_static(sent));
        }
        assert_eq!(request_timeouts(&mut h, &route, grpc).max_stream_duration, expected, "{sent} {route:?}");
    }
}

/// Whatever a peer sends, something comes out.
#[test]
fn random_heads_do_not_panic() {
    let hcms = [
        hcm(|p| {
            (p.normalize_path, p.merge_slashes, p.strip_trailing_host_dot) =
                (Some(pb::BoolValue { value: true }), true, true)
        }),
        hcm(|p| {
            remote_address(p);
            p.xff_num_trusted_hops = 2;
            p.strip_port_mode = Some(inner::StripPortMode::StripAnyHostPort(true));
            p.tracing = Some(inner::Tracing::default());
            p.preserve_external_request_id = true;
            p.via = "v".into();
        }),
        hcm(internal),
    ];
    const NAMES: [&str; 14] = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
        "te",
        "referer",
        "via",
        "expect",
        "connection",
        "grpc-timeout",
        "x-envoy-upstream-rq-timeout-ms",
        "x-envoy-retry-on",
        "user-agent",
        "content-type",
        "x-forwarded-client-cert",
    ];
    const PIECES: [&[u8]; 16] = [
        b",",
        b" ",
        b"1.2.3.4",
        b"::1",
        b":",
        b"[",
        b"]",
        b".",
        b"/",
        b"%",
        b"#",
        b"\xff\xe9",
        b"http",
        b"99999999999",
        b"S",
        b"-",
    ];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % n
    };
    let mut passed = 0;
    for _ in 0..20_000 {
        let mut s = stream(&[]);
        let mut random = |most| {
            let pieces: Vec<&[u8]> = (0..next(most)).map(|_| PIECES[next(PIECES.len())]).collect();
            HeaderValue::from_bytes(&pieces.concat()).unwrap()
        };
        for name in NAMES {
            let value = random(6);
            if !value.is_empty() {
                s.request.headers.append(name, value);
                let value = random(3);
                s.request.headers.append(name, value);
            }
        }
        s.request.authority = Some(random(4));
        s.request.path = HeaderValue::from_bytes(&[b"/", random(8).as_bytes()].concat()).ok();
        let hcm = &hcms[next(hcms.len())];
        let reply = mutate_request(hcm, &[], &mut s).err();
        passed += u32::from(reply.is_none());
        let route = RouteTimeouts { max_grpc_timeout: Some(Duration::from_secs(1)), ..RouteTimeouts::default() };
        request_timeouts(&mut s.request.headers, &route, Circumstances { grpc: true, ..WITH });
        local_reply::apply(reply.map_or_else(dead, |r| *r), &mut s, hcm, None);
        mutate_response(hcm, &mut s, SystemTime::UNIX_EPOCH);
        assert!(s.response.is_some_and(|r| r.headers.contains_key("server")));
    }
    assert!(passed > 1_000, "the test reaches what it is about: {passed}");
}
