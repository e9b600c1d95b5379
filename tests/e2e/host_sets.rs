//! Clusters that change under traffic.

use crate::rig::{Backend, Config, Gate, Inside, TO_A, hcm, ok, until};

const EDS: &str = "{name: a, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}";

fn to_eds() -> Inside {
    Config::new().listener("main", &hcm(TO_A, "")).cluster(format!("{EDS}}}")).start_inside()
}

fn endpoint(backend: &Backend, more: &str) -> String {
    format!("{{endpoint: {{address: {backend}}}{more}}}")
}

/// A backend that answers when the gate says so.
async fn gated(gate: &Gate) -> Backend {
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
async fn a_cluster_has_no_hosts_until_it_is_given_some() {
    let backend = Backend::says("hello").await;
    let proxy = to_eds();
    let mut client = proxy.connect().await;
    let reply = client.get("/").await;
    assert_eq!((reply.status(), reply.text().as_str()), (503, "no healthy upstream"));
    proxy.assign("a", &endpoint(&backend, ""));
    assert_eq!(client.get("/").await.text(), "hello");
    proxy.assign("a", "");
    assert_eq!(client.get("/").await.status(), 503);
}

#[tokio::test]
async fn a_host_that_stays_keeps_its_connections_and_one_that_goes_loses_them() {
    let (stays, goes) = (Backend::says("stays").await, Backend::says("goes").await);
    let proxy = to_eds();
    proxy.assign("a", &format!("{}, {}", endpoint(&stays, ""), endpoint(&goes, "")));
    let mut client = proxy.connect().await;
    until("both have served", || async { stays.open() == 1 && goes.open() == 1 || client_get(&proxy).await }).await;
    proxy.assign(
        "a",
        &endpoint(&stays, ", load_balancing_weight: 3, metadata: {filter_metadata: {istio: {workload: w}}}"),
    );
    until("the idle connection of the host that went is closed", || async { goes.open() == 0 }).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.text(), "stays");
    }
    assert_eq!(stays.accepted(), 1);
}

/// One request that only makes traffic.
async fn client_get(proxy: &Inside) -> bool {
    proxy.connect().await.get("/").await;
    false
}

#[tokio::test]
async fn a_request_to_a_host_that_goes_ends_well_and_its_connection_with_it() {
    let gate = Gate::new();
    let goes = gated(&gate).await;
    let stays = Backend::says("stays").await;
    let proxy = to_eds();
    proxy.assign("a", &endpoint(&goes, ""));
    let mut waiting = proxy.connect().await;
    waiting.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    gate.arrived().await;
    proxy.assign("a", &endpoint(&stays, ""));
    assert_eq!(proxy.connect().await.get("/").await.text(), "stays");
    assert_eq!(goes.open(), 1, "it is busy");
    gate.open();
    assert_eq!(waiting.message().await.text(), "late");
    until("its connection is closed", || async { goes.open() == 0 }).await;
    assert_eq!(waiting.get("/").await.text(), "stays");
}

#[tokio::test]
async fn a_cluster_that_only_balances_otherwise_keeps_its_connections() {
    let backend = Backend::says("hello").await;
    let proxy = to_eds();
    proxy.assign("a", &endpoint(&backend, ""));
    let mut client = proxy.connect().await;
    assert_eq!(client.get("/").await.text(), "hello");
    proxy.replace("a", &format!("{EDS}, lb_policy: RANDOM, circuit_breakers: {{thresholds: [{{max_requests: 0}}]}}}}"));
    assert_eq!(client.get("/").await.status(), 503, "limits change at once");
    proxy.replace("a", &format!("{EDS}, lb_policy: RANDOM}}"));
    assert_eq!(client.get("/").await.text(), "hello");
    assert_eq!(backend.accepted(), 1);
    proxy.replace("a", &format!("{EDS}, lb_policy: RANDOM, connect_timeout: 1s}}"));
    until("the old connection is closed", || async { backend.open() == 0 }).await;
    proxy.assign("a", &endpoint(&backend, ""));
    assert_eq!(client.get("/").await.text(), "hello");
    assert_eq!(backend.accepted(), 2);
}

#[tokio::test]
async fn a_cluster_that_is_removed_ends_its_requests_well_and_takes_its_stats_along() {
    let gate = Gate::new();
    let backend = gated(&gate).await;
    let proxy = to_eds();
    proxy.assign("a", &endpoint(&backend, ""));
    let mut waiting = proxy.connect().await;
    waiting.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    gate.arrived().await;
    proxy.remove("a");
    assert_eq!(proxy.connect().await.get("/").await.status(), 503);
    gate.open();
    assert_eq!(waiting.message().await.text(), "late");
    until("nothing is left of it", || async {
        backend.open() == 0 && proxy.stat("cluster.a.upstream_rq_total").is_none()
    })
    .await;
}

#[tokio::test]
async fn a_name_is_looked_up() {
    let backend = Backend::says("hello").await;
    for kind in ["STRICT_DNS", "LOGICAL_DNS"] {
        let port = backend.addr.unwrap().port();
        let cluster = format!(
            "{{name: a, type: {kind}, dns_lookup_family: V4_ONLY, load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: \
             [{{endpoint: {{address: {{socket_address: {{address: localhost, port_value: {port}}}}}}}}}]}}]}}}}"
        );
        let proxy = Config::new().listener("main", &hcm(TO_A, "")).cluster(cluster).start().await;
        proxy.until_stat("cluster.a.membership_healthy", 1).await;
        assert_eq!(proxy.get("/").await.text(), "hello");
        assert!(proxy.admin("/clusters").await.text().contains("::hostname::localhost"));
    }
}
