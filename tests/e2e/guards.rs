//! Filters that guard and are not built yet: nothing gets by them.

use http::{Method, Request};

use crate::rig::{Backend, Config, Dir, H2, TO_A, cluster, hcm, log_to, tcp_proxy, until};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";
const DENY: &str = "rules: {action: DENY, policies: {p: {permissions: [{any: true}], principals: [{any: true}]}}}";
const SHADOW: &str =
    "shadow_rules: {action: DENY, policies: {p: {permissions: [{any: true}], principals: [{any: true}]}}}";
const CONNECT: &str = "[{match: {connect_matcher: {}}, route: {cluster: a, upgrade_configs: [{upgrade_type: CONNECT, connect_config: {}}]}}]";

/// `http_filters` with an RBAC of these fields.
fn rbac(fields: &str) -> String {
    format!(
        "http_filters: [{{name: envoy.filters.http.rbac, typed_config: {{\"@type\": {FILTERS}.http.rbac.v3.RBAC, {fields}}}}}, \
         {{name: router, typed_config: {{\"@type\": {FILTERS}.http.router.v3.Router}}}}]"
    )
}

/// What a log has, once it has a line.
async fn logged(dir: &Dir) -> String {
    let path = dir.join("access.log");
    let read = || std::fs::read_to_string(&path).unwrap_or_default();
    until("a line is logged", || async { read().ends_with('\n') }).await;
    read()
}

fn log(dir: &Dir, format: &str) -> String {
    log_to(&dir.join("access.log"), &format!("log_format: {{text_format_source: {{inline_string: \"{format}\\n\"}}}}"))
}

const HTTP_LOG: &str = "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%";

#[tokio::test]
async fn a_request_is_refused_and_the_log_names_the_filter() {
    let (dir, backend) = (Dir::new(), Backend::says("hello").await);
    let fields = format!("{}, {}", rbac(DENY), log(&dir, HTTP_LOG));
    let config = Config::new().listener("main", &hcm(TO_A, &fields)).cluster(cluster("a", &backend, ""));
    let proxy = config.start().await;
    assert_eq!(proxy.get("/").await.status(), 500);
    assert_eq!(logged(&dir).await, "500 filter_not_supported{envoy.filters.http.rbac} NFCF\n");
    assert_eq!(backend.accepted(), 0);
}

#[tokio::test]
async fn shadow_rules_let_requests_pass() {
    let backend = Backend::says("hello").await;
    let config = Config::new().listener("main", &hcm(TO_A, &rbac(SHADOW))).cluster(cluster("a", &backend, ""));
    assert_eq!(config.start().await.get("/").await.text(), "hello");
}

#[tokio::test]
async fn a_route_that_switches_the_filter_off_is_open_and_no_other_one() {
    let backend = Backend::says("hello").await;
    let off = format!("{{envoy.filters.http.rbac: {{\"@type\": {FILTERS}.http.rbac.v3.RBACPerRoute}}}}");
    let routes = format!(
        "[{{match: {{prefix: /open}}, route: {{cluster: a}}, typed_per_filter_config: {off}}}, {{match: {{prefix: /}}, route: {{cluster: a}}}}]"
    );
    let config = Config::new().listener("main", &hcm(&routes, &rbac(DENY))).cluster(cluster("a", &backend, ""));
    let proxy = config.start().await;
    assert_eq!(proxy.get("/closed").await.status(), 500);
    assert_eq!(backend.accepted(), 0);
    assert_eq!(proxy.get("/open").await.text(), "hello");
}

#[tokio::test]
async fn a_filter_that_refuses_nothing_is_closed_where_a_route_gives_it_rules() {
    let backend = Backend::says("hello").await;
    let rules =
        format!("{{envoy.filters.http.rbac: {{\"@type\": {FILTERS}.http.rbac.v3.RBACPerRoute, rbac: {{{DENY}}}}}}}");
    let routes = format!(
        "[{{match: {{prefix: /closed}}, route: {{cluster: a}}, typed_per_filter_config: {rules}}}, {{match: {{prefix: /}}, route: {{cluster: a}}}}]"
    );
    let config = Config::new().listener("main", &hcm(&routes, &rbac(SHADOW))).cluster(cluster("a", &backend, ""));
    let proxy = config.start().await;
    assert_eq!(proxy.get("/closed").await.status(), 500);
    assert_eq!(backend.accepted(), 0);
    assert_eq!(proxy.get("/open").await.text(), "hello");
}

#[tokio::test]
async fn upgrades_and_tunnels_are_refused_too() {
    let backend = Backend::echo().await;
    let more = "upgrade_configs: [{upgrade_type: CONNECT}, {upgrade_type: websocket}], http2_protocol_options: {allow_connect: true}";
    let routes = format!("{}, {}", CONNECT.trim_end_matches(']'), &TO_A[1..]);
    let config = Config::new().listener("main", &hcm(&routes, &format!("{}, {more}", rbac(DENY))));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;

    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(client.message().await.status(), 500);
    let mut client = proxy.connect().await;
    client.send("CONNECT test:80 HTTP/1.1\r\nhost: test:80\r\n\r\n").await;
    assert_eq!(client.message().await.status(), 500);
    let mut client = H2::connect(proxy.main()).await;
    let request = Request::builder().method(Method::CONNECT).uri("test:80").body(()).unwrap();
    let (response, _body) = client.send.send_request(request, false).unwrap();
    assert_eq!(response.await.unwrap().status(), 500);
    assert_eq!(backend.accepted(), 0);
}

#[tokio::test]
async fn a_tcp_connection_is_closed_and_the_log_names_the_filter() {
    let (dir, backend) = (Dir::new(), Backend::echo().await);
    let rbac = format!(
        "{{name: envoy.filters.network.rbac, typed_config: {{\"@type\": {FILTERS}.network.rbac.v3.RBAC, stat_prefix: tcp., {DENY}}}}}"
    );
    let chain = format!("{{filters: [{rbac}, {}]}}", tcp_proxy("cluster: a"));
    let config = Config::new().chain("main", &chain, &log(&dir, "%CONNECTION_TERMINATION_DETAILS%"));
    let proxy = config.cluster(cluster("a", &backend, "")).start().await;
    let mut client = proxy.connect().await;
    client.send("hello").await;
    assert!(client.bytes(1).await.is_err());
    assert_eq!(logged(&dir).await, "filter_not_supported{envoy.filters.network.rbac}\n");
    assert_eq!(backend.accepted(), 0);
}
