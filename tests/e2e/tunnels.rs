//! TCP through the proxy, plain and inside CONNECT.

use http::Method;

use crate::rig::{Backend, Config, H2_UPSTREAM, cluster, h2_echo, tcp_proxy, until, within};

#[tokio::test]
async fn tcp_is_passed_on_with_its_half_closes() {
    let backend = Backend::wire(|mut wire, _| async move {
        let all = wire.closed().await;
        wire.send(format!("{} bytes", all.len())).await;
    })
    .await;
    let config = Config::new().listener("main", &tcp_proxy("cluster: a")).cluster(cluster("a", &backend, ""));
    let proxy = config.start().await;
    let mut client = proxy.connect().await;
    client.send(vec![b'x'; 3 << 20]).await;
    client.finish().await;
    assert_eq!(client.closed().await, format!("{} bytes", 3 << 20).as_bytes());
    proxy.until_stat("tcp.tcp.downstream_cx_total", 1).await;
    assert_eq!(proxy.stat("tcp.tcp.downstream_cx_rx_bytes_total").await, 3 << 20);
}

#[tokio::test]
async fn tcp_to_nowhere_is_closed() {
    let mut config = Config::new();
    let gone = config.port("gone");
    let config = config.listener("main", &tcp_proxy("cluster: a"));
    let proxy = config.cluster(cluster("a", crate::rig::socket(gone), "")).start().await;
    assert!(proxy.connect().await.closed().await.is_empty());
    proxy.until_stat("cluster.a.upstream_cx_connect_fail", 1).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let backend = Backend::echo().await;
    let config = Config::new().listener("main", &tcp_proxy("cluster: a, idle_timeout: 0.2s"));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let mut client = proxy.connect().await;
    client.send("x").await;
    client.expect("x").await;
    assert!(client.closed().await.is_empty());
    until("the backend's connection is closed", || async { backend.open() == 0 }).await;
    assert_eq!(proxy.stat("tcp.tcp.idle_timeout").await, 1);
}

#[tokio::test]
async fn weighted_clusters_share_connections() {
    let (a, b) = (says("a").await, says("b").await);
    let weights = "weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 1}]}";
    let config = Config::new().listener("main", &tcp_proxy(weights));
    let proxy = config.cluster(cluster("a", &a, "")).cluster(cluster("b", &b, "")).start().await;
    let mut count = 0;
    for _ in 0..100 {
        if proxy.connect().await.closed().await == b"a" {
            count += 1;
        }
    }
    // Five standard deviations: one run in a million fails by chance.
    assert!((25..=75).contains(&count), "{count} of 100 went to a");
}

async fn says(text: &'static str) -> Backend {
    Backend::wire(move |mut wire, _| async move { wire.send(text).await }).await
}

#[tokio::test]
async fn tcp_tunnels_through_connect_over_http2() {
    let backend = Backend::h2(|request, respond, _| async move {
        assert_eq!((request.method(), request.uri().authority().unwrap().as_str()), (&Method::CONNECT, "dest:443"));
        assert_eq!(request.headers()["x-from"], "127.0.0.1");
        h2_echo(request, respond).await;
    })
    .await;
    let tunnel = "cluster: a, tunneling_config: {hostname: \"dest:443\", headers_to_add: \
                  [{header: {key: x-from, value: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"}}]}";
    let config = Config::new().listener("main", &tcp_proxy(tunnel)).cluster(cluster("a", &backend, H2_UPSTREAM));
    let proxy = config.start().await;
    for _ in 0..3 {
        let mut client = proxy.connect().await;
        client.send("through").await;
        client.expect("through").await;
        client.finish().await;
        assert!(client.closed().await.is_empty());
    }
    assert_eq!(backend.accepted(), 1, "the tunnels share a connection");
}

#[tokio::test]
async fn tcp_tunnels_through_connect_over_http1() {
    let backend = Backend::wire(|mut wire, _| async move {
        let head = wire.head().await;
        assert_eq!((head.first_line.as_str(), head.header("host")), ("CONNECT dest:443 HTTP/1.1", "dest:443"));
        wire.send("HTTP/1.1 200 OK\r\n\r\n").await;
        while let Ok(byte) = wire.bytes(1).await {
            wire.send(byte).await;
        }
    })
    .await;
    let config = Config::new().listener("main", &tcp_proxy("cluster: a, tunneling_config: {hostname: \"dest:443\"}"));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let mut client = proxy.connect().await;
    client.send("through").await;
    client.expect("through").await;
    drop(client);
    until("the backend's connection is closed", || async { backend.open() == 0 }).await;
}

#[tokio::test]
async fn a_tunnel_that_is_refused_closes_the_connection() {
    let backend = Backend::http(|_| "HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
    let config = Config::new().listener("main", &tcp_proxy("cluster: a, tunneling_config: {hostname: \"dest:443\"}"));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let mut client = proxy.connect().await;
    client.send("through").await;
    assert!(within("the end", client.closed()).await.is_empty());
}
