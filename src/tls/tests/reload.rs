//! Secrets that change while contexts use them.

use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use waypost_xds::envoy::config::core::v3::{ConfigSource, PathConfigSource, config_source::ConfigSourceSpecifier};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3 as api;

use super::pki::*;
use crate::tls::{ClientTls, Origin, SecretStore, ServerTls, session_of_server};

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("waypost-tls-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }

    /// Writes a file as certificate managers do: beside it, and then by a rename.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(self.0.join(".new"), text).unwrap();
        std::fs::rename(self.0.join(".new"), &path).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn shown(server: &ServerTls) -> String {
    let client = client(common(&[], None), "");
    let (_, s) = handshake(&client, server).unwrap();
    session_of_server(&s, server).local.unwrap().uri_sans[0].clone()
}

fn tls(common: api::CommonTlsContext) -> api::DownstreamTlsContext {
    api::DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() }
}

#[test]
fn new_files_are_picked_up_and_bad_ones_are_not() {
    let (directory, store, ca) = (Directory::new("files"), SecretStore::new(), Ca::new("ca"));
    let put = |leaf: &Leaf| {
        directory.write("key.pem", &leaf.key);
        directory.write("cert.pem", &leaf.chain);
    };
    put(&ca.spiffe("spiffe://td/one"));
    let certificate = api::TlsCertificate {
        certificate_chain: file(&directory.0.join("cert.pem")),
        private_key: file(&directory.0.join("key.pem")),
        ..Default::default()
    };
    let context = api::CommonTlsContext { tls_certificates: vec![certificate], ..common(&[], None) };
    let server = ServerTls::compile(tls(context), &store, "p").unwrap();
    let first = server.config().unwrap();
    store.reload();
    assert!(std::sync::Arc::ptr_eq(&first, &server.config().unwrap()), "nothing changed");
    assert_eq!(shown(&server), "spiffe://td/one");

    put(&ca.spiffe("spiffe://td/two"));
    store.reload();
    assert_eq!(shown(&server), "spiffe://td/two");

    let three = ca.spiffe("spiffe://td/three");
    directory.write("cert.pem", &three.chain);
    store.reload();
    assert_eq!(shown(&server), "spiffe://td/two", "the key is not there yet");
    directory.write("key.pem", &three.key);
    store.reload();
    assert_eq!(shown(&server), "spiffe://td/three");

    directory.write("cert.pem", "garbage");
    store.reload();
    std::fs::remove_file(directory.0.join("key.pem")).unwrap();
    store.reload();
    assert_eq!(shown(&server), "spiffe://td/three");

    let shown = &store.certificates()[0].cert_chain[0];
    assert_eq!(shown.subject_alt_names, [("uri", "spiffe://td/three".to_owned())]);
    assert_eq!(
        shown.days_until_expiration(UNIX_EPOCH + Duration::from_secs(shown.expiration_time as u64 - 2 * 86_400 - 1)),
        2
    );
}

#[test]
fn an_error_in_a_file_of_the_configuration_is_an_error_of_it() {
    let store = SecretStore::new();
    let missing = api::TlsCertificate {
        certificate_chain: file(std::path::Path::new("/nonexistent/cert.pem")),
        ..certificate(&Ca::new("ca").spiffe("spiffe://a"))
    };
    let context = api::CommonTlsContext { tls_certificates: vec![missing], ..common(&[], None) };
    let error = ServerTls::compile(tls(context), &store, "p").unwrap_err();
    assert_eq!(error.path, "p.common_tls_context.tls_certificates[0].certificate_chain.filename");
}

#[test]
fn a_context_waits_for_its_slots() {
    let (store, ca) = (SecretStore::new(), Ca::new("ca"));
    let directory = Directory::new("slots");
    let sds = |name: &str| {
        let source =
            PathConfigSource { path: directory.0.join(name).to_str().unwrap().to_owned(), ..Default::default() };
        let sds_config = ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(source)),
            ..Default::default()
        };
        api::SdsSecretConfig { name: name.to_owned(), sds_config: Some(sds_config) }
    };
    let combined = api::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context: Some(api::CertificateValidationContext {
            match_typed_subject_alt_names: vec![uri_prefix("spiffe://td/")],
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(sds("ROOTCA")),
        ..Default::default()
    };
    let context = api::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![sds("default")],
        validation_context_type: Some(api::common_tls_context::ValidationContextType::CombinedValidationContext(
            combined,
        )),
        ..common(&[], None)
    };
    let server = ServerTls::compile(tls(context), &store, "p").unwrap();
    assert!(!server.ready() && server.config().is_none());

    let set = |name: &str, r#type| {
        let slot = store.slot(Origin::Path(directory.0.join(name)), name);
        slot.set(api::Secret { name: name.to_owned(), r#type: Some(r#type) }).unwrap();
        store.refresh();
    };
    set("default", api::secret::Type::TlsCertificate(certificate(&ca.spiffe("spiffe://td/waypoint"))));
    assert!(!server.ready());
    set("ROOTCA", api::secret::Type::ValidationContext(trust(&ca)));
    assert!(server.ready());
    let (good, evil) = (ca.spiffe("spiffe://td/a"), ca.spiffe("spiffe://evil/a"));
    assert!(handshake(&client(common(&[&good], Some(trust(&ca))), ""), &server).is_ok());
    assert!(handshake(&client(common(&[&evil], Some(trust(&ca))), ""), &server).is_err(), "the default's names hold");

    let next = Ca::new("next");
    set("ROOTCA", api::secret::Type::ValidationContext(trust(&next)));
    assert!(handshake(&client(common(&[&good], None), ""), &server).is_err());
    assert!(handshake(&client(common(&[&next.spiffe("spiffe://td/a")], None), ""), &server).is_ok());
}

#[test]
fn sds_files_fill_slots_and_are_followed() {
    let (store, ca, directory) = (SecretStore::new(), Ca::new("ca"), Directory::new("sds"));
    let write = |leaf: &Leaf| {
        let secret = serde_json::json!({"resources": [{
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            "name": "default",
            "tls_certificate": {"certificate_chain": {"inline_string": leaf.chain}, "private_key": {"inline_string": leaf.key}},
        }]});
        directory.write("sds.json", &secret.to_string())
    };
    let path = write(&ca.spiffe("spiffe://td/one"));
    let source = PathConfigSource { path: path.to_str().unwrap().to_owned(), ..Default::default() };
    let sds_config = ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(source)),
        ..Default::default()
    };
    let config = api::SdsSecretConfig { name: "default".into(), sds_config: Some(sds_config) };
    let context = api::CommonTlsContext { tls_certificate_sds_secret_configs: vec![config], ..common(&[], None) };
    let server = ServerTls::compile(tls(context.clone()), &store, "p").unwrap();
    let client = ClientTls::compile(
        api::UpstreamTlsContext { common_tls_context: Some(context), ..Default::default() },
        &store,
        "c",
    )
    .unwrap();
    assert_eq!(shown(&server), "spiffe://td/one");
    assert!(client.ready());
    write(&ca.spiffe("spiffe://td/two"));
    store.reload();
    assert_eq!(shown(&server), "spiffe://td/two");
    directory.write("sds.json", "{");
    store.reload();
    assert_eq!(shown(&server), "spiffe://td/two");
}
