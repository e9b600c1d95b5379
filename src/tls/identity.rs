//! `TlsCertificate`: a chain with its key.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use waypost_filters::connection::CertificateInfo;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::TlsCertificate;

use super::info;
use super::source::{self, Content, Watch, watched};
use crate::config::{ConfigError, refuse};

/// The contents of a certificate's files.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RawIdentity {
    path: String,
    chain: Content,
    key: Content,
    ocsp: Option<Content>,
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

impl RawIdentity {
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
        refuse(private_key_provider, path, "private_key_provider")?;
        refuse(password, path, "password")?;
        refuse(signed_certificate_timestamp, path, "signed_certificate_timestamp")?;
        refuse(tls_params, path, "tls_params")?;
        watched(watched_directory.as_ref());
        let mut required = |source, field: &str| {
            let path = format!("{path}.{field}");
            source::read(source, &path, watch)?.ok_or_else(|| ConfigError::new(path, "must be given"))
        };
        let chain = required(certificate_chain.as_ref(), "certificate_chain")?;
        let key = required(private_key.as_ref(), "private_key")?;
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
        let in_key = |e: &dyn std::fmt::Display| failed("private_key", "private key", &self.key, e);

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
        let key = PrivateKeyDer::from_pem_slice(&self.key.bytes).map_err(|e| in_key(&e))?;
        let key = provider.key_provider.load_private_key(key).map_err(|e| in_key(&e))?;
        let mut certified = CertifiedKey::new(chain, key);
        certified.ocsp = self.ocsp.as_ref().map(|c| c.bytes.clone());
        match certified.keys_match() {
            // A key that cannot tell its public half may fit.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
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
