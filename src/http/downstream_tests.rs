use super::*;
use std::future::Future;
use std::task::Waker;

#[test]
fn a_response_that_has_no_body_carries_none_whatever_the_host_sends() {
    for (method, status) in [(Method::GET, 204), (Method::GET, 304), (Method::HEAD, 200)] {
        let mut server = H1Server::new(Io::Pipe(tokio::io::duplex(1).0), BytesMut::new(), 1 << 20);
        server.method = method;
        let mut head = ResponseHead { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new() };
        head.headers.insert(http::header::CONTENT_LENGTH, http::HeaderValue::from_static("4"));
        let mut down = Downstream::H1(&mut server);
        down.send_head(&mut head, false, true);
        down.send_data(Bytes::from_static(b"EVIL"));
        down.finish(None);
        let text = String::from_utf8(server.out.tail().to_vec()).unwrap();
        assert!(text.ends_with("\r\n\r\n"), "{status}: {text}");
    }
}

#[test]
fn a_client_that_leaves_with_its_request_half_sent_is_noticed_while_something_else_is_waited_for() {
    let (near, far) = tokio::io::duplex(64);
    let mut server = H1Server::new(Io::Pipe(near), BytesMut::new(), 1 << 20);
    server.begin(BodyKind::Length(10));
    let mut down = Downstream::H1(&mut server);
    let mut timers = super::super::exchange::Timers::default();
    let mut guarded = Box::pin(super::super::exchange::guard(&mut down, &mut timers, std::future::pending::<()>()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(guarded.as_mut().poll(&mut cx).is_pending());
    drop(far);
    assert!(guarded.as_mut().poll(&mut cx).is_ready());
}
