//! Certificates that must not pass, and Envoy's words for it.

use rcgen::{ExtendedKeyUsagePurpose, date_time_ymd};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3 as api;
use waypost_xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use waypost_xds::google::protobuf::UInt32Value;

use super::pki::*;
use crate::observe::stats::Store;
use crate::tls::{TlsStats, reason, session_of_server};

type Context = api::CertificateValidationContext;

/// Has a server look at a client's certificate. The reason and the counter of a refusal.
fn offer(leaf: Option<&Leaf>, validation: Context, require: bool) -> Result<bool, (String, &'static str)> {
    let ca = Ca::new("server");
    let server = server(common(&[&ca.spiffe("spiffe://td/server")], Some(validation)), require);
    let client = client(common(&leaf.into_iter().collect::<Vec<_>>(), None), "");
    match handshake(&client, &server) {
        Ok((_, s)) => Ok(session_of_server(&s, &server).peer_validated),
        Err((_, error)) => {
            let (error, store) = (error.unwrap(), Store::default());
            let stats = TlsStats::server(&store, "");
            stats.record_failure(&error);
            let names = [
                "fail_verify_san",
                "fail_verify_cert_hash",
                "fail_verify_error",
                "fail_verify_no_cert",
                "connection_error",
            ];
            let counted = names.into_iter().find(|n| store.find(&format!("ssl.{n}")) == Some(1));
            Err((reason(&error), counted.unwrap()))
        }
    }
}

fn failed(detail: &str) -> String {
    format!(
        "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_{}:TLS_error_end",
        detail.replace(' ', "_")
    )
}

fn chain_failed(text: &str) -> Result<bool, (String, &'static str)> {
    Err((failed(&format!("X509_verify_cert: certificate verification error at depth 0: {text}")), "fail_verify_error"))
}

const ID: &str = "spiffe://td/ns/a/sa/b";

#[test]
fn a_chain_must_lead_to_the_trusted_ca_now() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    assert_eq!(offer(Some(&ca.spiffe(ID)), trust(&ca), true), Ok(true));
    assert_eq!(
        offer(Some(&other.spiffe(ID)), trust(&ca), true),
        chain_failed("unable to get local issuer certificate")
    );
    let both = Context { trusted_ca: inline(&format!("{}{}", other.pem, ca.pem)), ..Default::default() };
    assert_eq!(offer(Some(&ca.spiffe(ID)), both, true), Ok(true), "several roots");

    let expired = ca.leaf(|p| (p.subject_alt_names, p.not_after) = (vec![uri(ID)], date_time_ymd(2020, 1, 1)));
    let future = ca.leaf(|p| (p.subject_alt_names, p.not_before) = (vec![uri(ID)], date_time_ymd(3000, 1, 1)));
    assert_eq!(offer(Some(&expired), trust(&ca), true), chain_failed("certificate has expired"));
    assert_eq!(offer(Some(&future), trust(&ca), true), chain_failed("certificate is not yet valid"));
    let lenient = || Context { allow_expired_certificate: true, ..trust(&ca) };
    assert_eq!(offer(Some(&expired), lenient(), true), Ok(true));
    assert_eq!(offer(Some(&future), lenient(), true), Ok(true));
    assert_eq!(offer(Some(&other.spiffe(ID)), lenient(), true), chain_failed("unable to get local issuer certificate"));

    let old = Ca::build("old", None, |p| p.not_after = date_time_ymd(2020, 1, 1));
    assert_eq!(offer(Some(&old.spiffe(ID)), trust(&old), true), chain_failed("certificate has expired"), "the CA has");
    let mail = ca.leaf(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]);
    assert_eq!(offer(Some(&mail), trust(&ca), true), chain_failed("unsupported certificate purpose"));
}

#[test]
fn an_intermediate_counts_and_may_be_the_anchor() {
    let root = Ca::new("root");
    let middle = Ca::build("middle", Some(&root), |_| {});
    let leaf = middle.spiffe(ID).with_intermediate(&middle);
    let depth = |n| Context { max_verify_depth: Some(UInt32Value { value: n }), ..trust(&root) };
    assert_eq!(offer(Some(&leaf), depth(1), true), Ok(true));
    assert_eq!(offer(Some(&leaf), depth(0), true), chain_failed("certificate chain too long"));
    assert_eq!(
        offer(Some(&middle.spiffe(ID)), trust(&root), true),
        chain_failed("unable to get local issuer certificate")
    );
    assert_eq!(offer(Some(&middle.spiffe(ID)), trust(&middle), true), Ok(true));
    let pinned = Context { trusted_ca: inline(&middle.spiffe("spiffe://x").chain), ..Default::default() };
    assert!(offer(Some(&leaf), pinned, true).is_err());
    let itself = Context { trusted_ca: inline(&middle.spiffe(ID).chain), ..Default::default() };
    assert!(offer(Some(&middle.spiffe(ID)), itself, true).is_err(), "another certificate with the same name");
    let same = middle.spiffe(ID);
    assert_eq!(offer(Some(&same), Context { trusted_ca: inline(&same.chain), ..Default::default() }, true), Ok(true));
}

#[test]
fn one_name_must_match() {
    let ca = Ca::new("ca");
    let td = |prefix| Context { match_typed_subject_alt_names: vec![uri_prefix(prefix)], ..trust(&ca) };
    let two = ca.leaf(|p| p.subject_alt_names = vec![uri("spiffe://evil/ns/a/sa/b"), dns("evil.example")]);
    let sans = failed("SAN matcher, certificate SANs are [spiffe://evil/ns/a/sa/b, evil.example]");
    assert_eq!(offer(Some(&two), td("spiffe://td/"), true), Err((sans, "fail_verify_san")));
    assert_eq!(offer(Some(&two), td("spiffe://evil/"), true), Ok(true));
    let without = ca.leaf(|p| p.distinguished_name.push(rcgen::DnType::CommonName, "spiffe://td/"));
    assert!(offer(Some(&without), td("spiffe://td/"), true).is_err(), "a common name is no SAN");
}

#[test]
fn a_name_with_a_nul_is_no_name() {
    use api::subject_alt_name_matcher::SanType::{Dns, Uri};
    let ca = Ca::new("ca");
    let dns_san = ca.leaf(|p| p.custom_extensions = vec![raw_san(2, b"good.example\0.evil.test")]);
    let uri_san = ca.leaf(|p| p.custom_extensions = vec![raw_san(6, b"spiffe://td/a\0evil")]);
    let context = |m| Context { match_typed_subject_alt_names: vec![m], ..trust(&ca) };
    for m in [
        san(Dns, MatchPattern::Exact("good.example".into())),
        san(Dns, MatchPattern::Prefix("good".into())),
        san(Dns, MatchPattern::Suffix(".evil.test".into())),
        san(Dns, MatchPattern::Contains("good".into())),
        san(Dns, MatchPattern::Exact("good.example\0.evil.test".into())),
    ] {
        let refused = offer(Some(&dns_san), context(m.clone()), true);
        assert_eq!(refused, Err((failed("SAN matcher, certificate SANs are []"), "fail_verify_san")), "{m:?}");
    }
    assert!(offer(Some(&uri_san), context(san(Uri, MatchPattern::Prefix("spiffe://td/".into()))), true).is_err());
    // The same extension without the NUL is good: it is critical, and there is no subject.
    let good = ca.leaf(|p| p.custom_extensions = vec![raw_san(6, b"spiffe://td/a")]);
    assert_eq!(offer(Some(&good), context(uri_prefix("spiffe://td/")), true), Ok(true));
}

#[test]
fn a_certificate_is_asked_for_required_or_neither() {
    let ca = Ca::new("ca");
    let none = "TLS_error:|268435648:SSL_routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE:\
                peer_did_not_provide_required_client_certificate:TLS_error_end";
    let missing = Err((none.to_owned(), "fail_verify_no_cert"));
    assert_eq!(offer(None, trust(&ca), true), missing);
    assert_eq!(offer(None, trust(&ca), false), Ok(false));
    let names = || Context { match_typed_subject_alt_names: vec![uri_prefix("spiffe://")], ..trust(&ca) };
    assert_eq!(offer(None, names(), false), missing, "names to match imply a certificate");
    // Required without anything to verify by: any certificate, and it proves nothing.
    assert_eq!(offer(Some(&ca.spiffe(ID)), Context::default(), true), Ok(false));
    assert_eq!(offer(None, Context::default(), true), missing);
}

#[test]
fn untrusted_certificates_are_accepted_and_marked() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let accept = || Context {
        trust_chain_verification: api::certificate_validation_context::TrustChainVerification::AcceptUntrusted.into(),
        ..trust(&ca)
    };
    assert_eq!(offer(Some(&other.spiffe(ID)), accept(), false), Ok(false));
    assert_eq!(offer(Some(&ca.spiffe(ID)), accept(), false), Ok(true));
}

#[test]
fn either_hash_will_do() {
    let ca = Ca::new("ca");
    let leaf = ca.spiffe(ID);
    let der = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(
        leaf.chain.as_bytes(),
    )
    .unwrap();
    let hash = crate::tls::certificate_info(&[der]).unwrap().sha256;
    let colons =
        hash.as_bytes().chunks(2).map(|c| std::str::from_utf8(c).unwrap().to_uppercase()).collect::<Vec<_>>().join(":");
    let context =
        |hash: &str| Context { verify_certificate_hash: vec!["00".repeat(32), hash.to_owned()], ..Default::default() };
    assert_eq!(offer(Some(&leaf), context(&hash), false), Ok(true));
    assert_eq!(offer(Some(&leaf), context(&colons), false), Ok(true));
    let refused = Err((failed("cert hash and spki"), "fail_verify_cert_hash"));
    assert_eq!(offer(Some(&ca.spiffe(ID)), context(&hash), false), refused);
    let spki = |s: String| Context { verify_certificate_spki: vec![s], ..trust(&ca) };
    assert_eq!(offer(Some(&leaf), spki(format!("{}=", "A".repeat(43))), false), refused);
}

#[test]
fn what_is_revoked_or_not_covered_is_refused() {
    let ca = Ca::new("ca");
    let (good, bad) = (ca.spiffe(ID), ca.spiffe(ID));
    let context = |crl: String| Context { crl: inline(&crl), ..trust(&ca) };
    assert_eq!(offer(Some(&good), context(ca.crl(&[&bad], false)), true), Ok(true));
    assert_eq!(offer(Some(&bad), context(ca.crl(&[&bad], false)), true), chain_failed("certificate revoked"));
    assert_eq!(offer(Some(&good), context(ca.crl(&[], true)), true), chain_failed("CRL has expired"));
    let elsewhere = Ca::new("elsewhere").crl(&[], false);
    assert_eq!(offer(Some(&good), context(elsewhere), true), chain_failed("unable to get certificate CRL"));
}

#[test]
fn a_client_verifies_only_what_it_was_told_to() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let server = server(common(&[&ca.leaf(|p| p.subject_alt_names = vec![dns("a.example")])], None), false);
    let to = |validation| handshake(&client(common(&[], validation), "b.example"), &server);
    assert!(to(None).is_ok(), "no trusted CA: no verification");
    assert!(to(Some(trust(&ca))).is_ok(), "the host name is not looked for");
    let (error, alert) = to(Some(trust(&other))).unwrap_err();
    assert_eq!(reason(&error.unwrap()), chain_failed("unable to get local issuer certificate").unwrap_err().0);
    assert_eq!(
        reason(&alert.unwrap()),
        "TLS_error:|268436504:SSL_routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA:TLS_error_end"
    );
}

#[test]
fn plain_text_is_named_as_such() {
    let ca = Ca::new("ca");
    let server = server(common(&[&ca.spiffe(ID)], None), false);
    let mut connection = rustls::ServerConnection::new(server.config().unwrap()).unwrap();
    connection.read_tls(&mut &b"GET / HTTP/1.1\r\n\r\n"[..]).unwrap();
    let error = connection.process_new_packets().unwrap_err();
    assert_eq!(reason(&error), "TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end");
}
