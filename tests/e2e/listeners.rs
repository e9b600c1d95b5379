//! Where connections come in, and where they go.

use std::net::Ipv6Addr;

use http::Response;

use crate::rig::{Backend, Config, Dir, H2_UPSTREAM, TO_A, Wire, cluster, hcm, ok, pipe, socket};

fn main_chain() -> String {
    format!("{{filters: [{}]}}", hcm(TO_A, ""))
}

#[tokio::test]
async fn a_unix_socket_is_listened_on() {
    let dir = Dir::new();
    let (backend, path) = (Backend::says("hello").await, dir.join("in.sock"));
    let config = Config::new().listener_on("main", &pipe(&path), &main_chain(), "");
    let _proxy = config.cluster(cluster("a", &backend, "")).args(&["--concurrency", "2"]).start().await;
    for _ in 0..4 {
        assert_eq!(Wire::connect_unix(&path).await.get("/").await.text(), "hello");
    }
}

#[tokio::test]
async fn a_unix_socket_is_an_upstream() {
    let dir = Dir::new();
    let backend = Backend::unix(&dir.join("out.sock"), |mut wire, _| async move {
        while wire.try_message().await.is_ok() {
            wire.send(ok("hello")).await;
        }
    })
    .await;
    let proxy = Config::to(&backend).start().await;
    assert_eq!(proxy.get("/").await.text(), "hello");
    assert_eq!(proxy.get("/").await.text(), "hello");
    assert_eq!(backend.accepted(), 1);
}

#[tokio::test]
async fn ipv6_is_listened_on() {
    let backend = Backend::says("hello").await;
    let mut config = Config::new();
    let addr = config.port_on("main", Ipv6Addr::LOCALHOST.into());
    let config = config.listener_on("main", &socket(addr), &main_chain(), "");
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    assert_eq!(proxy.get("/").await.text(), "hello");
}

#[tokio::test]
async fn additional_addresses_are_listened_on() {
    let mut config = Config::new();
    let (first, second) = (config.port("main"), config.port("second"));
    let more = format!("additional_addresses: [{{address: {}}}]", socket(second));
    let config = config.listener_on("main", &socket(first), &main_chain(), &more);
    let backend = Backend::says("hello").await;
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    assert_eq!(proxy.get("/").await.text(), "hello");
    assert_eq!(Wire::connect(second).await.get("/").await.text(), "hello");
}

/// Each worker has one HTTP/2 connection upstream: which one a request takes tells the worker of its client.
#[tokio::test]
async fn exact_balance_gives_each_worker_as_many_connections() {
    let backend = Backend::h2(|_, mut respond, n| async move {
        let response = Response::builder().header("x-worker", n.to_string()).body(()).unwrap();
        respond.send_response(response, true).unwrap();
    })
    .await;
    let config = Config::new().chain("main", &main_chain(), "connection_balance_config: {exact_balance: {}}");
    let config = config.cluster(cluster("a", &backend, H2_UPSTREAM)).args(&["--concurrency", "2"]);
    let proxy = config.start().await;
    let (mut clients, mut counts) = (Vec::new(), [0, 0]);
    for _ in 0..20 {
        let mut client = proxy.connect().await;
        let worker = client.get("/").await.header("x-worker").parse::<usize>().unwrap();
        counts[worker] += 1;
        clients.push(client);
    }
    assert_eq!(counts, [10, 10]);
}

#[tokio::test]
async fn the_proxy_protocol_tells_whose_a_connection_is() {
    let dir = Dir::new();
    let log = crate::rig::log_to(
        &dir.join("access.log"),
        "log_format: {text_format_source: {inline_string: \"%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS%\\n\"}}",
    );
    let filter = "listener_filters: [{name: proxy_protocol, typed_config: {\"@type\": \
        type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}]";
    let backend = Backend::says("hello").await;
    let config = Config::new().chain("main", &format!("{{filters: [{}]}}", hcm(TO_A, &log)), filter);
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;

    let mut client = proxy.connect().await;
    client.send("PROXY TCP4 9.9.9.9 8.8.8.8 1000 80\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.message().await.text(), "hello");
    let logged = || std::fs::read_to_string(dir.join("access.log")).unwrap_or_default();
    crate::rig::until("a line is logged", || async { logged().ends_with('\n') }).await;
    assert_eq!(logged(), "9.9.9.9:1000 8.8.8.8:80\n");

    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert!(client.bytes(1).await.is_err());
}
