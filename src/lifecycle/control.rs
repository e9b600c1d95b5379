//! Signals and what the admin endpoints set off.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{ServerState, Stage};
use crate::listener::Stopped;
use crate::worker::{Command, Shared};

/// How often a draining process looks whether its connections are gone: soon enough that nobody waits for it, and cheap.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How the end of the process is brought about.
pub struct Control {
    /// What all threads share.
    pub shared: Arc<Shared>,
    /// Where the process is.
    pub stage: Stage,
    quit: watch::Sender<bool>,
}

impl Control {
    /// A process that has yet to start.
    pub fn new(shared: Arc<Shared>) -> Arc<Control> {
        Arc::new(Control { shared, stage: Stage::default(), quit: watch::channel(false).0 })
    }

    /// Where the process is.
    pub fn state(&self) -> ServerState {
        self.stage.state(&self.shared.drain)
    }

    /// Ends the process (`/quitquitquit`, a second SIGTERM).
    pub fn quit(&self) {
        self.quit.send_replace(true);
    }

    /// Returns when the process is to end.
    pub async fn ended(&self) {
        let mut quit = self.quit.subscribe();
        // The sender lives as long as this.
        let _ = quit.wait_for(|q| *q).await;
    }

    /// Connections and tunnelled streams on all workers.
    pub fn connections(&self) -> usize {
        self.shared.workers.get().into_iter().flatten().map(|w| w.load.load(Relaxed)).sum()
    }

    /// Closes listening sockets for good.
    pub fn stop_listening(&self, which: Stopped) {
        let count = self.shared.stats.counter("listener_manager.listener_stopped");
        count.add(self.shared.listeners.stop(which).len() as u64);
        for worker in self.shared.workers.get().into_iter().flatten() {
            // A worker that is gone listens no more.
            let _ = worker.sender.send(Command::StopListening);
        }
    }

    /// `/drain_listeners`. With `graceful` the sockets close after the drain time, with `skip_exit` never. Must run on a tokio runtime.
    pub fn drain_listeners(self: &Arc<Self>, graceful: bool, skip_exit: bool, inbound_only: bool) {
        let which = if inbound_only {
            self.shared.drain.begin_inbound();
            Stopped::Inbound
        } else {
            self.shared.drain.begin();
            Stopped::All
        };
        if skip_exit {
            return;
        }
        if !graceful {
            self.stop_listening(which);
            return;
        }
        let control = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(control.shared.drain.time()).await;
            control.stop_listening(which);
        });
    }

    /// Serves signals until the process is to end: SIGTERM and SIGINT drain (a second one ends), SIGUSR1 opens the log files again, SIGHUP
    /// is ignored as in Envoy.
    pub async fn signals(self: Arc<Self>, reopen: impl Fn()) -> std::io::Result<()> {
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let mut usr1 = signal(SignalKind::user_defined1())?;
        let mut hup = signal(SignalKind::hangup())?;
        let mut seen = false;
        let ended = self.ended();
        tokio::pin!(ended);
        loop {
            let name = tokio::select! {
                () = &mut ended => return Ok(()),
                _ = term.recv() => "SIGTERM",
                _ = int.recv() => "SIGINT",
                _ = usr1.recv() => { reopen(); continue }
                _ = hup.recv() => continue,
            };
            if seen {
                tracing::warn!(target: "main", "caught ENVOY_{name} again, exiting");
                self.quit();
                continue;
            }
            seen = true;
            tracing::warn!(target: "main", "caught ENVOY_{name}, draining");
            tokio::spawn(self.clone().drain_and_quit());
        }
    }

    /// Drains, and ends when no connection is left or the drain time is over.
    pub async fn drain_and_quit(self: Arc<Self>) {
        self.stage.set(ServerState::Draining);
        self.shared.drain.begin();
        self.stop_listening(Stopped::All);
        for worker in self.shared.workers.get().into_iter().flatten() {
            // A worker that is gone has no clients.
            let _ = worker.sender.send(Command::CloseIdle);
        }
        let gone = async {
            while self.connections() > 0 {
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        };
        if tokio::time::timeout(self.shared.drain.time(), gone).await.is_err() {
            tracing::warn!(target: "main", "{} connections are left at the end of the drain time", self.connections());
        }
        self.quit();
    }
}
