//! A look at the frames of an HTTP/2 connection on their way between socket and codec.
//!
//! The codec answers some of what it reads on its own: it refuses messages before a stream is accepted, and takes any number of control
//! frames. Envoy logs the first and bounds the second, so frames are counted here as they pass: nine bytes of each are looked at.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::config::Http2Options;
use crate::net::Io;

/// `%RESPONSE_CODE_DETAILS%` of a message with an illegal header; also where only the codec knows which rule was broken.
pub const INVALID_HEADER: &str = "http2.invalid.header.field";
/// … of a message without a header it must have, or with a body other than announced.
pub const BROKEN_RULE: &str = "http2.violation.of.messaging.rule";
/// … of streams that a connection error takes with it.
const CODEC_ERROR: &str = "codec_error:The_user_callback_function_failed";
const TOO_LARGE: &str = "http2.header_list_size_too_large";
/// … of a stream that goes on after its end.
const UNKNOWN_ERROR: &str = "http2.unknown.nghttp2.error";
const EMPTY_FLOOD: &str = "http2.inbound_empty_frames_flood";
const PRIORITY_FLOOD: &str = "http2.inbound_priority_frames_flood";
const WINDOW_FLOOD: &str = "http2.inbound_window_update_frames_flood";
const CONTROL_FLOOD: &str = "http2.outbound_control_frames_flood";
/// A connection that does not begin as it has to; there is no request yet to log.
const NO_SETTINGS: &str = "";

const PREFACE_LENGTH: u32 = 24;
/// The most streams that are remembered as opened and not accepted; a client that has said goodbye may open any number in vain.
const MAX_UNSEEN: usize = 4096;
/// So long control frames are counted: pings of clients that measure bandwidth or keep alive are far fewer.
const CONTROL_PERIOD: Duration = Duration::from_secs(1);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A message that the codec refused, as its log line shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// `%RESPONSE_CODE_DETAILS%`
    pub details: &'static str,
    /// Whether the message broke the protocol (`DPE`) or a limit, for which Envoy says `DR`.
    pub protocol: bool,
}

/// What a peer sent last of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// The head of a request.
    Head,
    /// Trailers, or what stands where they would.
    Trailers,
    Other,
}

/// What has been seen of a connection, shared by its loop, its streams and its byte stream.
#[derive(Debug)]
pub struct Watch {
    options: Http2Options,
    /// Why the connection has to end.
    error: Cell<Option<&'static str>>,
    /// Why it has to end once the streams that were complete before have been handed over.
    stopping: Cell<Option<&'static str>>,
    /// Streams the codec resets before it has handed them over: for their heads, or for what came right after. Nothing is written
    /// until that is known.
    suspects: RefCell<Vec<u32>>,
    /// Streams that the client opened and the codec has neither handed over nor refused yet.
    unseen: RefCell<VecDeque<u32>>,
    refused: RefCell<Vec<Refused>>,
    begun: Cell<bool>,
    highest: Cell<u32>,
    /// Whether a head is not complete yet.
    head_open: Cell<bool>,
    /// What came last, but for frames that are about the connection.
    last: Cell<Last>,
    streams: Cell<u64>,
    empty: Cell<u32>,
    priorities: Cell<u64>,
    window_updates: Cell<u64>,
    data_sent: Cell<u64>,
    controls: Cell<u32>,
    controls_since: Cell<Option<Instant>>,
}

fn add<T: Copy + std::ops::Add<Output = T> + From<u8>>(cell: &Cell<T>) -> T {
    let n = cell.get() + T::from(1);
    cell.set(n);
    n
}

impl Watch {
    /// A watch with the limits of a listener.
    pub fn new(options: &Http2Options) -> Rc<Watch> {
        Rc::new(Watch {
            options: *options,
            error: Cell::new(None),
            stopping: Cell::new(None),
            suspects: RefCell::default(),
            unseen: RefCell::default(),
            refused: RefCell::default(),
            begun: Cell::new(false),
            highest: Cell::new(0),
            head_open: Cell::new(false),
            last: Cell::new(Last::Other),
            streams: Cell::new(0),
            empty: Cell::new(0),
            priorities: Cell::new(0),
            window_updates: Cell::new(0),
            data_sent: Cell::new(0),
            controls: Cell::new(0),
            controls_since: Cell::new(None),
        })
    }

    /// Why the connection has to end, if it has to: `%RESPONSE_CODE_DETAILS%` of what is still open.
    pub fn error(&self) -> Option<&'static str> {
        self.error.get()
    }

    /// Ends the connection at its next read or write.
    pub fn fail(&self, details: &'static str) {
        if self.error.get().is_none() {
            self.error.set(Some(details));
        }
    }

    /// Reads no more, and ends the connection when what was whole before has been handed over.
    fn stop(&self, details: &'static str) {
        if self.stopping.get().is_none() {
            self.stopping.set(Some(details));
        }
    }

    /// To be called when the codec has no more streams to hand over: decides about those it keeps to itself. Whether the codec can go on,
    /// or is to see an error.
    pub fn settle(&self) -> bool {
        let suspects = !self.suspects.borrow().is_empty();
        for stream in self.suspects.borrow_mut().drain(..) {
            if self.options.stream_error {
                self.refuse(Refused { details: INVALID_HEADER, protocol: true });
                self.unseen.borrow_mut().retain(|id| *id != stream);
            } else {
                // Envoy ends the connection unless `override_stream_error_on_invalid_http_message` is set.
                self.fail(INVALID_HEADER);
            }
        }
        let stopping = self.stopping.take();
        if let Some(details) = stopping {
            self.fail(details);
        }
        suspects || stopping.is_some()
    }

    fn held(&self) -> bool {
        self.error.get().is_none() && (self.stopping.get().is_some() || !self.suspects.borrow().is_empty())
    }

    /// Notes that the codec has handed a stream over.
    pub fn accepted(&self, stream: u32) {
        self.suspects.borrow_mut().retain(|id| *id != stream);
        let mut unseen = self.unseen.borrow_mut();
        while unseen.front().is_some_and(|&id| id <= stream) {
            unseen.pop_front();
        }
    }

    /// A message that the codec refused, each once.
    pub fn take_refused(&self) -> Option<Refused> {
        self.refused.borrow_mut().pop()
    }

    /// Whether there is one.
    pub fn has_refused(&self) -> bool {
        !self.refused.borrow().is_empty()
    }

    /// What of the streams that were opened and never handed over a log line is owed for, after the connection has ended in an error.
    pub fn take_unseen(&self) -> Option<Refused> {
        let details = self.error.get().filter(|details| !details.is_empty())?;
        self.unseen.borrow_mut().pop_front().map(|_| Refused { details, protocol: details != TOO_LARGE })
    }

    fn received(&self, frame: Frame) {
        if !self.begun.replace(true) && frame.kind != SETTINGS {
            // RFC 9113 3.4: a client begins with SETTINGS.
            self.fail(NO_SETTINGS);
        }
        // A head in pieces is not to be interrupted, and no piece comes without a head.
        let in_order = self.head_open.get() == (frame.kind == CONTINUATION);
        if matches!(frame.kind, HEADERS | CONTINUATION) {
            self.head_open.set(frame.flags & END_HEADERS == 0);
        }
        let options = &self.options;
        match frame.kind {
            HEADERS | CONTINUATION | DATA => {
                self.controls.set(0);
                if frame.kind == HEADERS {
                    self.headers(frame);
                } else if frame.kind == DATA || !in_order {
                    self.last.set(Last::Other);
                }
                if frame.kind != DATA && frame.flags & END_HEADERS != 0 {
                    add(&self.streams);
                }
                if frame.length == 0 && frame.flags & (END_STREAM | PADDED) == 0 {
                    if add(&self.empty) > options.max_consecutive_empty_frames {
                        self.stop(EMPTY_FLOOD);
                    }
                } else {
                    self.empty.set(0);
                }
            }
            PRIORITY => {
                let most = u64::from(options.max_priority_frames_per_stream) * (1 + self.streams.get());
                if add(&self.priorities) > most {
                    self.stop(PRIORITY_FLOOD);
                }
            }
            WINDOW_UPDATE => {
                let of_data = u64::from(options.max_window_updates_per_data_frame) * self.data_sent.get();
                if add(&self.window_updates) > 5 + 2 * (self.streams.get() + of_data) {
                    self.stop(WINDOW_FLOOD);
                }
            }
            PING | SETTINGS if frame.flags & ACK == 0 => self.control(),
            _ => {}
        }
        if !in_order {
            self.last.set(Last::Other);
        }
    }

    fn headers(&self, frame: Frame) {
        if frame.stream <= self.highest.get() {
            self.last.set(Last::Trailers);
            if frame.flags & END_STREAM == 0 && !self.options.stream_error {
                // RFC 9113 8.1: trailers end their stream.
                self.stop(BROKEN_RULE);
            }
            return;
        }
        self.highest.set(frame.stream);
        self.last.set(Last::Head);
        let mut unseen = self.unseen.borrow_mut();
        // Clients open odd streams; the codec ends the connection for any other.
        if frame.stream % 2 == 1 && unseen.len() < MAX_UNSEEN {
            unseen.push_back(frame.stream);
        }
    }

    /// A frame that has to be answered. Envoy bounds the answers that wait to be written; the codec here reads no more while one waits, so
    /// what is left to bound is the work.
    fn control(&self) {
        let now = Instant::now();
        if self.controls_since.get().is_none_or(|since| now.duration_since(since) > CONTROL_PERIOD) {
            self.controls_since.set(Some(now));
            self.controls.set(0);
        }
        if add(&self.controls) > self.options.max_outbound_control_frames {
            self.stop(CONTROL_FLOOD);
        }
    }

    fn sends(&self, frame: Frame) {
        match frame.kind {
            DATA => {
                self.controls.set(0);
                add(&self.data_sent);
            }
            // Of a stream that was never handed over: the codec's own 431.
            HEADERS if self.forget(frame.stream) => self.refuse(Refused { details: TOO_LARGE, protocol: false }),
            RST_STREAM if frame.code == PROTOCOL_ERROR && self.unseen.borrow().contains(&frame.stream) => {
                self.suspects.borrow_mut().push(frame.stream);
            }
            RST_STREAM => drop(self.forget(frame.stream)),
            GOAWAY if frame.code != 0 => self.fail(match (self.stopping.take(), self.last.get(), frame.code) {
                (Some(details), ..) => details,
                (None, Last::Head, PROTOCOL_ERROR) => INVALID_HEADER,
                (None, Last::Head, ENHANCE_YOUR_CALM) => TOO_LARGE,
                (None, Last::Trailers, PROTOCOL_ERROR) => UNKNOWN_ERROR,
                _ => CODEC_ERROR,
            }),
            _ => {}
        }
    }

    fn refuse(&self, refused: Refused) {
        self.refused.borrow_mut().push(refused);
    }

    fn forget(&self, stream: u32) -> bool {
        let mut unseen = self.unseen.borrow_mut();
        let Some(at) = unseen.iter().position(|&id| id == stream) else { return false };
        unseen.remove(at).is_some()
    }
}

/// What is known of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
    /// Of RST_STREAM and GOAWAY.
    code: u32,
}

/// Finds the frames in a stream of bytes.
#[derive(Debug)]
struct Scanner {
    /// A frame's header, and the first eight bytes of its payload where a code is among them.
    head: [u8; 17],
    have: usize,
    /// Bytes until the next frame.
    skip: u32,
}

impl Scanner {
    fn new(skip: u32) -> Scanner {
        Scanner { head: [0; 17], have: 0, skip }
    }

    /// How much of a frame is to be kept, as far as that is known.
    fn want(&self) -> usize {
        let [a, b, c, kind, ..] = self.head;
        if self.have < 9 {
            return 9;
        }
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        9 + match kind {
            RST_STREAM => length.min(4),
            GOAWAY => length.min(8),
            _ => 0,
        }
    }

    fn frame(&self) -> Frame {
        let [a, b, c, kind, flags, s0, s1, s2, s3, p0, p1, p2, p3, p4, p5, p6, p7] = self.head;
        Frame {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            code: match kind {
                RST_STREAM => u32::from_be_bytes([p0, p1, p2, p3]),
                GOAWAY => u32::from_be_bytes([p4, p5, p6, p7]),
                _ => 0,
            },
        }
    }

    fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let n = bytes.len().min(self.skip as usize);
                self.skip -= n as u32;
                bytes = bytes.get(n..).unwrap_or_default();
                continue;
            }
            let want = self.want();
            let room = self.head.get_mut(self.have..want).unwrap_or_default();
            let n = room.len().min(bytes.len());
            for (to, from) in room.iter_mut().zip(bytes) {
                *to = *from;
            }
            self.have += n;
            bytes = bytes.get(n..).unwrap_or_default();
            let want = self.want();
            if self.have >= want {
                let frame = self.frame();
                self.skip = frame.length.saturating_sub(self.have as u32 - 9);
                *self = Scanner::new(self.skip);
                found(frame);
            }
        }
    }
}

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

#[cfg(test)]
mod tests;
