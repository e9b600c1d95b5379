//! Connections that become something else: WebSocket, CONNECT.

use bytes::Bytes;
use http::{Method, Request, Response};

use crate::rig::{Backend, Config, H2, H2_UPSTREAM, Proxy, TO_A, cluster, h2_echo, hcm, read_all, until, within};

const WEBSOCKET: &str = "upgrade_configs: [{upgrade_type: websocket}], http2_protocol_options: {allow_connect: true}";
const HANDSHAKE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const CONNECT: &str = "upgrade_configs: [{upgrade_type: CONNECT}], http2_protocol_options: {allow_connect: true}";
const TERMINATE: &str = "[{match: {connect_matcher: {}}, route: {cluster: a, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}}]";
const FORWARD: &str = "[{match: {connect_matcher: {}}, route: {cluster: a}}]";

/// Accepts any upgrade, and echoes.
async fn socket_server() -> Backend {
    Backend::wire(|mut wire, _| async move {
        let head = wire.head().await;
        assert_eq!((head.first_line.as_str(), head.header("upgrade")), ("GET /chat HTTP/1.1", "websocket"));
        assert_eq!(head.header("sec-websocket-key"), "dGhlIHNhbXBsZSBub25jZQ==");
        wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
        while let Ok(byte) = wire.bytes(1).await {
            wire.send(byte).await;
        }
    })
    .await
}

async fn proxy(backend: &Backend, routes: &str, hcm_fields: &str, cluster_fields: &str) -> Proxy {
    let config = Config::new().listener("main", &hcm(routes, hcm_fields));
    config.cluster(cluster("a", backend, cluster_fields)).start().await
}

#[tokio::test]
async fn a_websocket_echoes_over_http1() {
    let backend = socket_server().await;
    let proxy = proxy(&backend, TO_A, WEBSOCKET, "").await;
    let mut client = proxy.connect().await;
    client.send(format!("GET /chat HTTP/1.1\r\nhost: test\r\n{HANDSHAKE}\r\n")).await;
    let head = client.head().await;
    assert_eq!(
        (head.status(), head.header("upgrade"), head.header("connection").to_lowercase().as_str()),
        (101, "websocket", "upgrade")
    );
    for text in ["one", "two"] {
        client.send(text).await;
        client.expect(text).await;
    }
    drop(client);
    until("the backend's connection is closed", || async { backend.open() == 0 }).await;
}

#[tokio::test]
async fn a_websocket_echoes_from_http2_to_http1() {
    let backend = socket_server().await;
    let proxy = proxy(&backend, TO_A, WEBSOCKET, "").await;
    let mut client = H2::connect(proxy.main()).await;
    // The server's SETTINGS say whether it may be asked for.
    until("extended CONNECT is offered", || async { client.send.is_extended_connect_protocol_enabled() }).await;
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://test/chat")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .unwrap();
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (response, mut send) = client.open(request, false).await;
    let response = within("a response", response).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for text in ["one", "two"] {
        send.send_data(Bytes::from_static(text.as_bytes()), false).unwrap();
        assert_eq!(exactly(&mut body, text.len()).await, text.as_bytes());
    }
    send.send_data(Bytes::new(), true).unwrap();
    until("the backend's connection is closed", || async { backend.open() == 0 }).await;
}

async fn exactly(body: &mut h2::RecvStream, n: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < n {
        let data = within("data", body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        got.extend_from_slice(&data);
    }
    got
}

#[tokio::test]
async fn an_upgrade_that_is_not_allowed_is_refused() {
    let backend = Backend::says("never").await;
    let proxy = proxy(&backend, TO_A, "server_name: x", "").await;
    let reply = proxy.connect().await.request("/chat", HANDSHAKE).await;
    assert_eq!(reply.status(), 403);
    assert_eq!(backend.accepted(), 0);
}

#[tokio::test]
async fn an_upgrade_that_the_backend_refuses_is_a_response() {
    let backend = Backend::http(|r| format!("HTTP/1.1 {} No\r\ncontent-length: 2\r\n\r\nno", &r.path()[1..])).await;
    let proxy = proxy(&backend, TO_A, WEBSOCKET, "").await;
    for (status, body) in [(200, ""), (201, ""), (302, ""), (400, "no"), (401, "no"), (503, "no")] {
        let reply = proxy.connect().await.request(&format!("/{status}"), HANDSHAKE).await;
        assert_eq!((reply.status(), reply.text().as_str()), (status, body));
    }
}

#[tokio::test]
async fn connect_is_terminated_over_http1() {
    let backend = Backend::echo().await;
    let proxy = proxy(&backend, TERMINATE, CONNECT, "").await;
    let mut client = proxy.connect().await;
    client.send("CONNECT dest:443 HTTP/1.1\r\nhost: dest:443\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    client.send("raw bytes").await;
    client.expect("raw bytes").await;
    drop(client);
    until("the backend's connection is closed", || async { backend.open() == 0 }).await;
}

#[tokio::test]
async fn connect_is_terminated_over_http2_stream_by_stream() {
    let backend = Backend::echo().await;
    let proxy = proxy(&backend, TERMINATE, CONNECT, "").await;
    let mut client = H2::connect(proxy.main()).await;
    let (one, mut to_one) = client.tunnel("dest:443").await;
    let (two, mut to_two) = client.tunnel("dest:444").await;
    assert_eq!((one.status().as_u16(), two.status().as_u16()), (200, 200));
    to_one.send_data(Bytes::from_static(b"one"), false).unwrap();
    to_two.send_data(Bytes::from_static(b"two"), false).unwrap();
    let (mut one, mut two) = (one.into_body(), two.into_body());
    assert_eq!(exactly(&mut one, 3).await, b"one");
    assert_eq!(exactly(&mut two, 3).await, b"two");
    assert_eq!(backend.open(), 2);
    to_one.send_data(Bytes::new(), true).unwrap();
    assert_eq!(read_all(one).await.unwrap(), b"");
    until("one tunnel is closed", || async { backend.open() == 1 }).await;
    to_two.send_data(Bytes::from_static(b"more"), false).unwrap();
    assert_eq!(exactly(&mut two, 4).await, b"more");
}

#[tokio::test]
async fn connect_is_forwarded_over_http1() {
    let backend = Backend::wire(|mut wire, _| async move {
        assert_eq!(wire.head().await.first_line, "CONNECT dest:443 HTTP/1.1");
        wire.send("HTTP/1.1 200 OK\r\n\r\n").await;
        while let Ok(byte) = wire.bytes(1).await {
            wire.send(byte).await;
        }
    })
    .await;
    let proxy = proxy(&backend, FORWARD, CONNECT, "").await;
    let mut client = proxy.connect().await;
    client.send("CONNECT dest:443 HTTP/1.1\r\nhost: dest:443\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    client.send("through").await;
    client.expect("through").await;
}

#[tokio::test]
async fn connect_is_forwarded_over_http2() {
    let backend = Backend::h2(|request, respond, _| async move {
        assert_eq!((request.method(), request.uri().authority().unwrap().as_str()), (&Method::CONNECT, "dest:443"));
        h2_echo(request, respond).await;
    })
    .await;
    let proxy = proxy(&backend, FORWARD, CONNECT, H2_UPSTREAM).await;
    let mut client = H2::connect(proxy.main()).await;
    let (response, mut send) = client.tunnel("dest:443").await;
    assert_eq!(response.status(), 200);
    send.send_data(Bytes::from_static(b"through"), true).unwrap();
    assert_eq!(read_all(response.into_body()).await.unwrap(), b"through");
}

#[tokio::test]
async fn a_tunnel_to_nowhere_is_503() {
    let mut config = Config::new();
    let gone = config.port("gone");
    let config = config.listener("main", &hcm(TERMINATE, CONNECT));
    let proxy = config.cluster(cluster("a", crate::rig::socket(gone), "")).start().await;
    let mut client = H2::connect(proxy.main()).await;
    assert_eq!(client.tunnel("dest:443").await.0.status(), 503);
}

/// No prefix matches a CONNECT.
#[tokio::test]
async fn connect_without_its_route_is_404() {
    let backend = Backend::h2(|_, mut respond, _| async move {
        respond.send_response(Response::new(()), true).unwrap();
    })
    .await;
    let proxy = proxy(&backend, TO_A, "server_name: x", H2_UPSTREAM).await;
    let mut client = proxy.connect().await;
    client.send("CONNECT dest:443 HTTP/1.1\r\nhost: dest:443\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 404);
    assert_eq!(backend.accepted(), 0);
}
