//! A timer that is cheap to move.
//!
//! Nearly every timeout is cancelled or pushed back before it fires. An alarm keeps one sleeper for the earliest moment it was ever
//! asked for; when that fires too early, it sleeps again. So moving a deadline costs a comparison.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Timers are shared between all that fall into the same 10 ms; longer ones than this go to the runtime's own wheel, which forgets
/// cancelled timers at once.
const SHARED_TIMER_LIMIT: Duration = Duration::from_secs(60);

type Sleeper = Pin<Box<dyn Future<Output = ()>>>;

/// Shared timers tick every 10 ms, and one of less than a millisecond makes their crate compute a tick before the first. Short waits are for
/// the runtime's wheel too, which is exact about them.
const SHARED_TIMER_LEAST: Duration = Duration::from_millis(20);

/// A timer with a deadline that may move at any time.
#[derive(Default)]
pub struct Alarm {
    sleeper: Option<(Instant, Sleeper)>,
}

impl Alarm {
    /// Ready once `deadline` has passed; otherwise the task is woken then. Ask again after moving the deadline.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        loop {
            let (at, sleeper) = match &mut self.sleeper {
                Some((at, s)) if *at <= deadline => (at, s),
                slot => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Poll::Ready(());
                    }
                    let shared = SHARED_TIMER_LEAST..=SHARED_TIMER_LIMIT;
                    let sleeper: Sleeper = if shared.contains(&left) {
                        Box::pin(pingora_timeout::fast_timeout::fast_sleep(left))
                    } else {
                        Box::pin(tokio::time::sleep(left))
                    };
                    let (at, s) = slot.insert((deadline, sleeper));
                    (at, s)
                }
            };
            let _ = at;
            match sleeper.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => self.sleeper = None,
            }
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
        }
    }

    /// Waits until a moment.
    pub async fn until(&mut self, deadline: Instant) {
        std::future::poll_fn(|cx| self.poll(cx, deadline)).await;
    }
}

/// Runs a future until a deadline; none if the deadline came first.
pub async fn timeout_at<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    let Some(deadline) = deadline else { return Some(future.await) };
    let mut alarm = Alarm::default();
    tokio::select! {
        biased;
        out = future => Some(out),
        () = alarm.until(deadline) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_deadline_that_moves_back_fires_once_and_late_enough() {
        let start = Instant::now();
        let mut alarm = Alarm::default();
        let near = start + Duration::from_millis(20);
        let far = start + Duration::from_millis(60);
        std::future::poll_fn(|cx| {
            let _ = alarm.poll(cx, near);
            alarm.poll(cx, far)
        })
        .await;
        assert!(start.elapsed() >= Duration::from_millis(60));
    }

    #[tokio::test]
    async fn a_deadline_of_no_length_fires() {
        for left in [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(900), Duration::from_millis(1)] {
            Alarm::default().until(Instant::now() + left).await;
        }
    }

    #[tokio::test]
    async fn a_deadline_that_moves_forward_is_not_missed() {
        let start = Instant::now();
        let mut alarm = Alarm::default();
        std::future::poll_fn(|cx| {
            let _ = alarm.poll(cx, start + Duration::from_secs(50));
            alarm.poll(cx, start + Duration::from_millis(20))
        })
        .await;
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}
