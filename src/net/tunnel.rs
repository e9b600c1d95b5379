//! An HTTP/2 stream as a connection: what a CONNECT carries (RFC 9113, 8.5).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};

/// The two halves of a CONNECT stream. Dropping it before both directions have ended resets the stream.
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// What was received and not read yet. Flow-control credit is given back when it is read, so a slow reader stops its sender.
    chunk: Bytes,
    read_ended: bool,
    write_ended: bool,
    /// Bytes in each direction, shared with whoever logs the stream.
    pub bytes: Arc<ByteCount>,
}

/// Bytes that went through a tunnel.
#[derive(Debug, Default)]
pub struct ByteCount {
    /// From the peer.
    pub received: AtomicU64,
    /// To the peer.
    pub sent: AtomicU64,
}

/// The most that is put into a stream's send buffer at once; as much as one HTTP/2 frame usually holds, four times over.
const SEND_CHUNK: usize = 64 * 1024;

impl Tunnel {
    /// A tunnel over a stream whose CONNECT has been accepted.
    pub fn new(send: SendStream<Bytes>, recv: RecvStream) -> Tunnel {
        Tunnel { send, recv, chunk: Bytes::new(), read_ended: false, write_ended: false, bytes: Arc::default() }
    }

    /// The next data from the peer, without a copy; empty at the end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        loop {
            if !self.chunk.is_empty() {
                let chunk = std::mem::take(&mut self.chunk);
                self.release(chunk.len());
                return Poll::Ready(Ok(chunk));
            }
            if self.read_ended {
                return Poll::Ready(Ok(Bytes::new()));
            }
            match self.recv.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(data))) => self.chunk = data,
                Poll::Ready(Some(Err(e))) => {
                    self.read_ended = true;
                    return Poll::Ready(Err(to_io(e)));
                }
                Poll::Ready(None) => self.read_ended = true,
            }
        }
    }

    /// Copies what there is into a buffer; 0 at the end.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut tokio::io::ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() {
            if self.read_ended {
                return Poll::Ready(Ok(()));
            }
            match self.recv.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(data))) => self.chunk = data,
                Poll::Ready(Some(Err(e))) => {
                    self.read_ended = true;
                    return Poll::Ready(Err(to_io(e)));
                }
                Poll::Ready(None) => self.read_ended = true,
            }
        }
        let n = self.chunk.len().min(buf.remaining());
        buf.put_slice(self.chunk.get(..n).unwrap_or_default());
        self.chunk.advance(n);
        self.release(n);
        Poll::Ready(Ok(()))
    }

    fn release(&mut self, n: usize) {
        self.bytes.received.fetch_add(n as u64, Relaxed);
        // It fails only for a stream that is gone; the next read says so.
        let _ = self.recv.flow_control().release_capacity(n);
    }

    /// Sends as much of `data` as the peer's window allows, and takes it off. Ready when anything was sent.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let want = data.len().min(SEND_CHUNK);
        let room = match self.poll_room(cx, want) {
            Poll::Ready(Ok(room)) => room,
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            Poll::Pending => return Poll::Pending,
        };
        let n = room.min(want);
        self.send.send_data(data.split_to(n), false).map_err(to_io)?;
        self.bytes.sent.fetch_add(n as u64, Relaxed);
        Poll::Ready(Ok(n))
    }

    /// Waits for room in the peer's window.
    fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<io::Result<usize>> {
        if self.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        self.send.reserve_capacity(want);
        loop {
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match self.send.poll_capacity(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(0))) => {}
                Poll::Ready(Some(Ok(n))) => return Poll::Ready(Ok(n)),
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(to_io(e))),
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
    }

    /// Ready when the peer has reset the stream.
    pub async fn gone(&mut self) {
        let _ = std::future::poll_fn(|cx| self.send.poll_reset(cx)).await;
    }

    /// Whether the peer has reset the stream; the task is woken when it does.
    pub fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.write_ended {
            // A stream whose direction has ended is watched by reading.
            return Poll::Pending;
        }
        self.send.poll_reset(cx).map(|_| ())
    }

    /// Ends our direction (END_STREAM).
    pub fn finish(&mut self) -> io::Result<()> {
        if !self.write_ended {
            self.write_ended = true;
            // The stream may be gone already, with which our direction has ended too.
            let _ = self.send.send_data(Bytes::new(), true);
        }
        Ok(())
    }

    /// Resets the stream in both directions.
    pub fn reset(&mut self, reason: Reason) {
        self.write_ended = true;
        self.read_ended = true;
        self.send.send_reset(reason);
    }
}

/// HTTP/2 errors as I/O errors: a reset by the peer is a connection reset.
pub fn to_io(e: h2::Error) -> io::Error {
    if e.is_io() {
        return e.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into());
    }
    io::Error::new(if e.is_reset() { io::ErrorKind::ConnectionReset } else { io::ErrorKind::ConnectionAborted }, e)
}
