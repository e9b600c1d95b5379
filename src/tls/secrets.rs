//! Secrets by name: those of the bootstrap, those in SDS files, and slots that an SDS client fills.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwapOption;
use waypost_xds::envoy::config::core::v3::{ConfigSource, PathConfigSource, config_source::ConfigSourceSpecifier};
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::{SdsSecretConfig, Secret};
use waypost_xds::envoy::service::discovery::v3::DiscoveryResponse;
use waypost_xds::{any, json, yaml};

use super::certs::ContextCertificates;
use super::source::{Watch, watched};
use crate::config::ConfigError;

/// All secrets of the process and the TLS contexts that use them. Its methods belong to the control thread; what they change reaches the
/// workers by atomic swaps.
#[derive(Default)]
pub struct SecretStore {
    slots: Mutex<BTreeMap<(Origin, String), Arc<SecretSlot>>>,
    files: Mutex<BTreeMap<PathBuf, SdsFile>>,
    contexts: Mutex<Vec<Weak<dyn Context>>>,
}

/// Where a named secret comes from; two sources may use the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `static_resources.secrets`.
    Static,
    /// `path_config_source.path`.
    Path(PathBuf),
    /// A discovery service, by a key that its client chooses.
    Service(String),
}

/// One named secret: whoever discovers it fills the slot, contexts read it.
#[derive(Debug)]
pub struct SecretSlot {
    name: String,
    origin: Origin,
    current: ArcSwapOption<Secret>,
    version: AtomicU64,
}

/// An SDS file: a discovery response in JSON or YAML.
#[derive(Default)]
struct SdsFile {
    watch: Watch,
    warned: Option<String>,
}

/// A TLS context that is in use.
pub(super) trait Context: Send + Sync {
    /// Reads files and slots again if any has changed.
    fn refresh(&self);
    /// What `/certs` shows of it.
    fn certificates(&self) -> ContextCertificates;
}

impl SecretSlot {
    /// `Secret.name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The secret, once there is one.
    pub fn get(&self) -> Option<Arc<Secret>> {
        self.current.load_full()
    }

    /// How often it was set; 0 while it is missing.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Sets the secret. [`SecretStore::refresh`] then tells the contexts.
    pub fn set(&self, secret: Secret) {
        if self.get().is_none_or(|old| *old != secret) {
            self.current.store(Some(Arc::new(secret)));
            self.version.fetch_add(1, Ordering::Release);
        }
    }
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

    /// Adds a secret of `static_resources.secrets`.
    pub fn add_static(&self, secret: Secret, path: &str) -> Result<(), ConfigError> {
        let slot = self.slot(Origin::Static, &secret.name);
        if slot.version() > 0 {
            return Err(ConfigError::new(path, format!("duplicate static secret: {}", secret.name)));
        }
        slot.set(secret);
        Ok(())
    }

    /// The slot of a name, made if there is none.
    pub fn slot(&self, origin: Origin, name: &str) -> Arc<SecretSlot> {
        let mut slots = lock(&self.slots);
        let slot = slots.entry((origin.clone(), name.to_owned())).or_insert_with(|| {
            Arc::new(SecretSlot {
                name: name.to_owned(),
                origin,
                current: ArcSwapOption::empty(),
                version: AtomicU64::new(0),
            })
        });
        slot.clone()
    }

    /// The slot that an `SdsSecretConfig` names. A file is read at once; a secret it lacks may come later.
    pub fn resolve(&self, config: &SdsSecretConfig, path: &str) -> Result<Arc<SecretSlot>, ConfigError> {
        let SdsSecretConfig { name, sds_config } = config;
        if name.is_empty() {
            return Err(ConfigError::new(format!("{path}.name"), "must not be empty"));
        }
        let Some(source) = sds_config else {
            let slot = self.slot(Origin::Static, name);
            return match slot.version() {
                0 => Err(ConfigError::new(path, format!("Unknown static secret: {name}"))),
                _ => Ok(slot),
            };
        };
        let file = sds_path(source, &format!("{path}.sds_config"))?;
        let slot = self.slot(Origin::Path(file.clone()), name);
        lock(&self.files).entry(file).or_insert_with_key(|file| self.read_file(file, None));
        Ok(slot)
    }

    /// Reads again what has changed on disk; to be called once a second. Contexts whose secrets changed get a new configuration.
    pub fn reload(&self) {
        for (path, file) in lock(&self.files).iter_mut() {
            if file.watch.changed() {
                *file = self.read_file(path, file.warned.take());
            }
        }
        self.refresh();
    }

    /// Brings all contexts up to date with slots and files.
    pub fn refresh(&self) {
        for context in self.live() {
            context.refresh();
        }
    }

    /// Every context's certificates, for `/certs`.
    pub fn certificates(&self) -> Vec<ContextCertificates> {
        self.live().iter().map(|c| c.certificates()).collect()
    }

    pub(super) fn register(&self, context: Weak<dyn Context>) {
        lock(&self.contexts).push(context);
    }

    fn live(&self) -> Vec<Arc<dyn Context>> {
        let mut contexts = lock(&self.contexts);
        contexts.retain(|c| c.strong_count() > 0);
        contexts.iter().filter_map(Weak::upgrade).collect()
    }

    /// Reads an SDS file into its slots. On an error they keep what they have, and the error is shown once.
    fn read_file(&self, path: &Path, warned: Option<String>) -> SdsFile {
        let mut watch = Watch::default();
        let secrets = watch.read(path).map_err(|e| e.to_string()).and_then(|bytes| parse(&bytes));
        let error = match secrets {
            Ok(secrets) => {
                for secret in secrets {
                    // Slots are made for all: a context that names one may be compiled later.
                    self.slot(Origin::Path(path.to_owned()), &secret.name).set(secret);
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

/// The file of a `path_config_source`; other sources are refused.
fn sds_path(source: &ConfigSource, path: &str) -> Result<PathBuf, ConfigError> {
    // The fetch timeout is for services: a file that is missing when a listener is made leaves it waiting, as in Envoy.
    let ConfigSource { authorities, initial_fetch_timeout: _, resource_api_version: _, config_source_specifier } =
        source;
    crate::config::refuse(authorities, path, "authorities")?;
    match config_source_specifier {
        Some(ConfigSourceSpecifier::PathConfigSource(PathConfigSource {
            path,
            watched_directory,
            poll_interval: _,
        })) => {
            watched(watched_directory.as_ref());
            Ok(PathBuf::from(path))
        }
        #[allow(deprecated, reason = "refused by its name")]
        Some(ConfigSourceSpecifier::Path(_)) => Err(ConfigError::unsupported(format!("{path}.path"))),
        Some(ConfigSourceSpecifier::ApiConfigSource(_)) => {
            Err(ConfigError::unsupported(format!("{path}.api_config_source")))
        }
        Some(ConfigSourceSpecifier::Ads(_)) => Err(ConfigError::unsupported(format!("{path}.ads"))),
        Some(ConfigSourceSpecifier::Self_(_)) => Err(ConfigError::unsupported(format!("{path}.self"))),
        None => Err(ConfigError::new(path, "config source must be set")),
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Secret>, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let document = if text.trim_start().starts_with('{') { json::parse(text) } else { yaml::parse(text) };
    let response: DiscoveryResponse =
        document.and_then(|d| json::from_value(&d, &json::Options::ignore_unknown())).map_err(|e| e.to_string())?;
    let secret = |(i, resource)| any::unpack::<Secret>(resource, &format!("resources[{i}]")).map_err(|e| e.to_string());
    response.resources.iter().enumerate().map(secret).collect()
}

pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
