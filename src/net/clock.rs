//! What time it is, for notes and statistics.
//!
//! A look at the clock costs as much as matching a route, and a request has a dozen moments to note. On a worker, all that happens between
//! reading some bytes and the next read or wait happens at one time, which is when the bytes came; deadlines that are waited for
//! use the clock itself ([`super::alarm`]).

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

/// How long a pair of readings of both clocks serves to tell one time from the other: a step of the wall clock shows after so long.
const PAIR_LIFE: Duration = Duration::from_millis(100);

thread_local! {
    static KEEPS: Cell<bool> = const { Cell::new(false) };
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    static PAIR: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
}

/// From here on this thread keeps what it saw: its loop calls [`forget`] before it waits.
pub fn keep() {
    KEEPS.set(true);
}

/// Something came in, or not: what is done about it is done now.
pub fn look_if(came: bool) {
    if came && KEEPS.get() {
        NOW.set(Some(Instant::now()));
    }
}

/// The thread is about to wait, and time to pass.
pub fn forget() {
    NOW.set(None);
}

/// When what is being done began; on a thread that keeps nothing, the time.
pub fn now() -> Instant {
    NOW.get().unwrap_or_else(|| {
        let now = Instant::now();
        if KEEPS.get() {
            NOW.set(Some(now));
        }
        now
    })
}

/// The time since a moment that [`now`] told.
pub fn since(start: Instant) -> Duration {
    now().saturating_duration_since(start)
}

/// A moment that is past, on the wall clock; exact to what the clocks drift apart in a tenth of a second.
pub fn wall(at: Instant) -> SystemTime {
    if let Some((then, time)) = PAIR.get()
        && let Some(later) = at.checked_duration_since(then)
        && later < PAIR_LIFE
    {
        return time + later;
    }
    let (then, time) = (Instant::now(), SystemTime::now());
    PAIR.set(Some((then, time)));
    time - then.saturating_duration_since(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stands_still_until_the_thread_looks_or_waits() {
        let pass = || std::thread::sleep(Duration::from_millis(2));
        let first = now();
        pass();
        assert!(now() > first, "a thread that keeps nothing");
        keep();
        let kept = now();
        pass();
        assert_eq!((now(), since(kept)), (kept, Duration::ZERO));
        look_if(false);
        assert_eq!(now(), kept);
        look_if(true);
        assert!(now() > kept);
        let looked = now();
        pass();
        forget();
        assert!(now() > looked);
    }

    #[test]
    fn the_wall_clock_goes_along() {
        let (at, time) = (Instant::now(), SystemTime::now());
        let near = |a: SystemTime, b: SystemTime| {
            a.duration_since(b).or_else(|_| b.duration_since(a)).unwrap() < Duration::from_millis(40)
        };
        assert!(near(wall(at), time));
        // Within the life of the pair, before it, and after it.
        let later = |ms| (at + Duration::from_millis(ms), time + Duration::from_millis(ms));
        assert!(near(wall(later(50).0), later(50).1));
        std::thread::sleep(Duration::from_millis(120));
        assert!(near(wall(Instant::now()), SystemTime::now()));
        assert!(near(wall(later(60).0), later(60).1), "of a stream that began before the pair was made");
    }
}
