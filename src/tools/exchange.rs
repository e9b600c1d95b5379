//! HTTP/1.1 messages over a wire.

use std::io;

use bytes::{Bytes, BytesMut};

use super::message::{Body, Framing, LARGEST_HEAD, Piece, head_end, status};
use super::tunnel::Wire;

/// What a response said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Whether another request may follow.
    pub reusable: bool,
    /// Bytes of the body.
    pub body: u64,
}

/// Sends a whole request and reads the response to its end.
pub async fn exchange<W: Wire>(wire: &mut W, input: &mut Bytes, request: Bytes) -> io::Result<Answer> {
    wire.write(request).await?;
    let (code, framing) = response_head(wire, input).await?;
    let mut body = framing.response_body(code);
    let mut length = 0;
    while let Some(data) = next(wire, input, &mut body).await? {
        length += data.len() as u64;
    }
    Ok(Answer { status: code, reusable: !framing.close && !matches!(body, Body::UntilClose), body: length })
}

/// The head of the final response.
pub async fn response_head<W: Wire>(wire: &mut W, input: &mut Bytes) -> io::Result<(u16, Framing)> {
    loop {
        let head = read_head(wire, input).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let code = status(&head)?;
        if code >= 200 {
            return Ok((code, Framing::of(&head)?));
        }
    }
}

/// The next head with its empty line; none when the peer closed between messages.
pub async fn read_head<W: Wire>(wire: &mut W, input: &mut Bytes) -> io::Result<Option<Bytes>> {
    if input.is_empty() {
        *input = wire.read().await?;
    }
    loop {
        if let Some(end) = head_end(input) {
            return Ok(Some(input.split_to(end)));
        }
        if input.len() > LARGEST_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "head too long"));
        }
        let more = wire.read().await?;
        if more.is_empty() {
            return if input.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        let mut whole = BytesMut::with_capacity(input.len() + more.len());
        whole.extend_from_slice(input);
        whole.extend_from_slice(&more);
        *input = whole.freeze();
    }
}

/// The next bytes of a body; none at its end.
pub async fn next<W: Wire>(wire: &mut W, input: &mut Bytes, body: &mut Body) -> io::Result<Option<Bytes>> {
    loop {
        match body.next(input)? {
            Piece::Data(data) => return Ok(Some(data)),
            Piece::End => return Ok(None),
            Piece::More => {
                *input = wire.read().await?;
                if input.is_empty() {
                    let complete = matches!(body, Body::UntilClose);
                    return if complete { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                }
            }
        }
    }
}
