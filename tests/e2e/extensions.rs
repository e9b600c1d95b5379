//! Filters whose configuration comes over ECDS.

use waypost_xds::envoy::config::core::v3::TypedExtensionConfig;
use waypost_xds::envoy::config::listener::v3::Listener;

use crate::rig::{
    Backend, Config, ControlPlane, Dir, H2_UPSTREAM, Message, Proxy, TO_A, Wire, cluster, hcm, log_to, socket,
    tcp_proxy, until,
};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

/// A filter of this name that is discovered and may mutate headers; `more` are fields of its `config_discovery` and `config_source`.
fn later(source: &str, more: &str) -> String {
    format!(
        "{{name: f, config_discovery: {{config_source: {{ads: {{}}, resource_api_version: V3{source}}}, \
         type_urls: [{FILTERS}.http.header_mutation.v3.HeaderMutation, {FILTERS}.http.router.v3.Router]{more}}}}}"
    )
}

const ROUTER: &str =
    "{name: router, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

/// The configuration of a filter that says something in the header `x-f` of responses.
fn saying(value: &str) -> String {
    format!(
        "{{\"@type\": {FILTERS}.http.header_mutation.v3.HeaderMutation, mutations: {{response_mutations: [{{append: \
         {{header: {{key: x-f, value: \"{value}\"}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}}}]}}}}"
    )
}

/// The extension.
fn extension(typed_config: &str) -> String {
    format!("{{name: f, typed_config: {typed_config}}}")
}

fn config(plane: &ControlPlane, backend: &Backend) -> Config {
    let config = Config::new().more(&plane.bootstrap()).cluster(cluster("xds", socket(plane.addr()), H2_UPSTREAM));
    config.cluster(cluster("a", backend, ""))
}

fn listener(config: &mut Config, filters: &str) -> String {
    let address = socket(config.port("main"));
    format!("{{name: main, address: {address}, filter_chains: [{{filters: [{filters}]}}]}}")
}

fn http(filters: &str, more: &str) -> String {
    hcm(TO_A, &format!("http_filters: [{filters}, {ROUTER}]{more}"))
}

/// Starts it with a listener of such filters.
async fn start(plane: &ControlPlane, backend: &Backend, filters: &str) -> Proxy {
    let mut config = config(plane, backend);
    let main = listener(&mut config, filters);
    let proxy = config.start().await;
    plane.set::<Listener>(&[&main]);
    plane.accepted::<Listener>().await;
    proxy
}

async fn get(proxy: &Proxy) -> Option<Message> {
    Some(Wire::try_connect(proxy.main()).await.ok()?.get("/").await)
}

async fn says(proxy: &Proxy, value: &str) {
    until(&format!("the filter says {value}"), || async {
        get(proxy).await.is_some_and(|m| m.status() == 200 && m.header("x-f") == value)
    })
    .await;
}

const PREFIX: &str = "extension_config_discovery.http_filter.f";

#[tokio::test]
async fn a_listener_waits_for_its_extension_and_takes_another_one_in_its_place() {
    let (plane, backend) = (ControlPlane::start().await, Backend::says("hello").await);
    let proxy = start(&plane, &backend, &http(&later("", ""), "")).await;
    proxy.until_stat("listener_manager.total_listeners_warming", 1).await;
    assert!(proxy.refuses().await);
    plane.set::<TypedExtensionConfig>(&[&extension(&saying("one"))]);
    says(&proxy, "one").await;
    plane.set::<TypedExtensionConfig>(&[&extension(&saying("two"))]);
    says(&proxy, "two").await;
    assert_eq!(proxy.stat(&format!("{PREFIX}.config_reload")).await, 2);
    assert_eq!(proxy.stat(&format!("{PREFIX}.update_success")).await, 2);
    assert_eq!(proxy.stat("listener_manager.listener_modified").await, 0);
    let dump = proxy.admin("/config_dump?resource=ecds_filters").await.text();
    assert!(dump.contains("\"two\"") && dump.contains("HeaderMutation"), "{dump}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_the_reason_and_the_old_one_serves() {
    let (plane, backend) = (ControlPlane::start().await, Backend::says("hello").await);
    plane.set::<TypedExtensionConfig>(&[&extension(&saying("one"))]);
    let proxy = start(&plane, &backend, &http(&later("", ""), "")).await;
    says(&proxy, "one").await;
    plane.accepted::<TypedExtensionConfig>().await;
    let at = "Error adding/updating extension(s) f: listener.filter_chains[0].filters[0].typed_config.http_filters[0].config_discovery";
    for (config, reason) in [
        (
            format!("{{\"@type\": {FILTERS}.http.cors.v3.Cors}}"),
            ": Error: filter config has type URL envoy.extensions.filters.http.cors.v3.Cors but expect \
             envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, envoy.extensions.filters.http.router.v3.Router.",
        ),
        (
            format!("{{\"@type\": {FILTERS}.http.router.v3.Router}}"),
            ": Error: terminal filter named f of type envoy.filters.http.router must be the last filter in a http filter chain.",
        ),
        (saying("%NOPE%"), ".mutations"),
    ] {
        let before = proxy.stat(&format!("{PREFIX}.config_fail")).await;
        plane.set::<TypedExtensionConfig>(&[&extension(&config)]);
        proxy.until_stat(&format!("{PREFIX}.config_fail"), before + 1).await;
        until("it is refused", || async { plane.answer::<TypedExtensionConfig>().await.is_some() }).await;
        let answer = plane.answer::<TypedExtensionConfig>().await.unwrap();
        assert!(answer.starts_with(&format!("{at}{reason}")), "{answer}");
        says(&proxy, "one").await;
    }
}

#[tokio::test]
async fn requests_are_answered_500_while_an_extension_that_did_not_come_in_time_is_missing() {
    let (dir, plane, backend) = (Dir::new(), ControlPlane::start().await, Backend::says("hello").await);
    let format = "%RESPONSE_CODE% [%RESPONSE_CODE_DETAILS%] %RESPONSE_FLAGS%\\n";
    let log = log_to(
        &dir.join("access.log"),
        &format!("log_format: {{text_format_source: {{inline_string: \"{format}\"}}}}"),
    );
    let proxy = start(&plane, &backend, &http(&later(", initial_fetch_timeout: 0.05s", ""), &format!(", {log}"))).await;
    until("the listener is there", || async { get(&proxy).await.is_some_and(|m| m.status() == 500) }).await;
    let logged = || std::fs::read_to_string(dir.join("access.log")).unwrap_or_default();
    until("a line is logged", || async { logged().ends_with('\n') }).await;
    assert!(logged().starts_with("500 [-] NFCF\n"), "{}", logged());
    assert_eq!(backend.accepted(), 0);
    plane.set::<TypedExtensionConfig>(&[&extension(&saying("late"))]);
    says(&proxy, "late").await;
    plane.remove::<TypedExtensionConfig>("f");
    until("it is missing again", || async { get(&proxy).await.is_some_and(|m| m.status() == 500) }).await;
}

#[tokio::test]
async fn a_default_serves_until_the_extension_comes_and_when_it_goes() {
    let (plane, backend) = (ControlPlane::start().await, Backend::says("hello").await);
    let default = format!(", default_config: {}, apply_default_config_without_warming: true", saying("default"));
    let proxy = start(&plane, &backend, &http(&later("", &default), "")).await;
    says(&proxy, "default").await;
    plane.set::<TypedExtensionConfig>(&[&extension(&saying("own"))]);
    says(&proxy, "own").await;
    plane.remove::<TypedExtensionConfig>("f");
    says(&proxy, "default").await;
}

#[tokio::test]
async fn the_chain_of_an_upgrade_has_extensions_too() {
    let (plane, backend) = (ControlPlane::start().await, Backend::says("hello").await);
    let upgrade = format!(
        "upgrade_configs: [{{upgrade_type: websocket, filters: [{}, {ROUTER}]}}]",
        later(", initial_fetch_timeout: 0.05s", "")
    );
    let proxy = start(&plane, &backend, &hcm(TO_A, &upgrade)).await;
    until("the listener is there", || async { get(&proxy).await.is_some_and(|m| m.status() == 200) }).await;
    let upgraded = || async {
        let mut wire = proxy.connect().await;
        wire.request("/", "connection: Upgrade\r\nupgrade: websocket\r\n").await
    };
    assert_eq!(upgraded().await.status(), 500);
    plane.set::<TypedExtensionConfig>(&[&extension(&saying("one"))]);
    until("the filter is there", || async { upgraded().await.header("x-f") == "one" }).await;
}

#[tokio::test]
async fn the_router_itself_may_be_an_extension() {
    let (plane, backend) = (ControlPlane::start().await, Backend::says("hello").await);
    let only = format!("http_filters: [{}]", later(", initial_fetch_timeout: 0.05s", ""));
    let proxy = start(&plane, &backend, &hcm(TO_A, &only)).await;
    until("the listener is there", || async { get(&proxy).await.is_some_and(|m| m.status() == 500) }).await;
    plane.set::<TypedExtensionConfig>(&[&extension(&format!("{{\"@type\": {FILTERS}.http.router.v3.Router}}"))]);
    says(&proxy, "").await;
    plane.set::<TypedExtensionConfig>(&[&extension(&saying("not a router"))]);
    until("it is refused", || async { plane.answer::<TypedExtensionConfig>().await.is_some() }).await;
    says(&proxy, "").await;
}

#[tokio::test]
async fn a_network_filter_that_is_missing_closes_connections_until_it_comes() {
    let (plane, backend) = (ControlPlane::start().await, Backend::says("hello").await);
    let filter = format!(
        "{{name: f, config_discovery: {{config_source: {{ads: {{}}, resource_api_version: V3, initial_fetch_timeout: 0.05s}}, \
         type_urls: [{FILTERS}.network.set_filter_state.v3.Config, {FILTERS}.network.echo.v3.Echo]}}}}"
    );
    let proxy = start(&plane, &backend, &format!("{filter}, {}", tcp_proxy("cluster: a"))).await;
    until("the listener is there", || async { Wire::try_connect(proxy.main()).await.is_ok() }).await;
    let asks = || async {
        let mut wire = proxy.connect().await;
        wire.try_send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await.ok()?;
        wire.try_message().await.ok()
    };
    assert!(asks().await.is_none());
    plane.set::<TypedExtensionConfig>(&[&extension(&format!("{{\"@type\": {FILTERS}.network.echo.v3.Echo}}"))]);
    until("a terminal filter is refused", || async { plane.answer::<TypedExtensionConfig>().await.is_some() }).await;
    assert!(asks().await.is_none());
    plane.set::<TypedExtensionConfig>(&[&extension(&format!(
        "{{\"@type\": {FILTERS}.network.set_filter_state.v3.Config}}"
    ))]);
    until("connections are served", || async { asks().await.is_some_and(|m| m.text() == "hello") }).await;
    assert_eq!(proxy.stat("extension_config_discovery.network_filter.f.config_reload").await, 1);
}
