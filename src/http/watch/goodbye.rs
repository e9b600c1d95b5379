//! When the codec names the last stream that it will serve.
//!
//! A server that goes says so twice (RFC 9113, 6.8): first without naming a stream, so that clients open no more, and some time later with
//! the last one, beyond which nothing is served. Envoy waits `drain_timeout` in between. The codec waits for the answer to a PING and no
//! longer: the requests that a client had ready when it answered are lost then. It offers no other way, and needs none: this is the byte
//! stream beneath it. Its PING stays here, and its answer comes from here when the time is over, whatever the client does. The price is
//! one comparison per read and write.
//!
//! Should a later version of the codec ask in other words, the PING goes out and the client's answer comes back as before.

use super::Watch;
use super::frame::{ACK, Frame, PING};

/// What the codec's PING before its last GOAWAY carries.
const OPAQUE: [u8; 8] = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

/// How long a PING frame is, with its head.
pub(super) const PING_LENGTH: usize = 17;

/// The answer to it.
pub(super) const PONG: [u8; PING_LENGTH] =
    [0, 0, 8, PING, ACK, 0, 0, 0, 0, 0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];

/// How far the goodbye is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Farewell {
    /// Not said, or not to the end.
    #[default]
    None,
    /// The codec is to be given so much more of its answer.
    Due(usize),
    /// It has it.
    Said,
}

impl Frame {
    /// Whether it is what the codec asks before its last GOAWAY.
    pub(super) fn is_shutdown_ping(&self) -> bool {
        self.kind == PING && self.flags & ACK == 0 && self.length == 8 && self.opaque == OPAQUE
    }
}

impl Watch {
    /// Makes the codec, which has said that it goes, name the last stream that it will serve. It does so when it next reads.
    pub fn name_last_stream(&self) {
        if self.farewell.get() == Farewell::None {
            self.farewell.set(Farewell::Due(PING_LENGTH));
        }
    }

    /// Whether something was written since this was last asked.
    pub fn take_wrote(&self) -> bool {
        self.wrote.take()
    }

    /// What of the answer is to be read next: between two frames, and not in the middle of a head.
    pub(super) fn answer_due(&self) -> Option<&'static [u8]> {
        match self.farewell.get() {
            Farewell::Due(left) if !self.head_open.get() || left < PING_LENGTH => PONG.get(PING_LENGTH - left..),
            _ => None,
        }
    }

    /// Notes that so much of it was read.
    pub(super) fn answered(&self, n: usize) {
        if let Farewell::Due(left) = self.farewell.get() {
            self.farewell.set(if n < left { Farewell::Due(left - n) } else { Farewell::Said });
        }
    }

    /// Whether the last stream was named and nothing went wrong.
    pub(super) fn is_parting(&self) -> bool {
        self.farewell.get() == Farewell::Said && self.error.get().is_none()
    }
}
