//! ECDS: filters whose configuration comes on its own.

use std::time::Instant;

use waypost_xds::client::Update;
use waypost_xds::envoy::config::core::v3::TypedExtensionConfig;

use super::apply::Failures;
use super::fetch::Subject;
use super::source::Source;
use super::{Manager, Type};
use crate::admin::Kind;
use crate::config::ConfigError;
use crate::config::extension_slot::ExtensionSlot;

impl Manager {
    /// Asks for the extensions that compiled filters name.
    pub(super) fn subscribe_extensions(&mut self) {
        for slot in self.parts.extensions.take_wanted() {
            let source = &slot.fetch.source;
            if self.fetches.add(Type::Extension, &slot.fetch, &slot.name, Instant::now()) {
                self.streams.subscribe(source, Type::Extension, &slot.name);
                self.count_subject(Type::Extension, source, &slot.name, slot.family.name());
            }
        }
    }

    /// Forgets extensions that no filter chain uses any more.
    pub(super) fn sweep_extensions(&mut self) {
        for slot in self.parts.extensions.sweep() {
            let source = slot.fetch.source.clone();
            self.streams.unsubscribe(&source, Type::Extension, &slot.name);
            self.config.remove(Kind::Extension, &slot.name);
            let subject = Subject { kind: Type::Extension, source, name: slot.name.clone() };
            self.by_subject.remove(&subject);
            self.fetches.remove(&subject);
        }
    }

    pub(super) fn apply_extensions(&mut self, source: &Source, update: &Update) -> Result<(), String> {
        let mut failures = Failures::default();
        for one in self.decode::<TypedExtensionConfig>(Type::Extension, update)? {
            let Some(slot) = self.parts.extensions.find(source, one.name) else { continue };
            match accept(&slot, one.message) {
                Ok(true) => {
                    let body = one.resource.body.clone();
                    self.config.put_dynamic(Kind::Extension, one.name, body, &update.version, false);
                }
                Ok(false) => {}
                Err(e) => {
                    slot.stats.config_fail.inc();
                    self.refused(Kind::Extension, one.resource, &update.version, &e);
                    failures.add(one.name, &e);
                }
            }
        }
        for name in &update.removed {
            let Some(slot) = self.parts.extensions.find(source, name) else { continue };
            // Its users go back to their defaults, and have none to refuse.
            match slot.set(None) {
                Ok(()) => self.config.remove(Kind::Extension, name),
                Err(e) => failures.add(name, &e),
            }
        }
        failures.summary("extension(s)")
    }
}

/// Puts an extension in force; false where it is what there is.
fn accept(slot: &ExtensionSlot, message: TypedExtensionConfig) -> Result<bool, ConfigError> {
    let TypedExtensionConfig { name, typed_config } = message;
    if name != slot.name {
        let reason = format!("Unexpected resource name in ExtensionConfigDS response: {name}");
        return Err(ConfigError::new("name", reason));
    }
    let Some(config) = typed_config else { return Err(ConfigError::new("typed_config", "value is required")) };
    if slot.holds(&config) {
        return Ok(false);
    }
    slot.set(Some(config)).map(|()| true)
}
