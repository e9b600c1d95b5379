//! An exchange between a client and a host, moved forward by one task: no channel, no wake-up from one task to another.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use waypost_filters::body::BodyEncoder;

use super::downstream::{Downstream, Lost, Piece};
use super::upstream::{Broken, Response, Upstream};
use crate::net::pump::TURN;
use crate::net::{Alarm, clock};

/// Why an exchange stops before it is complete.
#[derive(Debug)]
pub enum Stop {
    /// The client.
    Downstream(Lost),
    /// The host.
    Upstream(Broken),
    /// A timer.
    Timeout(Timer),
}

/// Which timer ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// `route.timeout`: the response was not complete in time after the request was.
    Route,
    /// `retry_policy.per_try_timeout`.
    PerTry,
    /// `stream_idle_timeout`: nothing moved.
    Idle,
    /// `request_timeout` of the connection manager: the request was not complete in time.
    Request,
    /// `max_stream_duration` of the connection manager or the route.
    Duration,
    /// `max_stream_duration` of the cluster.
    UpstreamDuration,
}

/// An exchange's timers; nothing is armed for those that are not set.
#[derive(Default)]
pub struct Timers {
    /// `route.timeout`, counted from the end of the request.
    pub route: Option<Duration>,
    /// When `route` runs out, once the request has ended.
    pub route_at: Option<Instant>,
    /// `per_try_timeout`, counted from the end of the request.
    pub per_try: Option<Duration>,
    /// When the attempt runs out.
    pub per_try_at: Option<Instant>,
    /// `stream_idle_timeout`.
    pub idle: Option<Duration>,
    /// When something last moved.
    pub active_at: Option<Instant>,
    /// When the request had been received in full.
    pub received_at: Option<Instant>,
    /// When the request has to be complete.
    pub request_at: Option<Instant>,
    /// When the stream has to be over.
    pub duration_at: Option<Instant>,
    /// `max_stream_duration` of the cluster.
    pub upstream_duration: Option<Duration>,
    /// When the upstream stream has to be over.
    pub upstream_duration_at: Option<Instant>,
    /// What wakes the task.
    pub alarm: Alarm,
}

impl Timers {
    /// The timer that runs out first, and when.
    fn next(&self) -> Option<(Instant, Timer)> {
        let idle_at = self.idle.zip(self.active_at).map(|(d, at)| at + d);
        [
            (self.route_at, Timer::Route),
            (self.per_try_at, Timer::PerTry),
            (idle_at, Timer::Idle),
            (self.request_at, Timer::Request),
            (self.duration_at, Timer::Duration),
            (self.upstream_duration_at, Timer::UpstreamDuration),
        ]
        .into_iter()
        .filter_map(|(at, timer)| Some((at?, timer)))
        .min_by_key(|(at, _)| *at)
    }

    /// Ready with the timer that has run out.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Timer> {
        let Some((at, timer)) = self.next() else { return Poll::Pending };
        self.alarm.poll(cx, at).map(|()| timer)
    }

    /// Something moved.
    fn touch(&mut self) {
        if self.idle.is_some() {
            self.active_at = Some(clock::now());
        }
    }

    /// The request has been received in full.
    pub fn request_ended(&mut self) {
        self.request_at = None;
        let now = *self.received_at.get_or_insert_with(clock::now);
        if let (Some(d), None) = (self.route, self.route_at) {
            self.route_at = Some(now + d);
        }
        if let (Some(d), None) = (self.per_try, self.per_try_at) {
            self.per_try_at = Some(clock::now() + d);
        }
    }

    /// Another attempt: it has its own time. `complete` says that the request has been received in full.
    pub fn begin_attempt(&mut self, complete: bool) {
        if self.per_try.is_none() && self.upstream_duration.is_none() {
            return;
        }
        let now = clock::now();
        self.per_try_at = self.per_try.filter(|_| complete).map(|d| now + d);
        self.upstream_duration_at = self.upstream_duration.map(|d| now + d);
    }
}

/// What has moved.
#[derive(Debug, Default)]
pub struct Moved {
    /// Bytes of the request's body.
    pub request: u64,
    /// Bytes of the response's body.
    pub response: u64,
    /// Whether the request has been sent in full.
    pub request_ended: bool,
    /// Whether the request had trailers, which are gone once they have been sent.
    pub request_trailers: bool,
    /// The response's trailers, to be shown in logs.
    pub trailers: Option<HeaderMap>,
}

impl Moved {
    /// Whether the request can be sent again: nothing of its body is gone.
    pub fn replayable(&self) -> bool {
        self.request == 0 && !self.request_trailers
    }
}

/// Moves the request's body on. Ready only when it stops.
fn poll_request(
    cx: &mut Context<'_>,
    down: &mut Downstream<'_>,
    up: &mut Upstream,
    moved: &mut Moved,
    timers: &mut Timers,
) -> Poll<Stop> {
    let mut turn = 0;
    while !moved.request_ended {
        if turn >= TURN {
            cx.waker().wake_by_ref();
            break;
        }
        match up.poll_room(cx) {
            Poll::Ready(Ok(())) => {}
            // A host that stops reading may have answered already; its answer is read elsewhere.
            Poll::Ready(Err(_)) => break,
            // Nobody reads the client meanwhile: a reset has to be asked for.
            Poll::Pending => match down.poll_reset(cx) {
                Poll::Ready(lost) => return Poll::Ready(Stop::Downstream(lost)),
                Poll::Pending => break,
            },
        }
        match down.poll_request(cx) {
            Poll::Ready(Ok(Piece::Data(data))) => {
                turn += data.len();
                moved.request += data.len() as u64;
                timers.touch();
                up.send_data(data);
            }
            Poll::Ready(Ok(Piece::End(trailers))) => {
                moved.request_ended = true;
                moved.request_trailers = trailers.is_some();
                timers.request_ended();
                timers.touch();
                up.finish(trailers);
            }
            Poll::Ready(Err(lost)) => return Poll::Ready(Stop::Downstream(lost)),
            Poll::Pending => break,
        }
    }
    // Errors of writing show up when the response is read; whether all has been written is for the host to wait for.
    let _ = up.poll_flush(cx);
    Poll::Pending
}

/// Ready when the client of a complete request has gone: until its request is complete, reading that shows it.
fn poll_gone(cx: &mut Context<'_>, down: &mut Downstream<'_>, moved: &Moved) -> Poll<Stop> {
    if moved.request_ended { down.poll_lost(cx).map(Stop::Downstream) } else { Poll::Pending }
}

/// Sends the request and waits for the head of its response.
pub async fn head(
    down: &mut Downstream<'_>,
    up: &mut Upstream,
    moved: &mut Moved,
    timers: &mut Timers,
    mut informational: impl FnMut(&mut Downstream<'_>, Response),
) -> Result<Response, Stop> {
    std::future::poll_fn(|cx| {
        if let Poll::Ready(stop) = poll_request(cx, down, up, moved, timers) {
            return Poll::Ready(Err(stop));
        }
        loop {
            match up.poll_head(cx) {
                Poll::Ready(Ok(response)) if response.informational => informational(down, response),
                Poll::Ready(Ok(response)) => {
                    timers.touch();
                    return Poll::Ready(Ok(response));
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(Stop::Upstream(broken))),
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(stop) = poll_gone(cx, down, moved) {
            return Poll::Ready(Err(stop));
        }
        // `100 Continue` may be waiting to go out.
        let _ = down.poll_flush(cx);
        timers.poll(cx).map(|t| Err(Stop::Timeout(t)))
    })
    .await
}

/// Moves the response's body on to the client, through the encoder if there is one, and what is left of the request to the host.
pub async fn body(
    down: &mut Downstream<'_>,
    up: &mut Upstream,
    moved: &mut Moved,
    timers: &mut Timers,
    encoder: &mut Option<Box<dyn BodyEncoder>>,
    ended: bool,
) -> Result<(), Stop> {
    let mut response_ended = ended;
    std::future::poll_fn(|cx| {
        if !moved.request_ended
            && let Poll::Ready(stop) = poll_request(cx, down, up, moved, timers)
        {
            return Poll::Ready(Err(stop));
        }
        let mut turn = 0;
        while !response_ended {
            if turn >= TURN {
                cx.waker().wake_by_ref();
                break;
            }
            match down.poll_room(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Stop::Downstream(Lost::Reset(None)))),
                Poll::Pending => break,
            }
            match up.poll_body(cx) {
                Poll::Ready(Ok(Piece::Data(data))) => {
                    turn += data.len();
                    let data = match encoder {
                        Some(encoder) => encoder.encode(data, false),
                        None => data,
                    };
                    moved.response += data.len() as u64;
                    timers.touch();
                    down.send_data(data);
                }
                Poll::Ready(Ok(Piece::End(trailers))) => {
                    response_ended = true;
                    if let Some(encoder) = encoder {
                        let rest = encoder.encode(Bytes::new(), true);
                        moved.response += rest.len() as u64;
                        down.send_data(rest);
                    }
                    moved.trailers.clone_from(&trailers);
                    down.finish(trailers);
                }
                Poll::Ready(Err(broken)) => return Poll::Ready(Err(Stop::Upstream(broken))),
                Poll::Pending => break,
            }
        }
        match down.poll_flush(cx) {
            Poll::Ready(Ok(())) if response_ended => return Poll::Ready(Ok(())),
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Stop::Downstream(Lost::Reset(None)))),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if let Poll::Ready(stop) = poll_gone(cx, down, moved) {
            return Poll::Ready(Err(stop));
        }
        timers.poll(cx).map(|t| Err(Stop::Timeout(t)))
    })
    .await
}

/// Runs a future that belongs to the exchange, such as connecting, until it is done, the client goes away or a timer runs out.
pub async fn guard<F: Future>(down: &mut Downstream<'_>, timers: &mut Timers, future: F) -> Result<F::Output, Stop> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(out) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(out));
        }
        // Whether its request is complete or not: what comes in of a body meanwhile waits where it is looked for.
        if let Poll::Ready(lost) = down.poll_lost(cx) {
            return Poll::Ready(Err(Stop::Downstream(lost)));
        }
        timers.poll(cx).map(|t| Err(Stop::Timeout(t)))
    })
    .await
}
