//! TLS as ztunnel does it: 1.3 only, AES-GCM, ALPN h2, no SNI, no resumption, both sides known by their SPIFFE identity.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::Error;

/// A certificate chain with its key, and the roots that peers chain to.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// Reads three PEM files.
    pub fn load(cert: &Path, key: &Path, ca: &Path) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for root in certificates(ca)? {
            roots.add(root).map_err(|e| pem(ca, e))?;
        }
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|s| {
            matches!(s.suite(), CipherSuite::TLS13_AES_256_GCM_SHA384 | CipherSuite::TLS13_AES_128_GCM_SHA256)
        });
        Ok(Self {
            chain: certificates(cert)?,
            key: PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| pem(key, e))?,
            roots: Arc::new(roots),
            provider: Arc::new(provider),
        })
    }

    /// The side that opens the connection; the peer must chain to a root, and carry the URI `san` where one is given.
    pub fn client(&self, san: Option<&str>) -> Result<Arc<ClientConfig>, Error> {
        let verifier =
            SpiffeVerifier { roots: self.roots.clone(), provider: self.provider.clone(), san: san.map(str::to_owned) };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// The side that accepts; the peer must show a certificate that chains to a root.
    pub fn server(&self) -> Result<Arc<ServerConfig>, Error> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
            .build()
            .map_err(tls)?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(tls)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Vec<_> =
        CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<_, _>>().map_err(|e| pem(path, e))?;
    if all.is_empty() { Err(pem(path, "no certificate in it")) } else { Ok(all) }
}

fn pem(path: &Path, reason: impl ToString) -> Error {
    Error::Pem { path: PathBuf::from(path), reason: reason.to_string() }
}

fn tls(e: impl ToString) -> Error {
    Error::Tls(e.to_string())
}

/// Chain and URI SAN are verified, names are not: a workload's certificate holds no host name.
#[derive(Debug)]
struct SpiffeVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
    san: Option<String>,
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        match &self.san {
            Some(san) if !uri_sans(end_entity)?.iter().any(|s| s == san) => {
                Err(CertificateError::NotValidForName.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn uri_sans(cert: &CertificateDer<'_>) -> Result<Vec<String>, rustls::Error> {
    let bad = |_| rustls::Error::from(CertificateError::BadEncoding);
    let (_, parsed) = X509Certificate::from_der(cert).map_err(|_| bad(()))?;
    let extension = parsed.subject_alternative_name().map_err(|_| bad(()))?;
    let names = extension.map(|e| e.value.general_names.as_slice()).unwrap_or_default();
    Ok(names.iter().filter_map(|n| if let GeneralName::URI(u) = n { Some((*u).to_owned()) } else { None }).collect())
}
