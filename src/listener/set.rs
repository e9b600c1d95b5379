//! The listeners of the process, as workers and the admin endpoints see them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use arc_swap::{ArcSwap, Guard};
use waypost_filters::connection::Direction;

use super::Listener;
use super::socket::ListenSocket;

/// All listeners that are active.
#[derive(Clone, Default)]
pub struct ListenerSet {
    /// In the order in which they came.
    pub all: Vec<Arc<Listener>>,
    /// Internal ones by name.
    pub internal: HashMap<Arc<str>, Arc<Listener>>,
    /// What they listen on.
    pub sockets: Vec<Arc<ListenSocket>>,
}

/// Which listeners have been stopped for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stopped {
    /// None.
    Nothing,
    /// Those of inbound traffic (`/drain_listeners?inboundonly`).
    Inbound,
    /// All.
    All,
}

/// The active listeners, read without a lock.
#[derive(Default)]
pub struct Listeners {
    set: ArcSwap<ListenerSet>,
    stopped: AtomicU8,
}

impl Listeners {
    /// The listeners at the moment.
    pub fn load(&self) -> Guard<Arc<ListenerSet>> {
        self.set.load()
    }

    /// Puts others in their place.
    pub fn store(&self, set: ListenerSet) {
        self.set.store(Arc::new(set));
    }

    /// Whether listeners of a direction have been stopped; no more are taken then.
    pub fn stopped(&self, direction: Direction) -> bool {
        match self.stopped.load(Relaxed) {
            0 => false,
            1 => direction == Direction::Inbound,
            _ => true,
        }
    }

    /// Stops listeners for good: closes their sockets, whose accept loops have yet to be told. Returns those that were not stopped before.
    pub fn stop(&self, which: Stopped) -> Vec<Arc<Listener>> {
        let before: Vec<_> = self.load().all.iter().filter(|l| self.stopped(l.direction)).cloned().collect();
        self.stopped.fetch_max(which as u8, Relaxed);
        let set = self.load();
        for socket in &set.sockets {
            if self.stopped(socket.listener.load().direction) {
                socket.close();
            }
        }
        let now = set.all.iter().filter(|l| self.stopped(l.direction));
        now.filter(|l| !before.iter().any(|b| Arc::ptr_eq(b, l))).cloned().collect()
    }
}
