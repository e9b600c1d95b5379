//! Start, drain and end of the process.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::watch;

/// Whether the process drains: responses then say `connection: close` or GOAWAY.
pub struct Drain {
    draining: AtomicBool,
    sender: watch::Sender<bool>,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain { draining: AtomicBool::new(false), sender: watch::channel(false).0 }
    }
}

impl Drain {
    /// Whether it has begun.
    pub fn is_on(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Begins it.
    pub fn begin(&self) {
        self.draining.store(true, Relaxed);
        self.sender.send_replace(true);
    }

    /// Ends it (`/healthcheck/ok`).
    pub fn cancel(&self) {
        self.draining.store(false, Relaxed);
        self.sender.send_replace(false);
    }

    /// For waiting until it begins.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.sender.subscribe()
    }
}
