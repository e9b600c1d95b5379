//! `UpstreamTlsContext`: the client side of a handshake.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use prost::Message;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use waypost_filters::connection::CertificateInfo;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;

use super::cache::Context;
use super::certs::ContextCertificates;
use super::context::{Common, Live, Material};
use super::params::Side;
use super::secrets::SecretStore;
use super::stats::TlsStats;
use super::verify::{Usage, Verifier};
use crate::config::ConfigError;

/// Server names whose sessions a context without `sni` remembers.
const SHARED_SESSIONS: usize = 64;

/// A compiled `UpstreamTlsContext`.
pub struct ClientTls {
    options: Options,
    live: Live<Connecting>,
}

struct Options {
    /// `sni`, if there is one.
    sni: Option<ServerName<'static>>,
    auto_host_sni: bool,
    auto_sni_san_validation: bool,
    /// `max_session_keys`.
    sessions: usize,
}

/// The context with its secrets of the moment.
struct Connecting {
    /// Sends the server's name.
    named: Arc<ClientConfig>,
    /// Sends it and looks for it in the certificate.
    matched: Arc<ClientConfig>,
    /// Sends none.
    nameless: Arc<ClientConfig>,
    verifier: Arc<Verifier>,
    material: Material,
}

/// What one upstream connection asks for beside the context.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    /// The server name that `auto_sni`, filter state (`envoy.network.upstream_server_name`) or so gives; goes before the context's.
    pub sni: Option<&'a str>,
    /// The host name of the endpoint, for `auto_host_sni`.
    pub host: Option<&'a str>,
    /// `auto_san_validation`: the certificate must be for the server name.
    pub match_san: bool,
    /// ALPN protocols in place of the context's (filter state, or the cluster's HTTP protocol where the context has none).
    pub alpn: Option<&'a [Vec<u8>]>,
}

impl ClientTls {
    /// Compiles a context, or finds the same one in use already: then `path` is that of the first. Secrets that are not there yet are no error: then it is not [ready](ClientTls::ready).
    pub fn compile(
        context: UpstreamTlsContext,
        secrets: &SecretStore,
        path: &str,
    ) -> Result<Arc<ClientTls>, ConfigError> {
        let key = context.encode_to_vec();
        let known = secrets.contexts().client(&key);
        if let Some(known) = known {
            known.live.common.name_slots(secrets);
            return Ok(known);
        }
        #[allow(deprecated, reason = "enforce_rsa_key_usage is ignored by Envoy too")]
        let UpstreamTlsContext {
            common_tls_context,
            sni,
            auto_host_sni,
            auto_sni_san_validation,
            allow_renegotiation,
            max_session_keys,
            enforce_rsa_key_usage: _,
        } = context;
        if allow_renegotiation {
            // It is allowed, not asked for: a server that wants it will see the connection end, as with TLS 1.3.
            tracing::warn!("{path}.allow_renegotiation: ignored, renegotiation is not supported");
        }
        let sni = match sni.as_str() {
            "" => None,
            name => Some(
                server_name(name)
                    .ok_or_else(|| ConfigError::new(format!("{path}.sni"), format!("not a server name: {name}")))?,
            ),
        };
        let options = Options {
            auto_host_sni,
            auto_sni_san_validation,
            // Envoy's default is one session of each cluster. Here clusters with the same context share it: where names are theirs and
            // not the context's, there is room for some.
            sessions: max_session_keys.map_or(if sni.is_some() { 1 } else { SHARED_SESSIONS }, |v| v.value as usize),
            sni,
        };
        let common = Common::compile(common_tls_context, Side::Client, secrets, path)?;
        if common.certificates() > 1 {
            return Err(ConfigError::new(
                common.path,
                "Multiple TLS certificates are not supported for client contexts",
            ));
        }
        let live = Live::start(common, |common, material| Connecting::build(&options, common, material))?;
        let tls = Arc::new(ClientTls { options, live });
        secrets.contexts().add_client(key, &tls);
        Ok(tls)
    }

    /// The context for people: server name, secrets, what is expected of the server, ALPN.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        if let Some(name) = &self.options.sni {
            parts.push(format!("SNI {}", name.to_str()));
        }
        parts.extend(self.live.common.describe());
        parts.join("; ")
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

    /// Whether the context itself lists ALPN protocols.
    pub fn has_alpn(&self) -> bool {
        !self.live.common.alpn.is_empty()
    }

    /// What to connect with by the context alone.
    pub fn config(&self) -> Option<Arc<ClientConfig>> {
        self.connect(Target::default()).map(|(config, _)| config)
    }

    /// The context's server name, or a stand-in that rustls wants and is not sent.
    pub fn server_name(&self) -> ServerName<'static> {
        self.options.sni.clone().unwrap_or_else(nameless)
    }

    /// What to connect with, and the name to give to rustls. None while a secret is missing.
    pub fn connect(&self, target: Target<'_>) -> Option<(Arc<ClientConfig>, ServerName<'static>)> {
        let current = self.live.current.load();
        let connecting = current.as_ref()?;
        let host = || target.host.filter(|_| self.options.auto_host_sni).and_then(server_name);
        let given = target.sni.and_then(server_name).or_else(|| self.options.sni.clone()).or_else(host);
        let matches = target.match_san || self.options.auto_sni_san_validation;
        let (config, name) = match given {
            Some(name) if matches => (&connecting.matched, name),
            Some(name) => (&connecting.named, name),
            None => (&connecting.nameless, nameless()),
        };
        let config = match target.alpn {
            Some(alpn) if *alpn != config.alpn_protocols => {
                let mut config = ClientConfig::clone(config);
                config.alpn_protocols = alpn.to_vec();
                Arc::new(config)
            }
            _ => config.clone(),
        };
        Some((config, name))
    }

    pub(super) fn identity(&self) -> Option<Arc<CertificateInfo>> {
        self.live.current.load().as_ref()?.material.identities.first().map(|i| i.info.clone())
    }

    pub(super) fn validates(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        self.live.current.load().as_ref().is_some_and(|c| c.verifier.validates(chain, Usage::Server, now))
    }
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls")
            .field("path", &self.live.common.path)
            .field("ready", &self.ready())
            .finish_non_exhaustive()
    }
}

impl Context for ClientTls {
    fn refresh(&self, files: bool) {
        self.live.refresh(files, |common, material| Connecting::build(&self.options, common, material));
    }

    fn certificates(&self) -> ContextCertificates {
        self.live.current.load().as_ref().map(|c| c.material.details()).unwrap_or_default()
    }
}

/// A stand-in: rustls wants a name for every connection, and does not send one that is an address.
fn nameless() -> ServerName<'static> {
    ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// A host name, or the address that it is.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    match name.parse::<IpAddr>() {
        Ok(ip) => Some(ServerName::from(ip)),
        Err(_) => DnsName::try_from(name.to_owned()).ok().map(ServerName::DnsName),
    }
}

impl Connecting {
    fn build(options: &Options, common: &Common, material: Material) -> Result<Connecting, ConfigError> {
        let verifier = |match_server_name| {
            Arc::new(Verifier {
                validation: material.validation.clone(),
                algorithms: common.params.provider.signature_verification_algorithms,
                require: false,
                match_server_name,
            })
        };
        let config = |verifier: Arc<Verifier>, enable_sni: bool| -> Result<Arc<ClientConfig>, ConfigError> {
            let builder = ClientConfig::builder_with_provider(common.params.provider.clone())
                .with_protocol_versions(&common.params.versions)
                .map_err(|e| ConfigError::new(common.path.clone(), e.to_string()))?
                .dangerous()
                .with_custom_certificate_verifier(verifier);
            let mut config = match material.identities.first() {
                Some(identity) => builder
                    .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.key.clone()))),
                None => builder.with_no_client_auth(),
            };
            config.alpn_protocols = common.alpn.clone();
            config.enable_sni = enable_sni;
            // Sessions are kept by server name. Without one, hosts that have nothing in common but the context would share them.
            config.resumption = match options.sessions {
                n if n > 0 && enable_sni => Resumption::in_memory_sessions(n),
                _ => Resumption::disabled(),
            };
            Ok(Arc::new(config))
        };
        let plain = verifier(false);
        Ok(Connecting {
            named: config(plain.clone(), true)?,
            matched: config(verifier(true), true)?,
            nameless: config(plain.clone(), false)?,
            verifier: plain,
            material,
        })
    }
}
