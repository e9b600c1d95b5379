//! Circuit breakers (`config.cluster.v3.CircuitBreakers`), exact across workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How much of each kind a cluster allows at once, and how much there is.
#[derive(Debug)]
pub struct Limits {
    /// `max_connections`
    pub connections: Limit,
    /// `max_pending_requests`
    pub pending: Limit,
    /// `max_requests`
    pub requests: Limit,
    /// `max_retries`
    pub retries: Limit,
}

/// One limit.
#[derive(Debug)]
pub struct Limit {
    max: u32,
    kind: Kind,
    /// Shared by all limits of a cluster, and by all of its versions.
    usage: Arc<[AtomicU32; 4]>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Connections,
    Pending,
    Requests,
    Retries,
}

/// One unit of a limit, given back when it is dropped.
#[derive(Debug)]
pub struct Permit(Kind, Arc<[AtomicU32; 4]>);

/// What a cluster allows (`circuit_breakers.thresholds` of the default priority).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// `max_connections`
    pub connections: u32,
    /// `max_pending_requests`
    pub pending: u32,
    /// `max_requests`
    pub requests: u32,
    /// `max_retries`
    pub retries: u32,
}

impl Default for Thresholds {
    fn default() -> Thresholds {
        Thresholds { connections: 1024, pending: 1024, requests: 1024, retries: 3 }
    }
}

fn cell(kind: Kind, usage: &[AtomicU32; 4]) -> &AtomicU32 {
    let [connections, pending, requests, retries] = usage;
    match kind {
        Kind::Connections => connections,
        Kind::Pending => pending,
        Kind::Requests => requests,
        Kind::Retries => retries,
    }
}

impl Limit {
    /// Takes one unit, if there is one left.
    pub fn take(&self) -> Option<Permit> {
        let before = cell(self.kind, &self.usage).fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.kind, self.usage.clone());
        (before < self.max).then_some(permit)
    }

    /// Units taken.
    pub fn now(&self) -> u32 {
        cell(self.kind, &self.usage).load(Ordering::Relaxed)
    }

    /// The limit.
    pub fn max(&self) -> u32 {
        self.max
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        cell(self.0, &self.1).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limits {
    /// Limits of these sizes. What the version before has in use counts against them.
    pub fn new(thresholds: Thresholds, before: Option<&Limits>) -> Limits {
        let usage = before.map_or_else(Arc::default, |l| l.connections.usage.clone());
        let limit = |kind, max| Limit { max, kind, usage: usage.clone() };
        Limits {
            connections: limit(Kind::Connections, thresholds.connections),
            pending: limit(Kind::Pending, thresholds.pending),
            requests: limit(Kind::Requests, thresholds.requests),
            retries: limit(Kind::Retries, thresholds.retries),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::new(Thresholds::default(), None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_permit_takes_nothing() {
        let limit = Limits::new(Thresholds { requests: 2, ..Thresholds::default() }, None).requests;
        let a = limit.take();
        let b = limit.take();
        assert!(a.is_some() && b.is_some() && limit.take().is_none());
        assert_eq!(limit.now(), 2);
        drop(a);
        assert!(limit.take().is_some());
    }

    #[test]
    fn what_one_version_has_in_use_counts_for_the_next() {
        let old = Limits::default();
        let held = old.retries.take();
        let new = Limits::new(Thresholds { retries: 1, ..Thresholds::default() }, Some(&old));
        assert!(new.retries.take().is_none() && new.requests.take().is_some());
        drop(held);
        assert!(new.retries.take().is_some());
    }
}
