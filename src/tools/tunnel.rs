//! One CONNECT stream as a connection: by chunks for what must be cheap, as AsyncRead and AsyncWrite for everything else.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// A connection that is read and written in chunks.
pub trait Wire: Send {
    /// The next bytes; empty at the end. Only the next call gives the peer credit for them, so a slow reader slows its peer.
    fn read(&mut self) -> impl Future<Output = io::Result<Bytes>> + Send;
    /// Writes all of `data`.
    fn write(&mut self, data: Bytes) -> impl Future<Output = io::Result<()>> + Send;
    /// Ends our direction.
    fn close(&mut self) -> impl Future<Output = io::Result<()>> + Send;
    /// Puts bytes back in front of what is still to be read.
    fn unread(&mut self, data: Bytes);
}

/// A CONNECT stream (RFC 9113, section 8.5).
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    unread: Bytes,
    uncredited: usize,
}

impl Tunnel {
    /// The two directions of an accepted or opened stream.
    pub fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, unread: Bytes::new(), uncredited: 0 }
    }

    /// RST_STREAM.
    pub fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        if !self.unread.is_empty() {
            return Poll::Ready(Ok(std::mem::take(&mut self.unread)));
        }
        self.credit();
        loop {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.uncredited = data.len();
                    return Poll::Ready(Ok(data));
                }
                Some(Err(e)) => return Poll::Ready(Err(error(e))),
                None => return Poll::Ready(Ok(Bytes::new())),
            }
        }
    }

    fn credit(&mut self) {
        if self.uncredited > 0 {
            // It fails only for a stream that is gone, and then nobody needs the credit.
            let _ = self.recv.flow_control().release_capacity(std::mem::take(&mut self.uncredited));
        }
    }

    /// Waits until the peer takes some bytes, at most `wanted`.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(wanted);
        loop {
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room.min(wanted)));
            }
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Poll::Ready(Err(error(e))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }
}

fn error(e: h2::Error) -> io::Error {
    if e.is_io() {
        return e.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
    }
    io::Error::new(io::ErrorKind::ConnectionReset, e)
}

impl Wire for Tunnel {
    async fn read(&mut self) -> io::Result<Bytes> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    async fn write(&mut self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            let room = poll_fn(|cx| self.poll_room(cx, data.len())).await?;
            self.send.send_data(data.split_to(room), false).map_err(error)?;
        }
        Ok(())
    }

    async fn close(&mut self) -> io::Result<()> {
        self.send.send_data(Bytes::new(), true).map_err(error)
    }

    fn unread(&mut self, data: Bytes) {
        self.unread = data;
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut chunk = ready!(self.poll_chunk(cx))?;
        buf.put_slice(&chunk.split_to(chunk.len().min(buf.remaining())));
        self.unread = chunk;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let room = ready!(self.poll_room(cx, buf.len()))?;
        let data = Bytes::copy_from_slice(buf.get(..room).unwrap_or(buf));
        let written = data.len();
        self.send.send_data(data, false).map_err(error)?;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(error))
    }
}

/// Any byte stream as a wire.
pub struct Socket<T> {
    io: T,
    buffer: BytesMut,
    unread: Bytes,
}

impl<T> Socket<T> {
    /// A stream of which nothing was read.
    pub fn new(io: T) -> Self {
        Self { io, buffer: BytesMut::new(), unread: Bytes::new() }
    }
}

/// A benchmark's requests fit with room to spare, and a large body still comes in few reads.
const READ: usize = 16 * 1024;

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for Socket<T> {
    async fn read(&mut self) -> io::Result<Bytes> {
        if !self.unread.is_empty() {
            return Ok(std::mem::take(&mut self.unread));
        }
        self.buffer.reserve(READ);
        self.io.read_buf(&mut self.buffer).await?;
        Ok(self.buffer.split().freeze())
    }

    async fn write(&mut self, data: Bytes) -> io::Result<()> {
        self.io.write_all(&data).await?;
        self.io.flush().await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }

    fn unread(&mut self, data: Bytes) {
        self.unread = data;
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Socket<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Socket<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
