//! Worker threads: each has its own runtime, listening sockets, connection pools and shard of every counter.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use waypost_filters::address::Address;
use waypost_filters::stream::HostInfo;

use crate::cluster::balance::BalanceState;
use crate::cluster::connect::Sharing;
use crate::cluster::pool::{Pool, PoolKey};
use crate::cluster::tls_options::TlsOptions;
use crate::cluster::{Cluster, ClusterTable, Host, Origin, OriginalDst, balance, changes};
use crate::lifecycle::Drain;
use crate::listener::drain::Watchers;
use crate::listener::{Handover, ListenSocket, Listeners};
use crate::net::clock;
use crate::observe::stats::Store;

/// How often pools are looked through for connections that their peers have closed or that are idle too long.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// What all threads of the process share.
pub struct Shared {
    /// All clusters.
    pub clusters: ClusterTable,
    /// All listeners.
    pub listeners: Listeners,
    /// All stats.
    pub stats: Arc<Store>,
    /// Whether the process is draining.
    pub drain: Drain,
    /// All workers.
    pub workers: OnceLock<Vec<WorkerHandle>>,
    /// Limits of connections, and what is refused under pressure.
    pub overload: crate::overload::Overload,
}

/// How other threads reach a worker.
#[derive(Clone)]
pub struct WorkerHandle {
    /// Takes connections and streams, and commands.
    pub sender: mpsc::UnboundedSender<Command>,
    /// How many connections and tunnelled streams it serves.
    pub load: Arc<AtomicUsize>,
}

/// What a worker can be asked to do.
pub enum Command {
    /// Serve a listening socket.
    Listen(Arc<ListenSocket>, std::net::TcpListener),
    /// Serve a listening Unix socket.
    ListenUnix(Arc<ListenSocket>, std::os::unix::net::UnixListener),
    /// Serve a connection or stream that another worker accepted.
    Serve(Handover),
    /// Close the listening sockets that have been marked closed.
    StopListening,
    /// Close the connections whose filter chains are closed.
    CloseChains,
    /// Close connections of clients that wait for nothing.
    CloseIdle,
    /// End the thread.
    Stop,
}

/// A host that was made on demand, and what says when it drains.
type OnDemand = (Arc<Host>, Arc<Origin>);

/// Hashes keys that are numbers of our own, or keyed hashes: nobody outside can choose them, so mixing is enough.
type Mixed = std::hash::BuildHasherDefault<Mixer>;

/// One multiplication for each number (Fibonacci hashing), with the high bits folded down.
#[derive(Default)]
struct Mixer(u64);

impl std::hash::Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64((*b).into()));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0.rotate_left(23) ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(n.into());
    }
}

/// A worker, on its own thread.
pub struct Worker {
    /// Its number.
    pub index: usize,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    /// How many connections and tunnelled streams it serves.
    pub load: Arc<AtomicUsize>,
    pools: RefCell<HashMap<PoolKey, Rc<Pool>, Mixed>>,
    balance: RefCell<HashMap<u64, (Weak<Cluster>, BalanceState), Mixed>>,
    /// Hosts of `ORIGINAL_DST` clusters, by origin and address, kept while a pool uses them.
    original: RefCell<HashMap<(u64, SocketAddr), OnDemand>>,
    /// [`changes`] of clusters when they were last looked through.
    seen: Cell<u64>,
    random: Cell<u64>,
    streams: Cell<u64>,
    /// Tells accept loops to look whether their sockets are closed.
    pub stop_listening: tokio::sync::Notify,
    /// Tells HTTP/1 connections that wait for a request to end.
    pub close_idle_clients: tokio::sync::Notify,
    /// Connections that end when their filter chains are closed.
    pub watchers: Watchers,
}

impl Worker {
    fn new(index: usize, shared: Arc<Shared>, load: Arc<AtomicUsize>) -> Rc<Worker> {
        // A seed that differs between processes and workers; it only spreads load.
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), index);
        Rc::new(Worker {
            index,
            shared,
            load,
            pools: RefCell::default(),
            balance: RefCell::default(),
            original: RefCell::default(),
            seen: Cell::new(0),
            random: Cell::new(seed | 1),
            // Workers count apart: a counter of all would be written to by all.
            streams: Cell::new((index as u64) << 48),
            stop_listening: tokio::sync::Notify::new(),
            close_idle_clients: tokio::sync::Notify::new(),
            watchers: Watchers::default(),
        })
    }

    /// The control thread's: for connections to discovery services and the like. It accepts nothing and takes no commands.
    pub fn control(shared: Arc<Shared>) -> Rc<Worker> {
        Worker::new(usize::MAX, shared, Arc::default())
    }

    /// A random number (xorshift64*): for load balancing and sampling, not for secrets.
    pub fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number that no other stream of the process has.
    pub fn next_stream(&self) -> u64 {
        let n = self.streams.get().wrapping_add(1);
        self.streams.set(n);
        n
    }

    /// Chooses a host of a cluster.
    pub fn pick(&self, cluster: &Arc<Cluster>, avoid: &[u64]) -> Option<Arc<Host>> {
        let hosts = cluster.hosts.load();
        let mut states = self.balance.borrow_mut();
        let (_, state) = states.entry(cluster.id).or_insert_with(|| (Arc::downgrade(cluster), BalanceState::default()));
        if hosts.panic {
            cluster.stats.lb_healthy_panic.inc();
        }
        balance::pick(cluster.policy, &hosts, state, self.random(), avoid)
    }

    /// The host of an `ORIGINAL_DST` cluster at an address.
    pub fn original(&self, config: &OriginalDst, mut address: SocketAddr) -> Arc<Host> {
        if let Some(port) = config.port {
            address.set_port(port);
        }
        let mut hosts = self.original.borrow_mut();
        let (host, _) = hosts.entry((config.origin.id, address)).or_insert_with(|| {
            let info = HostInfo {
                address: Address::Ip(address),
                hostname: Arc::from(""),
                metadata: waypost_filters::metadata::Metadata::default(),
            };
            (Arc::new(Host::new(info, config.transport.clone())), config.origin.clone())
        });
        host.clone()
    }

    /// The pool of connections to a host.
    pub fn pool(
        &self,
        cluster: &Arc<Cluster>,
        host: &Arc<Host>,
        sharing: &Sharing,
        asked: &TlsOptions,
        h2: bool,
    ) -> Rc<Pool> {
        // Only an internal listener sees what is shared, so only there it separates pools.
        let internal = matches!(host.info.address, Address::Internal { .. });
        let shared = internal.then_some(sharing);
        let key = PoolKey { host: host.id, sharing: shared.map_or(0, |s| s.key), asked: asked.key(), h2 };
        let mut pools = self.pools.borrow_mut();
        let found = pools.get(&key);
        if let Some(pool) = found.filter(|p| p.serves(shared, asked)) {
            pool.follow(cluster, host);
            return pool.clone();
        }
        let collides = found.is_some();
        let pool = Pool::new(cluster.clone(), host.clone(), shared.cloned().unwrap_or_default(), asked.clone());
        if !collides {
            pools.insert(key, pool.clone());
        }
        pool
    }

    /// Looks through all pools; drops the empty ones.
    fn sweep(&self) {
        let now = Instant::now();
        let changes = changes();
        if self.seen.replace(changes) != changes {
            self.balance.borrow_mut().retain(|_, (cluster, _)| cluster.strong_count() > 0);
            self.original.borrow().values().filter(|(_, o)| o.state.retired()).for_each(|(h, _)| h.state.retire());
        }
        let all: Vec<(PoolKey, Rc<Pool>)> = self.pools.borrow().iter().map(|(k, p)| (*k, p.clone())).collect();
        for (key, pool) in all {
            let keep = pool.sweep(now);
            // This list and the map hold the pool; anybody else is about to use it.
            if !keep && Rc::strong_count(&pool) == 2 {
                self.pools.borrow_mut().remove(&key);
            }
        }
        self.original.borrow_mut().retain(|_, (host, _)| Arc::strong_count(host) > 1);
    }

    /// Closes idle upstream connections, when the process ends.
    pub fn close_idle(&self) {
        self.pools.borrow().values().for_each(|p| p.close_idle());
    }
}

/// Starts the workers. They serve nothing until they are told to listen.
pub fn start(shared: &Arc<Shared>, count: usize) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    let mut handles = Vec::new();
    let mut receivers = Vec::new();
    for _ in 0..count {
        let (sender, receiver) = mpsc::unbounded_channel();
        handles.push(WorkerHandle { sender, load: Arc::default() });
        receivers.push(receiver);
    }
    let loads: Vec<_> = handles.iter().map(|h| h.load.clone()).collect();
    // Set once; a second call would be a second process in one.
    let _ = shared.workers.set(handles);
    receivers
        .into_iter()
        .zip(loads)
        .enumerate()
        .map(|(index, (receiver, load))| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("wrk:worker_{index}")).spawn(move || {
                let runtime = match runtime() {
                    Ok(r) => r,
                    Err(e) => {
                        tracing::error!("worker {index}: {e}");
                        return;
                    }
                };
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, run(Worker::new(index, shared, load), receiver));
                // Whatever still runs ends with the runtime.
            })
        })
        .collect()
}

/// A runtime for this thread alone, which keeps the time while it does not wait.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    clock::keep();
    tokio::runtime::Builder::new_current_thread().enable_all().on_thread_park(clock::forget).build()
}

async fn run(worker: Rc<Worker>, mut commands: mpsc::UnboundedReceiver<Command>) {
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Listen(to, socket)) => crate::listener::accept::listen(&worker, to, socket),
                Some(Command::ListenUnix(to, socket)) => crate::listener::accept::listen_unix(&worker, to, socket),
                Some(Command::Serve(handover)) => handover.serve(&worker),
                Some(Command::StopListening) => worker.stop_listening.notify_waiters(),
                Some(Command::CloseChains) => worker.watchers.wake(),
                Some(Command::CloseIdle) => worker.close_idle_clients.notify_waiters(),
                Some(Command::Stop) | None => {
                    worker.close_idle();
                    return;
                }
            },
            _ = sweep.tick() => worker.sweep(),
        }
    }
}

/// Counts one connection or stream of a worker while it lives.
pub struct LoadGuard(Arc<AtomicUsize>);

impl LoadGuard {
    /// Counts one more.
    pub fn new(load: &Arc<AtomicUsize>) -> LoadGuard {
        load.fetch_add(1, Relaxed);
        LoadGuard(load.clone())
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
