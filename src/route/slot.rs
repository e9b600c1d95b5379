//! Route tables that come over RDS, by name.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;
use waypost_filters::head::RequestHead;

use super::RouteTable;
use super::demand::{Ask, Demand, Wanted};
use super::scopes::{ScopeTable, ScopedRoutes};
use crate::discovery::slots::Slots;
use crate::discovery::source::{Fetch, Source};
use crate::http::config::KnownSettings;

/// Where a connection manager's routes are: in its own configuration, or in a slot that RDS fills.
#[derive(Debug)]
pub enum Routes {
    /// `route_config`
    Here(Arc<RouteTable>),
    /// `rds`
    Slot(Arc<RouteSlot>),
    /// `scoped_routes`
    Scoped(Box<ScopedRoutes>),
}

/// A route table while a request uses it. A guard costs no reference count, so no cache line that other workers write.
pub enum TableRef<'a> {
    /// One that does not change.
    Here(&'a RouteTable),
    /// What the slot held when the request came.
    Loaded(Guard<Option<Arc<RouteTable>>>),
    /// One that a scope of SRDS brought with it.
    Own(Arc<RouteTable>),
    /// No scope is the request's, or none with routes.
    Nothing,
}

/// One route table of RDS. Connection managers that name the same one share it.
#[derive(Debug)]
pub struct RouteSlot {
    /// `route_config_name`
    pub name: String,
    /// Where it comes from, and how long it is waited for.
    pub fetch: Fetch,
    /// The `stat_prefix` of the first connection manager that named it.
    pub prefix: String,
    /// The table, once there is one.
    pub current: ArcSwapOption<RouteTable>,
    /// Where virtual hosts are asked for.
    pub demand: Arc<Demand>,
}

/// The scopes of SRDS. Connection managers that say the same of them share them.
#[derive(Debug)]
pub struct ScopeSlot {
    /// `name`, which only statistics and dumps have.
    pub name: String,
    /// Where scopes come from: all that there are.
    pub fetch: Fetch,
    /// Where their routes come from.
    pub routes: Fetch,
    /// The `stat_prefix` of the first connection manager that named it.
    pub prefix: String,
    /// The scopes, once there are any.
    pub current: ArcSwapOption<ScopeTable>,
    /// Where the routes of scopes on demand are asked for.
    pub demand: Arc<Demand>,
}

/// What connection managers share: all slots, and settings.
#[derive(Debug, Default)]
pub struct RouteSlots {
    /// Settings that have been compiled before.
    pub settings: KnownSettings,
    /// The slots of route tables.
    pub tables: Slots<RouteSlot>,
    scopes: Mutex<Vec<Arc<ScopeSlot>>>,
    wanted_scopes: Mutex<Vec<Arc<ScopeSlot>>>,
    demand: Arc<Demand>,
}

impl Routes {
    /// The table for a request that comes now.
    pub fn load(&self, request: &RequestHead) -> TableRef<'_> {
        match self {
            Routes::Here(table) => TableRef::Here(table),
            Routes::Slot(slot) => TableRef::Loaded(slot.current.load()),
            Routes::Scoped(scoped) => scoped.load(request),
        }
    }

    /// Whether the table depends on the request, which rules and filters may change.
    pub fn scoped(&self) -> bool {
        matches!(self, Routes::Scoped(_))
    }

    /// Asks the control thread for the routes of a request that has none; nothing where there is nobody to ask.
    pub fn ask(&self, request: &RequestHead) -> Option<oneshot::Receiver<()>> {
        match self {
            Routes::Here(_) => None,
            Routes::Slot(slot) => slot.ask(request),
            Routes::Scoped(scoped) => scoped.ask(request),
        }
    }

    /// The tables within the configuration itself.
    pub fn inline(&self) -> impl Iterator<Item = &Arc<RouteTable>> {
        let (one, many) = match self {
            Routes::Here(table) => (Some(table), None),
            Routes::Slot(_) => (None, None),
            Routes::Scoped(scoped) => (None, Some(scoped.inline())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

impl TableRef<'_> {
    /// The table; none while RDS has not given one.
    pub fn get(&self) -> Option<&RouteTable> {
        match self {
            TableRef::Here(table) => Some(table),
            TableRef::Loaded(loaded) => loaded.as_deref(),
            TableRef::Own(table) => Some(table),
            TableRef::Nothing => None,
        }
    }
}

impl RouteSlot {
    /// Asks for the virtual host of a request that has none, where they come over VHDS.
    pub fn ask(self: &Arc<Self>, request: &RequestHead) -> Option<oneshot::Receiver<()>> {
        self.current.load().as_deref()?.vhds.as_ref()?;
        let host = request.authority.as_ref()?.to_str().ok()?.to_ascii_lowercase();
        // The name of the resource ends at its last slash, and no host has one.
        if host.is_empty() || host.len() > LONGEST_HOST || host.contains('/') {
            return None;
        }
        self.demand.ask(Wanted::Host { slot: self.clone(), host })
    }
}

/// A DNS name has 253 bytes, and a port six more with its colon.
const LONGEST_HOST: usize = 259;

impl RouteSlots {
    /// What requests ask for, for the control thread alone.
    pub fn take_asks(&self) -> Option<UnboundedReceiver<Ask>> {
        self.demand.take()
    }

    /// The slot of a name, made if there is none.
    pub fn slot(&self, fetch: Fetch, name: &str, prefix: &str) -> Arc<RouteSlot> {
        self.tables.get_or_make(fetch.source.clone(), name, || RouteSlot {
            name: name.to_owned(),
            fetch,
            prefix: prefix.to_owned(),
            current: ArcSwapOption::empty(),
            demand: self.demand.clone(),
        })
    }

    /// The slot of scopes, made if there is none.
    pub fn scopes(&self, fetch: Fetch, routes: Fetch, name: &str, prefix: &str) -> Arc<ScopeSlot> {
        let mut all = lock(&self.scopes);
        let same = |s: &&Arc<ScopeSlot>| s.name == name && s.fetch.source == fetch.source && s.routes == routes;
        if let Some(slot) = all.iter().find(same) {
            return slot.clone();
        }
        let slot = Arc::new(ScopeSlot {
            name: name.to_owned(),
            fetch,
            routes,
            prefix: prefix.to_owned(),
            current: ArcSwapOption::empty(),
            demand: self.demand.clone(),
        });
        all.push(slot.clone());
        lock(&self.wanted_scopes).push(slot.clone());
        slot
    }

    /// All scopes that come from a source.
    pub fn scopes_of(&self, source: &Source) -> Vec<Arc<ScopeSlot>> {
        lock(&self.scopes).iter().filter(|s| s.fetch.source == *source).cloned().collect()
    }

    /// The slots of scopes that were made since the last call.
    pub fn take_wanted_scopes(&self) -> Vec<Arc<ScopeSlot>> {
        std::mem::take(&mut *lock(&self.wanted_scopes))
    }

    /// Forgets the slots of scopes that nothing uses any more, and gives them.
    pub fn sweep_scopes(&self) -> Vec<Arc<ScopeSlot>> {
        if !lock(&self.wanted_scopes).is_empty() {
            return Vec::new();
        }
        lock(&self.scopes).extract_if(.., |slot| Arc::strong_count(slot) == 1).collect()
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
