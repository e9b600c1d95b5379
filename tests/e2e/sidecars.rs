//! Hosts with sidecars: what TLS offers them, and what proxies say to each other before the first byte of an application.

use bytes::Bytes;
use tokio_rustls::LazyConfigAcceptor;

use crate::rig::{
    Backend, Ca, Config, H2, H2_UPSTREAM, Proxy, TO_A, Wire, cluster, hcm, ok, socket, tcp_proxy, tls_offering, within,
};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const NODE: &str = "node: {id: router~1, cluster: gw, metadata: {NAME: gw-1, NAMESPACE: ns, LABELS: {app: gw}}}";
const EXCHANGE: &str = "{name: istio.metadata_exchange, typed_config: {\"@type\": type.googleapis.com/udpa.type.v1.TypedStruct, type_url: \
     type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange, value: {protocol: istio-peer-exchange, enable_discovery: true}}}";
const ALPN: &str = "http_filters: [{name: istio.alpn, typed_config: {\"@type\": \
     type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig, alpn_override: [{upstream_protocol: HTTP10, \
     alpn_override: [istio-http/1.0, istio, http/1.0]}, {upstream_protocol: HTTP11, alpn_override: [istio-http/1.1, istio, http/1.1]}, \
     {upstream_protocol: HTTP2, alpn_override: [istio-h2, istio, h2]}]}}, {name: router, typed_config: {\"@type\": \
     type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]";
const MUTUAL: &str = "[istio-peer-exchange, istio]";
const AS_DOWNSTREAM: &str = "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": \
     type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, use_downstream_protocol_config: {http_protocol_options: {}, \
     http2_protocol_options: {}}}}";

/// `transport_socket` of a cluster that offers these names.
fn offering(alpn: &str) -> String {
    format!(
        "transport_socket: {{name: tls, typed_config: {{\"@type\": {TLS}.UpstreamTlsContext, common_tls_context: {{alpn_protocols: {alpn}}}}}}}"
    )
}

/// Answers each request, of either protocol, with the names that the connection was offered, the server's name and the number of the connection.
async fn sidecar(ca: &Ca) -> Backend {
    let config = ca.server(&["h2", "http/1.1", "istio"]);
    Backend::tcp(move |stream, n| {
        let config = config.clone();
        async move {
            let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await.unwrap();
            let names = start.client_hello().alpn().map(|names| names.map(String::from_utf8_lossy).collect::<Vec<_>>());
            let to = start.client_hello().server_name().map(|name| format!(" to {name}")).unwrap_or_default();
            let answer = format!("{}{to} on {n}", names.unwrap_or_default().join(" "));
            let stream = start.into_stream(config).await.unwrap();
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from(answer.clone()), true).unwrap();
                }
                return;
            }
            let mut wire = Wire::new(stream);
            while wire.try_message().await.is_ok() && wire.try_send(ok(&answer)).await.is_ok() {}
        }
    })
    .await
}

#[tokio::test]
async fn a_gateway_offers_sidecars_the_names_of_http() {
    let ca = Ca::new();
    let backend = sidecar(&ca).await;
    let config = Config::new().listener("main", &hcm(TO_A, ALPN)).listener("other", &hcm(TO_A, ""));
    let proxy = config.cluster(cluster("a", &backend, &offering(MUTUAL))).start().await;
    let mut other = Wire::connect(proxy.addr("other")).await;
    let mut main = proxy.connect().await;
    for _ in 0..2 {
        assert_eq!(main.get("/").await.text(), "istio-http/1.1 istio http/1.1 on 0");
        // Who asks for other names has other connections.
        assert_eq!(other.get("/").await.text(), "istio-peer-exchange istio on 1");
    }
}

#[tokio::test]
async fn the_names_are_those_of_the_protocol_that_the_host_is_spoken_to_in() {
    let ca = Ca::new();
    let backend = sidecar(&ca).await;
    let more = format!("{AS_DOWNSTREAM}, {}", offering(MUTUAL));
    let proxy = Config::new().listener("main", &hcm(TO_A, ALPN)).cluster(cluster("a", &backend, &more)).start().await;
    assert_eq!(proxy.get("/").await.text(), "istio-http/1.1 istio http/1.1 on 0");
    let mut client = H2::connect(proxy.main()).await;
    assert_eq!(client.get("/").await.into_body(), b"istio-h2 istio h2 on 1");
}

#[tokio::test]
async fn a_cluster_may_keep_its_own_names() {
    let ca = Ca::new();
    let backend = sidecar(&ca).await;
    let more = format!("metadata: {{filter_metadata: {{istio: {{alpn_override: \"false\"}}}}}}, {}", offering(MUTUAL));
    let proxy = Config::new().listener("main", &hcm(TO_A, ALPN)).cluster(cluster("a", &backend, &more)).start().await;
    assert_eq!(proxy.get("/").await.text(), "istio-peer-exchange istio on 0");
}

#[tokio::test]
async fn the_names_of_a_context_go_before_that_of_the_protocol() {
    let ca = Ca::new();
    let backend = sidecar(&ca).await;
    let more = format!("{H2_UPSTREAM}, {}", offering("[istio-peer-exchange, istio, h2]"));
    let proxy = Config::new().listener("main", &hcm(TO_A, "")).cluster(cluster("a", &backend, &more)).start().await;
    assert_eq!(proxy.get("/").await.text(), "istio-peer-exchange istio h2 on 0");
}

#[tokio::test]
async fn filter_state_says_what_is_offered() {
    let ca = Ca::new();
    let backend = sidecar(&ca).await;
    let set = |key: &str, format: &str| {
        format!("{{object_key: {key}, format_string: {{text_format_source: {{inline_string: \"{format}\"}}}}}}")
    };
    let names = set("envoy.network.application_protocols", "%REQ(x-names)%,http/1.1");
    let filters = format!(
        "http_filters: [{{name: state, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config, \
         on_request_headers: [{names}, {}]}}}}, {{name: router, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]",
        set("envoy.network.upstream_server_name", "%REQ(x-sni)%")
    );
    let config = Config::new().listener("main", &hcm(TO_A, &filters));
    let proxy = config.cluster(cluster("a", &backend, &offering(MUTUAL))).start().await;
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        assert_eq!(
            client.request("/", "x-names: a,b\r\nx-sni: one.test\r\n").await.text(),
            "a b http/1.1 to one.test on 0"
        );
        assert_eq!(
            client.request("/", "x-names: a,b\r\nx-sni: two.test\r\n").await.text(),
            "a b http/1.1 to two.test on 1"
        );
        assert_eq!(
            client.request("/", "x-names: c\r\nx-sni: two.test\r\n").await.text(),
            "c http/1.1 to two.test on 2"
        );
    }
}

#[tokio::test]
async fn a_context_without_names_offers_that_of_the_protocol() {
    let ca = Ca::new();
    let backend = sidecar(&ca).await;
    let more = format!("{AS_DOWNSTREAM}, {}", offering("[]"));
    let proxy = Config::new().listener("main", &hcm(TO_A, "")).cluster(cluster("a", &backend, &more)).start().await;
    assert_eq!(proxy.get("/").await.text(), "http/1.1 on 0");
    let mut client = H2::connect(proxy.main()).await;
    assert_eq!(client.get("/").await.into_body(), b"h2 on 1");
}

/// TCP over `inner`, which exchanges metadata with who agrees to it, to the backend; and over `main`, whose cluster agrees, to `inner`.
async fn two_proxies(ca: &Ca, backend: &Backend) -> Proxy {
    let pair = ca.issue();
    let line = |pem: &str| pem.replace('\n', "\\n");
    let (cert, key) = (line(&pair.cert), line(&pair.key));
    let chain = format!(
        "{{filters: [{EXCHANGE}, {}], transport_socket: {{name: tls, typed_config: {{\"@type\": {TLS}.DownstreamTlsContext, common_tls_context: \
         {{alpn_protocols: [istio-peer-exchange, h2], tls_certificates: [{{certificate_chain: {{inline_string: \"{cert}\"}}, private_key: \
         {{inline_string: \"{key}\"}}}}]}}}}}}}}",
        tcp_proxy("cluster: b")
    );
    let mut config = Config::new().more(NODE).cluster(cluster("b", backend, "")).chain("inner", &chain, "");
    let inner = socket(config.port("inner"));
    let more = format!("filters: [{EXCHANGE}], {}", offering(MUTUAL));
    let config = config.listener("main", &tcp_proxy("cluster: a")).cluster(cluster("a", inner, &more));
    config.start().await
}

#[tokio::test]
async fn two_proxies_exchange_metadata_and_the_application_sees_nothing_of_it() {
    let ca = Ca::new();
    let backend = Backend::wire(|mut wire, _| async move {
        let all = wire.closed().await;
        assert!(all.iter().all(|b| *b == b'x'));
        wire.send(vec![b'y'; all.len()]).await;
    })
    .await;
    let proxy = two_proxies(&ca, &backend).await;
    let mut client = proxy.connect().await;
    client.send(vec![b'x'; 3 << 20]).await;
    client.finish().await;
    let answer = client.closed().await;
    assert_eq!(answer.len(), 3 << 20);
    assert!(answer.iter().all(|b| *b == b'y'));
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_through_two_proxies() {
    let ca = Ca::new();
    let backend = Backend::wire(|mut wire, _| async move {
        wire.send("220 ready\r\n").await;
        wire.expect("QUIT\r\n").await;
        wire.send("221 bye\r\n").await;
    })
    .await;
    let proxy = two_proxies(&ca, &backend).await;
    let mut client = proxy.connect().await;
    client.expect("220 ready\r\n").await;
    client.send("QUIT\r\n").await;
    assert_eq!(client.closed().await, b"221 bye\r\n");
}

/// Reads a header; the message in it.
async fn header(wire: &mut Wire) -> Vec<u8> {
    let head = within("a header", wire.bytes(8)).await.unwrap();
    assert_eq!(head[..4], [0x3d, 0x23, 0x04, 0x67]);
    let length = u32::from_be_bytes(head[4..].try_into().unwrap());
    within("a message", wire.bytes(length as usize)).await.unwrap()
}

#[tokio::test]
async fn a_client_that_agrees_is_told_who_we_are_and_its_header_goes_no_further() {
    let ca = Ca::new();
    let proxy = two_proxies(&ca, &Backend::echo().await).await;
    let connect = async |alpn: &[&str]| Wire::new(tls_offering(proxy.addr("inner"), &ca, alpn).await.unwrap());
    let mut client = connect(&["istio-peer-exchange"]).await;
    let message = header(&mut client).await;
    let has = |text: &str| message.windows(text.len()).any(|w| w == text.as_bytes());
    for text in [
        "type.googleapis.com/google.protobuf.Struct",
        "x-envoy-peer-metadata-id",
        "router~1",
        "gw-1",
        "NAMESPACE",
        "app",
    ] {
        assert!(has(text), "{text}");
    }
    let ours = [&[0x3d, 0x23, 0x04, 0x67, 0, 0, 0, 3][..], b"abcping"].concat();
    for byte in ours {
        client.send([byte]).await;
    }
    client.expect("ping").await;

    let mut without = connect(&["istio-peer-exchange"]).await;
    without.send("ping").await;
    header(&mut without).await;
    without.expect("ping").await;

    let mut other = connect(&["h2"]).await;
    other.send("=#\x04gping").await;
    other.expect("=#\x04gping").await;
}

#[tokio::test]
async fn a_host_that_agrees_is_told_who_we_are_before_anything_else() {
    let ca = Ca::new();
    let server = ca.server(&["istio-peer-exchange"]);
    let backend = Backend::tcp(move |stream, _| {
        let acceptor = tokio_rustls::TlsAcceptor::from(server.clone());
        async move {
            let mut wire = Wire::new(acceptor.accept(stream).await.unwrap());
            assert!(!header(&mut wire).await.is_empty());
            wire.expect("ping").await;
            // It says nothing of itself, and what it says begins as a header does.
            wire.send("=#\x04pong").await;
        }
    })
    .await;
    let more = format!("filters: [{EXCHANGE}], {}", offering(MUTUAL));
    let config = Config::new().more(NODE).listener("main", &tcp_proxy("cluster: a"));
    let proxy = config.cluster(cluster("a", &backend, &more)).start().await;
    let mut client = proxy.connect().await;
    client.send("ping").await;
    assert_eq!(client.closed().await, b"=#\x04pong");
}
