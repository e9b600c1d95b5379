//! Circuit breakers (`config.cluster.v3.CircuitBreakers`), exact across workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How much of each kind a cluster allows at once, and how much there is.
#[derive(Debug)]
pub struct Limits {
    /// `max_connections`
    pub connections: Arc<Limit>,
    /// `max_pending_requests`
    pub pending: Arc<Limit>,
    /// `max_requests`
    pub requests: Arc<Limit>,
    /// `max_retries`
    pub retries: Arc<Limit>,
}

/// One limit.
#[derive(Debug)]
pub struct Limit {
    max: u32,
    now: AtomicU32,
}

/// One unit of a limit, given back when it is dropped.
#[derive(Debug)]
pub struct Permit(Arc<Limit>);

impl Limit {
    /// A limit; `u32::MAX` for none.
    pub fn new(max: u32) -> Arc<Limit> {
        Arc::new(Limit { max, now: AtomicU32::new(0) })
    }

    /// Takes one unit, if there is one left.
    pub fn take(self: &Arc<Limit>) -> Option<Permit> {
        let before = self.now.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(self.clone());
        (before < self.max).then_some(permit)
    }

    /// Units taken.
    pub fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// The limit.
    pub fn max(&self) -> u32 {
        self.max
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: Limit::new(1024),
            pending: Limit::new(1024),
            requests: Limit::new(1024),
            retries: Limit::new(3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_permit_takes_nothing() {
        let limit = Limit::new(2);
        let a = limit.take();
        let b = limit.take();
        assert!(a.is_some() && b.is_some() && limit.take().is_none());
        assert_eq!(limit.now(), 2);
        drop(a);
        assert!(limit.take().is_some());
    }
}
