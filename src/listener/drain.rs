//! The end of a filter chain: responses on it close their connections, and after the drain time what is left is closed.
//!
//! As in Envoy nothing happens to a connection that waits: a client that asks once more still gets its answer, and the word that it is the last.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Poll, Waker};
use std::time::Instant;

use crate::lifecycle::Drain;
use crate::worker::Worker;

/// Whether a filter chain serves, drains or is closed. Every connection on it holds this, not the chain's listener.
#[derive(Debug, Default)]
pub struct ChainState {
    leaving: AtomicBool,
    closed: AtomicBool,
    /// When it began to drain, for a gradual strategy.
    began: OnceLock<Instant>,
}

impl ChainState {
    /// Whether the response at hand is to close its connection; `random` is any number, which a gradual drain tosses.
    pub fn closes(&self, drain: &Drain, random: u64) -> bool {
        self.is_leaving() && (self.is_closed() || self.began.get().is_none_or(|began| drain.tosses(*began, random)))
    }

    /// Whether it drains or is closed.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    /// Whether its connections are to end now.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Set when its connections are to end, whose tasks are woken then.
    pub fn closed(&self) -> &AtomicBool {
        &self.closed
    }

    /// Begins to drain it.
    pub(super) fn leave(&self) {
        // Set before the state, so that who sees the state finds it.
        let _ = self.began.set(Instant::now());
        self.leaving.store(true, Relaxed);
    }

    /// The drain time is over. Connections notice when they are next polled: [`Watchers::wake`] sees to that.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
    }
}

/// The connections of one worker, to be woken when their chains have been closed. Nobody else touches it: no lock, no shared cache line.
#[derive(Debug, Default)]
pub struct Watchers(RefCell<Places>);

#[derive(Debug, Default)]
struct Places {
    taken: Vec<Option<(Arc<ChainState>, Waker)>>,
    free: Vec<usize>,
}

impl Watchers {
    /// Wakes the connections whose chains are closed.
    pub fn wake(&self) {
        let places = self.0.borrow();
        for (_, waker) in places.taken.iter().flatten().filter(|(chain, _)| chain.is_closed()) {
            waker.wake_by_ref();
        }
    }

    fn register(&self, chain: &Arc<ChainState>, waker: &Waker) -> Place<'_> {
        let entry = Some((chain.clone(), waker.clone()));
        let mut places = self.0.borrow_mut();
        let index = match places.free.pop() {
            Some(index) => {
                if let Some(place) = places.taken.get_mut(index) {
                    *place = entry;
                }
                index
            }
            None => {
                places.taken.push(entry);
                places.taken.len() - 1
            }
        };
        Place { watchers: self, index }
    }
}

/// A connection's place; given back when dropped.
struct Place<'a> {
    watchers: &'a Watchers,
    index: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut places = self.watchers.0.borrow_mut();
        let entry = places.taken.get_mut(self.index).and_then(Option::take);
        places.free.push(self.index);
        drop(places);
        drop(entry);
    }
}

/// Serves until the end, or until the chain is closed; then `None`, unless what serves knows of its closing and ends by itself. Must be awaited by one task from its beginning to its end: that is the task that
/// is woken.
pub async fn until_closed<T>(
    worker: &Worker,
    chain: &Arc<ChainState>,
    mut serving: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let mut place = None;
    std::future::poll_fn(|cx| {
        if place.is_none() {
            place = Some(worker.watchers.register(chain, cx.waker()));
        }
        let closed = chain.is_closed();
        match serving.as_mut().poll(cx) {
            Poll::Pending if closed => Poll::Ready(None),
            polled => polled.map(Some),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lifecycle::DrainStrategy;

    #[test]
    fn a_chain_that_goes_closes_connections_by_the_strategy() {
        let (gradual, immediate) = (
            Drain::new(DrainStrategy::Gradual, Duration::from_secs(3600)),
            Drain::new(DrainStrategy::Immediate, Duration::from_secs(3600)),
        );
        // A number that a gradual drain of an hour tosses last.
        let late = 3_599_999;
        let chain = ChainState::default();
        assert!(!chain.is_leaving() && !chain.closes(&immediate, late));
        chain.leave();
        assert!(!chain.closes(&gradual, late) && chain.closes(&immediate, late) && !chain.is_closed());
        chain.close();
        assert!(chain.closes(&gradual, late) && chain.is_closed());
    }

    #[test]
    fn places_are_used_again() {
        let (watchers, chain) = (Watchers::default(), Arc::<ChainState>::default());
        let first = watchers.register(&chain, Waker::noop());
        let second = watchers.register(&chain, Waker::noop());
        drop(first);
        let third = watchers.register(&chain, Waker::noop());
        assert_eq!((second.index, third.index, watchers.0.borrow().taken.len()), (1, 0, 2));
        drop((second, third));
        assert_eq!(Arc::strong_count(&chain), 1);
    }
}
