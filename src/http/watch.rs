//! A look at the frames of an HTTP/2 connection on their way between socket and codec.
//!
//! The codec answers some of what it reads on its own: it refuses messages before a stream is accepted, and takes any number of control
//! frames. Envoy logs the first and bounds the second, so frames are counted here as they pass: nine bytes of each are looked at.

mod frame;
mod goodbye;
mod stream;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::config::Http2Options;
use frame::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Frame, GOAWAY, HEADERS, PADDED, PING,
    PRIORITY, PROTOCOL_ERROR, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};
use goodbye::Farewell;
pub use stream::Watched;

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

/// The most streams that are remembered as opened and not accepted; a client that has said goodbye may open any number in vain.
const MAX_UNSEEN: usize = 4096;
/// So long control frames are counted: pings of clients that measure bandwidth or keep alive are far fewer.
const CONTROL_PERIOD: Duration = Duration::from_secs(1);

/// From so many streams that a client has reset, calming it down is about those: the codec does it for large heads as well.
pub const MANY_RESETS: u32 = 250;

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
    resets: Cell<u32>,
    calmed: Cell<bool>,
    farewell: Cell<Farewell>,
    /// Whether something was written since that was last asked.
    wrote: Cell<bool>,
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
            resets: Cell::new(0),
            calmed: Cell::new(false),
            farewell: Cell::new(Farewell::None),
            wrote: Cell::new(false),
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
            self.refuse(Refused { details: INVALID_HEADER, protocol: true });
            self.unseen.borrow_mut().retain(|id| *id != stream);
            if !self.options.stream_error {
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

    /// Whether the connection was told to calm down for the streams that it reset.
    pub fn calmed(&self) -> bool {
        self.calmed.get()
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
            RST_STREAM => {
                add(&self.resets);
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
            GOAWAY if frame.code == ENHANCE_YOUR_CALM && self.resets.get() >= MANY_RESETS => {
                self.calmed.set(true);
                self.fail(CODEC_ERROR);
            }
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
