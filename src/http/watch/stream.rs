//! The byte stream under the codec, with the watch in between.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::Scanner;
use super::goodbye::PING_LENGTH;
use super::{CODEC_ERROR, TOO_LARGE, Watch};
use crate::net::{Alarm, Io};

/// The length of a client's preface (RFC 9113, 3.4).
pub(super) const PREFACE_LENGTH: u32 = 24;

/// A byte stream that is watched.
pub struct Watched {
    io: Io,
    watch: Rc<Watch>,
    inbound: Scanner,
    outbound: Scanner,
    /// Bytes that were looked at and not written yet.
    ahead: usize,
    /// Where in what is to be written next the codec's question is that does not go out.
    mute: Range<usize>,
    /// How long the client's end is waited for after the last answer, and since when it is.
    patience: Option<Duration>,
    ended: Option<Instant>,
    alarm: Alarm,
}

impl Watched {
    /// Watches a byte stream from the client's preface on. `patience` is `delayed_close_timeout`.
    pub fn new(io: Io, watch: Rc<Watch>, patience: Option<Duration>) -> Watched {
        Watched {
            io,
            watch,
            inbound: Scanner::new(PREFACE_LENGTH),
            outbound: Scanner::new(0),
            ahead: 0,
            mute: 0..0,
            patience,
            ended: None,
            alarm: Alarm::default(),
        }
    }

    fn failed(&self) -> Option<io::Error> {
        // What the codec has to say before it goes away is still written, where Envoy's says it.
        let silent = |details: &&str| *details != CODEC_ERROR && *details != TOO_LARGE;
        self.watch.error().filter(silent).map(|_| io::ErrorKind::ConnectionAborted.into())
    }

    fn look<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>) -> usize {
        let mut ahead = self.ahead;
        let mut total = 0;
        for slice in slices {
            total += slice.len();
            let seen = ahead.min(slice.len());
            ahead -= seen;
            let (watch, mute, start) = (&self.watch, &mut self.mute, total - slice.len() + seen);
            self.outbound.feed(slice.get(seen..).unwrap_or_default(), |frame, end| {
                if frame.is_shutdown_ping() {
                    let end = start + end;
                    *mute = end.saturating_sub(PING_LENGTH)..end;
                }
                watch.sends(frame);
            });
        }
        self.ahead = self.ahead.max(total);
        total
    }

    /// Notes that so much was written, or kept.
    fn wrote(&mut self, n: usize) -> usize {
        self.ahead -= n.min(self.ahead);
        if !self.mute.is_empty() {
            self.mute = self.mute.start.saturating_sub(n)..self.mute.end.saturating_sub(n);
        }
        self.watch.wrote.set(true);
        n
    }

    /// Writes up to what does not go out, and skips that.
    fn poll_write_around(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let Range { start, end } = self.mute;
        if start == 0 {
            return Poll::Ready(Ok(self.wrote(end.min(data.len()))));
        }
        let n = ready!(Pin::new(&mut self.io).poll_write(cx, data.get(..start).unwrap_or(data)))?;
        Poll::Ready(Ok(self.wrote(n)))
    }

    /// Reads and throws away until the client ends.
    fn poll_client_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut unwanted = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut unwanted);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.watch.stopping.get().is_some() {
            // The connection's loop goes on as soon as the codec waits.
            return Poll::Pending;
        }
        if let Some(e) = this.failed() {
            return Poll::Ready(Err(e));
        }
        let before = buf.filled().len();
        let watch = &this.watch;
        if let Some(answer) = watch.answer_due() {
            let left = this.inbound.left();
            if left == 0 {
                let n = answer.len().min(buf.remaining());
                buf.put_slice(answer.get(..n).unwrap_or_default());
                watch.answered(n);
                return Poll::Ready(Ok(()));
            }
            // A client that always has more to send would otherwise never be seen between two frames.
            let mut rest = ReadBuf::new(buf.initialize_unfilled_to(left.min(buf.remaining())));
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut rest))?;
            let n = rest.filled().len();
            buf.advance(n);
        } else {
            ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        }
        this.inbound.feed(buf.filled().get(before..).unwrap_or_default(), |frame, _| watch.received(frame));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.look(std::iter::once(data));
        if let Some(e) = this.failed() {
            return Poll::Ready(Err(e));
        }
        if this.watch.held() {
            return Poll::Pending;
        }
        if !this.mute.is_empty() {
            return this.poll_write_around(cx, data);
        }
        let n = ready!(Pin::new(&mut this.io).poll_write(cx, data))?;
        Poll::Ready(Ok(this.wrote(n)))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.look(slices.iter().map(|s| &**s));
        if let Some(e) = this.failed() {
            return Poll::Ready(Err(e));
        }
        if this.watch.held() {
            return Poll::Pending;
        }
        if !this.mute.is_empty() {
            let first = slices.iter().find(|s| !s.is_empty());
            return this.poll_write_around(cx, first.map(|s| &**s).unwrap_or_default());
        }
        let n = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        Poll::Ready(Ok(this.wrote(n)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// After a goodbye what the client still sends is taken in until it ends as well: the kernel answers with a reset otherwise, which
    /// destroys what of the last responses is on its way.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.ended.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        let Some(patience) = this.patience.filter(|_| this.watch.is_parting()) else { return Poll::Ready(Ok(())) };
        let ended = *this.ended.get_or_insert_with(Instant::now);
        if this.poll_client_end(cx).is_ready() || this.alarm.poll(cx, ended + patience).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}
