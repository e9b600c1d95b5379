//! The memory behind stats: numbered cells, of which each thread has its own.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex};

use super::lock;

/// Cells are given memory in chunks: large enough that a worker's counters share pages, small enough that an idle process stays small.
const CHUNK: usize = 256;

type Chunk = Arc<[AtomicU64]>;
type Shard = Arc<Mutex<Vec<Option<Chunk>>>>;

/// Which numbers are taken. Number 0 is nobody's.
#[derive(Debug)]
struct Numbers {
    next: u32,
    /// What was given back, by how many neighbours it is.
    free: HashMap<u32, Vec<u32>>,
}

static NUMBERS: LazyLock<Mutex<Numbers>> = LazyLock::new(|| Mutex::new(Numbers { next: 1, free: HashMap::new() }));

/// One list of chunks for each thread that ever counted; a chunk is made when it is first written to.
static THREADS: Mutex<Vec<Shard>> = Mutex::new(Vec::new());

/// What a cell is counted from: its value when it was reset or set.
static BASES: Mutex<BTreeMap<u32, u64>> = Mutex::new(BTreeMap::new());

thread_local! {
    /// This thread's chunks, for others to read.
    static SHARD: Shard = {
        let shard = Shard::default();
        lock(&THREADS).push(shard.clone());
        shard
    };
    /// The same, without a lock.
    static CHUNKS: RefCell<Vec<Option<Chunk>>> = const { RefCell::new(Vec::new()) };
}

/// `N` neighbouring cells, taken when they are first written to and given back with their owner.
#[derive(Debug, Default)]
pub struct Cell<const N: u32>(AtomicU32);

impl<const N: u32> Cell<N> {
    /// The number of the first, 0 while there is none.
    pub fn number(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// The number of the first.
    pub fn made(&self) -> u32 {
        match self.number() {
            0 => self.make(),
            n => n,
        }
    }

    #[cold]
    fn make(&self) -> u32 {
        let mut numbers = lock(&NUMBERS);
        // Somebody may have been faster.
        let there = self.number();
        if there != 0 {
            return there;
        }
        let first = numbers.free.get_mut(&N).and_then(Vec::pop).unwrap_or_else(|| {
            let first = numbers.next;
            numbers.next = first.saturating_add(N);
            first
        });
        self.0.store(first, Relaxed);
        first
    }

    /// Adds to this thread's memory of a cell.
    pub fn add(&self, at: u32, n: u64) {
        let cell = self.made().saturating_add(at) as usize;
        let (chunk, at) = (cell / CHUNK, cell % CHUNK);
        // Only while the thread ends there is none, and then nobody counts.
        let _ = CHUNKS.try_with(|chunks| {
            let mut chunks = chunks.borrow_mut();
            if let Some(Some(c)) = chunks.get(chunk)
                && let Some(a) = c.get(at)
            {
                // Only this thread writes here: a load and a store need no locked instruction.
                a.store(a.load(Relaxed).wrapping_add(n), Relaxed);
                return;
            }
            first_write(chunk, at, n, &mut chunks);
        });
    }
}

impl<const N: u32> Drop for Cell<N> {
    fn drop(&mut self) {
        let first = *self.0.get_mut();
        if first == 0 {
            return;
        }
        // Its owner was the last to write to it: now it is zero for the next one.
        for shard in lock(&THREADS).iter() {
            let chunks = lock(shard);
            for cell in first..first.saturating_add(N) {
                let (chunk, at) = (cell as usize / CHUNK, cell as usize % CHUNK);
                if let Some(a) = chunks.get(chunk).and_then(|c| c.as_ref()?.get(at)) {
                    a.store(0, Relaxed);
                }
            }
        }
        lock(&BASES).remove(&first);
        lock(&NUMBERS).free.entry(N).or_default().push(first);
    }
}

#[cold]
fn first_write(chunk: usize, at: usize, n: u64, chunks: &mut Vec<Option<Chunk>>) {
    let made: Chunk = (0..CHUNK).map(|_| AtomicU64::new(0)).collect();
    if let Some(a) = made.get(at) {
        a.store(n, Relaxed);
    }
    let Ok(shard) = SHARD.try_with(Clone::clone) else { return };
    for list in [chunks, &mut *lock(&shard)] {
        if list.len() <= chunk {
            list.resize(chunk + 1, None);
        }
        if let Some(slot) = list.get_mut(chunk) {
            *slot = Some(made.clone());
        }
    }
}

/// The sum of a cell over all threads.
pub fn sum(cell: u32) -> u64 {
    if cell == 0 {
        return 0;
    }
    let (chunk, at) = (cell as usize / CHUNK, cell as usize % CHUNK);
    lock(&THREADS)
        .iter()
        .filter_map(|s| lock(s).get(chunk)?.as_ref()?.get(at).map(|a| a.load(Relaxed)))
        .fold(0, u64::wrapping_add)
}

/// The sums of neighbouring cells, with one look at each thread: a histogram has hundreds.
pub fn sums(first: u32, count: usize) -> Vec<u64> {
    let first = first as usize;
    let mut sums = vec![0u64; count];
    for shard in lock(&THREADS).iter() {
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

/// What a cell is counted from.
pub fn base(cell: u32) -> u64 {
    if cell == 0 { 0 } else { lock(&BASES).get(&cell).copied().unwrap_or_default() }
}

/// Counts a cell from another value. A cell that was never written to has none.
pub fn set_base(cell: u32, base: u64) {
    if cell != 0 {
        lock(&BASES).insert(cell, base);
    }
}
