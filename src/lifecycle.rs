//! Start, drain and end of the process.

mod control;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use self::control::Control;

/// `admin.v3.ServerInfo.State`, with the numbers of the gauge `server.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// Serving.
    Live = 0,
    /// Health checks fail (`/healthcheck/fail`, SIGTERM).
    Draining = 1,
    /// The bootstrap is being loaded.
    PreInitializing = 2,
    /// Clusters and listeners are being fetched.
    Initializing = 3,
}

impl ServerState {
    /// The name that `/ready` and `/server_info` print.
    pub fn name(self) -> &'static str {
        match self {
            ServerState::Live => "LIVE",
            ServerState::Draining => "DRAINING",
            ServerState::PreInitializing => "PRE_INITIALIZING",
            ServerState::Initializing => "INITIALIZING",
        }
    }
}

/// `--drain-strategy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DrainStrategy {
    /// Responses close connections ever more often over `--drain-time-s`.
    #[default]
    Gradual,
    /// Every response does.
    Immediate,
}

/// The reasons to drain, which end on their own.
const SEQUENCE: u8 = 1;
const UNHEALTHY: u8 = 2;
/// As the first, but only connections of inbound listeners go.
const INBOUND: u8 = 4;

/// Whether the process drains: responses then say `connection: close` or GOAWAY.
pub struct Drain {
    reasons: AtomicU8,
    sender: watch::Sender<bool>,
    strategy: DrainStrategy,
    time: Duration,
    created: Instant,
    /// When the drain sequence began, in milliseconds since `created`.
    began: AtomicU64,
}

impl Default for Drain {
    fn default() -> Drain {
        Drain::new(DrainStrategy::Immediate, Duration::from_secs(600))
    }
}

impl Drain {
    /// With `--drain-strategy` and `--drain-time-s`.
    pub fn new(strategy: DrainStrategy, time: Duration) -> Drain {
        Drain {
            reasons: AtomicU8::new(0),
            sender: watch::channel(false).0,
            strategy,
            time,
            created: Instant::now(),
            began: AtomicU64::new(0),
        }
    }

    /// Whether it has begun.
    pub fn is_on(&self) -> bool {
        self.reasons.load(Relaxed) != 0
    }

    /// Whether the response at hand is to close its connection, which is of an `inbound` listener or is not; `random` is any number, which a
    /// gradual drain tosses.
    pub fn closes(&self, inbound: bool, random: u64) -> bool {
        match self.reasons.load(Relaxed) {
            0 => false,
            INBOUND if !inbound => false,
            // As in Envoy a server that fails health checks closes at once.
            r if r & UNHEALTHY != 0 || self.strategy == DrainStrategy::Immediate || self.time.is_zero() => true,
            _ => {
                let now = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
                gradually(now.saturating_sub(self.began.load(Relaxed)), self.time, random)
            }
        }
    }

    /// Begins it (`/drain_listeners?graceful`, SIGTERM).
    pub fn begin(&self) {
        self.begin_for(SEQUENCE);
    }

    /// Begins it for connections of inbound listeners only (`/drain_listeners?inboundonly`).
    pub fn begin_inbound(&self) {
        self.begin_for(INBOUND);
    }

    fn begin_for(&self, reason: u8) {
        let now = u64::try_from(self.created.elapsed().as_millis()).unwrap_or(u64::MAX);
        if self.reasons.load(Relaxed) & (SEQUENCE | INBOUND) == 0 {
            self.began.store(now, Relaxed);
        }
        self.reasons.fetch_or(reason, Relaxed);
        self.sender.send_replace(true);
    }

    /// Whether something of its own that began to drain then closes the connection at hand, by `--drain-strategy`.
    pub fn tosses(&self, began: Instant, random: u64) -> bool {
        let passed = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.strategy == DrainStrategy::Immediate || gradually(passed, self.time, random)
    }

    /// Fails health checks (`/healthcheck/fail`), which also drains.
    pub fn fail_health_checks(&self) {
        self.reasons.fetch_or(UNHEALTHY, Relaxed);
        self.sender.send_replace(true);
    }

    /// Whether health checks fail.
    pub fn fails_health_checks(&self) -> bool {
        self.reasons.load(Relaxed) & UNHEALTHY != 0
    }

    /// Passes health checks again (`/healthcheck/ok`); a drain sequence goes on.
    pub fn cancel(&self) {
        let before = self.reasons.fetch_and(!UNHEALTHY, Relaxed);
        self.sender.send_replace(before & (SEQUENCE | INBOUND) != 0);
    }

    /// For waiting until it begins.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.sender.subscribe()
    }

    /// `--drain-time-s`.
    pub fn time(&self) -> Duration {
        self.time
    }
}

/// Envoy's toss: the part of the drain time that has passed is the probability.
fn gradually(passed_ms: u64, time: Duration, random: u64) -> bool {
    let whole = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    passed_ms >= whole || random % whole < passed_ms
}

/// What the process is at, for the admin endpoints.
#[derive(Debug)]
pub struct Stage(AtomicU8);

impl Default for Stage {
    fn default() -> Stage {
        Stage(AtomicU8::new(ServerState::PreInitializing as u8))
    }
}

impl Stage {
    /// Goes on to another stage.
    pub fn set(&self, state: ServerState) {
        self.0.store(state as u8, Relaxed);
    }

    /// Where it is, unless health checks fail, which is `DRAINING` for a live server.
    pub fn state(&self, drain: &Drain) -> ServerState {
        match self.0.load(Relaxed) {
            0 if drain.fails_health_checks() => ServerState::Draining,
            0 => ServerState::Live,
            1 => ServerState::Draining,
            2 => ServerState::PreInitializing,
            _ => ServerState::Initializing,
        }
    }

    /// Whether the workers serve (`listener_manager.workers_started`).
    pub fn workers_started(&self) -> bool {
        self.0.load(Relaxed) <= ServerState::Draining as u8
    }
}
