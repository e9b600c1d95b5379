//! Cases of the micro-benchmark: `micro --list`, or `micro CASE N` to run one N times. `micro.py` counts the instructions.
//!
//! A case is a closure that does one operation on data made beforehand. Add one to [`CASES`], then record it: `benches/micro.py --update`.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use prost::{Message, Name};
use waypost::cluster::ClusterTable;
use waypost::config::{Context, Process};
use waypost::http::h1;
use waypost::listener::chain_match::ChainMatch;
use waypost::observe::access_log::AccessLogFiles;
use waypost::route::RouteTable;
use waypost::tls::SecretStore;
use waypost_filters::access_log::{AccessLog, Sink};
use waypost_filters::address::Address;
use waypost_filters::connection::Connection;
use waypost_filters::format::header_ops::{HeaderOps, Side};
use waypost_filters::format::{AccessLogType, FormatContext};
use waypost_filters::head::{Protocol, RequestHead, ResponseHead, Scheme};
use waypost_filters::stream::{ClusterNames, HostInfo, HttpStream, StreamInfo};
use waypost_xds::envoy::config::accesslog::v3 as accesslog;
use waypost_xds::envoy::config::core::v3 as core;
use waypost_xds::envoy::config::listener::v3::FilterChain;
use waypost_xds::envoy::config::route::v3::RouteConfiguration;
use waypost_xds::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log::AccessLogFormat};
use waypost_xds::google::protobuf::{Any, Struct, Value, value::Kind};
use waypost_xds::xds::r#type::matcher::v3::Matcher;

/// One operation, ready to run.
type Case = Box<dyn FnMut()>;

/// What makes it.
type Make = fn() -> Case;

/// All cases: a name, and what makes the closure.
const CASES: &[(&str, Make)] = &[
    ("access_log_text", access_log_text),
    ("access_log_json", access_log_json),
    ("header_ops", header_ops),
    ("route_match_first", route_match_first),
    ("route_match_of_200", route_match_of_200),
    ("chain_match_tree", chain_match_tree),
    ("h1_request_head", h1_request_head),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        [name, count] => {
            let make = CASES.iter().find(|(n, _)| *n == name).expect("a case of --list").1;
            let count: u64 = count.parse().expect("a number of runs");
            let mut case = make();
            (0..count).for_each(|_| case());
        }
        // `cargo bench` and `cargo test --benches` come by with flags of their own.
        _ => CASES.iter().for_each(|(name, _)| println!("{name}")),
    }
}

/// A sink that keeps one line.
#[derive(Debug, Default)]
struct Line(Mutex<Vec<u8>>);

impl Sink for Line {
    fn line(&self, write: &mut dyn FnMut(&mut Vec<u8>)) {
        let mut line = self.0.lock().unwrap();
        line.clear();
        write(&mut line);
        black_box(&*line);
    }
}

/// The operators of Istio's default format (`pilot/pkg/model/telemetry_logging.go`).
const ISTIO: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("route_name", "%ROUTE_NAME%"),
];

fn access_log_text() -> Case {
    let text = ISTIO.map(|(_, operator)| operator).join(" ") + "\n";
    access_log(core::substitution_format_string::Format::TextFormatSource(core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(text)),
        ..core::DataSource::default()
    }))
}

fn access_log_json() -> Case {
    let member =
        |(key, operator): (&str, &str)| (key.to_owned(), Value { kind: Some(Kind::StringValue(operator.to_owned())) });
    access_log(core::substitution_format_string::Format::JsonFormat(Struct {
        fields: ISTIO.into_iter().map(member).collect(),
    }))
}

fn access_log(format: core::substitution_format_string::Format) -> Case {
    let format = core::SubstitutionFormatString { format: Some(format), ..core::SubstitutionFormatString::default() };
    let file = FileAccessLog { path: "-".to_owned(), access_log_format: Some(AccessLogFormat::LogFormat(format)) };
    let any = Any { type_url: FileAccessLog::type_url(), value: file.encode_to_vec() };
    let config = accesslog::AccessLog {
        config_type: Some(accesslog::access_log::ConfigType::TypedConfig(any)),
        ..accesslog::AccessLog::default()
    };
    let log = AccessLog::compile(config, "", &mut |_| Ok(Arc::new(Line::default()))).expect("a format that compiles");
    let stream = stream();
    Box::new(move || {
        let cx = FormatContext { access_log_type: AccessLogType::DownstreamEnd, ..FormatContext::of_stream(&stream) };
        log.record(black_box(&cx));
    })
}

/// Four rules that overwrite (so that the request stays as it is), two of them with operators, and a removal.
fn header_ops() -> Case {
    let option = |key: &str, value: &str| core::HeaderValueOption {
        header: Some(core::HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..core::HeaderValueOption::default()
    };
    let add = vec![
        option("x-env", "production"),
        option("x-tier", "gold"),
        option("x-client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
        option("x-route", "%ROUTE_NAME%/%PROTOCOL%"),
    ];
    let rules = HeaderOps::compile(add, vec!["x-debug".to_owned()], Side::Request, "").expect("rules that compile");
    let mut stream = stream();
    Box::new(move || rules.apply_request(black_box(&mut stream)))
}

/// Compiles a message that is written as YAML.
fn from_yaml<M: Message + Name + Default>(text: &str) -> M {
    let value = waypost_xds::yaml::parse(text).expect("YAML");
    waypost_xds::json::from_value(&value, &waypost_xds::json::Options::reject_unknown()).expect("a message")
}

fn routes(yaml: &str) -> Arc<RouteTable> {
    let (stats, clusters, logs) = (Arc::default(), ClusterTable::default(), AccessLogFiles::default());
    let (secrets, process) = (SecretStore::new(), Process::default());
    let cx = Context {
        stats: &stats,
        clusters: &clusters,
        logs: &logs,
        secrets: &secrets,
        routes: &Default::default(),
        extensions: &Default::default(),
        process: &process,
    };
    RouteTable::compile(from_yaml::<RouteConfiguration>(yaml), &cx, "").expect("routes that compile")
}

fn find(table: Arc<RouteTable>, path: &'static str) -> Case {
    let mut stream = stream();
    stream.request.path = Some(HeaderValue::from_static(path));
    assert!(table.find(&stream, 0).is_some());
    Box::new(move || {
        black_box(table.find(black_box(&stream), 0));
    })
}

/// What istiod sends for a service without routes of its own: one host, one route.
fn route_match_first() -> Case {
    let table = routes(
        "{name: r, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}",
    );
    find(table, "/api/v1/reviews/0?page=1")
}

/// The last of 200 routes of one host among fifty.
fn route_match_of_200() -> Case {
    let mut yaml = String::from("name: r\nvirtual_hosts:\n");
    for host in 0..50 {
        yaml.push_str(&format!("- name: v{host}\n  domains: ['svc{host}.default.svc.cluster.local', 'svc{host}']\n  routes: [{{match: {{prefix: /}}, route: {{cluster: c}}}}]\n"));
    }
    yaml.push_str("- name: big\n  domains: ['*.default.svc.cluster.local:8080']\n  routes:\n");
    for route in 0..200 {
        yaml.push_str(&format!("  - {{match: {{path_separated_prefix: /api/v{route}}}, route: {{cluster: c}}}}\n"));
    }
    find(routes(&yaml), "/api/v199/reviews/0?page=1")
}

/// A waypoint's tree: fifty services by address, then the port.
fn chain_match_tree() -> Case {
    let input = |name: &str| {
        format!(
            "{{name: i, typed_config: {{'@type': type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.{name}}}}}"
        )
    };
    let mut yaml = format!(
        "matcher_tree:\n  input: {}\n  custom_match:\n    name: ip\n    typed_config:\n      '@type': type.googleapis.com/xds.type.matcher.v3.IPMatcher\n      range_matchers:\n",
        input("DestinationIPInput")
    );
    for service in 0..50 {
        yaml.push_str(&format!("      - ranges: [{{address_prefix: 10.96.0.{service}, prefix_len: 32}}]\n        on_match: {{matcher: {{matcher_tree: {{input: {}, exact_match_map: {{map: {{'8080': {{action: {{name: c, typed_config: {{'@type': type.googleapis.com/google.protobuf.StringValue, value: c{service}}}}}}}}}}}}}}}}}\n", input("DestinationPortInput")));
    }
    let chains: Vec<FilterChain> =
        (0..50).map(|n| FilterChain { name: format!("c{n}"), ..FilterChain::default() }).collect();
    let matcher: Matcher = from_yaml(&yaml);
    let found = ChainMatch::compile(&chains, false, Some(&matcher), "").expect("a matcher that compiles");
    let connection = stream().info.connection;
    assert_eq!(found.find(&connection), Some(17));
    Box::new(move || {
        black_box(found.find(black_box(&connection)));
    })
}

/// The head of a browser's request, from bytes.
fn h1_request_head() -> Case {
    let head = b"GET /api/v1/reviews/0?page=1 HTTP/1.1\r\nHost: reviews:8080\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nAccept-Encoding: gzip, br\r\nCookie: session=0123456789abcdef\r\nX-Request-Id: 8de32d11-cf67-4914-9554-2f59f7e317d1\r\nX-Forwarded-Proto: http\r\n\r\n";
    let limits = h1::RequestLimits::default();
    Box::new(move || {
        let mut buffer = bytes::BytesMut::from(&head[..]);
        let parsed = h1::parse_request(&mut buffer, &mut h1::ScanState::default(), &limits, Scheme::Http);
        black_box(parsed.expect("a head").expect("all of it"));
    })
}

/// A plain request through a waypoint.
fn stream() -> HttpStream {
    let address = |a: &str| Address::Ip(a.parse().expect("an address"));
    let connection = Connection::new(address("10.96.0.17:8080"), address("10.244.1.5:43210"));
    let start = UNIX_EPOCH + Duration::from_micros(1_795_365_819_149_727);
    let mut info = StreamInfo::new(Arc::new(connection), 1, Instant::now(), start);
    info.protocol = Some(Protocol::Http11);
    info.response_code = 200;
    info.details = Some("via_upstream".into());
    info.bytes_sent = 1234;
    info.route_name = Some("default".into());
    info.timing.complete = Some(Duration::from_micros(3_210));
    let name: Arc<str> = "inbound-vip|8080|http|reviews.default.svc.cluster.local".into();
    info.upstream.cluster = Some(Arc::new(ClusterNames { name: name.clone(), observability_name: name }));
    info.upstream.host = Some(Arc::new(HostInfo {
        address: Address::Internal { listener: "connect_originate".into(), endpoint_id: "10.244.2.9:8080".into() },
        hostname: "".into(),
        metadata: waypost_filters::metadata::Metadata::default(),
    }));
    info.upstream.local =
        Some(Address::Internal { listener: "internal_client_address".into(), endpoint_id: "".into() });
    let headers = |list: &[(&'static str, &'static str)]| -> HeaderMap {
        list.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    };
    let request = RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("reviews.default.svc.cluster.local:8080")),
        path: Some(HeaderValue::from_static("/api/v1/reviews/0?page=1")),
        upgrade: None,
        headers: headers(&[
            ("user-agent", "curl/8.5.0"),
            ("accept", "*/*"),
            ("x-forwarded-proto", "http"),
            ("x-request-id", "8de32d11-cf67-4914-9554-2f59f7e317d1"),
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("cookie", "session=0123456789abcdef"),
        ]),
        original_path: None,
    };
    let response = ResponseHead {
        status: StatusCode::OK,
        headers: headers(&[
            ("content-type", "application/json"),
            ("x-envoy-upstream-service-time", "2"),
            ("server", "istio-envoy"),
        ]),
    };
    HttpStream {
        info,
        request,
        response: Some(response),
        response_trailers: None,
        reroute: false,
        body: Default::default(),
    }
}
