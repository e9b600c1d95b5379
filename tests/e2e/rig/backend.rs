//! What the proxy talks to.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use bytes::Bytes;
use h2::server::SendResponse;
use http::Request;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Notify;

use super::config::{pipe, socket};
use super::{Message, Wire, within};

/// A server inside the test, there until its end. Printed, it is its address in a bootstrap file.
pub struct Backend {
    address: String,
    pub addr: Option<std::net::SocketAddr>,
    accepted: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// One connection that is open.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Backend {
    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    /// Connections whose handler has not ended.
    pub fn open(&self) -> usize {
        self.open.load(SeqCst)
    }

    /// Answers every request with this text.
    pub async fn says(text: &str) -> Backend {
        let reply = ok(text);
        Backend::http(move |_| reply.clone()).await
    }

    /// Answers requests over HTTP/1.1, with the bytes that `answer` makes of them.
    pub async fn http(answer: impl Fn(&Message) -> String + Send + Sync + 'static) -> Backend {
        let answer = Arc::new(answer);
        Backend::wire(move |mut wire, _| {
            let answer = answer.clone();
            async move {
                while let Ok(request) = wire.try_message().await {
                    if wire.try_send(answer(&request)).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// Returns every byte.
    pub async fn echo() -> Backend {
        Backend::wire(|mut wire, _| async move {
            while let Ok(byte) = wire.bytes(1).await {
                if wire.try_send(byte).await.is_err() {
                    return;
                }
            }
            // The other direction ends as well.
        })
        .await
    }

    /// Handles each connection, the n-th, byte by byte.
    pub async fn wire<F>(handle: impl Fn(Wire, usize) -> F + Send + 'static) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Backend::tcp(move |stream, n| handle(Wire::new(stream), n)).await
    }

    pub async fn tcp<F>(handle: impl Fn(TcpStream, usize) -> F + Send + 'static) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut backend = Backend::run(socket(addr), move |open| async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (guard, n) = open();
                let work = handle(stream, n);
                tokio::spawn(async move {
                    work.await;
                    drop(guard);
                });
            }
        });
        backend.addr = Some(addr);
        backend
    }

    /// The same over a Unix socket.
    pub async fn unix<F>(path: &Path, handle: impl Fn(Wire, usize) -> F + Send + 'static) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = UnixListener::bind(path).unwrap();
        Backend::run(pipe(path), move |open| async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (guard, n) = open();
                let work = handle(Wire::new(stream), n);
                tokio::spawn(async move {
                    work.await;
                    drop(guard);
                });
            }
        })
    }

    /// Handles each stream of HTTP/2 connections without TLS; the number is that of the connection.
    pub async fn h2<F>(
        handle: impl Fn(Request<h2::RecvStream>, SendResponse<Bytes>, usize) -> F + Send + Sync + 'static,
    ) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handle = Arc::new(handle);
        Backend::tcp(move |stream, n| {
            let handle = handle.clone();
            async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(handle(request, respond, n));
                }
            }
        })
        .await
    }

    fn run<F>(address: String, serve: impl FnOnce(Box<dyn Fn() -> (Open, usize) + Send>) -> F) -> Backend
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (accepted, open) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (a, o) = (accepted.clone(), open.clone());
        tokio::spawn(serve(Box::new(move || {
            o.fetch_add(1, SeqCst);
            (Open(o.clone()), a.fetch_add(1, SeqCst))
        })));
        Backend { address, addr: None, accepted, open }
    }
}

/// A response over HTTP/1.1.
pub fn ok(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}

/// Where two sides of a test meet: one arrives and waits, the other sees that and opens.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Notify, Notify)>);

impl Gate {
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Tells the test; goes on when it says so.
    pub async fn pass(&self) {
        self.0.0.notify_one();
        self.0.1.notified().await;
    }

    /// Tells the test, and goes on.
    pub fn arrive(&self) {
        self.0.0.notify_one();
    }

    /// Waits until somebody has arrived.
    pub async fn arrived(&self) {
        within("somebody at the gate", self.0.0.notified()).await;
    }

    /// Lets one through.
    pub fn open(&self) {
        self.0.1.notify_one();
    }
}
