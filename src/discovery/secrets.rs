//! SDS: certificates, keys and roots.

use std::sync::Arc;
use std::time::Instant;

use waypost_xds::any;
use waypost_xds::client::Update;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3::Secret;

use super::apply::Failures;
use super::fetch::Subject;
use super::source::{Fetch, Source};
use super::{Manager, Type};
use crate::admin::Kind;
use crate::tls::SecretSlot;

impl Manager {
    /// Asks for the secrets that compiled contexts name.
    pub(super) fn subscribe_secrets(&mut self) {
        for slot in self.parts.secrets.take_wanted() {
            let Some(subject) = subject(&slot) else { continue };
            let fetch = Fetch { source: subject.source.clone(), timeout: slot.initial_fetch_timeout() };
            if self.fetches.add(Type::Secret, &fetch, slot.name(), Instant::now()) {
                self.streams.subscribe(&fetch.source, Type::Secret, slot.name());
                self.count_subject(Type::Secret, &fetch.source, slot.name(), "");
                // What istioctl shows as warming; Envoy's word for its version.
                let unknown = any::pack(&Secret { name: slot.name().to_owned(), r#type: None });
                self.config.put_dynamic(Kind::Secret, slot.name(), unknown, "uninitialized", true);
            }
            self.secret_slots.insert(subject, slot);
        }
    }

    /// Forgets secrets that no context uses any more.
    pub(super) fn sweep_secrets(&mut self) {
        for slot in self.parts.secrets.sweep() {
            let Some(subject) = subject(&slot) else { continue };
            self.streams.unsubscribe(&subject.source, Type::Secret, slot.name());
            self.config.remove(Kind::Secret, slot.name());
            self.by_subject.remove(&subject);
            self.fetches.remove(&subject);
            self.secret_slots.remove(&subject);
        }
    }

    pub(super) fn apply_secrets(&mut self, source: &Source, update: &Update) -> Result<(), String> {
        let mut failures = Failures::default();
        let mut changed = false;
        for one in self.decode::<Secret>(Type::Secret, update)? {
            let subject = Subject { kind: Type::Secret, source: source.clone(), name: one.name.to_owned() };
            let Some(slot) = self.secret_slots.get(&subject) else { continue };
            match slot.set(one.message) {
                Ok(()) => {
                    changed = true;
                    let body = one.resource.body.clone();
                    self.config.put_dynamic(Kind::Secret, one.name, body, &update.version, false);
                }
                Err(e) => {
                    slot.settle();
                    self.refused(Kind::Secret, one.resource, &update.version, &e);
                    failures.add(one.name, &e);
                }
            }
        }
        for name in &update.removed {
            // Envoy keeps a secret that its server takes away.
            let subject = Subject { kind: Type::Secret, source: source.clone(), name: name.clone() };
            if let Some(slot) = self.secret_slots.get(&subject) {
                slot.settle();
            }
        }
        if changed {
            self.parts.secrets.refresh();
        }
        failures.summary("secret(s)")
    }
}

/// What a secret is asked for as; none for one that no service has.
fn subject(slot: &Arc<SecretSlot>) -> Option<Subject> {
    // What cannot be read was refused when the slot was made.
    let fetch = Fetch::of(slot.source()?, "sds_config").ok()?;
    Some(Subject { kind: Type::Secret, source: fetch.source, name: slot.name().to_owned() })
}
