//! Pages as Envoy prints them.

use http::{Method, StatusCode};

use super::{add_cluster, ask, get, post, state};

const STATUSES: &str = "http.ing<b>.downstream_rq_total";

#[test]
fn help_says_what_envoys_says() {
    let state = state();
    let recorded = include_str!("help.txt");
    assert_eq!(get(&state, "/help"), recorded);
    let unknown = ask(&state, Method::GET, "/nope");
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.body, recorded.replacen("admin commands", "invalid path. admin commands", 1));
    let page = ask(&state, Method::HEAD, "/quitquitquit");
    assert_eq!(
        (page.status, page.body.as_str()),
        (StatusCode::METHOD_NOT_ALLOWED, "Method HEAD not allowed, POST required.")
    );
}

#[test]
fn ready_and_health_checks() {
    let state = state();
    assert_eq!(get(&state, "/ready"), "LIVE\n");
    assert_eq!(post(&state, "/healthcheck/fail"), "OK\n");
    let page = ask(&state, Method::GET, "/ready");
    assert_eq!((page.status, page.body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "DRAINING\n"));
    assert!(state.shared.drain.is_on());
    post(&state, "/healthcheck/ok");
    assert_eq!(get(&state, "/ready"), "LIVE\n");
    assert!(!state.shared.drain.is_on());
    // A drain does not change what the server says of itself.
    assert_eq!(post(&state, "/drain_listeners?graceful&skip_exit"), "OK\n");
    assert!(state.shared.drain.is_on());
    assert_eq!(get(&state, "/ready"), "LIVE\n");
}

#[test]
fn stats_are_sorted_filtered_and_reset() {
    let state = state();
    let store = &state.shared.stats;
    store.counter("http.a.b").add(3);
    store.counter("cluster.z.never");
    store.gauge("cluster.z.gauge").set(7);
    let of = |query: &str| get(&state, &format!("/stats?filter=%5E(http|cluster\\.){query}"));
    assert_eq!(of(""), "cluster.z.gauge: 7\ncluster.z.never: 0\nhttp.a.b: 3\n");
    assert_eq!(of("&usedonly"), "cluster.z.gauge: 7\nhttp.a.b: 3\n");
    assert_eq!(of("&type=Gauges"), "cluster.z.gauge: 7\n");
    assert_eq!(
        of("&format=json&usedonly"),
        r#"{"stats":[{"name":"cluster.z.gauge","value":7},{"name":"http.a.b","value":3}]}"#
    );
    assert!(!get(&state, "/stats?filter=http&invert_filter").contains("http"));
    assert_eq!(post(&state, "/reset_counters"), "OK\n");
    assert_eq!(of("&usedonly"), "cluster.z.gauge: 7\nhttp.a.b: 0\n");
    // What pilot-agent asks until the proxy is ready.
    let agent = get(&state, "/stats?usedonly&filter=^(server\\.state|listener_manager\\.workers_started)");
    assert_eq!(agent, "listener_manager.workers_started: 1\nserver.state: 0\n");
    for (query, text) in [
        ("format=foo", "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n"),
        ("type=foo", "invalid &type= param"),
        ("hidden=showonly", "usage: /stats?hidden=(include|only|exclude)\n\n"),
        (
            "histogram_buckets=foo",
            "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n",
        ),
    ] {
        let page = ask(&state, Method::GET, &format!("/stats?{query}"));
        assert_eq!((page.status, page.body.as_str()), (StatusCode::BAD_REQUEST, text));
    }
    let page = ask(&state, Method::GET, "/stats?filter=[");
    assert!(page.status == StatusCode::BAD_REQUEST && page.body.starts_with("Invalid re2 regex"), "{}", page.body);
}

#[test]
fn histograms_are_summed_up_as_envoy_does() {
    let state = state();
    let store = &state.shared.stats;
    store.histogram("cluster.xds.upstream_cx_connect_ms");
    store.histogram("server.initialization_time_ms").record(14);
    let h = store.histogram("cluster.c1alt.upstream_cx_connect_ms");
    for (value, n) in [(0, 5920), (1, 14), (2, 3), (3, 1), (4, 2)] {
        (0..n).for_each(|_| h.record(value));
    }
    // The second number of each pair is Envoy's for the same values.
    assert_eq!(
        get(&state, "/stats?type=Histograms"),
        "cluster.c1alt.upstream_cx_connect_ms: P0(nan,0) P25(nan,0) P50(nan,0) P75(nan,0) P90(nan,0) P95(nan,0) P99(nan,0) \
         P99.5(nan,0) P99.9(nan,2.025) P100(nan,4.066666666666666)\n\
         cluster.xds.upstream_cx_connect_ms: No recorded values\n\
         server.initialization_time_ms: P0(nan,14.5) P25(nan,14.5) P50(nan,14.5) P75(nan,14.5) P90(nan,14.5) P95(nan,14.5) \
         P99(nan,14.5) P99.5(nan,14.5) P99.9(nan,14.5) P100(nan,14.5)\n"
    );
    let buckets = get(&state, "/stats?usedonly&histogram_buckets=cumulative&filter=c1alt");
    assert!(
        buckets.starts_with("cluster.c1alt.upstream_cx_connect_ms: B0.5(0,5920) B1(0,5934) B5(0,5940)"),
        "{buckets}"
    );
    assert!(buckets.ends_with("B600000(0,5940) B1.8e+06(0,5940) B3.6e+06(0,5940)\n"), "{buckets}");
    let detailed = get(&state, "/stats?histogram_buckets=detailed&filter=c1alt");
    assert!(detailed.contains(":\n  totals=0,0:5920, 1,0.1:14, 2,0.1:3, 3,0.1:1, 4,0.1:2\n"), "{detailed}");
    let json = get(&state, "/stats?format=json&filter=xds");
    assert!(json.starts_with(
        r#"{"stats":[{"histograms":{"supported_quantiles":[0,25,50,75,90,95,99,99.5,99.9,100],"computed_quantiles":[{"name":"cluster.xds.upstream_cx_connect_ms","values":[{"cumulative":null,"interval":null},"#
    ), "{json}");
    let prometheus = get(&state, "/stats/prometheus?filter=^cluster.c1alt");
    let expected = "# TYPE envoy_cluster_upstream_cx_connect_ms histogram\n\
        envoy_cluster_upstream_cx_connect_ms_bucket{envoy_cluster_name=\"c1alt\",le=\"0.5\"} 5920\n\
        envoy_cluster_upstream_cx_connect_ms_bucket{envoy_cluster_name=\"c1alt\",le=\"1\"} 5934\n\
        envoy_cluster_upstream_cx_connect_ms_bucket{envoy_cluster_name=\"c1alt\",le=\"5\"} 5940\n";
    assert!(prometheus.starts_with(expected), "{prometheus}");
    assert!(
        prometheus.ends_with(
            "envoy_cluster_upstream_cx_connect_ms_bucket{envoy_cluster_name=\"c1alt\",le=\"3600000\"} 5940\n\
         envoy_cluster_upstream_cx_connect_ms_bucket{envoy_cluster_name=\"c1alt\",le=\"+Inf\"} 5940\n\
         envoy_cluster_upstream_cx_connect_ms_sum{envoy_cluster_name=\"c1alt\"} 31\n\
         envoy_cluster_upstream_cx_connect_ms_count{envoy_cluster_name=\"c1alt\"} 5940\n"
        ),
        "{prometheus}"
    );
}

#[test]
fn prometheus_groups_what_has_one_name() {
    let state = state();
    let store = &state.shared.stats;
    store.counter("cluster.c1alt.upstream_rq_total").add(2);
    store.counter("cluster.xds.upstream_rq_total").add(1);
    store.counter("cluster.c1alt.z").add(1);
    store.counter("cluster_manager.cluster_added").add(2);
    store.gauge("cluster.xds.membership_total").set(2);
    assert_eq!(
        get(&state, "/stats/prometheus?usedonly&filter=^cluster.*(c1alt|xds|added)"),
        "# TYPE envoy_cluster_upstream_rq_total counter\n\
         envoy_cluster_upstream_rq_total{envoy_cluster_name=\"c1alt\"} 2\n\
         envoy_cluster_upstream_rq_total{envoy_cluster_name=\"xds\"} 1\n\
         # TYPE envoy_cluster_z counter\n\
         envoy_cluster_z{envoy_cluster_name=\"c1alt\"} 1\n\
         # TYPE envoy_cluster_manager_cluster_added counter\n\
         envoy_cluster_manager_cluster_added{} 2\n\
         # TYPE envoy_cluster_membership_total gauge\n\
         envoy_cluster_membership_total{envoy_cluster_name=\"xds\"} 2\n"
    );
}

#[test]
fn no_stat_name_becomes_html() {
    let state = state();
    state.shared.stats.counter("cluster.<script>alert(1)</script>.x").inc();
    state.shared.stats.counter(STATUSES).inc();
    let page = ask(&state, Method::GET, "/stats?format=html&filter=cluster|http");
    assert_eq!(page.content_type, "text/html; charset=UTF-8");
    assert!(!page.body.contains("<script>") && page.body.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    assert!(page.body.contains("http.ing&lt;b&gt;.downstream_rq_total: 1"));
    assert!(get(&state, "/stats?format=json&filter=script").contains("cluster.\\u003cscript\\u003ealert"));
    assert_eq!(ask(&state, Method::GET, "/stats").content_type, "text/plain; charset=UTF-8");
}

#[test]
fn clusters_in_text_and_json() {
    let state = state();
    add_cluster(&state);
    let text = get(&state, "/clusters");
    let expected = "c1::observability_name::c1alt\nc1::default_priority::max_connections::1024\n\
        c1::default_priority::max_pending_requests::1024\nc1::default_priority::max_requests::1024\n\
        c1::default_priority::max_retries::3\nc1::high_priority::max_connections::1024\n\
        c1::high_priority::max_pending_requests::1024\nc1::high_priority::max_requests::1024\n\
        c1::high_priority::max_retries::3\nc1::added_via_api::false\n\
        c1::127.0.0.1:29902::cx_active::1\nc1::127.0.0.1:29902::cx_connect_fail::0\n\
        c1::127.0.0.1:29902::cx_total::5940\nc1::127.0.0.1:29902::rq_active::0\nc1::127.0.0.1:29902::rq_error::0\n\
        c1::127.0.0.1:29902::rq_pending_active::0\nc1::127.0.0.1:29902::rq_success::0\n\
        c1::127.0.0.1:29902::rq_timeout::0\nc1::127.0.0.1:29902::rq_total::5939\nc1::127.0.0.1:29902::hostname::h\n\
        c1::127.0.0.1:29902::health_flags::healthy\nc1::127.0.0.1:29902::weight::3\nc1::127.0.0.1:29902::region::r\n\
        c1::127.0.0.1:29902::zone::z\nc1::127.0.0.1:29902::sub_zone::s\nc1::127.0.0.1:29902::canary::false\n\
        c1::127.0.0.1:29902::priority::0\nc1::127.0.0.1:29902::success_rate::-1\n\
        c1::127.0.0.1:29902::local_origin_success_rate::-1\nc1::127.0.0.1:29905::cx_active::0\n";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("c1::127.0.0.1:29905::health_flags::/failed_eds_health\n"));
    assert_eq!(get(&state, "/clusters?filter=nobody"), "");
    let json = get(&state, "/clusters?format=json");
    let expected = r#"{
 "cluster_statuses": [
  {
   "name": "c1",
   "host_statuses": [
    {
     "address": {
      "socket_address": {
       "address": "127.0.0.1",
       "port_value": 29902
      }
     },
     "stats": [
      {
       "name": "cx_connect_fail"
      },
      {
       "value": "5940",
       "name": "cx_total"
      },
"#;
    assert!(json.starts_with(expected), "{json}");
    assert!(json.contains(
        "      {\n       \"type\": \"GAUGE\",\n       \"value\": \"1\",\n       \"name\": \"cx_active\"\n      },\n"
    ));
    assert!(json.ends_with("     {\n      \"priority\": \"HIGH\",\n      \"max_connections\": 1024,\n      \"max_pending_requests\": 1024,\n      \"max_requests\": 1024,\n      \"max_retries\": 3\n     }\n    ]\n   },\n   \"observability_name\": \"c1alt\"\n  }\n ]\n}\n"), "{json}");
}

#[test]
fn logging_changes_one_some_or_all() {
    let state = state();
    let log = |query: &str| ask(&state, Method::POST, &format!("/logging{query}"));
    let level = |name: &str| state.log.levels().find(|(n, _)| *n == name).unwrap().1.name();
    let body = log("").body;
    assert!(body.starts_with("active loggers:\n  a2a: info\n  admin: info\n"), "{body}");
    assert!(body.ends_with("  ip_tagging: info\n\n"), "{body}");
    assert_eq!(log("?http=debug").status, StatusCode::OK);
    assert_eq!((level("http"), level("admin")), ("debug", "info"));
    log("?paths=http:info,upstream:error");
    assert_eq!((level("http"), level("upstream")), ("info", "error"));
    log("?level=warning");
    assert_eq!((level("http"), level("upstream")), ("warning", "warning"));
    assert_eq!(log("?level=").status, StatusCode::OK);
    for (query, reason) in [
        ("?level=foo", "unknown logger level"),
        ("?foo=debug", "unknown logger name"),
        ("?http=info&admin=info", "invalid number of parameters"),
        ("?group=http:debug", "group parameter requires fine-grain logging to be enabled"),
        ("?paths=http:trace,xx:info", "unknown logger name"),
    ] {
        let page = log(query);
        assert_eq!(page.status, StatusCode::BAD_REQUEST, "{query}");
        let start = format!(
            "error: {reason}\n\nusage: /logging?<name>=<level> (change single level)\n\
             usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)\n\
             usage: /logging?level=<level> (change all levels)\n\
             usage: /logging?group=<group_name>:<level> (change group of loggers)\n\
             levels: trace debug info warning error critical off \nactive loggers:\n  a2a: warning\n"
        );
        assert!(page.body.starts_with(&start), "{}", page.body);
    }
    assert_eq!(level("http"), "warning");
}

#[test]
fn small_pages() {
    let state = state();
    assert_eq!(
        get(&state, "/runtime"),
        "{\n \"entries\": {\n  \"a.b\": {\n   \"final_value\": \"5\",\n   \"layer_values\": [\n    \"5\",\n    \"\"\n   ]\n  },\n  \
         \"c\": {\n   \"final_value\": \"y\",\n   \"layer_values\": [\n    \"x\",\n    \"y\"\n   ]\n  }\n },\n \"layers\": [\n  \"base\",\n  \"admin\"\n ]\n}\n"
    );
    assert_eq!(get(&state, "/certs"), "{\n \"certificates\": []\n}\n");
    assert_eq!(get(&state, "/init_dump"), "{}\n");
    assert_eq!(get(&state, "/hot_restart_version"), "disabled");
    assert_eq!(post(&state, "/cpuprofiler"), "?enable=<y|n>\n");
    assert_eq!(post(&state, "/cpuprofiler?enable=y"), "failure to start the profiler");
    assert_eq!(post(&state, "/cpuprofiler?enable=n"), "OK\n");
    assert_eq!(post(&state, "/reopen_logs"), "OK\n");
    assert_eq!(ask(&state, Method::POST, "/runtime_modify?a=b").status, StatusCode::SERVICE_UNAVAILABLE);
    let memory: serde_json::Value = serde_json::from_str(&get(&state, "/memory")).unwrap();
    let bytes: u64 = memory["allocated"].as_str().unwrap().parse().unwrap();
    assert!(bytes > 1 << 16);
}

#[test]
fn server_info_prints_every_option() {
    let text = get(&state(), "/server_info");
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["state"], "LIVE");
    let options = value["command_line_options"].as_object().unwrap();
    assert_eq!((value.as_object().unwrap().len(), options.len()), (8, 39));
    assert_eq!(options["drain_time"], "600s");
    assert_eq!(options["file_flush_interval"], "10s");
    assert_eq!(options["concurrency"], 2);
    assert!(text.contains("  \"disabled_extensions\": [],\n"));
}
