//! Every kind of byte stream that a connection runs over.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::clock;
use super::exchange::Exchanged;
use super::queue::WriteQueue;
use super::tcp::{self, READ_SIZE};
use super::tunnel::Tunnel;

/// How much is queued before it is written, of a body that comes faster than it is waited for.
const WRITE_SIZE: usize = 64 * 1024;

/// How many read buffers a worker keeps for whoever reads next; as many as are in use at one moment of a busy worker.
const SPARES: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

fn take_spare() -> BytesMut {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Keeps an empty buffer for the next reader.
pub fn keep_spare(buffer: BytesMut) {
    if buffer.is_empty() && buffer.capacity() > 0 {
        SPARE.with_borrow_mut(|spares| {
            if spares.len() < SPARES {
                spares.push(buffer);
            }
        });
    }
}

/// A byte stream.
pub enum Io {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A Unix domain socket.
    Unix(UnixStream),
    /// A CONNECT stream of an HTTP/2 connection.
    Tunnel(Tunnel),
    /// One end of an in-memory pipe between an internal endpoint and an internal listener.
    Pipe(DuplexStream),
    /// TLS, where we are the server.
    TlsServer(Box<tokio_rustls::server::TlsStream<Io>>),
    /// TLS, where we are the client.
    TlsClient(Box<tokio_rustls::client::TlsStream<Io>>),
    /// Bytes that an inspector has read already, and the stream they came from.
    Replay(Box<(Bytes, Io)>),
    /// A stream that begins with what proxies say to each other.
    Exchanged(Box<Exchanged>),
}

impl Io {
    /// Puts bytes that were read before back in front.
    pub fn with_prefix(self, prefix: Bytes) -> Io {
        if prefix.is_empty() { self } else { Io::Replay(Box::new((prefix, self))) }
    }

    /// Closes a connection that is not served. In a tunnel that is a connection that failed, as RFC 9113 (8.5) and Envoy have it.
    pub fn break_off(self) {
        match self {
            Io::Tunnel(mut tunnel) => tunnel.reset(h2::Reason::CONNECT_ERROR),
            Io::Replay(replay) => replay.1.break_off(),
            Io::Exchanged(exchanged) => exchanged.io.break_off(),
            _ => {}
        }
    }

    /// Reads into a buffer that grows as needed. Ready with 0 at the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        if let Io::Tunnel(t) = self {
            let chunk = ready!(t.poll_chunk(cx))?;
            let n = chunk.len();
            if buf.is_empty() {
                // Whoever held the buffer's memory keeps it; a chunk that nobody else holds becomes the buffer.
                match chunk.try_into_mut() {
                    Ok(owned) => *buf = owned,
                    Err(shared) => buf.extend_from_slice(&shared),
                }
            } else {
                buf.extend_from_slice(&chunk);
            }
            return Poll::Ready(Ok(n));
        }
        if buf.is_empty() && buf.capacity() == 0 {
            *buf = take_spare();
        }
        let read = self.poll_read_behind(cx, buf);
        if read.is_pending() && buf.is_empty() {
            // Who waits holds no buffer.
            keep_spare(std::mem::take(buf));
        }
        read
    }

    /// Reads once, behind what is in a buffer.
    fn poll_read_behind(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
        let room = buf.capacity() - buf.len();
        if let Io::Tcp(tcp) = self
            && room < READ_SIZE
        {
            let read = tcp::poll_fill(tcp, cx, buf);
            clock::look_if(read.is_ready());
            return read;
        }
        if room < 1024 {
            buf.reserve(READ_SIZE);
        }
        tokio_util_poll_read(Pin::new(self), cx, buf)
    }

    /// The next data, without a copy where it can be; empty at the end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<Bytes>> {
        match self {
            Io::Tunnel(t) => t.poll_chunk(cx),
            _ => {
                ready!(self.poll_read_behind(cx, buf))?;
                Poll::Ready(Ok(buf.split().freeze()))
            }
        }
    }

    /// Writes what is queued. Ready when all of it has been handed over and flushed.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>, queue: &mut WriteQueue) -> Poll<io::Result<()>> {
        if let Io::Tunnel(t) = self {
            while let Some(mut data) = queue.pop() {
                while !data.is_empty() {
                    match t.poll_send(cx, &mut data) {
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                        Poll::Pending => {
                            queue.unpop(data);
                            return Poll::Pending;
                        }
                    }
                }
            }
            return Poll::Ready(Ok(()));
        }
        while !queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); 16];
            let count = queue.slices(&mut slices);
            // One slice needs no vector: a plain write spares the kernel reading it.
            let n = match slices.get(..count) {
                Some([one]) => ready!(Pin::new(&mut *self).poll_write(cx, one)),
                many => ready!(Pin::new(&mut *self).poll_write_vectored(cx, many.unwrap_or_default())),
            }?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            queue.advance(n);
        }
        if queue.unflushed() {
            ready!(Pin::new(self).poll_flush(cx))?;
            queue.flushed();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether more may be queued. What is worth a call to the kernel is written first, while it is in the cache: a body that passes through
    /// needs no more memory than that, unless who reads it is slow.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, queue: &mut WriteQueue, limit: usize) -> Poll<io::Result<()>> {
        if queue.len() >= WRITE_SIZE.min(limit)
            && let Poll::Ready(Err(e)) = self.poll_drain(cx, queue)
        {
            return Poll::Ready(Err(e));
        }
        if queue.len() < limit { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Ends our direction.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }

    /// Whether there is anything to read, or the end, without waiting: an idle pooled connection that says yes is of no more use.
    pub fn is_readable(&mut self, cx: &mut Context<'_>) -> bool {
        if let Io::Tcp(tcp) = self {
            return tcp::is_readable(tcp);
        }
        let mut byte = [0u8; 1];
        let mut buf = ReadBuf::new(&mut byte);
        Pin::new(self).poll_read(cx, &mut buf).is_ready()
    }

    /// The socket's own addresses (local, remote), if there is a socket.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Io::Tcp(s) => Some(s),
            Io::TlsServer(s) => s.get_ref().0.tcp(),
            Io::TlsClient(s) => s.get_ref().0.tcp(),
            Io::Replay(r) => r.1.tcp(),
            Io::Exchanged(e) => e.io.tcp(),
            Io::Unix(_) | Io::Tunnel(_) | Io::Pipe(_) => None,
        }
    }
}

/// One read into the spare capacity of a buffer.
fn tokio_util_poll_read(io: Pin<&mut Io>, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
    use bytes::BufMut;
    // A limit keeps one read from filling a buffer that happens to be large.
    let mut limited = (&mut *buf).limit(tcp::LARGE_READ);
    let mut fut = std::pin::pin!(tokio::io::AsyncReadExt::read_buf(io.get_mut(), &mut limited));
    std::future::Future::poll(fut.as_mut(), cx)
}

macro_rules! delegate {
    ($self:ident, $io:ident => $call:expr, tunnel $t:ident => $tunnel:expr) => {
        match $self.get_mut() {
            Io::Tcp($io) => $call,
            Io::Unix($io) => $call,
            Io::Pipe($io) => $call,
            Io::TlsServer(boxed) => {
                let $io = &mut **boxed;
                $call
            }
            Io::TlsClient(boxed) => {
                let $io = &mut **boxed;
                $call
            }
            Io::Replay(boxed) => {
                let $io = &mut boxed.1;
                $call
            }
            Io::Exchanged(boxed) => {
                let $io = &mut boxed.io;
                $call
            }
            Io::Tunnel($t) => $tunnel,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Io::Replay(r) = &mut *self
            && !r.0.is_empty()
        {
            let n = r.0.len().min(buf.remaining());
            buf.put_slice(&r.0.split_to(n));
            return Poll::Ready(Ok(()));
        }
        if let Io::Exchanged(e) = &mut *self {
            return e.poll_read(cx, buf);
        }
        if let Io::Tcp(tcp) = &*self
            && buf.initialized().len() == buf.capacity()
        {
            let read = tcp::poll_recv(tcp, cx, buf.initialize_unfilled());
            clock::look_if(read.is_ready());
            return read.map_ok(|n| buf.advance(n));
        }
        let socket = matches!(*self, Io::Tcp(_) | Io::Unix(_));
        let read = delegate!(self, io => Pin::new(io).poll_read(cx, buf), tunnel t => t.poll_read(cx, buf));
        clock::look_if(socket && read.is_ready());
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if let Io::Tcp(tcp) = &*self {
            return tcp::poll_send(tcp, cx, data);
        }
        delegate!(self, io => Pin::new(io).poll_write(cx, data), tunnel t => {
            let mut data = Bytes::copy_from_slice(data.get(..data.len().min(READ_SIZE)).unwrap_or_default());
            t.poll_send(cx, &mut data)
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, io => Pin::new(io).poll_write_vectored(cx, slices), tunnel t => {
            let mut joined = BytesMut::new();
            for s in slices {
                if joined.len() < READ_SIZE {
                    joined.extend_from_slice(s);
                }
            }
            t.poll_send(cx, &mut joined.freeze())
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => Pin::new(io).poll_flush(cx), tunnel _t => Poll::Ready(Ok(())))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => Pin::new(io).poll_shutdown(cx), tunnel t => Poll::Ready(t.finish()))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[tokio::test]
    async fn what_is_worth_a_call_is_written_before_more_is_queued() {
        let mut cx = Context::from_waker(Waker::noop());
        let queued = |io: &mut Io, queue: &mut WriteQueue, cx: &mut Context<'_>, more: usize| {
            queue.push(vec![1; more].into());
            (io.poll_room(cx, queue, 4 * WRITE_SIZE).is_ready(), queue.len())
        };
        let (near, _far) = tokio::io::duplex(8 * WRITE_SIZE);
        let (mut io, mut queue) = (Io::Pipe(near), WriteQueue::default());
        assert_eq!(queued(&mut io, &mut queue, &mut cx, WRITE_SIZE / 2), (true, WRITE_SIZE / 2));
        assert_eq!(queued(&mut io, &mut queue, &mut cx, WRITE_SIZE), (true, 0));
        // A reader that takes nothing: there is room up to the limit, and none from there on.
        let (near, _far) = tokio::io::duplex(1);
        let mut io = Io::Pipe(near);
        assert_eq!(queued(&mut io, &mut queue, &mut cx, 3 * WRITE_SIZE), (true, 3 * WRITE_SIZE - 1));
        assert_eq!(queued(&mut io, &mut queue, &mut cx, WRITE_SIZE + 1), (false, 4 * WRITE_SIZE));
    }
}
