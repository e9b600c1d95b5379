//! HTTP/2: requests, and on HBONE ports the tunnels that arrive as CONNECT.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::page::{ECHOED, Filler, OK, Pace, Page, echo};
use super::{Options, http1};
use crate::tools::tunnel::{Socket, Tunnel, Wire};

type Stream = (Request<RecvStream>, SendResponse<Bytes>);

/// ztunnel's windows and frames (its `src/proxy/h2/server.rs`), so that a proxy meets here what it meets in a mesh.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// The connection's window.
pub const CONNECTION_WINDOW: u32 = 16 << 20;
/// The largest frame taken.
pub const FRAME: u32 = 1 << 20;
/// A test resets thousands of streams at once; the library would take that for an attack and end the connection.
pub const RESETS: usize = 1 << 16;

/// Tells HTTP/2 from HTTP/1.1 by the first bytes, and serves it. Boxed: a tunnel may hold HTTP/2 that is served by the same code.
pub fn sniff<T>(io: T, options: Arc<Options>) -> Pin<Box<dyn Future<Output = ()> + Send>>
where
    T: Wire + AsyncRead + AsyncWrite + Unpin + 'static,
{
    Box::pin(async move {
        // What fails here is the peer's to tell: it sees its connection or stream end.
        let _ = sniffed(io, options).await;
    })
}

async fn sniffed<T>(mut io: T, options: Arc<Options>) -> io::Result<()>
where
    T: Wire + AsyncRead + AsyncWrite + Unpin + 'static,
{
    const PREFACE: &[u8] = b"PRI * HTTP/2.0";
    let mut first = io.read().await?;
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) && !first.is_empty() {
        let more = io.read().await?;
        if more.is_empty() {
            break;
        }
        first = [first, more].concat().into();
    }
    let http2 = first.starts_with(PREFACE);
    io.unread(first);
    if http2 { serve(io, options, false).await.map_err(io::Error::other) } else { http1::serve(io, options.home).await }
}

/// Serves one HTTP/2 connection; `tunnels` says whether CONNECT is taken.
pub async fn serve<T>(io: T, options: Arc<Options>, tunnels: bool) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(64 * 1024)
        .max_concurrent_streams(options.max_streams)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(None)
        .handshake(io)
        .await?;
    let home = options.home;
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream?;
        if tunnels && request.method() == Method::CONNECT {
            tokio::spawn(tunnel((request, respond), options.clone()));
        } else if request.body().is_end_stream()
            && Page::of(request.uri().path().as_bytes(), home) == Page::Ok
            && !is_grpc(&request)
        {
            // A stream that was reset meanwhile concerns nobody else on this connection.
            let _ = ok(respond, request.method() == Method::HEAD);
        } else {
            tokio::spawn(async move {
                let _ = answer((request, respond), home).await;
            });
        }
    }
    Ok(())
}

/// A CONNECT: accepted for any authority, and served by what comes first, or echoed where its port says so.
async fn tunnel((request, mut respond): Stream, options: Arc<Options>) {
    let Some(port) = request.uri().authority().and_then(http::uri::Authority::port_u16) else {
        return respond.send_reset(Reason::PROTOCOL_ERROR);
    };
    let Ok(send) = respond.send_response(Response::new(()), false) else { return };
    let mut tunnel = Tunnel::new(send, request.into_body());
    if !options.tcp_ports.iter().any(|r| r.contains(&port)) {
        return sniff(tunnel, options).await;
    }
    while let Ok(data) = tunnel.read().await {
        let done = data.is_empty();
        let sent = if done { tunnel.close().await } else { tunnel.write(data).await };
        if done || sent.is_err() {
            break;
        }
    }
}

fn is_grpc(request: &Request<RecvStream>) -> bool {
    request.headers().get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

fn ok(mut respond: SendResponse<Bytes>, head: bool) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("2"));
    let mut send = respond.send_response(response, head)?;
    if head { Ok(()) } else { send.send_data(Bytes::from_static(OK), true) }
}

async fn answer((request, mut respond): Stream, home: Page) -> io::Result<()> {
    let grpc = is_grpc(&request);
    let page = Page::of(request.uri().path().as_bytes(), home);
    let (parts, mut body) = request.into_parts();
    let head = parts.method == Method::HEAD;
    let mut pace = if let Page::Slow(rate) = page { Some(Pace::new(rate)) } else { None };
    let (mut shown, mut length) = (BytesMut::new(), 0);
    while let Some(data) = body.data().await {
        let mut data = data.map_err(io::Error::other)?;
        let n = data.len();
        length += n;
        if page == Page::Echo {
            data.truncate(ECHOED.saturating_sub(shown.len()));
            shown.extend_from_slice(&data);
        }
        if let Some(pace) = &mut pace {
            pace.spend(n).await;
        }
        body.flow_control().release_capacity(n).map_err(io::Error::other)?;
    }
    if grpc {
        return empty_message(respond).map_err(io::Error::other);
    }
    let (kind, length, pieces) = match page {
        Page::Ok | Page::Slow(_) => return ok(respond, head).map_err(io::Error::other),
        Page::Big(n) => ("application/octet-stream", n, None),
        Page::Echo => {
            let line = format!("{} {} HTTP/2", parts.method, parts.uri.path_and_query().map_or("/", |p| p.as_str()));
            let authority = parts.uri.authority().map(|a| (":authority".to_owned(), a.to_string()));
            let headers =
                parts.headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into_owned()));
            let text = echo(&line, authority.into_iter().chain(headers).collect(), &shown, length);
            ("application/json", text.len() as u64, Some(text))
        }
    };
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let send = respond.send_response(response, head).map_err(io::Error::other)?;
    if head {
        return Ok(());
    }
    let mut out = Tunnel::new(send, body);
    match pieces {
        Some(text) => out.write(text).await?,
        None => {
            for piece in Filler::new(length) {
                out.write(piece).await?;
            }
        }
    }
    out.close().await
}

/// A gRPC message of no bytes, not compressed, and `grpc-status: 0`.
fn empty_message(mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut send = respond.send_response(response, false)?;
    send.send_data(Bytes::from_static(&[0; 5]), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    send.send_trailers(trailers)
}

/// A TCP connection, on a port for plain HTTP.
pub async fn plain(stream: tokio::net::TcpStream, options: Arc<Options>) {
    sniff(Socket::new(stream), options).await;
}
