use ::http::Method;

use super::*;

/// Requests that parse, to be split and mutated.
pub(super) const REQUESTS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"\r\n\nPOST /a?b HTTP/1.1\nHost: h:80\nContent-Length: 3\nA: b\n c\n\n",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nX-Request-Id: 1\r\n\r\n",
    b"GET http://u@z:81/x?y HTTP/1.1\r\nHost: h\r\nConnection: x-foo, keep-alive\r\nx-foo: 1\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: h\r\nX-Bytes: \xe9\xff\r\n\r\n",
];

const RESPONSES: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nx: y\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n",
    b"HTTP/1.0 404\nTransfer-Encoding: chunked\nConnection: keep-alive\nA: b\n c\n\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: foo\r\n\r\n",
];

/// What parsing bytes that come in pieces gives, in a form to compare; and what is left over.
fn request_in_pieces(bytes: &[u8], piece: usize) -> (String, Vec<u8>) {
    let (mut buf, mut scan, limits) = (BytesMut::new(), ScanState::default(), RequestLimits::default());
    for part in bytes.chunks(piece) {
        buf.extend_from_slice(part);
        match parse_request(&mut buf, &mut scan, &limits, Scheme::Http) {
            Ok(None) => {}
            Ok(Some(parsed)) => return (format!("{parsed:?}"), buf.to_vec()),
            Err(error) => return (format!("{error:?}"), vec![]),
        }
    }
    ("incomplete".to_owned(), buf.to_vec())
}

fn response_in_pieces(bytes: &[u8], piece: usize) -> String {
    let (mut buf, mut scan, limits) = (BytesMut::new(), ScanState::default(), ResponseLimits::default());
    for part in bytes.chunks(piece) {
        buf.extend_from_slice(part);
        match parse_response(&mut buf, &mut scan, &Method::GET, &limits) {
            Ok(None) => {}
            other => return format!("{other:?}"),
        }
    }
    "incomplete".to_owned()
}

#[test]
fn pieces_of_any_size_give_the_same() {
    for bytes in REQUESTS {
        let whole = request_in_pieces(bytes, bytes.len());
        assert!(whole.0.starts_with("ParsedRequest"), "{}", bytes.escape_ascii());
        for piece in 1..bytes.len() {
            assert_eq!(request_in_pieces(bytes, piece), whole, "{} by {piece}", bytes.escape_ascii());
        }
    }
    for bytes in RESPONSES {
        let whole = response_in_pieces(bytes, bytes.len());
        assert!(whole.contains("ParsedResponse"), "{whole}");
        for piece in 1..bytes.len() {
            assert_eq!(response_in_pieces(bytes, piece), whole);
        }
    }
}

/// Bytes that matter to a parser come more often than others.
fn mutate(random: &mut Xorshift, seed: &[u8]) -> Vec<u8> {
    const INTERESTING: &[u8] = b"\r\n\t :;,0123fF/@[]*%\0\x7f\xff-_chunked";
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let byte = INTERESTING[random.below(INTERESTING.len())];
        match random.below(4) {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => {
                let to = at + random.below(bytes.len() - at);
                let part = bytes[at..to].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

#[test]
fn mutations_do_not_panic_and_do_not_depend_on_pieces() {
    let mut random = Xorshift(0x9e37_79b9_7f4a_7c15);
    let (mut parsed, mut refused) = (0, 0);
    for round in 0..4000 {
        let bytes = mutate(&mut random, REQUESTS[round % REQUESTS.len()]);
        let whole = request_in_pieces(&bytes, bytes.len());
        let pieces = request_in_pieces(&bytes, 1);
        assert_eq!(whole.0, pieces.0, "{}", bytes.escape_ascii());
        parsed += usize::from(whole.0.starts_with("ParsedRequest"));
        refused += usize::from(whole.0.starts_with("H1Error"));

        let bytes = mutate(&mut random, RESPONSES[round % RESPONSES.len()]);
        assert_eq!(response_in_pieces(&bytes, bytes.len()), response_in_pieces(&bytes, 1), "{}", bytes.escape_ascii());
    }
    assert!(parsed > 500 && refused > 500, "the mutations reach both sides: {parsed} {refused}");
}

/// What is sent upstream for whatever was taken is understood in the same way again: nothing is smuggled.
#[test]
fn mutations_that_are_taken_are_passed_on_unambiguously() {
    let mut random = Xorshift(0x2545_f491_4f6c_dd1d);
    let mut taken = 0;
    for round in 0..4000 {
        let bytes = mutate(&mut random, REQUESTS[round % REQUESTS.len()]);
        let Ok(Some(first)) = request_with(&bytes, &RequestLimits::default()) else { continue };
        // A path of the asterisk or the query form does not come past the connection manager.
        if first.head.authority.is_none() || first.head.path_bytes().first() != Some(&b'/') {
            continue;
        }
        taken += 1;
        let end = first.body == BodyKind::None;
        let framing = Framing::of_request(&first.head.method, first.head.upgrade.is_some(), &first.head.headers, end);
        let mut out = BytesMut::new();
        encode_request(&first.head, framing, Casing::Lower, &mut out);
        let second = accepted(&out);
        assert_eq!(second.header_bytes, out.len(), "one head is one head: {}", bytes.escape_ascii());
        assert_eq!(second.head.path, first.head.path);
        assert_eq!(second.head.authority, first.head.authority);
        match first.body {
            // Its length header may have been taken away.
            BodyKind::Length(_) => assert!(matches!(second.body, BodyKind::Chunked) || second.body == first.body),
            body => assert_eq!(second.body, body, "{}", bytes.escape_ascii()),
        }
    }
    assert!(taken > 500, "{taken}");
}

/// The grammar of RFC 9112 §7.1 as plainly as can be, on whole input: data and rest, or none.
fn reference(mut bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut data = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n")?;
        let line = &bytes[..end];
        bytes = &bytes[end + 2..];
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let extension = String::from_utf8_lossy(&line[digits..]).into_owned();
        if digits == 0 || digits > 16 || line.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
            return None;
        }
        if !extension.is_empty() && !extension.trim_start_matches([' ', '\t']).starts_with(';') {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        if size == 0 {
            return bytes.strip_prefix(b"\r\n").map(|rest| (data, rest.to_vec()));
        }
        data.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[test]
fn the_chunk_decoder_agrees_with_a_reference() {
    let seeds: [&[u8]; 4] = [
        b"3\r\nabc\r\n0\r\n\r\n",
        b"a;x=y\r\n0123456789\r\n1\r\n\r\r\n00\r\n\r\n",
        b"3\r\n0\r\n\r\n0\r\n\r\nGET",
        b"2\r\nab\r\n2\r\ncd\r\n0 ;z\r\n\r\n",
    ];
    let mut random = Xorshift(0xdead_beef_cafe_f00d);
    let mut agreed = 0;
    for round in 0..20_000 {
        let bytes = mutate(&mut random, seeds[round % seeds.len()]);
        let mut decoder = BodyDecoder::new(BodyKind::Chunked);
        let (mut buf, mut data, mut plain) = (BytesMut::new(), Vec::new(), true);
        let mut failed = false;
        let piece = 1 + random.below(bytes.len());
        'feed: for part in bytes.chunks(piece) {
            buf.extend_from_slice(part);
            loop {
                match decoder.decode(&mut buf) {
                    Ok(Decoded::Data(bytes)) => data.extend_from_slice(&bytes),
                    Ok(Decoded::Trailers(_)) => plain = false,
                    Ok(Decoded::End | Decoded::NeedMore) => break,
                    Err(_) => {
                        failed = true;
                        break 'feed;
                    }
                }
            }
        }
        let ours = (decoder.is_done() && !failed).then(|| (data, buf.to_vec()));
        match (reference(&bytes), ours) {
            (Some(theirs), ours) => {
                assert_eq!(ours.as_ref(), Some(&theirs), "{} by {piece}", bytes.escape_ascii());
                agreed += 1;
            }
            // The reference knows no trailers, and no LF alone after the last chunk.
            (None, Some(_)) => {
                let trailers_or_line_feed =
                    !plain || bytes.windows(2).any(|w| w == b"\n\n") || has_trailer_line(&bytes);
                assert!(trailers_or_line_feed, "{} by {piece}", bytes.escape_ascii());
            }
            (None, None) => {}
        }
    }
    assert!(agreed > 1000, "{agreed}");
}

/// Whether something stands between the last chunk and the end.
fn has_trailer_line(bytes: &[u8]) -> bool {
    bytes.windows(3).any(|w| w == b"0\r\n") && !bytes.windows(5).any(|w| w == b"0\r\n\r\n")
}
