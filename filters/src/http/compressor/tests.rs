use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use ::http::Method;
use flate2::read::GzDecoder;
use waypost_xds::{json, yaml};

use super::*;
use crate::http::test_stream;
use crate::stats::{Count, Counter, Scope};

/// Counters by name.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<BTreeMap<String, u64>>>);

struct One(Counted, String);

impl Count for One {
    fn add(&self, n: u64) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner).entry(self.1.clone()).or_default() += n;
    }
}

impl Scope for Counted {
    fn counter(&self, name: &str) -> Counter {
        Arc::new(One(self.clone(), name.to_owned()))
    }
}

impl Counted {
    fn of(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

const GZIP: &str = "compressor_library: {name: lib, typed_config: {'@type': type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip}}";

fn compile(text: &str, counted: &Counted) -> Result<Compiled, String> {
    let config = json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap();
    Compressor::compile(config, "f", counted).map_err(|e| e.to_string())
}

fn filter(fields: &str) -> (Compressor, Counted) {
    let counted = Counted::default();
    match compile(&format!("{{{GZIP}{fields}}}"), &counted) {
        Ok(Compiled::Filter(filter, _)) => (filter, counted),
        other => panic!("{other:?}"),
    }
}

/// A response of 200 that has passed these filters, for a request that accepts `accept`.
fn respond(filters: &[&Compressor], accept: &str, headers: &[(&'static str, &str)]) -> HttpStream {
    let mut stream = test_stream(&[("accept-encoding", accept)]);
    for filter in filters {
        assert!(matches!(filter.on_request(&mut stream), Step::Continue));
    }
    let mut response = ResponseHead::default();
    for (name, value) in headers {
        response.headers.append(*name, value.parse().unwrap());
    }
    stream.response = Some(response);
    for filter in filters.iter().rev() {
        filter.on_response(&mut stream);
    }
    stream
}

fn header<'a>(stream: &'a HttpStream, name: &str) -> Option<&'a str> {
    stream.response.as_ref()?.headers.get(name)?.to_str().ok()
}

fn read(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut decoder = GzDecoder::new(bytes);
    decoder.read_to_end(&mut plain).unwrap();
    assert!(decoder.into_inner().is_empty(), "nothing follows");
    plain
}

#[test]
fn a_body_comes_out_as_it_went_in_whatever_its_pieces_are() {
    let noise: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let same = vec![b'x'; 200_000];
    for body in [&noise[..], &same, b"", b"a"] {
        for size in [1_000, 4_096, 65_536, 1_000_000] {
            for end_alone in [false, true] {
                let (filter, counted) = filter(", response_direction_config: {}");
                let mut stream = respond(&[&filter], "gzip", &[]);
                let mut encoder = stream.body.encoder.take().unwrap();
                let mut out = Vec::new();
                let mut pieces = body.chunks(size).peekable();
                while let Some(piece) = pieces.next() {
                    let end = !end_alone && pieces.peek().is_none();
                    out.extend_from_slice(&encoder.encode(Bytes::copy_from_slice(piece), end));
                }
                if end_alone || body.is_empty() {
                    out.extend_from_slice(&encoder.encode(Bytes::new(), true));
                }
                assert_eq!(read(&out), body);
                assert_eq!(counted.of("compressor.lib.gzip.response.total_uncompressed_bytes"), body.len() as u64);
                assert_eq!(counted.of("compressor.lib.gzip.response.total_compressed_bytes"), out.len() as u64);
            }
        }
    }
}

#[test]
fn each_piece_can_be_read_before_the_next_one_comes() {
    let (filter, _) = filter("");
    let mut encoder = respond(&[&filter], "gzip", &[]).body.encoder.take().unwrap();
    let mut out = Vec::new();
    let mut plain = Vec::new();
    for piece in ["one", "two", "three"] {
        out.extend_from_slice(&encoder.encode(Bytes::from(piece), false));
        plain.extend_from_slice(piece.as_bytes());
        let mut seen = vec![0; plain.len()];
        GzDecoder::new(&out[..]).read_exact(&mut seen).unwrap();
        assert_eq!(seen, plain);
    }
}

#[test]
fn the_head_says_what_became_of_the_body() {
    let (filter, _) = filter("");
    let stream = respond(&[&filter], "gzip", &[("content-length", "100"), ("etag", "\"1\""), ("vary", "origin")]);
    assert_eq!(header(&stream, "content-encoding"), Some("gzip"));
    assert_eq!(header(&stream, "vary"), Some("origin, Accept-Encoding"));
    assert_eq!((header(&stream, "content-length"), header(&stream, "etag")), (None, None));
    // Another client would get another response, and caches are told.
    let stream = respond(&[&filter], "br", &[("content-length", "100")]);
    assert_eq!((header(&stream, "content-encoding"), header(&stream, "content-length")), (None, Some("100")));
    assert_eq!(header(&stream, "vary"), Some("Accept-Encoding"));
}

#[test]
fn tunnels_are_left_alone() {
    let (filter, _) = filter("");
    for (method, upgrade, status) in [(Method::CONNECT, None, 200), (Method::GET, Some("websocket"), 101)] {
        let mut stream = test_stream(&[("accept-encoding", "gzip")]);
        stream.request.method = method;
        stream.request.upgrade = upgrade.map(|u| u.parse().unwrap());
        filter.on_request(&mut stream);
        stream.response =
            Some(ResponseHead { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new() });
        filter.on_response(&mut stream);
        assert!(stream.body.encoder.is_none() && header(&stream, "vary").is_none());
    }
}

#[test]
fn of_two_compressors_the_one_for_the_type_works_and_only_that_one() {
    let (html, counted_html) = filter(", response_direction_config: {common_config: {content_type: [text/html]}}");
    let (css, counted_css) = filter(", response_direction_config: {common_config: {content_type: [text/css]}}");
    let stream = respond(&[&html, &css], "gzip", &[("content-type", "text/html")]);
    assert!(stream.body.encoder.is_some());
    let compressed = "compressor.lib.gzip.response.compressed";
    assert_eq!((counted_html.of(compressed), counted_css.of(compressed)), (1, 0));
}

#[test]
fn the_client_chooses_by_its_weights() {
    let offer = |encoding, choose_first| Offer { encoding, choose_first };
    let both = || vec![offer("br", false), offer("gzip", false)];
    for (accept, expected) in [
        ("gzip", Decision::Encoding("gzip")),
        ("gzip, br", Decision::Encoding("gzip")),
        ("br;q=0.5, gzip;q=0.7", Decision::Encoding("gzip")),
        ("br ; Q = 0.5 , gzip;q=.1", Decision::Encoding("br")),
        ("*", Decision::Wildcard("br")),
        ("br;q=0, *", Decision::Wildcard("gzip")),
        ("br;q=0, gzip;q=0, *", Decision::NotValid),
        ("identity, gzip;q=0.9", Decision::Identity),
        ("gzip;q=", Decision::NotValid),
        ("gzip;q=nan, br;q=-1", Decision::NotValid),
        ("GZIP", Decision::NotValid),
        (",,;,", Decision::NotValid),
        ("", Decision::NotValid),
    ] {
        assert_eq!(choose(accept.as_bytes(), both()), expected, "{accept}");
    }
    let chosen = choose(b"gzip, br", vec![offer("gzip", false), offer("br", true)]);
    assert_eq!(chosen, Decision::Encoding("br"), "choose_first");
    assert_eq!(choose(b"*", Vec::new()), Decision::NotValid);
}

#[test]
fn what_cannot_be_done_is_told() {
    let counted = Counted::default();
    let library = |of: &str| {
        compile(
            &format!(
                "compressor_library: {{name: l, typed_config: {{'@type': type.googleapis.com/envoy.extensions.compression.{of}}}}}"
            ),
            &counted,
        )
    };
    assert!(matches!(library("zstd.compressor.v3.Zstd"), Ok(Compiled::NotBuilt(_))));
    assert_eq!(
        library("gzip.decompressor.v3.Gzip").unwrap_err(),
        "f.compressor_library.typed_config: not supported: envoy.extensions.compression.gzip.decompressor.v3.Gzip"
    );
    let Ok(Compiled::Filter(_, ignored)) = compile(
        &format!("{{{}, request_direction_config: {{}}}}", GZIP.replace("v3.Gzip", "v3.Gzip, window_bits: 9")),
        &counted,
    ) else {
        panic!()
    };
    assert_eq!(ignored, ["request_direction_config", "compressor_library.typed_config.window_bits"]);
}
