//! What drains, until it is closed.

use std::sync::Arc;

use crate::listener::Listener;
use crate::listener::drain::ChainState;
use crate::observe::stats::Gauge;
use crate::worker::{Command, Shared};

/// Begins drains, and ends them when the drain time is over. Only the states of chains are kept meanwhile: a chain itself goes with its last
/// connection.
pub struct Drains {
    shared: Arc<Shared>,
    chains: Gauge,
    listeners: Gauge,
}

impl Drains {
    pub fn new(shared: Arc<Shared>) -> Drains {
        let gauge = |n: &str| shared.stats.gauge(&format!("listener_manager.{n}"));
        Drains { chains: gauge("total_filter_chains_draining"), listeners: gauge("total_listeners_draining"), shared }
    }

    /// Drains chains of a listener that goes on without them.
    pub fn chains(&self, chains: Vec<Arc<ChainState>>) {
        if chains.is_empty() {
            return;
        }
        let (gauge, count) = (self.chains.clone(), chains.len());
        (0..count).for_each(|_| gauge.inc());
        self.begin(chains, move || (0..count).for_each(|_| gauge.dec()));
    }

    /// Drains all chains of a listener that goes.
    pub fn listener(&self, listener: &Listener) {
        let gauge = self.listeners.clone();
        gauge.inc();
        let chains = listener.chains.load().all.iter().map(|c| c.state.clone()).collect();
        self.begin(chains, move || gauge.dec());
    }

    fn begin(&self, chains: Vec<Arc<ChainState>>, ended: impl FnOnce() + Send + 'static) {
        chains.iter().for_each(|c| c.leave());
        let shared = self.shared.clone();
        tokio::spawn(async move {
            tokio::time::sleep(shared.drain.time()).await;
            chains.iter().for_each(|c| c.close());
            for worker in shared.workers.get().into_iter().flatten() {
                // A worker that is gone serves nothing.
                let _ = worker.sender.send(Command::CloseChains);
            }
            ended();
        });
    }
}
