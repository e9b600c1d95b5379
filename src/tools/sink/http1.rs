//! HTTP/1.1 at the price of a search for the end of the head.

use std::io;

use bytes::{Bytes, BytesMut};

use super::page::{ECHOED, Filler, OK, Pace, Page, echo};
use crate::tools::exchange::{next, read_head};
use crate::tools::message::{Body, Framing, field, lines, request_line};
use crate::tools::tunnel::Wire;

static RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
static CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
static BAD: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// Answers requests until the peer closes, asks to close, or errs.
pub async fn serve<W: Wire>(mut wire: W, home: Page) -> io::Result<()> {
    let mut input = Bytes::new();
    loop {
        match answer(&mut wire, &mut input, home).await {
            Ok(true) => {}
            Ok(false) => return wire.close().await,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                wire.write(Bytes::from_static(BAD)).await?;
                return wire.close().await;
            }
            Err(e) => return Err(e),
        }
    }
}

/// One request; false when it was the last.
async fn answer<W: Wire>(wire: &mut W, input: &mut Bytes, home: Page) -> io::Result<bool> {
    let Some(head) = read_head(wire, input).await? else { return Ok(false) };
    let framing = Framing::of(&head)?;
    let (method, target) = request_line(&head)?;
    let page = Page::of(target, home);
    if framing.expect {
        wire.write(Bytes::from_static(CONTINUE)).await?;
    }
    let mut body = framing.request_body();
    let no_body = method == b"HEAD";
    match page {
        Page::Echo => {
            let (text, length) = collect(wire, input, &mut body).await?;
            let mut heads = lines(&head);
            let line = lossy(heads.next().unwrap_or_default());
            let headers = heads.filter_map(field).map(|(n, v)| (lossy(n), lossy(v))).collect();
            let text = echo(&line, headers, &text, length);
            let mut out = BytesMut::from(
                format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len())
                    .as_bytes(),
            );
            if !no_body {
                out.extend_from_slice(&text);
            }
            wire.write(out.freeze()).await?;
        }
        Page::Big(n) => {
            drain(wire, input, &mut body, None).await?;
            wire.write(Bytes::from(format!("HTTP/1.1 200 OK\r\ncontent-length: {n}\r\n\r\n"))).await?;
            for piece in Filler::new(if no_body { 0 } else { n }) {
                wire.write(piece).await?;
            }
        }
        Page::Slow(_) | Page::Ok => {
            let pace = if let Page::Slow(rate) = page { Some(Pace::new(rate)) } else { None };
            drain(wire, input, &mut body, pace).await?;
            let mut response = Bytes::from_static(RESPONSE);
            if no_body {
                response.truncate(RESPONSE.len() - OK.len());
            }
            wire.write(response).await?;
        }
    }
    Ok(!framing.close)
}

async fn drain<W: Wire>(wire: &mut W, input: &mut Bytes, body: &mut Body, mut pace: Option<Pace>) -> io::Result<()> {
    while let Some(data) = next(wire, input, body).await? {
        if let Some(pace) = &mut pace {
            pace.spend(data.len()).await;
        }
    }
    Ok(())
}

async fn collect<W: Wire>(wire: &mut W, input: &mut Bytes, body: &mut Body) -> io::Result<(BytesMut, usize)> {
    let (mut shown, mut length) = (BytesMut::new(), 0);
    while let Some(mut data) = next(wire, input, body).await? {
        length += data.len();
        data.truncate(ECHOED.saturating_sub(shown.len()));
        shown.extend_from_slice(&data);
    }
    Ok((shown, length))
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
