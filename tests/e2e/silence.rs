//! Peers that fall silent, where somebody else would wait for them.

use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use crate::rig::{Backend, Config, H2_UPSTREAM, TO_A, Wire, cluster, hcm, ok, socket, until, within};

/// The beginning of an HTTP/2 connection: the preface, and empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

#[tokio::test]
async fn a_client_that_does_not_answer_goaway_is_cut_off_and_holds_up_nobody() {
    let backend = Backend::says("hello").await;
    let timeouts = "common_http_protocol_options: {idle_timeout: 0.2s}, drain_timeout: 0.2s";
    let proxy = Config::new().listener("main", &hcm(TO_A, timeouts)).cluster(cluster("a", &backend, "")).start().await;
    let mut silent = Wire::connect(proxy.main()).await;
    silent.send(PREFACE).await;
    proxy.until_stat("http.http.downstream_cx_idle_timeout", 1).await;
    // The one worker is free for others.
    assert_eq!(within("an answer to somebody else", proxy.get("/")).await.text(), "hello");
    silent.closed().await;
}

#[tokio::test]
async fn a_head_that_does_not_go_on_is_an_idle_stream() {
    let backend = Backend::says("hello").await;
    let config = Config::new().listener("main", &hcm(TO_A, "stream_idle_timeout: 0.2s"));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhos").await;
    let reply = client.message().await;
    assert_eq!((reply.status(), reply.text().as_str(), reply.header("connection")), (408, "stream timeout", "close"));
    assert_eq!(proxy.stat("http.http.downstream_rq_idle_timeout").await, 1);
}

#[tokio::test]
async fn another_attempt_knows_that_the_request_has_ended() {
    let backend = Backend::wire(|mut wire, n| async move {
        // The first connection ends when it has seen the end of the request, which no later attempt can read again.
        wire.try_message().await.unwrap();
        if n > 0 {
            wire.send(ok("hello")).await;
        }
    })
    .await;
    let routes = "[{match: {prefix: /}, route: {cluster: a, retry_policy: {retry_on: reset, num_retries: 1, \
                  retry_back_off: {base_interval: 0.001s}}}}]";
    let proxy = Config::new().listener("main", &hcm(routes, "")).cluster(cluster("a", &backend, "")).start().await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").await;
    // Only now, so that the first attempt begins without knowing the end.
    until("the request has begun", || async { backend.accepted() == 1 }).await;
    client.send("0\r\n\r\n").await;
    assert_eq!(client.message().await.text(), "hello");
    assert_eq!(backend.accepted(), 2);
}

#[tokio::test]
async fn attempts_that_take_too_long_are_tried_again_with_time_of_their_own() {
    let backend = Backend::wire(|mut wire, n| async move {
        wire.try_message().await.unwrap();
        if n == 2 {
            wire.send(ok("hello")).await;
        }
        wire.closed().await;
    })
    .await;
    let routes = "[{match: {prefix: /}, route: {cluster: a, retry_policy: {retry_on: 5xx, num_retries: 2, per_try_timeout: 0.2s, \
                  retry_back_off: {base_interval: 0.001s}}}}]";
    let proxy = Config::new().listener("main", &hcm(routes, "")).cluster(cluster("a", &backend, "")).start().await;
    assert_eq!(proxy.get("/").await.text(), "hello");
    assert_eq!(proxy.stat("cluster.a.upstream_rq_per_try_timeout").await, 2);
}

#[tokio::test]
async fn requests_that_wait_for_one_connection_fail_with_it() {
    // A socket that is bound and takes no connection: the handshake waits, since the queue is full.
    let bound = TcpSocket::new_v4().unwrap();
    bound.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local_addr().unwrap();
    let hole = bound.listen(1).unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        queued.push(stream);
    }
    let config = Config::new().listener("main", &hcm(TO_A, ""));
    let proxy =
        config.cluster(cluster("a", socket(address), &format!("connect_timeout: 0.5s, {H2_UPSTREAM}"))).start().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = proxy.connect().await;
        client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
        clients.push(client);
    }
    for mut client in clients {
        assert_eq!(client.message().await.status(), 503);
    }
    let attempts = proxy.stat("cluster.a.upstream_cx_connect_timeout").await;
    assert!(attempts <= 2, "{attempts} attempts, one after another");
    drop(hole);
}
