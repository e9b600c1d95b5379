//! Another attempt: a place for it, and the wait before it.

use std::time::{Duration, Instant};

use waypost_filters::flags::Flag;

use super::downstream::Downstream;
use super::exchange::{self, Stop, Timers};
use super::stream::ActiveStream;
use crate::cluster::Cluster;
use crate::cluster::limits::Permit;
use crate::net::Alarm;
use crate::route::{BackOff, RetryPolicy};

/// Takes a place for another attempt and waits before it. False where `max_retries` leaves none.
pub async fn pause(
    active: &mut ActiveStream,
    down: &mut Downstream<'_>,
    timers: &mut Timers,
    cluster: &Cluster,
    retry: &RetryPolicy,
    permit: &mut Option<Permit>,
) -> Result<bool, Stop> {
    // The place that an earlier attempt took is free again.
    drop(permit.take());
    *permit = cluster.limits.retries.take();
    if permit.is_none() {
        cluster.stats.upstream_rq_retry_overflow.inc();
        active.http.info.flags.set(Flag::UpstreamOverflow);
        return Ok(false);
    }
    cluster.stats.upstream_rq_retry.inc();
    cluster.stats.upstream_rq_retry_backoff_exponential.inc();
    let random = active.connection.worker.random();
    let pause = back_off(retry.back_off, active.http.info.upstream.attempts, random);
    timers.per_try_at = None;
    let mut alarm = Alarm::default();
    exchange::guard(down, timers, alarm.until(Instant::now() + pause)).await?;
    Ok(true)
}

/// How long to wait before another attempt: Envoy's fully jittered exponential back-off.
pub fn back_off(bounds: BackOff, attempts: u32, random: u64) -> Duration {
    let base = u64::try_from(bounds.base.as_millis()).unwrap_or(u64::MAX).max(1);
    let range = base.saturating_mul((1u64 << attempts.clamp(1, 32)) - 1);
    Duration::from_millis(random % range).min(bounds.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_within_their_bounds() {
        let bounds = BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
        for (attempts, most) in [(1, 24), (2, 74), (3, 174), (4, 250), (40, 250), (u32::MAX, 250)] {
            let longest = (0..5000).map(|r| back_off(bounds, attempts, r * 7919)).max().unwrap_or_default();
            assert_eq!(longest, Duration::from_millis(most), "{attempts}");
        }
    }
}
