//! Names, tags and which stats there are.

use waypost_xds::envoy::config::metrics::v3::StatsConfig as Proto;
use waypost_xds::{json, yaml};

use super::super::stats_config::{StatsConfig, tagged_name};

fn config(text: &str) -> StatsConfig {
    let proto: Proto = json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap();
    StatsConfig::compile(Some(proto), &[]).unwrap()
}

fn series(config: &StatsConfig, name: &str) -> String {
    let stat = config.stat(name).unwrap();
    format!("{}{{{}}}", stat.metric, stat.labels)
}

#[test]
fn default_tags_are_envoys() {
    let config = StatsConfig::compile(None, &[]).unwrap();
    for (name, expected) in [
        ("cluster.c1alt.upstream_rq_total", r#"envoy_cluster_upstream_rq_total{envoy_cluster_name="c1alt"}"#),
        ("cluster.a.b_c|x.bind_errors", r#"envoy_cluster_b_c_x_bind_errors{envoy_cluster_name="a"}"#),
        ("cluster.c.upstream_rq_503", r#"envoy_cluster_upstream_rq{envoy_response_code="503",envoy_cluster_name="c"}"#),
        ("cluster_manager.cluster_added", "envoy_cluster_manager_cluster_added{}"),
        (
            "http.ing<b>.downstream_rq_2xx",
            r#"envoy_http_downstream_rq_xx{envoy_response_code_class="2",envoy_http_conn_manager_prefix="ing<b>"}"#,
        ),
        (
            "http.ing<b>.rbac.pre_.allowed",
            r#"envoy_http_rbac_allowed{envoy_rbac_http_prefix="pre_",envoy_http_conn_manager_prefix="ing<b>"}"#,
        ),
        ("http.ing<b>.rbac.shadow_denied", r#"envoy_http_rbac_shadow_denied{envoy_http_conn_manager_prefix="ing<b>"}"#),
        ("lrl.http_local_rate_limit.ok", r#"envoy_http_local_rate_limit_ok{envoy_local_http_ratelimit_prefix="lrl"}"#),
        ("listener.admin.downstream_cx_total", "envoy_listener_admin_downstream_cx_total{}"),
        (
            "listener.127.0.0.1_29902.downstream_cx_total",
            r#"envoy_listener_downstream_cx_total{envoy_listener_address="127.0.0.1_29902"}"#,
        ),
        (
            "listener.envoy_internal_int.downstream_cx_total",
            r#"envoy_listener_downstream_cx_total{envoy_listener_address="envoy_internal_int"}"#,
        ),
        (
            "listener.127.0.0.1_29902.http.ing<b>.downstream_rq_5xx",
            r#"envoy_listener_http_downstream_rq_xx{envoy_response_code_class="5",envoy_http_conn_manager_prefix="ing<b>",envoy_listener_address="127.0.0.1_29902"}"#,
        ),
        (
            "listener.127.0.0.1_29902.worker_1.downstream_cx_active",
            r#"envoy_listener_worker_downstream_cx_active{envoy_worker_id="1",envoy_listener_address="127.0.0.1_29902"}"#,
        ),
        ("server.worker_0.watchdog_miss", r#"envoy_server_worker_watchdog_miss{envoy_worker_id="0"}"#),
        ("tcp.tp.q.idle_timeout", r#"envoy_tcp_q_idle_timeout{envoy_tcp_prefix="tp"}"#),
        (
            "vhost.v.w.vcluster.vc.upstream_rq_total",
            r#"envoy_vhost_w_vcluster_vc_upstream_rq_total{envoy_virtual_host="v"}"#,
        ),
        (
            "vhost.v.vcluster.vc.upstream_rq_total",
            r#"envoy_vhost_vcluster_upstream_rq_total{envoy_virtual_cluster="vc",envoy_virtual_host="v"}"#,
        ),
    ] {
        assert_eq!(series(&config, name), expected);
    }
}

/// What istiod's bootstrap sets, look-ahead included.
const ISTIO: &str = r#"
use_all_default_tags: false
stats_tags:
- {tag_name: cluster_name, regex: '^cluster(\.(.+);)'}
- {tag_name: http_conn_manager_prefix, regex: '^http\.(((?:[_.[:digit:]\w]*|[_\[\]aAbBcCdDeEfF[:digit:]\w\:]*));\.)'}
- {tag_name: thread_name, regex: '^server(\.(.+))\.watchdog'}
- {tag_name: tcp_prefix, regex: '^tcp\.((.*?)\.)\w+?$'}
- {tag_name: response_code, regex: '_rq(_(\d{3}))$'}
- {tag_name: response_code_class, regex: '_rq(_(\dxx))$'}
- {tag_name: http_conn_manager_listener_prefix, regex: '^listener(?=\.).*?\.http\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)'}
- {tag_name: listener_address, regex: '^listener\.(((?:[_.[:digit:]]*|[_\[\]aAbBcCdDeEfF[:digit:]]*))\.)'}
- {tag_name: mongo_prefix, regex: '^mongo\.(.+?)\.(collection|cmd|cx_|op_|delays_|decoding_)(.*?)$'}
- {tag_name: cache, regex: '(cache\.(.+?)\.)'}
- {tag_name: component, regex: '(component\.(.+?)\.)'}
- {tag_name: tag, regex: '(tag\.(.+?);\.)'}
- {tag_name: wasm_filter, regex: '(wasm_filter\.(.+?)\.)'}
- {tag_name: authz_enforce_result, regex: 'rbac(\.(allowed|denied))'}
- {tag_name: authz_dry_run_action, regex: '(\.istio_dry_run_(allow|deny)_)'}
- {tag_name: authz_dry_run_result, regex: '(\.shadow_(allowed|denied))'}
stats_matcher:
  inclusion_list:
    patterns: [{prefix: 'reporter='}, {prefix: istio}, {prefix: cluster.xds-grpc}, {suffix: rbac.allowed}, {safe_regex: {regex: 'vhost\..*\.route\..*'}}, {prefix: http}, {prefix: listener}, {prefix: 'cluster.outbound'}]
histogram_bucket_settings: [{match: {prefix: istiocustom}, buckets: [10, 1]}]
"#;

#[test]
fn the_tags_of_istiods_bootstrap_work() {
    let config = config(ISTIO);
    for (name, expected) in [
        // As Envoy printed them.
        (
            "cluster.outbound|80||a.b.svc.cluster.local;.upstream_rq_200",
            r#"envoy_cluster_upstream_rq{cluster_name="outbound|80||a.b.svc.cluster.local",response_code="200"}"#,
        ),
        (
            "cluster.outbound|80||a.b.svc.cluster.local;.external.upstream_rq_2xx",
            r#"envoy_cluster_external_upstream_rq{cluster_name="outbound|80||a.b.svc.cluster.local",response_code_class="2xx"}"#,
        ),
        ("http.admin.downstream_rq_total", "envoy_http_admin_downstream_rq_total{}"),
        (
            "http.inbound_0.0.0.0_80;.rbac.allowed",
            r#"envoy_http_rbac{authz_enforce_result="allowed",http_conn_manager_prefix="inbound_0.0.0.0_80"}"#,
        ),
        (
            "http.inbound_0.0.0.0_80;.rbac.istio_dry_run_allow_.shadow_denied",
            r#"envoy_http_rbac{authz_dry_run_action="allow",authz_dry_run_result="denied",http_conn_manager_prefix="inbound_0.0.0.0_80"}"#,
        ),
        (
            "listener.admin.http.admin.downstream_rq_1xx",
            r#"envoy_listener_admin_http_admin_downstream_rq{response_code_class="1xx"}"#,
        ),
        (
            "listener.127.0.0.1_29912.http.inbound_0.0.0.0_80;.downstream_rq_2xx",
            r#"envoy_listener_http_inbound_0_0_0_0_80__downstream_rq{response_code_class="2xx",listener_address="127.0.0.1_29912"}"#,
        ),
        // The look-ahead says that a dot follows at once.
        ("listener_manager.x.http.0.0.0.0_80.y", "envoy_listener_manager_x_http_0_0_0_0_80_y{}"),
        (
            &tagged_name("istiocustom.istio_requests_total", &[("reporter", "waypoint"), ("app", "a\"b.c")]),
            r#"istio_requests_total{reporter="waypoint",app="a\"b.c"}"#,
        ),
    ] {
        assert_eq!(series(&config, name), expected);
    }
}

#[test]
fn the_matcher_decides_which_stats_there_are() {
    let config = config(ISTIO);
    let shown = |name: &str| config.stat(name).is_some();
    assert!(shown("cluster.xds-grpc.upstream_rq_total"));
    assert!(shown("x.rbac.allowed"));
    assert!(shown("vhost.a.route.b.c"));
    assert!(!shown("vhost.a.vcluster.b"));
    assert!(!shown("cluster.c.upstream_rq_total"));
    assert_eq!(config.bounds("istiocustom.d"), [1.0, 10.0]);
    assert_eq!(config.bounds("http.d").len(), 19);
}

#[test]
fn a_tag_that_cannot_be_compiled_names_its_field() {
    let error = |text: &str| {
        let proto: Proto = json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap();
        StatsConfig::compile(Some(proto), &[]).unwrap_err().to_string()
    };
    assert!(error("stats_tags: [{tag_name: a, regex: '('}]").starts_with("stats_config.stats_tags[0].regex: "));
    assert_eq!(
        error("stats_tags: [{tag_name: a, regex: 'b(?=c)'}]"),
        "stats_config.stats_tags[0].regex: a look-ahead that is not behind a literal start"
    );
    assert!(error("stats_tags: [{tag_name: nobody}]").contains("no default regex for name: 'nobody'"));
}

#[test]
fn fixed_and_command_line_tags_come_first() {
    let proto: Proto = json::from_value(
        &yaml::parse("stats_tags: [{tag_name: zone, fixed_value: z1}]").unwrap(),
        &json::Options::reject_unknown(),
    )
    .unwrap();
    let config = StatsConfig::compile(Some(proto), &[("a".into(), "b".into())]).unwrap();
    assert_eq!(
        series(&config, "cluster.c.bind_errors"),
        r#"envoy_cluster_bind_errors{a="b",zone="z1",envoy_cluster_name="c"}"#
    );
}
