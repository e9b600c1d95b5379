//! Circuit breakers, and senders that a slow reader stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::rig::{Backend, Config, Gate, H2, H2_UPSTREAM, TO_A, cluster, hcm, log_to, ok, until, within};

#[tokio::test]
async fn one_request_more_than_max_requests_overflows() {
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
    let dir = crate::rig::Dir::new();
    let log = dir.join("access.log");
    let format = "log_format: {text_format_source: {inline_string: \"%RESPONSE_CODE% %RESPONSE_FLAGS%\\n\"}}";
    let config = Config::new().listener("main", &hcm(TO_A, &log_to(&log, format)));
    let breaker = "circuit_breakers: {thresholds: [{max_requests: 1}]}";
    let proxy = config.cluster(cluster("a", &backend, breaker)).start().await;

    let mut first = proxy.connect().await;
    first.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    gate.arrived().await;
    let overflow = proxy.get("/").await;
    assert_eq!((overflow.status(), overflow.header("x-envoy-overloaded")), (503, "true"));
    assert_eq!(overflow.text(), "upstream connect error or disconnect/reset before headers. reset reason: overflow");
    gate.open();
    assert_eq!(first.message().await.status(), 200);

    // The room is there again.
    let mut third = proxy.connect().await;
    third.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    gate.arrived().await;
    gate.open();
    assert_eq!(third.message().await.status(), 200);
    until("the log is written", || async {
        std::fs::read_to_string(&log).unwrap_or_default() == "503 UO\n200 -\n200 -\n"
    })
    .await;
}

/// More than any buffers between two ends hold, the kernel's (which grow to some megabytes) among them.
const FAR_TOO_MUCH: usize = 256 << 20;
/// What may be on its way when nobody reads: 16 MiB are HTTP/2's window of a stream in Envoy, the rest is the kernel's.
const ON_THE_WAY: usize = 40 << 20;

/// Waits until a count has come to rest, and returns it.
async fn rest(count: &AtomicUsize) -> usize {
    let mut last = usize::MAX;
    within("the sender stops", async {
        loop {
            let now = count.load(SeqCst);
            if now == last && now > 0 {
                return now;
            }
            last = now;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await
}

/// Sends a body that never ends, and counts it.
async fn fountain(sent: &Arc<AtomicUsize>) -> Backend {
    let sent = sent.clone();
    Backend::tcp(move |mut stream, _| {
        let sent = sent.clone();
        async move {
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await.unwrap();
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {FAR_TOO_MUCH}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let chunk = [b'x'; 65536];
            while sent.load(SeqCst) < FAR_TOO_MUCH && stream.write_all(&chunk).await.is_ok() {
                sent.fetch_add(chunk.len(), SeqCst);
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_backend() {
    let sent = Arc::default();
    let backend = fountain(&sent).await;
    let proxy = Config::to(&backend).start().await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);

    let before = rest(&sent).await;
    assert!(before < ON_THE_WAY, "{before} bytes were taken from the backend");

    let body = within("the whole body", client.bytes(before + (4 << 20))).await.unwrap();
    assert!(body.iter().all(|b| *b == b'x'));
    assert!(sent.load(SeqCst) > before, "the backend goes on");
}

#[tokio::test]
async fn an_http2_client_that_does_not_read_stops_the_backend_of_its_stream_only() {
    let sent = Arc::default();
    let (backend, other) = (fountain(&sent).await, Backend::says("hello").await);
    let routes = "[{match: {path: /big}, route: {cluster: a}}, {match: {prefix: /}, route: {cluster: b}}]";
    let config = Config::new().listener("main", &hcm(routes, ""));
    let proxy = config.cluster(cluster("a", &backend, "")).cluster(cluster("b", &other, "")).start().await;
    let stream = tokio::net::TcpStream::connect(proxy.main()).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(65535).initial_connection_window_size(1 << 20);
    let (send, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let ask = |path: &'static str| {
        let send = send.clone();
        async move {
            let request = Request::get(format!("http://test{path}")).body(()).unwrap();
            send.ready().await.unwrap().send_request(request, true).unwrap().0.await.unwrap()
        }
    };
    let mut big = within("the big response", ask("/big")).await.into_body();

    let before = rest(&sent).await;
    assert!(before < ON_THE_WAY, "{before} bytes were taken from the backend");
    assert_eq!(within("another stream", ask("/")).await.status(), 200);

    let mut read = 0;
    within("the body goes on", async {
        while read < before + (4 << 20) {
            let data = big.data().await.unwrap().unwrap();
            read += data.len();
            big.flow_control().release_capacity(data.len()).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_does_not_read_stops_the_client() {
    let gate = Gate::new();
    let backend = Backend::tcp({
        let gate = gate.clone();
        move |mut stream, _| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                let mut sink = vec![0; 1 << 20];
                while stream.read(&mut sink).await.is_ok_and(|n| n > 0) {}
            }
        }
    })
    .await;
    let proxy = Config::to(&backend).start().await;
    let mut stream = tokio::net::TcpStream::connect(proxy.main()).await.unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let upload = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {FAR_TOO_MUCH}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let chunk = [b'x'; 65536];
        while counted.load(SeqCst) < FAR_TOO_MUCH && stream.write_all(&chunk).await.is_ok() {
            counted.fetch_add(chunk.len(), SeqCst);
        }
    });
    gate.arrived().await;

    let before = rest(&sent).await;
    assert!(before < ON_THE_WAY, "{before} bytes were taken from the client");
    gate.open();
    until("the client goes on", || async { sent.load(SeqCst) > before }).await;
    upload.abort();
}

#[tokio::test]
async fn an_http2_backend_that_does_not_read_stops_the_client() {
    let gate = Gate::new();
    let backend = Backend::h2({
        let gate = gate.clone();
        move |request, mut respond, _| {
            let gate = gate.clone();
            async move {
                gate.pass().await;
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                respond.send_response(Response::new(()), true).unwrap();
            }
        }
    })
    .await;
    let config = Config::new().listener("main", &hcm(TO_A, "")).cluster(cluster("a", &backend, H2_UPSTREAM));
    let proxy = config.start().await;
    let mut client = H2::connect(proxy.main()).await;
    let request = Request::post("http://test/").body(()).unwrap();
    let (response, mut body) = client.open(request, false).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    let upload = tokio::spawn(async move {
        let chunk = Bytes::from(vec![b'x'; 65536]);
        while counted.load(SeqCst) < 2 * ON_THE_WAY {
            body.reserve_capacity(chunk.len());
            let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
            body.send_data(chunk.slice(..room.min(chunk.len())), false).unwrap();
            counted.fetch_add(room.min(chunk.len()), SeqCst);
        }
        body.send_data(Bytes::new(), true).unwrap();
    });
    gate.arrived().await;

    let before = rest(&sent).await;
    assert!(before < ON_THE_WAY, "{before} bytes were taken from the client");
    gate.open();
    upload.await.unwrap();
    assert_eq!(within("the response", response).await.unwrap().status(), 200);
}
