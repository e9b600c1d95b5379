//! Bytes on their way out of a connection.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Data at least this long goes out as it is; shorter data is copied behind what is already there, so that it costs no slice of its own.
const COPY_LIMIT: usize = 1024;

/// What is to be written: heads are formatted into a tail buffer, bodies are queued without a copy.
#[derive(Debug, Default)]
pub struct WriteQueue {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    queued: usize,
    written: u64,
    /// Whether the stream beneath has taken data that it may still hold (TLS does).
    unflushed: bool,
}

impl WriteQueue {
    /// The buffer at the end, to format into.
    pub fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Appends data.
    pub fn push(&mut self, data: Bytes) {
        if data.len() < COPY_LIMIT {
            self.tail.put_slice(&data);
            return;
        }
        self.seal();
        self.queued += data.len();
        self.chunks.push_back(data);
    }

    /// Bytes waiting.
    pub fn len(&self) -> usize {
        self.queued + self.tail.len()
    }

    /// Bytes that were ever queued.
    pub fn total(&self) -> u64 {
        self.written + self.len() as u64
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is nothing left to do: all is written, and the stream beneath holds nothing back.
    pub fn is_done(&self) -> bool {
        self.is_empty() && !self.unflushed
    }

    /// Whether a flush is due.
    pub fn unflushed(&self) -> bool {
        self.unflushed
    }

    /// The stream has been flushed.
    pub fn flushed(&mut self) {
        self.unflushed = false;
    }

    /// Gives back memory that is kept for the next message.
    pub fn release(&mut self) {
        if self.is_empty() {
            self.chunks = VecDeque::new();
            // A tail of a usual head's size is cheaper kept than made anew for each message.
            if self.tail.capacity() > 2048 {
                self.tail = BytesMut::new();
            }
        }
    }

    /// Takes the next piece as it is, for a sink that takes ownership (an HTTP/2 stream).
    pub fn pop(&mut self) -> Option<Bytes> {
        if self.chunks.is_empty() {
            self.seal();
        }
        let chunk = self.chunks.pop_front()?;
        self.queued -= chunk.len();
        self.written += chunk.len() as u64;
        Some(chunk)
    }

    /// Puts back what a sink did not take.
    pub fn unpop(&mut self, rest: Bytes) {
        self.queued += rest.len();
        self.written -= rest.len() as u64;
        self.chunks.push_front(rest);
    }

    /// The next slices, for a vectored write.
    pub fn slices<'a>(&'a self, out: &mut [IoSlice<'a>]) -> usize {
        let all = self.chunks.iter().map(|c| &c[..]).chain((!self.tail.is_empty()).then_some(&self.tail[..]));
        let mut n = 0;
        for (slot, data) in out.iter_mut().zip(all) {
            *slot = IoSlice::new(data);
            n += 1;
        }
        n
    }

    /// Drops what has been written.
    pub fn advance(&mut self, mut n: usize) {
        self.written += n as u64;
        self.unflushed = true;
        while n > 0 {
            match self.chunks.front_mut() {
                Some(c) if c.len() > n => {
                    c.advance(n);
                    self.queued -= n;
                    return;
                }
                Some(c) => {
                    n -= c.len();
                    self.queued -= c.len();
                    self.chunks.pop_front();
                }
                None => {
                    self.tail.advance(n.min(self.tail.len()));
                    return;
                }
            }
        }
        // A drained tail keeps its memory for the next head.
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            let sealed = self.tail.split().freeze();
            self.queued += sealed.len();
            self.chunks.push_back(sealed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_whatever_the_sizes() {
        let mut q = WriteQueue::default();
        let mut expected = Vec::new();
        for (i, size) in [3, 2000, 10, 1024, 1, 5000].into_iter().enumerate() {
            let data = vec![i as u8; size];
            expected.extend_from_slice(&data);
            q.push(Bytes::from(data));
        }
        assert_eq!(q.len(), expected.len());
        let mut got = Vec::new();
        let mut step = 1;
        while !q.is_empty() {
            let mut s = [IoSlice::new(&[]); 8];
            let n = q.slices(&mut s);
            let flat: Vec<u8> = s[..n].iter().flat_map(|s| s.iter().copied()).take(step).collect();
            got.extend_from_slice(&flat);
            let taken = flat.len();
            q.advance(taken);
            step = step * 2 + 1;
            if let Some(c) = (step % 3 == 0).then(|| q.pop()).flatten() {
                q.unpop(c);
            }
        }
        assert_eq!(got, expected);
    }
}
