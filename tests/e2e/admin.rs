//! What pilot-agent and istioctl ask the admin port.

use std::net::SocketAddr;

use serde_json::Value;

use crate::rig::{Backend, Config, Proxy, TO_A, Wire, cluster, hcm, socket};

async fn one() -> (Backend, Proxy) {
    let backend = Backend::says("hello").await;
    let proxy = Config::to(&backend).more("node: {id: me, cluster: us}").start().await;
    (backend, proxy)
}

#[tokio::test]
async fn readiness_reads_the_state_and_the_workers() {
    let (_backend, proxy) = one().await;
    let text = proxy.admin("/stats?usedonly&filter=^(server\\.state|listener_manager\\.workers_started)").await.text();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["listener_manager.workers_started: 1", "server.state: 0"]);
    let reply = proxy.admin("/ready").await;
    assert_eq!((reply.status(), reply.text().as_str()), (200, "LIVE\n"));
}

/// Without xDS nothing was ever updated, and the agent would wait.
#[tokio::test]
async fn readiness_finds_no_updates_in_a_static_configuration() {
    let (_backend, proxy) = one().await;
    let path =
        "/stats?usedonly&filter=^(cluster_manager\\.cds|listener_manager\\.lds)\\.(update_success|update_rejected)$";
    assert_eq!(proxy.admin(path).await.text().trim(), "");
}

#[tokio::test]
async fn the_end_of_a_pod_reads_the_connections_that_are_left() {
    let (_backend, proxy) = one().await;
    let mut clients = vec![proxy.connect().await, proxy.connect().await];
    for client in &mut clients {
        client.get("/").await;
    }
    let name = format!("listener.127.0.0.1_{}.downstream_cx_active", proxy.main().port());
    let text = proxy.admin("/stats?usedonly&filter=downstream_cx_active$").await.text();
    assert!(text.lines().any(|l| l == format!("{name}: 2")), "{text}");
    drop(clients);
    proxy.until_stat(&name, 0).await;
}

/// Istio's listener 15090: the admin port behind a route.
#[tokio::test]
async fn prometheus_is_scraped_through_a_listener() {
    let mut config = Config::new();
    // The admin port is bound without SO_REUSEPORT: at an address of its own.
    let admin = SocketAddr::new([127, 200, 0, 1].into(), config.port("admin_number").port());
    let routes = "[{match: {prefix: /stats/prometheus}, route: {cluster: prometheus_stats}}]";
    let fixed = format!("admin: {{address: {}}}", socket(admin));
    let backend = Backend::says("hello").await;
    let config = config.listener("main", &hcm(TO_A, "")).listener("metrics", &hcm(routes, ""));
    let config = config.cluster(cluster("a", &backend, "")).cluster(cluster("prometheus_stats", socket(admin), ""));
    let proxy = config.args(&["--config-yaml", &fixed]).start().await;
    assert_eq!(proxy.get("/").await.status(), 200);
    let reply = Wire::connect(proxy.addr("metrics")).await.get("/stats/prometheus").await;
    assert!(reply.header("content-type").starts_with("text/plain"), "{:?}", reply.headers);
    let text = reply.text();
    assert!(text.contains("# TYPE envoy_cluster_upstream_rq_total counter\n"), "{text}");
    let line = "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"a\"} 1";
    assert!(text.lines().any(|l| l == line), "{text}");
}

#[tokio::test]
async fn istioctl_reads_the_configuration() {
    let (backend, proxy) = one().await;
    let json = |text: String| serde_json::from_str::<Value>(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let dump = json(proxy.admin("/config_dump").await.text());
    let types: Vec<&str> = dump["configs"].as_array().unwrap().iter().map(|c| c["@type"].as_str().unwrap()).collect();
    for part in ["BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump"] {
        assert!(types.contains(&format!("type.googleapis.com/envoy.admin.v3.{part}").as_str()), "{types:?}");
    }
    let bootstrap = &dump["configs"][0]["bootstrap"];
    assert_eq!(bootstrap["node"]["id"], "me");
    let clusters = json(proxy.admin("/clusters?format=json").await.text());
    let a = clusters["cluster_statuses"].as_array().unwrap().iter().find(|c| c["name"] == "a").unwrap();
    assert_eq!(a["host_statuses"][0]["address"]["socket_address"]["port_value"], backend.addr.unwrap().port());
    let listeners = proxy.admin("/listeners").await.text();
    assert_eq!(listeners, format!("main::{}\n", proxy.main()));
    let info = json(proxy.admin("/server_info").await.text());
    assert_eq!((&info["state"], &info["node"]["id"]), (&Value::from("LIVE"), &Value::from("me")));
    assert_eq!(info["command_line_options"]["concurrency"], 1);
    for path in ["/certs", "/memory", "/runtime"] {
        json(proxy.admin(path).await.text());
    }
}

#[tokio::test]
async fn log_levels_change_while_it_runs() {
    let (_backend, proxy) = one().await;
    let text = proxy.post("/logging?level=debug").await.text();
    assert!(text.lines().skip(1).filter(|l| !l.is_empty()).all(|l| l.ends_with(": debug")), "{text}");
    let text = proxy.post("/logging?main=error").await.text();
    assert!(text.lines().any(|l| l.trim() == "main: error"), "{text}");
    assert_eq!(proxy.post("/logging?level=loudest").await.status(), 400);
}

#[tokio::test]
async fn what_changes_something_wants_post() {
    let (_backend, mut proxy) = one().await;
    for path in ["/quitquitquit", "/drain_listeners", "/healthcheck/fail", "/reset_counters"] {
        assert_eq!(proxy.admin(path).await.status(), 405, "{path}");
    }
    assert!(proxy.is_running());
    assert_eq!(proxy.get("/").await.status(), 200);
    assert_eq!(proxy.admin("/nothing").await.status(), 404);
}

#[tokio::test]
async fn counters_are_reset() {
    let (_backend, proxy) = one().await;
    proxy.get("/").await;
    assert_eq!(proxy.stat("cluster.a.upstream_rq_total").await, 1);
    assert_eq!(proxy.post("/reset_counters").await.text(), "OK\n");
    assert_eq!(proxy.stat("cluster.a.upstream_rq_total").await, 0);
}
