//! Counters, gauges and histograms under Envoy's names.
//!
//! A handle is resolved once, at configuration time. Each worker adds to memory of its own: a thread that counts writes to its shard,
//! with a plain load and store, and readers sum the shards. So no request touches a cache line that another worker writes.
//!
//! A stat that nobody ever added to has no memory but four bytes in its owner: a push has thousands of clusters, and most of them count little.
//! Names of a group of stats (those of a cluster) are not held either: they are its prefix and a list in the program.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

mod cells;

use self::cells::Cell;

/// 0 and then log-linear buckets: 8 to each power of two, so that a quantile is off by at most 12.5 %.
const BUCKETS: usize = 8 * 40;

/// Everything that is counted in the process.
#[derive(Debug, Default)]
pub struct Store {
    inner: Mutex<Names>,
    groups: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Names {
    counters: BTreeMap<Arc<str>, Counter>,
    gauges: BTreeMap<Arc<str>, Gauge>,
    histograms: BTreeMap<Arc<str>, Histogram>,
}

/// Groups by prefix, while anybody holds them.
#[derive(Debug, Default)]
struct Groups {
    by_prefix: BTreeMap<Arc<str>, Weak<dyn StatGroup>>,
    /// How many there may be before those that are gone are looked for.
    look_at: usize,
}

/// Stats of one owner, which go with it.
pub trait StatGroup: Send + Sync + std::fmt::Debug + 'static {
    /// What all names begin with.
    fn prefix(&self) -> &Arc<str>;

    /// Calls with each stat and the rest of its name.
    fn each(&self, visit: &mut dyn FnMut(&str, Stat));

    /// For getting the type back.
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// A stat that can be read.
#[derive(Clone, Copy, Debug)]
pub enum Stat {
    /// A counter.
    Counter(CounterRef),
    /// A gauge.
    Gauge(GaugeRef),
    /// A histogram.
    Histogram(HistogramRef),
}

/// A counter as it is read.
#[derive(Clone, Copy, Debug)]
pub struct CounterRef(u32);

/// A gauge as it is read.
#[derive(Clone, Copy, Debug)]
pub struct GaugeRef {
    value: u64,
    used: bool,
}

/// A histogram as it is read.
#[derive(Clone, Copy, Debug)]
pub struct HistogramRef(u32);

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that only grows, until it is reset. It belongs to its owner; [`Counter`] is one that is shared by its name.
#[derive(Debug, Default)]
pub struct Tally(Cell<1>);

/// A number that goes up and down, in its owner.
#[derive(Debug, Default)]
pub struct Level(Cell<1>);

/// A distribution, in its owner.
#[derive(Debug, Default)]
pub struct Spread(Cell<{ BUCKETS as u32 + 1 }>);

/// A number that is set now and then, in its owner.
#[derive(Debug)]
pub struct Mark(AtomicU64);

/// A shared [`Tally`].
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<Tally>);

/// A shared [`Level`].
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<Level>);

/// A distribution of non-negative numbers, in milliseconds or bytes as its name says: a shared [`Spread`].
#[derive(Clone, Debug, Default)]
pub struct Histogram(Arc<Spread>);

impl Tally {
    /// Adds one.
    pub fn inc(&self) {
        self.0.add(0, 1);
    }

    /// Adds a number.
    pub fn add(&self, n: u64) {
        self.0.add(0, n);
    }

    /// For reading.
    pub fn stat(&self) -> CounterRef {
        CounterRef(self.0.number())
    }

    /// The sum over all threads.
    pub fn value(&self) -> u64 {
        self.stat().value()
    }
}

impl CounterRef {
    /// The sum over all threads.
    pub fn value(&self) -> u64 {
        cells::sum(self.0).wrapping_sub(cells::base(self.0))
    }

    /// Whether it was ever added to (`usedonly`), before a reset too.
    pub fn used(&self) -> bool {
        cells::sum(self.0) > 0
    }

    /// Starts from zero again (`/reset_counters`).
    pub fn reset(&self) {
        cells::set_base(self.0, cells::sum(self.0));
    }
}

impl Level {
    /// Adds one.
    pub fn inc(&self) {
        self.0.add(0, 1);
    }

    /// Takes one away; it may be another thread than the one that added it.
    pub fn dec(&self) {
        self.0.add(0, u64::MAX);
    }

    /// Sets it; for gauges that one thread keeps.
    pub fn set(&self, value: u64) {
        let cell = self.0.made();
        cells::set_base(cell, cells::sum(cell).wrapping_sub(value));
    }

    /// For reading.
    pub fn stat(&self) -> GaugeRef {
        let cell = self.0.number();
        let v = cells::sum(cell).wrapping_sub(cells::base(cell));
        // Reading races with writing on other threads: a sum that is briefly negative is none.
        GaugeRef { value: if v > u64::MAX / 2 { 0 } else { v }, used: cell != 0 }
    }

    /// The sum over all threads.
    pub fn value(&self) -> u64 {
        self.stat().value()
    }
}

/// A [`Mark`] that was never set.
const UNSET: u64 = u64::MAX;

impl Default for Mark {
    fn default() -> Mark {
        Mark(AtomicU64::new(UNSET))
    }
}

impl Mark {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value.min(UNSET - 1), Relaxed);
    }

    /// For reading.
    pub fn stat(&self) -> GaugeRef {
        match self.0.load(Relaxed) {
            UNSET => GaugeRef { value: 0, used: false },
            value => GaugeRef { value, used: true },
        }
    }

    /// What was set last.
    pub fn value(&self) -> u64 {
        self.stat().value()
    }
}

impl GaugeRef {
    /// The sum over all threads.
    pub fn value(&self) -> u64 {
        self.value
    }

    /// Whether it was ever set (`usedonly`).
    pub fn used(&self) -> bool {
        self.used
    }
}

impl Spread {
    /// Adds a value.
    pub fn record(&self, value: u64) {
        self.0.add(0, value);
        self.0.add(1 + bucket(value), 1);
    }

    /// For reading.
    pub fn stat(&self) -> HistogramRef {
        HistogramRef(self.0.number())
    }
}

impl HistogramRef {
    /// What was recorded.
    pub fn snapshot(&self) -> Snapshot {
        if self.0 == 0 {
            return Snapshot::default();
        }
        let cells = cells::sums(self.0, BUCKETS + 1);
        let sum = cells.first().copied().unwrap_or_default();
        let buckets: Vec<(u64, u64)> =
            (0..).zip(cells.into_iter().skip(1)).filter(|(_, n)| *n > 0).map(|(b, n)| (upper_bound(b), n)).collect();
        Snapshot { sum, count: buckets.iter().map(|(_, n)| n).sum(), buckets }
    }
}

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Adds a number.
    pub fn add(&self, n: u64) {
        self.0.add(n);
    }

    /// The sum over all threads.
    pub fn value(&self) -> u64 {
        self.0.value()
    }

    /// Starts from zero again.
    pub fn reset(&self) {
        self.0.stat().reset();
    }
}

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.0.inc();
    }

    /// Takes one away; it may be another thread than the one that added it.
    pub fn dec(&self) {
        self.0.dec();
    }

    /// Sets it; for gauges that one thread keeps.
    pub fn set(&self, value: u64) {
        self.0.set(value);
    }

    /// The sum over all threads.
    pub fn value(&self) -> u64 {
        self.0.value()
    }
}

impl Histogram {
    /// Adds a value.
    pub fn record(&self, value: u64) {
        self.0.record(value);
    }

    /// What was recorded.
    pub fn snapshot(&self) -> Snapshot {
        self.0.stat().snapshot()
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
        known(&mut lock(&self.inner).counters, name)
    }

    /// The gauge of a name, made if there is none.
    pub fn gauge(&self, name: &str) -> Gauge {
        known(&mut lock(&self.inner).gauges, name)
    }

    /// The histogram of a name, made if there is none.
    pub fn histogram(&self, name: &str) -> Histogram {
        known(&mut lock(&self.inner).histograms, name)
    }

    /// The group with a prefix, made if nobody holds one. It is listed for as long as somebody does.
    pub fn group<G: StatGroup>(&self, prefix: &str, make: impl FnOnce(Arc<str>) -> G) -> Arc<G> {
        let mut groups = lock(&self.groups);
        if let Some(there) = groups.by_prefix.get(prefix).and_then(Weak::upgrade)
            && let Ok(same) = there.as_any().downcast::<G>()
        {
            return same;
        }
        if groups.by_prefix.len() >= groups.look_at {
            groups.by_prefix.retain(|_, g| g.strong_count() > 0);
            // Looking costs as much as what is there: it is done when that has doubled.
            groups.look_at = groups.by_prefix.len() * 2 + 64;
        }
        let prefix: Arc<str> = prefix.into();
        let made = Arc::new(make(prefix.clone()));
        let weak: Weak<G> = Arc::downgrade(&made);
        groups.by_prefix.insert(prefix, weak);
        made
    }

    /// Calls with each stat and its name: by kind and name those that have names, then the groups.
    pub fn each(&self, visit: &mut dyn FnMut(&str, Stat)) {
        {
            let names = lock(&self.inner);
            names.counters.iter().for_each(|(n, c)| visit(n, Stat::Counter(c.0.stat())));
            names.gauges.iter().for_each(|(n, g)| visit(n, Stat::Gauge(g.0.stat())));
            names.histograms.iter().for_each(|(n, h)| visit(n, Stat::Histogram(h.0.stat())));
        }
        let groups: Vec<Arc<dyn StatGroup>> = lock(&self.groups).by_prefix.values().filter_map(Weak::upgrade).collect();
        let mut name = String::new();
        for group in groups {
            group.each(&mut |rest, stat| {
                name.clear();
                name.push_str(group.prefix());
                name.push_str(rest);
                visit(&name, stat);
            });
        }
    }

    /// The value of the counter or gauge of a name, if there is one; for tests.
    pub fn find(&self, name: &str) -> Option<u64> {
        let mut found = None;
        self.each(&mut |n, stat| {
            if n == name {
                found = match stat {
                    Stat::Counter(c) => Some(c.value()),
                    Stat::Gauge(g) => Some(g.value()),
                    Stat::Histogram(_) => None,
                };
            }
        });
        found
    }
}

fn known<T: Clone + Default>(names: &mut BTreeMap<Arc<str>, T>, name: &str) -> T {
    if let Some(there) = names.get(name) {
        return there.clone();
    }
    let made = T::default();
    names.insert(name.into(), made.clone());
    made
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

    #[derive(Debug, Default)]
    struct Two(Arc<str>, Tally, Level);

    impl StatGroup for Two {
        fn prefix(&self) -> &Arc<str> {
            &self.0
        }
        fn each(&self, visit: &mut dyn FnMut(&str, Stat)) {
            visit("c", Stat::Counter(self.1.stat()));
            visit("g", Stat::Gauge(self.2.stat()));
        }
        fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
            self
        }
    }

    #[test]
    fn a_group_is_listed_while_it_is_held_and_its_cells_begin_anew() {
        let store = Store::default();
        let get = || store.group("x.", |prefix| Two(prefix, Tally::default(), Level::default()));
        let one = get();
        one.1.add(5);
        std::thread::scope(|s| drop(s.spawn(|| one.1.inc())));
        one.2.inc();
        assert!(Arc::ptr_eq(&one, &get()));
        assert_eq!((store.find("x.c"), store.find("x.g")), (Some(6), Some(1)));
        one.1.stat().reset();
        assert_eq!(store.find("x.c"), Some(0));
        drop(one);
        assert_eq!(store.find("x.c"), None);
        // Other tests take and free cells at the same time: whichever these get, they are zero.
        let many: Vec<Two> = (0..50).map(|_| Two::default()).collect();
        for two in &many {
            two.1.inc();
            assert_eq!((two.1.value(), two.2.value()), (1, 0));
        }
    }

    #[test]
    fn what_was_never_counted_is_there_and_not_used() {
        let store = Store::default();
        let (_c, _g, h) = (store.counter("c"), store.gauge("g"), store.histogram("h"));
        store.each(&mut |name, stat| match stat {
            Stat::Counter(c) => assert!(!c.used() && c.value() == 0, "{name}"),
            Stat::Gauge(g) => assert!(!g.used() && g.value() == 0, "{name}"),
            Stat::Histogram(h) => assert_eq!(h.snapshot().count, 0),
        });
        assert_eq!(h.snapshot(), Snapshot::default());
        let mark = Mark::default();
        assert!(!mark.stat().used());
        mark.set(0);
        assert!(mark.stat().used());
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
