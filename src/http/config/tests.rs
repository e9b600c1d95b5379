use std::time::Duration;

use waypost_xds::any;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::envoy::config::rbac::v3 as rbac;
use waypost_xds::envoy::config::route::v3::RouteConfiguration;
use waypost_xds::envoy::extensions::filters::http as filters;
use waypost_xds::envoy::extensions::filters::http::{cors::v3::Cors, fault::v3::HttpFault, router::v3::Router};
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use waypost_xds::google::protobuf::{self as pb, Any};

use super::*;
use crate::cluster::ClusterTable;
use crate::config::{ConfigError, Context, Process};
use crate::observe::access_log::AccessLogFiles;
use crate::observe::stats::Store;
use proto::http_connection_manager as inner;

pub(crate) type Proto = proto::HttpConnectionManager;

fn filter(name: &str, config: Any) -> proto::HttpFilter {
    let config_type = Some(proto::http_filter::ConfigType::TypedConfig(config));
    proto::HttpFilter { name: name.into(), config_type, ..Default::default() }
}

/// The least that is a connection manager.
fn least() -> Proto {
    Proto {
        stat_prefix: "test".into(),
        http_filters: vec![filter("router", any::pack(&Router::default()))],
        route_specifier: Some(inner::RouteSpecifier::RouteConfig(RouteConfiguration::default())),
        ..Default::default()
    }
}

/// Compiles the least with a change.
pub(crate) fn compile(change: impl FnOnce(&mut Proto)) -> Result<Arc<HttpConnectionManager>, ConfigError> {
    let mut proto = least();
    change(&mut proto);
    with_context(|cx| HttpConnectionManager::compile(proto, cx, "hcm"))
}

fn with_context<T>(then: impl FnOnce(&Context<'_>) -> T) -> T {
    let (stats, clusters, logs) =
        (std::sync::Arc::new(Store::default()), ClusterTable::default(), AccessLogFiles::default());
    let process = Process { node_id: "sn".into(), node_cluster: "sc".into(), ..Process::default() };
    let cx = Context {
        stats: &stats,
        clusters: &clusters,
        logs: &logs,
        secrets: &crate::tls::SecretStore::new(),
        routes: &crate::route::slot::RouteSlots::default(),
        extensions: &crate::config::extension_slot::ExtensionSlots::default(),
        process: &process,
    };
    then(&cx)
}

#[test]
fn connection_managers_that_differ_in_their_routes_share_all_else() {
    let named = |name: &str, change: fn(&mut Proto)| {
        let mut proto = least();
        change(&mut proto);
        let routes = RouteConfiguration { name: name.into(), ..Default::default() };
        proto.route_specifier = Some(inner::RouteSpecifier::RouteConfig(routes));
        any::pack(&proto)
    };
    with_context(|cx| {
        let read = |any: &Any| HttpConnectionManager::read(any, cx, "hcm");
        let [a, b] = ["a", "b"].map(|n| read(&named(n, |_| {})).unwrap());
        assert!(Arc::ptr_eq(&a.settings, &b.settings));
        let names = [&a, &b].map(|m| m.routes.inline().next().unwrap().name.to_string());
        assert_eq!(names, ["a", "b"]);
        let other = read(&named("a", |p| p.via = "x".into())).unwrap();
        assert!(!Arc::ptr_eq(&a.settings, &other.settings) && other.via.is_some());
        // What is wrong in routes is said as in a connection manager that shares nothing.
        let mut bad = least();
        let host = waypost_xds::envoy::config::route::v3::VirtualHost::default();
        let routes = RouteConfiguration { virtual_hosts: vec![host], ..Default::default() };
        bad.route_specifier = Some(inner::RouteSpecifier::RouteConfig(routes));
        let bad = any::pack(&bad);
        let shared = read(&bad).unwrap_err();
        let alone = with_context(|cx| HttpConnectionManager::read(&bad, cx, "hcm")).unwrap_err();
        assert_eq!(shared, alone);
        assert!(shared.path.starts_with("hcm.route_config.virtual_hosts[0]"), "{shared}");
        // Once nobody has them, they are made anew.
        drop((a, b));
        assert!(read(&named("a", |_| {})).is_ok());
    });
}

fn seconds(seconds: i64) -> Option<pb::Duration> {
    Some(pb::Duration { seconds, nanos: 0 })
}

#[test]
fn defaults_are_those_of_envoy() {
    let hcm = compile(|_| {}).unwrap();
    let secs = |s| Some(Duration::from_secs(s));
    assert_eq!(hcm.timeouts.stream_idle, secs(300));
    assert_eq!(hcm.timeouts.stream_flush, secs(300));
    assert_eq!(hcm.timeouts.connection_idle, secs(3600));
    assert_eq!(hcm.timeouts.delayed_close, secs(1));
    assert_eq!(hcm.timeouts.drain, Duration::from_secs(5));
    assert_eq!((hcm.timeouts.request, hcm.timeouts.request_headers), (None, None));
    assert_eq!((hcm.limits.max_request_headers_bytes, hcm.limits.max_headers_count), (60 * 1024, 100));
    assert_eq!((hcm.http2.max_concurrent_streams, hcm.http2.initial_stream_window), (1024, 1 << 20));
    assert_eq!((hcm.http2.initial_connection_window, hcm.http2.allow_connect), (24 << 20, false));
    assert!(hcm.http1.allow_absolute_url && !hcm.http1.accept_http_10 && hcm.request_id.generate);
    assert_eq!((&hcm.server.name, hcm.server.mode), (&HeaderValue::from_static("envoy"), ServerMode::Overwrite));
    assert_eq!((hcm.xfcc.mode, hcm.codec), (XfccMode::Sanitize, Codec::Auto));
    assert!(hcm.chain.load().filters.is_empty() && hcm.chain.load().router.dynamic_stats);
}

#[test]
fn zero_disables_a_timeout() {
    let hcm = compile(|p| {
        p.stream_idle_timeout = seconds(0);
        p.request_timeout = seconds(7);
        p.common_http_protocol_options =
            Some(core::HttpProtocolOptions { idle_timeout: seconds(0), ..Default::default() });
    })
    .unwrap();
    assert_eq!((hcm.timeouts.stream_idle, hcm.timeouts.stream_flush, hcm.timeouts.connection_idle), (None, None, None));
    assert_eq!(hcm.timeouts.request, Some(Duration::from_secs(7)));
}

/// A name for the table and what it does to the message.
type Case = (&'static str, fn(&mut Proto));

#[test]
fn what_is_not_built_is_refused_with_its_path() {
    let cases: [Case; 17] = [
        ("hcm.rds.config_source: config source must be set", |p| {
            p.route_specifier = Some(inner::RouteSpecifier::Rds(Default::default()))
        }),
        ("hcm.scoped_routes.name: value length must be at least 1 characters", |p| {
            p.route_specifier = Some(inner::RouteSpecifier::ScopedRoutes(Default::default()));
        }),
        ("hcm.route_specifier: value is required", |p| p.route_specifier = None),
        ("hcm.stat_prefix: value length must be at least 1 characters", |p| p.stat_prefix.clear()),
        ("hcm.original_ip_detection_extensions: not supported yet", |p| {
            p.original_ip_detection_extensions = vec![Default::default()];
        }),
        ("hcm.tracing.provider.typed_config: expected a configuration of ", |p| {
            p.tracing = Some(inner::Tracing { provider: Some(Default::default()), ..Default::default() });
        }),
        ("hcm.http3_protocol_options: not supported yet", |p| p.http3_protocol_options = Some(Default::default())),
        ("hcm.codec_type: not supported yet", |p| p.codec_type = inner::CodecType::Http3 as i32),
        ("hcm.http_filters[0].config_discovery.config_source: value is required", |p| {
            let source = core::ExtensionConfigSource {
                type_urls: vec!["type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm".into()],
                ..Default::default()
            };
            let router = p.http_filters.remove(0);
            let mut wasm = filter("wasm", Any::default());
            wasm.config_type = Some(proto::http_filter::ConfigType::ConfigDiscovery(source));
            p.http_filters = vec![wasm, router];
        }),
        ("hcm.http_filters: the last filter must be the terminal filter envoy.filters.http.router", |p| {
            p.http_filters.push(filter("cors", any::pack(&Cors {})));
        }),
        ("hcm.http_filters[0].typed_config: not supported: a.b.C", |p| {
            p.http_filters.insert(0, filter("x", Any { type_url: "type.googleapis.com/a.b.C".into(), value: vec![] }));
        }),
        ("hcm.http_filters[0].typed_config.transport_api_version: value must be one of the defined enum values", |p| {
            let config = filters::ext_authz::v3::ExtAuthz { transport_api_version: 9, ..Default::default() };
            p.http_filters.insert(0, filter("authz", any::pack(&config)));
        }),
        ("hcm.http_filters[0].typed_config.upstream_http_filters: not supported yet", |p| {
            let router = Router { upstream_http_filters: vec![filter("codec", Any::default())], ..Default::default() };
            p.http_filters = vec![filter("router", any::pack(&router))];
        }),
        ("hcm: strip_matching_host_port and strip_any_host_port cannot both be set", |p| {
            p.strip_matching_host_port = true;
            p.strip_port_mode = Some(inner::StripPortMode::StripAnyHostPort(true));
        }),
        ("hcm.stream_idle_timeout: value must be a duration that is not negative", |p| {
            p.stream_idle_timeout = seconds(-1)
        }),
        ("hcm.http2_protocol_options.connection_keepalive.timeout: value is required", |p| {
            let keepalive = Some(core::KeepaliveSettings::default());
            p.http2_protocol_options =
                Some(core::Http2ProtocolOptions { connection_keepalive: keepalive, ..Default::default() });
        }),
        ("hcm.internal_address_config.cidr_ranges[0].prefix_len: value must be within 0 and 32", |p| {
            let prefix_len = Some(pb::UInt32Value { value: 33 });
            let range = core::CidrRange { address_prefix: "10.0.0.0".into(), prefix_len };
            p.internal_address_config =
                Some(inner::InternalAddressConfig { unix_sockets: false, cidr_ranges: vec![range] });
        }),
    ];
    for (expected, change) in cases {
        assert_eq!(compile(change).map(|_| ()).unwrap_err().to_string(), expected);
    }
}

#[test]
fn filters_without_work_are_not_in_the_chain() {
    let named = |name: &str| Any { type_url: format!("type.googleapis.com/{name}"), value: vec![] };
    let hcm = compile(|p| {
        let config = any::pack(&waypost_xds::envoy::extensions::filters::http::set_filter_state::v3::Config::default());
        let mut disabled = filter("off", config.clone());
        disabled.disabled = true;
        let mut optional = filter("unknown", named("a.b.C"));
        optional.is_optional = true;
        let router = p.http_filters.remove(0);
        p.http_filters = vec![
            filter("cors", any::pack(&Cors {})),
            filter("fault", any::pack(&HttpFault::default())),
            filter("istio.stats", named("stats.PluginConfig")),
            filter("peer", named("io.istio.http.peer_metadata.Config")),
            optional,
            disabled,
            filter("connect_authority", config),
            router,
        ];
    })
    .unwrap();
    assert_eq!(hcm.chain.load().filters.len(), 1);
}

/// How many of these filters run.
fn running(configs: Vec<Any>) -> usize {
    let before = |p: &mut Proto| {
        let router = p.http_filters.remove(0);
        p.http_filters = configs.into_iter().map(|c| filter("f", c)).chain([router]).collect();
    };
    compile(before).unwrap().chain.load().filters.len()
}

#[test]
fn a_guard_closes_its_chain_unless_it_refuses_nothing() {
    use filters::local_ratelimit::v3::LocalRateLimit;
    use filters::rbac::v3::Rbac;
    let rules = |action| Some(rbac::Rbac { action: action as i32, ..Default::default() });
    let allow = Rbac { rules: rules(rbac::rbac::Action::Allow), ..Default::default() };
    let deny = Rbac { rules: rules(rbac::rbac::Action::Deny), ..Default::default() };
    let matcher =
        Rbac { rules: rules(rbac::rbac::Action::Log), matcher: Some(Default::default()), ..Default::default() };
    let bucket = LocalRateLimit {
        stat_prefix: "p".into(),
        token_bucket: Some(waypost_xds::envoy::r#type::v3::TokenBucket {
            max_tokens: 1,
            fill_interval: seconds(1),
            ..Default::default()
        }),
        ..Default::default()
    };
    for closed in [any::pack(&allow), any::pack(&deny), any::pack(&matcher), any::pack(&bucket)] {
        assert_eq!(running(vec![closed.clone()]), 1, "{closed:?}");
    }
    let shadow = Rbac { shadow_rules: rules(rbac::rbac::Action::Deny), ..Default::default() };
    let log = Rbac { rules: rules(rbac::rbac::Action::Log), ..Default::default() };
    let limit = LocalRateLimit { stat_prefix: "p".into(), ..Default::default() };
    assert_eq!(running(vec![any::pack(&shadow), any::pack(&log), any::pack(&limit)]), 0);
}

#[test]
fn routes_switch_guards_off_and_on() {
    use crate::route::FilterOverrides;
    use filters::rbac::v3::{Rbac, RbacPerRoute};
    let shadow = Rbac::default();
    let deny = Rbac { rules: Some(rbac::Rbac::default()), ..Default::default() };
    let hcm = compile(|p| {
        p.http_filters.insert(0, filter("shadow", any::pack(&shadow)));
        p.http_filters.insert(1, filter("deny", any::pack(&deny)));
        let mut off = filter("off", any::pack(&deny));
        off.disabled = true;
        p.http_filters.insert(2, off);
    })
    .unwrap();
    let said = |filter: &str, config: Any| {
        let overrides = FilterOverrides::compile([(filter.to_owned(), config)].into(), "r").unwrap();
        let chain = hcm.chain.load();
        let made = overrides.chain(&chain);
        assert!(made.as_ref().zip(overrides.chain(&chain)).is_none_or(|(a, b)| Arc::ptr_eq(a, &b)), "made once");
        (made.map(|c| c.filters.len()), chain.closed_on(&overrides))
    };
    let switch = |disabled| {
        any::pack(&waypost_xds::envoy::config::route::v3::FilterConfig {
            disabled,
            config: (!disabled).then(Any::default),
            ..Default::default()
        })
    };
    let guarded = any::pack(&RbacPerRoute { rbac: Some(shadow.clone()) });
    let jwt_off = filters::jwt_authn::v3::PerRouteConfig {
        requirement_specifier: Some(filters::jwt_authn::v3::per_route_config::RequirementSpecifier::Disabled(true)),
    };
    assert_eq!(hcm.chain.load().filters.len(), 1);
    assert_eq!(said("deny", switch(true)), (Some(0), None));
    assert_eq!(said("deny", any::pack(&RbacPerRoute { rbac: None })), (Some(0), None));
    assert_eq!(
        said("deny", any::pack(&jwt_off)),
        (None, None),
        "what is for another type of filter is not for this one"
    );
    assert_eq!(said("deny", guarded.clone()), (Some(1), Some("filter_not_supported{deny}".into())));
    assert_eq!(said("shadow", guarded.clone()), (Some(2), Some("filter_not_supported{shadow}".into())));
    assert_eq!(said("off", switch(false)), (Some(2), None));
    assert_eq!(said("other", guarded), (None, None));
}

#[test]
fn upgrades_are_chosen_by_name_and_by_route() {
    let hcm = compile(|p| {
        let upgrade = |kind: &str, enabled| inner::UpgradeConfig {
            upgrade_type: kind.into(),
            enabled: Some(pb::BoolValue { value: enabled }),
            ..Default::default()
        };
        p.upgrade_configs = vec![upgrade("websocket", true), upgrade("CONNECT", false)];
    })
    .unwrap();
    for (kind, route, allowed) in [
        ("WebSocket", None, true),
        ("WebSocket", Some(false), false),
        ("CONNECT", None, false),
        ("CONNECT", Some(true), true),
        ("foo", None, false),
    ] {
        assert_eq!(hcm.upgrade(kind.as_bytes(), route).is_some(), allowed, "{kind} {route:?}");
    }
}

#[test]
fn ranges_hold_their_own_family_only() {
    let range = |text: &str, prefix_len| Cidr { address: text.parse().unwrap(), prefix_len };
    for (range, ip, inside) in [
        (range("10.1.2.3", 8), "10.255.0.1", true),
        (range("10.0.0.0", 8), "11.0.0.0", false),
        (range("0.0.0.0", 0), "8.8.8.8", true),
        (range("0.0.0.0", 0), "::1", false),
        (range("::", 0), "::1", true),
        (range("::1", 128), "::2", false),
        (range("1.2.3.4", 32), "1.2.3.4", true),
    ] {
        assert_eq!(range.contains(ip.parse().unwrap()), inside, "{range:?} {ip}");
    }
}
