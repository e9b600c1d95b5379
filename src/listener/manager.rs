//! Listeners that come, change and go while others are served (`listener_manager`).
//!
//! An update is prepared first: it is compiled, and its new addresses are bound, so that all that can be wrong with it is known while the listener
//! of before serves. It may then wait for what it needs, and is made active at any later time. What differs decides what happens to connections:
//! where it is only filter chains, those on other chains notice nothing; else the new listener takes the sockets over and all connections of the old
//! one drain.

mod drains;
mod error;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use waypost_filters::address::Address;
use waypost_filters::connection::Direction;
use waypost_xds::envoy::config::core::v3::TrafficDirection;
use waypost_xds::envoy::config::listener::v3;

use self::drains::Drains;
pub use self::error::ListenerError;
use super::compile::{self, Compiled, Known};
use super::identity::{self, Identity};
use super::socket::Bound;
use super::{Chains, ListenSocket, Listener};
use crate::config::Context;
use crate::observe::stats::{Counter, Store};
use crate::worker::{Command, Shared, WorkerHandle};

/// Keeps the listeners. One thread owns it, a tokio runtime's if listeners drain; workers read what it leaves in [`Shared`].
pub struct ListenerManager {
    shared: Arc<Shared>,
    stats: ManagerStats,
    /// By name; their order is the set's.
    active: HashMap<Arc<str>, Active>,
    /// The latest update of each name that is not active yet.
    warming: HashMap<Arc<str>, Warming>,
    /// Counts preparations, so that only the latest of a name can become active.
    generation: u64,
    drains: Drains,
}

/// A listener that is served.
struct Active {
    listener: Arc<Listener>,
    identity: Identity,
    /// Of the bootstrap: updates and removals are passed over.
    fixed: bool,
    sockets: Vec<Arc<ListenSocket>>,
}

/// What is known here of an update that waits elsewhere.
struct Warming {
    generation: u64,
    identity: Identity,
    change: Change,
}

#[derive(Clone)]
enum Change {
    /// Only the filter chains of the active listener change.
    InPlace(Arc<Chains>),
    /// Another listener.
    Whole(Arc<Listener>),
}

/// What an update comes to.
pub enum Prepared {
    /// It is what there is already, or what warms.
    Unchanged,
    /// It is what is active, and what was warming is given up for it.
    Restored,
    /// It is not for us: the listener is one of the bootstrap, or listeners of its direction have been stopped. Envoy accepts such an update too.
    Ignored,
    /// It can be made active.
    Ready(Box<Pending>),
}

/// An update that can be made active. It is given up by [`ListenerManager::abandon`], and by a newer one of its name.
pub struct Pending {
    name: Arc<str>,
    generation: u64,
    change: Change,
    bound: Vec<Bound>,
}

impl Pending {
    /// The listener's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether only filter chains change.
    pub fn is_in_place(&self) -> bool {
        matches!(self.change, Change::InPlace(_))
    }

    /// The filter chains that it would serve, those it shares with the active listener among them: what it may have to wait for is theirs.
    pub fn chains(&self) -> Arc<Chains> {
        match &self.change {
            Change::InPlace(chains) => chains.clone(),
            Change::Whole(listener) => listener.chains.load_full(),
        }
    }
}

/// `listener_manager.…`; `total_listeners_active` and `…_warming` are counted where they are read.
struct ManagerStats {
    added: Counter,
    modified: Counter,
    removed: Counter,
    in_place_updated: Counter,
    create_success: Counter,
    create_failure: Counter,
}

impl ManagerStats {
    fn new(store: &Store) -> ManagerStats {
        let counter = |n: &str| store.counter(&format!("listener_manager.{n}"));
        ManagerStats {
            added: counter("listener_added"),
            modified: counter("listener_modified"),
            removed: counter("listener_removed"),
            in_place_updated: counter("listener_in_place_updated"),
            create_success: counter("listener_create_success"),
            create_failure: counter("listener_create_failure"),
        }
    }
}

impl ListenerManager {
    /// Without listeners. The workers must have been started.
    pub fn new(shared: Arc<Shared>) -> ListenerManager {
        // They are shown from the start.
        shared.stats.counter("listener_manager.listener_stopped");
        ListenerManager {
            stats: ManagerStats::new(&shared.stats),
            drains: Drains::new(shared.clone()),
            active: HashMap::new(),
            warming: HashMap::new(),
            generation: 0,
            shared,
        }
    }

    /// Adds a listener of the bootstrap.
    pub fn add_static(&mut self, compiled: Compiled) -> Result<(), ListenerError> {
        let Compiled { listener, identity } = compiled;
        let pending = self.admit(listener, identity)?;
        let name = pending.name.clone();
        self.activate(pending)?;
        if let Some(active) = self.active.get_mut(&name) {
            active.fixed = true;
        }
        Ok(())
    }

    /// Compiles an update and binds its new addresses. Nothing that is served changes, whatever comes of it.
    pub fn prepare(
        &mut self,
        mut proto: v3::Listener,
        cx: &Context<'_>,
        path: &str,
    ) -> Result<Prepared, ListenerError> {
        let direction = match TrafficDirection::try_from(proto.traffic_direction) {
            Ok(TrafficDirection::Inbound) => Direction::Inbound,
            Ok(TrafficDirection::Outbound) => Direction::Outbound,
            _ => Direction::Unspecified,
        };
        let active = self.active.get(proto.name.as_str());
        if self.shared.listeners.stopped(direction) || active.is_some_and(|a| a.fixed) {
            return Ok(Prepared::Ignored);
        }
        let (identity, chains) = identity::split(&mut proto);
        let warming = self.warming.get(proto.name.as_str());
        match (active.map(|a| a.identity == identity), warming.map(|w| w.identity == identity)) {
            (Some(true), Some(_)) => {
                self.warming.remove(proto.name.as_str());
                self.stats.modified.inc();
                return Ok(Prepared::Restored);
            }
            (Some(true), None) | (_, Some(true)) => return Ok(Prepared::Unchanged),
            _ => {}
        }
        let base = active.filter(|a| a.identity.shell == identity.shell);
        let mut known = Known::default();
        if let Some(active) = active {
            known.add(&active.listener.chains.load(), base.is_some());
        }
        match warming.map(|w| &w.change) {
            Some(Change::InPlace(chains)) => known.add(chains, base.is_some()),
            Some(Change::Whole(listener)) => known.add(&listener.chains.load(), false),
            None => {}
        }
        let chains = compile::chains(chains, &mut known, cx, path)?;
        if let Some(base) = base {
            let (name, change) = (base.listener.name.clone(), Change::InPlace(Arc::new(chains)));
            self.stats.in_place_updated.inc();
            return Ok(Prepared::Ready(Box::new(self.wait(name, identity, change, Vec::new()))));
        }
        let listener = compile::listener(proto, chains, cx, path)?;
        Ok(Prepared::Ready(Box::new(self.admit(listener, identity)?)))
    }

    /// Checks a new listener's addresses and binds those that it cannot take over.
    fn admit(&mut self, listener: Arc<Listener>, identity: Identity) -> Result<Pending, ListenerError> {
        let others = self.listeners().filter(|l| l.name != listener.name);
        if others.flat_map(|l| &l.addresses).any(|a| a.port() != Some(0) && listener.addresses.contains(a)) {
            return Err(ListenerError::duplicate(&listener));
        }
        let before = self.listeners().filter(|l| l.name == listener.name && !l.internal && !listener.internal);
        if before.into_iter().any(|l| l.options.reuse_port != listener.options.reuse_port) {
            return Err(ListenerError::ReusePort(listener.name.clone()));
        }
        let held = self.active.get(&listener.name).map(|a| a.sockets.as_slice()).unwrap_or_default();
        let mut bound = Vec::new();
        for address in listener.addresses.iter().filter(|_| listener.bind) {
            if held.iter().any(|s| s.serves(address, &listener.options)) {
                continue;
            }
            match Bound::bind(address, &listener, workers(&self.shared).len()) {
                Ok(b) => bound.push(b),
                Err(e) => {
                    self.stats.create_failure.inc();
                    return Err(ListenerError::bind(address, &e));
                }
            }
        }
        Ok(self.wait(listener.name.clone(), identity, Change::Whole(listener), bound))
    }

    /// All that is active or warms.
    fn listeners(&self) -> impl Iterator<Item = &Listener> {
        let warming = self.warming.values().filter_map(|w| match &w.change {
            Change::InPlace(_) => None,
            Change::Whole(listener) => Some(&**listener),
        });
        self.active.values().map(|a| &*a.listener).chain(warming)
    }

    fn wait(&mut self, name: Arc<str>, identity: Identity, change: Change, bound: Vec<Bound>) -> Pending {
        let known = self.active.contains_key(&name) || self.warming.contains_key(&name);
        if known {
            self.stats.modified.inc()
        } else {
            self.stats.added.inc()
        }
        self.generation += 1;
        let generation = self.generation;
        self.warming.insert(name.clone(), Warming { generation, identity, change: change.clone() });
        Pending { name, generation, change, bound }
    }

    /// Gives an update up that does not warm. The active listener of its name stays.
    pub fn abandon(&mut self, pending: Pending) {
        self.take(&pending);
    }

    /// Takes what waits off the list; none if it is not the latest of its name.
    fn take(&mut self, pending: &Pending) -> Option<Warming> {
        let latest = self.warming.get(&pending.name).is_some_and(|w| w.generation == pending.generation);
        if latest { self.warming.remove(&pending.name) } else { None }
    }

    /// Makes an update active on all workers. False if it is out of date: a newer one of its name has been prepared, or the listener removed.
    pub fn activate(&mut self, pending: Pending) -> Result<bool, ListenerError> {
        let Some(Warming { identity, .. }) = self.take(&pending) else { return Ok(false) };
        let Pending { name, change, bound, .. } = pending;
        match change {
            Change::InPlace(chains) => {
                let Some(active) = self.active.get_mut(&name) else { return Ok(false) };
                active.identity = identity;
                active.listener.count_tls(&self.shared.stats, &chains);
                let before = active.listener.chains.swap(chains.clone());
                let kept: HashSet<_> = chains.all.iter().map(|c| Arc::as_ptr(&c.state)).collect();
                let gone = before.all.iter().filter(|c| !kept.contains(&Arc::as_ptr(&c.state)));
                self.drains.chains(gone.map(|c| c.state.clone()).collect());
            }
            Change::Whole(listener) => self.replace(listener, identity, bound)?,
        }
        self.stats.create_success.add(workers(&self.shared).len() as u64);
        Ok(true)
    }

    /// Puts a listener in the place of the one of its name, if there is one.
    fn replace(&mut self, listener: Arc<Listener>, identity: Identity, bound: Vec<Bound>) -> Result<(), ListenerError> {
        let shared = self.shared.clone();
        for b in &bound {
            if let Err(e) = b.listen(listener.options.backlog) {
                self.stats.create_failure.inc();
                return Err(ListenerError::listen(&b.socket.address, &e));
            }
        }
        let old = self.active.remove(&listener.name);
        let (mut sockets, mut gone) = (Vec::new(), Vec::new());
        for socket in old.iter().flat_map(|a| &a.sockets) {
            let wanted = |a: &Address| socket.serves(a, &listener.options);
            if listener.bind && listener.addresses.iter().any(wanted) {
                socket.listener.store(listener.clone());
                sockets.push(socket.clone());
            } else {
                gone.push(socket.clone());
            }
        }
        // The new ones first: there is no moment at which nobody listens.
        sockets.extend(bound.into_iter().map(|b| b.serve(workers(&shared))));
        let mut set = (**shared.listeners.load()).clone();
        match old.as_ref().and_then(|old| set.all.iter_mut().find(|l| Arc::ptr_eq(l, &old.listener))) {
            Some(place) => *place = listener.clone(),
            None => set.all.push(listener.clone()),
        }
        set.internal.remove(&listener.name);
        if listener.internal {
            set.internal.insert(listener.name.clone(), listener.clone());
        }
        set.sockets.retain(|s| !gone.iter().any(|g| Arc::ptr_eq(g, s)));
        set.sockets.extend(sockets.iter().filter(|s| !held(&old, s)).cloned());
        shared.listeners.store(set);
        // Another thread may have stopped listeners while these came.
        if shared.listeners.stopped(listener.direction) {
            gone.extend(sockets.iter().cloned());
        }
        close(&shared, &gone);
        let name = listener.name.clone();
        self.active.insert(name, Active { listener, identity, fixed: false, sockets });
        if let Some(old) = old {
            self.drains.listener(&old.listener);
        }
        Ok(())
    }

    /// Removes a listener: closes its sockets, and drains its connections. False for one that is not known or cannot be removed.
    pub fn remove(&mut self, name: &str) -> bool {
        if self.active.get(name).is_some_and(|a| a.fixed) {
            return false;
        }
        let warming = self.warming.remove(name).is_some();
        let Some(Active { listener, sockets, .. }) = self.active.remove(name) else {
            if warming {
                self.stats.removed.inc();
            }
            return warming;
        };
        let mut set = (**self.shared.listeners.load()).clone();
        set.all.retain(|l| !Arc::ptr_eq(l, &listener));
        set.internal.remove(name);
        set.sockets.retain(|s| !sockets.iter().any(|g| Arc::ptr_eq(g, s)));
        self.shared.listeners.store(set);
        close(&self.shared, &sockets);
        self.drains.listener(&listener);
        self.stats.removed.inc();
        true
    }

    /// The names of listeners that may be removed (a full list of the control plane leaves out those that are to go).
    pub fn removable(&self) -> Vec<Arc<str>> {
        let active = self.active.iter().filter(|(_, a)| !a.fixed).map(|(n, _)| n.clone());
        let warming = self.warming.keys().filter(|n| !self.active.contains_key(*n)).cloned();
        active.chain(warming).collect()
    }

    /// The active listener of a name.
    pub fn active(&self, name: &str) -> Option<&Arc<Listener>> {
        self.active.get(name).map(|a| &a.listener)
    }
}

fn held(old: &Option<Active>, socket: &Arc<ListenSocket>) -> bool {
    old.iter().flat_map(|a| &a.sockets).any(|s| Arc::ptr_eq(s, socket))
}

fn workers(shared: &Shared) -> &[WorkerHandle] {
    shared.workers.get().map(Vec::as_slice).unwrap_or_default()
}

/// Ends the accept loops of sockets on all workers.
fn close(shared: &Shared, sockets: &[Arc<ListenSocket>]) {
    if sockets.is_empty() {
        return;
    }
    for socket in sockets {
        socket.close();
    }
    for worker in workers(shared) {
        // A worker that is gone listens no more.
        let _ = worker.sender.send(Command::StopListening);
    }
}
