//! Upstream connections: kept, reused, ended.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::Barrier;

use crate::rig::frames::ANY_STREAM;
use crate::rig::{
    Backend, Config, Frames, Gate, H2, H2_UPSTREAM, TO_A, cluster, hcm, http_options, ok, socket, tcp_proxy, until,
    within,
};

async fn with(backend: &Backend, options: &str) -> crate::rig::Proxy {
    Config::new().listener("main", &hcm(TO_A, "")).cluster(cluster("a", backend, options)).start().await
}

#[tokio::test]
async fn requests_one_after_the_other_share_a_connection() {
    let backend = Backend::says("hello").await;
    let proxy = Config::to(&backend).start().await;
    for _ in 0..4 {
        let mut client = proxy.connect().await;
        for _ in 0..5 {
            assert_eq!(client.get("/").await.text(), "hello");
        }
    }
    assert_eq!(backend.accepted(), 1);
    assert_eq!(proxy.stat("cluster.a.upstream_cx_total").await, 1);
    assert_eq!(proxy.stat("cluster.a.upstream_rq_total").await, 20);
}

#[tokio::test]
async fn requests_at_the_same_time_have_connections_of_their_own() {
    let gate = Gate::new();
    let backend = Backend::wire({
        let gate = gate.clone();
        move |mut wire, _| {
            let gate = gate.clone();
            async move {
                while wire.try_message().await.is_ok() {
                    gate.pass().await;
                    wire.send(ok("hello")).await;
                }
            }
        }
    })
    .await;
    let proxy = Config::to(&backend).start().await;
    let (mut one, mut two) = (proxy.connect().await, proxy.connect().await);
    one.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    gate.arrived().await;
    two.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    gate.arrived().await;
    assert_eq!(backend.open(), 2);
    gate.open();
    gate.open();
    assert_eq!((one.message().await.status(), two.message().await.status()), (200, 200));
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let backend = Backend::says("hello").await;
    let proxy = with(&backend, &http_options("{idle_timeout: 0.2s}")).await;
    let mut client = proxy.connect().await;
    client.get("/").await;
    until("the idle connection is closed", || async { backend.open() == 0 }).await;
    proxy.until_stat("cluster.a.upstream_cx_idle_timeout", 1).await;
    assert_eq!(client.get("/").await.text(), "hello");
    assert_eq!(backend.accepted(), 2);
}

#[tokio::test]
async fn a_connection_serves_max_requests_per_connection() {
    let backend = Backend::says("hello").await;
    let proxy = with(&backend, &http_options("{max_requests_per_connection: 2}")).await;
    let mut client = proxy.connect().await;
    for _ in 0..6 {
        assert_eq!(client.get("/").await.text(), "hello");
    }
    assert_eq!(backend.accepted(), 3);
    assert_eq!(proxy.stat("cluster.a.upstream_cx_max_requests").await, 3);
}

#[tokio::test]
async fn a_connection_that_the_backend_closes_is_not_used_again() {
    let backend = Backend::wire(|mut wire, _| async move {
        wire.try_message().await.unwrap();
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    })
    .await;
    let proxy = Config::to(&backend).start().await;
    let mut client = proxy.connect().await;
    for n in 1..=3 {
        let reply = client.get("/").await;
        assert_eq!((reply.status(), reply.header("connection")), (200, ""), "the client's connection stays");
        assert_eq!(backend.accepted(), n);
    }
}

#[tokio::test]
async fn errors_leave_both_connections_in_use() {
    let backend =
        Backend::http(|r| format!("HTTP/1.1 {} Whatever\r\ncontent-length: 2\r\n\r\nno", r.header("x-status"))).await;
    let routes = "[{match: {path: /none}, direct_response: {status: 418}}, {match: {path: /lost}, route: {cluster: gone}}, \
                  {match: {prefix: /in/}, route: {cluster: a}}]";
    let mut config = Config::new();
    let gone = config.port("gone");
    let config = config.listener("main", &hcm(routes, "")).cluster(cluster("gone", socket(gone), ""));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let mut client = proxy.connect().await;
    for (path, status) in [("/in/a", 404), ("/none", 418), ("/in/b", 503), ("/x", 404), ("/lost", 503), ("/in/c", 500)]
    {
        let reply = client.request(path, &format!("x-status: {status}\r\n")).await;
        assert_eq!((reply.status(), reply.header("connection")), (status, ""), "{path}");
    }
    assert_eq!(backend.accepted(), 1);
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_in_time_is_given_up() {
    // A full backlog lets nobody in and refuses nobody.
    let socket2 = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket2.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket2.listen(0).unwrap();
    let addr = socket2.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(std::time::Duration::from_millis(100), tokio::net::TcpStream::connect(addr)).await
    {
        fill.push(stream);
    }
    let config = Config::new().listener("main", &hcm(TO_A, ""));
    let proxy = config.cluster(cluster("a", socket(addr), "connect_timeout: 0.2s")).start().await;
    let reply = proxy.get("/").await;
    assert_eq!(reply.status(), 503);
    assert_eq!(
        reply.text(),
        "upstream connect error or disconnect/reset before headers. reset reason: connection timeout"
    );
    assert_eq!(proxy.stat("cluster.a.upstream_cx_connect_timeout").await, 1);
}

#[tokio::test]
async fn a_refused_connection_is_said_so() {
    let mut config = Config::new();
    let addr = config.port("gone");
    let config = config.listener("main", &hcm(TO_A, "")).cluster(cluster("a", socket(addr), ""));
    let reply = config.start().await.get("/").await;
    assert_eq!(reply.status(), 503);
    assert_eq!(
        reply.text(),
        "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"
    );
}

#[tokio::test]
async fn a_connection_that_died_while_idle_costs_no_request() {
    let gate = Gate::new();
    let backend = Backend::wire({
        let gate = gate.clone();
        move |mut wire, n| {
            let gate = gate.clone();
            async move {
                while wire.try_message().await.is_ok() {
                    wire.send(ok("hello")).await;
                    if n == 0 {
                        gate.pass().await;
                        return;
                    }
                }
            }
        }
    })
    .await;
    let proxy = Config::to(&backend).start().await;
    let mut client = proxy.connect().await;
    assert_eq!(client.get("/").await.text(), "hello");
    gate.arrived().await;
    gate.open();
    proxy.until_stat("cluster.a.upstream_cx_active", 0).await;
    assert_eq!(within("the next answer", client.get("/")).await.text(), "hello");
    assert_eq!(backend.accepted(), 2);
}

#[tokio::test]
async fn a_host_that_says_goodbye_on_all_its_connections_costs_no_request() {
    const CONNECTIONS: usize = 6;
    let together = Arc::new(Barrier::new(CONNECTIONS));
    let backend = Backend::wire(move |wire, n| {
        let together = together.clone();
        async move {
            let mut frames = Frames::accept(wire).await;
            while let Some(stream) = frames.request().await {
                if n >= CONNECTIONS {
                    frames.answer(stream).await;
                } else if stream == 3 {
                    together.wait().await;
                    // One stream is left open, so that the connection stays.
                    frames.say_goodbye(ANY_STREAM).await;
                    frames.answer(stream).await;
                }
            }
        }
    })
    .await;
    let two = H2_UPSTREAM.replace("http2_protocol_options: {}", "http2_protocol_options: {max_concurrent_streams: 2}");
    let proxy = with(&backend, &two).await;
    let mut client = H2::connect(proxy.main()).await;
    let (done, mut answers) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..2 * CONNECTIONS {
        let (response, done) = (client.ask("/").await, done.clone());
        tokio::spawn(async move {
            // The other half ends with the test.
            if let Ok(response) = response.await {
                let _ = done.send(response.status());
            }
        });
    }
    for _ in 0..CONNECTIONS {
        assert_eq!(within("an answer", answers.recv()).await.unwrap(), 200);
    }
    assert_eq!(client.get("/").await.status(), 200);
    assert_eq!(backend.accepted(), CONNECTIONS + 1);
}

/// Answers the first request of the first connection, and says that it has not looked at the second.
async fn goes_after_one() -> Backend {
    Backend::wire(|wire, n| async move {
        let mut frames = Frames::accept(wire).await;
        while let Some(stream) = frames.request().await {
            if n == 0 && stream > 1 {
                frames.say_goodbye(1).await;
            } else {
                frames.answer(stream).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_a_leaving_host_did_not_look_at_is_tried_again_where_the_route_says_so() {
    // What istiod has routes retry by default.
    let retry =
        "retry_policy: {retry_on: \"connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes\"}";
    for (retry, status, retries) in [(retry, 200, 1), ("timeout: 5s", 503, 0)] {
        let backend = goes_after_one().await;
        let routes = format!("[{{match: {{prefix: /}}, route: {{cluster: a, {retry}}}}}]");
        let config = Config::new().listener("main", &hcm(&routes, "")).cluster(cluster("a", &backend, H2_UPSTREAM));
        let proxy = config.start().await;
        let mut client = proxy.connect().await;
        assert_eq!(client.get("/").await.status(), 200);
        let reply = client.get("/").await;
        assert_eq!(reply.status(), status);
        if status == 503 {
            let reason =
                "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset";
            assert_eq!(reply.text(), reason);
        }
        assert_eq!(proxy.stat("cluster.a.upstream_rq_retry").await, retries);
    }
}

#[tokio::test]
async fn a_tunnel_that_a_leaving_host_did_not_look_at_is_opened_elsewhere() {
    let backend = Backend::wire(|wire, n| async move {
        let mut frames = Frames::accept(wire).await;
        while let Some(stream) = frames.request().await {
            if n == 0 && stream > 1 {
                frames.say_goodbye(1).await;
            } else {
                frames.accept_tunnel(stream).await;
                frames.data(stream, b"in").await;
            }
        }
    })
    .await;
    let tunnel = tcp_proxy("cluster: a, tunneling_config: {hostname: \"dest:80\"}");
    let config = Config::new().listener("main", &tunnel).cluster(cluster("a", &backend, H2_UPSTREAM));
    let proxy = config.start().await;
    let (mut one, mut two) = (proxy.connect().await, proxy.connect().await);
    one.expect("in").await;
    two.expect("in").await;
    assert_eq!(backend.accepted(), 2);
}
