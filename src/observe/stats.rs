//! Counters, gauges and histograms under Envoy's names.
//!
//! A handle is resolved once, at configuration time. Each worker adds to memory of its own: a thread that counts writes to its shard,
//! with a plain load and store, and readers sum the shards. So no request touches a cache line that another worker writes.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Cells are handed out in chunks: large enough that a worker's counters share pages, small enough that an idle process stays small.
const CHUNK: usize = 1024;

/// 0 and then log-linear buckets: 8 to each power of two, so that a quantile is off by at most 12.5 %.
const BUCKETS: usize = 8 * 40;

type Chunk = Arc<[AtomicU64]>;

/// Everything that is counted in the process.
#[derive(Debug, Default)]
pub struct Store {
    inner: Mutex<Names>,
    cells: Arc<Cells>,
}

#[derive(Debug, Default)]
struct Names {
    counters: BTreeMap<Arc<str>, Counter>,
    gauges: BTreeMap<Arc<str>, Gauge>,
    histograms: BTreeMap<Arc<str>, Histogram>,
}

/// The cells of all threads. A cell is a number; every thread that writes has its own memory for it.
#[derive(Debug)]
struct Cells {
    /// A number that no other store of the process has: what threads keep outlives a store, and another may get its address.
    id: u64,
    next: Mutex<u32>,
    /// One list of chunks for each thread that ever counted; a chunk is made when it is first written to.
    threads: Mutex<Vec<Shard>>,
}

type Shard = Arc<Mutex<Vec<Option<Chunk>>>>;

thread_local! {
    /// This thread's chunks, by store (tests have several stores) and chunk number.
    static LOCAL: RefCell<HashMap<u64, Local>> = RefCell::new(HashMap::new());
    /// The same for the store used last, so that the hot path has no map look-up.
    static LAST: RefCell<(u64, Vec<Option<Chunk>>)> = const { RefCell::new((0, Vec::new())) };
}

#[derive(Clone)]
struct Local {
    shard: Shard,
}

impl Default for Cells {
    fn default() -> Cells {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Cells { id: NEXT.fetch_add(1, Relaxed), next: Mutex::default(), threads: Mutex::default() }
    }
}

impl Cells {
    fn allocate(&self, count: u32) -> u32 {
        let mut next = lock(&self.next);
        let first = *next;
        *next = next.saturating_add(count);
        first
    }

    /// Adds to this thread's memory of a cell.
    fn add(self: &Arc<Self>, cell: u32, n: u64) {
        let (chunk, at) = (cell as usize / CHUNK, cell as usize % CHUNK);
        let store = self.id;
        LAST.with_borrow_mut(|(last, chunks)| {
            if *last == store
                && let Some(Some(c)) = chunks.get(chunk)
                && let Some(a) = c.get(at)
            {
                // Only this thread writes here: a load and a store need no locked instruction.
                a.store(a.load(Relaxed).wrapping_add(n), Relaxed);
                return;
            }
            self.add_slow(store, chunk, at, n, last, chunks);
        });
    }

    #[cold]
    fn add_slow(
        self: &Arc<Self>,
        store: u64,
        chunk: usize,
        at: usize,
        n: u64,
        last: &mut u64,
        chunks: &mut Vec<Option<Chunk>>,
    ) {
        let local = LOCAL.with_borrow_mut(|map| {
            map.entry(store)
                .or_insert_with(|| {
                    let shard: Shard = Arc::default();
                    lock(&self.threads).push(shard.clone());
                    Local { shard }
                })
                .clone()
        });
        let mut shard = lock(&local.shard);
        if shard.len() <= chunk {
            shard.resize(chunk + 1, None);
        }
        if let Some(slot) = shard.get_mut(chunk) {
            let c = slot.get_or_insert_with(|| (0..CHUNK).map(|_| AtomicU64::new(0)).collect());
            if let Some(a) = c.get(at) {
                a.store(a.load(Relaxed).wrapping_add(n), Relaxed);
            }
        }
        *last = store;
        chunks.clone_from(&shard);
    }

    fn sum(&self, cell: u32) -> u64 {
        let (chunk, at) = (cell as usize / CHUNK, cell as usize % CHUNK);
        lock(&self.threads)
            .iter()
            .filter_map(|s| lock(s).get(chunk)?.as_ref()?.get(at).map(|a| a.load(Relaxed)))
            .fold(0, u64::wrapping_add)
    }
}

impl Cells {
    /// The sums of neighbouring cells, with one look at each thread: a histogram has hundreds.
    fn sums(&self, first: u32, count: usize) -> Vec<u64> {
        let first = first as usize;
        let mut sums = vec![0u64; count];
        for shard in lock(&self.threads).iter() {
            let chunks = lock(shard);
            let mut at = 0;
            while at < count {
                let (chunk, start) = ((first + at) / CHUNK, (first + at) % CHUNK);
                let length = (CHUNK - start).min(count - at);
                let cells = chunks.get(chunk).and_then(|c| c.as_ref()?.get(start..start + length)).unwrap_or_default();
                for (sum, cell) in sums.iter_mut().skip(at).zip(cells) {
                    *sum = sum.wrapping_add(cell.load(Relaxed));
                }
                at += length;
            }
        }
        sums
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that only grows, until it is reset.
#[derive(Clone, Debug)]
pub struct Counter {
    cells: Arc<Cells>,
    cell: u32,
    /// What had been counted when it was last reset.
    base: Arc<AtomicU64>,
}

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.cells.add(self.cell, 1);
    }

    /// Adds a number.
    pub fn add(&self, n: u64) {
        self.cells.add(self.cell, n);
    }

    /// The sum over all threads.
    pub fn value(&self) -> u64 {
        self.cells.sum(self.cell).wrapping_sub(self.base.load(Relaxed))
    }

    /// Whether it was ever added to (`usedonly`), before a reset too.
    pub fn used(&self) -> bool {
        self.cells.sum(self.cell) > 0
    }

    /// Starts from zero again (`/reset_counters`).
    pub fn reset(&self) {
        self.base.store(self.cells.sum(self.cell), Relaxed);
    }
}

/// A number that goes up and down.
#[derive(Clone, Debug)]
pub struct Gauge {
    cells: Arc<Cells>,
    cell: u32,
    used: u32,
    base: Arc<AtomicU64>,
}

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.cells.add(self.cell, 1);
        self.cells.add(self.used, 1);
    }

    /// Takes one away; it may be another thread than the one that added it.
    pub fn dec(&self) {
        self.cells.add(self.cell, u64::MAX);
    }

    /// Sets it; for gauges that one thread keeps.
    pub fn set(&self, value: u64) {
        self.base.store(self.cells.sum(self.cell).wrapping_sub(value), Relaxed);
        self.cells.add(self.used, 1);
    }

    /// The sum over all threads.
    pub fn value(&self) -> u64 {
        let v = self.cells.sum(self.cell).wrapping_sub(self.base.load(Relaxed));
        // Reading races with writing on other threads: a sum that is briefly negative is none.
        if v > u64::MAX / 2 { 0 } else { v }
    }

    /// Whether it was ever set (`usedonly`).
    pub fn used(&self) -> bool {
        self.cells.sum(self.used) > 0
    }
}

/// A distribution of non-negative numbers, in milliseconds or bytes as its name says.
#[derive(Clone, Debug)]
pub struct Histogram {
    cells: Arc<Cells>,
    first: u32,
}

impl Histogram {
    /// Adds a value.
    pub fn record(&self, value: u64) {
        self.cells.add(self.first, value);
        self.cells.add(self.first + 1 + bucket(value), 1);
    }

    /// What was recorded.
    pub fn snapshot(&self) -> Snapshot {
        let cells = self.cells.sums(self.first, BUCKETS + 1);
        let sum = cells.first().copied().unwrap_or_default();
        let buckets: Vec<(u64, u64)> =
            (0..).zip(cells.into_iter().skip(1)).filter(|(_, n)| *n > 0).map(|(b, n)| (upper_bound(b), n)).collect();
        Snapshot { sum, count: buckets.iter().map(|(_, n)| n).sum(), buckets }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Sum of all values.
    pub sum: u64,
    /// How many values.
    pub count: u64,
    /// Inclusive upper bounds and how many values are in each bucket; empty buckets are left out.
    pub buckets: Vec<(u64, u64)>,
}

impl Snapshot {
    /// The value below which the given part (0 to 1) of the values lies, to the bucket's precision.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = (q * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bound, n) in &self.buckets {
            seen += n;
            if seen >= rank {
                return *bound;
            }
        }
        0
    }

    /// How many values are at most `bound` (Prometheus' `le`).
    pub fn at_most(&self, bound: f64) -> u64 {
        self.buckets.iter().take_while(|(b, _)| (*b as f64) <= bound).map(|(_, n)| n).sum()
    }
}

fn bucket(value: u64) -> u32 {
    if value < 8 {
        return value as u32;
    }
    let exponent = 63 - value.leading_zeros(); // at least 3
    let b = (exponent - 2) * 8 + ((value >> (exponent - 3)) & 7) as u32;
    b.min(BUCKETS as u32 - 1)
}

fn upper_bound(bucket: u32) -> u64 {
    if bucket < 8 {
        return u64::from(bucket);
    }
    let (exponent, step) = (bucket / 8 + 2, u64::from(bucket % 8));
    (1 << exponent) + ((step + 1) << (exponent - 3)) - 1
}

impl Store {
    /// The counter of a name, made if there is none.
    pub fn counter(&self, name: &str) -> Counter {
        let mut names = lock(&self.inner);
        if let Some(c) = names.counters.get(name) {
            return c.clone();
        }
        let c = Counter { cells: self.cells.clone(), cell: self.cells.allocate(1), base: Arc::default() };
        names.counters.insert(name.into(), c.clone());
        c
    }

    /// The gauge of a name, made if there is none.
    pub fn gauge(&self, name: &str) -> Gauge {
        let mut names = lock(&self.inner);
        if let Some(g) = names.gauges.get(name) {
            return g.clone();
        }
        let cell = self.cells.allocate(2);
        let g = Gauge { cells: self.cells.clone(), cell, used: cell + 1, base: Arc::default() };
        names.gauges.insert(name.into(), g.clone());
        g
    }

    /// The histogram of a name, made if there is none.
    pub fn histogram(&self, name: &str) -> Histogram {
        let mut names = lock(&self.inner);
        if let Some(h) = names.histograms.get(name) {
            return h.clone();
        }
        let h = Histogram { cells: self.cells.clone(), first: self.cells.allocate(BUCKETS as u32 + 1) };
        names.histograms.insert(name.into(), h.clone());
        h
    }

    /// All counters, by name.
    pub fn counters(&self) -> Vec<(Arc<str>, Counter)> {
        lock(&self.inner).counters.iter().map(|(n, c)| (n.clone(), c.clone())).collect()
    }

    /// All gauges, by name.
    pub fn gauges(&self) -> Vec<(Arc<str>, Gauge)> {
        lock(&self.inner).gauges.iter().map(|(n, g)| (n.clone(), g.clone())).collect()
    }

    /// All histograms, by name.
    pub fn histograms(&self) -> Vec<(Arc<str>, Histogram)> {
        lock(&self.inner).histograms.iter().map(|(n, h)| (n.clone(), h.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up_and_a_gauge_may_fall_on_another_thread() {
        let store = Store::default();
        let (c, g) = (store.counter("a"), store.gauge("b"));
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    (0..1000).for_each(|_| {
                        c.inc();
                        g.inc();
                    })
                });
            }
        });
        assert_eq!((c.value(), g.value()), (4000, 4000));
        (0..4000).for_each(|_| g.dec());
        assert_eq!(g.value(), 0);
        c.reset();
        c.add(2);
        assert_eq!(store.counter("a").value(), 2);
    }

    #[test]
    fn a_histogram_may_lie_across_chunks() {
        let store = Store::default();
        let all: Vec<_> = (0..10).map(|i| store.histogram(&format!("h{i}"))).collect();
        for (i, h) in (1..).zip(&all) {
            (0..i).for_each(|_| h.record(1 << i));
            std::thread::scope(|s| drop(s.spawn(|| h.record(u64::from(u32::MAX)))));
        }
        for (i, h) in (1..).zip(&all) {
            let s = h.snapshot();
            assert_eq!((s.count, s.sum), (i + 1, i * (1 << i) + u64::from(u32::MAX)));
            assert_eq!(s.at_most((1u64 << (i + 1)) as f64), i);
        }
    }

    #[test]
    fn a_quantile_is_within_an_eighth() {
        let h = Store::default().histogram("h");
        (1..=1000).for_each(|v| h.record(v));
        let s = h.snapshot();
        assert_eq!((s.count, s.sum), (1000, 500_500));
        for (q, v) in [(0.5, 500.0), (0.99, 990.0)] {
            let got = s.quantile(q) as f64;
            assert!(got >= v && got <= v * 1.125, "{q}: {got}");
        }
        for v in [0, 1, 7, 8, 9, 15, 16, 1 << 20, u64::from(u32::MAX)] {
            assert!(upper_bound(bucket(v)) >= v && (bucket(v) == 0 || upper_bound(bucket(v) - 1) < v), "{v}");
        }
    }
}
