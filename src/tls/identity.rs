//! `TlsCertificate`: a chain with its key.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use waypost_filters::connection::CertificateInfo;
use waypost_xds::envoy::config::core::v3::{DataSource, data_source::Specifier};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::{PrivateKeyProvider, TlsCertificate};

use super::info;
use super::source::{self, Content, INLINE, Watch, watched};
use crate::config::{ConfigError, refuse};

/// The contents of a certificate's files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RawIdentity {
    path: String,
    chain: Content,
    key: Content,
    ocsp: Option<Content>,
}

impl std::fmt::Debug for RawIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the key.
        f.debug_struct("RawIdentity").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A certificate that can be shown.
#[derive(Debug)]
pub(super) struct Identity {
    pub key: Arc<CertifiedKey>,
    pub info: Arc<CertificateInfo>,
    /// What a server name must be to select it: DNS names, or the common name where there are none.
    pub names: Vec<String>,
    /// Where the chain came from, for `/certs`.
    pub origin: String,
}

/// Whose `private_key_provider` a control plane may ask for; neither is there.
const PROVIDERS: [&str; 2] = ["cryptomb", "qat"];

/// A provider that is known to be missing lets `private_key` be used where its `fallback` says so, as Envoy does on a machine without the
/// hardware.
fn provider(provider: Option<&PrivateKeyProvider>, path: &str) -> Result<(), ConfigError> {
    let Some(PrivateKeyProvider { provider_name, fallback, config_type: _ }) = provider else { return Ok(()) };
    if *fallback && PROVIDERS.contains(&provider_name.as_str()) {
        return Ok(());
    }
    let path = format!("{path}.private_key_provider");
    Err(ConfigError::new(path, format!("Failed to load private key provider: {provider_name}")))
}

impl RawIdentity {
    /// Whether it is the same certificate, wherever it is used.
    pub fn same(&self, other: &RawIdentity) -> bool {
        self.chain == other.chain && self.key == other.key && self.ocsp == other.ocsp
    }

    pub fn read(certificate: &TlsCertificate, path: &str, watch: &mut Watch) -> Result<RawIdentity, ConfigError> {
        let TlsCertificate {
            certificate_chain,
            private_key,
            pkcs12,
            watched_directory,
            private_key_provider,
            password,
            ocsp_staple,
            signed_certificate_timestamp,
            tls_params,
        } = certificate;
        refuse(pkcs12, path, "pkcs12")?;
        provider(private_key_provider.as_ref(), path)?;
        refuse(password, path, "password")?;
        refuse(signed_certificate_timestamp, path, "signed_certificate_timestamp")?;
        refuse(tls_params, path, "tls_params")?;
        watched(watched_directory.as_ref());
        let mut optional = |source: Option<&DataSource>, field: &str| {
            source::read_or_empty(source, &format!("{path}.{field}"), watch).map(|c| c.unwrap_or_default())
        };
        let chain = optional(certificate_chain.as_ref(), "certificate_chain")?;
        let key = optional(private_key.as_ref(), "private_key")?;
        // Envoy says where they were to come from: a file, or nothing for inline data.
        let file = |c: &Content| if c.origin == INLINE { String::new() } else { c.origin.clone() };
        if key.bytes.is_empty() {
            let reason = format!("Failed to load incomplete private key from path: {}", file(&key));
            return Err(ConfigError::new(format!("{path}.private_key"), reason));
        }
        if chain.bytes.is_empty() {
            let reason =
                format!("Failed to load incomplete certificate from {}: certificate chain not set", file(&chain));
            return Err(ConfigError::new(format!("{path}.certificate_chain"), reason));
        }
        if let Some(DataSource { specifier: Some(Specifier::InlineString(_)), watched_directory: _ }) = ocsp_staple {
            let path = format!("{path}.ocsp_staple");
            return Err(ConfigError::new(path, "OCSP staple cannot be provided via inline_string"));
        }
        let ocsp = source::read(ocsp_staple.as_ref(), &format!("{path}.ocsp_staple"), watch)?;
        Ok(RawIdentity { path: path.to_owned(), chain, key, ocsp })
    }

    pub fn parse(&self, provider: &CryptoProvider) -> Result<Arc<Identity>, ConfigError> {
        let failed = |field: &str, what: &str, content: &Content, e: &dyn std::fmt::Display| {
            ConfigError::new(
                format!("{}.{field}", self.path),
                format!("Failed to load {what} from {}: {e}", content.origin),
            )
        };
        let in_chain = |e: &dyn std::fmt::Display| failed("certificate_chain", "certificate chain", &self.chain, e);
        let in_key = |e: &dyn std::fmt::Display| {
            let reason = format!("Failed to load private key from {}, Cause: {e}", self.key.origin);
            ConfigError::new(format!("{}.private_key", self.path), reason)
        };

        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.chain.bytes)
            .map(|der| der.map(CertificateDer::into_owned))
            .collect::<Result<_, _>>()
            .map_err(|e| in_chain(&e))?;
        if chain.is_empty() {
            return Err(in_chain(&"no certificate found"));
        }
        let info = info::certificate_info(&chain).ok_or_else(|| in_chain(&"not a certificate"))?;
        let names = if info.dns_sans.is_empty() {
            info::common_name(&chain).into_iter().collect()
        } else {
            info.dns_sans.clone()
        };
        let key = PrivateKeyDer::from_pem_slice(&self.key.bytes).map_err(|e| match e {
            pem::Error::NoItemsFound => in_key(&"error:0900006e:PEM routines:OPENSSL_internal:NO_START_LINE"),
            e => in_key(&e),
        })?;
        let key = provider.key_provider.load_private_key(key).map_err(|e| in_key(&e))?;
        let mut certified = CertifiedKey::new(chain, key);
        certified.ocsp = self.ocsp.as_ref().map(|c| c.bytes.clone());
        match certified.keys_match() {
            // A key that cannot tell its public half may fit.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                let reason = "error:0b000074:X.509 certificate routines:OPENSSL_internal:KEY_VALUES_MISMATCH";
                return Err(in_key(&reason));
            }
            Err(e) => return Err(in_key(&e)),
        }
        let names = names.iter().map(|n| n.to_ascii_lowercase()).collect();
        Ok(Arc::new(Identity {
            key: Arc::new(certified),
            info: Arc::new(info),
            names,
            origin: self.chain.origin.clone(),
        }))
    }
}
