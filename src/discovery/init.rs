//! The order in which a process starts: clusters, then listeners, then the workers accept.

use std::sync::Arc;
use std::time::Instant;

use super::fetch::Subject;
use super::source::Fetch;
use super::stats::SubscriptionStats;
use super::{Manager, Type};
use crate::lifecycle::ServerState;
use crate::listener::manager::ListenerError;

/// How far the start is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Clusters are fetched and warmed.
    #[default]
    Clusters,
    /// Listeners are fetched and warmed.
    Listeners,
    /// Connections are accepted.
    Live,
}

/// The start of the process.
#[derive(Debug, Default)]
pub(super) struct Init {
    pub stage: Stage,
    /// A listener of the bootstrap that cannot be opened: the process ends.
    pub failed: Option<(Arc<str>, ListenerError)>,
}

impl Manager {
    /// Asks for what the bootstrap names.
    pub(super) fn start(&mut self) {
        self.adopt_clusters();
        for layer in self.dynamic.runtime.clone() {
            self.ask(Type::Runtime, &layer.fetch, &layer.name);
        }
        if let Some(fetch) = self.dynamic.clusters.clone() {
            self.ask(Type::Cluster, &fetch, "");
        }
        if let Some(fetch) = self.dynamic.workloads.clone() {
            self.ask(Type::Workload, &fetch, "");
        }
        self.settle();
    }

    /// Goes on to the next stage when there is nothing left to wait for.
    pub(super) fn advance(&mut self) {
        if self.init.stage == Stage::Clusters && self.answered(Type::Cluster) && self.clusters.are_warm(&self.fetches) {
            tracing::info!(target: "main", "all clusters initialized. initializing init manager");
            self.init.stage = Stage::Listeners;
            self.control.stage.set(ServerState::Initializing);
            if let Some(fetch) = self.dynamic.listeners.clone() {
                self.ask(Type::Listener, &fetch, "");
            }
        }
        if self.init.stage == Stage::Listeners && self.answered(Type::Listener) && self.listeners_are_warm() {
            tracing::info!(target: "main", "all dependencies initialized. starting workers");
            self.init.stage = Stage::Live;
            if let Err(failed) = self.open_listeners() {
                self.init.failed = Some(failed);
                return;
            }
            self.control.stage.set(ServerState::Live);
        }
    }

    fn answered(&self, kind: Type) -> bool {
        self.fetches.subjects(kind).filter(|s| s.name.is_empty()).all(|s| self.fetches.settled(s))
    }

    fn ask(&mut self, kind: Type, fetch: &Fetch, name: &str) {
        if !self.fetches.add(kind, fetch, name, Instant::now()) {
            return;
        }
        if name.is_empty() {
            self.streams.wildcard(&fetch.source, kind);
        } else {
            self.streams.subscribe(&fetch.source, kind, name);
        }
        self.count_subject(kind, &fetch.source, name, "");
    }

    /// Keeps counters for what is asked for; `owner` is part of the name of some.
    pub(super) fn count_subject(&mut self, kind: Type, source: &super::source::Source, name: &str, owner: &str) {
        let subject = Subject { kind, source: source.clone(), name: name.to_owned() };
        if let Some(stats) = SubscriptionStats::of(&self.parts.shared.stats, &subject, owner) {
            stats.update_attempt.inc();
            self.by_subject.insert(subject, stats);
        }
    }

    /// Asks for everything that was named by what has been compiled since.
    pub(super) fn subscribe_wanted(&mut self) {
        self.subscribe_routes();
        self.subscribe_extensions();
        self.subscribe_secrets();
    }
}
