//! What a request asks the control thread for, where its routes are not there yet.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::scopes::ScopeKey;
use super::slot::{RouteSlot, ScopeSlot};

/// So many requests of the process may wait at a time; a further one goes on without routes. Each costs a few hundred bytes, and it is clients
/// who make them wait.
const REQUESTS: usize = 10_000;

/// The way from the workers to the control thread.
#[derive(Debug)]
pub struct Demand {
    sender: UnboundedSender<Ask>,
    receiver: Mutex<Option<UnboundedReceiver<Ask>>>,
    waiting: Arc<Semaphore>,
}

/// What a request waits for. It goes on when this is dropped.
#[derive(Debug)]
pub struct Ask {
    /// What it wants.
    pub wanted: Wanted,
    answer: oneshot::Sender<()>,
    _permit: OwnedSemaphorePermit,
}

/// What there may be to ask for.
#[derive(Debug)]
pub enum Wanted {
    /// The routes of a scope that is on demand.
    Scope {
        /// The scopes.
        slot: Arc<ScopeSlot>,
        /// Its key.
        key: ScopeKey,
    },
    /// A virtual host of VHDS.
    Host {
        /// The route table.
        slot: Arc<RouteSlot>,
        /// The request's authority in lower case.
        host: String,
    },
}

impl Default for Demand {
    fn default() -> Demand {
        let (sender, receiver) = unbounded_channel();
        Demand { sender, receiver: Mutex::new(Some(receiver)), waiting: Arc::new(Semaphore::new(REQUESTS)) }
    }
}

impl Demand {
    /// Asks; what is given ends with the waiting, whatever came of it. None where too many wait.
    pub fn ask(&self, wanted: Wanted) -> Option<oneshot::Receiver<()>> {
        let permit = self.waiting.clone().try_acquire_owned().ok()?;
        let (answer, wait) = oneshot::channel();
        self.sender.send(Ask { wanted, answer, _permit: permit }).ok()?;
        Some(wait)
    }

    /// The control thread's end, once.
    pub fn take(&self) -> Option<UnboundedReceiver<Ask>> {
        self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Ask {
    /// Whether the request has gone.
    pub fn is_over(&self) -> bool {
        self.answer.is_closed()
    }
}
