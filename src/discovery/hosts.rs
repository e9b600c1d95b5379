//! VHDS: virtual hosts that come beside those of a route configuration.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use waypost_xds::any;
use waypost_xds::client::{Update, WILDCARD};
use waypost_xds::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use waypost_xds::google::protobuf::Any;

use super::apply::Failures;
use super::fetch::Subject;
use super::source::{Api, Fetch, Source};
use super::{Manager, Type};
use crate::admin::Kind;
use crate::config::ConfigError;
use crate::route::RouteTable;
use crate::route::slot::RouteSlot;

/// The hosts of a table by the names of their resources.
type ByName = BTreeMap<String, Arc<VirtualHost>>;

/// Virtual hosts, and the tables that they are part of.
#[derive(Default)]
pub(super) struct Hosts {
    /// By what a table's hosts are asked for as. All that came is kept: all hosts are asked for at once, and a table may come later.
    hosts: HashMap<Subject, ByName>,
    /// Tables with `vhds`, by what they are asked for as.
    tables: HashMap<Subject, HostTable>,
}

struct HostTable {
    base: RouteConfiguration,
    fetch: Fetch,
    /// A table that waits for the first answer.
    ready: Option<Arc<RouteTable>>,
}

fn namespace(source: &Source, name: &str) -> Subject {
    Subject { kind: Type::VirtualHost, source: source.clone(), name: name.to_owned() }
}

/// A resource's name is that of its table, a slash, and one of its own.
fn table_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(table, _)| table)
}

impl Manager {
    /// Where the hosts of a table come from; none where it has no `vhds`.
    pub(super) fn hosts_source(&self, slot: &RouteSlot) -> Option<Fetch> {
        self.hosts.tables.get(&super::routes::subject(slot)).map(|t| t.fetch.clone())
    }

    /// Whether a table waits for its first hosts.
    pub(super) fn hosts_are_waited_for(&self, slot: &RouteSlot) -> bool {
        self.hosts.tables.get(&super::routes::subject(slot)).is_some_and(|t| t.ready.is_some())
    }

    /// Takes a route configuration with `vhds`: it goes into force with the hosts that are known, once there has been an answer.
    pub(super) fn follow_hosts(
        &mut self,
        slot: &RouteSlot,
        base: RouteConfiguration,
        fetch: Fetch,
        version: &str,
    ) -> Result<(), ConfigError> {
        self.check_dialect(&fetch.source)?;
        let hosts = namespace(&fetch.source, &slot.name);
        let (table, whole) = self.merged(&base, self.hosts.hosts.get(&hosts))?;
        let route = super::routes::subject(slot);
        if self.hosts.tables.get(&route).is_some_and(|t| t.fetch.source != fetch.source) {
            self.leave_hosts(&route);
        }
        if self.fetches.add(Type::VirtualHost, &fetch, &slot.name, Instant::now()) {
            self.streams.wildcard(&fetch.source, Type::VirtualHost);
            self.count_subject(Type::VirtualHost, &fetch.source, &slot.name, &slot.prefix);
            if self.hosts.hosts.contains_key(&hosts) {
                self.fetches.answered(&hosts);
            }
        }
        let now = slot.current.load().is_some() || self.fetches.settled(&hosts);
        let ready = match now {
            true => {
                self.publish_hosts(slot, table, &hosts);
                None
            }
            false => Some(table),
        };
        self.hosts.tables.insert(route, HostTable { base, fetch, ready });
        self.config.put_dynamic(Kind::Route, &slot.name, whole, version, false);
        Ok(())
    }

    /// Puts a table in force. Requests go on whose host it has, whatever brought it.
    fn publish_hosts(&mut self, slot: &RouteSlot, table: Arc<RouteTable>, hosts: &Subject) {
        for (subject, host) in self.demands.waiting_of(hosts) {
            if table.has_host(&host) {
                self.fetches.answered(&subject);
            }
        }
        slot.current.store(Some(table));
    }

    /// A table has no `vhds` any more, or is gone.
    pub(super) fn leave_hosts(&mut self, route: &Subject) {
        let Some(HostTable { fetch, .. }) = self.hosts.tables.remove(route) else { return };
        let source = fetch.source;
        let hosts = namespace(&source, &route.name);
        for subject in self.demands.forget_all(&hosts) {
            self.fetches.remove(&subject);
            self.streams.unsubscribe(&source, subject.kind, &subject.name);
        }
        self.fetches.remove(&hosts);
        self.by_subject.remove(&hosts);
        if !self.hosts.tables.values().any(|t| t.fetch.source == source) {
            self.streams.unsubscribe(&source, Type::VirtualHost, WILDCARD);
            self.hosts.hosts.retain(|s, _| s.source != source);
        }
    }

    /// Puts tables in force that wait for hosts no more.
    pub(super) fn warm_hosts(&mut self) {
        for (route, table) in &mut self.hosts.tables {
            if table.ready.is_some()
                && self.fetches.settled(&namespace(&table.fetch.source, &route.name))
                && let Some(slot) = self.parts.routes.tables.find(&route.source, &route.name)
            {
                slot.current.store(table.ready.take());
            }
        }
    }

    /// Table by table: what makes no table is refused, and the table stays.
    pub(super) fn apply_hosts(&mut self, source: &Source, update: &Update) -> Result<(), String> {
        let mut changed: BTreeMap<String, ByName> = BTreeMap::new();
        let decoded = self.decode::<VirtualHost>(Type::VirtualHost, update)?;
        let old = |table: &str| self.hosts.hosts.get(&namespace(source, table)).cloned().unwrap_or_default();
        for name in &update.removed {
            let table = table_of(name);
            changed.entry(table.to_owned()).or_insert_with(|| old(table)).remove(name);
        }
        for one in decoded {
            let table = table_of(one.name);
            let hosts = changed.entry(table.to_owned()).or_insert_with(|| old(table));
            hosts.insert(one.name.to_owned(), Arc::new(one.message));
        }
        let mut failures = Failures::default();
        for (name, hosts) in changed {
            match self.change_hosts(source, &name, &hosts, &update.version) {
                Ok(()) => {
                    self.hosts.hosts.insert(namespace(source, &name), hosts);
                }
                Err(e) => failures.add(&name, &e),
            }
        }
        for name in update.resources.iter().map(|r| &r.name).chain(&update.aliases) {
            self.demands.found(&namespace(source, name));
        }
        for name in &update.removed {
            self.demands.gone(&namespace(source, table_of(name)));
        }
        failures.summary("virtual host(s) of")
    }

    /// Puts the tables in force that have these hosts.
    fn change_hosts(&mut self, source: &Source, name: &str, hosts: &ByName, version: &str) -> Result<(), ConfigError> {
        let of = |(r, t): &(&Subject, &HostTable)| r.name == name && t.fetch.source == *source;
        let routes: Vec<Subject> = self.hosts.tables.iter().filter(of).map(|(r, _)| r.clone()).collect();
        let mut tables = Vec::with_capacity(routes.len());
        for route in routes {
            let Some(table) = self.hosts.tables.get(&route) else { continue };
            let Some(slot) = self.parts.routes.tables.find(&route.source, &route.name) else { continue };
            tables.push((self.merged(&table.base, Some(hosts))?, slot, route));
        }
        for ((table, whole), slot, route) in tables {
            self.publish_hosts(&slot, table, &namespace(source, name));
            self.config.put_dynamic(Kind::Route, name, whole, version, false);
            if let Some(table) = self.hosts.tables.get_mut(&route) {
                table.ready = None;
            }
            let reloads = format!("http.{}.rds.vhds.{name}.config_reload", slot.prefix);
            self.parts.shared.stats.counter(&reloads).inc();
        }
        Ok(())
    }

    /// What an update says something of, beside the names of its resources: names that were asked for, and tables.
    pub(super) fn answered_hosts(&self, source: &Source, update: &Update) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = update.aliases.iter().chain(&update.missing).cloned().collect();
        let own = update.resources.iter().map(|r| &r.name).chain(&update.removed);
        let tables = own.chain(&names).map(|n| table_of(n).to_owned()).collect::<Vec<_>>();
        if tables.is_empty() {
            // There are no hosts at all.
            let at = self.hosts.tables.iter().filter(|(_, t)| t.fetch.source == *source);
            names.extend(at.map(|(route, _)| route.name.clone()));
        }
        names.extend(tables);
        names
    }

    /// A table with all its hosts, and what `/config_dump` shows of it, which has them too.
    fn merged(&self, base: &RouteConfiguration, hosts: Option<&ByName>) -> Result<(Arc<RouteTable>, Any), ConfigError> {
        let mut config = base.clone();
        config.virtual_hosts.extend(hosts.into_iter().flatten().map(|(_, host)| (**host).clone()));
        let whole = any::pack(&config);
        let table = RouteTable::compile(config, &self.parts.context(), "route_config")?;
        Ok((self.check_routes(table)?, whole))
    }

    /// Only the incremental dialect has virtual hosts.
    fn check_dialect(&self, source: &Source) -> Result<(), ConfigError> {
        let (api, reason) = match source {
            Source::Ads => {
                (self.dynamic.ads.clone(), "vhds: ADS must use DELTA_GRPC api_type when used as VHDS config source.")
            }
            Source::Service(bytes) => (Some(Api::decode(bytes)?), ONLY_DELTA),
            Source::Path(_) => (None, ONLY_DELTA),
        };
        match api {
            Some(Api::Grpc { delta: true, .. }) => Ok(()),
            _ => Err(ConfigError::new("route_config.vhds.config_source", reason)),
        }
    }
}

const ONLY_DELTA: &str = "vhds: only 'DELTA_GRPC' or 'ADS' (which uses Delta xDS) is supported as a config source.";
