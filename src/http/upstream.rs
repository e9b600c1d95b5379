//! The host's side of an exchange: the request going out, its response coming in.

mod h2;

use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use waypost_filters::head::{RequestHead, ResponseHead};
use waypost_filters::stream::WireBytes;

use super::downstream::Piece;
use super::h1::{self, BodyDecoder, Casing, Decoded, Eof, Framing, ResponseLimits, ScanState};
use super::wire;
use crate::cluster::connect::UpstreamInfo;
use crate::cluster::pool::{H1Conn, Pool};
use crate::net::{Io, Tunnel};

pub use self::h2::H2Client;

/// Why the host's side is over before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The connection ended (`UC`, `connection termination`).
    Terminated,
    /// The stream was reset (`UR`, `remote reset`).
    Reset,
    /// The stream was refused before it was looked at (`remote refused stream reset`): it can be sent again.
    Refused,
    /// The host broke the protocol (`UPE`, `protocol error`).
    Protocol,
}

/// The host's side of one exchange.
pub enum Upstream {
    /// An HTTP/1 connection, which is this exchange's alone.
    H1(Box<H1Client>),
    /// A stream of an HTTP/2 connection.
    H2(Box<H2Client>),
}

/// An HTTP/1 exchange with a host.
pub struct H1Client {
    conn: H1Conn,
    pool: Rc<Pool>,
    method: Method,
    scan: ScanState,
    limits: ResponseLimits,
    framing: Framing,
    body: Option<BodyDecoder>,
    request_ended: bool,
    keep_alive: bool,
    enable_trailers: bool,
    proper_case: bool,
    buffer_limit: usize,
    wire: WireBytes,
    written_before: u64,
}

/// A response's head with what has to be known of its body.
pub struct Response {
    /// The head.
    pub head: ResponseHead,
    /// Whether no body follows.
    pub end: bool,
    /// Whether raw bytes follow: 101, or 2xx to CONNECT.
    pub upgrade: bool,
    /// 1xx: another head follows.
    pub informational: bool,
}

impl H1Client {
    /// Begins an exchange: the head is queued. `end` says that no body follows.
    pub fn begin(conn: H1Conn, pool: Rc<Pool>, head: &RequestHead, end: bool) -> H1Client {
        let cluster = &conn.upstream.cluster;
        let options = &cluster.http;
        let upgrading = head.is_connect() || head.upgrade.is_some();
        let framing = Framing::of_request(&head.method, upgrading, &head.headers, end);
        conn.upstream.requests.set(conn.upstream.requests.get() + 1);
        let mut client = H1Client {
            pool,
            method: head.method.clone(),
            scan: ScanState::default(),
            limits: ResponseLimits {
                max_headers_bytes: options.max_headers_bytes,
                max_headers_count: options.max_headers_count,
                ..ResponseLimits::default()
            },
            framing,
            body: None,
            request_ended: end || upgrading,
            keep_alive: false,
            enable_trailers: options.h1.enable_trailers,
            proper_case: options.h1.proper_case,
            buffer_limit: cluster.buffer_limit,
            wire: WireBytes::default(),
            written_before: conn.out.total(),
            conn,
        };
        let casing = client.casing();
        h1::encode_request(head, framing, casing, client.conn.out.tail());
        client.wire.headers_sent = client.conn.out.total() - client.written_before;
        client
    }

    fn casing(&self) -> Casing<'static> {
        if self.proper_case { Casing::ProperWords } else { Casing::Lower }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, Broken>> {
        loop {
            match h1::parse_response(&mut self.conn.read, &mut self.scan, &self.method, &self.limits) {
                Ok(Some(parsed)) => {
                    self.scan = ScanState::default();
                    self.wire.headers_received += parsed.header_bytes as u64;
                    if parsed.informational {
                        return Poll::Ready(Ok(Response {
                            head: parsed.head,
                            end: false,
                            upgrade: false,
                            informational: true,
                        }));
                    }
                    self.keep_alive = parsed.keep_alive;
                    let end = parsed.body == h1::BodyKind::None || parsed.body == h1::BodyKind::Length(0);
                    self.body = (!end).then(|| BodyDecoder::new(parsed.body));
                    return Poll::Ready(Ok(Response {
                        head: parsed.head,
                        end,
                        upgrade: parsed.upgrade,
                        informational: false,
                    }));
                }
                Ok(None) => {}
                Err(e) => {
                    tracing::debug!("upstream: {}", e.details);
                    return Poll::Ready(Err(Broken::Protocol));
                }
            }
            match self.conn.io.poll_fill(cx, &mut self.conn.read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n)) if n > 0 => self.wire.received += n as u64,
                Poll::Ready(Ok(_)) if !self.conn.read.is_empty() => return Poll::Ready(Err(Broken::Protocol)),
                Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(Err(Broken::Terminated)),
            }
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(Piece::End(None))) };
        loop {
            match body.decode(&mut self.conn.read) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Ok(Piece::Data(data))),
                Ok(Decoded::Trailers(trailers)) => {
                    self.body = None;
                    return Poll::Ready(Ok(Piece::End(self.enable_trailers.then_some(trailers))));
                }
                Ok(Decoded::End) => {
                    self.body = None;
                    return Poll::Ready(Ok(Piece::End(None)));
                }
                Ok(Decoded::NeedMore) => {}
                Err(_) => return Poll::Ready(Err(Broken::Protocol)),
            }
            match self.conn.io.poll_fill(cx, &mut self.conn.read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n)) if n > 0 => self.wire.received += n as u64,
                Poll::Ready(Ok(_)) => {
                    if body.on_eof() == Eof::Clean {
                        self.body = None;
                        self.keep_alive = false;
                        return Poll::Ready(Ok(Piece::End(None)));
                    }
                    // Envoy's parser calls a body cut short a protocol error, not an end of the connection.
                    return Poll::Ready(Err(Broken::Protocol));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Terminated)),
            }
        }
    }

    fn send_data(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let out = &mut self.conn.out;
        if self.framing == Framing::Chunked {
            h1::encode_chunk_header(data.len(), out.tail());
            out.push(data);
            out.tail().extend_from_slice(h1::CHUNK_END);
        } else {
            out.push(data);
        }
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) {
        self.request_ended = true;
        if self.framing == Framing::Chunked {
            let casing = self.casing();
            match trailers.filter(|_| self.enable_trailers) {
                Some(t) => h1::encode_trailers(&t, casing, self.conn.out.tail()),
                None => h1::encode_last_chunk(self.conn.out.tail()),
            }
        }
    }
}

impl Upstream {
    /// What is known of the connection.
    pub fn info(&self) -> &Rc<UpstreamInfo> {
        match self {
            Upstream::H1(c) => &c.conn.upstream,
            Upstream::H2(c) => &c.lease.conn.upstream,
        }
    }

    /// Bytes of this exchange on the wire; of HTTP/2 those of the bodies.
    pub fn wire(&self) -> WireBytes {
        match self {
            Upstream::H1(c) => WireBytes {
                sent: c.conn.out.total() - c.written_before,
                received: c.wire.received.saturating_sub(c.conn.read.len() as u64),
                ..c.wire
            },
            Upstream::H2(c) => c.wire,
        }
    }

    /// The next head of a response.
    pub fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, Broken>> {
        match self {
            Upstream::H1(c) => c.poll_head(cx),
            Upstream::H2(c) => c.poll_head(cx),
        }
    }

    /// The next piece of the response's body.
    pub fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        match self {
            Upstream::H1(c) => c.poll_body(cx),
            Upstream::H2(c) => c.poll_body(cx),
        }
    }

    /// Whether there is room for more of the request.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Upstream::H1(c) => c.conn.io.poll_room(cx, &mut c.conn.out, c.buffer_limit),
            Upstream::H2(c) => c.poll_flush(cx),
        }
    }

    /// Sends some of the request's body.
    pub fn send_data(&mut self, data: Bytes) {
        match self {
            Upstream::H1(c) => c.send_data(data),
            Upstream::H2(c) => {
                c.wire.sent += wire::data(data.len());
                c.pending = Some(data);
            }
        }
    }

    /// Ends the request.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) {
        match self {
            Upstream::H1(c) => c.finish(trailers),
            Upstream::H2(c) => {
                c.request_ended = true;
                c.finish = Some(trailers);
            }
        }
    }

    /// Writes what is queued.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Upstream::H1(c) => c.conn.io.poll_drain(cx, &mut c.conn.out),
            Upstream::H2(c) => c.poll_flush(cx),
        }
    }

    /// The exchange is complete: an HTTP/1 connection that can take another request goes back to its pool.
    pub fn done(self) {
        match self {
            Upstream::H1(client) => {
                let H1Client { conn, pool, body, request_ended, keep_alive, .. } = *client;
                // Bytes beyond the response were not asked for; whoever sends them is not trusted with another request.
                if keep_alive && request_ended && body.is_none() && conn.out.is_empty() && conn.read.is_empty() {
                    pool.put_back(conn);
                } else {
                    drop(conn);
                    pool.lost();
                }
            }
            // The lease gives its place back when it is dropped; a stream that is not over is reset then.
            Upstream::H2(mut c) => {
                if !c.request_ended {
                    c.send.send_reset(::h2::Reason::CANCEL);
                }
            }
        }
    }

    /// The exchange is over before it was done.
    pub fn cancel(self) {
        match self {
            Upstream::H1(client) => {
                let H1Client { conn, pool, .. } = *client;
                drop(conn);
                pool.lost();
            }
            Upstream::H2(mut c) => c.send.send_reset(::h2::Reason::CANCEL),
        }
    }

    /// The raw bytes beneath, after the host accepted a CONNECT or upgrade. The last part keeps the connection counted.
    pub fn into_raw(self) -> Option<(Io, Box<dyn std::any::Any>)> {
        match self {
            Upstream::H1(client) => {
                let H1Conn { io, read, upstream, .. } = client.conn;
                Some((io.with_prefix(read.freeze()), Box::new((upstream, client.pool))))
            }
            Upstream::H2(c) => {
                let tunnel = Tunnel::new(c.send, c.recv?);
                Some((Io::Tunnel(tunnel), Box::new(c.lease)))
            }
        }
    }
}

/// Whether a status means that an extended CONNECT (or an upgrade) over HTTP/2 was accepted.
pub fn accepts_upgrade(status: StatusCode) -> bool {
    status.is_success()
}
