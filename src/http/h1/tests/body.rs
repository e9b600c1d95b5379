use super::*;

/// Data, trailers, whether the end was seen, and what is left over.
type Whole = (Vec<u8>, Vec<String>, bool, Vec<u8>);

/// Decodes a body that comes in pieces of a size.
fn decode(kind: BodyKind, bytes: &[u8], piece: usize) -> Result<Whole, H1Error> {
    let mut decoder = BodyDecoder::new(kind);
    let (mut buf, mut data, mut trailers) = (BytesMut::new(), Vec::new(), Vec::new());
    for part in bytes.chunks(piece.max(1)) {
        buf.extend_from_slice(part);
        loop {
            match decoder.decode(&mut buf)? {
                Decoded::Data(bytes) => data.extend_from_slice(&bytes),
                Decoded::Trailers(map) => trailers = lines_of(&map),
                Decoded::End | Decoded::NeedMore => break,
            }
        }
    }
    Ok((data, trailers, decoder.is_done(), buf.to_vec()))
}

#[test]
fn chunks_that_are_taken() {
    let cases: &[(&[u8], &[u8], &[&str])] = &[
        (b"3\r\nabc\r\n0\r\n\r\n", b"abc", &[]),
        (b"3;a=b\r\nabc\r\n0;c\r\n\r\n", b"abc", &[]),
        (b"3 ;a=\"b c\"\r\nabc\r\n0\r\n\r\n", b"abc", &[]),
        (b"0000000000000003\r\nabc\r\n00\r\n\r\n", b"abc", &[]),
        (b"A\r\n0123456789\r\n1\r\nx\r\n0\r\n\r\n", b"0123456789x", &[]),
        (b"0\r\n\r\n", b"", &[]),
        (b"3\r\nabc\r\n0\r\nFoo: bar\r\n x\r\n\r\n", b"abc", &["foo: bar x"]),
        (b"3\r\nabc\r\n0\r\nfoo: bar\n\n", b"abc", &["foo: bar"]),
        (
            b"0\r\nfoo: 1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: z\r\nAuthorization: x\r\nte: x\r\nConnection: foo\r\n\r\n",
            b"",
            &["foo: 1"],
        ),
        (b"0\r\nhost: z\r\n\r\n", b"", &[]),
    ];
    for (bytes, data, trailers) in cases {
        let bytes_and_more = [bytes, &b"GET"[..]].concat();
        for piece in [1, 2, 3, 1000] {
            let decoded = decode(BodyKind::Chunked, &bytes_and_more, piece).unwrap();
            let expected = (data.to_vec(), trailers.iter().map(|t| (*t).to_owned()).collect(), true, b"GET".to_vec());
            assert_eq!(decoded, expected, "{} by {piece}", bytes.escape_ascii());
        }
    }
}

#[test]
fn chunks_that_are_refused() {
    let long = [b"3;", &vec![b'a'; 5000][..]].concat();
    let cases: &[&[u8]] = &[
        b"zz\r\nabc",
        b"0x3\r\nabc",
        b"+3\r\nabc",
        b"-3\r\nabc",
        b" 3\r\nabc",
        b"\r\nabc",
        b"3\nabc\r\n",
        b"3;a\nabc\r\n",
        b"3;a\rb\r\nabc\r\n",
        b"11111111111111111\r\n",
        b"0\n\n",
        b"0\r\nfoo bar\r\n\r\n",
        b"0\r\nfoo: b\0r\r\n\r\n",
        b"0\r\n:path: /\r\n\r\n",
        &long,
        // Stricter than Envoy (D1).
        b"3 \r\nabc\r\n0\r\n\r\n",
        b"1 7\r\nabc",
        b"3\r\nabcX\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"00000000000000000003\r\nabc\r\n0\r\n\r\n",
    ];
    for bytes in cases {
        for piece in [1, 10_000] {
            let error = decode(BodyKind::Chunked, bytes, piece).unwrap_err();
            assert_eq!((error.status.as_u16(), error.before_head), (400, false), "{} by {piece}", bytes.escape_ascii());
        }
    }
    let many = [&b"0\r\n"[..], &b"a: b\r\n".repeat(101), b"\r\n"].concat();
    assert_eq!(decode(BodyKind::Chunked, &many, 7).unwrap_err().details, "http1.too_many_headers");
    let large = [&b"0\r\na: "[..], &[b'b'; 62_000]].concat();
    assert_eq!(decode(BodyKind::Chunked, &large, 1000).unwrap_err().details, "http1.headers_too_large");
}

#[test]
fn lengths_tunnels_and_ends() {
    assert_eq!(decode(BodyKind::Length(3), b"abcd", 2).unwrap(), (b"abc".to_vec(), vec![], true, b"d".to_vec()));
    assert_eq!(decode(BodyKind::None, b"x", 1).unwrap(), (vec![], vec![], true, b"x".to_vec()));
    assert_eq!(decode(BodyKind::Length(0), b"x", 1).unwrap(), (vec![], vec![], true, b"x".to_vec()));
    assert_eq!(decode(BodyKind::UntilClose, b"abc", 2).unwrap(), (b"abc".to_vec(), vec![], false, vec![]));

    let after = |kind, bytes: &[u8]| {
        let mut decoder = BodyDecoder::new(kind);
        let mut buf = BytesMut::from(bytes);
        while matches!(decoder.decode(&mut buf).unwrap(), Decoded::Data(_)) {}
        decoder.on_eof()
    };
    assert_eq!(after(BodyKind::UntilClose, b"abc"), Eof::Clean);
    assert_eq!(after(BodyKind::None, b""), Eof::Clean);
    assert_eq!(after(BodyKind::Length(3), b"abc"), Eof::Clean);
    assert_eq!(after(BodyKind::Length(3), b"ab"), Eof::Truncated);
    assert_eq!(after(BodyKind::Chunked, b"3\r\nabc\r\n0\r\n"), Eof::Truncated);
    assert_eq!(after(BodyKind::Chunked, b"3\r\nabc\r\n0\r\n\r\n"), Eof::Clean);
}

#[test]
fn the_largest_chunk_is_not_added_to_anything() {
    let (data, _, done, _) = decode(BodyKind::Chunked, b"ffffffffffffffff\r\nabc", 1000).unwrap();
    assert_eq!((&data[..], done), (&b"abc"[..], false));
}
