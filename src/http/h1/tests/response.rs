use ::http::Method;
use waypost_filters::head::Protocol;

use super::*;

fn parse(bytes: &[u8], method: &Method) -> Result<Option<ParsedResponse>, H1Error> {
    parse_response(&mut BytesMut::from(bytes), &mut ScanState::default(), method, &ResponseLimits::default())
}

fn get(status_and_headers: &str) -> Result<ParsedResponse, H1Error> {
    parse(format!("HTTP/1.1 {status_and_headers}\r\n\r\n").as_bytes(), &Method::GET).map(Option::unwrap)
}

#[test]
fn responses_envoy_refuses() {
    let cases = [
        "200 OK\r\ncontent-length: 3\r\ncontent-length: 3",
        "200 OK\r\ncontent-length: 3, 3",
        "200 OK\r\ncontent-length: +3",
        "200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked",
        "200 OK\r\ntransfer-encoding: gzip",
        "200 OK\r\ntransfer-encoding: identity",
        "200 OK\r\ntransfer-encoding: gzip, chunked",
        "099 OK",
        "20 OK",
        "2x0 OK",
        "+20 OK",
        "1000 OK",
        "200 \u{1}",
        "204 No\r\ncontent-length: 2",
        "204 No\r\ntransfer-encoding: chunked",
        "101 S\r\nupgrade: foo\r\ncontent-length: 3",
        "101 S\r\nupgrade: foo\r\ntransfer-encoding: chunked",
        "200 OK\r\na: b\u{1}",
        "200 OK\r\na: b\rc",
        "200 OK\r\na : b",
        "200 OK\r\nab",
    ];
    for case in cases {
        assert!(get(case).is_err(), "{}", case.escape_default());
    }
    for bytes in [&b"http/1.1 200 OK\r\n\r\n"[..], b"GARBAGE", b"\r\nHTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1\r\n\r\n"] {
        assert!(parse(bytes, &Method::GET).is_err(), "{}", bytes.escape_ascii());
    }
    assert_eq!(get(&format!("200 OK{}", "\r\na: b".repeat(101))).unwrap_err(), H1Error::TOO_MANY_HEADERS);
    assert_eq!(get(&format!("200 OK{}", "\r\na: b".repeat(100))).unwrap().head.headers.len(), 100);
    assert_eq!(get(&format!("200 OK\r\na: {}", "b".repeat(82_000))).unwrap_err(), H1Error::HEADERS_TOO_LARGE);
    assert!(parse(b"HTTP/1.1 200 OK\r\n", &Method::GET).unwrap().is_none());
}

#[test]
fn bodies() {
    let cases = [
        ("GET", "200 OK", BodyKind::UntilClose, false),
        ("GET", "200", BodyKind::UntilClose, false),
        ("GET", " 200 OK\r\ncontent-length: 03", BodyKind::Length(3), true),
        ("GET", "200 OK\r\ncontent-length: 0", BodyKind::None, true),
        ("GET", "200 OK\r\ntransfer-encoding: Chunked", BodyKind::Chunked, true),
        ("GET", "200 OK\r\nconnection: close\r\ncontent-length: 2", BodyKind::Length(2), false),
        ("GET", "600 X\r\ncontent-length: 2", BodyKind::Length(2), true),
        ("GET", "999 X\r\ncontent-length: 2", BodyKind::Length(2), true),
        ("GET", "205 X", BodyKind::UntilClose, false),
        ("GET", "204 No\r\ncontent-length: 0", BodyKind::None, true),
        ("GET", "304 No\r\ncontent-length: 5", BodyKind::None, true),
        ("GET", "304 No\r\ntransfer-encoding: chunked", BodyKind::None, true),
        ("GET", "304 No", BodyKind::None, true),
        ("HEAD", "200 OK\r\ncontent-length: 5", BodyKind::None, true),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked", BodyKind::None, true),
        ("HEAD", "200 OK", BodyKind::None, true),
        ("CONNECT", "200 OK\r\ncontent-length: 5", BodyKind::UntilClose, false),
        ("CONNECT", "403 No\r\ncontent-length: 5", BodyKind::Length(5), true),
    ];
    for (method, head, body, keep_alive) in cases {
        let parsed = parse(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes(), &method.parse().unwrap()).unwrap().unwrap();
        assert_eq!((parsed.body, parsed.keep_alive), (body, keep_alive), "{method} {}", head.escape_default());
    }
}

#[test]
fn versions() {
    for (version, protocol, keep_alive) in
        [("1.1", Protocol::Http11, true), ("1.0", Protocol::Http10, false), ("2.0", Protocol::Http10, false)]
    {
        let bytes = format!("HTTP/{version} 200 OK\r\ncontent-length: 2\r\n\r\n");
        let parsed = parse(bytes.as_bytes(), &Method::GET).unwrap().unwrap();
        assert_eq!((parsed.protocol, parsed.keep_alive), (protocol, keep_alive));
    }
    let kept = parse(b"HTTP/1.0 200 OK\ncontent-length: 2\nconnection: keep-alive\n\n", &Method::GET).unwrap().unwrap();
    assert!(kept.keep_alive);
}

#[test]
fn hop_by_hop_headers_go_but_not_those_connection_names() {
    let lines = "connection: foo, close\r\nfoo: 1\r\nkeep-alive: 1\r\nproxy-connection: x\r\nupgrade: h2c\r\nte: x\r\ntrailer: q\r\ncontent-length: 2";
    let parsed = get(&format!("200 OK\r\n{lines}")).unwrap();
    assert_eq!(lines_of(&parsed.head.headers), ["foo: 1", "te: x", "trailer: q", "content-length: 2"]);
    assert_eq!(lines_of(&get("204 No\r\ncontent-length: 0").unwrap().head.headers), [""; 0]);
}

#[test]
fn informational_and_upgrades() {
    let hints = get("103 Early\r\nlink: x").unwrap();
    assert!(hints.informational && !hints.upgrade && hints.body == BodyKind::None);
    let switched = get("101 S\r\nconnection: upgrade\r\nupgrade: foo").unwrap();
    assert!(switched.upgrade && !switched.informational && switched.body == BodyKind::UntilClose);
    assert_eq!(lines_of(&switched.head.headers), ["upgrade: foo", "connection: upgrade"]);
    assert!(parse(b"HTTP/1.1 200 OK\r\n\r\n", &Method::CONNECT).unwrap().unwrap().upgrade);
}
