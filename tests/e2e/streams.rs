//! Streams that end before their time, and those that ask before they send.

use bytes::Bytes;
use http::{Request, Response};

use crate::rig::{Backend, Config, Gate, H2, H2_UPSTREAM, TO_A, cluster, hcm, ok, read_all, within};

/// Says when a request came and when its connection ended, and never answers.
async fn silent(came: &Gate, went: &Gate) -> Backend {
    let (came, went) = (came.clone(), went.clone());
    Backend::wire(move |mut wire, _| {
        let (came, went) = (came.clone(), went.clone());
        async move {
            if wire.try_message().await.is_ok() {
                came.arrive();
                wire.closed().await;
                went.arrive();
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_request_upstream() {
    let (came, went) = (Gate::new(), Gate::new());
    let proxy = Config::to(&silent(&came, &went).await).start().await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    came.arrived().await;

    drop(client);

    went.arrived().await;
    proxy.until_stat("cluster.a.upstream_rq_active", 0).await;
}

#[tokio::test]
async fn a_stream_that_is_reset_ends_upstream_and_its_neighbours_go_on() {
    let (came, went) = (Gate::new(), Gate::new());
    let (backend, other) = (silent(&came, &went).await, Backend::says("hello").await);
    let routes = "[{match: {path: /silent}, route: {cluster: a}}, {match: {prefix: /}, route: {cluster: b}}]";
    let config = Config::new().listener("main", &hcm(routes, ""));
    let proxy = config.cluster(cluster("a", &backend, "")).cluster(cluster("b", &other, "")).start().await;
    let mut client = H2::connect(proxy.main()).await;
    let request = Request::post("http://test/silent").body(()).unwrap();
    let (response, mut body) = client.open(request, false).await;
    body.send_data(Bytes::new(), true).unwrap();
    came.arrived().await;

    body.send_reset(h2::Reason::CANCEL);

    went.arrived().await;
    drop(response);
    assert_eq!(client.get("/").await.body(), b"hello");
    proxy.until_stat("cluster.a.upstream_rq_active", 0).await;
}

#[tokio::test]
async fn a_stream_that_is_reset_is_reset_upstream_on_http2() {
    let (came, went) = (Gate::new(), Gate::new());
    let backend = Backend::h2({
        let (came, went) = (came.clone(), went.clone());
        move |request, mut respond, _| {
            let (came, went) = (came.clone(), went.clone());
            async move {
                if request.uri().path() == "/silent" {
                    came.arrive();
                    let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                    assert!(reason.is_ok());
                    went.arrive();
                } else {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            }
        }
    })
    .await;
    let config = Config::new().listener("main", &hcm(TO_A, "")).cluster(cluster("a", &backend, H2_UPSTREAM));
    let proxy = config.start().await;
    let mut client = proxy.connect().await;
    client.send("GET /silent HTTP/1.1\r\nhost: test\r\n\r\n").await;
    came.arrived().await;

    drop(client);

    went.arrived().await;
    assert_eq!(proxy.get("/").await.status(), 200);
    assert_eq!(backend.accepted(), 1, "the connection is used still");
}

#[tokio::test]
async fn a_backend_that_breaks_off_breaks_off_the_client() {
    let gate = Gate::new();
    let backend = Backend::wire({
        let gate = gate.clone();
        move |mut wire, _| {
            let gate = gate.clone();
            async move {
                wire.try_message().await.unwrap();
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await;
                gate.pass().await;
            }
        }
    })
    .await;
    let proxy = Config::to(&backend).start().await;

    let mut h1 = proxy.connect().await;
    h1.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(h1.head().await.status(), 200);
    gate.open();
    assert!(within("the end", h1.bytes(100)).await.is_err(), "the body ends before its length");

    let mut h2 = H2::connect(proxy.main()).await;
    let response = h2.ask("/").await;
    let response = within("a response", response).await.unwrap();
    assert_eq!(response.status(), 200);
    gate.open();
    let error = read_all(response.into_body()).await.expect_err("the stream is reset");
    assert!(error.is_reset(), "{error:?}");
    assert!(!h2.has_ended(), "the connection goes on");
}

#[tokio::test]
async fn a_chunked_body_that_breaks_off_has_no_last_chunk() {
    let backend = Backend::wire(|mut wire, _| async move {
        wire.try_message().await.unwrap();
        wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nonly\r\n").await;
    })
    .await;
    let proxy = Config::to(&backend).start().await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.head().await.header("transfer-encoding"), "chunked");
    assert_eq!(client.closed().await, b"4\r\nonly\r\n");
}

#[tokio::test]
async fn a_stream_that_the_backend_resets_after_its_head_is_reset() {
    let backend = Backend::h2(|_, mut respond, _| async move {
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        send.send_data(Bytes::from_static(b"only this"), false).unwrap();
        std::future::poll_fn(|cx| {
            // Its data is on the way once the stream has room for more.
            send.reserve_capacity(1 << 20);
            send.poll_capacity(cx)
        })
        .await;
        send.send_reset(h2::Reason::INTERNAL_ERROR);
    })
    .await;
    let config = Config::new().listener("main", &hcm(TO_A, "")).cluster(cluster("a", &backend, H2_UPSTREAM));
    let proxy = config.start().await;
    let mut client = H2::connect(proxy.main()).await;
    let response = client.ask("/").await;
    // The head may not have been sent on yet when the reset comes.
    if let Ok(response) = within("a response", response).await
        && response.status() == 200
    {
        assert!(read_all(response.into_body()).await.is_err());
    }
    assert!(!client.has_ended());
}

/// Envoy's connection manager says 100 by itself, and nobody behind it hears of `expect`.
#[tokio::test]
async fn expect_100_continue_is_answered_by_the_proxy() {
    let backend = Backend::http(|r| ok(&format!("{}|{}", r.header("expect"), r.text()))).await;
    let proxy = Config::to(&backend).start().await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("body").await;
    assert_eq!(client.message().await.text(), "|body");
    assert_eq!(client.get("/").await.text(), "|", "the connection goes on");
}

#[tokio::test]
async fn with_proxy_100_continue_the_backend_says_it() {
    let backend = Backend::wire(|mut wire, _| async move {
        let head = wire.head().await;
        assert_eq!(head.header("expect"), "100-continue");
        wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = wire.bytes(4).await.unwrap();
        wire.send(ok(&String::from_utf8(body).unwrap())).await;
    })
    .await;
    let config = Config::new().listener("main", &hcm(TO_A, "proxy_100_continue: true"));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n").await;
    client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("body").await;
    assert_eq!(client.message().await.text(), "body");
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways_on_http2() {
    let backend = Backend::h2(|request, mut respond, _| async move {
        let mut body = request.into_body();
        let mut all = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            all.extend_from_slice(&data);
        }
        let trailers = body.trailers().await.unwrap().unwrap_or_default();
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        send.send_data(Bytes::from(all), false).unwrap();
        send.send_trailers(trailers).unwrap();
    })
    .await;
    let config = Config::new().listener("main", &hcm(TO_A, "")).cluster(cluster("a", &backend, H2_UPSTREAM));
    let proxy = config.start().await;
    let mut client = H2::connect(proxy.main()).await;
    let request = Request::post("http://test/").body(()).unwrap();
    let (response, mut body) = client.open(request, false).await;
    body.send_data(Bytes::from(vec![b'x'; 1 << 20]), false).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    body.send_trailers(trailers.clone()).unwrap();
    let mut body = within("a response", response).await.unwrap().into_body();
    let mut read = 0;
    while let Some(data) = within("the body", body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        read += data.len();
    }
    assert_eq!(read, 1 << 20);
    assert_eq!(within("the trailers", body.trailers()).await.unwrap(), Some(trailers));
}
