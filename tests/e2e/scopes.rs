//! Scoped routes and virtual hosts on demand, over ADS.

use waypost_xds::envoy::config::listener::v3::Listener;
use waypost_xds::envoy::config::route::v3::{RouteConfiguration, ScopedRouteConfiguration};

use crate::rig::{Config, ControlPlane, H2_UPSTREAM, Proxy, TO_A, Wire, cluster, hcm, socket, until};

const ROUTER: &str =
    "{name: router, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";
const SCOPED: &str = "scoped_routes: {name: scopes, scope_key_builder: {fragments: [{header_value_extractor: {name: x-scope, \
                      element_separator: ',', element: {key: to, separator: '='}}}]}, rds_config_source: {ads: {}, \
                      resource_api_version: V3}, scoped_rds: {scoped_rds_config_source: {ads: {}, resource_api_version: V3}}}";

fn config(plane: &ControlPlane) -> Config {
    Config::new().more(&plane.bootstrap()).cluster(cluster("xds", socket(plane.addr()), H2_UPSTREAM))
}

/// A listener with these routes (a field of the connection manager) and filters before the router.
fn listener(config: &mut Config, routes: &str, filters: &str) -> String {
    let own = "route_config: {virtual_hosts: [{name: all, domains: [\"*\"], routes: [{match: {prefix: /}, route: {cluster: a}}]}]}";
    let filter = hcm(TO_A, &format!("http_filters: [{filters}{ROUTER}]")).replace(own, routes);
    let address = socket(config.port("main"));
    format!("{{name: main, address: {address}, filter_chains: [{{filters: [{filter}]}}]}}")
}

fn scope(name: &str, key: &str, routes: &str) -> String {
    format!("{{name: {name}, key: {{fragments: [{{string_key: {key}}}]}}, {routes}}}")
}

/// Routes that answer with a text.
fn answer(name: &str, text: &str) -> String {
    format!(
        "{{name: {name}, virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: {{prefix: /}}, {}}}]}}]}}",
        says(text)
    )
}

fn says(text: &str) -> String {
    format!("direct_response: {{status: 200, body: {{inline_string: {text}}}}}")
}

async fn scoped(proxy: &Proxy, key: &str) -> (u16, String) {
    let answer = Wire::connect(proxy.main()).await.request("/", &format!("x-scope: a=b,to={key}\r\n")).await;
    (answer.status(), answer.text())
}

#[tokio::test]
async fn a_request_has_the_routes_of_its_scope_and_scopes_come_change_and_go() {
    let plane = ControlPlane::start().await;
    let mut config = config(&plane);
    plane.set::<Listener>(&[&listener(&mut config, SCOPED, "")]);
    plane.set::<ScopedRouteConfiguration>(&[
        &scope("s1", "one", "route_configuration_name: r1"),
        &scope("s2", "two", "route_configuration_name: r2"),
        &scope("s3", "own", &format!("route_configuration: {}", answer("own", "own"))),
    ]);
    plane.set::<RouteConfiguration>(&[&answer("r1", "first"), &answer("r2", "second")]);
    let proxy = config.start().await;
    assert_eq!(scoped(&proxy, "one").await, (200, "first".into()));
    assert_eq!(scoped(&proxy, "two").await, (200, "second".into()));
    assert_eq!(scoped(&proxy, "own").await, (200, "own".into()));
    assert_eq!(scoped(&proxy, "none").await, (404, String::new()));
    plane.accepted::<ScopedRouteConfiguration>().await;

    plane.set::<ScopedRouteConfiguration>(&[&scope("s4", "two", "route_configuration_name: r1")]);
    let conflict = "scope key conflict found, first scope is 's2', second scope is 's4'";
    until("a second scope with the key is refused", || async {
        plane.answer::<ScopedRouteConfiguration>().await.is_some_and(|reason| reason.contains(conflict))
    })
    .await;
    assert_eq!(scoped(&proxy, "two").await, (200, "second".into()));
    plane.remove::<ScopedRouteConfiguration>("s2");
    plane.set::<ScopedRouteConfiguration>(&[&scope("s1", "two", "route_configuration_name: r1")]);
    until("the scope is another one", || async { scoped(&proxy, "two").await.1 == "first" }).await;
    assert_eq!(scoped(&proxy, "one").await.0, 404);
    assert_eq!(proxy.stat("http.http.scoped_rds.scopes.all_scopes").await, 2);
}
