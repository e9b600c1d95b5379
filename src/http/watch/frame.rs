//! Frames as far as the watch has to know them (RFC 9113, 4.1).

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// What is known of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    /// Of RST_STREAM and GOAWAY.
    pub(super) code: u32,
    /// The payload of PING.
    pub(super) opaque: [u8; 8],
}

/// Finds the frames in a stream of bytes.
#[derive(Debug)]
pub(super) struct Scanner {
    /// A frame's header, and the first eight bytes of its payload where a code is among them.
    head: [u8; 17],
    have: usize,
    /// Bytes until the next frame.
    skip: u32,
}

impl Scanner {
    pub(super) fn new(skip: u32) -> Scanner {
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
            GOAWAY | PING => length.min(8),
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
            opaque: if kind == PING { [p0, p1, p2, p3, p4, p5, p6, p7] } else { [0; 8] },
        }
    }

    /// How many bytes can follow without going beyond the frame at hand; none between two frames.
    pub(super) fn left(&self) -> usize {
        match (self.skip, self.have) {
            (0, 0) => 0,
            (0, have) => self.want().saturating_sub(have),
            (skip, _) => skip as usize,
        }
    }

    /// Takes the next bytes. What is found comes with the number of them up to where all of it that is kept was seen.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame, usize)) {
        let whole = bytes.len();
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
                found(frame, whole - bytes.len());
            }
        }
    }
}
