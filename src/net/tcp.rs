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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (connected, listener.accept().await.unwrap().0)
    }

    async fn readable(stream: &TcpStream) {
        stream.readable().await.unwrap();
    }

    #[tokio::test]
    async fn what_comes_is_read_and_then_the_end() {
        let (mut peer, ours) = pair().await;
        let mut buf = BytesMut::new();
        for text in ["first", " second"] {
            peer.write_all(text.as_bytes()).await.unwrap();
            assert_eq!(poll_fn(|cx| poll_fill(&ours, cx, &mut buf)).await.unwrap(), text.len());
        }
        assert_eq!(&buf[..], b"first second");
        assert!(buf.capacity() < READ_SIZE, "a short message takes little memory");
        // The last bytes and the end may come in one event.
        peer.write_all(b"!").await.unwrap();
        drop(peer);
        assert_eq!(poll_fn(|cx| poll_fill(&ours, cx, &mut buf)).await.unwrap(), 1);
        assert_eq!(poll_fn(|cx| poll_fill(&ours, cx, &mut buf)).await.unwrap(), 0);
        assert_eq!(&buf[..], b"first second!");
    }

    #[tokio::test]
    async fn much_is_read_in_large_pieces() {
        let (mut peer, ours) = pair().await;
        let sent = tokio::spawn(async move {
            let body: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
            peer.write_all(&body).await.unwrap();
            body
        });
        let mut buf = BytesMut::new();
        poll_fn(|cx| poll_fill(&ours, cx, &mut buf)).await.unwrap();
        while buf.len() < READ_SIZE {
            poll_fn(|cx| poll_fill(&ours, cx, &mut buf)).await.unwrap();
        }
        let mut all = buf.split().to_vec();
        while all.len() < 1_000_000 {
            poll_fn(|cx| poll_fill(&ours, cx, &mut buf)).await.unwrap();
            all.extend_from_slice(&buf.split());
        }
        assert!(all == sent.await.unwrap());
    }

    #[tokio::test]
    async fn asking_takes_nothing_and_wakes_nobody() {
        let (mut peer, ours) = pair().await;
        assert!(!is_readable(&ours));
        peer.write_all(b"x").await.unwrap();
        readable(&ours).await;
        assert!(is_readable(&ours) && is_readable(&ours));
        let mut byte = [0; 8];
        assert_eq!(poll_fn(|cx| poll_recv(&ours, cx, &mut byte)).await.unwrap(), 1);
        assert!(!is_readable(&ours));
        drop(peer);
        readable(&ours).await;
        assert!(is_readable(&ours), "an end is something to read");
    }

    #[tokio::test]
    async fn a_full_socket_makes_its_writer_wait() {
        let (mut peer, ours) = pair().await;
        let data = vec![7; 1 << 20];
        let (mut sent, mut cx) = (0, Context::from_waker(Waker::noop()));
        while let Poll::Ready(n) = poll_send(&ours, &mut cx, &data) {
            sent += n.unwrap();
        }
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).await.unwrap();
            all.len()
        });
        sent += poll_fn(|cx| poll_send(&ours, cx, b"more")).await.unwrap();
        drop(ours);
        assert_eq!(reader.await.unwrap(), sent);
    }

    #[tokio::test]
    async fn a_reset_is_an_error() {
        let (peer, ours) = pair().await;
        socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(peer);
        let mut buf = BytesMut::new();
        let error = poll_fn(|cx| poll_fill(&ours, cx, &mut buf)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
