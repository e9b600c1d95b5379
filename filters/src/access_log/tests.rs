use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use ::http::{Method, StatusCode};

use super::{AccessLog, FileAccessLog, FormatContext, Sink, file_access_log, proto};
use crate::address::Address;
use crate::connection::Connection;
use crate::flags::Flag;
use crate::format::AccessLogType;
use crate::head::{RequestHead, ResponseHead, Scheme};
use crate::stream::{HttpStream, StreamInfo};
use ::prost::{Message, Name};
use std::sync::Arc;
use waypost_xds::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use waypost_xds::envoy::config::accesslog::v3::{
    AccessLogFilter, AndFilter, ComparisonFilter, DurationFilter, ExtensionFilter, GrpcStatusFilter, HeaderFilter,
    LogTypeFilter, MetadataFilter, NotHealthCheckFilter, OrFilter, ResponseFlagFilter, RuntimeFilter, StatusCodeFilter,
    TraceableFilter, extension_filter,
};
use waypost_xds::envoy::config::core::v3::RuntimeUInt32;
use waypost_xds::envoy::config::route::v3::HeaderMatcher;
use waypost_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use waypost_xds::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use waypost_xds::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment::Segment};
use waypost_xds::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use waypost_xds::envoy::r#type::matcher::v3::{MetadataMatcher, StringMatcher, ValueMatcher, value_matcher};
use waypost_xds::envoy::r#type::v3::FractionalPercent;
use waypost_xds::google::protobuf::{Any, BoolValue};

#[derive(Debug, Default)]
struct Lines(Mutex<Vec<u8>>);

impl Sink for Lines {
    fn line(&self, write: &mut dyn FnMut(&mut Vec<u8>)) {
        write(&mut self.0.lock().unwrap());
    }
}

fn stream() -> HttpStream {
    let address = |a: &str| Address::Ip(a.parse().unwrap());
    let connection = Connection::new(address("10.0.0.1:80"), address("10.0.0.2:4000"));
    let mut info = StreamInfo::new(Arc::new(connection), 1, Instant::now(), SystemTime::UNIX_EPOCH);
    info.response_code = 503;
    info.timing.complete = Some(Duration::from_millis(20));
    info.flags.set(Flag::UpstreamConnectionFailure);
    let request = RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: None,
        path: Some("/p".parse().unwrap()),
        upgrade: None,
        headers: [("x-a".parse().unwrap(), "Yes".parse().unwrap())].into_iter().collect(),
        original_path: None,
    };
    let response = ResponseHead { status: StatusCode::SERVICE_UNAVAILABLE, ..ResponseHead::default() };
    HttpStream {
        info,
        request,
        response: Some(response),
        response_trailers: None,
        reroute: false,
        body: Default::default(),
    }
}

fn any<M: ::prost::Message + ::prost::Name>(message: &M) -> Option<proto::access_log::ConfigType> {
    let any = Any { type_url: M::type_url(), value: message.encode_to_vec() };
    Some(proto::access_log::ConfigType::TypedConfig(any))
}

/// What a file log with this filter and format writes for a stream.
fn logged(
    filter: Option<FilterSpecifier>,
    format: Option<file_access_log::AccessLogFormat>,
    stream: &HttpStream,
) -> Result<String, String> {
    let file = FileAccessLog { path: "/log".to_owned(), access_log_format: format };
    let filter = filter.map(|f| AccessLogFilter { filter_specifier: Some(f) });
    let log = proto::AccessLog { name: "l".to_owned(), filter, config_type: any(&file) };
    let lines = Arc::new(Lines::default());
    let sink = lines.clone();
    let log = AccessLog::compile(log, "access_log[0]", &mut |path| {
        assert_eq!(path, "/log");
        Ok(sink.clone())
    })
    .map_err(|e| e.to_string())?;
    let cx = FormatContext { access_log_type: AccessLogType::DownstreamEnd, ..FormatContext::of_stream(stream) };
    log.record(&cx);
    let text = lines.0.lock().unwrap().clone();
    Ok(String::from_utf8(text).unwrap())
}

fn passes(filter: FilterSpecifier) -> bool {
    passes_for(filter, &stream())
}

fn passes_for(filter: FilterSpecifier, stream: &HttpStream) -> bool {
    !logged(Some(filter), None, stream).unwrap().is_empty()
}

fn refused(filter: FilterSpecifier) -> String {
    logged(Some(filter), None, &stream()).unwrap_err()
}

fn compare(op: i32, default_value: u32) -> Option<ComparisonFilter> {
    Some(ComparisonFilter { op, value: Some(RuntimeUInt32 { default_value, runtime_key: "k".to_owned() }) })
}

fn status(op: i32, value: u32) -> FilterSpecifier {
    FilterSpecifier::StatusCodeFilter(StatusCodeFilter { comparison: compare(op, value) })
}

#[test]
fn the_default_format_and_the_deprecated_fields() {
    use file_access_log::AccessLogFormat;
    let line = "[1970-01-01T00:00:00.000Z] \"GET /p -\" 503 UF 0 0 20 - \"-\" \"-\" \"-\" \"-\" \"-\"\n";
    assert_eq!(logged(None, None, &stream()).unwrap(), line);
    #[allow(deprecated, reason = "under test")]
    {
        let text = |t: &str| Some(AccessLogFormat::Format(t.to_owned()));
        assert_eq!(logged(None, text(""), &stream()).unwrap(), line);
        assert_eq!(logged(None, text("%RESPONSE_CODE%\n"), &stream()).unwrap(), "503\n");
        assert_eq!(
            logged(None, text("%X%"), &stream()).unwrap_err(),
            "access_log[0].typed_config.format: Not supported field in StreamInfo: X"
        );
    }
}

#[test]
fn comparisons() {
    assert!(passes(status(0, 503)) && !passes(status(0, 500)));
    assert!(passes(status(1, 503)) && !passes(status(1, 504)));
    assert!(passes(status(2, 503)) && !passes(status(2, 502)));
    assert!(passes(status(3, 200)) && !passes(status(3, 503)));
    let duration = |op, v| FilterSpecifier::DurationFilter(DurationFilter { comparison: compare(op, v) });
    assert!(passes(duration(1, 20)) && !passes(duration(1, 21)));
    let missing = FilterSpecifier::StatusCodeFilter(StatusCodeFilter { comparison: None });
    assert_eq!(refused(missing), "access_log[0].filter.status_code_filter.comparison: value is required");
}

#[test]
fn and_or() {
    let list = |f: Vec<FilterSpecifier>| {
        f.into_iter().map(|s| AccessLogFilter { filter_specifier: Some(s) }).collect::<Vec<_>>()
    };
    let and = |f| FilterSpecifier::AndFilter(AndFilter { filters: list(f) });
    let or = |f| FilterSpecifier::OrFilter(OrFilter { filters: list(f) });
    assert!(passes(and(vec![status(1, 400), status(2, 599)])));
    assert!(!passes(and(vec![status(1, 400), status(2, 499)])));
    assert!(passes(or(vec![status(0, 1), status(0, 503)])));
    assert!(!passes(or(vec![status(0, 1), status(0, 2)])));
    assert_eq!(refused(or(vec![])), "access_log[0].filter.or_filter.filters: value must contain at least 2 item(s)");
}

#[test]
fn flags_health_checks_and_traces() {
    let flags = |names: &[&str]| {
        FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
            flags: names.iter().map(|n| (*n).to_owned()).collect(),
        })
    };
    assert!(passes(flags(&[])) && passes(flags(&["NR", "UF"])) && !passes(flags(&["NR"])));
    assert!(refused(flags(&["XX"])).starts_with("access_log[0].filter.response_flag_filter.flags[0]: "));
    let mut clean = stream();
    clean.info.flags = crate::flags::Flags::NONE;
    assert!(!passes_for(flags(&[]), &clean));
    assert!(passes(FilterSpecifier::NotHealthCheckFilter(NotHealthCheckFilter {})));
    assert!(!passes(FilterSpecifier::TraceableFilter(TraceableFilter {})));
}

#[test]
fn sampling_goes_by_the_request_id() {
    let runtime = |numerator| {
        FilterSpecifier::RuntimeFilter(RuntimeFilter {
            runtime_key: "k".to_owned(),
            percent_sampled: Some(FractionalPercent { numerator, denominator: 0 }),
            use_independent_randomness: false,
        })
    };
    assert!(passes(runtime(100)) && !passes(runtime(0)));
    let mut stream = stream();
    // 0x31 is 49.
    stream.info.request_id = Some("00000031-0000-4000-8000-000000000000".into());
    assert!(passes_for(runtime(50), &stream) && !passes_for(runtime(49), &stream));
}

#[test]
fn headers() {
    let header = |name: &str, specifier, invert_match| {
        let header = HeaderMatcher {
            name: name.to_owned(),
            invert_match,
            treat_missing_header_as_empty: false,
            header_match_specifier: specifier,
        };
        FilterSpecifier::HeaderFilter(HeaderFilter { header: Some(header) })
    };
    let exact = |text: &str, ignore_case| {
        let match_pattern = Some(MatchPattern::Exact(text.to_owned()));
        Some(HeaderMatchSpecifier::StringMatch(StringMatcher { ignore_case, match_pattern }))
    };
    assert!(passes(header("X-A", None, false)) && !passes(header("x-b", None, false)));
    assert!(passes(header("x-a", exact("Yes", false), false)) && !passes(header("x-a", exact("yes", false), false)));
    assert!(passes(header("x-a", exact("yes", true), false)) && !passes(header("x-a", exact("yes", true), true)));
    assert!(!passes(header("x-b", exact("yes", true), true)), "a missing header matches nothing");
    assert!(passes(header(":path", exact("/p", false), false)));
}

#[test]
fn grpc_status_metadata_and_log_type() {
    let grpc = |statuses: &[i32], exclude| {
        FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter { statuses: statuses.to_vec(), exclude })
    };
    assert!(passes(grpc(&[14], false)) && !passes(grpc(&[14], true)) && !passes(grpc(&[2], false)));

    let metadata = |key: &str, if_missing: Option<bool>| {
        let value = StringMatcher { ignore_case: false, match_pattern: Some(MatchPattern::Exact("v".to_owned())) };
        let matcher = MetadataMatcher {
            filter: "ns".to_owned(),
            path: vec![PathSegment { segment: Some(Segment::Key(key.to_owned())) }],
            value: Some(ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::StringMatch(value)) }),
            invert: false,
        };
        let match_if_key_not_found = if_missing.map(|value| BoolValue { value });
        FilterSpecifier::MetadataFilter(MetadataFilter { matcher: Some(matcher), match_if_key_not_found })
    };
    let mut stream = stream();
    stream.info.metadata.set("ns".into(), Arc::new(serde_json::json!({"a": "v", "b": "w"})));
    assert!(passes_for(metadata("a", None), &stream) && !passes_for(metadata("b", None), &stream));
    assert!(passes_for(metadata("c", None), &stream) && !passes_for(metadata("c", Some(false)), &stream));

    let types =
        |types: &[i32], exclude| FilterSpecifier::LogTypeFilter(LogTypeFilter { types: types.to_vec(), exclude });
    assert!(passes(types(&[6], false)) && !passes(types(&[6], true)) && !passes(types(&[3, 14], false)));
}

#[test]
fn expressions_decide_what_is_logged() {
    let cel = |expression: &str| {
        let config = ExpressionFilter { expression: expression.to_owned(), cel_config: None };
        let any = Any { type_url: ExpressionFilter::type_url(), value: config.encode_to_vec() };
        let config_type = Some(extension_filter::ConfigType::TypedConfig(any));
        FilterSpecifier::ExtensionFilter(ExtensionFilter { name: "cel".to_owned(), config_type })
    };
    // As istiod sends it for `filter.expression` of a Telemetry resource.
    assert!(passes(cel("response.code >= 400 || 'x-log' in request.headers")));
    assert!(passes(cel("'x-a' in request.headers")) && !passes(cel("response.code < 400")));
    assert!(!passes(cel("request.nope")) && !passes(cel("response.code")));
    assert_eq!(
        refused(cel("response.code >")),
        "access_log[0].filter.extension_filter.typed_config.expression: Not able to parse expression: 1:16: unexpected end"
    );
}

#[test]
fn a_filter_on_its_own() {
    let filter = |f| super::AccessLogFilter::compile(AccessLogFilter { filter_specifier: f }, "mappers[0].filter");
    let stream = stream();
    let cx = FormatContext::of_stream(&stream);
    assert!(filter(None).unwrap().passes(&cx));
    assert!(filter(Some(status(0, 503))).unwrap().passes(&cx) && !filter(Some(status(0, 200))).unwrap().passes(&cx));
    let missing = FilterSpecifier::HeaderFilter(HeaderFilter { header: None });
    let error = filter(Some(missing)).unwrap_err();
    assert_eq!(error.to_string(), "mappers[0].filter.header_filter.header: value is required");
}

#[test]
fn what_is_not_supported_is_refused_with_its_path() {
    let cel = FilterSpecifier::ExtensionFilter(ExtensionFilter { name: "cel".to_owned(), config_type: None });
    assert_eq!(refused(cel), "access_log[0].filter.extension_filter: access log filter 'cel' is not supported yet");
    use waypost_xds::envoy::extensions::access_loggers::grpc::v3::HttpGrpcAccessLogConfig;
    let log = proto::AccessLog {
        name: "als".to_owned(),
        filter: None,
        config_type: any(&HttpGrpcAccessLogConfig::default()),
    };
    let error = AccessLog::compile(log, "access_log[2]", &mut |_| unreachable!()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "access_log[2].typed_config: access logger 'als' of type \
         'envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig' is not supported yet"
    );
}
