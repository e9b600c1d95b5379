//! Secrets of a discovery service.

use std::sync::Arc;
use std::time::Duration;

use waypost_xds::envoy::config::core::v3::api_config_source::ApiType;
use waypost_xds::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use waypost_xds::envoy::config::core::v3::grpc_service::{EnvoyGrpc, TargetSpecifier};
use waypost_xds::envoy::config::core::v3::{
    AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService, SelfConfigSource,
    data_source::Specifier,
};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3 as api;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};

use super::pki::*;
use crate::net::Io;
use crate::observe::stats::Store;
use crate::tls::{
    ClientTls, Origin, SecretKind, SecretSlot, SecretStore, ServerTls, Target, TlsStats, accept, connect,
    session_of_server,
};

fn ads() -> ConfigSource {
    let specifier = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    ConfigSource { config_source_specifier: Some(specifier), ..ConfigSource::default() }
}

fn grpc(cluster: &str) -> ConfigSource {
    let target = TargetSpecifier::EnvoyGrpc(EnvoyGrpc { cluster_name: cluster.into(), ..EnvoyGrpc::default() });
    let api = ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![GrpcService { target_specifier: Some(target), ..GrpcService::default() }],
        ..ApiConfigSource::default()
    };
    let specifier = ConfigSourceSpecifier::ApiConfigSource(api);
    ConfigSource { config_source_specifier: Some(specifier), ..ConfigSource::default() }
}

fn sds(name: &str, source: ConfigSource) -> api::SdsSecretConfig {
    api::SdsSecretConfig { name: name.to_owned(), sds_config: Some(source) }
}

/// What istiod sends: `default`, and `ROOTCA` merged over the names that are good.
fn mesh() -> api::CommonTlsContext {
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(api::CertificateValidationContext {
            match_typed_subject_alt_names: vec![uri_prefix("spiffe://td/")],
            ..Default::default()
        }),
        validation_context_sds_secret_config: Some(sds("ROOTCA", grpc("sds-grpc"))),
        ..Default::default()
    };
    api::CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![sds("default", grpc("sds-grpc"))],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..common(&[], None)
    }
}

fn downstream(common: api::CommonTlsContext) -> api::DownstreamTlsContext {
    api::DownstreamTlsContext { common_tls_context: Some(common), ..Default::default() }
}

fn upstream(common: api::CommonTlsContext) -> api::UpstreamTlsContext {
    api::UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() }
}

fn secret(name: &str, r#type: api::secret::Type) -> api::Secret {
    api::Secret { name: name.to_owned(), r#type: Some(r#type) }
}

fn identity(slot: &SecretSlot, leaf: &Leaf) {
    slot.set(secret(slot.name(), api::secret::Type::TlsCertificate(certificate(leaf)))).unwrap();
}

fn roots(slot: &SecretSlot, pem: &str) {
    let context = api::CertificateValidationContext { trusted_ca: inline(pem), ..Default::default() };
    slot.set(secret(slot.name(), api::secret::Type::ValidationContext(context))).unwrap();
}

fn names(slots: &[Arc<SecretSlot>]) -> Vec<&str> {
    slots.iter().map(|s| s.name()).collect()
}

#[test]
fn a_slot_is_wanted_once_and_tells_how_long_to_wait() {
    let store = SecretStore::new();
    let timeout = |seconds| Some(waypost_xds::google::protobuf::Duration { seconds, nanos: 0 });
    let get = |name: &str, source| store.resolve(&sds(name, source), SecretKind::Certificate, "p").unwrap();
    let a = get("a", ads());
    let forever = get("b", ConfigSource { initial_fetch_timeout: timeout(0), ..ads() });
    let _same = get("b", ads());
    let other = get("b", grpc("x"));
    let _another = get("b", grpc("y"));
    assert_eq!(names(&store.take_wanted()), ["a", "b", "b", "b"]);
    assert!(store.take_wanted().is_empty());
    assert_eq!(a.origin(), &Origin::Service("ads".into()));
    assert_eq!(a.initial_fetch_timeout(), Some(Duration::from_secs(15)));
    assert_eq!(forever.initial_fetch_timeout(), None);
    assert!(matches!(other.source().unwrap().config_source_specifier, Some(ConfigSourceSpecifier::ApiConfigSource(_))));
    assert!(!a.settled());
    a.settle();
    assert!(a.settled() && a.get().is_none());
}

#[test]
fn a_source_that_is_no_grpc_service_is_refused() {
    let store = SecretStore::new();
    let refused = |source| store.resolve(&sds("a", source), SecretKind::Certificate, "p").unwrap_err().path;
    let change = |change: fn(&mut ApiConfigSource)| {
        let mut source = grpc("x");
        if let Some(ConfigSourceSpecifier::ApiConfigSource(api)) = &mut source.config_source_specifier {
            change(api);
        }
        source
    };
    let api = "p.sds_config.api_config_source";
    assert_eq!(refused(grpc("")), format!("{api}.grpc_services[0].envoy_grpc.cluster_name"));
    assert_eq!(refused(change(|a| a.api_type = ApiType::Rest.into())), format!("{api}.api_type"));
    assert_eq!(refused(change(|a| a.grpc_services.clear())), format!("{api}.grpc_services"));
    assert_eq!(refused(change(|a| a.grpc_services = vec![GrpcService::default()])), format!("{api}.grpc_services[0]"));
    let v2 = ApiVersion::try_from(1).unwrap();
    assert_eq!(refused(ConfigSource { resource_api_version: v2.into(), ..ads() }), "p.sds_config.resource_api_version");
    let itself = ConfigSourceSpecifier::Self_(SelfConfigSource::default());
    assert_eq!(
        refused(ConfigSource { config_source_specifier: Some(itself), ..ConfigSource::default() }),
        "p.sds_config.self"
    );
    assert!(store.take_wanted().is_empty());
}

#[test]
fn what_is_compiled_tells_what_it_waits_for_even_if_it_was_compiled_before() {
    let store = SecretStore::new();
    let (first, named) = store.track(|| ServerTls::compile(downstream(mesh()), &store, "one").unwrap());
    assert_eq!(names(&named), ["default", "ROOTCA"]);
    let (second, named) = store.track(|| ServerTls::compile(downstream(mesh()), &store, "two").unwrap());
    assert_eq!(names(&named), ["default", "ROOTCA"]);
    assert!(Arc::ptr_eq(&first, &second), "it is the same context");
    let (_, named) = store.track(|| ());
    assert!(named.is_empty());
    let (inner, outer) = store.track(|| store.track(|| ClientTls::compile(upstream(mesh()), &store, "c").unwrap()).1);
    assert_eq!(names(&inner), names(&outer));
    assert_eq!(names(&store.take_wanted()), ["default", "ROOTCA"]);
    assert!(!first.ready());
}

#[test]
fn slots_that_nobody_uses_are_swept() {
    let store = SecretStore::new();
    let server = ServerTls::compile(downstream(mesh()), &store, "p").unwrap();
    let client = ClientTls::compile(upstream(mesh()), &store, "p").unwrap();
    let subscribed = store.take_wanted();
    drop(server);
    assert!(store.sweep().is_empty(), "the client has them still");
    drop(client);
    assert_eq!(names(&store.sweep()).len(), 2);
    assert!(store.sweep().is_empty() && store.service_slots().is_empty());

    let _again = ServerTls::compile(downstream(mesh()), &store, "p").unwrap();
    let wanted = store.take_wanted();
    assert_eq!(wanted.len(), 2);
    assert!(!wanted.iter().any(|w| subscribed.iter().any(|s| Arc::ptr_eq(s, w))), "they start anew");

    let unasked = store.resolve(&sds("x", ads()), SecretKind::Certificate, "p").unwrap();
    drop(unasked);
    assert!(store.sweep().is_empty() && store.take_wanted().is_empty(), "nobody had subscribed to it");
}

#[test]
fn a_secret_that_cannot_be_used_is_refused_and_the_old_one_stays() {
    let (store, ca) = (SecretStore::new(), Ca::new("ca"));
    let server = ServerTls::compile(downstream(mesh()), &store, "p").unwrap();
    let [default, rootca] = &store.take_wanted()[..] else { panic!() };
    let (leaf, other) = (ca.spiffe("spiffe://td/a"), ca.spiffe("spiffe://td/b"));
    identity(default, &leaf);
    roots(rootca, &ca.pem);
    store.refresh();
    assert!(server.ready());
    let good = certificate(&leaf);
    let provider = |name: &str, fallback| {
        let key = api::PrivateKeyProvider { provider_name: name.into(), fallback, ..Default::default() };
        Some(key)
    };
    let nowhere = DataSource { specifier: Some(Specifier::Filename("/nope".into())), ..DataSource::default() };
    for (bad, reason) in [
        (
            api::TlsCertificate { certificate_chain: inline("x"), ..good.clone() },
            "Failed to load certificate chain from <inline>",
        ),
        (
            api::TlsCertificate { certificate_chain: inline(""), ..good.clone() },
            "Failed to load incomplete certificate from : certificate chain not set",
        ),
        (
            api::TlsCertificate { private_key: None, ..good.clone() },
            "Failed to load incomplete private key from path: ",
        ),
        (
            api::TlsCertificate { private_key: inline("x"), ..good.clone() },
            "Failed to load private key from <inline>, Cause: error:0900006e:PEM routines:OPENSSL_internal:NO_START_LINE",
        ),
        (
            api::TlsCertificate { private_key: inline(&other.key), ..good.clone() },
            "Failed to load private key from <inline>, Cause: error:0b000074:X.509 certificate routines:OPENSSL_internal:KEY_VALUES_MISMATCH",
        ),
        (api::TlsCertificate { certificate_chain: Some(nowhere), ..good.clone() }, "Invalid path: /nope"),
        (
            api::TlsCertificate { private_key_provider: provider("cryptomb", false), ..good.clone() },
            "Failed to load private key provider: cryptomb",
        ),
        (
            api::TlsCertificate { private_key_provider: provider("mine", true), ..good.clone() },
            "Failed to load private key provider: mine",
        ),
        (
            api::TlsCertificate { private_key_provider: provider("qat", true), private_key: None, ..good.clone() },
            "Failed to load incomplete private key from path: ",
        ),
        (
            api::TlsCertificate { ocsp_staple: inline("x"), ..good.clone() },
            "OCSP staple cannot be provided via inline_string",
        ),
    ] {
        let error = default.set(secret("default", api::secret::Type::TlsCertificate(bad))).unwrap_err();
        assert!(error.reason.starts_with(reason), "{error}");
    }
    let fallback = api::TlsCertificate { private_key_provider: provider("cryptomb", true), ..certificate(&other) };
    default.set(secret("default", api::secret::Type::TlsCertificate(fallback))).unwrap();

    let reason = |slot: &SecretSlot, secret| slot.set(secret).unwrap_err().reason;
    let wrong = secret("default", api::secret::Type::ValidationContext(trust(&ca)));
    assert_eq!(reason(default, wrong), "the secret is not a tls_certificate");
    let misnamed = secret("other", api::secret::Type::TlsCertificate(good.clone()));
    assert_eq!(reason(default, misnamed), "Unexpected SDS secret (expecting default): other");
    assert_eq!(
        reason(default, api::Secret { name: "default".into(), r#type: None }),
        "the secret is not a tls_certificate"
    );

    let context = |change: fn(&mut api::CertificateValidationContext)| {
        let mut context = trust(&ca);
        change(&mut context);
        secret("ROOTCA", api::secret::Type::ValidationContext(context))
    };
    for (bad, expected) in [
        (context(|c| c.trusted_ca = inline("x")), "Failed to load trusted CA certificates from <inline>"),
        (context(|c| c.crl = inline("x")), "Failed to load CRL from <inline>"),
        (context(|c| c.verify_certificate_hash = vec!["zz".into()]), "Invalid hex-encoded SHA-256"),
    ] {
        assert!(reason(rootca, bad).starts_with(expected));
    }
    let version = rootca.version();
    roots(rootca, &ca.pem);
    assert_eq!((version, rootca.version()), (1, 1), "the same again is no change");
    store.refresh();
    assert!(server.ready() && handshake(&mesh_client(&leaf, &ca), &server).is_ok());
}

#[test]
fn names_without_a_ca_are_refused_where_there_is_nothing_to_merge_with() {
    let store = SecretStore::new();
    let only_names = |name: &str| {
        let context = api::CertificateValidationContext {
            match_typed_subject_alt_names: vec![uri_prefix("spiffe://td/")],
            ..Default::default()
        };
        secret(name, api::secret::Type::ValidationContext(context))
    };
    let slot = |name: &str, kind| store.resolve(&sds(name, ads()), kind, "p").unwrap();
    assert!(slot("alone", SecretKind::Validation).set(only_names("alone")).unwrap_err().reason.contains("is insecure"));
    assert!(slot("merged", SecretKind::MergedValidation).set(only_names("merged")).is_ok());
    let keys = |key: &str| {
        let keys = api::TlsSessionTicketKeys { keys: inline(key).into_iter().collect() };
        secret("keys", api::secret::Type::SessionTicketKeys(keys))
    };
    let slot = store.slot(Origin::Service("ads".into()), "keys");
    assert_eq!(
        slot.set(keys("short")).unwrap_err().reason,
        "Incorrect TLS session ticket key length. Length 5, expected length 80."
    );
    assert!(slot.set(keys(&"k".repeat(80))).is_ok());
    let generic = api::GenericSecret { secret: inline("token"), ..Default::default() };
    let slot = store.slot(Origin::Service("ads".into()), "generic");
    assert!(slot.set(secret("generic", api::secret::Type::GenericSecret(generic))).is_ok());
}

fn mesh_client(leaf: &Leaf, ca: &Ca) -> Arc<ClientTls> {
    client(common(&[leaf], Some(trust(ca))), "")
}

/// Goes on with something once, and tells whether it is still not done.
async fn step(mut work: std::pin::Pin<&mut impl Future>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(work.as_mut().poll(cx).is_pending())).await
}

#[tokio::test]
async fn certificates_keys_and_roots_turn_over_while_clients_connect() {
    let (store, stats) = (SecretStore::new(), Store::default());
    let server = ServerTls::compile(downstream(mesh()), &store, "s").unwrap();
    let client = ClientTls::compile(upstream(mesh()), &store, "c").unwrap();
    let (down, up) = (TlsStats::server(&stats, "listener.x."), TlsStats::client(&stats, "cluster.x."));
    server.follow(&down);
    client.follow(&up);
    let [default, rootca] = &store.take_wanted()[..] else { panic!() };
    let meet = async || {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let target = Target::default();
        tokio::join!(connect(&client, Io::Pipe(near), target, Some(&up)), accept(&server, Io::Pipe(far), Some(&down)))
    };
    let (c, s) = meet().await;
    let reason = Arc::from("TLS_error:_Secret_is_not_supplied_by_SDS");
    assert_eq!((c.err(), s.err()), (Some(Arc::clone(&reason)), Some(reason)));
    assert_eq!(
        stats.find("listener.x.server_ssl_socket_factory.downstream_context_secrets_not_ready").unwrap_or_default(),
        1
    );
    assert_eq!(
        stats.find("cluster.x.client_ssl_socket_factory.upstream_context_secrets_not_ready").unwrap_or_default(),
        1
    );

    let mut ca = Ca::new("0");
    identity(default, &ca.spiffe("spiffe://td/0"));
    roots(rootca, &ca.pem);
    store.refresh();
    let mut open = Vec::new();
    for round in 0..50 {
        // As Istio turns over its roots: first both are trusted, then the new one signs, then the old one goes.
        let next = Ca::new(&format!("{}", round + 1));
        let leaf = next.spiffe(&format!("spiffe://td/{}", round + 1));
        for turn in 0..3 {
            let mut pending = Box::pin(meet());
            // The secrets change in the middle of it.
            assert!(step(pending.as_mut()).await);
            match turn {
                0 => roots(rootca, &[ca.pem.as_str(), &next.pem].concat()),
                1 => identity(default, &leaf),
                _ => roots(rootca, &next.pem),
            }
            store.refresh();
            let (c, s) = pending.await;
            let (c, s) = (c.unwrap(), s.unwrap());
            if turn == 2 {
                let shown = format!("spiffe://td/{}", round + 1);
                assert_eq!(c.1.peer.as_ref().unwrap().uri_sans, [shown]);
            }
            open.push((c.0, s.0));
        }
        ca = next;
    }
    for (mut near, mut far) in open {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        near.write_all(b"x").await.unwrap();
        near.flush().await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
    }
    assert_eq!(stats.find("listener.x.server_ssl_socket_factory.ssl_context_update_by_sds").unwrap_or_default(), 151);
    assert_eq!(stats.find("cluster.x.client_ssl_socket_factory.ssl_context_update_by_sds").unwrap_or_default(), 151);
    assert_eq!(stats.find("listener.x.ssl.connection_error").unwrap_or_default(), 0);
}

#[test]
fn contexts_that_differ_in_little_share_their_certificate() {
    let (store, ca) = (SecretStore::new(), Ca::new("ca"));
    let contexts: Vec<_> = ["a.example", "b.example"]
        .map(|sni| {
            let context = api::UpstreamTlsContext { sni: sni.into(), ..upstream(mesh()) };
            ClientTls::compile(context, &store, "c").unwrap()
        })
        .into();
    assert!(!Arc::ptr_eq(&contexts[0], &contexts[1]));
    let [default, rootca] = &store.take_wanted()[..] else { panic!() };
    identity(default, &ca.spiffe("spiffe://td/a"));
    roots(rootca, &ca.pem);
    store.refresh();
    let [first, second] = [0, 1].map(|i: usize| contexts[i].identity().unwrap());
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(store.certificates().len(), 2);
    drop(contexts);
    assert!(store.certificates().is_empty());
}

#[test]
fn a_revocation_list_and_a_staple_come_with_their_secrets() {
    let (store, ca) = (SecretStore::new(), Ca::new("ca"));
    let server = ServerTls::compile(downstream(mesh()), &store, "s").unwrap();
    let [default, rootca] = &store.take_wanted()[..] else { panic!() };
    let staple = DataSource { specifier: Some(Specifier::InlineBytes(b"response".to_vec())), ..DataSource::default() };
    let stapled = api::TlsCertificate { ocsp_staple: Some(staple), ..certificate(&ca.spiffe("spiffe://td/s")) };
    default.set(secret("default", api::secret::Type::TlsCertificate(stapled))).unwrap();
    roots(rootca, &ca.pem);
    store.refresh();
    let leaf = ca.spiffe("spiffe://td/a");
    let client = mesh_client(&leaf, &ca);
    let (_, connection) = handshake(&client, &server).unwrap();
    assert_eq!(session_of_server(&connection, &server).local.unwrap().uri_sans, ["spiffe://td/s"]);
    let raw = default.get().unwrap();
    let Some(api::secret::Type::TlsCertificate(certificate)) = &raw.r#type else { panic!() };
    let raw = super::super::identity::RawIdentity::read(certificate, "p", &mut Default::default()).unwrap();
    let parsed = default.identity(&raw, &rustls::crypto::aws_lc_rs::default_provider()).unwrap();
    assert_eq!(parsed.key.ocsp.as_deref(), Some(&b"response"[..]), "rustls staples it");

    let revoked = api::CertificateValidationContext { crl: inline(&ca.crl(&[&leaf], false)), ..trust(&ca) };
    rootca.set(secret("ROOTCA", api::secret::Type::ValidationContext(revoked))).unwrap();
    store.refresh();
    assert!(handshake(&client, &server).is_err());
}

#[test]
fn the_untyped_names_of_old_are_names_of_any_kind() {
    let (store, ca) = (SecretStore::new(), Ca::new("ca"));
    let wanted = |name: &str| waypost_xds::envoy::r#type::matcher::v3::StringMatcher {
        match_pattern: Some(waypost_xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern::Exact(name.into())),
        ignore_case: false,
    };
    #[allow(deprecated, reason = "istiod sends it still")]
    let default = api::CertificateValidationContext {
        match_subject_alt_names: vec![wanted("spiffe://td/a"), wanted("a.example")],
        ..Default::default()
    };
    // `credentialName` of a DestinationRule with the certificates of the system: the agent serves the name over the same service.
    let combined = CombinedCertificateValidationContext {
        default_validation_context: Some(default),
        validation_context_sds_secret_config: Some(sds("file-root:system", grpc("sds-grpc"))),
        ..Default::default()
    };
    let context = api::CommonTlsContext {
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
        ..common(&[], None)
    };
    let client = ClientTls::compile(upstream(context), &store, "c").unwrap();
    let [system] = &store.take_wanted()[..] else { panic!() };
    assert_eq!((system.name(), system.initial_fetch_timeout()), ("file-root:system", Some(Duration::from_secs(15))));
    roots(system, &ca.pem);
    store.refresh();
    let shows = |leaf: &Leaf| handshake(&client, &server(common(&[leaf], None), false)).is_ok();
    assert!(shows(&ca.spiffe("spiffe://td/a")));
    assert!(shows(&ca.leaf(|p| p.subject_alt_names = vec![dns("a.example")])));
    assert!(!shows(&ca.spiffe("spiffe://td/b")));
}
