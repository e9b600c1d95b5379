//! `TlsParameters`: versions, cipher suites and groups.

use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::version::{TLS12, TLS13};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::{TlsParameters, tls_parameters::TlsProtocol};

use super::names;
use crate::config::{ConfigError, refuse};

/// Which side of the handshake a context is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Server,
    Client,
}

/// The parameters as rustls takes them.
#[derive(Clone)]
pub(super) struct Params {
    pub provider: Arc<CryptoProvider>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
}

impl Params {
    pub fn compile(params: Option<&TlsParameters>, side: Side, path: &str) -> Result<Params, ConfigError> {
        let default = TlsParameters::default();
        let path = &format!("{path}.tls_params");
        let TlsParameters {
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            cipher_suites,
            ecdh_curves,
            signature_algorithms,
            compliance_policies,
        } = params.unwrap_or(&default);
        refuse(signature_algorithms, path, "signature_algorithms")?;
        refuse(compliance_policies, path, "compliance_policies")?;
        let minimum = protocol(*tls_minimum_protocol_version, &format!("{path}.tls_minimum_protocol_version"))?;
        let maximum = protocol(*tls_maximum_protocol_version, &format!("{path}.tls_maximum_protocol_version"))?;
        let minimum = match minimum {
            TlsProtocol::TlsAuto => TlsProtocol::TlSv12,
            TlsProtocol::TlSv10 | TlsProtocol::TlSv11 => {
                tracing::warn!("{path}.tls_minimum_protocol_version: TLS before 1.2 is not spoken, 1.2 is the minimum");
                TlsProtocol::TlSv12
            }
            given => given,
        };
        // Envoy's defaults: a client stays at 1.2 unless it is told otherwise.
        let maximum = match (maximum, side) {
            (TlsProtocol::TlsAuto, Side::Server) => TlsProtocol::TlSv13,
            (TlsProtocol::TlsAuto, Side::Client) => minimum.max(TlsProtocol::TlSv12),
            (given, _) => given,
        };
        let versions: Vec<_> = [(TlsProtocol::TlSv13, &TLS13), (TlsProtocol::TlSv12, &TLS12)]
            .into_iter()
            .filter(|(v, _)| (minimum..=maximum).contains(v))
            .map(|(_, v)| v)
            .collect();
        if versions.is_empty() {
            return Err(ConfigError::new(path, "no protocol version is left: TLS 1.2 and 1.3 are spoken"));
        }
        let tls12 = ciphers(cipher_suites, &format!("{path}.cipher_suites"))?;
        let provider = CryptoProvider {
            cipher_suites: names::TLS13.iter().map(|(_, s)| *s).chain(tls12).collect(),
            kx_groups: groups(ecdh_curves, &format!("{path}.ecdh_curves"))?,
            ..aws_lc_rs::default_provider()
        };
        Ok(Params { provider: Arc::new(provider), versions })
    }

    pub fn has_tls12(&self) -> bool {
        self.versions.contains(&&TLS12)
    }
}

fn protocol(value: i32, path: &str) -> Result<TlsProtocol, ConfigError> {
    TlsProtocol::try_from(value).map_err(|_| ConfigError::new(path, format!("unknown protocol version {value}")))
}

/// Names, each a suite or a group `[a|b]` of equal preference, which here has the preference it is written in.
fn ciphers(names: &[String], path: &str) -> Result<Vec<rustls::SupportedCipherSuite>, ConfigError> {
    let mut suites = Vec::new();
    let items = names.iter().flat_map(|n| n.split(':')).flat_map(|n| n.trim_matches(['[', ']']).split('|'));
    for name in items {
        match names::TLS12.iter().find(|(n, _)| *n == name) {
            Some((_, suite)) => suites.push(*suite),
            None if names::LEFT_OUT.contains(&name) => {
                tracing::warn!("{path}: {name} is left out: it is not supported")
            }
            None => return Err(ConfigError::new(path, format!("unknown cipher {name}"))),
        }
    }
    match (names.is_empty(), suites.is_empty()) {
        (true, _) => Ok(names::TLS12.iter().map(|(_, s)| *s).collect()),
        (false, true) => Err(ConfigError::new(path, "none of the cipher suites is supported")),
        (false, false) => Ok(suites),
    }
}

fn groups(names: &[String], path: &str) -> Result<Vec<&'static dyn SupportedKxGroup>, ConfigError> {
    // Envoy's default.
    let default = ["X25519".to_owned(), "P-256".to_owned()];
    let mut groups = Vec::new();
    for name in if names.is_empty() { &default[..] } else { names } {
        match names::GROUPS.iter().find(|(n, ..)| n == name) {
            Some((_, _, group)) => groups.push(*group),
            None if name == "P-521" => tracing::warn!("{path}: P-521 is left out: it is not supported"),
            None => return Err(ConfigError::new(path, format!("unknown ECDH curve {name}"))),
        }
    }
    if groups.is_empty() { Err(ConfigError::new(path, "none of the curves is supported")) } else { Ok(groups) }
}
