//! Two byte streams joined: what a TCP proxy and an upgraded connection do.

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::alarm::Alarm;
use super::io::Io;
use super::queue::WriteQueue;

/// What went through, and how it ended.
#[derive(Debug, Default)]
pub struct Pumped {
    /// Bytes from downstream to upstream.
    pub received: u64,
    /// Bytes from upstream to downstream.
    pub sent: u64,
    /// How it ended.
    pub end: End,
    /// Whether the downstream side was the first to end its direction.
    pub downstream_first: bool,
}

/// How a pair of streams ended.
#[derive(Debug, Default)]
pub enum End {
    /// Both directions came to their end.
    #[default]
    Clean,
    /// The downstream side failed.
    Downstream(io::Error),
    /// The upstream side failed.
    Upstream(io::Error),
    /// Nothing moved for the idle timeout.
    Idle,
    /// The longest duration has passed.
    Expired,
}

/// How long a pair may live.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// The longest time without a byte in either direction.
    pub idle: Option<Duration>,
    /// The moment at which it ends whatever it does.
    pub until: Option<Instant>,
}

/// One direction. A piece is read only when the last one has gone out, so a slow reader stops its sender.
#[derive(Default)]
struct Half {
    queue: WriteQueue,
    scratch: BytesMut,
    moved: u64,
    read_ended: bool,
    ended: bool,
}

enum Fault {
    Read(io::Error),
    Write(io::Error),
}

impl Half {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &mut Io) -> Poll<Result<(), Fault>> {
        loop {
            if !self.queue.is_empty() {
                match to.poll_drain(cx, &mut self.queue) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(e)) => return Poll::Ready(Err(Fault::Write(e))),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.read_ended {
                if self.ended {
                    return Poll::Ready(Ok(()));
                }
                return match to.poll_end(cx) {
                    Poll::Ready(Ok(())) => {
                        self.ended = true;
                        Poll::Ready(Ok(()))
                    }
                    Poll::Ready(Err(e)) => Poll::Ready(Err(Fault::Write(e))),
                    Poll::Pending => Poll::Pending,
                };
            }
            match from.poll_chunk(cx, &mut self.scratch) {
                Poll::Ready(Ok(chunk)) if chunk.is_empty() => self.read_ended = true,
                Poll::Ready(Ok(chunk)) => {
                    self.moved += chunk.len() as u64;
                    self.queue.push(chunk);
                }
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Fault::Read(e))),
                Poll::Pending => {
                    // An idle connection holds no buffer: ten thousand of them are common.
                    self.scratch = BytesMut::new();
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Moves bytes both ways until both directions have ended, one fails, or a limit is reached. `early` is sent upstream first.
pub async fn pump(down: &mut Io, up: &mut Io, early: Bytes, limits: Limits) -> Pumped {
    let (mut to_up, mut to_down) = (Half::default(), Half::default());
    to_up.moved = early.len() as u64;
    to_up.queue.push(early);
    let mut alarm = Alarm::default();
    let (mut last, mut last_moved) = (Instant::now(), 0);
    let mut downstream_first = false;
    let end = std::future::poll_fn(|cx| {
        let a = to_up.poll(cx, down, up);
        downstream_first |= to_up.read_ended && !to_down.read_ended;
        let b = to_down.poll(cx, up, down);
        match (a, b) {
            (Poll::Ready(Err(Fault::Read(e))), _) | (_, Poll::Ready(Err(Fault::Write(e)))) => {
                return Poll::Ready(End::Downstream(e));
            }
            (Poll::Ready(Err(Fault::Write(e))), _) | (_, Poll::Ready(Err(Fault::Read(e)))) => {
                return Poll::Ready(End::Upstream(e));
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Clean),
            _ => {}
        }
        let moved = to_up.moved + to_down.moved;
        if moved != last_moved {
            last_moved = moved;
            last = Instant::now();
        }
        let idle = limits.idle.map(|d| last + d);
        let Some(deadline) = [idle, limits.until].into_iter().flatten().min() else { return Poll::Pending };
        alarm.poll(cx, deadline).map(|()| if idle == Some(deadline) { End::Idle } else { End::Expired })
    })
    .await;
    Pumped { received: to_up.moved, sent: to_down.moved, end, downstream_first }
}
