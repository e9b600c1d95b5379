//! An HTTP/2 exchange with a host.

use std::future::Future;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, Method, Request};
use waypost_filters::head::{RequestHead, ResponseHead};
use waypost_filters::stream::WireBytes;

use super::{Broken, Response};
use crate::cluster::pool::H2Lease;
use crate::http::downstream::{Piece, h2_finish, poll_h2_body, poll_h2_flush};
use crate::http::wire;

/// An HTTP/2 exchange with a host.
pub struct H2Client {
    pub(super) lease: H2Lease,
    pub(super) send: SendStream<Bytes>,
    pub(super) pending: Option<Bytes>,
    pub(super) finish: Option<Option<HeaderMap>>,
    response: Option<ResponseFuture>,
    pub(super) recv: Option<RecvStream>,
    pub(super) request_ended: bool,
    pub(super) wire: WireBytes,
}

impl H2Client {
    /// Begins an exchange: opens a stream.
    pub async fn begin(lease: H2Lease, head: &RequestHead, end: bool) -> Result<H2Client, Broken> {
        let request = h2_request(head).ok_or(Broken::Protocol)?;
        let mut sender = lease.conn.sender.clone();
        let upstream = &lease.conn.upstream;
        upstream.requests.set(upstream.requests.get() + 1);
        if std::future::poll_fn(|cx| sender.poll_ready(cx)).await.is_err() {
            lease.conn.retire();
            return Err(Broken::Refused);
        }
        match sender.send_request(request, end) {
            Ok((response, send)) => Ok(H2Client {
                lease,
                send,
                pending: None,
                finish: None,
                response: Some(response),
                recv: None,
                request_ended: end,
                wire: WireBytes::default(),
            }),
            Err(_) => {
                lease.conn.retire();
                Err(Broken::Refused)
            }
        }
    }

    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response, Broken>> {
        let Some(response) = &mut self.response else { return Poll::Pending };
        if let Poll::Ready(Some(Ok(informational))) = response.poll_informational(cx) {
            let (parts, ()) = informational.into_parts();
            let head = ResponseHead { status: parts.status, headers: parts.headers };
            return Poll::Ready(Ok(Response { head, end: false, upgrade: false, informational: true }));
        }
        match std::pin::Pin::new(response).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(response)) => {
                self.response = None;
                let (parts, recv) = response.into_parts();
                let end = recv.is_end_stream();
                self.recv = Some(recv);
                let head = ResponseHead { status: parts.status, headers: parts.headers };
                Poll::Ready(Ok(Response { head, end, upgrade: false, informational: false }))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(self.broken(&e))),
        }
    }

    fn broken(&self, e: &h2::Error) -> Broken {
        if e.is_go_away() || e.is_io() {
            self.lease.conn.retire();
        }
        match e.reason() {
            Some(Reason::REFUSED_STREAM) => Broken::Refused,
            // A goodbye that names an earlier stream: this one was not looked at (RFC 9113, 6.8).
            Some(Reason::NO_ERROR) if e.is_remote() && e.is_go_away() => Broken::Refused,
            _ if e.is_io() => Broken::Terminated,
            Some(_) if e.is_remote() && e.is_go_away() => Broken::Terminated,
            Some(_) if e.is_remote() => Broken::Reset,
            _ => Broken::Protocol,
        }
    }

    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        let Some(recv) = &mut self.recv else { return Poll::Pending };
        match poll_h2_body(recv, cx) {
            Poll::Ready(Ok(piece)) => {
                self.wire.received += match &piece {
                    Piece::Data(data) => wire::data(data.len()),
                    Piece::End(trailers) => trailers.as_ref().map_or(0, wire::trailers),
                };
                Poll::Ready(Ok(piece))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(self.broken(&e))),
            Poll::Pending => Poll::Pending,
        }
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match poll_h2_flush(&mut self.send, &mut self.pending, cx) {
            Poll::Ready(Ok(())) => {}
            other => return other,
        }
        if let Some(trailers) = self.finish.take() {
            self.wire.sent += trailers.as_ref().map_or(0, wire::trailers);
            h2_finish(&mut self.send, trailers);
        }
        Poll::Ready(Ok(()))
    }
}

/// The head as HTTP/2 has it. None if an authority or path cannot be one.
fn h2_request(head: &RequestHead) -> Option<Request<()>> {
    let mut request = Request::new(());
    let mut parts = http::uri::Parts::default();
    if let Some(a) = head.authority.as_ref().filter(|a| !a.is_empty()) {
        parts.authority = Some(Authority::from_maybe_shared(Bytes::copy_from_slice(a.as_bytes())).ok()?);
    }
    *request.method_mut() = head.method.clone();
    if !head.is_connect() {
        parts.scheme = Some(match head.scheme {
            waypost_filters::head::Scheme::Http => http::uri::Scheme::HTTP,
            waypost_filters::head::Scheme::Https => http::uri::Scheme::HTTPS,
        });
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(head.path_bytes())).ok()?);
        if parts.authority.is_none() {
            // A URI with a scheme needs one; HTTP/2 takes the path alone.
            parts.scheme = None;
        }
    }
    if let Some(protocol) = &head.upgrade {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol.to_str().ok()?));
    }
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = head.headers.clone();
    if head.upgrade.is_some() {
        request.headers_mut().remove(http::header::CONNECTION);
    }
    Some(request)
}
