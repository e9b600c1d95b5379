//! The byte stream under the codec, with the watch in between.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::Scanner;
use super::{CODEC_ERROR, TOO_LARGE, Watch};
use crate::net::Io;

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
}

impl Watched {
    /// Watches a byte stream from the client's preface on.
    pub fn new(io: Io, watch: Rc<Watch>) -> Watched {
        Watched { io, watch, inbound: Scanner::new(PREFACE_LENGTH), outbound: Scanner::new(0), ahead: 0 }
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
            let watch = &self.watch;
            self.outbound.feed(slice.get(seen..).unwrap_or_default(), |frame| watch.sends(frame));
        }
        self.ahead = self.ahead.max(total);
        total
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
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let watch = &this.watch;
        this.inbound.feed(buf.filled().get(before..).unwrap_or_default(), |frame| watch.received(frame));
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
        let n = ready!(Pin::new(&mut this.io).poll_write(cx, data))?;
        this.ahead -= n.min(this.ahead);
        Poll::Ready(Ok(n))
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
        let n = ready!(Pin::new(&mut this.io).poll_write_vectored(cx, slices))?;
        this.ahead -= n.min(this.ahead);
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
