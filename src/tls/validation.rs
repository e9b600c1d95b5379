//! `CertificateValidationContext`: which peer certificates are good.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::DistinguishedName;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor};
use waypost_filters::connection::CertificateInfo;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::CertificateValidationContext;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::certificate_validation_context::TrustChainVerification;
use webpki::{CertRevocationList, OwnedCertRevocationList};

use super::info::certificate_info;
use super::san::SanMatcher;
use super::source::{self, Content, Watch, watched};
use crate::config::{ConfigError, refuse};

/// A validation context with the contents of its files.
#[derive(Clone, PartialEq)]
pub(super) struct RawValidation {
    context: CertificateValidationContext,
    ca: Option<Content>,
    crl: Option<Content>,
}

/// What a peer's certificate must be.
pub(super) struct Validation {
    /// `trusted_ca`; without any, chains are not verified.
    pub roots: Vec<Root>,
    pub anchors: Vec<TrustAnchor<'static>>,
    /// `crl`; where there is one, every certificate must be covered by it.
    pub crls: Vec<CertRevocationList<'static>>,
    /// One must match.
    pub sans: Vec<SanMatcher>,
    /// SHA-256 of the certificate or of its public key: one of either list must match.
    pub hashes: Vec<[u8; 32]>,
    pub spkis: Vec<[u8; 32]>,
    pub accept_untrusted: bool,
    pub allow_expired: bool,
    pub only_leaf_crl: bool,
    pub max_depth: Option<u32>,
    /// The CA names that a server sends with its request.
    pub hints: Vec<DistinguishedName>,
    /// The first CA and where it came from, for `/certs`.
    pub ca: Option<(CertificateInfo, String)>,
}

/// A trusted certificate. A leaf that stands here is trusted as it is.
pub(super) struct Root {
    pub der: CertificateDer<'static>,
    pub not_before: i64,
    pub not_after: i64,
}

impl RawValidation {
    pub fn read(
        context: CertificateValidationContext,
        path: &str,
        watch: &mut Watch,
    ) -> Result<RawValidation, ConfigError> {
        let ca = source::read(context.trusted_ca.as_ref(), &format!("{path}.trusted_ca"), watch)?;
        let crl = source::read(context.crl.as_ref(), &format!("{path}.crl"), watch)?;
        Ok(RawValidation { context, ca, crl })
    }

    /// What it says, all that it needs being in it.
    pub fn parse(&self, path: &str) -> Result<Arc<Validation>, ConfigError> {
        let validation = self.parse_part(path)?;
        if validation.roots.is_empty() {
            if !validation.sans.is_empty() {
                let reason =
                    "SAN-based verification of peer certificates without trusted CA is insecure and not allowed";
                return Err(ConfigError::new(path, reason));
            }
            if self.crl.is_some() {
                return Err(ConfigError::new(format!("{path}.crl"), "a CRL needs a trusted CA"));
            }
        }
        Ok(validation)
    }

    /// What it says, where the rest may be in another that it is merged with.
    pub fn parse_part(&self, path: &str) -> Result<Arc<Validation>, ConfigError> {
        let at = |field: &str| format!("{path}.{field}");
        #[allow(deprecated, reason = "match_subject_alt_names is still accepted, as Envoy does")]
        let CertificateValidationContext {
            trusted_ca: _,
            ca_certificate_provider_instance,
            system_root_certs,
            watched_directory,
            verify_certificate_spki,
            verify_certificate_hash,
            match_typed_subject_alt_names,
            match_subject_alt_names,
            require_signed_certificate_timestamp,
            crl: _,
            allow_expired_certificate,
            trust_chain_verification,
            custom_validator_config,
            only_verify_leaf_cert_crl,
            max_verify_depth,
            suppress_client_ca_list,
        } = &self.context;
        refuse(ca_certificate_provider_instance, path, "ca_certificate_provider_instance")?;
        refuse(system_root_certs, path, "system_root_certs")?;
        refuse(custom_validator_config, path, "custom_validator_config")?;
        refuse(
            &require_signed_certificate_timestamp.is_some_and(|v| v.value),
            path,
            "require_signed_certificate_timestamp",
        )?;
        watched(watched_directory.as_ref());

        let mut sans = Vec::new();
        for (i, matcher) in match_typed_subject_alt_names.iter().enumerate() {
            sans.push(SanMatcher::compile(matcher, &at(&format!("match_typed_subject_alt_names[{i}]")))?);
        }
        for (i, matcher) in match_subject_alt_names.iter().enumerate() {
            sans.extend(SanMatcher::any_type(matcher, &at(&format!("match_subject_alt_names[{i}]")))?);
        }
        let trust = TrustChainVerification::try_from(*trust_chain_verification).map_err(|_| {
            ConfigError::new(at("trust_chain_verification"), format!("unknown value {trust_chain_verification}"))
        })?;
        let mut validation = Validation {
            roots: Vec::new(),
            anchors: Vec::new(),
            crls: Vec::new(),
            sans,
            hashes: parse_all(verify_certificate_hash, &at("verify_certificate_hash"), "hex", from_hex)?,
            spkis: parse_all(verify_certificate_spki, &at("verify_certificate_spki"), "base64", from_base64)?,
            accept_untrusted: trust == TrustChainVerification::AcceptUntrusted,
            allow_expired: *allow_expired_certificate,
            only_leaf_crl: *only_verify_leaf_cert_crl,
            max_depth: max_verify_depth.map(|v| v.value),
            hints: Vec::new(),
            ca: None,
        };
        if let Some(ca) = &self.ca {
            validation.trust(ca, &at("trusted_ca"))?;
        }
        if !suppress_client_ca_list {
            validation.hints =
                validation.anchors.iter().map(|a| DistinguishedName::in_sequence(a.subject.as_ref())).collect();
        }
        if let Some(crl) = &self.crl {
            validation.revoke(crl, &at("crl"))?;
        }
        Ok(Arc::new(validation))
    }
}

impl Validation {
    fn trust(&mut self, ca: &Content, path: &str) -> Result<(), ConfigError> {
        let failed = |e: &dyn std::fmt::Display| {
            ConfigError::new(path, format!("Failed to load trusted CA certificates from {}: {e}", ca.origin))
        };
        let mut skipped = None;
        for der in CertificateDer::pem_slice_iter(&ca.bytes) {
            let der = der.map_err(|e| failed(&e))?;
            let Some(info) = certificate_info(std::slice::from_ref(&der)) else {
                return Err(failed(&"not a certificate"));
            };
            match webpki::anchor_from_trusted_cert(&der) {
                Ok(anchor) => self.anchors.push(anchor.to_owned()),
                // One odd certificate of a large bundle must not cost all others.
                Err(e) => {
                    tracing::warn!("{path}: {} is left out: {e}", info.subject);
                    skipped = Some(e);
                    continue;
                }
            }
            self.roots.push(Root { der: der.into_owned(), not_before: info.not_before, not_after: info.not_after });
            self.ca.get_or_insert((info, ca.origin.clone()));
        }
        match (self.roots.is_empty(), skipped) {
            (false, _) => Ok(()),
            (true, Some(e)) => Err(failed(&e)),
            (true, None) => Err(failed(&"no certificate found")),
        }
    }

    fn revoke(&mut self, crl: &Content, path: &str) -> Result<(), ConfigError> {
        let failed =
            |e: &dyn std::fmt::Display| ConfigError::new(path, format!("Failed to load CRL from {}: {e}", crl.origin));
        for der in CertificateRevocationListDer::pem_slice_iter(&crl.bytes) {
            let list = OwnedCertRevocationList::from_der(&der.map_err(|e| failed(&e))?).map_err(|e| failed(&e))?;
            self.crls.push(list.into());
        }
        if self.crls.is_empty() { Err(failed(&"no CRL found")) } else { Ok(()) }
    }

    /// Whether a client must show a certificate: it cannot match otherwise.
    pub fn needs_certificate(&self) -> bool {
        !(self.sans.is_empty() && self.hashes.is_empty() && self.spkis.is_empty())
    }

    /// Whether anything is verified at all.
    pub fn verifies(&self) -> bool {
        self.needs_certificate() || !self.roots.is_empty()
    }
}

type Digest = [u8; 32];

fn parse_all(
    list: &[String],
    path: &str,
    kind: &str,
    parse: fn(&str) -> Option<Digest>,
) -> Result<Vec<Digest>, ConfigError> {
    let invalid = |(i, s): (usize, &String)| {
        parse(s).ok_or_else(|| ConfigError::new(format!("{path}[{i}]"), format!("Invalid {kind}-encoded SHA-256 {s}")))
    };
    list.iter().enumerate().map(invalid).collect()
}

/// 64 hex digits, or pairs with colons as `openssl x509 -fingerprint` prints them.
fn from_hex(text: &str) -> Option<Digest> {
    let digits: String = if text.len() == 95 { text.split(':').collect() } else { text.to_owned() };
    if digits.len() != 64 || !digits.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (i, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(digest)
}

fn from_base64(text: &str) -> Option<Digest> {
    STANDARD.decode(text).ok()?.try_into().ok()
}
