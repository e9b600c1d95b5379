//! The client against the sink, in this process, over loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio_rustls::TlsAcceptor;

use super::demo::certs::{self, file, spiffe};
use super::demo::dir::Dir;
use super::error::Error;
use super::exchange::{exchange, next, response_head};
use super::hbone::abort::abort;
use super::hbone::client::{Client, Target};
use super::hbone::hold::hold;
use super::hbone::load::load;
use super::hbone::{body, get};
use super::identity::Identity;
use super::sink::{self, Options};
use super::tunnel::{Socket, Wire};

struct Rig {
    dir: Dir,
    hbone: SocketAddr,
    http: SocketAddr,
}

impl Rig {
    fn identity(&self, account: &str) -> Identity {
        let dir = self.dir.path();
        Identity::load(&file(dir, account, "pem"), &file(dir, account, "key"), &file(dir, "ca", "pem")).unwrap()
    }

    fn client(&self, san: Option<&str>) -> Arc<Client> {
        Arc::new(Client::new(self.hbone, &self.identity("client"), san).unwrap())
    }
}

/// A sink on two free ports; tunnels to ports 9000-9999 are echoed.
fn rig() -> Rig {
    let dir = Dir::new(None).unwrap();
    certs::write(dir.path()).unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let (hbone, http) = (sink::listen(any).unwrap(), sink::listen(any).unwrap());
    let rig = Rig { dir, hbone: hbone.local_addr().unwrap(), http: http.local_addr().unwrap() };
    let options = Arc::new(Options { tcp_ports: vec![9000..=9999], ..Options::default() });
    let tls = TlsAcceptor::from(rig.identity("backend").server().unwrap());
    tokio::spawn(sink::accept(hbone, Some(tls), options.clone()));
    tokio::spawn(sink::accept(http, None, options));
    rig
}

fn target() -> Target {
    Target::parse("http://127.2.0.10:80/").unwrap()
}

async fn read_all<W: Wire>(wire: &mut W) -> Bytes {
    let mut all = Vec::new();
    loop {
        let data = wire.read().await.unwrap();
        if data.is_empty() {
            return all.into();
        }
        all.extend_from_slice(&data);
    }
}

#[tokio::test]
async fn requests_inside_a_tunnel() {
    let rig = rig();
    let connection = rig.client(Some(&spiffe("backend"))).connect(0).await.unwrap();
    let mut tunnel = connection.open("127.2.0.10:80").await.unwrap();
    let mut input = Bytes::new();
    for _ in 0..3 {
        let answer = exchange(&mut tunnel, &mut input, target().get("/")).await.unwrap();
        assert_eq!((answer.status, answer.reusable, answer.body), (200, true, 2));
    }
    // Five megabytes are more than the stream's window: credit is given back.
    let big = exchange(&mut tunnel, &mut input, target().get("/big/5000000")).await.unwrap();
    assert_eq!((big.status, big.body), (200, 5_000_000));
    let last = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    tunnel.write(Bytes::from(last)).await.unwrap();
    assert!(read_all(&mut tunnel).await.ends_with(b"\r\n\r\nok"));
}

#[tokio::test]
async fn an_echo_shows_the_request() {
    let rig = rig();
    let connection = rig.client(None).connect(0).await.unwrap();
    let mut tunnel = connection.open("127.2.0.10:80").await.unwrap();
    // The head comes in two pieces, the body in chunks.
    tunnel.write(Bytes::from("POST /echo?a HTTP/1.1\r\nHost: x\r\nTransfer-")).await.unwrap();
    tunnel.write(Bytes::from("Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")).await.unwrap();
    let mut input = Bytes::new();
    let (status, framing) = response_head(&mut tunnel, &mut input).await.unwrap();
    let body = next(&mut tunnel, &mut input, &mut framing.response_body(status)).await.unwrap().unwrap();
    let echo: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(echo["request"], "POST /echo?a HTTP/1.1");
    assert_eq!(echo["headers"], serde_json::json!([["Host", "x"], ["Transfer-Encoding", "chunked"]]));
    assert_eq!(echo["body"], "abc");
}

#[tokio::test]
async fn what_is_no_http_is_answered_400() {
    let rig = rig();
    let mut wire = Socket::new(tokio::net::TcpStream::connect(rig.http).await.unwrap());
    wire.write(Bytes::from("nonsense\r\n\r\n")).await.unwrap();
    assert!(read_all(&mut wire).await.starts_with(b"HTTP/1.1 400 "));
}

#[tokio::test]
async fn bytes_to_a_tcp_port_come_back() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let rig = rig();
    let connection = rig.client(None).connect(0).await.unwrap();
    let mut tunnel = connection.open("127.2.0.10:9001").await.unwrap();
    tunnel.write_all(b"hello, GET / HTTP/1.1\r\n\r\n").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut back = String::new();
    tunnel.read_to_string(&mut back).await.unwrap();
    assert_eq!(back, "hello, GET / HTTP/1.1\r\n\r\n");
}

#[tokio::test]
async fn the_peer_must_be_who_it_should_be() {
    let rig = rig();
    let wrong = rig.client(Some(&spiffe("somebody"))).connect(0).await.err().unwrap();
    assert!(matches!(wrong, Error::Peer { .. }), "{wrong}");
    // Another root: neither side knows the other.
    let other = super::tests::rig();
    let stranger = Client::new(rig.hbone, &other.identity("client"), None).unwrap();
    assert!(stranger.connect(0).await.is_err());
}

#[tokio::test]
async fn http2_and_grpc_with_prior_knowledge() {
    let rig = rig();
    let tcp = tokio::net::TcpStream::connect(rig.http).await.unwrap();
    let (requests, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut requests = requests.ready().await.unwrap();
    let url = |path: &str| format!("http://{}{path}", rig.http);

    let get = http::Request::get(url("/")).body(()).unwrap();
    let response = requests.send_request(get, true).unwrap().0.await.unwrap();
    assert_eq!(response.into_body().data().await.unwrap().unwrap(), "ok");

    let mut requests = requests.ready().await.unwrap();
    let call = http::Request::post(url("/s/m")).header("content-type", "application/grpc").body(()).unwrap();
    let (response, mut send) = requests.send_request(call, false).unwrap();
    send.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), [0; 5].as_slice());
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
}

#[tokio::test]
async fn http2_inside_a_tunnel() {
    let rig = rig();
    let connection = rig.client(None).connect(0).await.unwrap();
    let tunnel = connection.open("127.2.0.13:80").await.unwrap();
    let (requests, inner) = h2::client::handshake(tunnel).await.unwrap();
    tokio::spawn(inner);
    let mut requests = requests.ready().await.unwrap();
    let get = http::Request::get("http://x/echo").header("a", "b").body(()).unwrap();
    let mut body = requests.send_request(get, true).unwrap().0.await.unwrap().into_body();
    let echo: Value = serde_json::from_slice(&body.data().await.unwrap().unwrap()).unwrap();
    assert_eq!(echo["request"], "GET /echo HTTP/2");
    assert_eq!(echo["headers"], serde_json::json!([[":authority", "x"], ["a", "b"]]));
}

#[tokio::test]
async fn a_load_counts_what_was_answered() {
    let rig = rig();
    let outcome = load(&rig.client(None), &target(), 2, 8, Duration::from_millis(200), Arc::default()).await.unwrap();
    assert_eq!((outcome.errors, outcome.first_error.as_deref()), (0, None));
    assert!(outcome.latency.count() >= 16, "{} requests", outcome.latency.count());
    assert!(outcome.latency.quantile(0.5) <= outcome.latency.quantile(0.99));
}

#[tokio::test]
async fn one_request_by_the_strict_client() {
    let rig = rig();
    let target = Target::parse("http://127.2.0.10:80/echo").unwrap();
    let (status, body) = get::once(&rig.client(None), &target).await.unwrap();
    let echo: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &echo["request"]), (200, &Value::from("GET /echo HTTP/1.1")));
    assert_eq!(echo["headers"], serde_json::json!([["host", "127.2.0.10:80"]]));
}

#[tokio::test]
async fn tunnels_are_cut_at_every_point() {
    let rig = rig();
    let counts = abort(&rig.client(None), &target(), 500, 2, 1).await.unwrap();
    assert_eq!(counts.totals(), (500, 0), "{counts:?}");
    // The sink still serves.
    let connection = rig.client(None).connect(0).await.unwrap();
    let mut tunnel = connection.open("127.2.0.10:80").await.unwrap();
    assert_eq!(exchange(&mut tunnel, &mut Bytes::new(), target().get("/")).await.unwrap().status, 200);
}

#[tokio::test]
async fn tunnels_are_held() {
    let rig = rig();
    let held = hold(&rig.client(None), &target(), 300, 3, Duration::ZERO).await.unwrap();
    assert_eq!((held.opened, held.kept, held.first_error), (300, 300, None));
}

#[tokio::test]
async fn bodies_go_up_and_down() {
    const SIZE: u64 = 6_000_000;
    let rig = rig();
    let connection = rig.client(None).connect(0).await.unwrap();
    let mut tunnel = connection.open("127.2.0.10:80").await.unwrap();
    let (mut up, mut down) = (0, 0);
    assert_eq!(body::send(&mut tunnel, &target(), SIZE, None, &mut up).await.unwrap(), 200);
    let mut tunnel = connection.open("127.2.0.10:80").await.unwrap();
    assert_eq!(body::read(&mut tunnel, &target(), SIZE, None, &mut down).await.unwrap(), 200);
    assert_eq!((up, down), (SIZE, SIZE));
}
