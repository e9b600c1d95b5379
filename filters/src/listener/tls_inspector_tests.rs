use waypost_xds::google::protobuf::{BoolValue, UInt32Value};

use super::*;

fn vec8(data: &[u8]) -> Vec<u8> {
    [&[data.len() as u8], data].concat()
}

fn vec16(data: &[u8]) -> Vec<u8> {
    [&(data.len() as u16).to_be_bytes(), data].concat()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vec16(data)].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &vec16(&[&[0][..], &vec16(name)].concat()))
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    extension(16, &vec16(&names.iter().flat_map(|n| vec8(n)).collect::<Vec<_>>()))
}

fn message(extensions: &[u8]) -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &vec8(&[1; 32]), &vec16(&[0x13, 1]), &vec8(&[0]), &vec16(extensions)].concat();
    [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat()
}

/// The message cut into records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|c| [vec![22, 3, 1], vec16(c)].concat()).collect()
}

fn tls(name: Option<&str>, protocols: &[&str]) -> Inspect {
    Inspect::Tls { server_name: name.map(Arc::from), alpn: protocols.iter().map(|p| Arc::from(*p)).collect() }
}

#[test]
fn names_and_protocols_come_out_however_the_hello_is_cut() {
    let hello = message(&[extension(43, &[2, 3, 4]), sni(b"API.Example.com"), alpn(&[b"h2", b"http/1.1"])].concat());
    for size in [1, 2, 5, 40, 9000] {
        let bytes = records(&hello, size);
        assert_eq!(inspect(&bytes), tls(Some("api.example.com"), &["h2", "http/1.1"]), "{size}");
        for end in 0..bytes.len() {
            assert_eq!(inspect(&bytes[..end]), Inspect::NeedMore, "{size} {end}");
        }
    }
    assert_eq!(
        inspect(&[records(&hello, 9000), b"early data".to_vec()].concat()),
        tls(Some("api.example.com"), &["h2", "http/1.1"])
    );
    assert_eq!(inspect(&records(&message(&[]), 9000)), tls(None, &[]));
}

#[test]
fn plain_text_is_seen_at_once() {
    for bytes in [&b"G"[..], b"GET / HTTP/1.1", b"PRI * HTTP/2.0", &[22, 2], &[0x80, 0x2e, 1], &[21, 3, 1]] {
        assert_eq!(inspect(bytes), Inspect::NotTls, "{bytes:?}");
    }
}

#[test]
fn what_begins_like_tls_and_is_not_is_invalid() {
    let server_hello = [&[2][..], &message(&[])[1..]].concat();
    let nul = message(&sni(b"good.example\0.evil"));
    let long_name = message(&sni(&[b'a'; 256]));
    let twice = message(&[sni(b"a"), sni(b"b")].concat());
    let empty_protocol = message(&alpn(&[b""]));
    let not_utf8 = message(&sni(&[0xff, b'a']));
    for bad in [server_hello, nul, long_name, twice, empty_protocol, not_utf8] {
        assert_eq!(inspect(&records(&bad, 9000)), Inspect::Invalid);
    }
    assert_eq!(inspect(&[22, 3, 1, 0, 0]), Inspect::Invalid);
    assert_eq!(inspect(&[22, 3, 1, 0x44, 0]), Inspect::Invalid);
    assert_eq!(inspect(&[records(&message(&[])[..20], 20), vec![23, 3, 3, 0, 1, 0]].concat()), Inspect::Invalid);
}

#[test]
fn a_hello_over_the_limit_is_refused_from_its_length_alone() {
    let inspector = TlsInspector { max_client_hello: 1024, ..TlsInspector::default() };
    let hello = message(&extension(21, &[0; 2000]));
    assert_eq!(inspector.inspect(&records(&hello, 9000)[..9]), Inspect::NotTls);
    let strict = TlsInspector { close_on_error: true, ..inspector };
    assert_eq!(strict.inspect(&records(&hello, 9000)[..9]), Inspect::Invalid);
    assert_eq!(inspect(&records(&hello, 9000)), tls(None, &[]));
    assert_eq!(inspect(&records(&[1, 1, 0, 0, 0], 9000)), Inspect::Invalid);
}

#[test]
fn garbled_hellos_never_panic() {
    let bytes = records(&message(&[sni(b"a.example"), alpn(&[b"h2"])].concat()), 50);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut found = 0;
    for round in 0..200_000 {
        let mut copy = bytes.clone();
        for _ in 0..1 + round % 4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (seed >> 33) as usize % copy.len();
            copy[at] = (seed >> 24) as u8;
        }
        copy.truncate(1 + (seed >> 40) as usize % (2 * bytes.len()));
        found += u32::from(matches!(inspect(&copy), Inspect::Tls { .. }));
    }
    assert!(found > 1000, "the garbling leaves some hellos whole: {found}");
}

#[test]
fn fingerprints_are_refused_and_sizes_are_bounded() {
    let yes = api::TlsInspector { enable_ja3_fingerprinting: Some(BoolValue { value: true }), ..Default::default() };
    assert_eq!(TlsInspector::compile(&yes, "p").unwrap_err().path, "p.enable_ja3_fingerprinting");
    let size =
        |n: u32| api::TlsInspector { initial_read_buffer_size: Some(UInt32Value { value: n }), ..Default::default() };
    assert!(TlsInspector::compile(&size(255), "p").is_err());
    assert_eq!(TlsInspector::compile(&size(256), "p").unwrap().initial_read_buffer, 256);
    assert_eq!(TlsInspector::compile(&size(1 << 20), "p").unwrap().initial_read_buffer, MAX_CLIENT_HELLO);
}
