//! What routes do, seen from both ends.

use crate::rig::{Backend, Config, Message, Wire, cluster, hcm, ok};

#[tokio::test]
async fn redirects_say_where_to() {
    let routes = "[{match: {path: /s}, redirect: {https_redirect: true}}, \
        {match: {path: /p}, redirect: {path_redirect: /q, response_code: FOUND}}, \
        {match: {prefix: /old}, redirect: {host_redirect: other.example, prefix_rewrite: /new, response_code: PERMANENT_REDIRECT}}, \
        {match: {prefix: /strip}, redirect: {port_redirect: 8443, strip_query: true, response_code: TEMPORARY_REDIRECT}}]";
    let proxy = Config::new().listener("main", &hcm(routes, "")).start().await;
    let mut client = proxy.connect().await;
    for (path, status, location) in [
        ("/s?a=b", 301, "https://test/s?a=b"),
        ("/p", 302, "http://test/q"),
        ("/old/x?y", 308, "http://other.example/new/x?y"),
        ("/strip/x?y", 307, "http://test:8443/strip/x"),
    ] {
        let reply = client.get(path).await;
        assert_eq!((reply.status(), reply.header("location")), (status, location), "{path}");
    }
}

#[tokio::test]
async fn weighted_clusters_share_requests() {
    let (a, b) = (Backend::says("a").await, Backend::says("b").await);
    let routes = "[{match: {path: /all}, route: {weighted_clusters: {clusters: [{name: a, weight: 0}, {name: b, weight: 100}]}}}, \
        {match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 3}, {name: b, weight: 1}]}}}]";
    let config = Config::new().listener("main", &hcm(routes, ""));
    let proxy = config.cluster(cluster("a", &a, "")).cluster(cluster("b", &b, "")).start().await;
    let mut client = proxy.connect().await;
    let mut count = 0;
    for _ in 0..400 {
        if client.get("/").await.text() == "a" {
            count += 1;
        }
    }
    // 300 are expected, with a standard deviation of 9.
    assert!((255..=345).contains(&count), "{count} of 400 went to a");
    for _ in 0..50 {
        assert_eq!(client.get("/all").await.text(), "b");
    }
}

#[tokio::test]
async fn what_is_rewritten_reaches_the_backend() {
    let backend = Backend::http(|r| {
        ok(&format!("{} {} {} {}", r.path(), r.header("host"), r.header("x-new"), r.header("x-gone")))
    })
    .await;
    let routes = "[{match: {prefix: /api/}, route: {cluster: a, prefix_rewrite: /v1/, host_rewrite_literal: inner}, \
        request_headers_to_add: [{header: {key: x-new, value: \"%REQ(x-old)%\"}}], request_headers_to_remove: [x-gone], \
        response_headers_to_add: [{header: {key: x-seen, value: \"%RESPONSE_CODE%\"}}]}]";
    let config = Config::new().listener("main", &hcm(routes, "")).cluster(cluster("a", &backend, ""));
    let proxy = config.start().await;
    let reply = proxy.connect().await.request("/api/x?y=1", "x-old: 7\r\nx-gone: 9\r\n").await;
    assert_eq!((reply.text().as_str(), reply.header("x-seen")), ("/v1/x?y=1 inner 7 ", "200"));
}

#[tokio::test]
async fn a_request_is_tried_again_where_the_policy_says_so() {
    let backend = Backend::wire(|mut wire, n| async move {
        wire.try_message().await.unwrap();
        if n > 0 {
            wire.send(ok("hello")).await;
        }
    })
    .await;
    let routes = "[{match: {prefix: /}, route: {cluster: a, retry_policy: {retry_on: reset, num_retries: 2}}}]";
    let config = Config::new().listener("main", &hcm(routes, "")).cluster(cluster("a", &backend, ""));
    let proxy = config.start().await;
    assert_eq!(proxy.get("/").await.status(), 200);
    assert_eq!((backend.accepted() as u64, proxy.stat("cluster.a.upstream_rq_retry").await), (2, 1));
}

#[tokio::test]
async fn a_backend_that_takes_too_long_is_504() {
    let backend = Backend::wire(|mut wire, _| async move {
        wire.try_message().await.unwrap();
        wire.closed().await;
    })
    .await;
    let config = Config::new().listener("main", &hcm("[{match: {prefix: /}, route: {cluster: a, timeout: 0.2s}}]", ""));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let reply = proxy.get("/").await;
    assert_eq!((reply.status(), reply.text().as_str()), (504, "upstream request timeout"));
}

/// The name of a span goes to the other side of it.
#[tokio::test]
async fn a_decorated_route_tells_its_operation_to_the_client_and_from_an_outbound_listener_to_the_host() {
    let backend = Backend::http(|r| ok(r.header("x-envoy-decorator-operation"))).await;
    let routes = "[{match: {prefix: /}, decorator: {operation: mine}, route: {cluster: a}}]";
    let chain = format!("{{filters: [{}]}}", hcm(routes, "tracing: {}"));
    let config = Config::new().chain("main", &chain, "").chain("out", &chain, "traffic_direction: OUTBOUND");
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let seen = |reply: Message| (reply.header("x-envoy-decorator-operation").to_owned(), reply.text());
    assert_eq!(seen(proxy.get("/").await), ("mine".into(), String::new()));
    assert_eq!(seen(Wire::connect(proxy.addr("out")).await.get("/").await), (String::new(), "mine".into()));
    // A client that names the span itself is not told of another name.
    let named = proxy.connect().await.request("/", "x-envoy-decorator-operation: theirs\r\n").await;
    assert_eq!(seen(named), (String::new(), String::new()));
}
