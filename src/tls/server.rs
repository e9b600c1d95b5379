//! `DownstreamTlsContext`: the server side of a handshake.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, ServerSessionMemoryCache,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CipherSuite, ServerConfig, SignatureAlgorithm, SignatureScheme, SupportedCipherSuite};
use waypost_filters::connection::CertificateInfo;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::{
    OcspStaplePolicy, SessionTicketKeysType,
};

use super::cache::Context;
use super::certs::ContextCertificates;
use super::context::{Common, Live, Material};
use super::identity::Identity;
use super::params::Side;
use super::san;
use super::secrets::SecretStore;
use super::stats::TlsStats;
use super::verify::{Usage, Verifier};
use crate::config::{ConfigError, refuse};

/// TLS 1.2 sessions that a context remembers by id.
const SESSIONS: usize = 1024;

/// A compiled `DownstreamTlsContext`.
pub struct ServerTls {
    options: Options,
    live: Live<Serving>,
}

/// What the context says beside its common part.
struct Options {
    require_client_certificate: bool,
    /// Whether all certificates are looked at when none has the server's name; else the first one is taken.
    full_scan: bool,
    prefer_client_ciphers: bool,
    /// `disable_stateless_session_resumption`.
    tickets: bool,
    /// `disable_stateful_session_resumption`, which is about TLS 1.2 only.
    sessions: bool,
    /// `session_timeout` in seconds.
    timeout: Option<u32>,
}

/// The context with its secrets of the moment.
struct Serving {
    config: Arc<ServerConfig>,
    /// The same with the client's preference among cipher suites.
    client_order: Arc<ServerConfig>,
    /// Both without ALPN; none where there is none anyway.
    without_alpn: Option<(Arc<ServerConfig>, Arc<ServerConfig>)>,
    verifier: Arc<Verifier>,
    certificates: Arc<Certificates>,
    material: Material,
}

impl ServerTls {
    /// Compiles a context, or finds the same one in use already: then `path` is that of the first. Secrets that are not there yet are no error: then it is not [ready](ServerTls::ready).
    pub fn compile(
        context: DownstreamTlsContext,
        secrets: &SecretStore,
        path: &str,
    ) -> Result<Arc<ServerTls>, ConfigError> {
        let key = context.encode_to_vec();
        let known = secrets.contexts().server(&key);
        if let Some(known) = known {
            known.live.common.name_slots(secrets);
            return Ok(known);
        }
        let DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            disable_stateful_session_resumption,
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = context;
        // Envoy has not implemented it either, but takes it in silence.
        refuse(&require_sni.is_some_and(|v| v.value), path, "require_sni")?;
        if ocsp_staple_policy != OcspStaplePolicy::LenientStapling as i32 {
            return Err(ConfigError::unsupported(format!("{path}.ocsp_staple_policy")));
        }
        let tickets = match session_ticket_keys_type {
            None => true,
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(disable)) => !disable,
            Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
                return Err(ConfigError::unsupported(format!("{path}.session_ticket_keys")));
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
                return Err(ConfigError::unsupported(format!("{path}.session_ticket_keys_sds_secret_config")));
            }
        };
        let timeout = session_timeout
            .map(|t| {
                u32::try_from(t.seconds)
                    .map_err(|_| ConfigError::new(format!("{path}.session_timeout"), "out of range"))
            })
            .transpose()?;
        let options = Options {
            require_client_certificate: require_client_certificate.is_some_and(|v| v.value),
            full_scan: full_scan_certs_on_sni_mismatch.is_some_and(|v| v.value),
            prefer_client_ciphers,
            tickets,
            sessions: !disable_stateful_session_resumption,
            timeout,
        };
        let common = Common::compile(common_tls_context, Side::Server, secrets, path)?;
        if common.certificates() == 0 {
            return Err(ConfigError::new(common.path, "No TLS certificates found for server context"));
        }
        let live = Live::start(common, |common, material| Serving::build(&options, common, material))?;
        let tls = Arc::new(ServerTls { options, live });
        secrets.contexts().add_server(key, &tls);
        Ok(tls)
    }

    /// The context for people: secrets, what is expected of the client, ALPN.
    pub fn describe(&self) -> String {
        let mut parts = self.live.common.describe();
        if self.options.require_client_certificate {
            parts.push("requires a client certificate".to_owned());
        }
        parts.join("; ")
    }

    /// Whether a client needs a certificate.
    pub fn requires_certificate(&self) -> bool {
        self.options.require_client_certificate
    }

    /// Whether a client of this URI is refused for it, as far as the context itself says.
    pub fn refuses_uri(&self, uri: &str) -> bool {
        self.live.common.refuses_uri(uri)
    }

    /// Counts this context's updates in `ssl_context_update_by_sds`, as long as the statistics are held.
    pub fn follow(&self, stats: &TlsStats) {
        self.live.follow(stats.factory());
    }

    /// Whether nobody need wait for its secrets any more: each is there, was refused, or did not come in time.
    pub fn settled(&self) -> bool {
        self.live.common.settled()
    }

    /// Whether all secrets are there.
    pub fn ready(&self) -> bool {
        self.live.current.load().is_some()
    }

    /// What to accept connections with; none while a secret is missing: then connections are closed.
    pub fn config(&self) -> Option<Arc<ServerConfig>> {
        self.live.current.load().as_ref().map(|s| s.config.clone())
    }

    /// The same for a client hello that has been read (`tokio_rustls::LazyConfigAcceptor`): where no protocol of the client's is ours, Envoy
    /// goes on without ALPN, and rustls alone would send an alert.
    pub fn config_for(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let current = self.live.current.load();
        let serving = current.as_ref()?;
        let shares =
            hello.alpn().is_none_or(|mut offered| offered.any(|p| self.live.common.alpn.iter().any(|ours| ours == p)));
        let (ours, theirs) = match &serving.without_alpn {
            Some((ours, theirs)) if !shares => (ours, theirs),
            _ => (&serving.config, &serving.client_order),
        };
        // BoringSSL takes the client's first AES suite in TLS 1.3, and decides itself in 1.2. A client that speaks 1.3 puts those suites
        // first; with AES-128 first, our own order says the same.
        let aes_256 = hello.cipher_suites().first() == Some(&CipherSuite::TLS13_AES_256_GCM_SHA384);
        let takes_theirs = aes_256 && self.live.common.params.versions.contains(&&TLS13);
        Some(if takes_theirs { theirs } else { ours }.clone())
    }

    /// The certificate that was shown to a client. Where two of different key types have the same name, TLS 1.3 does not tell which.
    pub(super) fn identity(
        &self,
        name: Option<&str>,
        suite: Option<SupportedCipherSuite>,
    ) -> Option<Arc<CertificateInfo>> {
        let current = self.live.current.load();
        let schemes = match suite {
            Some(SupportedCipherSuite::Tls12(suite)) => Some(suite.sign),
            _ => None,
        };
        let fits = |key: &CertifiedKey| schemes.is_none_or(|s| key.key.choose_scheme(s).is_some());
        current.as_ref()?.certificates.choose(name, fits).map(|i| i.info.clone())
    }

    pub(super) fn validates(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        self.live.current.load().as_ref().is_some_and(|s| s.verifier.validates(chain, Usage::Client, now))
    }
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls")
            .field("path", &self.live.common.path)
            .field("ready", &self.ready())
            .finish_non_exhaustive()
    }
}

impl Context for ServerTls {
    fn refresh(&self, files: bool) {
        self.live.refresh(files, |common, material| Serving::build(&self.options, common, material));
    }

    fn certificates(&self) -> ContextCertificates {
        self.live.current.load().as_ref().map(|s| s.material.details()).unwrap_or_default()
    }
}

impl Serving {
    fn build(options: &Options, common: &Common, material: Material) -> Result<Serving, ConfigError> {
        let failed = |e: rustls::Error| ConfigError::new(common.path.clone(), e.to_string());
        let verifier = Arc::new(Verifier {
            validation: material.validation.clone(),
            algorithms: common.params.provider.signature_verification_algorithms,
            require: options.require_client_certificate,
            match_server_name: false,
        });
        let certificates = Arc::new(Certificates { all: material.identities.clone(), full_scan: options.full_scan });
        let mut config = ServerConfig::builder_with_provider(common.params.provider.clone())
            .with_protocol_versions(&common.params.versions)
            .map_err(failed)?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(certificates.clone());
        config.alpn_protocols = common.alpn.clone();
        // rustls has one switch for all versions: `config_for` takes the client's order where BoringSSL would.
        config.ignore_client_order = common.params.has_tls12() && !options.prefer_client_ciphers;
        // Keys for tickets are made anew with every configuration: a session that was verified by other secrets is not resumed.
        if options.tickets {
            let inner = Ticketer::new().map_err(failed)?;
            config.ticketer = match options.timeout {
                Some(lifetime) => Arc::new(Timed { inner, lifetime }),
                None => inner,
            };
        } else {
            config.send_tls13_tickets = 0;
        }
        let remembers = options.sessions && common.params.has_tls12();
        config.session_storage =
            if remembers { ServerSessionMemoryCache::new(SESSIONS) } else { Arc::new(NoServerSessionStorage {}) };
        let without_alpn = (!config.alpn_protocols.is_empty()).then(|| {
            let mut config = config.clone();
            config.alpn_protocols = Vec::new();
            both_orders(config)
        });
        let (config, client_order) = both_orders(config);
        Ok(Serving { config, client_order, without_alpn, verifier, certificates, material })
    }
}

/// A configuration as it is, and with the client's preference among cipher suites.
fn both_orders(config: ServerConfig) -> (Arc<ServerConfig>, Arc<ServerConfig>) {
    let mut theirs = config.clone();
    theirs.ignore_client_order = false;
    (Arc::new(config), Arc::new(theirs))
}

/// The server's certificates, selected as Envoy's default selector does.
#[derive(Debug)]
struct Certificates {
    all: Vec<Arc<Identity>>,
    full_scan: bool,
}

impl Certificates {
    /// By exact name, then by wildcard; then, if asked to, any; else the first. Of several the first that fits the client.
    fn choose(&self, name: Option<&str>, fits: impl Fn(&CertifiedKey) -> bool) -> Option<&Arc<Identity>> {
        let first = self.all.first()?;
        if self.all.len() == 1 {
            return Some(first);
        }
        let usable = |i: &&Arc<Identity>| fits(&i.key);
        let named = |matches: &dyn Fn(&str) -> bool| {
            let mut with_name = self.all.iter().filter(|i| i.names.iter().any(|n| matches(n)));
            let first = with_name.clone().next()?;
            Some(with_name.find(usable).unwrap_or(first))
        };
        let by_name = name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            named(&|n| n == name).or_else(|| named(&|n| n.starts_with("*.") && san::dns_matches(&name, n)))
        });
        let any = || if self.full_scan { self.all.iter().find(usable) } else { None };
        Some(by_name.or_else(any).unwrap_or(first))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes: &[SignatureScheme] = hello.signature_schemes();
        // Envoy prefers an ECDSA certificate for a client that can take one, in whatever order they stand.
        let ecdsa = |key: &CertifiedKey| {
            key.key.algorithm() == SignatureAlgorithm::ECDSA && key.key.choose_scheme(schemes).is_some()
        };
        let any = |key: &CertifiedKey| key.key.choose_scheme(schemes).is_some();
        let name = hello.server_name();
        let best = self.choose(name, ecdsa).filter(|i| ecdsa(&i.key)).or_else(|| self.choose(name, any))?;
        Some(best.key.clone())
    }
}

/// Tickets that are good for `session_timeout` only.
#[derive(Debug)]
struct Timed {
    inner: Arc<dyn ProducesTickets>,
    lifetime: u32,
}

impl ProducesTickets for Timed {
    fn enabled(&self) -> bool {
        self.inner.enabled() && self.lifetime > 0
    }

    fn lifetime(&self) -> u32 {
        self.lifetime.min(self.inner.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(&[&seconds().to_be_bytes(), plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.inner.decrypt(cipher)?;
        let (made, plain) = plain.split_first_chunk::<8>()?;
        let age = seconds().saturating_sub(u64::from_be_bytes(*made));
        (age <= self.lifetime.into()).then(|| plain.to_vec())
    }
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
