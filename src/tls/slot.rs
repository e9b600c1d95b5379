//! One named secret, and who uses it.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use waypost_xds::envoy::config::core::v3::ConfigSource;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};

use super::identity::{Identity, RawIdentity};
use super::secrets::lock;
use super::source::{self, Watch};
use super::validation::RawValidation;
use crate::config::{ConfigError, convert};

/// How long a listener or a cluster waits for a secret before it goes on without, where `initial_fetch_timeout` is not set.
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// An Envoy session ticket key: 16 bytes of name, 32 for the HMAC, 32 for AES.
const TICKET_KEY: usize = 80;

/// Where a named secret comes from; two sources may use the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `static_resources.secrets`.
    Static,
    /// `path_config_source.path`.
    Path(PathBuf),
    /// A discovery service, by a key that tells one from another: `ads`, or the wire form of its `ApiConfigSource` in hex.
    Service(String),
}

/// What a context wants a secret to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// `tls_certificate`.
    Certificate,
    /// `validation_context`, by itself.
    Validation,
    /// `validation_context`, merged over a default.
    MergedValidation,
    /// `generic_secret`.
    Generic,
}

/// One named secret: whoever discovers it fills the slot, contexts read it.
#[derive(Debug)]
pub struct SecretSlot {
    name: String,
    origin: Origin,
    source: OnceLock<ConfigSource>,
    current: ArcSwapOption<Secret>,
    version: AtomicU64,
    /// Bits of the kinds that its users want.
    kinds: AtomicU8,
    users: AtomicUsize,
    settled: AtomicBool,
    /// The certificate that was parsed last: contexts that differ in other things share it.
    parsed: Mutex<Option<(RawIdentity, Arc<Identity>)>>,
}

impl SecretSlot {
    pub(super) fn new(origin: Origin, name: &str) -> Arc<SecretSlot> {
        Arc::new(SecretSlot {
            name: name.to_owned(),
            origin,
            source: OnceLock::new(),
            current: ArcSwapOption::empty(),
            version: AtomicU64::new(0),
            kinds: AtomicU8::new(0),
            users: AtomicUsize::new(0),
            settled: AtomicBool::new(false),
            parsed: Mutex::new(None),
        })
    }

    /// `Secret.name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The configuration of the service that has it; of several that differ in their timeouts only, the first.
    pub fn source(&self) -> Option<&ConfigSource> {
        self.source.get()
    }

    /// How long to wait for it before those who need it go on without; none is for ever.
    pub fn initial_fetch_timeout(&self) -> Option<Duration> {
        let configured = self.source.get().and_then(|s| s.initial_fetch_timeout);
        // `resolve` has refused what is out of range.
        convert::timeout_or(configured, INITIAL_FETCH_TIMEOUT, "").unwrap_or(Some(INITIAL_FETCH_TIMEOUT))
    }

    /// The secret, once there is one.
    pub fn get(&self) -> Option<Arc<Secret>> {
        self.current.load_full()
    }

    /// How often it was set; 0 while it is missing.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Takes a secret of a service if it can be used; else says why not, in Envoy's words (`reason`), and keeps what there is.
    /// [`SecretStore::refresh`](super::SecretStore::refresh) then tells the contexts.
    pub fn set(&self, secret: Secret) -> Result<(), ConfigError> {
        if self.get().is_none_or(|old| *old != secret) {
            self.check(&secret)?;
            self.put(secret);
        }
        self.settle();
        Ok(())
    }

    /// Nobody need wait for it any more: it is there, it was rejected or removed (Envoy keeps a secret that its server takes away), or its
    /// `initial_fetch_timeout` is over.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    /// Whether listeners and clusters that need it may go on.
    pub fn settled(&self) -> bool {
        self.version() > 0 || self.settled.load(Ordering::Acquire)
    }

    /// Sets what contexts will judge themselves.
    pub(super) fn put(&self, secret: Secret) {
        if self.get().is_none_or(|old| *old != secret) {
            self.current.store(Some(Arc::new(secret)));
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    pub(super) fn set_source(&self, source: ConfigSource) {
        let _ = self.source.set(source);
    }

    pub(super) fn want(&self, kind: SecretKind) {
        self.kinds.fetch_or(1 << kind as u8, Ordering::AcqRel);
    }

    fn wants(&self, kind: SecretKind) -> bool {
        self.kinds.load(Ordering::Acquire) & (1 << kind as u8) != 0
    }

    pub(super) fn unused(&self) -> bool {
        self.users.load(Ordering::Acquire) == 0
    }

    /// Parses a certificate, or takes what was parsed of the same before.
    pub(super) fn identity(&self, raw: &RawIdentity, provider: &CryptoProvider) -> Result<Arc<Identity>, ConfigError> {
        let mut parsed = lock(&self.parsed);
        if let Some((old, identity)) = &*parsed
            && old.same(raw)
        {
            return Ok(identity.clone());
        }
        let identity = raw.parse(provider)?;
        *parsed = Some((raw.clone(), identity.clone()));
        Ok(identity)
    }

    fn check(&self, secret: &Secret) -> Result<(), ConfigError> {
        let Secret { name, r#type } = secret;
        let path = format!("secret {}", self.name);
        if *name != self.name {
            return Err(ConfigError::new(path, format!("Unexpected SDS secret (expecting {}): {name}", self.name)));
        }
        let certificate = self.wants(SecretKind::Certificate);
        let merged = self.wants(SecretKind::MergedValidation);
        let alone = self.wants(SecretKind::Validation);
        let generic = self.wants(SecretKind::Generic);
        let refused = |wanted: bool, what: &str| match wanted {
            true => Err(ConfigError::new(path.clone(), format!("the secret is not a {what}"))),
            false => Ok(()),
        };
        let is = |what| match r#type {
            Some(secret::Type::TlsCertificate(_)) => what == "tls_certificate",
            Some(secret::Type::ValidationContext(_)) => what == "validation_context",
            Some(secret::Type::GenericSecret(_)) => what == "generic_secret",
            Some(secret::Type::SessionTicketKeys(_)) | None => false,
        };
        refused(certificate && !is("tls_certificate"), "tls_certificate")?;
        refused((merged || alone) && !is("validation_context"), "validation_context")?;
        refused(generic && !is("generic_secret"), "generic_secret")?;
        match r#type {
            Some(secret::Type::TlsCertificate(certificate)) => {
                let path = format!("{path}.tls_certificate");
                let raw = RawIdentity::read(certificate, &path, &mut Watch::default())?;
                self.identity(&raw, &aws_lc_rs::default_provider())?;
            }
            Some(secret::Type::ValidationContext(context)) => {
                let path = format!("{path}.validation_context");
                let raw = RawValidation::read(context.clone(), &path, &mut Watch::default())?;
                // What it is merged over may have the CA that its names need.
                if merged && !alone {
                    raw.parse_part(&path)?
                } else {
                    raw.parse(&path)?
                };
            }
            Some(secret::Type::SessionTicketKeys(keys)) => {
                for (i, key) in keys.keys.iter().enumerate() {
                    let path = format!("{path}.session_ticket_keys.keys[{i}]");
                    let length = source::read(Some(key), &path, &mut Watch::default())?.map_or(0, |c| c.bytes.len());
                    if length != TICKET_KEY {
                        let reason = format!(
                            "Incorrect TLS session ticket key length. Length {length}, expected length {TICKET_KEY}."
                        );
                        return Err(ConfigError::new(path, reason));
                    }
                }
            }
            // Its reader knows what it must be.
            Some(secret::Type::GenericSecret(_)) => {}
            None => return Err(ConfigError::new(path, "the secret has no type")),
        }
        Ok(())
    }
}

/// A user's hold on a slot: a slot of a service that nobody holds is unsubscribed from.
#[derive(Debug)]
pub struct SecretRef(Arc<SecretSlot>);

impl SecretRef {
    pub(super) fn new(slot: Arc<SecretSlot>) -> SecretRef {
        slot.users.fetch_add(1, Ordering::AcqRel);
        SecretRef(slot)
    }

    pub(super) fn slot(&self) -> &Arc<SecretSlot> {
        &self.0
    }
}

impl Clone for SecretRef {
    fn clone(&self) -> SecretRef {
        SecretRef::new(self.0.clone())
    }
}

impl Drop for SecretRef {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Deref for SecretRef {
    type Target = SecretSlot;

    fn deref(&self) -> &SecretSlot {
        &self.0
    }
}
