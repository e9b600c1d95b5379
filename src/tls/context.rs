//! `CommonTlsContext`: what downstream and upstream contexts share, and how both follow their secrets.

use std::sync::{Arc, Mutex, Weak};

use arc_swap::ArcSwapOption;
use prost::Message;
use waypost_filters::matcher::StringMatcher;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, Secret, TlsCertificate, secret,
};

use super::certs::{CertificateDetails, ContextCertificates};
use super::identity::{Identity, RawIdentity};
use super::params::{Params, Side};
use super::secrets::{SecretStore, lock};
use super::slot::{Origin, SecretKind, SecretRef, SecretSlot};
use super::source::Watch;
use super::stats::FactoryStats;
use super::validation::{RawValidation, Validation};
use crate::config::{ConfigError, refuse};

/// A compiled `CommonTlsContext`: everything but the contents of its secrets.
pub(super) struct Common {
    pub path: String,
    pub params: Params,
    pub alpn: Vec<Vec<u8>>,
    certificates: Vec<(String, Certificate)>,
    validation: Option<(String, CertificateValidationContext)>,
    /// What is merged over `validation`.
    validation_slot: Option<(String, SecretRef)>,
}

enum Certificate {
    Here(Box<TlsCertificate>),
    Slot(SecretRef),
}

/// The contents of all secrets of a context, to tell whether anything changed.
#[derive(PartialEq)]
struct Raw {
    identities: Vec<RawIdentity>,
    validation: Option<RawValidation>,
}

/// The secrets of a context, ready for rustls.
pub(super) struct Material {
    pub identities: Vec<Arc<Identity>>,
    pub validation: Option<Arc<Validation>>,
}

impl Common {
    pub fn compile(
        context: Option<CommonTlsContext>,
        side: Side,
        secrets: &SecretStore,
        path: &str,
    ) -> Result<Common, ConfigError> {
        let path = format!("{path}.common_tls_context");
        #[allow(deprecated, reason = "refused by their names")]
        let CommonTlsContext {
            tls_params,
            tls_certificates,
            tls_certificate_sds_secret_configs,
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            alpn_protocols,
            custom_handshaker,
            key_log,
            validation_context_type,
        } = context.unwrap_or_default();
        refuse(&tls_certificate_provider_instance, &path, "tls_certificate_provider_instance")?;
        refuse(&custom_tls_certificate_selector, &path, "custom_tls_certificate_selector")?;
        refuse(&tls_certificate_certificate_provider, &path, "tls_certificate_certificate_provider")?;
        refuse(&tls_certificate_certificate_provider_instance, &path, "tls_certificate_certificate_provider_instance")?;
        refuse(&custom_handshaker, &path, "custom_handshaker")?;
        refuse(&key_log, &path, "key_log")?;

        if let Some(i) = alpn_protocols.iter().position(|p| !(1..=255).contains(&p.len())) {
            return Err(ConfigError::new(format!("{path}.alpn_protocols[{i}]"), "must have 1 to 255 bytes"));
        }
        let mut certificates = Vec::new();
        for (i, certificate) in tls_certificates.into_iter().enumerate() {
            certificates.push((format!("{path}.tls_certificates[{i}]"), Certificate::Here(Box::new(certificate))));
        }
        for (i, config) in tls_certificate_sds_secret_configs.iter().enumerate() {
            let path = format!("{path}.tls_certificate_sds_secret_configs[{i}]");
            let slot = secrets.resolve(config, SecretKind::Certificate, &path)?;
            certificates.push((path, Certificate::Slot(slot)));
        }
        let (mut validation, mut validation_slot) = (None, None);
        let mut follow = |config: Option<&SdsSecretConfig>, kind: SecretKind, path: String| match config {
            Some(config) => secrets.resolve(config, kind, &path).map(|slot| validation_slot = Some((path, slot))),
            None => Err(ConfigError::new(path, "must be given")),
        };
        #[allow(deprecated, reason = "refused by their names")]
        match validation_context_type {
            None => {}
            Some(ValidationContextType::ValidationContext(context)) => {
                validation = Some((format!("{path}.validation_context"), context));
            }
            Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
                follow(Some(&config), SecretKind::Validation, format!("{path}.validation_context_sds_secret_config"))?;
            }
            Some(ValidationContextType::CombinedValidationContext(combined)) => {
                let path = format!("{path}.combined_validation_context");
                #[allow(deprecated, reason = "refused by their names")]
                let CombinedCertificateValidationContext {
                    default_validation_context,
                    validation_context_sds_secret_config,
                    validation_context_certificate_provider,
                    validation_context_certificate_provider_instance,
                } = combined;
                refuse(&validation_context_certificate_provider, &path, "validation_context_certificate_provider")?;
                refuse(
                    &validation_context_certificate_provider_instance,
                    &path,
                    "validation_context_certificate_provider_instance",
                )?;
                follow(
                    validation_context_sds_secret_config.as_ref(),
                    SecretKind::MergedValidation,
                    format!("{path}.validation_context_sds_secret_config"),
                )?;
                let default = default_validation_context.unwrap_or_default();
                validation = Some((format!("{path}.default_validation_context"), default));
            }
            Some(ValidationContextType::ValidationContextCertificateProvider(_)) => {
                return Err(ConfigError::unsupported(format!("{path}.validation_context_certificate_provider")));
            }
            Some(ValidationContextType::ValidationContextCertificateProviderInstance(_)) => {
                return Err(ConfigError::unsupported(format!(
                    "{path}.validation_context_certificate_provider_instance"
                )));
            }
        }
        Ok(Common {
            params: Params::compile(tls_params.as_ref(), side, &path)?,
            alpn: alpn_protocols.into_iter().map(String::into_bytes).collect(),
            certificates,
            validation,
            validation_slot,
            path,
        })
    }

    /// How many certificates the context has, loaded or not.
    pub fn certificates(&self) -> usize {
        self.certificates.len()
    }

    /// Which secrets it uses and what it expects of the peer, for people.
    pub fn describe(&self) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        for (_, certificate) in &self.certificates {
            out.push(match certificate {
                Certificate::Here(_) => "a certificate of its own".to_owned(),
                Certificate::Slot(slot) => format!("certificate {:?}", slot.name()),
            });
        }
        if let Some((_, slot)) = &self.validation_slot {
            out.push(format!("trusts {:?}", slot.name()));
        } else if self.validation.is_some() {
            out.push("verifies the peer".to_owned());
        } else {
            out.push("does not verify the peer".to_owned());
        }
        let sans = self.validation.iter().flat_map(|(_, v)| &v.match_typed_subject_alt_names);
        let sans: Vec<String> = sans
            .filter_map(|s| s.matcher.clone())
            .filter_map(|m| StringMatcher::compile(m, "").ok())
            .map(|m| m.to_string())
            .collect();
        if !sans.is_empty() {
            out.push(format!("peer's name: {}", sans.join(" or ")));
        }
        if !self.alpn.is_empty() {
            let alpn: Vec<_> = self.alpn.iter().map(|a| String::from_utf8_lossy(a)).collect();
            out.push(format!("ALPN {}", alpn.join(", ")));
        }
        out
    }

    /// Whether a peer of this URI is refused for it, as far as the context itself says; a secret may say more.
    pub fn refuses_uri(&self, uri: &str) -> bool {
        let sans = self.validation.iter().flat_map(|(_, v)| &v.match_typed_subject_alt_names);
        let uris = sans.clone().filter(|s| s.san_type == SanType::Uri as i32).filter_map(|s| s.matcher.clone());
        let mut matchers = uris.filter_map(|m| StringMatcher::compile(m, "").ok());
        sans.count() > 0 && !matchers.any(|m| m.matches(uri.as_bytes()))
    }

    /// Whether no secret is waited for any more. Those in files are not waited for: a context is refreshed when they are there.
    pub fn settled(&self) -> bool {
        self.slots().all(|s| !matches!(s.origin(), Origin::Service(_)) || s.settled())
    }

    fn slots(&self) -> impl Iterator<Item = &SecretRef> {
        let certificates = self.certificates.iter().filter_map(|(_, c)| match c {
            Certificate::Slot(slot) => Some(slot),
            Certificate::Here(_) => None,
        });
        certificates.chain(self.validation_slot.as_ref().map(|(_, slot)| slot))
    }

    /// Whether a secret may come or become good later; else an error in one is an error of the configuration.
    fn waits(&self) -> bool {
        self.slots().any(|s| *s.origin() != Origin::Static)
    }

    /// Tells who tracks what is compiled that this context, made before, is part of it.
    pub fn name_slots(&self, secrets: &SecretStore) {
        for slot in self.slots().filter(|s| matches!(s.origin(), Origin::Service(_))) {
            secrets.name(slot.slot());
        }
    }

    fn versions(&self) -> impl Iterator<Item = u64> {
        self.slots().map(|s| s.version())
    }

    /// Reads everything; None while a secret is missing.
    fn read(&self, watch: &mut Watch) -> Result<Option<Raw>, ConfigError> {
        let mut identities = Vec::new();
        for (path, certificate) in &self.certificates {
            identities.push(match certificate {
                Certificate::Here(certificate) => RawIdentity::read(certificate, path, watch)?,
                Certificate::Slot(slot) => match slot.get().as_deref() {
                    None => return Ok(None),
                    Some(Secret { name: _, r#type: Some(secret::Type::TlsCertificate(certificate)) }) => {
                        RawIdentity::read(certificate, &within(path, slot), watch)?
                    }
                    Some(_) => return Err(ConfigError::new(within(path, slot), "the secret is not a tls_certificate")),
                },
            });
        }
        let mut validation = self.validation.clone();
        if let Some((path, slot)) = &self.validation_slot {
            let path = within(path, slot);
            match slot.get().as_deref() {
                None => return Ok(None),
                Some(Secret { name: _, r#type: Some(secret::Type::ValidationContext(context)) }) => {
                    // protobuf's MergeFrom: lists are appended, what the secret sets replaces the default.
                    let mut merged = validation.map(|(_, default)| default).unwrap_or_default();
                    merged
                        .merge(context.encode_to_vec().as_slice())
                        .map_err(|e| ConfigError::new(path.clone(), e.to_string()))?;
                    validation = Some((path, merged));
                }
                Some(_) => return Err(ConfigError::new(path, "the secret is not a validation_context")),
            }
        }
        let validation = validation.map(|(path, context)| RawValidation::read(context, &path, watch)).transpose()?;
        Ok(Some(Raw { identities, validation }))
    }

    fn parse(&self, raw: &Raw) -> Result<Material, ConfigError> {
        let parse = |(raw, (_, certificate)): (&RawIdentity, &(String, Certificate))| match certificate {
            Certificate::Here(_) => raw.parse(&self.params.provider),
            Certificate::Slot(slot) => slot.identity(raw, &self.params.provider),
        };
        let identities = raw.identities.iter().zip(&self.certificates).map(parse).collect::<Result<_, _>>()?;
        let path = match (&self.validation_slot, &self.validation) {
            (Some((path, slot)), _) => within(path, slot),
            (None, Some((path, _))) => path.clone(),
            (None, None) => String::new(),
        };
        let validation = raw.validation.as_ref().map(|v| v.parse(&path)).transpose()?;
        Ok(Material { identities, validation })
    }
}

fn within(path: &str, slot: &SecretSlot) -> String {
    format!("{path} (secret {})", slot.name())
}

/// A context and what is made from its secrets: `T` is swapped when they change, and is missing while they are.
pub(super) struct Live<T> {
    pub common: Common,
    pub current: ArcSwapOption<T>,
    seen: Mutex<Seen>,
    /// Those who count its updates.
    followers: Mutex<Vec<Weak<FactoryStats>>>,
}

#[derive(Default)]
struct Seen {
    raw: Option<Raw>,
    versions: Vec<u64>,
    watch: Watch,
    warned: Option<ConfigError>,
}

impl<T> Live<T> {
    pub fn start(
        common: Common,
        build: impl Fn(&Common, Material) -> Result<T, ConfigError>,
    ) -> Result<Live<T>, ConfigError> {
        let live =
            Live { common, current: ArcSwapOption::empty(), seen: Mutex::default(), followers: Mutex::default() };
        let mut seen = lock(&live.seen);
        match live.load(&mut seen, &build) {
            Err(e) if !live.common.waits() => return Err(e),
            Err(e) => warn_once(&mut seen, e),
            Ok(_) => {}
        }
        drop(seen);
        Ok(live)
    }

    /// Counts updates from now on, as long as the counter is held.
    pub fn follow(&self, counter: &Arc<FactoryStats>) {
        let mut followers = lock(&self.followers);
        if followers.len() == followers.capacity() {
            followers.retain(|f| f.strong_count() > 0);
        }
        followers.push(Arc::downgrade(counter));
    }

    /// Builds again if a slot has changed, or a file where `files` says to look. What is wrong with them is said once, and what was good
    /// before stays.
    pub fn refresh(&self, files: bool, build: impl Fn(&Common, Material) -> Result<T, ConfigError>) {
        let mut seen = lock(&self.seen);
        let same = self.common.versions().eq(seen.versions.iter().copied());
        if same && !(files && seen.watch.changed()) {
            return;
        }
        match self.load(&mut seen, &build) {
            Err(e) => warn_once(&mut seen, e),
            Ok(changed) => {
                seen.warned = None;
                if changed {
                    lock(&self.followers).iter().filter_map(Weak::upgrade).for_each(|c| c.record_update());
                }
            }
        }
    }

    /// Whether there is a new configuration now.
    fn load(
        &self,
        seen: &mut Seen,
        build: &impl Fn(&Common, Material) -> Result<T, ConfigError>,
    ) -> Result<bool, ConfigError> {
        // Versions and stamps are taken before what they stand for is read: a change in between is seen next time.
        seen.versions = self.common.versions().collect();
        let mut watch = Watch::default();
        let raw = self.common.read(&mut watch);
        seen.watch = watch;
        let Some(raw) = raw? else { return Ok(false) };
        if seen.raw.as_ref() == Some(&raw) {
            return Ok(false);
        }
        let built = build(&self.common, self.common.parse(&raw)?)?;
        self.current.store(Some(Arc::new(built)));
        seen.raw = Some(raw);
        Ok(true)
    }
}

fn warn_once(seen: &mut Seen, error: ConfigError) {
    if seen.warned.as_ref() != Some(&error) {
        tracing::warn!("TLS secret not loaded: {error}");
        seen.warned = Some(error);
    }
}

impl Material {
    pub fn details(&self) -> ContextCertificates {
        ContextCertificates {
            ca_cert: self
                .validation
                .iter()
                .filter_map(|v| v.ca.as_ref())
                .map(|(i, o)| CertificateDetails::of(i, o))
                .collect(),
            cert_chain: self.identities.iter().map(|i| CertificateDetails::of(&i.info, &i.origin)).collect(),
        }
    }
}
