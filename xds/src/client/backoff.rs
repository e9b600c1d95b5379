//! How long to wait before another attempt: Envoy's jittered exponential back-off.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Twice as long after each failure, up to a limit; the wait itself is anything from nothing to that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    next: Duration,
}

impl Default for Backoff {
    /// Envoy's values for its management servers.
    fn default() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(30))
    }
}

impl Backoff {
    /// With other values, such as those of a `GrpcService`'s `retry_policy`. No base is less than a millisecond, or it would not grow.
    pub fn new(base: Duration, max: Duration) -> Self {
        let base = base.max(Duration::from_millis(1));
        Self { base, max: max.max(base), next: base }
    }

    /// The wait after one more failure, by a random number.
    pub fn after_failure(&mut self, random: u64) -> Duration {
        let bound = self.next;
        self.next = bound.saturating_mul(2).min(self.max);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(random % nanos)
    }

    /// Things went well: the next failure is the first.
    pub fn reset(&mut self) {
        self.next = self.base;
    }

    /// The longest wait.
    pub fn max(&self) -> Duration {
        self.max
    }
}

/// A random number, for jitter only: std's hash keys differ for each hasher.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_limit_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let mut bound = || backoff.after_failure(u64::MAX).as_millis();
        // The remainder by the bound is below it.
        assert!(bound() < 500);
        assert!((0..20).all(|_| bound() < 30_000));
        assert_eq!(backoff.next, Duration::from_secs(30));
        backoff.reset();
        assert_eq!(backoff.next, Duration::from_millis(500));
        assert_eq!(backoff.after_failure(499_999_999), Duration::from_nanos(499_999_999));
        assert_eq!(backoff.next, Duration::from_secs(1));
    }

    #[test]
    fn no_configured_values_lead_to_a_hot_loop() {
        let mut backoff = Backoff::new(Duration::ZERO, Duration::ZERO);
        assert!(backoff.after_failure(999_999) > Duration::ZERO);
        let mut backoff = Backoff::new(Duration::MAX, Duration::ZERO);
        backoff.after_failure(1);
        backoff.after_failure(1);
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random(), random());
    }
}
