//! A log-linear histogram: 128 steps to each power of two, so a quantile is exact to less than one percent.

const BITS: u32 = 7;
const STEPS: u64 = 1 << BITS;
/// 2^40 µs are twelve days; whatever takes longer counts as that.
const LARGEST: u64 = (1 << 40) - 1;

/// Counts of whole numbers (here: microseconds).
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    min: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; index(LARGEST) + 1], count: 0, min: u64::MAX, max: 0 }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        let value = value.min(LARGEST);
        if let Some(n) = self.counts.get_mut(index(value)) {
            *n += 1;
        }
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest value; 0 when there is none.
    pub fn min(&self) -> u64 {
        if self.count == 0 { 0 } else { self.min }
    }

    /// The largest value.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The value below which the share `q` (0..=1) of all values lies, at most one percent too large.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = ((q * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (i, n) in self.counts.iter().enumerate() {
            seen += n;
            if seen >= rank && *n > 0 {
                return highest(i).clamp(self.min, self.max);
            }
        }
        self.max
    }
}

/// Values below 2·STEPS have a cell each; above, a value's top BITS+1 bits name its cell.
fn index(value: u64) -> usize {
    if value < 2 * STEPS {
        return value as usize;
    }
    let shift = value.ilog2() - BITS;
    (u64::from(shift) * STEPS + (value >> shift)) as usize
}

/// The largest value of a cell.
fn highest(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    ((index % STEPS + STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_holds_what_its_index_says() {
        let mut last = 0;
        for v in (0..5000).chain((13..40).flat_map(|b| [(1 << b) - 1, 1 << b, (1 << b) + (1 << (b - 3))])) {
            let i = index(v);
            assert!(i >= last, "{v}");
            last = i;
            assert!(highest(i) >= v, "{v} in cell {i} up to {}", highest(i));
            assert!(highest(i) - v <= v / 100, "{v} told as {}", highest(i));
            assert!(i == 0 || highest(i - 1) < v, "{v} belongs one lower");
        }
    }

    #[test]
    fn quantiles() {
        let mut h = Histogram::default();
        assert_eq!((h.quantile(0.5), h.min(), h.max()), (0, 0, 0));
        (1..=100).for_each(|v| h.record(v));
        assert_eq!((h.quantile(0.5), h.quantile(0.99), h.quantile(1.0)), (50, 99, 100));
        h.record(u64::MAX);
        assert_eq!((h.count(), h.min(), h.max(), h.quantile(1.0)), (101, 1, LARGEST, LARGEST));
    }

    #[test]
    fn one_value_is_every_quantile() {
        let mut h = Histogram::default();
        h.record(123_457);
        assert_eq!((h.quantile(0.0), h.quantile(0.5), h.quantile(1.0)), (123_457, 123_457, 123_457));
    }
}
