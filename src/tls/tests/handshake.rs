//! Handshakes that succeed, and what is known of them afterwards.

use rustls::HandshakeKind;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3 as api;

use super::pki::*;
use crate::observe::stats::Store;
use crate::tls::{Target, TlsStats, session_of_client, session_of_server};

const SERVER: &str = "spiffe://td/ns/istio/sa/waypoint";
const CLIENT: &str = "spiffe://td/ns/a/sa/b";

fn only(common: api::CommonTlsContext, version: api::tls_parameters::TlsProtocol) -> api::CommonTlsContext {
    let params = api::TlsParameters {
        tls_minimum_protocol_version: version.into(),
        tls_maximum_protocol_version: version.into(),
        ..Default::default()
    };
    api::CommonTlsContext { tls_params: Some(params), ..common }
}

fn alpn(common: api::CommonTlsContext, protocols: &[&str]) -> api::CommonTlsContext {
    api::CommonTlsContext { alpn_protocols: protocols.iter().map(|p| (*p).to_owned()).collect(), ..common }
}

#[test]
fn hbone_peers_prove_who_they_are() {
    let ca = Ca::new("ca");
    let context = |leaf: &Leaf, td| {
        let validation = api::CertificateValidationContext {
            match_typed_subject_alt_names: vec![uri_prefix("spiffe://x/"), uri_prefix(td)],
            ..trust(&ca)
        };
        alpn(only(common(&[leaf], Some(validation)), api::tls_parameters::TlsProtocol::TlSv13), &["h2"])
    };
    let server = server(context(&ca.spiffe(SERVER), "spiffe://td/"), true);
    let client = client(context(&ca.spiffe(CLIENT), "spiffe://td/"), "");
    let (c, s) = handshake(&client, &server).unwrap();
    assert_eq!(s.server_name(), None);

    let (up, down) = (session_of_client(&c, &client), session_of_server(&s, &server));
    for (session, local, peer) in [(&up, CLIENT, SERVER), (&down, SERVER, CLIENT)] {
        assert_eq!((session.version, session.cipher), ("TLSv1.3", "TLS_AES_128_GCM_SHA256"));
        assert_eq!(session.alpn.as_deref(), Some("h2"));
        assert_eq!(session.local.as_ref().unwrap().uri_sans, [local]);
        assert_eq!(session.peer.as_ref().unwrap().uri_sans, [peer]);
        assert!(session.peer_validated);
    }
    let peer = down.peer.clone().unwrap();
    assert_eq!((peer.subject.as_str(), peer.issuer.as_str()), ("", "CN=ca,O=Org"));
    assert_eq!((peer.sha256.len(), peer.sha1.len(), peer.pem_encoded.matches("BEGIN").count()), (64, 40, 1));

    let store = Store::default();
    let stats = TlsStats::server(&store, "listener.x.");
    stats.record_handshake(&down, &s);
    for name in ["handshake", "versions.TLSv1.3", "ciphers.TLS_AES_128_GCM_SHA256", "curves.X25519"] {
        assert_eq!(store.find(&format!("listener.x.ssl.{name}")), Some(1), "{name}");
    }
    assert_eq!(store.find("listener.x.ssl.no_certificate"), Some(0));
}

#[test]
fn versions_meet_or_part() {
    use api::tls_parameters::TlsProtocol::{TlSv12, TlSv13};
    let ca = Ca::new("ca");
    let leaf = ca.leaf(|p| p.subject_alt_names = vec![dns("a.example")]);
    let (old, new) =
        (server(only(common(&[&leaf], None), TlSv12), false), server(only(common(&[&leaf], None), TlSv13), false));
    let old_client = client(only(common(&[], Some(trust(&ca))), TlSv12), "a.example");
    let new_client = client(only(common(&[], Some(trust(&ca))), TlSv13), "a.example");
    let (c, s) = handshake(&old_client, &old).unwrap();
    let session = session_of_server(&s, &old);
    assert_eq!((session.version, session.cipher), ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256"));
    assert!(session.peer.is_none() && !session.peer_validated);
    assert!(session_of_client(&c, &old_client).peer_validated);
    assert!(handshake(&new_client, &new).is_ok());

    let (_, refused) = handshake(&old_client, &new).unwrap_err();
    assert_eq!(
        crate::tls::reason(&refused.unwrap()),
        "TLS_error:|268435696:SSL_routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL:TLS_error_end"
    );
    let (refused, _) = handshake(&new_client, &old).unwrap_err();
    assert_eq!(
        crate::tls::reason(&refused.unwrap()),
        "TLS_error:|268436526:SSL_routines:OPENSSL_internal:TLSV1_ALERT_PROTOCOL_VERSION:TLS_error_end"
    );
    // By default a client of Envoy stays at 1.2.
    let default = client(api::CommonTlsContext { tls_params: None, ..common(&[], None) }, "");
    assert!(handshake(&default, &new).is_err() && handshake(&default, &old).is_ok());
}

#[test]
fn a_certificate_is_chosen_by_name_and_then_by_key() {
    let ca = Ca::new("ca");
    let named = |name: &str, algorithm| ca.leaf_for(algorithm, |p| p.subject_alt_names = vec![dns(name)]);
    let ec = &rcgen::PKCS_ECDSA_P256_SHA256;
    let leaves = [
        named("first.example", ec),
        named("a.example", &rcgen::PKCS_ED25519),
        named("a.example", ec),
        named("*.wild.example", ec),
        ca.leaf(|p| p.distinguished_name.push(rcgen::DnType::CommonName, "common.example")),
    ];
    let server = server(common(&leaves.iter().collect::<Vec<_>>(), None), false);
    let shown = |sni: &str| {
        let (c, s) = handshake(&client(common(&[], Some(trust(&ca))), sni), &server).unwrap();
        let local = session_of_server(&s, &server).local.unwrap();
        let peer = crate::tls::certificate_info(c.peer_certificates().unwrap()).unwrap();
        (peer.serial, local.dns_sans.clone(), peer.dns_sans, peer.subject)
    };
    let serial = |i: usize| {
        leaves[i].serial.to_bytes().iter().skip_while(|b| **b == 0).map(|b| format!("{b:02x}")).collect::<String>()
    };
    assert_eq!(shown("A.example").0, serial(2), "ECDSA before Ed25519");
    assert_eq!(shown("x.wild.example").2, ["*.wild.example"]);
    assert_eq!(shown("x.wild.example").1, ["*.wild.example"]);
    assert_eq!(shown("x.y.wild.example").2, ["first.example"]);
    assert_eq!(shown("").2, ["first.example"]);
    assert_eq!(shown("common.example").3, "CN=common.example");
}

#[test]
fn a_server_name_comes_from_the_context_the_request_or_the_host() {
    let ca = Ca::new("ca");
    let server = server(common(&[&ca.leaf(|p| p.subject_alt_names = vec![dns("*.example")])], None), false);
    let client = client(common(&[], Some(trust(&ca))), "context.example");
    let name = |target| handshake_to(&client, &server, target).map(|(_, s)| s.server_name().map(str::to_owned));
    assert_eq!(name(Target::default()).unwrap().as_deref(), Some("context.example"));
    let request = Target { sni: Some("request.example"), host: Some("host.example"), ..Target::default() };
    assert_eq!(name(request).unwrap().as_deref(), Some("request.example"));
    assert!(name(Target { match_san: true, ..request }).is_ok());
    assert!(name(Target { match_san: true, sni: Some("other.test"), ..request }).is_err());
    assert!(
        name(Target { sni: Some("other.test"), ..request }).is_ok(),
        "without auto_san_validation the name is not looked for"
    );
}

#[test]
fn alpn_is_the_servers_choice_and_may_be_overridden() {
    let ca = Ca::new("ca");
    let leaf = ca.spiffe(SERVER);
    let server = server(alpn(common(&[&leaf], None), &["h2", "http/1.1"]), false);
    let client = client(alpn(common(&[], None), &["http/1.1", "h2"]), "");
    let chosen = |target| handshake_to(&client, &server, target).map(|(c, _)| c.alpn_protocol().map(<[u8]>::to_vec));
    assert_eq!(chosen(Target::default()).unwrap().as_deref(), Some(&b"h2"[..]));
    let http1 = [b"http/1.1".to_vec()];
    assert_eq!(chosen(Target { alpn: Some(&http1), ..Target::default() }).unwrap().as_deref(), Some(&b"http/1.1"[..]));
}

#[test]
fn sessions_are_resumed_unless_they_are_disabled() {
    let ca = Ca::new("ca");
    let leaf = ca.leaf(|p| p.subject_alt_names = vec![dns("a.example")]);
    let store = crate::tls::SecretStore::default();
    let mut context =
        api::DownstreamTlsContext { common_tls_context: Some(common(&[&leaf], None)), ..Default::default() };
    let tickets = crate::tls::ServerTls::compile(context.clone(), &store, "p").unwrap();
    context.session_timeout = Some(waypost_xds::google::protobuf::Duration { seconds: 600, nanos: 0 });
    let timed = crate::tls::ServerTls::compile(context.clone(), &store, "p").unwrap();
    context.session_ticket_keys_type =
        Some(api::downstream_tls_context::SessionTicketKeysType::DisableStatelessSessionResumption(true));
    let none = crate::tls::ServerTls::compile(context, &store, "p").unwrap();
    let second = |server, sni: &str| {
        let client = client(common(&[], Some(trust(&ca))), sni);
        handshake(&client, server).unwrap();
        let (c, s) = handshake(&client, server).unwrap();
        assert!(session_of_client(&c, &client).peer.is_some());
        s.handshake_kind()
    };
    assert_eq!(second(&tickets, "a.example"), Some(HandshakeKind::Resumed));
    assert_eq!(second(&timed, "a.example"), Some(HandshakeKind::Resumed));
    assert_eq!(second(&none, "a.example"), Some(HandshakeKind::Full));
    assert_eq!(second(&tickets, ""), Some(HandshakeKind::Full), "hosts without a name share nothing");
}
