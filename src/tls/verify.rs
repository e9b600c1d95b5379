//! The verifiers that rustls calls: chain, names and hashes of a peer's certificate, as Envoy's default validator checks them.
//!
//! Not the host name: a client checks what its context lists, and the server name only if it was asked to (`auto_san_validation`).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme};
use webpki::{
    EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::FromDer;

use super::san;
use super::validation::Validation;

/// Why a certificate whose chain is good was refused. Travels inside `CertificateError::Other`, as rustls has no such words.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// No SAN matcher matched; the names the certificate has.
    #[error("SAN matcher, certificate SANs are [{0}]")]
    San(String),
    /// Neither `verify_certificate_hash` nor `verify_certificate_spki` has it.
    #[error("cert hash and spki")]
    Hash,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

/// Verifies peers by a validation context; without one, any certificate will do.
pub(super) struct Verifier {
    pub validation: Option<Arc<Validation>>,
    pub algorithms: WebPkiSupportedAlgorithms,
    /// `require_client_certificate`.
    pub require: bool,
    /// Whether the server name must stand in the certificate.
    pub match_server_name: bool,
}

impl Verifier {
    /// Checks a chain; Ok with `ACCEPT_UNTRUSTED` whatever the result.
    fn check(&self, chain: Chain<'_>, server_name: Option<&str>) -> Result<(), Error> {
        let Some(validation) = &self.validation else {
            // Nothing to verify by, but the name alone may be asked for.
            return server_name.map_or(Ok(()), |name| names_server(chain.leaf, name));
        };
        match self.evaluate(validation, chain, server_name) {
            Err(_) if validation.accept_untrusted => Ok(()),
            result => result,
        }
    }

    fn evaluate(&self, validation: &Validation, chain: Chain<'_>, server_name: Option<&str>) -> Result<(), Error> {
        if !validation.roots.is_empty() {
            validation.verify_chain(&chain, self.algorithms)?;
        }
        if let Some(name) = server_name {
            names_server(chain.leaf, name)?;
        }
        validation.verify_leaf(chain.leaf)
    }

    /// Whether a client's chain is one that was verified and found good (`peer_validated`).
    pub fn validates(&self, certificates: &[CertificateDer<'_>], usage: Usage, now: UnixTime) -> bool {
        match (&self.validation, certificates.split_first()) {
            (Some(validation), Some((leaf, intermediates))) if validation.verifies() => {
                // What was not accepted blindly has passed the handshake.
                !validation.accept_untrusted
                    || self.evaluate(validation, Chain { leaf, intermediates, usage, now }, None).is_ok()
            }
            _ => false,
        }
    }
}

/// What the peer's certificate is used for; checked against its extended key usage if it has one.
#[derive(Clone, Copy)]
pub(super) enum Usage {
    Server,
    Client,
}

impl Usage {
    fn key_usage(self) -> KeyUsage {
        match self {
            Usage::Server => KeyUsage::server_auth(),
            Usage::Client => KeyUsage::client_auth(),
        }
    }
}

struct Chain<'a> {
    leaf: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    usage: Usage,
    now: UnixTime,
}

impl Validation {
    fn verify_chain(&self, chain: &Chain<'_>, algorithms: WebPkiSupportedAlgorithms) -> Result<(), Error> {
        let first = match self.verify_at(chain, algorithms, chain.now) {
            Err(e) if self.allow_expired && is_time(&e) => e,
            result => return result.map_err(rustls_error),
        };
        // webpki always looks at the time: with allow_expired_certificate any moment at which the whole chain was good will do. Such a
        // moment, if there is one, is the start of some certificate's validity.
        for der in std::iter::once(chain.leaf).chain(chain.intermediates) {
            let Ok((_, certificate)) = X509Certificate::from_der(der) else { continue };
            let start = u64::try_from(certificate.validity().not_before.timestamp()).unwrap_or_default();
            let moment = UnixTime::since_unix_epoch(std::time::Duration::from_secs(start));
            match self.verify_at(chain, algorithms, moment) {
                Err(e) if is_time(&e) => {}
                result => return result.map_err(rustls_error),
            }
        }
        Err(rustls_error(first))
    }

    fn verify_at(
        &self,
        chain: &Chain<'_>,
        algorithms: WebPkiSupportedAlgorithms,
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        // BoringSSL trusts a leaf that stands in the store (X509_V_FLAG_PARTIAL_CHAIN); webpki would refuse it as an unknown issuer or,
        // if it is self-signed, as a CA.
        if self.crls.is_empty()
            && let Some(root) = self.roots.iter().find(|r| r.der == *chain.leaf)
        {
            return root.is_valid_at(now, self.allow_expired);
        }
        let crls: Vec<_> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|builder| {
            builder
                .with_depth(if self.only_leaf_crl {
                    RevocationCheckDepth::EndEntity
                } else {
                    RevocationCheckDepth::Chain
                })
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let accept = |path: &webpki::VerifiedPath<'_>| {
            let depth = u32::try_from(path.intermediate_certificates().count()).unwrap_or(u32::MAX);
            if self.max_depth.is_some_and(|max| depth > max) {
                return Err(webpki::Error::MaximumPathDepthExceeded);
            }
            // webpki takes an anchor at any time, BoringSSL does not.
            match self.anchors.iter().zip(&self.roots).find(|(anchor, _)| *anchor == path.anchor()) {
                Some((_, root)) => root.is_valid_at(now, self.allow_expired),
                None => Ok(()),
            }
        };
        EndEntityCert::try_from(chain.leaf)?
            .verify_for_usage(
                algorithms.all,
                &self.anchors,
                chain.intermediates,
                now,
                chain.usage.key_usage(),
                revocation,
                Some(&accept),
            )
            .map(|_| ())
    }

    /// Names and hashes of the leaf.
    fn verify_leaf(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        if !self.needs_certificate() {
            return Ok(());
        }
        let certificate = parse(leaf)?;
        if !self.sans.is_empty() {
            let sans = san::names(&certificate);
            if !sans.iter().any(|s| self.sans.iter().any(|m| m.matches(s))) {
                return Err(refused(&sans));
            }
        }
        if self.hashes.is_empty() && self.spkis.is_empty() {
            return Ok(());
        }
        let among = |list: &[[u8; 32]], data: &[u8]| {
            let digest = digest::digest(&digest::SHA256, data);
            list.iter().any(|h| h == digest.as_ref())
        };
        if among(&self.hashes, leaf) || among(&self.spkis, certificate.public_key().raw) {
            Ok(())
        } else {
            Err(Refused::Hash.into())
        }
    }
}

impl super::validation::Root {
    fn is_valid_at(&self, now: UnixTime, allow_expired: bool) -> Result<(), webpki::Error> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let time =
            |t: i64| UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(t).unwrap_or_default()));
        if allow_expired || (self.not_before..=self.not_after).contains(&seconds) {
            Ok(())
        } else if seconds < self.not_before {
            Err(webpki::Error::CertNotValidYet { time: now, not_before: time(self.not_before) })
        } else {
            Err(webpki::Error::CertExpired { time: now, not_after: time(self.not_after) })
        }
    }
}

fn names_server(leaf: &CertificateDer<'_>, name: &str) -> Result<(), Error> {
    let sans = san::names(&parse(leaf)?);
    if san::is_for(&sans, name) { Ok(()) } else { Err(refused(&sans)) }
}

fn refused(sans: &[san::San]) -> Error {
    // A certificate may hold thousands of names; a log line need not.
    const SHOWN: usize = 20;
    let names: Vec<&str> = sans.iter().take(SHOWN).map(san::San::text).collect();
    Refused::San(names.join(", ")).into()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    X509Certificate::from_der(der).map(|(_, c)| c).map_err(|_| CertificateError::BadEncoding.into())
}

fn is_time(error: &webpki::Error) -> bool {
    matches!(error, webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. })
}

/// rustls' word for a webpki error: it decides the alert that is sent.
fn rustls_error(error: webpki::Error) -> Error {
    use webpki::Error as E;
    let certificate = match error {
        E::CertExpired { .. } | E::InvalidCertValidity => CertificateError::Expired,
        E::CertNotValidYet { .. } => CertificateError::NotValidYet,
        E::CertRevoked => CertificateError::Revoked,
        E::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        E::CrlExpired { .. } => CertificateError::ExpiredRevocationList,
        E::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        E::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        E::UnsupportedCriticalExtension => CertificateError::UnhandledCriticalExtension,
        E::BadDer | E::BadDerTime | E::TrailingData(_) => CertificateError::BadEncoding,
        // A leaf that is a CA and is not trusted has no issuer either.
        E::UnknownIssuer | E::CaUsedAsEndEntity => CertificateError::UnknownIssuer,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(certificate)
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let name = self.match_server_name.then(|| server_name.to_str());
        self.check(Chain { leaf: end_entity, intermediates, usage: Usage::Server, now }, name.as_deref())?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.require || self.validation.as_ref().is_some_and(|v| v.verifies())
    }

    fn client_auth_mandatory(&self) -> bool {
        self.require || self.validation.as_ref().is_some_and(|v| v.needs_certificate())
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.validation.as_ref().map_or(&[], |v| &v.hints)
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(Chain { leaf: end_entity, intermediates, usage: Usage::Client, now }, None)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("require", &self.require).finish_non_exhaustive()
    }
}
