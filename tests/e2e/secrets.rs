//! Certificates that change on disk while they are used.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use rustls::pki_types::CertificateDer;

use crate::rig::{Backend, Ca, Config, Dir, Pair, Proxy, TO_A, Wire, cluster, hcm, tls_to, until};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// How the listener learns of its certificate.
enum Source {
    /// Files that the bootstrap names, their folder watched.
    Files,
    /// An SDS file that names them.
    SdsNamingFiles,
    /// An SDS file that holds them.
    SdsInline,
}

struct Rotation {
    dir: Dir,
    ca: Ca,
    source: Source,
}

impl Rotation {
    fn new(source: Source) -> Rotation {
        let rotation = Rotation { dir: Dir::new(), ca: Ca::new(), source };
        rotation.put(&rotation.ca.issue());
        rotation
    }

    fn files(&self) -> String {
        let at = |name| self.dir.join(name).display().to_string();
        format!(
            "certificate_chain: {{filename: \"{}\"}}, private_key: {{filename: \"{}\"}}, watched_directory: {{path: \"{}\"}}",
            at("cert.pem"),
            at("key.pem"),
            self.dir.path().display()
        )
    }

    /// Puts a certificate where it is read.
    fn put(&self, pair: &Pair) {
        let sds = |certificate: String| {
            format!("{{resources: [{{\"@type\": {TLS}.Secret, name: mine, tls_certificate: {{{certificate}}}}}]}}")
        };
        match self.source {
            Source::SdsInline => {
                let line = |pem: &str| pem.replace('\n', "\\n");
                let (cert, key) = (line(&pair.cert), line(&pair.key));
                let text = format!(
                    "certificate_chain: {{inline_string: \"{cert}\"}}, private_key: {{inline_string: \"{key}\"}}"
                );
                self.dir.write("sds.yaml", &format!("---\n{}", sds(text)));
            }
            Source::Files | Source::SdsNamingFiles => {
                self.dir.write("key.pem", &pair.key);
                self.dir.write("cert.pem", &pair.cert);
                self.dir.write("sds.yaml", &format!("---\n{}", sds(self.files())));
            }
        }
    }

    /// HTTPS on `main`, everything to the backend.
    async fn proxy(&self, backend: &Backend) -> Proxy {
        let certificate = match self.source {
            Source::Files => format!("tls_certificates: [{{{}}}]", self.files()),
            _ => format!(
                "tls_certificate_sds_secret_configs: [{{name: mine, sds_config: {{path_config_source: {{path: \"{}\"}}}}}}]",
                self.dir.join("sds.yaml").display()
            ),
        };
        let chain = format!(
            "{{filters: [{}], transport_socket: {{name: tls, typed_config: {{\"@type\": {TLS}.DownstreamTlsContext, \
             common_tls_context: {{{certificate}}}}}}}}}",
            hcm(TO_A, "")
        );
        Config::new().chain("main", &chain, "").cluster(cluster("a", backend, "")).start().await
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self, proxy: &Proxy) -> Option<CertificateDer<'static>> {
        let stream = tls_to(proxy.main(), &self.ca).await.ok()?;
        stream.get_ref().1.peer_certificates()?.first().cloned().map(|c| c.into_owned())
    }
}

async fn rotates(source: Source) {
    let rotation = Arc::new(Rotation::new(source));
    let proxy = Arc::new(rotation.proxy(&Backend::says("hello").await).await);
    let mut old = Wire::new(tls_to(proxy.main(), &rotation.ca).await.unwrap());
    assert_eq!(old.get("/").await.text(), "hello");

    // Somebody connects all the time.
    let (stop, made) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let crowd = tokio::spawn({
        let (proxy, rotation, stop, made) = (proxy.clone(), rotation.clone(), stop.clone(), made.clone());
        async move {
            while !stop.load(SeqCst) {
                let mut wire = Wire::new(tls_to(proxy.main(), &rotation.ca).await.expect("a handshake failed"));
                assert_eq!(wire.get("/").await.text(), "hello");
                made.fetch_add(1, SeqCst);
            }
        }
    });
    until("the crowd is there", || async { made.load(SeqCst) > 0 }).await;

    let fresh = rotation.ca.issue();
    rotation.put(&fresh);
    until("the new certificate is shown", || async { rotation.shown(&proxy).await == Some(fresh.der()) }).await;
    let after = made.load(SeqCst);
    until("the crowd goes on", || async { made.load(SeqCst) > after }).await;
    stop.store(true, SeqCst);
    crowd.await.unwrap();
    assert_eq!(old.get("/").await.text(), "hello", "the connection of before is served still");
}

#[tokio::test]
async fn certificate_files_are_replaced_without_a_failed_handshake() {
    rotates(Source::Files).await;
}

#[tokio::test]
async fn the_files_of_an_sds_file_are_replaced_without_a_failed_handshake() {
    rotates(Source::SdsNamingFiles).await;
}

#[tokio::test]
async fn an_sds_file_is_replaced_without_a_failed_handshake() {
    rotates(Source::SdsInline).await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_leaves_the_old_one() {
    for source in [Source::Files, Source::SdsNamingFiles, Source::SdsInline] {
        let rotation = Rotation::new(source);
        let proxy = rotation.proxy(&Backend::says("hello").await).await;
        let before = rotation.shown(&proxy).await.unwrap();

        rotation.put(&Pair { cert: "no certificate".into(), key: "no key".into() });
        until("it is complained about", || async { proxy.log().contains("[warning]") }).await;
        assert_eq!(rotation.shown(&proxy).await, Some(before), "{}", proxy.log());

        let fresh = rotation.ca.issue();
        rotation.put(&fresh);
        until("a good one is shown", || async { rotation.shown(&proxy).await == Some(fresh.der()) }).await;
    }
}

#[tokio::test]
async fn a_secret_that_comes_late_is_served_when_it_is_there() {
    let rotation = Rotation::new(Source::SdsInline);
    std::fs::remove_file(rotation.dir.join("sds.yaml")).unwrap();
    let proxy = rotation.proxy(&Backend::says("hello").await).await;
    assert!(rotation.shown(&proxy).await.is_none());

    let pair = rotation.ca.issue();
    rotation.put(&pair);

    until("the certificate is shown", || async { rotation.shown(&proxy).await == Some(pair.der()) }).await;
}
