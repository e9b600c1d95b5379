//! The client's side of an exchange: its request body coming in, the response going out.

use std::io;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use waypost_filters::head::{Protocol, ResponseHead};
use waypost_filters::stream::WireBytes;

use super::h1::{self, BodyDecoder, BodyKind, Casing, Connection, Decoded, Eof, Framing, ScanState};
use super::wire;
use crate::net::{Alarm, Io, Tunnel, WriteQueue};

/// What a body is made of.
#[derive(Debug)]
pub enum Piece {
    /// Some of it.
    Data(Bytes),
    /// Its end, with trailers if there are any.
    End(Option<HeaderMap>),
}

/// How much of an unwanted request is read at most when it has been answered: what a client may have sent before it saw the answer.
const DISCARD_LIMIT: u64 = 64 * 1024;

/// Why the client's side is over before it was done.
#[derive(Debug)]
pub enum Lost {
    /// The client reset the stream, or its connection ended.
    Reset(Option<Reason>),
    /// The client broke the protocol within a stream of HTTP/2, which its codec has reset: a body other than announced.
    Message,
    /// The client broke the protocol, in the middle of a body.
    Protocol(h1::H1Error),
}

/// The client's side of one exchange.
pub enum Downstream<'a> {
    /// An HTTP/1 connection, which is one exchange's at a time.
    H1(&'a mut H1Server),
    /// A stream of an HTTP/2 connection.
    H2(Box<H2Server>),
}

/// An HTTP/1 connection of a client.
pub struct H1Server {
    /// The byte stream.
    pub io: Io,
    /// What has been read of it and not used.
    pub read: BytesMut,
    /// How far the head in it was looked at.
    pub scan: ScanState,
    /// What is to be written.
    pub out: WriteQueue,
    /// The body of the current request; none once it has ended.
    pub body: Option<BodyDecoder>,
    /// Whether `100 Continue` is owed before the body is read.
    pub owes_continue: bool,
    /// The current request's version.
    pub protocol: Protocol,
    /// The current request's method.
    pub method: Method,
    /// Whether the connection ends after the current response.
    pub close: bool,
    /// Whether an HTTP/1.0 client asked to keep the connection.
    pub keep_alive_10: bool,
    /// `enable_trailers`.
    pub enable_trailers: bool,
    /// `header_key_format.proper_case_words`.
    pub proper_case: bool,
    /// How the current response's body goes out.
    framing: Framing,
    /// Whether the current response has no body, whatever the host sends: its bytes would be taken for the next response.
    bodiless: bool,
    /// How much may wait to be written before the sender is held back.
    pub buffer_limit: usize,
    /// Bytes that were ever read.
    pub filled: u64,
    /// The connection's alarm, lent to one exchange after another: its timers are seldom made anew.
    pub alarm: Alarm,
    /// What had been read and written when the current request began, its head not counted.
    mark: (u64, u64),
    headers_sent: u64,
}

/// A stream of an HTTP/2 connection of a client.
pub struct H2Server {
    respond: SendResponse<Bytes>,
    recv: RecvStream,
    recv_ended: bool,
    send: Option<SendStream<Bytes>>,
    pending: Option<Bytes>,
    finish: Option<Option<HeaderMap>>,
    ended: bool,
    wire: WireBytes,
}

impl H1Server {
    /// A connection that has been accepted; `read` has come in already.
    pub fn new(io: Io, read: BytesMut, buffer_limit: usize) -> H1Server {
        let read_before = read.len() as u64;
        H1Server {
            io,
            read,
            scan: ScanState::default(),
            out: WriteQueue::default(),
            body: None,
            owes_continue: false,
            protocol: Protocol::Http11,
            method: Method::GET,
            close: false,
            keep_alive_10: false,
            enable_trailers: false,
            proper_case: false,
            framing: Framing::None,
            bodiless: false,
            buffer_limit,
            filled: read_before,
            alarm: Alarm::default(),
            mark: (0, 0),
            headers_sent: 0,
        }
    }

    /// Begins with a request whose head is to come; a head that is refused is counted from here.
    pub fn begin_head(&mut self) {
        self.mark = (self.filled - self.read.len() as u64, self.out.total());
        self.headers_sent = 0;
    }

    /// Begins with the body of a request whose head has been parsed.
    pub fn begin(&mut self, body: BodyKind) {
        self.begin_head();
        self.body = match body {
            // After an upgrade or CONNECT, bytes are not looked at before the other side has agreed.
            BodyKind::None | BodyKind::UntilClose => None,
            kind => Some(BodyDecoder::new(kind)),
        };
    }

    fn casing(&self) -> Casing<'static> {
        if self.proper_case { Casing::ProperWords } else { Casing::Lower }
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Lost>> {
        let Some(body) = &mut self.body else { return Poll::Ready(Ok(Piece::End(None))) };
        if self.owes_continue {
            self.owes_continue = false;
            h1::encode_continue(self.out.tail());
            // It goes out with the next flush, which the exchange does before it waits.
        }
        loop {
            match body.decode(&mut self.read) {
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
                Err(e) => return Poll::Ready(Err(Lost::Protocol(e))),
            }
            match self.io.poll_fill(cx, &mut self.read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n)) if n > 0 => self.filled += n as u64,
                Poll::Ready(Ok(_) | Err(_)) => {
                    if body.on_eof() == Eof::Clean {
                        self.body = None;
                        return Poll::Ready(Ok(Piece::End(None)));
                    }
                    return Poll::Ready(Err(Lost::Reset(None)));
                }
            }
        }
    }

    /// Ready when the client has closed or reset the connection. Bytes of a next request are kept, up to the buffer limit.
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        while self.read.len() < self.buffer_limit.min(64 * 1024) {
            match self.io.poll_fill(cx, &mut self.read) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(n)) if n > 0 => self.filled += n as u64,
                Poll::Ready(Ok(_) | Err(_)) => return Poll::Ready(Lost::Reset(None)),
            }
        }
        Poll::Pending
    }

    fn send_head(&mut self, head: &mut ResponseHead, end: bool, keep: bool) {
        let upgrade = head.status == StatusCode::SWITCHING_PROTOCOLS;
        self.framing = Framing::of_response(head.status, &self.method, self.protocol, &head.headers, end);
        if self.framing == Framing::Headers
            && !end
            && !upgrade
            && self.protocol == Protocol::Http10
            && !head.headers.contains_key(http::header::CONTENT_LENGTH)
        {
            self.close = true;
        }
        self.bodiless = self.method == Method::HEAD
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || (head.status.is_informational() && !upgrade);
        let connection = if upgrade {
            Connection::Upgrade
        } else if self.close {
            Connection::Close
        } else if self.keep_alive_10 {
            Connection::KeepAlive
        } else {
            Connection::Default
        };
        let casing = self.casing();
        let before = self.out.total();
        h1::encode_response(
            head.status,
            &head.headers,
            self.framing,
            connection,
            self.protocol,
            casing,
            self.out.tail(),
        );
        self.headers_sent += self.out.total() - before;
        // Envoy's response has it as one of its headers, and so do its logs.
        match connection {
            Connection::Close if keep => drop(head.headers.insert(CONNECTION, HeaderValue::from_static("close"))),
            Connection::KeepAlive if keep => {
                drop(head.headers.insert(CONNECTION, HeaderValue::from_static("keep-alive")))
            }
            _ => {}
        }
    }

    fn send_data(&mut self, data: Bytes) {
        if data.is_empty() || self.bodiless {
            return;
        }
        if self.framing == Framing::Chunked {
            h1::encode_chunk_header(data.len(), self.out.tail());
            self.out.push(data);
            self.out.tail().extend_from_slice(h1::CHUNK_END);
        } else {
            self.out.push(data);
        }
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) {
        if self.framing == Framing::Chunked && !self.bodiless {
            match trailers.filter(|_| self.enable_trailers) {
                Some(t) => {
                    let casing = self.casing();
                    h1::encode_trailers(&t, casing, self.out.tail());
                }
                None => h1::encode_last_chunk(self.out.tail()),
            }
        }
    }
}

impl H2Server {
    /// A stream that has been accepted.
    pub fn new(respond: SendResponse<Bytes>, recv: RecvStream) -> H2Server {
        H2Server {
            respond,
            recv,
            recv_ended: false,
            send: None,
            pending: None,
            finish: None,
            ended: false,
            wire: WireBytes::default(),
        }
    }

    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Lost>> {
        if self.recv_ended {
            return Poll::Ready(Ok(Piece::End(None)));
        }
        match poll_h2_body(&mut self.recv, cx) {
            Poll::Ready(Ok(Piece::End(t))) => {
                self.recv_ended = true;
                self.wire.received += t.as_ref().map_or(0, wire::trailers);
                Poll::Ready(Ok(Piece::End(t)))
            }
            Poll::Ready(Err(e)) if e.is_library() && e.is_reset() => Poll::Ready(Err(Lost::Message)),
            Poll::Ready(Err(e)) => Poll::Ready(Err(Lost::Reset(e.reason()))),
            Poll::Ready(Ok(Piece::Data(data))) => {
                self.wire.received += wire::data(data.len());
                Poll::Ready(Ok(Piece::Data(data)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        if self.recv_ended && self.ended {
            return Poll::Pending;
        }
        let reset = match &mut self.send {
            Some(send) if !self.ended => send.poll_reset(cx),
            Some(_) => return Poll::Pending,
            None => self.respond.poll_reset(cx),
        };
        reset.map(|r| Lost::Reset(r.ok()))
    }

    fn send_head(&mut self, head: &mut ResponseHead, end: bool, keep: bool) {
        if keep {
            self.wire.headers_sent = wire::response_head(head.status, &head.headers);
            self.wire.sent += self.wire.headers_sent;
        }
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = if keep { head.headers.clone() } else { std::mem::take(&mut head.headers) };
        match self.respond.send_response(response, end) {
            Ok(send) => {
                self.ended = end;
                self.send = Some(send);
            }
            // The stream has gone; reading or flushing says so.
            Err(e) => tracing::debug!("h2: response: {e}"),
        }
    }

    /// Hands what is pending to the stream, as far as the client's window allows.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(send) = &mut self.send else { return Poll::Ready(Ok(())) };
        match poll_h2_flush(send, &mut self.pending, cx) {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
        if let Some(trailers) = self.finish.take() {
            self.ended = true;
            self.wire.sent += trailers.as_ref().map_or(0, wire::trailers);
            h2_finish(send, trailers);
        }
        Poll::Ready(Ok(()))
    }
}

/// The next piece of an HTTP/2 body. Credit for what is returned goes back at once: the other side's buffers bound what is held.
pub fn poll_h2_body(recv: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Result<Piece, h2::Error>> {
    match recv.poll_data(cx) {
        Poll::Ready(Some(Ok(data))) => {
            let _ = recv.flow_control().release_capacity(data.len());
            Poll::Ready(Ok(Piece::Data(data)))
        }
        // A server that has answered in full and wants no more of the request says so with NO_ERROR.
        Poll::Ready(Some(Err(e))) => Poll::Ready(Err(e)),
        Poll::Ready(None) => match recv.poll_trailers(cx) {
            Poll::Ready(Ok(trailers)) => Poll::Ready(Ok(Piece::End(trailers))),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        },
        Poll::Pending => Poll::Pending,
    }
}

/// Sends what is pending as far as the window allows. Ready when nothing is pending.
pub fn poll_h2_flush(
    send: &mut SendStream<Bytes>,
    pending: &mut Option<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    while let Some(data) = pending {
        if data.is_empty() {
            *pending = None;
            break;
        }
        send.reserve_capacity(data.len());
        let mut room = send.capacity();
        if room == 0 {
            room = match send.poll_capacity(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(0))) => continue,
                Poll::Ready(Some(Ok(n))) => n,
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(crate::net::tunnel::to_io(e))),
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            };
        }
        let piece = data.split_to(room.min(data.len()));
        if let Err(e) = send.send_data(piece, false) {
            return Poll::Ready(Err(crate::net::tunnel::to_io(e)));
        }
    }
    Poll::Ready(Ok(()))
}

/// Ends our direction of a stream. That the stream has gone meanwhile is seen elsewhere.
pub fn h2_finish(send: &mut SendStream<Bytes>, trailers: Option<HeaderMap>) {
    let _ = match trailers {
        Some(t) => send.send_trailers(t),
        None => send.send_data(Bytes::new(), true),
    };
}

impl Downstream<'_> {
    /// The next piece of the request's body.
    pub fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Lost>> {
        match self {
            Downstream::H1(c) => c.poll_request(cx),
            Downstream::H2(s) => s.poll_request(cx),
        }
    }

    /// Whether the whole request has been received.
    pub fn request_ended(&self) -> bool {
        match self {
            Downstream::H1(c) => c.body.is_none(),
            Downstream::H2(s) => s.recv_ended || s.recv.is_end_stream(),
        }
    }

    /// Ready when the client has gone; for when its request has been received in full.
    pub fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        match self {
            Downstream::H1(c) => c.poll_lost(cx),
            Downstream::H2(s) => s.poll_lost(cx),
        }
    }

    /// Ready when the client has gone, without reading any of a request that is not wanted yet; HTTP/1 cannot tell.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Lost> {
        match self {
            Downstream::H1(_) => Poll::Pending,
            Downstream::H2(s) => s.poll_lost(cx),
        }
    }

    /// Sends the head of the response. Its headers may be taken, unless `keep` says that they are needed once more.
    pub fn send_head(&mut self, head: &mut ResponseHead, end: bool, keep: bool) {
        match self {
            Downstream::H1(c) => c.send_head(head, end, keep),
            Downstream::H2(s) => s.send_head(head, end, keep),
        }
    }

    /// The alarm that the last exchange of the connection left behind.
    pub fn take_alarm(&mut self) -> Alarm {
        match self {
            Downstream::H1(c) => std::mem::take(&mut c.alarm),
            Downstream::H2(_) => Alarm::default(),
        }
    }

    /// Leaves an alarm to the next exchange.
    pub fn leave_alarm(&mut self, alarm: Alarm) {
        if let Downstream::H1(c) = self {
            c.alarm = alarm;
        }
    }

    /// The protocol of the client.
    pub fn is_h1(&self) -> bool {
        matches!(self, Downstream::H1(_))
    }

    /// Sends an informational response.
    pub fn send_informational(&mut self, status: StatusCode, headers: HeaderMap) {
        match self {
            Downstream::H1(c) => {
                c.owes_continue = false;
                h1::encode_informational(status, &headers, c.casing(), c.out.tail());
            }
            Downstream::H2(s) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                let _ = s.respond.send_informational(response);
            }
        }
    }

    /// Whether there is room for more of the response.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Downstream::H1(c) => c.io.poll_room(cx, &mut c.out, c.buffer_limit),
            Downstream::H2(s) => s.poll_flush(cx),
        }
    }

    /// Sends some of the response's body.
    pub fn send_data(&mut self, data: Bytes) {
        match self {
            Downstream::H1(c) => c.send_data(data),
            Downstream::H2(s) => {
                s.wire.sent += wire::data(data.len());
                s.pending = Some(data);
            }
        }
    }

    /// Ends the response.
    pub fn finish(&mut self, trailers: Option<HeaderMap>) {
        match self {
            Downstream::H1(c) => c.finish(trailers),
            Downstream::H2(s) => s.finish = Some(trailers),
        }
    }

    /// Writes what is queued.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Downstream::H1(c) => c.io.poll_drain(cx, &mut c.out),
            Downstream::H2(s) => s.poll_flush(cx),
        }
    }

    /// Ends the exchange the hard way: what has been sent of the response cannot be completed. What has not been written yet is lost.
    pub fn reset(&mut self, reason: Reason) {
        match self {
            Downstream::H1(c) => c.close = true,
            Downstream::H2(s) => {
                s.ended = true;
                match &mut s.send {
                    Some(send) => send.send_reset(reason),
                    None => s.respond.send_reset(reason),
                }
            }
        }
    }

    /// What has come in of a request that nobody wants any more: its bytes, and whether it is complete now. Nothing is waited for, and a
    /// client that sends faster than this reads is not read for ever.
    pub fn discard(&mut self, cx: &mut Context<'_>) -> (u64, bool) {
        let mut bytes = 0;
        // Asking for the rest of a body that is not wanted would be a lie.
        if matches!(self, Downstream::H1(c) if c.owes_continue) {
            return (bytes, false);
        }
        while bytes < DISCARD_LIMIT {
            match self.poll_request(cx) {
                Poll::Ready(Ok(Piece::Data(data))) => bytes += data.len() as u64,
                Poll::Ready(Ok(Piece::End(_))) => return (bytes, true),
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        (bytes, false)
    }

    /// Bytes of this exchange on the wire, but for the request's head, which is counted where it is read. See [`wire`] for HTTP/2.
    pub fn wire(&self) -> WireBytes {
        match self {
            Downstream::H1(c) => WireBytes {
                received: (c.filled - c.read.len() as u64).saturating_sub(c.mark.0),
                sent: c.out.total() - c.mark.1,
                headers_received: 0,
                headers_sent: c.headers_sent,
            },
            Downstream::H2(s) => s.wire,
        }
    }

    /// How much has come in after the head of an HTTP/1 request for an upgrade.
    pub fn early(&self) -> u64 {
        match self {
            Downstream::H1(c) => c.read.len() as u64,
            Downstream::H2(_) => 0,
        }
    }

    /// Says that the HTTP/1 connection ends with this response.
    pub fn close_after(&mut self) {
        if let Downstream::H1(c) = self {
            c.close = true;
        }
    }
}

impl Downstream<'_> {
    /// Turns the exchange into raw bytes, after its head has been sent; with what has been read of them. None if the stream has gone.
    pub fn into_raw(self) -> Option<(Io, Bytes)> {
        match self {
            Downstream::H1(c) => {
                c.close = true;
                let early = c.read.split().freeze();
                // What is left behind is never read: the connection's loop ends with this exchange.
                let io = std::mem::replace(&mut c.io, Io::Pipe(tokio::io::duplex(1).0));
                Some((io, early))
            }
            Downstream::H2(s) => Some((Io::Tunnel(Tunnel::new(s.send?, s.recv)), Bytes::new())),
        }
    }
}

#[cfg(test)]
#[path = "downstream_tests.rs"]
mod tests;
