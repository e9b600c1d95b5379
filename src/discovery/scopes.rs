//! SRDS: scopes, each a key and the name of a route table.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use waypost_xds::client::{Update, WILDCARD};
use waypost_xds::envoy::config::route::v3::ScopedRouteConfiguration;
use waypost_xds::google::protobuf::Any;

use super::apply::Decoded;
use super::fetch::Subject;
use super::source::Source;
use super::{Manager, Type};
use crate::admin::DumpedScopes;
use crate::config::ConfigError;
use crate::route::RouteTable;
use crate::route::scopes::{Scope, ScopeKey, ScopeRoutes, ScopeTable, ScopedRoutes, Scopes, key_of};
use crate::route::slot::ScopeSlot;

/// What has come of each source.
#[derive(Default)]
pub(super) struct AllScopes(HashMap<Source, Known>);

/// The scopes of a source.
#[derive(Default)]
struct Known {
    version: String,
    by_name: BTreeMap<String, KnownScope>,
}

#[derive(Clone)]
struct KnownScope {
    key: ScopeKey,
    routes: KnownRoutes,
    body: Any,
}

#[derive(Clone)]
enum KnownRoutes {
    /// `route_configuration`
    Own(Arc<RouteTable>),
    /// `route_configuration_name`, and whether it is `on_demand`.
    Named(Arc<str>, bool),
}

impl Manager {
    /// Asks for scopes where compiled listeners say so.
    pub(super) fn subscribe_scopes(&mut self) {
        for slot in self.parts.routes.take_wanted_scopes() {
            let source = slot.fetch.source.clone();
            if self.fetches.add(Type::ScopedRoutes, &slot.fetch, "", Instant::now()) {
                self.streams.wildcard(&source, Type::ScopedRoutes);
                let owner = format!("{}.scoped_rds.{}", slot.prefix, slot.name);
                self.count_subject(Type::ScopedRoutes, &source, "", &owner);
            } else if self.scopes.0.contains_key(&source) {
                self.publish_scopes(&slot);
            }
        }
    }

    /// Forgets scopes that nothing uses any more.
    pub(super) fn sweep_scopes(&mut self) {
        for slot in self.parts.routes.sweep_scopes() {
            self.config.set_scopes(&slot.name, None);
            let source = &slot.fetch.source;
            if !self.parts.routes.scopes_of(source).is_empty() {
                continue;
            }
            self.streams.unsubscribe(source, Type::ScopedRoutes, WILDCARD);
            let subject = Subject { kind: Type::ScopedRoutes, source: source.clone(), name: String::new() };
            self.by_subject.remove(&subject);
            self.fetches.remove(&subject);
            self.scopes.0.remove(source);
        }
    }

    /// All of an update or nothing of it.
    pub(super) fn apply_scopes(&mut self, source: &Source, update: &Update) -> Result<(), String> {
        let decoded = self.decode::<ScopedRouteConfiguration>(Type::ScopedRoutes, update)?;
        let slots = self.parts.routes.scopes_of(source);
        if slots.is_empty() {
            return Ok(());
        }
        let mut by_name = match self.scopes.0.get(source) {
            Some(known) if !update.complete => known.by_name.clone(),
            _ => BTreeMap::new(),
        };
        for name in &update.removed {
            by_name.remove(name);
        }
        self.add_scopes(&mut by_name, decoded).map_err(|e| format!("Error adding/updating scoped route(s): {e}"))?;
        self.scopes.0.insert(source.clone(), Known { version: update.version.clone(), by_name });
        for slot in slots {
            self.publish_scopes(&slot);
            let stats = &self.parts.shared.stats;
            let prefix = format!("http.{}.scoped_rds.{}", slot.prefix, slot.name);
            stats.counter(&format!("{prefix}.config_reload")).inc();
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            stats.gauge(&format!("{prefix}.config_reload_time_ms")).set(now.as_millis() as u64);
        }
        Ok(())
    }

    /// Puts the scopes of a source in force, and asks for their routes but those on demand.
    pub(super) fn publish_scopes(&mut self, slot: &Arc<ScopeSlot>) {
        let Some(known) = self.scopes.0.get(&slot.fetch.source) else { return };
        let old = slot.current.load();
        let mut table = ScopeTable::default();
        let (mut loaded, mut on_demand) = (0u64, 0u64);
        for (name, scope) in &known.by_name {
            let routes = match &scope.routes {
                KnownRoutes::Own(routes) => ScopeRoutes::Here(routes.clone()),
                KnownRoutes::Named(wanted, later) => {
                    // What has been loaded on demand stays so while it is the same.
                    let kept = old.as_deref().and_then(|t| t.find(&scope.key)).and_then(|s| match &s.routes {
                        ScopeRoutes::Slot(routes) if routes.name == **wanted => Some(routes.clone()),
                        _ => None,
                    });
                    on_demand += u64::from(*later);
                    match kept {
                        None if *later => ScopeRoutes::OnDemand(wanted.clone()),
                        kept => {
                            loaded += 1;
                            let slots = &self.parts.routes;
                            let new = || slots.slot(slot.routes.clone(), wanted, &slot.prefix);
                            ScopeRoutes::Slot(kept.unwrap_or_else(new))
                        }
                    }
                }
            };
            table.insert(&scope.key, Scope { name: name.as_str().into(), routes });
        }
        drop(old);
        slot.current.store(Some(Arc::new(table)));
        let prefix = format!("http.{}.scoped_rds.{}", slot.prefix, slot.name);
        let gauge = |name: &str, value: u64| self.parts.shared.stats.gauge(&format!("{prefix}.{name}")).set(value);
        gauge("all_scopes", known.by_name.len() as u64);
        gauge("on_demand_scopes", on_demand);
        gauge("active_scopes", loaded);
        let dumped = DumpedScopes {
            version: known.version.clone(),
            updated: SystemTime::now(),
            scopes: known.by_name.iter().map(|(name, s)| (name.clone(), s.body.clone())).collect(),
        };
        self.config.set_scopes(&slot.name, Some(dumped));
    }

    /// Whether nothing waits for scopes, or for the routes of those that are not on demand.
    pub(super) fn scopes_are_warm(&self, scoped: &ScopedRoutes) -> bool {
        let Scopes::Slot(slot) = &scoped.scopes else { return true };
        match slot.current.load().as_deref() {
            Some(table) => table.iter().all(|scope| match &scope.routes {
                ScopeRoutes::Slot(routes) => self.routes_are_warm(routes),
                ScopeRoutes::Here(_) | ScopeRoutes::OnDemand(_) => true,
            }),
            None => self.fetches.settled(&Subject {
                kind: Type::ScopedRoutes,
                source: slot.fetch.source.clone(),
                name: String::new(),
            }),
        }
    }
}

impl Manager {
    /// Adds what came; no two scopes may have the same key.
    fn add_scopes(
        &self,
        by_name: &mut BTreeMap<String, KnownScope>,
        decoded: Vec<Decoded<'_, ScopedRouteConfiguration>>,
    ) -> Result<(), ConfigError> {
        let changed: HashSet<&str> = decoded.iter().map(|d| d.name).collect();
        let kept = by_name.iter().filter(|(name, _)| !changed.contains(name.as_str()));
        let mut names: HashMap<ScopeKey, String> = kept.map(|(name, s)| (s.key.clone(), name.clone())).collect();
        let mut new = Vec::with_capacity(decoded.len());
        for Decoded { name, message, resource } in decoded {
            let key = key_of(&message, PATH)?;
            if message.name != name {
                return Err(ConfigError::new(format!("{PATH}.name"), format!("the resource's name is '{name}'")));
            }
            if let Some(first) = names.insert(key.clone(), name.to_owned()) {
                let reason = format!("scope key conflict found, first scope is '{first}', second scope is '{name}'");
                return Err(ConfigError::new(format!("{PATH}.key"), reason));
            }
            let routes = self.routes_of_scope(message)?;
            new.push((name.to_owned(), KnownScope { key, routes, body: resource.body.clone() }));
        }
        by_name.extend(new);
        Ok(())
    }

    fn routes_of_scope(&self, scope: ScopedRouteConfiguration) -> Result<KnownRoutes, ConfigError> {
        let ScopedRouteConfiguration { on_demand, name: _, route_configuration_name, route_configuration, key: _ } =
            scope;
        let path = format!("{PATH}.route_configuration");
        match route_configuration {
            Some(_) if !route_configuration_name.is_empty() => {
                Err(ConfigError::new(path, "only one of route_configuration and route_configuration_name may be set"))
            }
            Some(routes) => {
                let routes = RouteTable::compile_whole(routes, &self.parts.context(), &path)?;
                self.check_routes(routes).map(KnownRoutes::Own)
            }
            None if route_configuration_name.is_empty() => {
                Err(ConfigError::new(format!("{path}_name"), "route_configuration_name is empty."))
            }
            None => Ok(KnownRoutes::Named(route_configuration_name.into(), on_demand)),
        }
    }
}

/// Where a scope stands.
const PATH: &str = "scoped_route_configuration";
