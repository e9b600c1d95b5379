//! HTTP/2 by hand, for both sides: frame by frame.

use std::net::SocketAddr;

use super::{Wire, within};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The last stream of a goodbye that names none.
pub const ANY_STREAM: u32 = (1 << 31) - 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The last stream and the error of a goodbye.
    pub fn goodbye(&self) -> Option<(u32, u32)> {
        let at = |n: usize| u32::from_be_bytes(self.payload[n..n + 4].try_into().unwrap());
        (self.kind == GOAWAY).then(|| (at(0), at(4)))
    }

    /// Whether it is the head of a response with status 200.
    pub fn is_ok(&self) -> bool {
        self.kind == HEADERS && self.payload.first() == Some(&0x88)
    }
}

/// One side of an HTTP/2 connection.
pub struct Frames {
    wire: Wire,
    /// Whether questions stay unanswered, and are frames like others.
    pub silent: bool,
}

impl Frames {
    pub async fn connect(addr: SocketAddr) -> Frames {
        let mut wire = Wire::connect(addr).await;
        wire.send(PREFACE).await;
        let mut frames = Frames { wire, silent: false };
        frames.send(SETTINGS, 0, 0, b"").await;
        frames
    }

    /// The server's side.
    pub async fn accept(mut wire: Wire) -> Frames {
        wire.bytes(PREFACE.len()).await.unwrap();
        let mut frames = Frames { wire, silent: false };
        frames.send(SETTINGS, 0, 0, b"").await;
        frames
    }

    pub async fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        self.wire.try_send(bytes).await
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.try_send(kind, flags, stream, payload).await.unwrap();
    }

    /// GET as a stream of its own.
    pub async fn ask(&mut self, stream: u32, path: &str) {
        // RFC 7541: `:method: GET`, `:scheme: http`, `:authority: test`, and a path that nobody keeps.
        let mut head = b"\x82\x86\x01\x04test\x04".to_vec();
        head.push(u8::try_from(path.len()).unwrap());
        head.extend(path.as_bytes());
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &head).await;
    }

    /// Answers a stream with 200 and nothing else.
    pub async fn answer(&mut self, stream: u32) {
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, b"\x88").await;
    }

    /// Accepts a CONNECT.
    pub async fn accept_tunnel(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS, stream, b"\x88").await;
    }

    pub async fn data(&mut self, stream: u32, data: &[u8]) {
        self.send(DATA, 0, stream, data).await;
    }

    pub async fn say_goodbye(&mut self, last: u32) {
        let payload = [last.to_be_bytes(), [0; 4]].concat();
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    /// The next frame that says something; questions are answered, settings taken. None at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let head = within("a frame", self.wire.bytes(9)).await.ok()?;
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let payload = self.wire.bytes(length).await.ok()?;
            let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
            let frame = Frame { kind: head[3], flags: head[4], stream, payload };
            match frame.kind {
                PING | SETTINGS if frame.flags & ACK == 0 && !self.silent => {
                    let echo = if frame.kind == PING { &frame.payload[..] } else { b"" };
                    // Fails where the peer has gone.
                    let _ = self.try_send(frame.kind, ACK, 0, echo).await;
                }
                SETTINGS | WINDOW_UPDATE => {}
                _ => return Some(frame),
            }
        }
    }

    /// The next head of a request, by its stream.
    pub async fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.next().await?;
            if frame.kind == HEADERS {
                return Some(frame.stream);
            }
        }
    }
}
