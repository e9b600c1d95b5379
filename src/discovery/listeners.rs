//! LDS: listeners come, warm, change and go.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use waypost_xds::client::Update;
use waypost_xds::envoy::config::listener::v3;

use super::apply::{Decoded, Failures};
use super::fetch::Subject;
use super::init::Stage;
use super::source::Source;
use super::{Manager, Type};
use crate::admin::Kind;
use crate::config::bootstrap::check_clusters;
use crate::config::extension::Discovery;
use crate::listener::compile::Compiled;
use crate::listener::manager::{ListenerError, ListenerManager, Pending, Prepared};
use crate::listener::{Chains, Terminal};

/// Listeners in force, and those that are not yet.
pub(super) struct Listeners {
    manager: ListenerManager,
    /// The bootstrap's, until the process accepts connections.
    compiled: Vec<Compiled>,
    /// Those of LDS that wait, by name.
    warming: BTreeMap<String, Pending>,
    /// The names of all of LDS.
    dynamic: HashSet<String>,
}

impl Listeners {
    /// With the bootstrap's.
    pub fn new(manager: ListenerManager, compiled: Vec<Compiled>) -> Listeners {
        Listeners { manager, compiled, warming: BTreeMap::new(), dynamic: HashSet::new() }
    }
}

impl Manager {
    pub(super) fn apply_listeners(&mut self, update: &Update) -> Result<(), String> {
        let decoded = self.decode::<v3::Listener>(Type::Listener, update)?;
        let mut failures = Failures::default();
        let named: HashSet<&str> = update.resources.iter().map(|r| r.name.as_str()).collect();
        let gone: Vec<String> = if update.complete {
            self.listeners.dynamic.iter().filter(|n| !named.contains(n.as_str())).cloned().collect()
        } else {
            update.removed.clone()
        };
        // Removals come first: a new listener may have the address of one that goes.
        for name in gone {
            self.remove_listener(&name);
        }
        for one in decoded {
            let (name, resource) = (one.name, one.resource);
            match self.add_listener(one, &update.version) {
                Ok(true) => tracing::info!(target: "upstream", "lds: add/update listener '{name}'"),
                Ok(false) => {}
                Err(e) => {
                    self.refused(Kind::Listener, resource, &update.version, &e);
                    failures.add(name, &e);
                }
            }
        }
        self.sweep();
        failures.summary("listener(s)")
    }

    /// Adds or changes a listener; false where nothing changes.
    fn add_listener(&mut self, one: Decoded<'_, v3::Listener>, version: &str) -> Result<bool, ListenerError> {
        let Decoded { name, message, resource } = one;
        let parts = self.parts.clone();
        let prepared = self.listeners.manager.prepare(message, &parts.context(), "listener")?;
        let body = resource.body.clone();
        let pending = match prepared {
            Prepared::Ignored => return Ok(false),
            Prepared::Unchanged => {
                // Other bytes of the same meaning, for what is in force or for what warms.
                let warming = self.listeners.warming.contains_key(name);
                self.config.put_dynamic(Kind::Listener, name, body, version, warming);
                return Ok(false);
            }
            Prepared::Restored => {
                self.listeners.warming.remove(name);
                self.config.put_dynamic(Kind::Listener, name, body, version, false);
                return Ok(false);
            }
            Prepared::Ready(pending) => *pending,
        };
        if let Err(e) = check_clusters(&pending.chains(), &parts.shared.clusters, "listener") {
            self.listeners.manager.abandon(pending);
            return Err(e.into());
        }
        self.subscribe_wanted();
        self.listeners.dynamic.insert(name.to_owned());
        if self.init.stage == Stage::Live && self.chains_are_warm(&pending.chains()) {
            self.listeners.warming.remove(name);
            self.listeners.manager.activate(pending)?;
            self.config.put_dynamic(Kind::Listener, name, body, version, false);
        } else {
            self.listeners.warming.insert(name.to_owned(), pending);
            self.config.put_dynamic(Kind::Listener, name, body, version, true);
        }
        Ok(true)
    }

    fn remove_listener(&mut self, name: &str) {
        if !self.listeners.dynamic.remove(name) {
            return;
        }
        tracing::info!(target: "upstream", "lds: remove listener '{name}'");
        self.listeners.warming.remove(name);
        self.listeners.manager.remove(name);
        self.config.remove(Kind::Listener, name);
    }

    /// Puts listeners in force that wait for nothing any more.
    pub(super) fn warm_listeners(&mut self) {
        if self.init.stage != Stage::Live || self.listeners.warming.is_empty() {
            return;
        }
        let warming = self.listeners.warming.iter();
        let ready: Vec<String> =
            warming.filter(|(_, p)| self.chains_are_warm(&p.chains())).map(|(n, _)| n.clone()).collect();
        for name in ready {
            self.open_listener(&name);
        }
    }

    /// Whether no listener waits, when the process starts.
    pub(super) fn listeners_are_warm(&self) -> bool {
        let fixed = self.listeners.compiled.iter().map(|c| c.listener.chains.load_full());
        fixed.chain(self.listeners.warming.values().map(Pending::chains)).all(|c| self.chains_are_warm(&c))
    }

    /// Opens all listeners, when the process starts. One of the bootstrap that cannot be opened ends it.
    pub(super) fn open_listeners(&mut self) -> Result<(), (Arc<str>, ListenerError)> {
        for compiled in std::mem::take(&mut self.listeners.compiled) {
            let name = compiled.listener.name.clone();
            self.listeners.manager.add_static(compiled).map_err(|e| (name, e))?;
        }
        let names: Vec<String> = self.listeners.warming.keys().cloned().collect();
        for name in names {
            self.open_listener(&name);
        }
        Ok(())
    }

    fn open_listener(&mut self, name: &str) {
        let Some(pending) = self.listeners.warming.remove(name) else { return };
        match self.listeners.manager.activate(pending) {
            Ok(_) => self.config.warmed(Kind::Listener, name),
            // The sender has had its answer: only the log can tell. What was in force stays.
            Err(e) => {
                tracing::warn!(target: "config", "listener '{name}': {e}");
                self.config.dropped(Kind::Listener, name);
            }
        }
    }

    fn chains_are_warm(&self, chains: &Chains) -> bool {
        chains.all.iter().all(|chain| {
            chain.tls.as_ref().is_none_or(|t| t.settled())
                && chain.discovered.iter().all(|d| self.extension_is_warm(d))
                && match &chain.terminal {
                    Terminal::Http(hcm) => {
                        hcm.discovered().all(|d| self.extension_is_warm(d))
                            && hcm.routes.slot().is_none_or(|slot| {
                                slot.current.load().is_some()
                                    || self.is_settled(Type::Route, &slot.fetch.source, &slot.name)
                            })
                    }
                    _ => true,
                }
        })
    }

    fn extension_is_warm(&self, discovery: &Discovery) -> bool {
        let slot = &discovery.slot;
        discovery.without_warming || slot.is_here() || self.is_settled(Type::Extension, &slot.fetch.source, &slot.name)
    }

    fn is_settled(&self, kind: Type, source: &Source, name: &str) -> bool {
        self.fetches.settled(&Subject { kind, source: source.clone(), name: name.to_owned() })
    }

    /// Forgets what nothing uses any more.
    pub(super) fn sweep(&mut self) {
        self.sweep_routes();
        self.sweep_extensions();
        self.sweep_secrets();
    }
}
