//! Two byte streams joined: what a TCP proxy and an upgraded connection do.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::alarm::Alarm;
use super::io::Io;
use super::queue::WriteQueue;
use super::tcp::{LARGE_READ, READ_SIZE};

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
    /// It was told to end.
    Closed,
}

/// How long a pair may live.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits<'a> {
    /// The longest time without a byte in either direction.
    pub idle: Option<Duration>,
    /// The moment at which it ends whatever it does.
    pub until: Option<Instant>,
    /// Ends it when set; who sets it wakes the task.
    pub closed: Option<&'a AtomicBool>,
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

/// How much is moved in one direction before others have their turn: a fast body that nobody holds back would have its worker for itself.
pub const TURN: usize = 256 * 1024;

enum Fault {
    Read(io::Error),
    Write(io::Error),
}

impl Half {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut Io, to: &mut Io) -> Poll<Result<(), Fault>> {
        let mut turn = 0;
        loop {
            if !self.queue.is_done() {
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
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match from.poll_chunk(cx, &mut self.scratch) {
                Poll::Ready(Ok(chunk)) if chunk.is_empty() => self.read_ended = true,
                Poll::Ready(Ok(chunk)) => {
                    self.moved += chunk.len() as u64;
                    turn += chunk.len();
                    if chunk.len() >= READ_SIZE {
                        // Who sends so much sends more: the next read goes where it stays.
                        self.scratch.reserve(LARGE_READ);
                    }
                    self.queue.push(chunk);
                }
                // TLS that ends without its goodbye: many clients do, and for Envoy that is an end like any other.
                Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => self.read_ended = true,
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

/// Whether the peer has reset a stream that we can still send on; the task is woken when it does.
fn gone(io: &mut Io, cx: &mut Context<'_>) -> bool {
    match io {
        Io::Tunnel(t) => t.poll_gone(cx).is_ready(),
        Io::Replay(r) => gone(&mut r.1, cx),
        Io::Exchanged(e) => gone(&mut e.io, cx),
        _ => false,
    }
}

/// Moves bytes both ways until both directions have ended, one fails, or a limit is reached. `early` is sent upstream first.
pub async fn pump(down: &mut Io, up: &mut Io, early: Bytes, limits: Limits<'_>) -> Pumped {
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
        if limits.closed.is_some_and(|c| c.load(Relaxed)) {
            return Poll::Ready(End::Closed);
        }
        // A tunnel that is not being read, since it has ended its direction or the other side takes nothing, may be reset all the same.
        if gone(down, cx) {
            return Poll::Ready(End::Downstream(io::ErrorKind::ConnectionReset.into()));
        }
        if gone(up, cx) {
            return Poll::Ready(End::Upstream(io::ErrorKind::ConnectionReset.into()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// A CONNECT stream in memory: what we hold of it, and the client's two halves. The connections run as tasks of the current set.
    async fn tunnel() -> (Io, h2::SendStream<Bytes>, h2::RecvStream) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (client, server) = tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
        let (mut sender, connection) = client.unwrap();
        let mut server = server.unwrap();
        tokio::task::spawn_local(connection);
        let request = http::Request::connect("a:1").body(()).unwrap();
        let (response, send) = sender.send_request(request, false).unwrap();
        let (request, mut respond) = server.accept().await.unwrap().unwrap();
        let ours = respond.send_response(http::Response::new(()), false).unwrap();
        tokio::task::spawn_local(async move { while server.accept().await.is_some() {} });
        let recv = response.await.unwrap().into_body();
        // The client's handle is leaked: dropping it would end the connection with its last stream.
        std::mem::forget(sender);
        (Io::Tunnel(crate::net::Tunnel::new(ours, request.into_body())), send, recv)
    }

    #[tokio::test]
    async fn a_reset_after_the_end_of_a_direction_ends_the_pair() {
        let set = tokio::task::LocalSet::new();
        let ended = set.run_until(async {
            let (mut down, mut send, recv) = tunnel().await;
            let (near, far) = tokio::io::duplex(1024);
            let mut up = Io::Pipe(near);
            tokio::task::spawn_local(async move {
                send.send_data(Bytes::from_static(b"x"), true).unwrap();
                // The end has to arrive before the reset does.
                let mut far = far;
                let mut all = Vec::new();
                tokio::io::AsyncReadExt::read_to_end(&mut far, &mut all).await.unwrap();
                assert_eq!(all, b"x");
                send.send_reset(h2::Reason::CANCEL);
                drop(recv);
                // The host stays silent and open.
                std::future::pending::<()>().await;
                drop(far);
            });
            pump(&mut down, &mut up, Bytes::new(), Limits::default()).await
        });
        let pumped = tokio::time::timeout(Duration::from_secs(10), ended).await.expect("the pair outlived its client");
        assert!(matches!(pumped.end, End::Downstream(_)), "{:?}", pumped.end);
        assert_eq!(pumped.received, 1);
    }

    #[test]
    fn what_a_stream_holds_back_is_flushed_before_more_is_read() {
        let mut half = Half::default();
        half.queue.push(Bytes::from_static(b"x"));
        half.queue.advance(1);
        assert!(half.queue.is_empty() && !half.queue.is_done(), "written is not yet sent");
        let (near, _far) = tokio::io::duplex(16);
        let (mut to, mut from) = (Io::Pipe(near), Io::Pipe(tokio::io::duplex(16).0));
        let _ = half.poll(&mut Context::from_waker(Waker::noop()), &mut from, &mut to);
        assert!(half.queue.is_done());
    }

    struct Woken(AtomicBool);

    impl std::task::Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    #[tokio::test]
    async fn a_fast_body_gives_others_their_turn() {
        let (near, mut client) = tokio::io::duplex(4 * TURN);
        let (far, mut host) = tokio::io::duplex(4 * TURN);
        tokio::io::AsyncWriteExt::write_all(&mut client, &vec![1; 3 * TURN]).await.unwrap();
        let (mut down, mut up) = (Io::Pipe(near), Io::Pipe(far));
        let mut pumped = std::pin::pin!(pump(&mut down, &mut up, Bytes::new(), Limits::default()));
        let woken = std::sync::Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(woken.clone());
        assert!(pumped.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(woken.0.load(Relaxed), "it goes on in its next turn");
        let mut all = vec![0; 4 * TURN];
        let mut seen = tokio::io::ReadBuf::new(&mut all);
        let read =
            tokio::io::AsyncRead::poll_read(std::pin::Pin::new(&mut host), &mut Context::from_waker(&waker), &mut seen);
        assert!(read.is_ready() && (TURN..2 * TURN).contains(&seen.filled().len()), "{}", seen.filled().len());
    }
}
