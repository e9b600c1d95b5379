//! Requests that wait for routes: for those of a scope on demand, or for a virtual host of VHDS.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;

use super::fetch::Subject;
use super::source::Fetch;
use super::{Manager, Type};
use crate::route::demand::{Ask, Wanted};
use crate::route::scopes::ScopeRoutes;
use crate::route::slot::{RouteSlot, ScopeSlot};

/// So many hosts may be asked for at a time, and so many answers are remembered: it is clients who choose the names.
const NAMES: usize = 1000;
/// A host is not asked for again so soon, whatever the answer was.
const REMEMBERED: Duration = Duration::from_secs(10);
/// How long an answer is waited for where the source sets no time: Envoy's `initial_fetch_timeout`.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Who waits for what.
#[derive(Default)]
pub(super) struct Demands {
    asks: Option<UnboundedReceiver<Ask>>,
    /// By the route table or the host.
    waiting: HashMap<Subject, Waiting>,
    /// Hosts that were asked for a short time ago, the oldest first.
    order: VecDeque<(Instant, Subject)>,
    known: HashSet<Subject>,
    /// Hosts that were there when they were asked for: they stay subscribed.
    found: HashSet<Subject>,
}

#[derive(Default)]
struct Waiting {
    /// The table that a scope needs.
    slot: Option<Arc<RouteSlot>>,
    asks: Vec<Ask>,
}

impl Demands {
    /// Nobody waits yet.
    pub fn new(asks: Option<UnboundedReceiver<Ask>>) -> Demands {
        Demands { asks, ..Demands::default() }
    }

    /// The next request that asks.
    pub async fn next(&mut self) -> Ask {
        if let Some(asks) = &mut self.asks
            && let Some(ask) = asks.recv().await
        {
            return ask;
        }
        std::future::pending().await
    }

    /// Whether somebody waits.
    pub fn waits(&self, subject: &Subject) -> bool {
        self.waiting.contains_key(subject)
    }

    /// The hosts of a table that somebody waits for, and their names alone.
    pub fn waiting_of(&self, table: &Subject) -> Vec<(Subject, String)> {
        let of = self.waiting.keys().filter(|s| belongs(s, table));
        of.filter_map(|s| Some((s.clone(), s.name.rsplit_once('/')?.1.to_owned()))).collect()
    }

    /// A host that was asked for is there.
    pub fn found(&mut self, subject: &Subject) {
        if self.waiting.contains_key(subject) {
            self.found.insert(subject.clone());
        }
    }

    /// Hosts of a table have gone: any of them may be asked for again at once.
    pub fn gone(&mut self, table: &Subject) {
        let Demands { known, found, .. } = self;
        known.retain(|s| !(belongs(s, table) && found.contains(s)));
    }

    /// Forgets a table's hosts, and gives those that are subscribed.
    pub fn forget_all(&mut self, table: &Subject) -> HashSet<Subject> {
        self.order.retain(|(_, s)| !belongs(s, table));
        let waiting = self.waiting.extract_if(|s, _| belongs(s, table)).map(|(s, _)| s);
        let known = self.known.extract_if(|s| belongs(s, table));
        waiting.chain(known).chain(self.found.extract_if(|s| belongs(s, table))).collect()
    }
}

/// Whether a host is one of a table's; `table` is what its hosts are asked for as.
fn belongs(host: &Subject, table: &Subject) -> bool {
    host.kind == table.kind
        && host.source == table.source
        && host.name.rsplit_once('/').is_some_and(|(of, _)| of == table.name)
}

impl Manager {
    /// A request asks.
    pub(super) fn demanded(&mut self, ask: Ask) {
        match &ask.wanted {
            Wanted::Scope { slot, key } => {
                let Some(routes) = self.load_scope(slot, key) else { return };
                self.subscribe_routes();
                if !self.routes_are_warm(&routes) {
                    let subject = super::routes::subject(&routes);
                    let waiting = self.demands.waiting.entry(subject).or_default();
                    waiting.slot = Some(routes);
                    waiting.asks.push(ask);
                }
            }
            Wanted::Host { slot, host } => {
                let Some(fetch) = self.hosts_source(slot) else { return };
                let name = format!("{}/{host}", slot.name);
                self.demanded_host(
                    Subject { kind: Type::VirtualHost, source: fetch.source.clone(), name },
                    &fetch,
                    ask,
                );
            }
        }
    }

    fn demanded_host(&mut self, subject: Subject, fetch: &Fetch, ask: Ask) {
        if let Some(waiting) = self.demands.waiting.get_mut(&subject) {
            waiting.asks.push(ask);
            return;
        }
        if self.demands.known.contains(&subject) || self.demands.waiting.len() >= NAMES {
            return;
        }
        if self.demands.found.remove(&subject) {
            // It went away since. What is subscribed again is asked for again.
            self.streams.unsubscribe(&subject.source, subject.kind, &subject.name);
        }
        let fetch = Fetch { timeout: Some(fetch.timeout.unwrap_or(TIMEOUT)), source: fetch.source.clone() };
        self.fetches.add(subject.kind, &fetch, &subject.name, Instant::now());
        self.streams.subscribe(&subject.source, subject.kind, &subject.name);
        self.demands.waiting.insert(subject, Waiting { slot: None, asks: vec![ask] });
    }

    /// The routes of a scope, asked for if nobody has yet.
    fn load_scope(&self, slot: &Arc<ScopeSlot>, key: &[u8]) -> Option<Arc<RouteSlot>> {
        let table = slot.current.load_full()?;
        let scope = table.find(key)?;
        match &scope.routes {
            ScopeRoutes::Here(_) => None,
            ScopeRoutes::Slot(routes) => Some(routes.clone()),
            ScopeRoutes::OnDemand(name) => {
                let routes = self.parts.routes.slot(slot.routes.clone(), name, &slot.prefix);
                let (mut table, mut scope) = ((*table).clone(), scope.clone());
                scope.routes = ScopeRoutes::Slot(routes.clone());
                table.insert(key, scope);
                slot.current.store(Some(Arc::new(table)));
                let active = format!("http.{}.scoped_rds.{}.active_scopes", slot.prefix, slot.name);
                self.parts.shared.stats.gauge(&active).inc();
                Some(routes)
            }
        }
    }

    /// Lets requests go on whose routes have come, or are known not to.
    pub(super) fn wake(&mut self) {
        if self.demands.waiting.is_empty() {
            return;
        }
        let done = |(subject, waiting): (&Subject, &Waiting)| {
            let over = match &waiting.slot {
                Some(slot) => self.routes_are_warm(slot),
                None => self.fetches.settled(subject),
            };
            over.then(|| subject.clone())
        };
        let done: Vec<Subject> = self.demands.waiting.iter().filter_map(done).collect();
        for subject in done {
            // Who waits goes on as this is dropped.
            self.demands.waiting.remove(&subject);
            if subject.kind == Type::VirtualHost {
                self.fetches.remove(&subject);
                self.demands.known.insert(subject.clone());
                self.demands.order.push_back((Instant::now(), subject));
            }
        }
        while self.demands.order.len() > NAMES {
            self.forget_oldest();
        }
    }

    /// Forgets old answers, and requests that have gone.
    pub(super) fn sweep_demands(&mut self) {
        while self.demands.order.front().is_some_and(|(at, _)| at.elapsed() >= REMEMBERED) {
            self.forget_oldest();
        }
        self.demands.waiting.retain(|_, waiting| {
            waiting.asks.retain(|a| !a.is_over());
            waiting.slot.is_none() || !waiting.asks.is_empty()
        });
    }

    fn forget_oldest(&mut self) {
        let Some((_, subject)) = self.demands.order.pop_front() else { return };
        self.demands.known.remove(&subject);
        if !self.demands.found.contains(&subject) && !self.demands.waits(&subject) {
            self.streams.unsubscribe(&subject.source, subject.kind, &subject.name);
        }
    }
}
