//! What a configuration may and may not say.

use waypost_xds::envoy::config::core::v3::{ApiConfigSource, ConfigSource, config_source::ConfigSourceSpecifier};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3 as api;

use super::pki::*;
use crate::tls::{ClientTls, SecretStore, ServerTls};

fn refused(common: api::CommonTlsContext) -> (String, String) {
    let context = api::DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
    let error = ServerTls::compile(context, &SecretStore::default(), "p").unwrap_err();
    (error.path.strip_prefix("p.common_tls_context").unwrap().to_owned(), error.reason)
}

#[test]
fn what_is_not_supported_is_refused_by_its_path() {
    let leaf = Ca::new("ca").spiffe("spiffe://a");
    let params = |change: &dyn Fn(&mut api::TlsParameters)| {
        let mut params = api::TlsParameters::default();
        change(&mut params);
        refused(api::CommonTlsContext { tls_params: Some(params), ..common(&[&leaf], None) })
    };
    assert_eq!(
        params(&|p| p.cipher_suites = vec!["NO-SUCH".into()]),
        (".tls_params.cipher_suites".into(), "unknown cipher NO-SUCH".into())
    );
    assert_eq!(params(&|p| p.cipher_suites = vec!["AES128-SHA".into()]).1, "none of the cipher suites is supported");
    assert_eq!(params(&|p| p.ecdh_curves = vec!["P-1".into()]).1, "unknown ECDH curve P-1");
    assert_eq!(params(&|p| p.signature_algorithms = vec!["x".into()]).0, ".tls_params.signature_algorithms");
    assert_eq!(
        params(&|p| p.tls_maximum_protocol_version = api::tls_parameters::TlsProtocol::TlSv11.into()).0,
        ".tls_params"
    );
    assert_eq!(refused(common(&[], None)).1, "No TLS certificates found for server context");
    assert_eq!(
        refused(api::CommonTlsContext { key_log: Some(Default::default()), ..common(&[&leaf], None) }).0,
        ".key_log"
    );

    let api_source = ConfigSourceSpecifier::ApiConfigSource(ApiConfigSource::default());
    let sds_config = Some(ConfigSource { config_source_specifier: Some(api_source), ..Default::default() });
    let sds = |sds_config| api::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![api::SdsSecretConfig { name: "default".into(), sds_config }],
        ..common(&[], None)
    };
    assert_eq!(
        refused(sds(sds_config)).0,
        ".tls_certificate_sds_secret_configs[0].sds_config.api_config_source.api_type"
    );
    assert_eq!(refused(sds(None)).1, "Unknown static secret: default");
}

#[test]
fn names_without_a_ca_are_refused() {
    let ca = Ca::new("ca");
    let leaf = ca.spiffe("spiffe://a");
    let names = api::CertificateValidationContext {
        match_typed_subject_alt_names: vec![uri_prefix("a")],
        ..Default::default()
    };
    assert_eq!(
        refused(common(&[&leaf], Some(names))).1,
        "SAN-based verification of peer certificates without trusted CA is insecure and not allowed"
    );
    let hash =
        api::CertificateValidationContext { verify_certificate_hash: vec!["zz".repeat(32)], ..Default::default() };
    let (path, reason) = refused(common(&[&leaf], Some(hash)));
    assert_eq!(path, ".validation_context.verify_certificate_hash[0]");
    assert!(reason.starts_with("Invalid hex-encoded SHA-256 zz"));
    let garbage = api::CertificateValidationContext { trusted_ca: inline("garbage"), ..Default::default() };
    assert_eq!(refused(common(&[&leaf], Some(garbage))).0, ".validation_context.trusted_ca");
    let swapped = Leaf { key: ca.spiffe("spiffe://a").key, ..leaf };
    assert_eq!(refused(common(&[&swapped], None)).0, ".tls_certificates[0].private_key");
}

#[test]
fn named_secrets_of_the_bootstrap_are_found() {
    let (ca, store) = (Ca::new("ca"), SecretStore::default());
    let secret = |name: &str, leaf: &Leaf| api::Secret {
        name: name.into(),
        r#type: Some(api::secret::Type::TlsCertificate(certificate(leaf))),
    };
    store.add_static(secret("default", &ca.spiffe("spiffe://a")), "s").unwrap();
    assert_eq!(
        store.add_static(secret("default", &ca.spiffe("spiffe://b")), "s").unwrap_err().reason,
        "duplicate static secret: default"
    );
    let config = |name: &str| api::SdsSecretConfig { name: name.into(), sds_config: None };
    let context =
        api::CommonTlsContext { tls_certificate_sds_secret_configs: vec![config("default")], ..common(&[], None) };
    let context = api::UpstreamTlsContext { common_tls_context: Some(context), ..Default::default() };
    assert!(ClientTls::compile(context, &store, "c").unwrap().ready());
}

#[test]
fn lists_of_ciphers_may_hold_what_istio_puts_there() {
    let ca = Ca::new("ca");
    let names = [
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "AES256-GCM-SHA384",
        "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    ];
    let params = api::TlsParameters { cipher_suites: names.map(str::to_owned).to_vec(), ..Default::default() };
    let context = |leaves: &[&Leaf]| api::CommonTlsContext { tls_params: Some(params.clone()), ..common(leaves, None) };
    let server = server(context(&[&ca.spiffe("spiffe://a")]), false);
    let (c, _) = handshake(&client(context(&[]), ""), &server).unwrap();
    assert_eq!(
        c.negotiated_cipher_suite().unwrap().suite(),
        rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
    );
}
