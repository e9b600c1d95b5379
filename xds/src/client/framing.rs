//! Messages of a response beside tonic's buffer.
//!
//! tonic reads a stream's messages into one buffer, which is then as large as the largest of them for as long as the stream lives: tens of megabytes
//! after a push of a large mesh. Here a message has memory of its own until it is read; tonic sees an empty message in its place, and
//! goes on to look after errors, trailers and the end.

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};
use prost::Message;
use std::{
    collections::VecDeque,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};
use tonic::{
    Status,
    client::GrpcService,
    codec::{Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstEncoder;

/// The flag of compression and the length.
const HEADER: usize = 5;

/// Messages that have come and are not read yet: tonic reads each before it asks for more.
#[derive(Clone, Debug, Default)]
pub struct Messages(Arc<Mutex<VecDeque<Vec<u8>>>>);

impl Messages {
    fn with<T>(&self, then: impl FnOnce(&mut VecDeque<Vec<u8>>) -> T) -> T {
        then(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A service whose responses put their messages aside.
pub struct Aside<S> {
    /// The service.
    pub service: S,
    /// Where the messages go.
    pub messages: Messages,
    /// What is larger is left for tonic to refuse.
    pub max: usize,
}

impl<S, R> GrpcService<R> for Aside<S>
where
    S: GrpcService<R>,
    S::ResponseBody: Send + 'static,
{
    type ResponseBody = Unframed<S::ResponseBody>;
    type Error = S::Error;
    type Future = Answer<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<R>) -> Self::Future {
        Answer { inner: Box::pin(self.service.call(request)), messages: self.messages.clone(), max: self.max }
    }
}

/// The response to come.
pub struct Answer<F> {
    inner: Pin<Box<F>>,
    messages: Messages,
    max: usize,
}

impl<F, B, E> Future for Answer<F>
where
    F: Future<Output = Result<http::Response<B>, E>>,
{
    type Output = Result<http::Response<Unframed<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.inner.as_mut().poll(context))?;
        let (messages, max) = (self.messages.clone(), self.max);
        Poll::Ready(Ok(response.map(|body| Unframed {
            inner: Box::pin(body),
            part: Part::Header([0; HEADER], 0),
            messages,
            max,
        })))
    }
}

/// A body of which tonic sees the frames and not the messages.
pub struct Unframed<B> {
    inner: Pin<Box<B>>,
    part: Part,
    messages: Messages,
    max: usize,
}

/// What the next byte belongs to.
enum Part {
    /// A header, of which some bytes are there.
    Header([u8; HEADER], usize),
    /// A message, of which some bytes are missing.
    Message(Vec<u8>, usize),
    /// Something that tonic refuses.
    Foreign,
}

impl<B> Unframed<B> {
    /// Takes messages out; gives what is left for tonic.
    fn take(&mut self, data: &mut impl Buf) -> Vec<u8> {
        let mut out = Vec::new();
        while data.has_remaining() {
            match &mut self.part {
                Part::Header(header, there) => {
                    if let Some(byte) = header.get_mut(*there) {
                        *byte = data.get_u8();
                        *there += 1;
                    }
                    if *there == HEADER {
                        let [flag, a, b, c, d] = *header;
                        let len = u32::from_be_bytes([a, b, c, d]) as usize;
                        self.part = if flag != 0 || len > self.max {
                            out.extend_from_slice(header);
                            Part::Foreign
                        } else {
                            // Memory that is not written to is not there yet: a length alone costs nothing.
                            Part::Message(Vec::with_capacity(len), len)
                        };
                    }
                }
                Part::Message(message, missing) => {
                    let chunk = data.chunk();
                    let chunk = chunk.get(..*missing).unwrap_or(chunk);
                    message.extend_from_slice(chunk);
                    *missing -= chunk.len();
                    let read = chunk.len();
                    data.advance(read);
                }
                Part::Foreign => {
                    out.extend_from_slice(data.chunk());
                    data.advance(data.chunk().len());
                }
            }
            if let Part::Message(message, 0) = &mut self.part {
                let message = std::mem::take(message);
                self.messages.with(|m| m.push_back(message));
                out.extend_from_slice(&[0; HEADER]);
                self.part = Part::Header([0; HEADER], 0);
            }
        }
        out
    }

    /// What is there of a message that will not be complete: tonic says so.
    fn rest(&mut self) -> Option<Bytes> {
        let cut = match &self.part {
            Part::Header(_, there) => *there > 0,
            Part::Message(..) => true,
            Part::Foreign => false,
        };
        self.part = Part::Foreign;
        cut.then(|| Bytes::from_static(&[0]))
    }
}

impl<B: Body> Body for Unframed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            let Some(frame) = ready!(self.inner.as_mut().poll_frame(context)?) else {
                return Poll::Ready(self.rest().map(|rest| Ok(Frame::data(rest))));
            };
            match frame.into_data() {
                Ok(mut data) => {
                    let out = self.take(&mut data);
                    if !out.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(out.into()))));
                    }
                }
                Err(other) => return Poll::Ready(Some(Ok(other.map_data(|_| Bytes::new())))),
            }
        }
    }
}

/// Reads the messages that were put aside.
pub struct AsideCodec<T, U>(Messages, PhantomData<(T, U)>);

impl<T, U> AsideCodec<T, U> {
    /// For the messages of one stream.
    pub fn new(messages: Messages) -> Self {
        AsideCodec(messages, PhantomData)
    }
}

impl<T: Message + 'static, U: Message + Default + 'static> Codec for AsideCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = AsideCodec<T, U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> AsideCodec<T, U> {
        AsideCodec::new(self.0.clone())
    }
}

impl<T, U: Message + Default> Decoder for AsideCodec<T, U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, _empty: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let message = self.0.with(VecDeque::pop_front).unwrap_or_default();
        U::decode(message.as_slice()).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_put_aside_however_the_bytes_are_cut() {
        let wire = [&[0, 0, 0, 0, 3][..], b"abc", &[0; 5], &[0, 0, 0, 0, 1], b"x", &[0, 0]].concat();
        for size in 1..wire.len() {
            let messages = Messages::default();
            let part = Part::Header([0; HEADER], 0);
            let mut body = Unframed { inner: Box::pin(()), part, messages: messages.clone(), max: 9 };
            let seen: Vec<u8> = wire.chunks(size).flat_map(|mut c| body.take(&mut c)).collect();
            assert_eq!(seen, [0; 3 * HEADER], "{size}");
            assert_eq!(messages.with(std::mem::take), [&b"abc"[..], b"", b"x"], "{size}");
            assert!(body.rest().is_some() && body.rest().is_none(), "{size}: the last message is cut off");
        }
    }

    #[test]
    fn what_is_too_large_or_compressed_is_left_as_it_is() {
        for wire in [&[1, 0, 0, 0, 1, 7, 8][..], &[0, 0, 0, 0, 10, 1]] {
            let messages = Messages::default();
            let part = Part::Header([0; HEADER], 0);
            let mut body = Unframed { inner: Box::pin(()), part, messages: messages.clone(), max: 9 };
            assert_eq!(body.take(&mut &wire[..]), wire);
            assert!(messages.with(|m| m.is_empty()) && body.rest().is_none());
        }
    }
}
