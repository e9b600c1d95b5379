//! Tests of routes. Expectations with a case number were observed on Envoy 1.40.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use waypost_filters::address::Address;
use waypost_filters::connection::Connection;
use waypost_filters::head::{RequestHead, Scheme};
use waypost_filters::stream::{HttpStream, StreamInfo};
use waypost_xds::envoy::config::route::v3::RouteConfiguration;
use waypost_xds::{json, yaml};

use super::*;
use crate::cluster::ClusterTable;
use crate::config::Process;
use crate::observe::access_log::AccessLogFiles;
use crate::observe::stats::Store;

pub(super) fn compile(config: RouteConfiguration) -> Result<Arc<RouteTable>, ConfigError> {
    let (stats, clusters, logs) = (Arc::new(Store::default()), ClusterTable::default(), AccessLogFiles::default());
    let process = Process::default();
    let cx = Context {
        stats: &stats,
        clusters: &clusters,
        logs: &logs,
        secrets: &crate::tls::SecretStore::new(),
        routes: &crate::route::slot::RouteSlots::default(),
        extensions: &crate::config::extension_slot::ExtensionSlots::default(),
        process: &process,
    };
    RouteTable::compile(config, &cx, "rc")
}

fn read(text: &str) -> RouteConfiguration {
    json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap()
}

pub(super) fn table(text: &str) -> Arc<RouteTable> {
    compile(read(text)).unwrap()
}

/// A table of one virtual host with these routes.
fn routes(text: &str) -> Arc<RouteTable> {
    table(&format!("name: r\nvirtual_hosts:\n- name: v\n  domains: ['*']\n  routes:\n{text}"))
}

fn refused(text: &str) -> String {
    compile(read(&format!("name: r\nvirtual_hosts:\n- name: v\n  domains: ['*']\n  {text}"))).unwrap_err().to_string()
}

pub(super) fn stream(host: &str, path: &str, headers: &[(&str, &str)]) -> HttpStream {
    let address = Address::Ip("10.0.0.1:80".parse().unwrap());
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let connection = Arc::new(Connection::new(address.clone(), address));
    HttpStream {
        info: StreamInfo::new(connection, 1, Instant::now(), SystemTime::now()),
        request: RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: Some(HeaderValue::from_str(host).unwrap()),
            path: Some(HeaderValue::from_str(path).unwrap()),
            upgrade: None,
            headers: map,
            original_path: None,
        },
        response: None,
        response_trailers: None,
        reroute: false,
        body: Default::default(),
    }
}

fn name<'a>(table: &'a RouteTable, stream: &HttpStream) -> &'a str {
    table.find(stream, 0).map_or("-", |r| &r.name)
}

fn get<'a>(table: &'a RouteTable, path: &str, headers: &[(&str, &str)]) -> &'a str {
    name(table, &stream("h", path, headers))
}

const ANSWER: &str = "direct_response: {status: 200}";

#[test]
fn virtual_hosts_match_exactly_then_by_suffix_then_by_prefix() {
    let domains = ["ex.com", "'*.ex.com'", "'*-b.ex.com'", "ex.*", "po.com:8080", "'*'", "'ex.com.*'"];
    let host =
        |d: &&str| format!("- {{name: v, domains: [{d}], routes: [{{name: {d}, match: {{prefix: /}}, {ANSWER}}}]}}");
    let hosts = domains.iter().map(host).collect::<Vec<_>>().join("\n");
    let t = table(&format!("name: r\nvirtual_hosts:\n{hosts}"));
    for (host, expected) in [
        ("EX.com", "ex.com"),         // E01
        ("a.ex.com", "*.ex.com"),     // E02
        ("a-b.ex.com", "*-b.ex.com"), // E02
        (".ex.com", "*"),             // the star stands for something
        ("ex.org", "ex.*"),           // E03
        ("ex.com:21000", "ex.*"),     // E03
        ("ex.com.x", "ex.com.*"),
        ("ex.", "*"),
        ("po.com:8080", "po.com:8080"), // E04
        ("po.com", "*"),
        ("", "*"),
    ] {
        assert_eq!(name(&t, &stream(host, "/", &[])), expected, "{host}");
    }
    let mut nameless = stream("", "/", &[]);
    nameless.request.authority = None;
    assert_eq!(name(&t, &nameless), "-");
    assert_eq!(name(&routes(&format!("  - {{name: any, match: {{prefix: /}}, {ANSWER}}}")), &nameless), "any");
}

#[test]
fn the_port_and_the_header_that_names_the_host_can_be_chosen() {
    let hosts = format!(
        "virtual_hosts: [{{name: v, domains: [a], routes: [{{name: r, match: {{prefix: /}}, {ANSWER}}}]}}, {{name: w, domains: ['[::1]'], routes: [{{name: v6, match: {{prefix: /}}, {ANSWER}}}]}}]"
    );
    let plain = table(&format!("name: r\n{hosts}"));
    let ignoring = table(&format!("name: r\nignore_port_in_host_matching: true\n{hosts}"));
    let by_header = table(&format!("name: r\nvhost_header: x-vhost\n{hosts}"));
    assert_eq!(name(&plain, &stream("a:80", "/", &[])), "-");
    assert_eq!(name(&ignoring, &stream("A:80", "/", &[])), "r");
    assert_eq!(name(&ignoring, &stream("[::1]:80", "/", &[])), "v6");
    assert_eq!(name(&ignoring, &stream("[::1]", "/", &[])), "v6");
    assert_eq!(name(&by_header, &stream("b", "/", &[("x-vhost", "a")])), "r");
    assert_eq!(name(&by_header, &stream("a", "/", &[])), "-");
}

#[test]
fn domains_are_unique() {
    let error = |a: &str, b: &str| {
        let text = format!("name: r\nvirtual_hosts: [{{name: v, domains: [x, {a}]}}, {{name: w, domains: [{b}]}}]");
        compile(read(&text)).unwrap_err().to_string()
    };
    assert_eq!(
        error("A.com", "a.com"),
        "rc.virtual_hosts[1].domains[0]: Only unique values for domains are permitted. Duplicate entry of domain a.com in route r"
    );
    assert_eq!(
        error("'*'", "'*'"),
        "rc.virtual_hosts[1].domains[0]: Only a single wildcard domain is permitted in route r"
    );
}

#[test]
fn paths_match_without_their_query() {
    let t = routes(&format!(
        "  - {{name: separated, match: {{path_separated_prefix: /ps}}, {ANSWER}}}
  - {{name: exact, match: {{path: /exact}}, {ANSWER}}}
  - {{name: nocase, match: {{path: /CaSe, case_sensitive: false}}, {ANSWER}}}
  - {{name: regex, match: {{safe_regex: {{regex: '/r[x]q'}}}}, {ANSWER}}}
  - {{name: prefix, match: {{prefix: /pre}}, {ANSWER}}}"
    ));
    for (path, expected) in [
        ("/ps", "separated"),   // E05
        ("/ps/x", "separated"), // E05
        ("/ps?x", "separated"),
        ("/psx", "-"),           // E05
        ("/exact?x=1", "exact"), // E06
        ("/exact/", "-"),        // E06
        ("/cAsE", "nocase"),     // E07
        ("/rxq?z=1", "regex"),   // E08
        ("/rxq/1", "-"),         // E08
        ("/x?/rxq", "-"),
        ("/prefix", "prefix"),
        ("/Pre", "-"),
    ] {
        assert_eq!(get(&t, path, &[]), expected, "{path}");
    }
}

#[test]
fn conditions_beside_the_path_must_all_hold() {
    let t = routes(&format!(
        "  - {{name: query, match: {{prefix: /, query_parameters: [{{name: a, string_match: {{exact: '1'}}}}, {{name: b, present_match: true}}]}}, {ANSWER}}}
  - {{name: headers, match: {{prefix: /, headers: [{{name: x-a, string_match: {{exact: v}}}}, {{name: x-b, present_match: false}}, {{name: x-r, range_match: {{start: 1, end: 10}}}}]}}, {ANSWER}}}
  - {{name: never, match: {{prefix: /, runtime_fraction: {{default_value: {{numerator: 0}}}}}}, {ANSWER}}}
  - {{name: grpc, match: {{prefix: /, grpc: {{}}}}, {ANSWER}}}
  - {{name: cookie, match: {{prefix: /, cookies: [{{name: c, string_match: {{exact: '1'}}}}]}}, {ANSWER}}}
  - {{name: tls, match: {{prefix: /, tls_context: {{presented: true}}}}, {ANSWER}}}
  - {{name: always, match: {{prefix: /, runtime_fraction: {{default_value: {{numerator: 100}}}}}}, {ANSWER}}}"
    ));
    assert_eq!(get(&t, "/?b&a=1", &[]), "query"); // E10
    assert_eq!(get(&t, "/?a=2&a=1&b", &[]), "always"); // E10
    let set = [("x-a", "v"), ("x-r", "9")];
    assert_eq!(get(&t, "/", &set), "headers"); // E11
    assert_eq!(get(&t, "/", &[("x-a", "v"), ("x-r", "10")]), "always"); // E11
    assert_eq!(get(&t, "/", &[set[0], set[1], ("x-b", "1")]), "always"); // E11
    assert_eq!(get(&t, "/", &[("content-type", "application/grpc+proto")]), "grpc"); // E15
    assert_eq!(get(&t, "/", &[("content-type", "application/grpc-web")]), "always"); // E15
    assert_eq!(get(&t, "/", &[("cookie", "c=1")]), "cookie");
    assert_eq!(get(&t, "/", &[]), "always"); // E16
}

#[test]
fn connect_goes_to_its_own_routes_only() {
    let t = routes(&format!(
        "  - {{name: plain, match: {{prefix: /}}, {ANSWER}}}
  - name: connect
    match: {{connect_matcher: {{}}}}
    route: {{cluster: c, upgrade_configs: [{{upgrade_type: CONNECT, connect_config: {{}}}}, {{upgrade_type: websocket, enabled: false}}]}}"
    ));
    let mut connect = stream("h:80", "/", &[]);
    connect.request.method = Method::CONNECT;
    connect.request.path = None;
    let route = t.find(&connect, 0).unwrap();
    assert_eq!(&*route.name, "connect");
    let Action::Forward(forward) = &route.action else { panic!("{route:?}") };
    assert_eq!(forward.upgrades.get(b"connect").unwrap().connect, Some(ConnectConfig { allow_post: false }));
    assert!(!forward.upgrades.get(b"WebSocket").unwrap().enabled);
    assert_eq!(get(&t, "/", &[]), "plain");
}

#[test]
fn weights_share_out_the_random_number() {
    let t = routes(
        "  - match: {prefix: /}
    route: {weighted_clusters: {header_name: x-n, clusters: [{name: a, weight: 1}, {name: b, weight: 0}, {name: c, weight: 3}]}}",
    );
    let pick = |random: u64, headers: &[(&str, &str)]| {
        let s = stream("h", "/", headers);
        t.find(&s, random).unwrap().pick_cluster(&s.request, random).unwrap().slot.name.to_string()
    };
    assert_eq!([0, 1, 2, 3, 4].map(|r| pick(r, &[])).join(""), "accca");
    assert_eq!(pick(0, &[("x-n", "7")]), "c");
    assert_eq!(pick(0, &[("x-n", "7"), ("x-n", "7")]), "a", "a repeated header does not count");
    assert_eq!(pick(0, &[("x-n", "seven")]), "a");
    assert_eq!(t.referenced_clusters().map(|c| &**c).collect::<Vec<_>>(), ["a", "b", "c"]);
    let all_first = routes(
        "  - {match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 0}]}}}",
    );
    let s = stream("h", "/", &[]);
    for random in [0, 1, 17, u64::MAX] {
        let route = all_first.find(&s, random).unwrap();
        assert_eq!(&*route.pick_cluster(&s.request, random).unwrap().slot.name, "a"); // E17
    }
}

fn rewritten(action: &str, condition: &str, path: &str, headers: &[(&str, &str)], keep: bool) -> HttpStream {
    let t = routes(&format!("  - {{match: {{{condition}}}, route: {{cluster: c, {action}}}}}"));
    let mut s = stream("h.com", path, headers);
    let route = t.find(&s, 0).unwrap().clone();
    let request = s.request.clone();
    let pick = route.pick_cluster(&request, 0).unwrap();
    route.finalize_request(&mut s, &pick, keep);
    s
}

fn text(value: Option<&HeaderValue>) -> &str {
    value.map_or("-", |v| v.to_str().unwrap())
}

#[test]
fn paths_are_rewritten_and_the_original_is_told() {
    for (action, condition, path, expected) in [
        ("prefix_rewrite: /", "prefix: /rw", "/rw/echo", "//echo"), // E19
        ("prefix_rewrite: /n", "path: /p", "/p?a=b", "/n?a=b"),
        ("prefix_rewrite: /n", "prefix: /P, case_sensitive: false", "/pq", "/nq"),
        ("prefix_rewrite: /n", "safe_regex: {regex: '/p.*'}", "/pq/r?s", "/n?s"),
        ("prefix_rewrite: /", "path_separated_prefix: /ps", "/ps/x", "//x"),
        (
            r"regex_rewrite: {pattern: {regex: '^/rx/(.*)/(.*)$'}, substitution: '/\2/\1'}",
            "prefix: /",
            "/rx/12/echo?a=b",
            "/echo/12?a=b",
        ), // E20
        ("regex_rewrite: {pattern: {regex: zzz}, substitution: new}", "prefix: /", "/noop?x", "/noop?x"),
    ] {
        let s = rewritten(action, condition, path, &[], true);
        assert_eq!(text(s.request.path.as_ref()), expected, "{action} {condition}");
        assert_eq!(text(s.request.headers.get("x-envoy-original-path")), path); // D24
        assert_eq!(text(s.request.original_path.as_ref()), path);
    }
    let suppressed = rewritten("prefix_rewrite: /n", "prefix: /p", "/p", &[], false);
    assert!(suppressed.request.headers.get("x-envoy-original-path").is_none()); // D16
    assert_eq!(text(suppressed.request.original_path.as_ref()), "/p");
    let kept = rewritten("timeout: 1s", "prefix: /p", "/p", &[], true);
    assert!(kept.request.headers.is_empty() && kept.request.original_path.is_none());
}

#[test]
fn hosts_are_rewritten_and_the_original_is_told() {
    let header = ("x-h", "new.com");
    for (action, headers, host, original, forwarded) in [
        ("host_rewrite_literal: new.com", &[][..], "new.com", "h.com", "-"), // E21
        ("host_rewrite_literal: new.com, append_x_forwarded_host: true", &[], "new.com", "h.com", "h.com"), // D25
        (
            "host_rewrite_literal: new.com, append_x_forwarded_host: true",
            &[("x-forwarded-host", "z")],
            "new.com",
            "h.com",
            "z,h.com",
        ),
        (
            "host_rewrite_literal: new.com, append_x_forwarded_host: true",
            &[("x-forwarded-host", "h.com")],
            "new.com",
            "h.com",
            "h.com",
        ),
        ("host_rewrite_header: x-h", &[header], "new.com", "h.com", "-"),
        ("host_rewrite_header: x-h, append_x_forwarded_host: true", &[], "h.com", "-", "-"),
        (
            r"host_rewrite_path_regex: {pattern: {regex: '^/(.+)/.+$'}, substitution: '\1'}, prefix_rewrite: /q",
            &[],
            "p",
            "h.com",
            "-",
        ),
        ("auto_host_rewrite: true", &[], "h.com", "-", "-"),
    ] {
        let s = rewritten(action, "prefix: /p", "/p/x?y", headers, true);
        assert_eq!(text(s.request.authority.as_ref()), host, "{action}");
        assert_eq!(text(s.request.headers.get("x-envoy-original-host")), original, "{action}"); // D24
        assert_eq!(text(s.request.headers.get("x-forwarded-host")), forwarded, "{action}");
    }
    let weighted =
        "weighted_clusters: {clusters: [{name: a, weight: 1, host_rewrite_literal: w}]}, append_x_forwarded_host: true";
    let t = routes(&format!("  - {{match: {{prefix: /}}, route: {{{weighted}}}}}"));
    let mut s = stream("h.com", "/", &[]);
    let route = t.find(&s, 0).unwrap();
    let pick = route.pick_cluster(&s.request, 0).unwrap();
    route.rewrite(&mut s, &pick, true);
    assert_eq!(text(s.request.authority.as_ref()), "w");
    assert!(s.request.headers.is_empty(), "a weighted cluster's host leaves no trace: {:?}", s.request.headers);
}

#[test]
fn the_chosen_host_names_the_request_where_asked() {
    let t = routes("  - {match: {prefix: /}, route: {cluster: c, auto_host_rewrite: true}}");
    let mut s = stream("h.com", "/", &[]);
    let Action::Forward(forward) = &t.find(&s, 0).unwrap().action else { panic!("not a forward") };
    forward.rewrite_host(&mut s, HeaderValue::from_static("up.com"), true);
    assert_eq!(text(s.request.authority.as_ref()), "up.com");
    assert_eq!(text(s.request.headers.get("x-envoy-original-host")), "h.com");
}

fn redirected(action: &str, condition: &str, host: &str, path: &str) -> (u16, String, HttpStream) {
    let t = routes(&format!("  - {{match: {{{condition}}}, redirect: {{{action}}}}}"));
    let mut s = stream(host, path, &[("x-forwarded-proto", "http")]);
    let route = t.find(&s, 0).unwrap().clone();
    let Action::Redirect(redirect) = &route.action else { panic!("{route:?}") };
    let location = route.redirect_location(&mut s, true).unwrap();
    (redirect.status.as_u16(), location.to_str().unwrap().to_owned(), s)
}

#[test]
fn redirects_go_where_envoy_sends_them() {
    let all = "host_redirect: h.com, port_redirect: 8443, scheme_redirect: https, prefix_rewrite: /new, response_code: PERMANENT_REDIRECT";
    for (action, condition, host, path, status, location) in [
        ("https_redirect: true", "prefix: /", "a.b:8080", "/x?q", 301, "https://a.b:8080/x?q"), // A22
        ("https_redirect: true", "prefix: /", "a.b:80", "/x", 301, "https://a.b/x"),            // A23
        ("https_redirect: true", "prefix: /", "[::1]:80", "/x", 301, "https://[::1]/x"),
        ("https_redirect: true", "prefix: /", "[::1]", "/x", 301, "https://[::1]/x"),
        (
            "path_redirect: /z, strip_query: true, response_code: TEMPORARY_REDIRECT",
            "prefix: /",
            "a.b",
            "/x?q",
            307,
            "http://a.b/z",
        ), // A24
        ("path_redirect: /z", "prefix: /", "a.b", "/x?q", 301, "http://a.b/z?q"),
        ("path_redirect: '/z?own=1', strip_query: true", "path: /pq", "rd", "/pq?x=1", 301, "http://rd/z?own=1"),
        (all, "prefix: /rd", "x.com", "/rd/a?b=c", 308, "https://h.com:8443/new/a?b=c"), // A25
        ("port_redirect: 80", "prefix: /", "x.com:81", "/", 301, "http://x.com:80/"),    // A26
        (
            r"regex_rewrite: {pattern: {regex: '^/rxr/(.*)$'}, substitution: '/\1/z'}, response_code: SEE_OTHER",
            "prefix: /rxr",
            "x.com",
            "/rxr/q?z=1",
            303,
            "http://x.com/q/z?z=1",
        ), // A27
        (
            "prefix_rewrite: /new, strip_query: true",
            "prefix: /ci, case_sensitive: false",
            "rd",
            "/CI/x?a=b",
            301,
            "http://rd/new/x",
        ),
        ("prefix_rewrite: /all", "safe_regex: {regex: '/re/(.*)'}", "rd", "/re/1?z=1", 301, "http://rd/all?z=1"),
        ("scheme_redirect: foo", "prefix: /", "rd:80", "/sr?b", 301, "foo://rd/sr?b"),
        ("host_redirect: h.com", "prefix: /", "rd:8080", "/hr", 301, "http://h.com/hr"),
        ("prefix_rewrite: /", "path_separated_prefix: /ps", "rd", "/ps", 301, "http://rd/"),
    ] {
        let (got_status, got, _) = redirected(action, condition, host, path);
        assert_eq!((got_status, &*got), (status, location), "{action} for {host}{path}");
    }
    let (_, _, s) = redirected(all, "prefix: /rd", "x.com", "/rd/a?b=c");
    assert_eq!(text(s.request.path.as_ref()), "/new/a?b=c"); // A25: the log shows it
    assert_eq!(text(s.request.headers.get("x-envoy-original-path")), "/rd/a?b=c");
}

#[test]
fn tls_is_demanded_by_redirect() {
    let demanding = |kind: &str| {
        table(&format!(
            "name: r\nvirtual_hosts: [{{name: v, domains: ['*'], require_tls: {kind}, routes: [{{name: r, match: {{prefix: /}}, {ANSWER}}}]}}]"
        ))
    };
    let (all, external) = (demanding("ALL"), demanding("EXTERNAL_ONLY"));
    let mut plain = stream("tls.com", "/p?q=1", &[("x-forwarded-proto", "http")]);
    let route = all.find(&plain, 0).unwrap().clone();
    assert_eq!(route.redirect_location(&mut plain, true).unwrap(), "https://tls.com/p?q=1"); // A28
    assert!(matches!(&route.action, Action::Redirect(r) if r.status == StatusCode::MOVED_PERMANENTLY));
    let secure = [("x-forwarded-proto", "https")];
    assert_eq!(get(&all, "/", &secure), "r");
    assert_eq!(get(&external, "/", &[("x-envoy-internal", "true")]), "r");
    assert_eq!(get(&external, "/", &[]), "");
    assert_eq!(get(&all, "/", &[("x-envoy-internal", "true")]), "");
}

#[test]
fn direct_responses_have_a_body_within_bounds() {
    let answer = |action: &str| {
        let t = routes(&format!("  - {{match: {{prefix: /}}, direct_response: {{{action}}}}}"));
        let route = t.find(&stream("h", "/", &[]), 0).unwrap().clone();
        let Action::DirectResponse(d) = &route.action else { panic!("{route:?}") };
        (d.status.as_u16(), d.body.clone())
    };
    assert_eq!(answer("status: 418, body: {inline_string: teapot}"), (418, "teapot".into())); // A20
    assert_eq!(answer("status: 204"), (204, "".into())); // A21
    assert_eq!(answer("status: 200, body: {inline_bytes: AAE=}"), (200, (&[0, 1][..]).into()));
    let error = |action: &str| refused(&format!("routes: [{{match: {{prefix: /}}, direct_response: {{{action}}}}}]"));
    let path = "rc.virtual_hosts[0].routes[0].direct_response";
    assert_eq!(error("status: 600"), format!("{path}.status: value must be inside range [200, 600)"));
    let long = "x".repeat(4097);
    assert_eq!(
        error(&format!("status: 200, body: {{inline_string: {long}}}")),
        format!("{path}.body: response body size is 4097 bytes; maximum is 4096")
    );
    let wide = format!(
        "name: r\nmax_direct_response_body_size_bytes: 5000\nvirtual_hosts: [{{name: v, domains: [a], routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {long}}}}}}}]}}]"
    );
    assert!(compile(read(&wide)).is_ok());
    assert!(error("status: 200, body: {filename: /nonexistent/body}").starts_with(&format!("{path}.body.filename: ")));
}

#[test]
fn what_istiod_sends_for_a_waypoint_loads() {
    let t = routes(
        "  - name: default
    match: {prefix: /}
    decorator: {operation: 'h:80/*'}
    route:
      cluster: inbound-vip|80|http|h
      timeout: 0s
      max_grpc_timeout: 0s
      retry_policy:
        num_retries: 2
        retry_on: connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes
        retry_host_predicate:
        - name: envoy.retry_host_predicates.previous_hosts
          typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}
        host_selection_retry_max_attempts: 5
        retry_priority:
          name: envoy.retry_priorities.previous_priorities
          typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 2}
      hash_policy: [{cookie: {name: c, ttl: 0s}}, {connection_properties: {source_ip: true}}]",
    );
    let route = t.find(&stream("h", "/", &[]), 0).unwrap();
    let Action::Forward(f) = &route.action else { panic!("{route:?}") };
    let retry = f.retry.as_ref().unwrap();
    assert_eq!((f.timeout, f.max_grpc_timeout), (None, Some(Duration::ZERO)));
    assert_eq!((retry.num_retries, retry.previous_hosts, retry.host_selection_attempts), (2, true, 5));
    assert_eq!(retry.previous_priorities, Some(2));
    assert!(retry.on.any(RetryOn::CONNECT_FAILURE) && retry.on.any(RetryOn::GRPC_UNAVAILABLE));
    assert!(!retry.on.any(RetryOn::FIVE_XX.union(RetryOn::RESET)));
    assert_eq!(retry.back_off, BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) });
    assert!(matches!(&f.hash_policy[0].source, HashSource::Cookie { ttl: Some(Duration::ZERO), .. }));
    assert_eq!(&*route.decorator.as_ref().unwrap().operation, "h:80/*");
}

#[test]
fn defaults_are_envoys_and_the_virtual_host_stands_in_for_the_route() {
    let t = table(
        "name: r
virtual_hosts:
- name: v
  domains: ['*']
  include_request_attempt_count: true
  retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.1s}}
  typed_per_filter_config: {f: {'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}
  routes:
  - {match: {prefix: /own}, stat_prefix: own, route: {cluster: c, retry_policy: {retry_on: reset, num_retries: 0}}}
  - {match: {prefix: /}, request_body_buffer_limit: 7, route: {cluster: c, cluster_not_found_response_code: INTERNAL_SERVER_ERROR}}",
    );
    let at = |path: &str| t.find(&stream("h", path, &[]), 0).unwrap();
    let forward = |path: &str| match &at(path).action {
        Action::Forward(f) => f,
        other => panic!("{other:?}"),
    };
    assert_eq!(forward("/own").retry.as_ref().unwrap().num_retries, 0);
    let retry = forward("/").retry.as_ref().unwrap();
    assert_eq!((retry.num_retries, retry.host_selection_attempts), (1, 1));
    assert_eq!(retry.back_off.max, Duration::from_secs(1));
    assert_eq!(forward("/").timeout, Some(Duration::from_secs(15)));
    assert_eq!(forward("/").cluster_not_found, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(forward("/own").cluster_not_found, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((at("/").body_buffer_limit, at("/own").body_buffer_limit), (Some(7), None));
    assert!(at("/own").stats.is_some() && at("/").stats.is_none());
    assert_eq!((at("/").filters.get("f"), at("/").filters.get("g")), (Some(FilterEffect::Off(None)), None));
    assert!(at("/").virtual_host.include_request_attempt_count);
}

#[test]
fn what_is_not_built_is_refused_with_its_path() {
    let route = |fields: &str| refused(&format!("routes: [{{match: {{prefix: /}}, route: {{cluster: c, {fields}}}}}]"));
    let path = "rc.virtual_hosts[0].routes[0].route";
    for (fields, field) in [
        ("metadata_match: {filter_metadata: {envoy.lb: {v: '1'}}}", "metadata_match"),
        ("retry_policy_typed_config: {}", "retry_policy_typed_config"),
    ] {
        assert_eq!(route(fields), format!("{path}.{field}: not supported yet"));
    }
    for ignored in [
        "hedge_policy: {hedge_on_per_try_timeout: true}",
        "request_mirror_policies: [{cluster: m}]",
        "rate_limits: [{actions: [{remote_address: {}}]}]",
        "internal_redirect_policy: {}",
        "cors: {}",
    ] {
        routes(&format!("  - {{match: {{prefix: /}}, tracing: {{}}, route: {{cluster: c, {ignored}}}}}"));
    }
    let filter = |config: &str| {
        refused(&format!(
            "routes: [{{match: {{prefix: /}}, route: {{cluster: c}}, typed_per_filter_config: {{f: {config}}}}}]"
        ))
    };
    assert_eq!(
        filter("{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}"),
        "rc.virtual_hosts[0].routes[0].typed_per_filter_config[f]: not supported: envoy.extensions.filters.http.router.v3.Router"
    );
}

#[test]
fn what_routes_say_about_filters_is_off_on_or_closed() {
    let effect = |config: &str, weights: &str| {
        let of_filters = "type.googleapis.com/envoy.extensions.filters.http";
        let config = config.replace('~', &format!("'@type': {of_filters}."));
        let weights = weights.replace('~', &format!("'@type': {of_filters}."));
        let t = table(&format!(
            "name: r\nvirtual_hosts: [{{name: v, domains: [a], routes: [{{match: {{prefix: /}}, route: {{weighted_clusters: \
             {{clusters: [{{name: c, weight: 1, typed_per_filter_config: {weights}}}]}}}}, typed_per_filter_config: {config}}}]}}]"
        ));
        t.find(&stream("a", "/", &[]), 0).unwrap().filters.get("f")
    };
    const OFF: &str = "{f: {'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}";
    const RBAC: &str = "{f: {~rbac.v3.RBACPerRoute, rbac: {}}}";
    assert_eq!(effect("{}", "{}"), None);
    assert_eq!(effect(OFF, "{}"), Some(FilterEffect::Off(None)));
    assert_eq!(
        effect("{f: {~fault.v3.HTTPFault, abort: {http_status: 503, percentage: {numerator: 100}}}}", "{}"),
        Some(FilterEffect::On)
    );
    assert_eq!(effect("{f: {~cors.v3.CorsPolicy, allow_methods: GET}}", "{}"), Some(FilterEffect::On));
    assert_eq!(effect(RBAC, "{}"), Some(FilterEffect::Guards));
    let off = Some(FilterEffect::Off(Some("envoy.extensions.filters.http.rbac.v3.RBAC")));
    assert_eq!(effect("{f: {~rbac.v3.RBACPerRoute}}", "{}"), off);
    assert_eq!(effect("{}", RBAC), Some(FilterEffect::Guards));
    assert_eq!(effect(OFF, RBAC), Some(FilterEffect::Guards));
    assert_eq!(effect("{}", "{f: {~rbac.v3.RBACPerRoute}}"), None, "off for one cluster is not off for the route");
}

#[test]
fn mistakes_are_found() {
    let error = |route: &str| refused(&format!("routes: [{{{route}}}]"));
    let path = "rc.virtual_hosts[0].routes[0]";
    for (route, expected) in [
        ("route: {cluster: c}", ".match: value is required"),
        ("match: {prefix: /}", ".action: value is required"),
        ("match: {}, route: {cluster: c}", ".match.path_specifier: value is required"),
        (
            "match: {path_separated_prefix: /a/}, route: {cluster: c}",
            ".match.path_separated_prefix: value does not match regex pattern \"^[^?#]+[^?#/]$\"",
        ),
        ("match: {prefix: /}, route: {}", ".route.cluster_specifier: value is required"),
        (
            "match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}",
            ".route.weighted_clusters: Sum of weights in the weighted_cluster must be greater than 0.",
        ),
        (
            "match: {prefix: /}, route: {cluster: c, upgrade_configs: [{upgrade_type: a}, {upgrade_type: A}]}",
            ".route.upgrade_configs[1]: Duplicate upgrade A",
        ),
        (
            "match: {prefix: /}, route: {cluster: c, upgrade_configs: [{upgrade_type: a, connect_config: {}}]}",
            ".route.upgrade_configs[0].connect_config: Non-CONNECT upgrade type has ConnectConfig",
        ),
        ("match: {prefix: /}, route: {cluster: c, timeout: -1s}", ".route.timeout: a duration must not be negative"),
    ] {
        assert_eq!(error(route), format!("{path}{expected}"));
    }
}

/// Every route configuration in a recorded push.
fn collect(value: &waypost_xds::Value, into: &mut Vec<waypost_xds::Value>) {
    use waypost_xds::Value;
    match value {
        Value::Object(fields) => {
            let typed = fields.get("@type").and_then(Value::as_str).unwrap_or_default();
            if typed.ends_with("envoy.config.route.v3.RouteConfiguration") {
                into.push(value.clone());
            }
            into.extend(fields.get("route_config").cloned());
            fields.values().for_each(|v| collect(v, into));
        }
        Value::Array(items) => items.iter().for_each(|v| collect(v, into)),
        _ => {}
    }
}

#[test]
fn what_istiod_was_recorded_to_send_loads() {
    use std::path::{Path, PathBuf};
    let root = std::env::var_os("WAYPOST_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("xds/testdata"), PathBuf::from);
    let (mut loaded, mut refused) = (0, Vec::new());
    for scenario in std::fs::read_dir(root).unwrap() {
        for file in ["lds.json", "rds.json"] {
            let path = scenario.as_ref().unwrap().path().join("recorded/state/0-initial").join(file);
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let mut configs = Vec::new();
            collect(&serde_json::from_str(&text).unwrap(), &mut configs);
            for mut config in configs {
                config.as_object_mut().unwrap().shift_remove("@type");
                let config = json::from_value(&config, &json::Options::ignore_unknown()).unwrap();
                match compile(config) {
                    Ok(_) => loaded += 1,
                    Err(e) => refused.push((path.clone(), e.to_string())),
                }
            }
        }
    }
    assert!(loaded > 0 && refused.is_empty(), "{refused:#?}");
}

#[test]
fn header_rules_run_from_the_route_outwards_unless_the_most_specific_wins() {
    let add = |value: &str| format!("request_headers_to_add: [{{header: {{key: x-o, value: {value}}}}}]");
    let order = |wins: bool, path: &str| {
        let t = table(&format!(
            "name: rc
most_specific_header_mutations_wins: {wins}
{}
virtual_hosts:
- name: v
  domains: ['*']
  {}
  routes:
  - {{match: {{prefix: /w}}, {}, route: {{weighted_clusters: {{clusters: [{{name: c, weight: 1, {}}}]}}}}}}
  - {{match: {{prefix: /}}, {}, route: {{cluster: c}}}}",
            add("c"),
            add("v"),
            add("r"),
            add("w"),
            add("r")
        ));
        let mut s = stream("h", path, &[]);
        let route = t.find(&s, 0).unwrap();
        let pick = route.pick_cluster(&s.request, 0).unwrap();
        route.finalize_request(&mut s, &pick, true);
        s.request.headers.get_all("x-o").iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join(",")
    };
    assert_eq!((&*order(false, "/"), &*order(false, "/w")), ("r,v,c", "w,r,v,c"));
    assert_eq!((&*order(true, "/"), &*order(true, "/w")), ("c,v,r", "w,c,v,r"));
}
