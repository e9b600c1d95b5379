//! Listeners that change while they are used. Nothing pushes them here: the test itself is the control thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use waypost::cluster;
use waypost::config::{Context, Process};
use waypost::lifecycle::{Drain, DrainStrategy};
use waypost::listener::manager::{ListenerManager, Prepared};
use waypost::observe::access_log::AccessLogFiles;
use waypost::tls::SecretStore;
use waypost::worker::{self, Command, Shared};
use waypost_xds::envoy::config::listener::v3::Listener;
use waypost_xds::{json, yaml};

use crate::rig::{
    Backend, Dir, Gate, H2, Wire, cluster as static_cluster, hcm, log_to, ok, socket, tcp_proxy, until, within,
};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// So long that nothing is closed before the test ends.
const LONG: Duration = Duration::from_secs(600);

/// So short that nobody waits for it.
const SHORT: Duration = Duration::from_millis(300);

struct Server {
    shared: Arc<Shared>,
    logs: AccessLogFiles,
    secrets: Arc<SecretStore>,
    manager: ListenerManager,
}

impl Server {
    fn start(drain_time: Duration, workers: usize) -> Server {
        let shared = Arc::new(Shared {
            clusters: Default::default(),
            listeners: Default::default(),
            stats: Default::default(),
            drain: Drain::new(DrainStrategy::Immediate, drain_time),
            workers: OnceLock::new(),
            overload: Default::default(),
        });
        worker::start(&shared, workers).unwrap();
        let logs = AccessLogFiles::new(Duration::from_secs(1));
        Server { manager: ListenerManager::new(shared.clone()), shared, logs, secrets: SecretStore::new() }
    }

    fn cluster(self, yaml: &str) -> Server {
        let proto = json::from_value(&yaml::parse(yaml).unwrap(), &json::Options::reject_unknown()).unwrap();
        let process = Process::default();
        let (stats, clusters) = (&self.shared.stats, &self.shared.clusters);
        let cx = Context {
            stats,
            clusters,
            logs: &self.logs,
            secrets: &self.secrets,
            routes: &Default::default(),
            extensions: &Default::default(),
            process: &process,
        };
        let cluster = cluster::compile::compile(proto, &cx, "cluster").unwrap();
        clusters.slot(&cluster.names.name).set(Some(cluster));
        self
    }

    fn prepare(&mut self, proto: Listener) -> Result<Prepared, String> {
        let process = Process::default();
        let (stats, clusters) = (&self.shared.stats, &self.shared.clusters);
        let cx = Context {
            stats,
            clusters,
            logs: &self.logs,
            secrets: &self.secrets,
            routes: &Default::default(),
            extensions: &Default::default(),
            process: &process,
        };
        self.manager.prepare(proto, &cx, "listener").map_err(|e| e.to_string())
    }

    /// Applies an update at once; what was refused, or what became of it.
    fn try_apply(&mut self, yaml: &str) -> Result<&'static str, String> {
        match self.prepare(listener(yaml))? {
            Prepared::Unchanged => Ok("unchanged"),
            Prepared::Restored => Ok("restored"),
            Prepared::Ignored => Ok("ignored"),
            Prepared::Ready(pending) => {
                let in_place = pending.is_in_place();
                assert!(self.manager.activate(*pending).map_err(|e| e.to_string())?);
                Ok(if in_place { "in place" } else { "whole" })
            }
        }
    }

    fn apply(&mut self, yaml: &str) -> &'static str {
        self.try_apply(yaml).unwrap()
    }

    fn stat(&self, name: &str) -> u64 {
        let name = format!("listener_manager.{name}");
        self.shared.stats.find(&name).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for worker in self.shared.workers.get().unwrap() {
            let _ = worker.sender.send(Command::Stop);
        }
    }
}

fn listener(yaml: &str) -> Listener {
    json::from_value(&yaml::parse(yaml).unwrap(), &json::Options::reject_unknown()).unwrap()
}

/// An address that is this test's.
fn address() -> std::net::SocketAddr {
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    held.set_reuse_port(true).unwrap();
    held.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = held.local_addr().unwrap().as_socket().unwrap();
    // Bound until the process ends, so that the kernel gives it to nobody else.
    std::mem::forget(held);
    address
}

/// HTTP that answers with a text.
fn says(text: &str) -> String {
    let routes =
        format!("[{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {text}}}}}}}]");
    hcm(&routes, "")
}

/// A filter chain for clients of one address of loopback.
fn chain(client: u8, filter: &str) -> String {
    format!(
        "{{name: c{client}, filter_chain_match: {{source_prefix_ranges: [{{address_prefix: 127.0.0.{client}, prefix_len: 32}}]}}, filters: [{filter}]}}"
    )
}

fn main_listener(at: std::net::SocketAddr, chains: &[String], more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!("{{name: main, address: {}, filter_chains: [{}]{more}}}", socket(at), chains.join(", "))
}

/// A client with an address of loopback of its own.
async fn client_stream(client: u8, to: std::net::SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(std::net::SocketAddr::from(([127, 0, 0, client], 0)))?;
    socket.connect(to).await
}

async fn client(client: u8, to: std::net::SocketAddr) -> Wire {
    Wire::new(client_stream(client, to).await.unwrap())
}

async fn refuses(to: std::net::SocketAddr) -> bool {
    Wire::try_connect(to).await.is_err()
}

#[tokio::test]
async fn a_connection_on_a_chain_that_stays_notices_nothing() {
    let (mut server, at) = (Server::start(LONG, 2), address());
    assert_eq!(server.apply(&main_listener(at, &[chain(1, &says("a")), chain(2, &says("b"))], "")), "whole");
    let (mut stays, mut goes) = (client(1, at).await, client(2, at).await);
    let mut multiplexed = H2::over(client_stream(2, at).await.unwrap()).await;
    assert_eq!((stays.get("/").await.text(), goes.get("/").await.text()), ("a".into(), "b".into()));
    assert_eq!(multiplexed.get("/").await.body(), b"b");

    let update = main_listener(at, &[chain(1, &says("a")), chain(2, &says("new"))], "");
    assert_eq!(server.apply(&update), "in place");
    assert_eq!(server.apply(&update), "unchanged");

    assert_eq!((server.stat("listener_in_place_updated"), server.stat("total_filter_chains_draining")), (1, 1));
    assert_eq!(client(2, at).await.get("/").await.text(), "new");
    for _ in 0..3 {
        let reply = stays.get("/").await;
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("a", ""));
    }
    // What is on the old chain is answered by it once more, and told to go.
    let reply = goes.get("/").await;
    assert_eq!((reply.text().as_str(), reply.header("connection")), ("b", "close"));
    assert!(goes.closed().await.is_empty());
    assert_eq!(multiplexed.get("/").await.body(), b"b");
    multiplexed.ended().await.expect("GOAWAY without an error");
}

#[tokio::test]
async fn a_changed_chain_is_closed_when_the_drain_time_is_over() {
    let backend = Backend::echo().await;
    let (gate, at) = (Gate::new(), address());
    let held = {
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
    };
    let mut server = Server::start(SHORT, 2);
    server = server.cluster(&static_cluster("a", &backend, "")).cluster(&static_cluster("held", &held, ""));
    let dir = Dir::new();
    let format = |text: &str| format!("log_format: {{text_format_source: {{inline_string: \"{text}\\n\"}}}}");
    let log = log_to(&dir.join("log"), &format("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%"));
    let tcp_log = log_to(&dir.join("tcp"), &format("%BYTES_RECEIVED% %BYTES_SENT% %RESPONSE_FLAGS%"));
    let to_held = hcm(
        "[{match: {prefix: /held}, route: {cluster: held}}, {match: {prefix: /}, direct_response: {status: 200}}]",
        &log,
    );
    let chains = |name: &str| {
        let tcp = tcp_proxy(&format!("cluster: a, {tcp_log}")).replace("name: tcp", &format!("name: {name}"));
        [
            chain(1, &says("a")),
            chain(2, &tcp),
            chain(3, &to_held.replace("stat_prefix: http", &format!("stat_prefix: {name}"))),
        ]
    };
    server.apply(&main_listener(at, &chains("old"), ""));
    let (mut stays, mut tcp) = (client(1, at).await, client(2, at).await);
    let (mut idle, mut busy, mut h2) =
        (client(3, at).await, client(3, at).await, H2::over(client_stream(3, at).await.unwrap()).await);
    tcp.send("before").await;
    tcp.expect("before").await;
    assert_eq!((stays.get("/").await.status(), idle.get("/").await.status()), (200, 200));
    assert_eq!(h2.get("/").await.status(), 200);
    busy.send("GET /held HTTP/1.1\r\nhost: test\r\n\r\n").await;
    gate.arrived().await;

    assert_eq!(server.apply(&main_listener(at, &chains("new"), "")), "in place");
    assert_eq!(server.stat("total_filter_chains_draining"), 2);
    tcp.send("after").await;
    tcp.expect("after").await;

    assert!(tcp.closed().await.is_empty() && idle.closed().await.is_empty() && busy.closed().await.is_empty());
    until("HTTP/2 is closed", || {
        let ended = h2.has_ended();
        async move { ended }
    })
    .await;
    until("it is over", || {
        let draining = server.stat("total_filter_chains_draining");
        async move { draining == 0 }
    })
    .await;
    assert_eq!(stays.get("/").await.header("connection"), "");
    // In Envoy's words.
    until("what was cut off is logged", || async {
        server.logs.flush();
        let read = |name| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        read("log").contains("0 DC downstream_local_disconnect(filter_chain_is_being_removed)\n")
            && read("tcp").contains("11 11 -\n")
    })
    .await;
}

#[tokio::test]
async fn a_listener_that_changes_otherwise_keeps_its_sockets_and_drains_its_connections() {
    let (mut server, at) = (Server::start(SHORT, 2), address());
    let of = |more: &str| main_listener(at, &[chain(1, &says("a"))], more);
    server.apply(&of(""));
    let (mut old, mut idle) = (client(1, at).await, client(1, at).await);
    assert_eq!((old.get("/").await.status(), idle.get("/").await.status()), (200, 200));

    assert_eq!(server.apply(&of("continue_on_listener_filters_timeout: true")), "whole");

    assert_eq!((server.stat("total_listeners_draining"), server.stat("listener_modified")), (1, 1));
    assert_eq!(old.get("/").await.header("connection"), "close");
    let mut new = client(1, at).await;
    assert_eq!(new.get("/").await.header("connection"), "");
    assert!(idle.closed().await.is_empty());
    assert_eq!(new.get("/").await.status(), 200);
}

#[tokio::test]
async fn addresses_come_and_go() {
    let (mut server, first, second) = (Server::start(LONG, 2), address(), address());
    let chains = [chain(1, &says("a"))];
    let both = format!("additional_addresses: [{{address: {}}}]", socket(second));
    server.apply(&main_listener(first, &chains, &both));
    assert_eq!(client(1, second).await.get("/").await.text(), "a");

    server.apply(&main_listener(second, &chains, ""));

    until("the first address is closed", || refuses(first)).await;
    assert_eq!(client(1, second).await.get("/").await.text(), "a");
}

#[tokio::test]
async fn a_removed_listener_closes_its_sockets_and_drains() {
    let (mut server, at) = (Server::start(SHORT, 2), address());
    let update = main_listener(at, &[chain(1, &says("a"))], "");
    server.apply(&update);
    let (mut asks, mut idle) = (client(1, at).await, client(1, at).await);
    assert_eq!((asks.get("/").await.status(), idle.get("/").await.status()), (200, 200));

    assert!(server.manager.remove("main") && !server.manager.remove("main"));

    assert!(server.shared.listeners.load().all.is_empty());
    assert_eq!((server.stat("listener_removed"), server.stat("total_listeners_draining")), (1, 1));
    assert_eq!(asks.get("/").await.header("connection"), "close");
    until("the socket is closed", || refuses(at)).await;
    assert!(idle.closed().await.is_empty());
    server.apply(&update);
    assert_eq!(client(1, at).await.get("/").await.text(), "a");
}

#[tokio::test]
async fn what_cannot_be_had_leaves_the_old_listener() {
    let (mut server, at) = (Server::start(LONG, 2), address());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|a| (a, taken)).unwrap();
    let chains = [chain(1, &says("a"))];
    server.apply(&main_listener(at, &chains, ""));
    let mut old = client(1, at).await;

    let text = |error: Result<&'static str, String>| error.unwrap_err();
    assert_eq!(
        text(server.try_apply(&main_listener(taken.0, &chains, ""))),
        format!("cannot bind '{}': Address already in use", taken.0)
    );
    assert_eq!(
        text(server.try_apply(&main_listener(at, &chains, "enable_reuse_port: false"))),
        "Listener main: reuse port cannot be changed during an update"
    );
    assert_eq!(
        text(server.try_apply(&main_listener(at, &chains, "").replace("name: main", "name: other"))),
        format!(
            "error adding listener: 'other' has duplicate address '{at}' as existing listener, to check if the listener has duplicated \
             addresses with other listeners or 'enable_reuse_port' is set to 'false' for the listener"
        )
    );
    let unsupported = chain(1, &says("a")).replace("{name: c1", "{use_proxy_proto: true, name: c1");
    assert_eq!(
        text(server.try_apply(&main_listener(at, &[unsupported], ""))),
        "listener.filter_chains[0].use_proxy_proto: not supported yet"
    );

    assert_eq!((server.stat("listener_create_failure"), server.stat("listener_modified")), (1, 0));
    assert_eq!(old.get("/").await.header("connection"), "");
    assert_eq!(client(1, at).await.get("/").await.text(), "a");
}

#[tokio::test]
async fn only_the_latest_update_becomes_active() {
    let (mut server, at) = (Server::start(LONG, 1), address());
    let of = |text: &str| main_listener(at, &[chain(1, &says(text))], "");
    let pending = |prepared: Result<Prepared, String>| match prepared {
        Ok(Prepared::Ready(pending)) => *pending,
        _ => panic!("expected something to activate"),
    };
    server.apply(&of("one"));
    let two = pending(server.prepare(listener(&of("two"))));
    assert!(matches!(server.prepare(listener(&of("two"))), Ok(Prepared::Unchanged)));
    let three = pending(server.prepare(listener(&of("three"))));
    assert!(!server.manager.activate(two).unwrap());
    assert_eq!(client(1, at).await.get("/").await.text(), "one");
    assert!(server.manager.activate(three).unwrap());
    assert_eq!(client(1, at).await.get("/").await.text(), "three");

    let four = pending(server.prepare(listener(&of("four"))));
    assert!(matches!(server.prepare(listener(&of("three"))), Ok(Prepared::Restored)));
    assert!(!server.manager.activate(four).unwrap());
    let five = pending(server.prepare(listener(&of("five"))));
    server.manager.abandon(five);
    let five = pending(server.prepare(listener(&of("five"))));
    assert!(server.manager.remove("main"));
    assert!(!server.manager.activate(five).unwrap());
}

#[tokio::test]
async fn a_hundred_updates_lose_no_request() {
    let (mut server, at) = (Server::start(SHORT, 2), address());
    let of = |n: usize| {
        // Every tenth changes more than a filter chain.
        let more = if n / 10 % 2 == 1 { "continue_on_listener_filters_timeout: true" } else { "" };
        main_listener(at, &[chain(1, &says("a")), chain(2, &says(&format!("n{n}")))], more)
    };
    server.apply(&of(0));
    let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let crowd: Vec<_> = (0..8u8)
        .map(|i| {
            let (stop, done) = (stop.clone(), done.clone());
            tokio::spawn(async move {
                while !stop.load(SeqCst) {
                    let mut wire = client(1 + i % 2, at).await;
                    for _ in 0..3 {
                        let reply = wire.get("/").await;
                        assert_eq!(reply.status(), 200);
                        done.fetch_add(1, SeqCst);
                        if reply.header("connection") == "close" {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for n in 1..=100 {
        let before = done.load(SeqCst);
        assert_eq!(server.apply(&of(n)), if n % 10 == 0 { "whole" } else { "in place" });
        until("somebody is served", || async { done.load(SeqCst) > before }).await;
    }
    stop.store(true, SeqCst);
    for client in crowd {
        client.await.unwrap();
    }
    let mut last = client(2, at).await;
    assert_eq!(last.get("/").await.text(), "n100");
    let active = server.shared.listeners.load();
    assert_eq!((active.all.len(), active.sockets.len()), (1, 1));
}

#[tokio::test]
async fn a_stream_within_an_internal_listener_goes_with_its_filter_chain() {
    let (mut server, at) = (Server::start(SHORT, 2), address());
    let inside = "{name: in, connect_timeout: 1s, type: STATIC, load_assignment: {cluster_name: in, endpoints: [{lb_endpoints: [{endpoint: \
                  {address: {envoy_internal_address: {server_listener_name: inner}}}}]}]}}";
    server = server.cluster(inside);
    let connect = "[{match: {connect_matcher: {}}, route: {cluster: in, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}}]";
    let outer =
        hcm(connect, "upgrade_configs: [{upgrade_type: CONNECT}], http2_protocol_options: {allow_connect: true}");
    server.apply(&main_listener(at, &[chain(1, &outer)], ""));
    let inner = |name: &str| {
        let echo = format!("{{name: {name}, typed_config: {{\"@type\": {TYPES}.filters.network.echo.v3.Echo}}}}");
        format!("{{name: inner, internal_listener: {{}}, filter_chains: [{{name: only, filters: [{echo}]}}]}}")
    };
    server.apply(&inner("one"));
    let mut h2 = H2::over(client_stream(1, at).await.unwrap()).await;
    let (response, mut send) = h2.tunnel("10.0.0.1:80").await;
    let mut body = response.into_body();
    send.send_data("before".into(), false).unwrap();
    assert_eq!(&within("an echo", body.data()).await.unwrap().unwrap()[..], b"before");

    assert_eq!(server.apply(&inner("two")), "in place");

    send.send_data("after".into(), false).unwrap();
    assert_eq!(&within("an echo", body.data()).await.unwrap().unwrap()[..], b"after");
    let ended = within("the end of the stream", body.data()).await;
    assert!(!matches!(ended, Some(Ok(data)) if !data.is_empty()));
    // The connection that carried it is on another chain.
    let (response, _send) = h2.tunnel("10.0.0.1:80").await;
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_drain_of_inbound_listeners_spares_the_others() {
    let (mut server, inbound, other) = (Server::start(LONG, 2), address(), address());
    let chains = [chain(1, &says("a"))];
    server.apply(&main_listener(inbound, &chains, "traffic_direction: INBOUND"));
    server.apply(&main_listener(other, &chains, "").replace("name: main", "name: other"));
    let control = waypost::lifecycle::Control::new(server.shared.clone());
    let (mut goes, mut stays) = (client(1, inbound).await, client(1, other).await);
    assert_eq!((goes.get("/").await.status(), stays.get("/").await.status()), (200, 200));

    control.drain_listeners(false, false, true);

    until("the inbound listener is closed", || refuses(inbound)).await;
    assert_eq!((goes.get("/").await.header("connection"), stays.get("/").await.header("connection")), ("close", ""));
    assert_eq!(client(1, other).await.get("/").await.text(), "a");
    assert_eq!(server.stat("listener_stopped"), 1);
    let more =
        main_listener(inbound, &chains, "traffic_direction: INBOUND, continue_on_listener_filters_timeout: true");
    assert_eq!(server.apply(&more), "ignored");
}
