//! Secrets by name: those of the bootstrap, those in SDS files, and slots that an SDS client fills.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waypost_xds::envoy::extensions::transport_sockets::tls::v3::{SdsSecretConfig, Secret};

use super::cache::{Context, Contexts};
use super::certs::ContextCertificates;
use super::sds;
use super::slot::{Origin, SecretKind, SecretRef, SecretSlot};
use super::source::Watch;
use crate::config::ConfigError;

/// All secrets of the process and the TLS contexts that use them. Its methods belong to the control thread; what they change reaches the
/// workers by atomic swaps.
#[derive(Default)]
pub struct SecretStore {
    slots: Mutex<BTreeMap<(Origin, String), Arc<SecretSlot>>>,
    files: Mutex<BTreeMap<PathBuf, SdsFile>>,
    contexts: Mutex<Contexts>,
    /// Slots of services that nobody has subscribed to yet.
    wanted: Mutex<Vec<Arc<SecretSlot>>>,
    /// What [`SecretStore::track`] has seen so far, while it runs.
    named: Mutex<Option<Vec<Arc<SecretSlot>>>>,
}

/// An SDS file: a discovery response in JSON or YAML.
#[derive(Default)]
struct SdsFile {
    watch: Watch,
    warned: Option<String>,
}

impl std::fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretStore").field("slots", &lock(&self.slots).len()).finish_non_exhaustive()
    }
}

impl SecretStore {
    /// A store without secrets.
    pub fn new() -> Arc<SecretStore> {
        Arc::default()
    }

    /// Adds a secret of `static_resources.secrets`. Whether it can be used is the question of whoever names it.
    pub fn add_static(&self, secret: Secret, path: &str) -> Result<(), ConfigError> {
        let slot = self.slot(Origin::Static, &secret.name);
        if slot.version() > 0 {
            return Err(ConfigError::new(path, format!("duplicate static secret: {}", secret.name)));
        }
        slot.put(secret);
        Ok(())
    }

    /// The slot of a name, made if there is none.
    pub fn slot(&self, origin: Origin, name: &str) -> Arc<SecretSlot> {
        let mut slots = lock(&self.slots);
        let slot = slots.entry((origin.clone(), name.to_owned())).or_insert_with(|| SecretSlot::new(origin, name));
        slot.clone()
    }

    /// The slot that an `SdsSecretConfig` names. A file is read at once; a secret it lacks may come later, as one of a service does.
    pub fn resolve(&self, config: &SdsSecretConfig, kind: SecretKind, path: &str) -> Result<SecretRef, ConfigError> {
        let SdsSecretConfig { name, sds_config } = config;
        if name.is_empty() {
            return Err(ConfigError::new(format!("{path}.name"), "must not be empty"));
        }
        let Some(source) = sds_config else {
            let slot = self.slot(Origin::Static, name);
            return match slot.version() {
                0 => Err(ConfigError::new(path, format!("Unknown static secret: {name}"))),
                _ => Ok(SecretRef::new(slot)),
            };
        };
        let origin = sds::origin(source, &format!("{path}.sds_config"))?;
        let slot = self.slot(origin, name);
        slot.want(kind);
        match slot.origin() {
            Origin::Static => {}
            Origin::Path(file) => {
                let mut files = lock(&self.files);
                files.entry(file.clone()).or_insert_with_key(|file| self.read_file(file, None));
            }
            Origin::Service(_) => {
                if slot.source().is_none() {
                    slot.set_source(source.clone());
                    lock(&self.wanted).push(slot.clone());
                }
                self.name(&slot);
            }
        }
        Ok(SecretRef::new(slot))
    }

    /// The slots of services that have been named since the last call and that nobody subscribes to yet.
    pub fn take_wanted(&self) -> Vec<Arc<SecretSlot>> {
        std::mem::take(&mut *lock(&self.wanted))
    }

    /// Does something, such as to compile a listener, and tells which slots of services were named by it: what it must wait for before it
    /// is warm. Each is there once.
    pub fn track<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<Arc<SecretSlot>>) {
        let outer = lock(&self.named).replace(Vec::new());
        let result = work();
        let named = std::mem::replace(&mut *lock(&self.named), outer).unwrap_or_default();
        for slot in &named {
            // Whoever tracks around this sees it too.
            self.name(slot);
        }
        (result, named)
    }

    /// Forgets the slots of services that no context uses any more, and gives those that are subscribed to: to be unsubscribed from.
    /// One that is still in [`take_wanted`](SecretStore::take_wanted)'s list is taken from there instead.
    pub fn sweep(&self) -> Vec<Arc<SecretSlot>> {
        let mut swept = Vec::new();
        lock(&self.slots).retain(|_, slot| {
            let keep = !slot.unused() || slot.source().is_none();
            if !keep {
                swept.push(slot.clone());
            }
            keep
        });
        let mut wanted = lock(&self.wanted);
        swept.retain(|slot| {
            let before = wanted.len();
            wanted.retain(|w| !Arc::ptr_eq(w, slot));
            wanted.len() == before
        });
        swept
    }

    /// The slots of services, each with its state; for the configuration dump.
    pub fn service_slots(&self) -> Vec<Arc<SecretSlot>> {
        lock(&self.slots).values().filter(|s| s.source().is_some()).cloned().collect()
    }

    /// Reads again what has changed on disk; to be called once a second. Contexts whose secrets changed get a new configuration.
    pub fn reload(&self) {
        for (path, file) in lock(&self.files).iter_mut() {
            if file.watch.changed() {
                *file = self.read_file(path, file.warned.take());
            }
        }
        for context in self.live() {
            context.refresh(true);
        }
    }

    /// Brings the contexts of slots that have changed up to date.
    pub fn refresh(&self) {
        for context in self.live() {
            context.refresh(false);
        }
    }

    /// Every context's certificates, for `/certs`.
    pub fn certificates(&self) -> Vec<ContextCertificates> {
        self.live().iter().map(|c| c.certificates()).collect()
    }

    pub(super) fn contexts(&self) -> MutexGuard<'_, Contexts> {
        lock(&self.contexts)
    }

    /// Notes a slot for [`SecretStore::track`].
    pub(super) fn name(&self, slot: &Arc<SecretSlot>) {
        if let Some(named) = &mut *lock(&self.named)
            && !named.iter().any(|n| Arc::ptr_eq(n, slot))
        {
            named.push(slot.clone());
        }
    }

    fn live(&self) -> Vec<Arc<dyn Context>> {
        lock(&self.contexts).live()
    }

    /// Reads an SDS file into its slots. On an error they keep what they have, and the error is shown once.
    fn read_file(&self, path: &Path, warned: Option<String>) -> SdsFile {
        let mut watch = Watch::default();
        let secrets = watch.read(path).map_err(|e| e.to_string()).and_then(|bytes| sds::parse(&bytes));
        let error = match secrets {
            Ok(secrets) => {
                for secret in secrets {
                    // Slots are made for all: a context that names one may be compiled later. Contexts judge what is in them, again and
                    // again: a file that a secret names may become good without a change of this one.
                    self.slot(Origin::Path(path.to_owned()), &secret.name).put(secret);
                }
                None
            }
            Err(error) => Some(error),
        };
        if let Some(error) = &error
            && warned.as_ref() != Some(error)
        {
            tracing::warn!("SDS file {}: {error}", path.display());
        }
        SdsFile { watch, warned: error }
    }
}

pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
