//! Reading and writing TCP sockets, as often as there are requests.
//!
//! The system calls are made directly: libc's `recv` and `send` are points where threads are cancelled, which costs two locked instructions
//! each. What is read goes through one buffer of the thread that is always in the cache, so that a message takes as much memory as it is
//! long; only who sends more than that at once is read straight into a large buffer.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// How much is read at once: a full TLS record, which is also HTTP/2's usual frame.
pub const READ_SIZE: usize = 16 * 1024;

/// How much is read at once of a peer that sends more; with what was read before it less than what glibc takes from the system each time anew
/// (`M_MMAP_THRESHOLD`, 128 KiB).
pub const LARGE_READ: usize = 80 * 1024;

/// What a buffer is made for at least: a usual head, with what is added to it.
const LEAST: usize = 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into());
}

/// Reads into memory.
pub fn poll_recv(stream: &TcpStream, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
    let room = into.len();
    poll_io(stream, cx, Interest::READABLE, room, || Ok(rustix::net::recv(stream, &mut *into, RecvFlags::empty())?.0))
}

/// Writes from memory.
pub fn poll_send(stream: &TcpStream, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
    poll_io(stream, cx, Interest::WRITABLE, data.len(), || Ok(rustix::net::send(stream, data, SendFlags::NOSIGNAL)?))
}

/// Reads behind what is in a buffer. Ready with 0 at the end of the stream.
pub fn poll_fill(stream: &TcpStream, cx: &mut Context<'_>, buf: &mut BytesMut) -> Poll<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let n = ready!(poll_recv(stream, cx, scratch))?;
        if buf.capacity() - buf.len() < n {
            // Where there is as much as could be read, there is more: it is to have a place of its own.
            buf.reserve(n.max(LEAST) + if n == READ_SIZE { LARGE_READ } else { 0 });
        }
        buf.extend_from_slice(scratch.get(..n).unwrap_or_default());
        Poll::Ready(Ok(n))
    })
}

/// Whether there is anything to read, or the end. Nobody is woken for it.
pub fn is_readable(stream: &TcpStream) -> bool {
    let mut byte = [0; 1];
    let peek = || Ok(rustix::net::recv(stream, &mut byte, RecvFlags::PEEK)?.0);
    !matches!(stream.try_io(Interest::READABLE, peek), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}

/// Does it as soon as the socket is ready. Less than was asked for means that the socket has no more: no second call is made to hear that
/// from the kernel.
fn poll_io(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    interest: Interest,
    asked: usize,
    mut io: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(if interest.is_readable() { stream.poll_read_ready(cx) } else { stream.poll_write_ready(cx) })?;
        let mut part = None;
        let done = stream.try_io(interest, || match io() {
            Ok(n) if 0 < n && n < asked => {
                part = Some(n);
                // The way to tell the runtime that it has to wait for the next event.
                Err(io::ErrorKind::WouldBlock.into())
            }
            other => other,
        });
        match (part, done) {
            (Some(n), _) => return Poll::Ready(Ok(n)),
            (None, Err(e)) if e.kind() == io::ErrorKind::WouldBlock => {}
            (None, done) => return Poll::Ready(done),
        }
    }
}
