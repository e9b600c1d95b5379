//! RDS: route tables by name.

use std::sync::Arc;
use std::time::Instant;

use waypost_xds::client::Update;
use waypost_xds::envoy::config::route::v3::RouteConfiguration;

use super::apply::Failures;
use super::fetch::Subject;
use super::source::Source;
use super::{Manager, Type};
use crate::admin::Kind;
use crate::config::ConfigError;
use crate::route::RouteTable;
use crate::route::slot::RouteSlot;

impl Manager {
    /// Asks for the tables that compiled listeners name, and no more for those that nothing names.
    pub(super) fn subscribe_routes(&mut self) {
        for slot in self.parts.routes.tables.take_wanted() {
            let source = &slot.fetch.source;
            if self.fetches.add(Type::Route, &slot.fetch, &slot.name, Instant::now()) {
                self.streams.subscribe(source, Type::Route, &slot.name);
                self.count_subject(Type::Route, source, &slot.name, &slot.prefix);
            }
        }
    }

    /// Whether nothing waits for a table any more.
    pub(super) fn routes_are_warm(&self, slot: &RouteSlot) -> bool {
        slot.current.load().is_some() || (self.fetches.settled(&subject(slot)) && !self.hosts_are_waited_for(slot))
    }

    /// Forgets tables that nothing uses any more.
    pub(super) fn sweep_routes(&mut self) {
        for slot in self.parts.routes.tables.sweep() {
            let source = slot.fetch.source.clone();
            self.streams.unsubscribe(&source, Type::Route, &slot.name);
            self.config.remove(Kind::Route, &slot.name);
            let subject = subject(&slot);
            self.leave_hosts(&subject);
            self.by_subject.remove(&subject);
            self.fetches.remove(&subject);
        }
    }

    pub(super) fn apply_routes(&mut self, source: &Source, update: &Update) -> Result<(), String> {
        let mut failures = Failures::default();
        for one in self.decode::<RouteConfiguration>(Type::Route, update)? {
            let Some(slot) = self.parts.routes.tables.find(source, one.name) else { continue };
            let body = &one.resource.body;
            if slot.current.load().is_some() && self.config.same(Kind::Route, one.name, body) {
                continue;
            }
            let base = one.message.vhds.is_some().then(|| one.message.clone());
            let compiled = if one.message.name == one.name {
                RouteTable::compile(one.message, &self.parts.context(), "route_config")
                    .and_then(|t| self.check_routes(t))
            } else {
                let reason = format!("Unexpected RDS configuration (expecting {}): {}", one.name, one.message.name);
                Err(ConfigError::new("route_config.name", reason))
            };
            let in_force = compiled.and_then(|table| match (base, table.vhds.clone()) {
                (Some(base), Some(fetch)) => self.follow_hosts(&slot, base, fetch, &update.version),
                _ => {
                    self.leave_hosts(&subject(&slot));
                    slot.current.store(Some(table));
                    self.config.put_dynamic(Kind::Route, one.name, body.clone(), &update.version, false);
                    Ok(())
                }
            });
            match in_force {
                Ok(()) => {
                    let prefix = &slot.prefix;
                    self.parts.shared.stats.counter(&format!("http.{prefix}.rds.{}.config_reload", one.name)).inc();
                }
                Err(e) => {
                    self.refused(Kind::Route, one.resource, &update.version, &e);
                    failures.add(one.name, &e);
                }
            }
        }
        failures.summary("route(s)")
    }

    /// With `validate_clusters` all clusters must exist; over RDS it is off unless it is asked for.
    pub(super) fn check_routes(&self, table: Arc<RouteTable>) -> Result<Arc<RouteTable>, ConfigError> {
        if table.validate_clusters == Some(true) {
            let known = |name: &str| self.parts.shared.clusters.find(name).is_some_and(|s| s.current.load().is_some());
            if let Some(missing) = table.referenced_clusters().find(|c| !known(c)) {
                return Err(ConfigError::new("route_config", format!("route: unknown cluster '{missing}'")));
            }
        }
        Ok(table)
    }
}

/// What a table is asked for as.
pub(super) fn subject(slot: &RouteSlot) -> Subject {
    Subject { kind: Type::Route, source: slot.fetch.source.clone(), name: slot.name.clone() }
}
