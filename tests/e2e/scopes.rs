//! Scoped routes and virtual hosts on demand, over ADS.

use waypost_xds::envoy::config::listener::v3::Listener;
use waypost_xds::envoy::config::route::v3::{RouteConfiguration, ScopedRouteConfiguration, VirtualHost};

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

const ON_DEMAND: &str = "{name: on_demand, typed_config: {\"@type\": \
                         type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand}}, ";
const RDS: &str = "rds: {route_config_name: r, config_source: {ads: {}, resource_api_version: V3}}";

/// Routes with a host of their own and `vhds`, which may be waited for so long.
fn with_vhds(timeout: &str) -> String {
    format!(
        "{{name: r, virtual_hosts: [{}], vhds: {{config_source: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: {timeout}}}}}}}",
        host("own", "own.test", "own")
    )
}

fn host(name: &str, domain: &str, text: &str) -> String {
    format!("{{name: {name}, domains: [{domain}], routes: [{{match: {{prefix: /}}, {}}}]}}", says(text))
}

async fn of_host(proxy: &Proxy, host: &str) -> (u16, String) {
    let mut wire = Wire::connect(proxy.main()).await;
    wire.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
    let answer = wire.message().await;
    (answer.status(), answer.text())
}

#[tokio::test]
async fn the_routes_of_a_scope_on_demand_come_with_the_first_request() {
    let plane = ControlPlane::start().await;
    let mut config = config(&plane);
    plane.set::<Listener>(&[&listener(&mut config, SCOPED, ON_DEMAND)]);
    plane.set::<ScopedRouteConfiguration>(&[&scope("s", "later", "on_demand: true, route_configuration_name: r")]);
    let proxy = config.start().await;
    assert_eq!(scoped(&proxy, "none").await.0, 404);
    assert!(plane.requests::<RouteConfiguration>().is_empty());
    let (answered, ()) = tokio::join!(scoped(&proxy, "later"), async {
        until("the routes are asked for", || async { !plane.requests::<RouteConfiguration>().is_empty() }).await;
        plane.set::<RouteConfiguration>(&[&answer("r", "late")]);
    });
    assert_eq!(answered, (200, "late".into()));
    assert_eq!(scoped(&proxy, "later").await, (200, "late".into()));
    assert_eq!(proxy.stat("http.http.scoped_rds.scopes.active_scopes").await, 1);
}

#[tokio::test]
async fn virtual_hosts_come_over_vhds_change_and_go() {
    let plane = ControlPlane::start().await;
    let mut config = config(&plane);
    let (main, unrelated) = (listener(&mut config, RDS, ""), host("other/b", "b.test", "b"));
    let proxy = config.start().await;
    plane.set::<Listener>(&[&main]);
    plane.set::<RouteConfiguration>(&[&with_vhds("0s")]);
    plane.set::<VirtualHost>(&[&unrelated]);
    plane.accepted::<VirtualHost>().await;
    proxy.until_stat("listener_manager.total_listeners_warming", 1).await;
    assert!(proxy.refuses().await, "nothing has come for this table");
    plane.set::<VirtualHost>(&[&host("r/a", "a.test", "a")]);
    until("the listener is open", || async { !proxy.refuses().await }).await;
    assert_eq!(of_host(&proxy, "own.test").await, (200, "own".into()));
    assert_eq!(of_host(&proxy, "A.test").await, (200, "a".into()));
    assert_eq!(of_host(&proxy, "b.test").await.0, 404);
    plane.set::<VirtualHost>(&[&host("r/c", "a.test", "again")]);
    until("a second host with the domain is refused", || async {
        plane.answer::<VirtualHost>().await.is_some_and(|reason| reason.contains("Duplicate entry of domain a.test"))
    })
    .await;
    assert_eq!(of_host(&proxy, "a.test").await, (200, "a".into()));
    plane.set::<VirtualHost>(&[&host("r/c", "c.test", "c")]);
    until("the host is mended", || async { of_host(&proxy, "c.test").await.1 == "c" }).await;
    plane.remove::<VirtualHost>("r/a");
    until("the host is gone", || async { of_host(&proxy, "a.test").await.0 == 404 }).await;
    plane.set::<RouteConfiguration>(&[&with_vhds("1s")]);
    plane.accepted::<RouteConfiguration>().await;
    assert_eq!(of_host(&proxy, "c.test").await, (200, "c".into()));
}

#[tokio::test]
async fn a_host_that_is_not_known_is_asked_for_and_its_request_goes_on() {
    let plane = ControlPlane::start().await;
    let mut config = config(&plane);
    plane.set::<Listener>(&[&listener(&mut config, RDS, ON_DEMAND)]);
    plane.set::<RouteConfiguration>(&[&with_vhds("0.2s")]);
    let proxy = config.start().await;
    let asked = |name: &str| {
        let names: Vec<String> =
            plane.requests::<VirtualHost>().into_iter().flat_map(|r| r.resource_names_subscribe).collect();
        names.iter().filter(|n| *n == name).count()
    };
    let (answered, ()) = tokio::join!(of_host(&proxy, "New.test"), async {
        until("the host is asked for", || async { asked("r/new.test") == 1 }).await;
        plane.set::<VirtualHost>(&[&host("r/new.test", "new.test", "new")]);
    });
    assert_eq!(answered, (200, "new".into()));
    assert_eq!(of_host(&proxy, "new.test").await, (200, "new".into()));
    // Nobody answers for it: after the time for an answer it is 404, and soon after nobody is asked again.
    assert_eq!(of_host(&proxy, "no.test").await.0, 404);
    assert_eq!(of_host(&proxy, "no.test").await.0, 404);
    assert_eq!((asked("r/new.test"), asked("r/no.test")), (1, 1));

    plane.remove::<VirtualHost>("r/new.test");
    until("what went is asked for again", || async {
        of_host(&proxy, "new.test").await.0 == 404 && asked("r/new.test") > 1
    })
    .await;
}
