//! Handshakes over streams.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::pki_types::pem::PemObject;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3 as api;

use super::pki::*;
use crate::net::Io;
use crate::observe::stats::Store;
use crate::tls::{ClientTls, ServerTls, Target, TlsStats, accept, connect};

fn alpn(common: api::CommonTlsContext, protocols: &[&str]) -> api::CommonTlsContext {
    api::CommonTlsContext { alpn_protocols: protocols.iter().map(|p| (*p).to_owned()).collect(), ..common }
}

async fn meet(
    client: &Arc<ClientTls>,
    server: &Arc<ServerTls>,
    sni: Option<&str>,
    stats: Option<(&TlsStats, &TlsStats)>,
) -> (Result<Option<Arc<str>>, Arc<str>>, Result<Option<Arc<str>>, Arc<str>>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let target = Target { sni, ..Target::default() };
    let (c, s) = tokio::join!(
        connect(client, Io::Pipe(near), target, stats.map(|s| s.0)),
        accept(server, Io::Pipe(far), stats.map(|s| s.1))
    );
    (c.map(|(_, session)| session.alpn.clone()), s.map(|(_, session)| session.alpn.clone()))
}

#[tokio::test]
async fn without_a_common_protocol_there_is_none() {
    let ca = Ca::new("ca");
    let server = server(alpn(common(&[&ca.spiffe("spiffe://a")], None), &["h2"]), false);
    let client = |protocol| client(alpn(common(&[], Some(trust(&ca))), &[protocol]), "");
    assert_eq!(meet(&client("h2"), &server, None, None).await, (Ok(Some("h2".into())), Ok(Some("h2".into()))));
    assert_eq!(meet(&client("foo"), &server, None, None).await, (Ok(None), Ok(None)));
    assert_eq!(meet(&client("h2"), &server, Some("A.example"), None).await.1, Ok(Some("h2".into())));
}

#[tokio::test]
async fn a_client_with_tls_13_has_its_own_preference() {
    let ca = Ca::new("ca");
    let leaf = ca.leaf(|p| p.subject_alt_names = vec![dns("a.example")]);
    let server = server(common(&[&leaf], None), false);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    for (first, second, shown) in [
        (TLS13_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256, "TLS_AES_256_GCM_SHA384"),
        (TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, "TLS_AES_128_GCM_SHA256"),
        // An AES suite before it even so, as BoringSSL has it where the processor knows AES.
        (TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256"),
    ] {
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: vec![first, second],
            ..rustls::crypto::aws_lc_rs::default_provider()
        };
        let client = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let (_client, accepted) = tokio::join!(
            connector.connect("a.example".try_into().unwrap(), near),
            accept(&server, Io::Pipe(far), None)
        );
        assert_eq!(accepted.map(|(_, session)| session.cipher).ok(), Some(shown));
    }
}

#[tokio::test]
async fn both_sides_learn_why_and_count_it() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let (server, client) =
        (server(common(&[&ca.spiffe("spiffe://a")], None), false), client(common(&[], Some(trust(&other))), ""));
    let store: &Store = Box::leak(Box::default());
    let (down, up) = (TlsStats::server(store, "listener.x."), TlsStats::client(store, "cluster.x."));
    let (c, s) = meet(&client, &server, None, Some((&up, &down))).await;
    assert!(c.unwrap_err().contains("CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert"));
    assert!(s.unwrap_err().contains("TLSV1_ALERT_UNKNOWN_CA"));
    assert_eq!(store.find("listener.x.ssl.connection_error"), Some(1));
    assert_eq!(store.find("cluster.x.ssl.fail_verify_error"), Some(1));

    let (near, far) = tokio::io::duplex(1024);
    drop(near);
    assert!(accept(&server, Io::Pipe(far), Some(&down)).await.is_err());
    assert_eq!(store.find("listener.x.ssl.connection_error"), Some(1), "a peer that goes away is no TLS error");
}
