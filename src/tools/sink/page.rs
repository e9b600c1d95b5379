//! What a sink answers, by path.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

/// The pages. Everything else is the home page: a sink's is `ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `ok`, as cheap as can be.
    Ok,
    /// `/echo`: the request line, the headers and the body as JSON.
    Echo,
    /// `/big/N`: N bytes.
    Big(u64),
    /// `/slow/RATE`: reads the body at RATE bytes a second.
    Slow(u64),
}

/// The body of `Page::Ok`.
pub const OK: &[u8] = b"ok";

/// What an echo shows of a body; the rest is counted.
pub const ECHOED: usize = 1 << 20;

impl Page {
    /// The page of a request target; `home` where it names none.
    pub fn of(target: &[u8], home: Self) -> Self {
        // The benchmark's path is found without a look at the others.
        if target.len() <= 1 {
            return home;
        }
        let path = target.split(|b| *b == b'?').next().unwrap_or_default();
        let number = |prefix: &[u8]| std::str::from_utf8(path.strip_prefix(prefix)?).ok()?.parse::<u64>().ok();
        if path == b"/echo" || path.starts_with(b"/echo/") {
            Self::Echo
        } else if let Some(n) = number(b"/big/") {
            Self::Big(n)
        } else if let Some(n) = number(b"/slow/").filter(|n| *n > 0) {
            Self::Slow(n)
        } else {
            home
        }
    }
}

/// A request as JSON, with its headers in order.
pub fn echo(line: &str, headers: Vec<(String, String)>, body: &[u8], length: usize) -> Bytes {
    let headers: Vec<Value> = headers.into_iter().map(|(n, v)| json!([n, v])).collect();
    let mut text = json!({
        "request": line,
        "headers": headers,
        "body": String::from_utf8_lossy(body),
        "body_bytes": length,
    })
    .to_string();
    text.push('\n');
    Bytes::from(text)
}

/// One piece of a big body, and how to cut it: `Filler::new(n)` yields n bytes.
pub struct Filler(u64);

static FILL: [u8; 65536] = [b'x'; 65536];

impl Filler {
    /// A body of `length` bytes.
    pub fn new(length: u64) -> Self {
        Self(length)
    }
}

impl Iterator for Filler {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.0 == 0 {
            return None;
        }
        let n = usize::try_from(self.0).unwrap_or(usize::MAX).min(FILL.len());
        self.0 -= n as u64;
        Some(Bytes::from_static(&FILL).slice(..n))
    }
}

/// Keeps a transfer at a number of bytes per second, counted from its start.
pub struct Pace {
    start: Instant,
    done: u64,
    rate: u64,
}

impl Pace {
    /// A transfer that begins now.
    pub fn new(rate: u64) -> Self {
        Self { start: Instant::now(), done: 0, rate }
    }

    /// How long to wait now that `more` bytes were transferred.
    fn due(&mut self, more: usize, elapsed: Duration) -> Duration {
        self.done += more as u64;
        Duration::from_secs_f64(self.done as f64 / self.rate.max(1) as f64).saturating_sub(elapsed)
    }

    /// Waits until `more` bytes may have been transferred.
    pub async fn spend(&mut self, more: usize) {
        let elapsed = self.start.elapsed();
        let due = self.due(more, elapsed);
        if !due.is_zero() {
            tokio::time::sleep(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages() {
        assert_eq!(Page::of(b"/", Page::Ok), Page::Ok);
        assert_eq!(Page::of(b"/anything?/echo", Page::Ok), Page::Ok);
        assert_eq!(Page::of(b"/echo?x=1", Page::Ok), Page::Echo);
        assert_eq!(Page::of(b"/echo/deep", Page::Ok), Page::Echo);
        assert_eq!(Page::of(b"/big/1000", Page::Ok), Page::Big(1000));
        assert_eq!(Page::of(b"/big/-1", Page::Ok), Page::Ok);
        assert_eq!(Page::of(b"/slow/10", Page::Ok), Page::Slow(10));
        assert_eq!(Page::of(b"/slow/0", Page::Ok), Page::Ok);
        assert_eq!((Page::of(b"/", Page::Echo), Page::of(b"/x", Page::Echo)), (Page::Echo, Page::Echo));
    }

    #[test]
    fn a_filler_has_the_length_asked_for() {
        for n in [0, 1, 65_535, 65_536, 65_537, 1_000_000] {
            assert_eq!(Filler::new(n).map(|b| b.len() as u64).sum::<u64>(), n);
        }
    }

    #[test]
    fn a_pace_is_counted_from_the_start() {
        let mut pace = Pace::new(1000);
        assert_eq!(pace.due(500, Duration::ZERO), Duration::from_millis(500));
        assert_eq!(pace.due(500, Duration::from_millis(700)), Duration::from_millis(300));
        assert_eq!(pace.due(500, Duration::from_secs(2)), Duration::ZERO);
    }

    #[test]
    fn an_echo_is_json() {
        let body = echo("GET /echo HTTP/1.1", vec![("a".into(), "\"1\"".into())], b"x\n", 2);
        let v: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(v["headers"][0][1], "\"1\"");
        assert_eq!(v["body"], "x\n");
    }
}
