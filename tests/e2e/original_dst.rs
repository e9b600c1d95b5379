//! Clusters whose hosts the request names.

use crate::rig::{Backend, Config, hcm};

const CLUSTER: &str = "name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 5s";

#[tokio::test]
async fn a_header_names_the_host() {
    let (one, two) = (Backend::says("one").await, Backend::says("two").await);
    let config = Config::new().listener("main", &hcm(crate::rig::TO_A, ""));
    let cluster = format!("{{{CLUSTER}, original_dst_lb_config: {{use_http_header: true}}}}");
    let proxy = config.cluster(cluster).start().await;
    let mut client = proxy.connect().await;
    for (backend, text) in [(&one, "one"), (&two, "two"), (&one, "one")] {
        let header = format!("x-envoy-original-dst-host: {}\r\n", backend.addr.unwrap());
        assert_eq!(client.request("/", &header).await.text(), text);
    }
    assert_eq!((one.accepted(), two.accepted()), (1, 1));
    assert_eq!(client.request("/", "x-envoy-original-dst-host: nowhere\r\n").await.status(), 503);
}

#[tokio::test]
async fn a_header_of_another_name_names_the_host() {
    let backend = Backend::says("hello").await;
    let config = Config::new().listener("main", &hcm(crate::rig::TO_A, ""));
    let cluster = format!("{{{CLUSTER}, original_dst_lb_config: {{use_http_header: true, http_header_name: x-to}}}}");
    let proxy = config.cluster(cluster).start().await;
    let mut client = proxy.connect().await;
    assert_eq!(client.request("/", &format!("x-to: {}\r\n", backend.addr.unwrap())).await.text(), "hello");
    let other = format!("x-envoy-original-dst-host: {}\r\n", backend.addr.unwrap());
    assert_eq!(client.request("/", &other).await.status(), 503);
}

#[tokio::test]
async fn filter_state_names_the_host() {
    let (one, two) = (Backend::says("one").await, Backend::says("two").await);
    let filters = "http_filters: [{name: set, typed_config: {\"@type\": \
        type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config, on_request_headers: \
        [{object_key: envoy.network.transport_socket.original_dst_address, format_string: {text_format_source: {inline_string: \"%REQ(x-to)%\"}}}]}}, \
        {name: router, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]";
    let config = Config::new().listener("main", &hcm(crate::rig::TO_A, filters));
    let proxy = config.cluster(format!("{{{CLUSTER}}}")).start().await;
    let mut client = proxy.connect().await;
    for (backend, text) in [(&one, "one"), (&two, "two"), (&one, "one")] {
        assert_eq!(client.request("/", &format!("x-to: {}\r\n", backend.addr.unwrap())).await.text(), text);
    }
    assert_eq!((one.accepted(), two.accepted()), (1, 1));
}
