//! Configuration that comes over ADS.

use waypost_xds::envoy::config::cluster::v3::Cluster;
use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypost_xds::envoy::config::listener::v3::Listener;
use waypost_xds::envoy::config::route::v3::RouteConfiguration;

use crate::rig::{Backend, Config, ControlPlane, H2_UPSTREAM, Proxy, TO_A, Wire, cluster, hcm, socket, until};

const EDS: &str = "{name: a, type: EDS, connect_timeout: 5s, eds_cluster_config: {service_name: service-a, \
                   eds_config: {ads: {}, resource_api_version: V3}}}";

fn endpoints(backends: &[&Backend]) -> String {
    let all: Vec<String> = backends.iter().map(|b| format!("{{endpoint: {{address: {b}}}}}")).collect();
    format!("{{cluster_name: service-a, endpoints: [{{lb_endpoints: [{}]}}]}}", all.join(", "))
}

fn listener(config: &mut Config, filter: &str) -> String {
    let address = socket(config.port("main"));
    format!("{{name: main, address: {address}, filter_chains: [{{filters: [{filter}]}}]}}")
}

fn rds(name: &str) -> String {
    hcm(TO_A, "").replace(
        "route_config: {virtual_hosts: [{name: all, domains: [\"*\"], routes: [{match: {prefix: /}, route: {cluster: a}}]}]}",
        &format!("rds: {{route_config_name: {name}, config_source: {{ads: {{}}, resource_api_version: V3}}}}"),
    )
}

fn config(plane: &ControlPlane) -> Config {
    Config::new().more(&plane.bootstrap()).cluster(cluster("xds", socket(plane.addr()), H2_UPSTREAM))
}

async fn says(proxy: &Proxy, text: &str) {
    until(&format!("main says {text}"), || async {
        let Ok(mut wire) = Wire::try_connect(proxy.main()).await else { return false };
        wire.get("/").await.text() == text
    })
    .await;
}

#[tokio::test]
async fn a_cluster_its_endpoints_a_listener_and_its_routes_come_over_ads_and_change_there() {
    let (plane, one, two) = (ControlPlane::start().await, Backend::says("one").await, Backend::says("two").await);
    let mut config = config(&plane);
    plane.set::<Cluster>(&[EDS]);
    plane.set::<ClusterLoadAssignment>(&[&endpoints(&[&one])]);
    plane.set::<Listener>(&[&listener(&mut config, &rds("r"))]);
    plane.set::<RouteConfiguration>(&["{name: r, virtual_hosts: [{name: all, domains: [\"*\"], routes: [{match: {prefix: /}, route: {cluster: a}}]}]}"]);
    let proxy = config.start().await;
    assert_eq!(proxy.get("/").await.text(), "one");
    plane.accepted::<Cluster>().await;
    plane.accepted::<ClusterLoadAssignment>().await;
    plane.accepted::<Listener>().await;
    plane.accepted::<RouteConfiguration>().await;

    plane.set::<ClusterLoadAssignment>(&[&endpoints(&[&two])]);
    says(&proxy, "two").await;
    plane.set::<RouteConfiguration>(&["{name: r, virtual_hosts: [{name: all, domains: [\"*\"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: routed}}}]}]}"]);
    says(&proxy, "routed").await;
    assert_eq!(proxy.stat("cluster_manager.cds.update_success").await, 1);
    assert_eq!(proxy.stat("listener_manager.lds.update_success").await, 1);
    assert_eq!(proxy.stat("control_plane.connected_state").await, 1);
    let first = plane.requests::<Cluster>().remove(0);
    assert_eq!(first.node.unwrap().id, "test");
}

#[tokio::test]
async fn one_bad_resource_is_refused_with_its_path_and_the_good_one_beside_it_goes_live() {
    let (plane, one) = (ControlPlane::start().await, Backend::says("one").await);
    let mut config = config(&plane);
    let good = cluster("a", &one, "");
    let bad = cluster(
        "b",
        &one,
        "upstream_bind_config: {source_address: {address: 127.0.0.1, port_value: 0}, freebind: true}",
    );
    plane.set::<Cluster>(&[&good, &bad]);
    plane.set::<Listener>(&[&listener(&mut config, &hcm(TO_A, ""))]);
    let proxy = config.start().await;
    assert_eq!(proxy.get("/").await.text(), "one");
    let reason = plane.answer::<Cluster>().await.unwrap();
    assert!(
        reason.starts_with("Error adding/updating cluster(s) b: cluster.upstream_bind_config.freebind"),
        "{reason}"
    );
    assert_eq!(proxy.stat("cluster_manager.cds.update_rejected").await, 1);

    plane.set_raw::<Cluster>("c", b"\xff\xff");
    until("what is no cluster is refused", || async { plane.answer::<Cluster>().await.is_some_and(|r| r != reason) })
        .await;
    assert_eq!(proxy.get("/").await.text(), "one");
}

#[tokio::test]
async fn a_control_plane_that_is_gone_is_asked_again_with_what_is_known_and_traffic_goes_on() {
    let (plane, one, two) = (ControlPlane::start().await, Backend::says("one").await, Backend::says("two").await);
    let mut config = config(&plane);
    plane.set::<Cluster>(&[EDS]);
    plane.set::<ClusterLoadAssignment>(&[&endpoints(&[&one])]);
    plane.set::<Listener>(&[&listener(&mut config, &hcm(TO_A, ""))]);
    let proxy = config.start().await;
    plane.accepted::<Listener>().await;
    plane.cut();
    until("there is another stream", || async { plane.streams() == 2 && plane.requests::<Listener>().len() > 2 }).await;
    assert_eq!(proxy.get("/").await.text(), "one");
    let again = plane.requests::<Cluster>();
    assert!(again.iter().any(|r| r.initial_resource_versions.contains_key("a")), "{again:?}");
    plane.set::<ClusterLoadAssignment>(&[&endpoints(&[&two])]);
    says(&proxy, "two").await;
}

#[tokio::test]
async fn a_listener_waits_for_its_routes_and_a_removed_one_is_closed() {
    let (plane, one) = (ControlPlane::start().await, Backend::says("one").await);
    let mut config = config(&plane);
    plane.set::<Cluster>(&[&cluster("a", &one, "")]);
    let proxy_listener = listener(&mut config, &rds("late"));
    let proxy = config.start().await;
    plane.set::<Listener>(&[&proxy_listener]);
    proxy.until_stat("listener_manager.total_listeners_warming", 1).await;
    assert!(proxy.refuses().await);
    plane.set::<RouteConfiguration>(&["{name: late, virtual_hosts: [{name: all, domains: [\"*\"], routes: [{match: {prefix: /}, route: {cluster: a}}]}]}"]);
    says(&proxy, "one").await;
    plane.remove::<Listener>("main");
    until("main is closed", || proxy.refuses()).await;
}
