//! Explanations as they are printed, and what scripts read.

use std::path::Path;

use serde_json::{Value, json as value};

use super::{ask, cli, explain, source};

const WAYPOINT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/waypoint.yaml"));
const INGRESS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/ingress.yaml"));
const TCP: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/tcp.yaml"));
const ROUTES: &str = include_str!("golden/routes.yaml");
const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";

fn answer(config: &str, args: &[&str], json: bool) -> String {
    let args = [&["-c", "-"], args].concat();
    let matches = cli().try_get_matches_from(args).unwrap();
    explain(source::parse(config).unwrap(), &ask::ask(&matches).unwrap(), json)
}

fn text(config: &str, args: &[&str]) -> String {
    answer(config, args, false)
}

fn json(config: &str, args: &[&str]) -> Value {
    serde_json::from_str(&answer(config, args, true)).unwrap()
}

fn outcome(config: &str, args: &[&str]) -> Value {
    json(config, args)["outcome"].clone()
}

/// Compares with a file beside this one; `WAYPOST_GOLDEN=write` writes it.
#[track_caller]
fn golden(name: &str, got: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tools/explain/golden").join(name);
    if std::env::var_os("WAYPOST_GOLDEN").is_some() {
        return std::fs::write(file, got).unwrap();
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(got == wanted, "{} is not as it was; now:\n{got}", file.display());
}

#[test]
fn through_a_waypoint() {
    golden("waypoint_http.txt", &text(WAYPOINT, &["--hbone", "127.2.0.10:80", "--peer", CLIENT, "/hello?a=b"]));
    golden("waypoint_tcp.txt", &text(WAYPOINT, &["--hbone", "127.2.0.10:9000", "--peer", CLIENT, "--tcp"]));
}

#[test]
fn through_an_ingress() {
    golden("ingress_tls.txt", &text(INGRESS, &["https://shop.example:8443/cart/../x"]));
    golden("ingress.txt", &text(INGRESS, &["--address", "8080", "http://shop.example/cart/../x"]));
}

#[test]
fn by_server_name_and_weight() {
    let way = |args: &[&str]| outcome(TCP, args);
    golden("tcp.txt", &text(TCP, &["--tcp", "--random", "99", "http://127.0.0.1:9002/"]));
    assert_eq!(way(&["--listener", "no-such"])["closed"], "there is no such thing as a listener \"no-such\"");
}

#[test]
fn routes_say_why_they_do_not_match() {
    let at = |more: &[&str]| text(ROUTES, &[&["--address", "8080"], more].concat());
    golden("routes_weighted.txt", &at(&["--random", "95", "-H", "x-user: jason", "http://shop.example/b/c?debug=0"]));
    let way = |more: &[&str]| outcome(ROUTES, &[&["--address", "8080"], more].concat());
    assert_eq!(way(&["http://shop.example/teapot"])["status"], 418);
    assert_eq!(way(&["http://shop.example/gone/x"])["status"], 301);
    assert_eq!(way(&["http://shop.example/nowhere"])["details"], "cluster_not_found");
    assert_eq!(way(&["http://other.example/"])["details"], "route_not_found");
    assert_eq!(way(&["-X", "POST", "http://shop.example/post"])["address"], "127.0.0.1:9001");
    assert_eq!(way(&["-H", "host: SHOP.example", "/post"])["details"], "route_not_found", "GET is not POST");
}

#[test]
fn what_cannot_be_used_is_named_and_the_rest_explained() {
    let all = json(ROUTES, &["--address", "8081", "http://shop.example/"]);
    let errors: Vec<&str> = all["errors"].as_array().unwrap().iter().map(|e| e.as_str().unwrap()).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("cluster broken: static_resources.clusters[2]."), "{errors:?}");
    assert!(errors[1].starts_with("listener second, filter chain 0: static_resources.listeners[1].filter_chains[0]."));
    let closed = all["outcome"]["closed"].as_str().unwrap();
    assert!(closed.contains("example.Unknown"), "{closed}");
}

#[test]
fn a_dump_says_the_same_as_its_bootstrap() {
    let bootstrap: Value = waypost_xds::yaml::parse(WAYPOINT).unwrap();
    let wrapped = |kind: &str, one: &str, all: &Value| -> Value {
        all.as_array().unwrap().iter().map(|v| value!({ kind: v, "last_updated": one })).collect()
    };
    let dump = value!({"configs": [
        {"static_clusters": wrapped("cluster", "", &bootstrap["static_resources"]["clusters"])},
        {"static_listeners": wrapped("listener", "", &bootstrap["static_resources"]["listeners"])},
    ]});
    let args = ["--hbone", "127.2.0.10:80", "--peer", CLIENT, "/"];
    assert_eq!(text(&dump.to_string(), &args), text(WAYPOINT, &args));
}

#[test]
fn a_peer_of_a_foreign_trust_domain_is_refused() {
    let closed = outcome(WAYPOINT, &["--hbone", "127.2.0.10:80", "--peer", "spiffe://elsewhere/ns/a/sa/b"]);
    assert!(closed["closed"].as_str().unwrap().contains("spiffe://elsewhere/"));
    let none = outcome(WAYPOINT, &["--listener", "connect_terminate", "http://x/"]);
    assert_eq!(none["closed"], "the client does not speak TLS");
}

#[test]
fn a_request_needs_a_way_in() {
    let asked = |args: &[&str]| {
        let matches = cli().try_get_matches_from([&["-c", "-"], args].concat()).unwrap();
        ask::ask(&matches).map(|_| ()).map_err(|e| e.to_string())
    };
    assert!(asked(&["/path"]).unwrap_err().contains("where does it enter"));
    assert!(asked(&["ftp://x/"]).unwrap_err().contains("ftp"));
    assert!(asked(&["--address", "x", "/"]).is_err() && asked(&["--source", "x", "http://a/"]).is_err());
    assert!(asked(&["https://[::1]:8443/a?b#c"]).is_ok());
    assert!(cli().try_get_matches_from(["/"]).is_err(), "neither --admin nor -c");
}

/// A dump of a listener on port 8080 with routes of RDS, endpoints of EDS and perhaps a guard that is not built.
fn discovered(routes: &Value, guarded: bool) -> String {
    let ads = value!({ "ads": {}, "resource_api_version": "V3" });
    let any = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.{name}");
    let service = value!({ "envoy_grpc": { "cluster_name": "c" } });
    let limit = value!({ "@type": any("http.ratelimit.v3.RateLimit"), "domain": "d",
        "rate_limit_service": { "transport_api_version": "V3", "grpc_service": service } });
    let filter = match guarded {
        true => value!({ "name": "limit", "typed_config": limit }),
        false => value!({ "name": "fault", "typed_config": { "@type": any("http.fault.v3.HTTPFault") } }),
    };
    let manager = value!({
        "@type": any("network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "h",
        "rds": { "route_config_name": "r", "config_source": ads },
        "http_filters": [
            filter,
            { "name": "router", "typed_config": { "@type": any("http.router.v3.Router") } },
        ],
    });
    let listener = value!({
        "name": "l",
        "address": { "socket_address": { "address": "0.0.0.0", "port_value": 8080 } },
        "filter_chains": [{ "filters": [{ "name": "hcm", "typed_config": manager }] }],
    });
    let cluster = value!({
        "name": "c", "type": "EDS", "eds_cluster_config": { "service_name": "s", "eds_config": ads },
    });
    let endpoint =
        |ip: &str| value!({ "endpoint": { "address": { "socket_address": { "address": ip, "port_value": 80 } } } });
    value!({"configs": [
        {"dynamic_active_clusters": [{ "cluster": cluster }]},
        {"dynamic_listeners": [{ "name": "l", "active_state": { "listener": listener } }]},
        {"dynamic_route_configs": routes},
        {"dynamic_endpoint_configs": [{"endpoint_config":
            {"cluster_name": "s", "endpoints": [{"load_balancing_weight": 0, "lb_endpoints": [endpoint("192.0.2.1"), endpoint("192.0.2.2")]}]}}]},
    ]})
    .to_string()
}

#[test]
fn what_discovery_brought_is_in_its_place() {
    let routes = value!([{ "route_config": { "name": "r", "virtual_hosts": [{ "name": "v", "domains": ["*"], "routes": [
        { "match": { "prefix": "/open" }, "route": { "cluster": "c" }, "typed_per_filter_config":
            { "limit": { "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true } } },
        { "match": { "prefix": "/" }, "route": { "cluster": "c" } },
    ]}]}}]);
    let dump = discovered(&routes, true);
    let open = text(&dump, &["--random", "1", "http://x:8080/open"]);
    assert!(
        open.contains(
            "filter limit (envoy.extensions.filters.http.ratelimit.v3.RateLimit): switched off on this route"
        )
    );
    assert!(
        open.contains("route 0 without a name matches: prefix \"/open\"") && open.contains("host 192.0.2.1:80"),
        "{open}"
    );
    assert!(open.contains("=> goes to 192.0.2."), "{open}");
    let closed = outcome(&dump, &["http://x:8080/"]);
    assert_eq!(closed, value!({ "status": 500, "details": "filter_not_supported{limit}" }));
}

#[test]
fn a_route_that_wants_a_filter_that_is_not_built_says_so() {
    let routes = value!([{ "route_config": { "name": "r", "virtual_hosts": [{ "name": "v", "domains": ["*"], "routes": [
        { "name": "guarded", "match": { "prefix": "/" }, "route": { "cluster": "c" }, "typed_per_filter_config":
            { "fault": { "@type": "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute" } } },
    ]}]}}]);
    let answer = text(&discovered(&routes, false), &["http://x:8080/"]);
    let (way, outcome) = answer.split_once("=> ").unwrap();
    assert!(way.contains("route 0 guarded matches") && way.contains("filter fault answers 500"), "{way}");
    assert_eq!(outcome, "answered here: 500 (filter_not_supported{fault})\n");
}

#[test]
fn routes_that_have_not_come_or_cannot_be_used_are_said_to_be_so() {
    let missing = text(&discovered(&value!([]), false), &["http://x:8080/"]);
    assert!(missing.contains("route configuration \"r\" has not come over RDS"), "{missing}");
    assert!(missing.contains("=> answered here: 404 (route_not_found)"), "{missing}");
    let hosts = value!([{ "name": "v", "domains": ["*"], "routes": [{ "match": { "prefix": "/" } }] }]);
    let broken = value!([{ "route_config": { "name": "r", "virtual_hosts": hosts } }]);
    let broken = text(&discovered(&broken, false), &["http://x:8080/"]);
    assert!(
        broken.contains("route configuration \"r\" cannot be used: dynamic_route_configs[r].virtual_hosts[0]"),
        "{broken}"
    );
    assert!(broken.contains("not usable:\n  route configuration r: "), "{broken}");
}

#[test]
fn names_are_not_looked_up() {
    let names = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 0.0.0.0, port_value: 8080}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: t
          cluster: c
  clusters:
  - name: c
    type: STRICT_DNS
    load_assignment:
      cluster_name: c
      endpoints:
      - lb_endpoints:
        - {endpoint: {address: {socket_address: {address: one.example, port_value: 443}}}}
        - {endpoint: {address: {socket_address: {address: two.example, port_value: 444}}}}
"#;
    let at = |random: &str| outcome(names, &["--tcp", "--random", random, "http://127.0.0.1:8080/"])["address"].clone();
    assert_eq!((at("0"), at("1")), ("one.example:443".into(), "two.example:444".into()));
}

#[test]
fn a_filter_of_ecds_is_what_has_come_for_it() {
    let routes = value!([{ "route_config": { "name": "r", "virtual_hosts": [{ "name": "v", "domains": ["*"],
        "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "c" } }] }] } }]);
    let any = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.http.{name}");
    let mut dump: Value = serde_json::from_str(&discovered(&routes, false)).unwrap();
    let listener = &mut dump["configs"][1]["dynamic_listeners"][0]["active_state"]["listener"];
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["http_filters"][0] = value!({ "name": "e", "config_discovery": {
        "config_source": { "ads": {}, "resource_api_version": "V3" }, "type_urls": [any("cors.v3.Cors")] } });
    let missing = text(&dump.to_string(), &["http://x:8080/"]);
    assert!(missing.contains("filter e (no configuration that is known): answers 500 (flag NFCF)"), "{missing}");
    assert!(missing.ends_with("=> answered here: 500\n"), "{missing}");
    let config = value!({ "@type": any("cors.v3.Cors") });
    let extension = value!({ "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "name": "e", "typed_config": config });
    dump["configs"].as_array_mut().unwrap().push(value!({ "ecds_filters": [{ "ecds_filter": extension }] }));
    let come = text(&dump.to_string(), &["http://x:8080/"]);
    assert!(come.contains("filter e (envoy.extensions.filters.http.cors.v3.Cors): left out"), "{come}");
    assert!(come.contains("=> goes to 192.0.2."), "{come}");
}
