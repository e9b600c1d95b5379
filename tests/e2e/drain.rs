//! The end of the process, and the way there.

use std::time::{Duration, Instant};

use crate::rig::frames::{ANY_STREAM, END_STREAM, PING};
use crate::rig::{Backend, Config, Frames, Gate, H2, TO_A, Wire, cluster, hcm, ok, read_all, until, within};

/// The drain time is far longer than the test, so that what ends ends by itself.
const DRAIN: [&str; 4] = ["--drain-time-s", "600", "--drain-strategy", "immediate"];

/// Answers when the gate opens.
async fn held(gate: &Gate) -> Backend {
    let gate = gate.clone();
    Backend::wire(move |mut wire, _| {
        let gate = gate.clone();
        async move {
            while wire.try_message().await.is_ok() {
                gate.pass().await;
                wire.send(ok("late")).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn sigterm_lets_a_request_in_flight_finish_and_closes_its_connection() {
    let gate = Gate::new();
    let mut proxy = Config::to(&held(&gate).await).args(&DRAIN).start().await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    gate.arrived().await;

    proxy.signal("TERM");
    until("the listener is closed", || proxy.refuses()).await;
    assert_eq!(proxy.admin("/ready").await.text(), "DRAINING\n");
    gate.open();

    let reply = client.message().await;
    assert_eq!((reply.status(), reply.text().as_str(), reply.header("connection")), (200, "late", "close"));
    assert!(client.closed().await.is_empty());
    proxy.ended_well().await;
}

#[tokio::test]
async fn sigterm_says_goaway_and_lets_streams_finish() {
    let gate = Gate::new();
    let mut proxy = Config::to(&held(&gate).await).args(&DRAIN).start().await;
    let mut client = H2::connect(proxy.main()).await;
    let response = client.ask("/").await;
    gate.arrived().await;

    proxy.signal("TERM");
    until("the listener is closed", || proxy.refuses()).await;
    gate.open();

    let body = within("the response", response).await.unwrap().into_body();
    assert_eq!(read_all(body).await.unwrap(), b"late");
    client.ended().await.expect("GOAWAY without an error");
    proxy.ended_well().await;
}

#[tokio::test]
async fn sigterm_ends_idle_connections_at_once() {
    let mut proxy = Config::to(&Backend::says("hello").await).args(&DRAIN).start().await;
    let (mut h1, mut h2) = (proxy.connect().await, H2::connect(proxy.main()).await);
    assert_eq!(h1.get("/").await.text(), "hello");
    assert_eq!(h2.get("/").await.body(), b"hello");

    proxy.signal("TERM");

    h2.ended().await.expect("GOAWAY without an error");
    assert!(h1.closed().await.is_empty());
    proxy.ended_well().await;
}

/// A connection manager that names the last stream soon, with `more` of its fields.
fn soon(backend: &Backend, more: &str) -> Config {
    let more = format!("drain_timeout: 0.3s{more}");
    Config::new().listener("main", &hcm(TO_A, &more)).cluster(cluster("a", backend, "")).args(&DRAIN)
}

/// Answers a request on a new stream.
async fn served(client: &mut Frames, stream: u32) {
    client.ask(stream, "/").await;
    let frame = client.next().await.unwrap();
    assert!(frame.is_ok() && frame.stream == stream, "{frame:?}");
    while client.next().await.unwrap().flags & END_STREAM == 0 {}
}

#[tokio::test]
async fn requests_that_were_ready_when_the_goodbye_came_are_served() {
    let mut proxy = soon(&Backend::says("hello").await, "").start().await;
    let mut client = Frames::connect(proxy.main()).await;
    served(&mut client, 1).await;

    proxy.signal("TERM");
    assert_eq!(client.next().await.unwrap().goodbye(), Some((ANY_STREAM, 0)));
    let begun = Instant::now();
    // The answer to whatever the proxy asks has come when these do.
    client.send(PING, 0, 0, b"bandwide").await;
    assert_eq!(client.next().await.unwrap().payload, b"bandwide");
    for n in 1..=100 {
        client.ask(1 + 2 * n, "/").await;
    }
    let mut answered = 0;
    let last = loop {
        let frame = client.next().await.expect("the last stream is named");
        answered += usize::from(frame.is_ok());
        if let Some(goodbye) = frame.goodbye() {
            break goodbye;
        }
    };
    assert_eq!((answered, last), (100, (201, 0)));
    assert!(begun.elapsed() >= Duration::from_millis(280), "{:?}", begun.elapsed());
    assert_eq!(client.next().await, None);
    drop(client);
    proxy.ended_well().await;
}

#[tokio::test]
async fn a_stream_that_is_open_at_the_last_goodbye_finishes_and_later_ones_are_not_looked_at() {
    let gate = Gate::new();
    let keepalive = ", http2_protocol_options: {connection_keepalive: {interval: 0.02s, timeout: 0.1s}}";
    let mut proxy = soon(&held(&gate).await, keepalive).start().await;
    let mut client = Frames::connect(proxy.main()).await;
    client.ask(1, "/").await;
    gate.arrived().await;

    proxy.signal("TERM");
    assert_eq!(client.next().await.unwrap().goodbye(), Some((ANY_STREAM, 0)));
    assert_eq!(client.next().await.unwrap().goodbye(), Some((1, 0)));
    client.ask(3, "/").await;
    gate.open();
    let frame = client.next().await.unwrap();
    assert!(frame.is_ok() && frame.stream == 1, "{frame:?}");
    assert_eq!(client.next().await.unwrap().payload, b"late");
    while let Some(frame) = client.next().await {
        assert_eq!((frame.stream, frame.payload.len()), (1, 0), "{frame:?}");
    }
    // What a client still has to say is not answered with a reset, which would destroy what it has not read yet.
    for _ in 0..5 {
        client.try_send(PING, 0, 0, b"bandwide").await.expect("the proxy waits for the client's end");
    }
    drop(client);
    proxy.ended_well().await;
}

#[tokio::test]
async fn a_client_that_answers_nothing_hears_the_last_goodbye_too() {
    let more = ", common_http_protocol_options: {max_requests_per_connection: 2}";
    let proxy = soon(&Backend::says("hello").await, more).start().await;
    let mut client = Frames::connect(proxy.main()).await;
    client.silent = true;
    served(&mut client, 1).await;
    client.ask(3, "/").await;
    let mut frames = Vec::new();
    while let Some(frame) = client.next().await {
        // Envoy asks nothing.
        assert_ne!(frame.kind, PING);
        frames.push(frame);
    }
    let goodbyes: Vec<_> = frames.iter().filter_map(|f| f.goodbye()).collect();
    assert_eq!(goodbyes, [(ANY_STREAM, 0), (3, 0)]);
    assert!(frames.iter().any(|f| f.is_ok() && f.stream == 3));
    assert_eq!(proxy.stat("http.http.downstream_cx_max_requests_reached").await, 1);
}

#[tokio::test]
async fn sigterm_says_goaway_on_idle_connections_whatever_the_strategy() {
    let config = Config::to(&Backend::says("hello").await).args(&["--drain-time-s", "600"]);
    let mut proxy = config.start().await;
    let mut client = Frames::connect(proxy.main()).await;
    served(&mut client, 1).await;

    proxy.signal("TERM");

    assert_eq!(client.next().await.unwrap().goodbye(), Some((ANY_STREAM, 0)));
    drop(client);
    proxy.ended_well().await;
}

#[tokio::test]
async fn a_second_sigterm_ends_at_once() {
    let gate = Gate::new();
    let mut proxy = Config::to(&held(&gate).await).args(&DRAIN).start().await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    gate.arrived().await;

    proxy.signal("TERM");
    until("the listener is closed", || proxy.refuses()).await;
    assert!(proxy.is_running(), "a request is in flight");
    proxy.signal("TERM");

    proxy.ended_well().await;
    assert!(client.closed().await.is_empty());
}

#[tokio::test]
async fn the_drain_time_bounds_the_wait() {
    let gate = Gate::new();
    let mut proxy = Config::to(&held(&gate).await).args(&["--drain-time-s", "1"]).start().await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    gate.arrived().await;

    proxy.signal("TERM");

    proxy.ended_well().await;
    assert!(client.closed().await.is_empty());
}

#[tokio::test]
async fn quitquitquit_ends_the_process() {
    let mut proxy = Config::to(&Backend::says("hello").await).start().await;
    let mut client = proxy.connect().await;
    assert_eq!(client.get("/").await.status(), 200);

    assert_eq!(proxy.post("/quitquitquit").await.text(), "OK\n");

    proxy.ended_well().await;
    assert!(client.closed().await.is_empty());
}

#[tokio::test]
async fn drain_listeners_closes_the_listeners_and_not_the_process() {
    let mut proxy = Config::to(&Backend::says("hello").await).start().await;
    let mut client = proxy.connect().await;
    assert_eq!(client.get("/").await.header("connection"), "");

    assert_eq!(proxy.post("/drain_listeners").await.status(), 200);

    until("the listener is closed", || proxy.refuses()).await;
    assert!(proxy.is_running());
    assert_eq!(proxy.admin("/ready").await.status(), 200);
}

/// What pilot-agent asks for at the end of a pod.
#[tokio::test]
async fn a_graceful_drain_closes_connections_response_by_response_and_accepts_new_ones() {
    for path in ["/drain_listeners?graceful", "/drain_listeners?graceful&skip_exit"] {
        let backend = Backend::says("hello").await;
        let mut proxy = Config::to(&backend).args(&DRAIN).start().await;
        assert_eq!(proxy.get("/").await.header("connection"), "");

        assert_eq!(proxy.post(path).await.status(), 200);

        let mut late = Wire::connect(proxy.main()).await;
        let reply = late.get("/").await;
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("hello", "close"), "{path}");
        assert!(late.closed().await.is_empty());
        assert!(proxy.is_running());
    }
}

#[tokio::test]
async fn failing_health_checks_says_draining_and_closes_connections_until_they_pass_again() {
    let proxy = Config::to(&Backend::says("hello").await).start().await;

    assert_eq!(proxy.post("/healthcheck/fail").await.text(), "OK\n");
    let ready = proxy.admin("/ready").await;
    assert_eq!((ready.status(), ready.text().as_str()), (503, "DRAINING\n"));
    assert_eq!(proxy.get("/").await.header("connection"), "close");

    assert_eq!(proxy.post("/healthcheck/ok").await.text(), "OK\n");
    assert_eq!(proxy.admin("/ready").await.text(), "LIVE\n");
    assert_eq!(proxy.get("/").await.header("connection"), "");
}

#[tokio::test]
async fn a_tunnel_outlives_the_closing_of_its_listener() {
    let backend = Backend::echo().await;
    let connect = "[{match: {connect_matcher: {}}, route: {cluster: a, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}}]";
    let config = Config::new().listener("main", &hcm(connect, "upgrade_configs: [{upgrade_type: CONNECT}]"));
    let mut proxy = config.cluster(cluster("a", &backend, "")).args(&DRAIN).start().await;
    let mut client = proxy.connect().await;
    client.send("CONNECT dest:80 HTTP/1.1\r\nhost: dest:80\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);

    proxy.signal("TERM");
    until("the listener is closed", || proxy.refuses()).await;
    client.send("still here").await;
    client.expect("still here").await;
    drop(client);

    proxy.ended_well().await;
}
