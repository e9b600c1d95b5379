use ::http::{HeaderMap, Method, StatusCode};
use waypost_filters::head::Protocol;

use super::*;

fn request_bytes(bytes: &[u8], end: bool, casing: Casing<'_>) -> String {
    let head = accepted(bytes).head;
    let framing = Framing::of_request(&head.method, head.upgrade.is_some(), &head.headers, end);
    let mut out = BytesMut::new();
    encode_request(&head, framing, casing, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
}

#[test]
fn requests_as_envoy_writes_them() {
    let cases = [
        ("GET / HTTP/1.1\r\nX-A: 1\r\nHost: h\r\n\r\n", true, "GET / HTTP/1.1\r\nhost: h\r\nx-a: 1\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", true, "GET / HTTP/1.1\r\nhost: \r\n\r\n"),
        ("DELETE / HTTP/1.1\r\nHost: h\r\n\r\n", true, "DELETE / HTTP/1.1\r\nhost: h\r\n\r\n"),
        ("POST / HTTP/1.1\r\nHost: h\r\n\r\n", true, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"),
        ("OPTIONS / HTTP/1.1\r\nHost: h\r\n\r\n", true, "OPTIONS / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n",
            false,
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\n",
            false,
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (
            "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
            false,
            "GET / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (
            "GET /ws HTTP/1.1\r\nHost: h\r\nA: b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            false,
            "GET /ws HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\na: b\r\n\r\n",
        ),
        ("CONNECT a:80 HTTP/1.1\r\nHost: h\r\n\r\n", false, "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n"),
    ];
    for (input, end, expected) in cases {
        assert_eq!(request_bytes(input.as_bytes(), end, Casing::Lower), expected);
    }
}

#[test]
fn casings() {
    let bytes = b"GET / HTTP/1.1\r\nHost: h\r\nx-FOO-bar$b#are_x: 1\r\n\r\n";
    let proper = request_bytes(bytes, true, Casing::ProperWords);
    assert_eq!(proper, "GET / HTTP/1.1\r\nHost: h\r\nX-Foo-Bar$B#Are_X: 1\r\n\r\n");
    let limits = RequestLimits { preserve_case: true, ..RequestLimits::default() };
    let spelling = request_with(bytes, &limits).unwrap().unwrap().spelling.unwrap();
    let preserved = request_bytes(bytes, true, Casing::Preserve(&spelling));
    assert_eq!(preserved, "GET / HTTP/1.1\r\nhost: h\r\nx-FOO-bar$b#are_x: 1\r\n\r\n");
}

#[test]
fn a_rewritten_path_cannot_end_the_request_line() {
    let mut head = accepted(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").head;
    head.path = Some("/a HTTP/1.1\tb".parse().unwrap());
    let mut out = BytesMut::new();
    encode_request(&head, Framing::None, Casing::Lower, &mut out);
    assert_eq!(&out[..], b"GET /a%20HTTP/1.1%09b HTTP/1.1\r\nhost: h\r\n\r\n");
}

#[test]
fn responses_as_envoy_writes_them() {
    let write = |status: u16, lines: &[(&'static str, &'static str)], method: Method, protocol, end, connection| {
        let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers(lines));
        let framing = Framing::of_response(status, &method, protocol, &headers, end);
        let mut out = BytesMut::new();
        encode_response(status, &headers, framing, connection, protocol, Casing::Lower, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    };
    let (h10, h11, none) = (Protocol::Http10, Protocol::Http11, Connection::Default);
    let get = Method::GET;
    let cl = &[("content-length", "5")];
    assert_eq!(
        write(200, &[("x", "1")], get.clone(), h11, false, none),
        "HTTP/1.1 200 OK\r\nx: 1\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        write(205, &[], get.clone(), h11, false, none),
        "HTTP/1.1 205 Reset Content\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        write(404, &[("server", "envoy")], get.clone(), h11, true, Connection::Close),
        "HTTP/1.1 404 Not Found\r\nserver: envoy\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    assert_eq!(write(204, cl, get.clone(), h11, true, none), "HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(write(304, cl, get.clone(), h11, true, none), "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(write(304, &[], get.clone(), h11, true, none), "HTTP/1.1 304 Not Modified\r\n\r\n");
    assert_eq!(write(200, cl, Method::HEAD, h11, true, none), "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(write(200, &[], Method::HEAD, h11, true, none), "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    assert_eq!(
        write(200, &[], Method::HEAD, h10, true, Connection::Close),
        "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(
        write(200, &[], get.clone(), h10, false, Connection::Close),
        "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(
        write(200, cl, get.clone(), h10, false, Connection::KeepAlive),
        "HTTP/1.0 200 OK\r\ncontent-length: 5\r\nconnection: keep-alive\r\n\r\n"
    );
    assert_eq!(
        write(101, &[("upgrade", "foo")], get.clone(), h11, false, Connection::Upgrade),
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\n"
    );
    assert_eq!(write(425, &[], get.clone(), h11, true, none), "HTTP/1.1 425 Too Early\r\ncontent-length: 0\r\n\r\n");
    for status in [299, 418, 499, 999] {
        assert!(
            write(status, &[], get.clone(), h11, true, none).starts_with(&format!("HTTP/1.1 {status} Unknown\r\n"))
        );
    }
    let split =
        headers(&[("transfer-encoding", "chunked"), ("connection", "x"), ("keep-alive", "y"), ("upgrade", "z")]);
    let mut out = BytesMut::new();
    encode_response(StatusCode::OK, &split, Framing::Length(2), none, h11, Casing::Lower, &mut out);
    assert_eq!(
        &out[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
        "a filter cannot say how a message is framed"
    );
}

#[test]
fn chunks_and_trailers_come_back() {
    for len in [1_usize, 9, 10, 15, 16, 255, 256, 4096, 65_535, 1 << 20] {
        let mut out = BytesMut::new();
        encode_chunk_header(len, &mut out);
        assert_eq!(&out[..], format!("{len:x}\r\n").as_bytes());
    }
    let mut out = BytesMut::new();
    encode_chunk_header(0, &mut out);
    assert!(out.is_empty(), "would end the body");
    encode_chunk_header(3, &mut out);
    out.extend_from_slice(b"abc");
    out.extend_from_slice(CHUNK_END);
    encode_trailers(&headers(&[("grpc-status", "0"), ("content-length", "7")]), Casing::Lower, &mut out);
    let mut decoder = BodyDecoder::new(BodyKind::Chunked);
    assert!(matches!(decoder.decode(&mut out).unwrap(), Decoded::Data(data) if data == "abc"));
    assert!(matches!(decoder.decode(&mut out).unwrap(), Decoded::Trailers(t) if lines_of(&t) == ["grpc-status: 0"]));
    encode_last_chunk(&mut out);
    assert_eq!(&out[..], b"0\r\n\r\n");
    out.clear();
    encode_continue(&mut out);
    encode_informational(StatusCode::EARLY_HINTS, &headers(&[("link", "x")]), Casing::Lower, &mut out);
    assert_eq!(&out[..], b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n");
}

#[test]
fn encoded_heads_parse_to_the_same() {
    for bytes in super::fuzz::REQUESTS {
        let first = accepted(bytes);
        let framing = Framing::of_request(
            &first.head.method,
            first.head.upgrade.is_some(),
            &first.head.headers,
            first.body == BodyKind::None,
        );
        let mut out = BytesMut::new();
        encode_request(&first.head, framing, Casing::Lower, &mut out);
        let second = accepted(&out);
        assert_eq!(second.head.method, first.head.method);
        assert_eq!(second.head.authority_bytes(), first.head.authority_bytes());
        assert_eq!(second.head.path, first.head.path);
        assert_eq!(second.head.upgrade, first.head.upgrade);
        assert_eq!(second.body, first.body);
        let mut headers = second.head.headers.clone();
        if !first.head.headers.contains_key("content-length") {
            headers.remove("content-length");
        }
        assert_eq!(headers, first.head.headers, "{}", bytes.escape_ascii());
    }
}
