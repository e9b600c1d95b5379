use ::http::{Method, StatusCode};
use waypost_filters::head::Protocol;

use super::*;

#[test]
fn request_lines_envoy_refuses() {
    let cases: &[(&[u8], H1Error)] = &[
        (b"GET / HTTP/1.0", H1Error::LOW_VERSION),
        (b"GET /", H1Error::LOW_VERSION),
        (b"GET / HTTP/1.2", H1Error::LOW_VERSION),
        (b"GET / HTTP/2.0", H1Error::LOW_VERSION),
        (b"GET / HTTP/0.9", H1Error::LOW_VERSION),
        (b"GET / http/1.1", H1Error::CODEC),
        (b"GET / HTTP/1.10", H1Error::CODEC),
        (b"GET / HTTP/x.1", H1Error::CODEC),
        (b"GET / foo", H1Error::CODEC),
        (b"GET", H1Error::CODEC),
        (b"GET / HTTP/1.1\0", H1Error::INVALID_CHARACTERS),
        (b"G@T / HTTP/1.1", H1Error::CODEC),
        (b"FOO / HTTP/1.1", H1Error::CODEC),
        (b"get / HTTP/1.1", H1Error::CODEC),
        (b"M-SEARCH / HTTP/1.1", H1Error::CODEC),
        (b"PRI * HTTP/2.0", H1Error::CODEC),
        (b" GET / HTTP/1.1", H1Error::CODEC),
        (b"GET echo HTTP/1.1", H1Error::CODEC),
        (b"GET * HTTP/1.1", H1Error::INVALID_URL),
        (b"GET /a b HTTP/1.1", H1Error::CODEC),
        (b"GET /a\tb HTTP/1.1", H1Error::CODEC),
        (b"GET /a\x01 HTTP/1.1", H1Error::INVALID_CHARACTERS),
        (b"GET /a\x0c HTTP/1.1", H1Error::INVALID_CHARACTERS),
        (b"GET /a\x7f HTTP/1.1", H1Error::INVALID_CHARACTERS),
        (b"GET /a\0 HTTP/1.1", H1Error::INVALID_CHARACTERS),
        (b"GET /a\xff HTTP/1.1", H1Error::CODEC),
        (b"GET ftp://z/ HTTP/1.1", H1Error::INVALID_SCHEME),
        (b"GET http:///x HTTP/1.1", H1Error::INVALID_URL),
        (b"GET http://z:99999/ HTTP/1.1", H1Error::INVALID_URL),
        (b"GET http://z:x/ HTTP/1.1", H1Error::INVALID_URL),
        (b"GET http://z:/ HTTP/1.1", H1Error::INVALID_URL),
        (b"GET http://a@b@c/ HTTP/1.1", H1Error::INVALID_URL),
        (b"GET http://[fe80::1%25e]/ HTTP/1.1", H1Error::INVALID_URL),
        (b"GET http://[::1/ HTTP/1.1", H1Error::INVALID_URL),
        (b"CONNECT a.com HTTP/1.1", H1Error::INVALID_URL),
        (b"CONNECT /x HTTP/1.1", H1Error::INVALID_URL),
        (b"CONNECT http://z/ HTTP/1.1", H1Error::INVALID_URL),
        (b"CONNECT a:80/x HTTP/1.1", H1Error::INVALID_URL),
        (b"CONNECT u@a:80 HTTP/1.1", H1Error::INVALID_URL),
        (b"CONNECT a:99999 HTTP/1.1", H1Error::INVALID_URL),
    ];
    for (line, expected) in cases {
        let bytes = [line, &b"\r\nHost: h\r\n\r\n"[..]].concat();
        assert_eq!(refused(&bytes), *expected, "{}", line.escape_ascii());
    }
}

#[test]
fn header_lines_envoy_refuses() {
    let cases: &[(&[u8], H1Error)] = &[
        (b"a: b\0c\r\n", H1Error::INVALID_CHARACTERS),
        (b"a: b\x01c\r\n", H1Error::INVALID_CHARACTERS),
        (b"a: b\x7fc\r\n", H1Error::INVALID_CHARACTERS),
        (b"a\0: c\r\n", H1Error::INVALID_CHARACTERS),
        (b"a : c\r\n", H1Error::CODEC),
        (b"a\t: c\r\n", H1Error::CODEC),
        (b"a b: c\r\n", H1Error::CODEC),
        (b": c\r\n", H1Error::CODEC),
        (b"abc\r\n", H1Error::CODEC),
        (b"\xe9: c\r\n", H1Error::CODEC),
        (b"a(: c\r\n", H1Error::CODEC),
        (b"transfer-encoding: chunked\r\ncontent-length: 3\r\n", H1Error::LENGTH_AND_CHUNKED),
        (b"content-length: 0\r\ntransfer-encoding: chunked\r\n", H1Error::LENGTH_AND_CHUNKED),
        (b"content-length: 3\r\ncontent-length: 3\r\n", H1Error::CODEC),
        (b"content-length: 3\r\nContent-Length: 4\r\n", H1Error::CODEC),
        (b"content-length: 3, 3\r\n", H1Error::CODEC),
        (b"content-length: +3\r\n", H1Error::CODEC),
        (b"content-length: -3\r\n", H1Error::CODEC),
        (b"content-length: 0x3\r\n", H1Error::CODEC),
        (b"content-length:\r\n", H1Error::CODEC),
        (b"content-length: 1 2\r\n", H1Error::CODEC),
        (b"content-length: 18446744073709551616\r\n", H1Error::CODEC),
        (b"transfer-encoding: xchunked\r\n", H1Error::TRANSFER_ENCODING),
        (b"transfer-encoding: gzip, chunked\r\n", H1Error::TRANSFER_ENCODING),
        (b"transfer-encoding: chunked, chunked\r\n", H1Error::TRANSFER_ENCODING),
        (b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", H1Error::TRANSFER_ENCODING),
        (b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", H1Error::TRANSFER_ENCODING),
        (b"transfer-encoding: identity\r\n", H1Error::TRANSFER_ENCODING),
        (b"transfer-encoding:\r\n", H1Error::TRANSFER_ENCODING),
        (b"transfer-encoding: \"chunked\"\r\n", H1Error::TRANSFER_ENCODING),
        (b"transfer-encoding: chunked;q=1\r\n", H1Error::TRANSFER_ENCODING),
        (b"transfer-encoding: chunked,\r\n", H1Error::TRANSFER_ENCODING),
        (b"transfer-encoding: \x0bchunked\r\n", H1Error::INVALID_CHARACTERS),
        (b"transfer-encoding : chunked\r\n", H1Error::CODEC),
        (b"connection: x-forwarded-for\r\n", H1Error::CONNECTION_REJECTED),
        (b"connection: X-Forwarded-Proto\r\n", H1Error::CONNECTION_REJECTED),
        (b"connection: foo, x-forwarded-host\r\n", H1Error::CONNECTION_REJECTED),
        (b"connection: :path\r\n", H1Error::CONNECTION_REJECTED),
        (b"connection: 0,1,2,3,4,5,6,7,8,9\r\n", H1Error::CONNECTION_REJECTED),
        // Stricter than Envoy, which deletes the CR (D2) or joins the hosts (D3).
        (b"a: b\rc\r\n", H1Error::INVALID_CHARACTERS),
        (b"a: b\r\r\n", H1Error::INVALID_CHARACTERS),
        (b"host: h\r\n", H1Error::INVALID_AUTHORITY),
    ];
    for (lines, expected) in cases {
        assert_eq!(refused(&with_headers(lines)), *expected, "{}", lines.escape_ascii());
    }
    assert_eq!(refused(b"GET / HTTP/1.1\r\n x: y\r\nHost: h\r\n\r\n"), H1Error::CODEC, "fold of the request line");
    let te = [b"connection: te\r\nte: ", &[b'a'; 257][..], b"\r\n"].concat();
    assert_eq!(refused(&with_headers(&te)), H1Error::CONNECTION_REJECTED);
    for (line, expected) in [
        (&b"transfer-encoding: chunked"[..], H1Error::TRANSFER_ENCODING),
        (b"content-length: 3", H1Error::BODY_DISALLOWED),
    ] {
        let bytes = [b"CONNECT a:80 HTTP/1.1\r\nHost: h\r\n", line, b"\r\n\r\n"].concat();
        assert_eq!(refused(&bytes), expected);
    }
}

#[test]
fn errors_carry_what_envoy_sends_and_logs() {
    assert_eq!(H1Error::LOW_VERSION.status, StatusCode::UPGRADE_REQUIRED);
    assert_eq!((H1Error::LOW_VERSION.body, H1Error::LOW_VERSION.details), ("Upgrade Required", "low_version"));
    assert_eq!(H1Error::TRANSFER_ENCODING.status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(H1Error::TRANSFER_ENCODING.body, "Not Implemented");
    assert_eq!(H1Error::TRANSFER_ENCODING.details, "http1.invalid_transfer_encoding");
    assert_eq!(H1Error::TOO_MANY_HEADERS.status.as_u16(), 431);
    assert_eq!(H1Error::TOO_MANY_HEADERS.body, "Request Header Fields Too Large");
    assert_eq!(
        (H1Error::CODEC.status.as_u16(), H1Error::CODEC.body, H1Error::CODEC.flag_dpe),
        (400, "Bad Request", true)
    );
}

#[test]
fn hosts() {
    for host in
        ["a b", "a@b/c", "\u{e9}", "a/b", "a?b", "a#b", "a\"b", "a<b", "a{b", "a|b", "a\\b", "a^b", "a`b", "http://x"]
    {
        let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(refused(bytes.as_bytes()), H1Error::INVALID_AUTHORITY, "{host}");
    }
    for host in ["", "u:p@h", "a:99999", "[::1", "a.", "a,b", "a%20", "a_~!$&'()*+;="] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(accepted(bytes.as_bytes()).head.authority_bytes(), host.as_bytes());
    }
    // The connection manager answers 400 missing_host_header.
    assert!(accepted(b"GET / HTTP/1.1\r\n\r\n").head.authority.is_none());
    assert!(accepted(&with_headers(b"connection: host\r\n")).head.authority.is_none());
    let absolute = accepted(b"GET http://z/ HTTP/1.1\r\nHost: h\r\nConnection: host\r\n\r\n");
    assert_eq!(absolute.head.authority_bytes(), b"z");
}

#[test]
fn targets() {
    let cases = [
        ("GET /a%00b?x#f", "h", "/a%00b?x#f", Scheme::Http),
        ("GET /a\\b{}|^`\"<>", "h", "/a\\b{}|^`\"<>", Scheme::Http),
        ("GET   /  ", "h", "/", Scheme::Http),
        ("OPTIONS *", "h", "*", Scheme::Http),
        ("OPTIONS *x", "h", "*x", Scheme::Http),
        ("GET http://zz.com:81/e", "zz.com:81", "/e", Scheme::Http),
        ("GET http://a:b@zz.com/e?x", "zz.com", "/e?x", Scheme::Http),
        ("GET HTTPS://ZZ/", "ZZ", "/", Scheme::Https),
        ("GET http://z", "z", "/", Scheme::Http),
        // Not a path, for the connection manager to reject as Envoy does.
        ("GET http://z?a=b", "z", "?a=b", Scheme::Http),
        ("GET http://[::1]:80/", "[::1]:80", "/", Scheme::Http),
        ("GET http://z/a#b", "z", "/a#b", Scheme::Http),
    ];
    for (line, authority, path, scheme) in cases {
        let bytes = format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n");
        let head = accepted(bytes.as_bytes()).head;
        assert_eq!(head.authority_bytes(), authority.as_bytes(), "{line}");
        assert_eq!(head.path_bytes(), path.as_bytes(), "{line}");
        assert_eq!(head.scheme, scheme, "{line}");
    }
    let limits = RequestLimits { allow_absolute_url: false, ..RequestLimits::default() };
    let head = request_with(b"GET http://z/ HTTP/1.1\r\nHost: h\r\n\r\n", &limits).unwrap().unwrap().head;
    assert_eq!((head.path_bytes(), head.authority_bytes()), (&b"http://z/"[..], &b"h"[..]));
    for authority in ["a.com:80", "a:0", "[::1]:80"] {
        let bytes = format!("CONNECT {authority} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        let parsed = accepted(bytes.as_bytes());
        assert_eq!(parsed.head.authority_bytes(), authority.as_bytes());
        assert!(parsed.head.path.is_none() && parsed.head.headers.is_empty() && parsed.head.is_connect());
        assert_eq!(parsed.body, BodyKind::UntilClose);
    }
}

#[test]
fn line_ends_and_values() {
    let cases: &[(&[u8], &str)] = &[
        (b"a: b\r\n c\r\n", "a: b c"),
        (b"a: b\r\n\t  c\r\n", "a: b\\t  c"),
        (b"a: b\r\n \r\n", "a: b"),
        (b"a:\r\n c\r\n d\r\n", "a: c d"),
        (b"a: b\xe9c\r\n", "a: b\\xe9c"),
        (b"A-B: \t b\tc \t\r\n", "a-b: b\\tc"),
        (b"a:\r\n", "a: "),
        (b"a!#$%&'*+.^_`|~: c\r\n", "a!#$%&'*+.^_`|~: c"),
        (b"X-Request-Id: 1\n", "x-request-id: 1"),
    ];
    for (line, expected) in cases {
        assert_eq!(lines_of(&accepted(&with_headers(line)).head.headers), [*expected], "{}", line.escape_ascii());
    }
    assert_eq!(accepted(b"GET / HTTP/1.1\nHost: h\n\n").head.authority_bytes(), b"h");
    assert_eq!(accepted(b"\r\n\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n").head.method, Method::GET);
    let folded = accepted(&with_headers(b"transfer-encoding:\r\n chunked\r\n"));
    assert_eq!(folded.body, BodyKind::Chunked, "a fold hides nothing");
}

#[test]
fn nonsense_is_refused_at_once() {
    let begin = |bytes: &[u8]| request_with(bytes, &RequestLimits::default());
    assert_eq!(begin(b"\x16\x03\x01").unwrap_err(), H1Error::CODEC);
    assert_eq!(begin(b"\r\n\rG").unwrap_err(), H1Error::CODEC);
    for partial in [&b""[..], b"\r", b"\r\n\r", b"G@", b"xyz", b"GET / HTTP/1.0\r\n", b"GET / HTTP/1.1\r\na: b\r\n\r"] {
        assert!(begin(partial).unwrap().is_none(), "{}", partial.escape_ascii());
    }
}

#[test]
fn bodies() {
    let cases: &[(&[u8], BodyKind, &[&str])] = &[
        (b"", BodyKind::None, &[]),
        (b"content-length: 0\r\n", BodyKind::None, &["content-length: 0"]),
        (b"content-length: 03 \r\n", BodyKind::Length(3), &["content-length: 03"]),
        (
            b"content-length: 18446744073709551615\r\n",
            BodyKind::Length(u64::MAX),
            &["content-length: 18446744073709551615"],
        ),
        (b"transfer-encoding: \tChunked \r\n", BodyKind::Chunked, &[]),
        (b"transfer_encoding: chunked\r\n", BodyKind::None, &["transfer_encoding: chunked"]),
        (b"connection: content-length\r\ncontent-length: 3\r\n", BodyKind::Length(3), &[]),
        (b"connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n", BodyKind::Chunked, &[]),
    ];
    for (lines, body, headers) in cases {
        let parsed = accepted(&with_headers(lines));
        assert_eq!(parsed.body, *body, "{}", lines.escape_ascii());
        assert_eq!(lines_of(&parsed.head.headers), *headers, "{}", lines.escape_ascii());
    }
    let limits = RequestLimits { allow_chunked_length: true, ..RequestLimits::default() };
    let both = with_headers(b"transfer-encoding: chunked\r\ncontent-length: 3\r\n");
    let parsed = request_with(&both, &limits).unwrap().unwrap();
    assert_eq!((parsed.body, parsed.head.headers.len()), (BodyKind::Chunked, 0));
}

#[test]
fn hop_by_hop() {
    let cases: &[(&[u8], bool, &[&str])] = &[
        (b"connection: close\r\n", false, &[]),
        (b"connection: CLOSE\r\n", false, &[]),
        (b"connection: foo, close\r\n", false, &[]),
        (b"connection: keep-alive, close\r\n", false, &[]),
        (b"proxy-connection: close\r\n", false, &[]),
        (b"proxy-connection: keep-alive\r\n", true, &[]),
        (b"connection: keep-alive\r\nkeep-alive: timeout=5\r\n", true, &[]),
        (b"connection: te, x-foo\r\nte: trailers\r\nx-foo: 1\r\n", true, &["te: trailers"]),
        (b"connection: te\r\nte: trailers, deflate\r\n", true, &["te: trailers"]),
        (b"connection: te\r\nte: gzip, Trailers\r\n", true, &["te: trailers"]),
        (b"connection: te\r\nte: trailers;q=0.5\r\n", true, &[]),
        (b"te: trailers, deflate\r\n", true, &["te: trailers"]),
        (b"te: gzip\r\nte: trailers\r\n", true, &["te: trailers"]),
        (b"te: TRAILERS\r\n", true, &[]),
        (b"connection: authorization, Cookie\r\nauthorization: z\r\ncookie: k\r\nx: y\r\n", true, &["x: y"]),
        (b"connection: x-foo\r\nconnection: x-bar\r\nx-foo: 1\r\nx-bar: 1\r\n", true, &[]),
        (b"connection: ,a b,\xe9, \r\na: 1\r\n", true, &["a: 1"]),
        (b"connection: 1,2,3,4,5,6,7,8,x-9\r\nx-9: 1\r\n", true, &[]),
        (b"expect: foo\r\n", true, &["expect: foo"]),
        (b"upgrade: websocket\r\n", true, &[]),
        (b"connection: close\r\nupgrade: websocket\r\n", false, &[]),
        (b"connection: Upgrade, HTTP2-Settings, x-foo\r\nupgrade: h2c\r\nhttp2-settings: a\r\nx-foo: 1\r\n", true, &[]),
        (b"upgrade: h2c\r\nhttp2-settings: a\r\n", true, &["http2-settings: a"]),
    ];
    for (lines, keep_alive, headers) in cases {
        let parsed = accepted(&with_headers(lines));
        assert_eq!(parsed.keep_alive, *keep_alive, "{}", lines.escape_ascii());
        assert_eq!(lines_of(&parsed.head.headers), *headers, "{}", lines.escape_ascii());
        assert!(parsed.head.upgrade.is_none() && parsed.body == BodyKind::None, "{}", lines.escape_ascii());
    }
}

#[test]
fn upgrades() {
    let lines = b"connection: keep-alive, Upgrade, x-foo\r\nupgrade: WebSocket\r\nx-foo: 1\r\nkeep-alive: 1\r\ncontent-length: 3\r\n";
    let parsed = accepted(&with_headers(lines));
    assert_eq!(parsed.head.upgrade.as_ref().unwrap(), "WebSocket");
    assert_eq!(parsed.body, BodyKind::UntilClose, "early data are not a body");
    let headers = lines_of(&parsed.head.headers);
    assert_eq!(headers, ["x-foo: 1", "content-length: 3", "connection: keep-alive, Upgrade, x-foo"]);
    let twice = accepted(&with_headers(b"connection: upgrade\r\nupgrade: foo\r\nupgrade: bar\r\n"));
    assert_eq!(twice.head.upgrade.unwrap(), "foo,bar");
}

#[test]
fn http_10() {
    let limits = RequestLimits {
        accept_http_10: true,
        default_host_for_http_10: Some("def.com".parse().unwrap()),
        ..RequestLimits::default()
    };
    let parse = |bytes: &[u8]| request_with(bytes, &limits).unwrap().unwrap();
    let plain = parse(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(
        (plain.head.authority_bytes(), plain.protocol, plain.keep_alive),
        (&b"def.com"[..], Protocol::Http10, false)
    );
    assert!(parse(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
    assert!(!parse(b"GET / HTTP/1.0\r\nProxy-Connection: keep-alive\r\n\r\n").keep_alive);
    let chunked = parse(b"POST / HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!((chunked.body, chunked.keep_alive), (BodyKind::Chunked, false));
    assert!(parse(b"GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n").head.upgrade.is_none());
    assert_eq!(parse(b"GET /\r\n\r\n").protocol, Protocol::Http10);
    assert!(parse(b"GET / HTTP/1.1\r\n\r\n").head.authority.is_none(), "HTTP/1.1 has no default host");
}

#[test]
fn limits_of_size_and_count() {
    let sized = |total: usize| {
        let fixed = with_headers(b"a: \r\n").len();
        with_headers(&[b"a: ", &vec![b'b'; total - fixed][..], b"\r\n"].concat())
    };
    assert_eq!(accepted(&sized(60 * 1024)).header_bytes, 60 * 1024);
    assert_eq!(refused(&sized(60 * 1024 + 1)), H1Error::HEADERS_TOO_LARGE);
    let path = [b"GET /", &vec![b'a'; 62_000][..]].concat();
    assert_eq!(refused(&path), H1Error::HEADERS_TOO_LARGE, "without waiting for the end");
    // Host is one of the hundred.
    assert_eq!(accepted(&with_headers(&b"a: b\r\n".repeat(99))).head.headers.len(), 99);
    assert_eq!(refused(&with_headers(&b"a: b\r\n".repeat(100))), H1Error::TOO_MANY_HEADERS);
}

#[test]
fn underscores_methods_and_expect() {
    let bytes = with_headers(b"a_b: 1\r\nc: d\r\n");
    let with = |underscores| request_with(&bytes, &RequestLimits { underscores, ..RequestLimits::default() });
    assert_eq!(with(Underscores::Allow).unwrap().unwrap().head.headers.len(), 2);
    assert_eq!(with(Underscores::Reject).unwrap_err(), H1Error::UNDERSCORE);
    let dropped = with(Underscores::Drop).unwrap().unwrap();
    assert_eq!((lines_of(&dropped.head.headers), dropped.dropped_underscores), (vec!["c: d".to_owned()], 1));

    let custom = RequestLimits { allow_custom_methods: true, ..RequestLimits::default() };
    let foo = request_with(b"FOO / HTTP/1.1\r\nHost: h\r\n\r\n", &custom).unwrap().unwrap();
    assert_eq!(foo.head.method.as_str(), "FOO");
    assert_eq!(request_with(b"G@T / HTTP/1.1\r\nHost: h\r\n\r\n", &custom).unwrap_err(), H1Error::CODEC);
    assert_eq!(accepted(b"MSEARCH / HTTP/1.1\r\nHost: h\r\n\r\n").head.method.as_str(), "MSEARCH");

    assert!(accepted(&with_headers(b"expect: 100-Continue\r\n")).expect_continue);
    assert!(!accepted(&with_headers(b"expect: foo\r\n")).expect_continue);
}

#[test]
fn pipelined_requests_and_bodies_stay_in_the_buffer() {
    let mut buf = BytesMut::from(&b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\nrest"[..]);
    let (mut scan, limits) = (ScanState::default(), RequestLimits::default());
    for path in ["/1", "/2"] {
        let parsed = parse_request(&mut buf, &mut scan, &limits, Scheme::Https).unwrap().unwrap();
        assert_eq!((parsed.head.path_bytes(), parsed.head.scheme), (path.as_bytes(), Scheme::Https));
    }
    assert_eq!(&buf[..], b"rest");
}

#[test]
fn well_known_names_are_sorted_and_found_in_any_case() {
    let table = &super::super::name::WELL_KNOWN;
    assert!(table.is_sorted_by(|a, b| a.as_str() < b.as_str()));
    for name in table {
        let found = super::super::name::header_name(name.as_str().to_uppercase().as_bytes()).unwrap();
        assert_eq!(found, *name);
    }
}
