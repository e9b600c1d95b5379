use super::*;
use crate::address::Address;
use crate::connection::Connection;
use crate::stream::StreamInfo;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use waypost_xds::envoy::config::core::v3::CelExpressionConfig;
use waypost_xds::google::protobuf::{Any, Struct, Value, value};

fn inline(text: &str) -> Option<Kind> {
    let specifier = Some(Specifier::InlineString(text.to_owned()));
    Some(Kind::TextFormatSource(proto::DataSource { watched_directory: None, specifier }))
}

fn of(format: Option<Kind>) -> proto::SubstitutionFormatString {
    proto::SubstitutionFormatString { format, ..proto::SubstitutionFormatString::default() }
}

fn extension(type_name: &str) -> proto::TypedExtensionConfig {
    let any = Any { type_url: format!("type.googleapis.com/{type_name}"), value: Vec::new() };
    proto::TypedExtensionConfig { name: "f".to_owned(), typed_config: Some(any) }
}

fn written(format: proto::SubstitutionFormatString) -> String {
    let address = Address::parse_ip_port("10.0.0.1:80").unwrap();
    let connection = Arc::new(Connection::new(address.clone(), address));
    let info = StreamInfo::new(connection, 1, Instant::now(), SystemTime::UNIX_EPOCH);
    let mut out = Vec::new();
    SubstitutionFormat::compile(format, "f").unwrap().write(&mut out, &FormatContext::of_info(&info));
    String::from_utf8(out).unwrap()
}

fn error(format: proto::SubstitutionFormatString) -> String {
    SubstitutionFormat::compile(format, "f").unwrap_err().to_string()
}

#[test]
fn text_and_json() {
    assert_eq!(written(of(inline("%ROUTE_NAME%|%DOWNSTREAM_LOCAL_PORT%"))), "-|80");
    let omit = proto::SubstitutionFormatString {
        omit_empty_values: true,
        ..of(inline("%ROUTE_NAME%|%DOWNSTREAM_LOCAL_PORT%"))
    };
    assert_eq!(written(omit), "|80");
    let member = Value { kind: Some(value::Kind::StringValue("%ROUTE_NAME%".to_owned())) };
    let json = || Some(Kind::JsonFormat(Struct { fields: [("k".to_owned(), member.clone())].into_iter().collect() }));
    assert_eq!(written(of(json())), "{\"k\":null}\n");
    assert_eq!(written(proto::SubstitutionFormatString { omit_empty_values: true, ..of(json()) }), "{}\n");
}

#[test]
fn content_types() {
    let of_format = |format| SubstitutionFormat::compile(format, "f").unwrap().content_type;
    assert_eq!(of_format(of(inline("x"))), "text/plain");
    assert_eq!(of_format(of(Some(Kind::JsonFormat(Struct::default())))), "application/json");
    let html = proto::SubstitutionFormatString { content_type: "text/html".to_owned(), ..of(inline("x")) };
    assert_eq!(of_format(html), "text/html");
}

#[test]
fn formatters() {
    let with = |type_name: &str| proto::SubstitutionFormatString {
        formatters: vec![extension(type_name)],
        ..of(inline("%REQ_WITHOUT_QUERY(:PATH)%"))
    };
    assert_eq!(written(with("envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery")), "-");
    assert_eq!(
        error(with("envoy.extensions.formatter.metadata.v3.Metadata")),
        "f.text_format_source: Not supported field in StreamInfo: REQ_WITHOUT_QUERY"
    );
    assert_eq!(
        error(with("envoy.extensions.formatter.file_content.v3.FileContent")),
        "f.formatters[0]: formatter 'f' of type 'envoy.extensions.formatter.file_content.v3.FileContent' is not supported yet"
    );
}

#[test]
fn expressions() {
    assert_eq!(
        written(of(inline("%CEL(destination.port)%|%CEL(size('a%b)'))%|%CEL('abc'):2%|%TYPED_CEL(1/0)%"))),
        "80|4|ab|-"
    );
    let json = |text: &str| {
        let member = Value { kind: Some(value::Kind::StringValue(text.to_owned())) };
        written(of(Some(Kind::JsonFormat(Struct { fields: [("k".to_owned(), member)].into_iter().collect() }))))
    };
    assert_eq!(json("%CEL(destination.port)%"), "{\"k\":\"80\"}\n");
    assert_eq!(json("%TYPED_CEL(destination.port)%"), "{\"k\":80}\n");
    assert_eq!(json("%TYPED_CEL('abc'):2%"), "{\"k\":\"ab\"}\n");
    assert_eq!(json("%TYPED_CEL(1/0)%"), "{\"k\":null}\n");
    let concat = of(inline("%CEL('a' + 'b')%"));
    assert_eq!(written(concat.clone()), "-");
    let enabled = CelExpressionConfig { enable_string_concat: true, ..Default::default() };
    let config = Cel { cel_config: Some(enabled) };
    let mut formatter = extension("envoy.extensions.formatter.cel.v3.Cel");
    formatter.typed_config.as_mut().unwrap().value = config.encode_to_vec();
    assert_eq!(written(proto::SubstitutionFormatString { formatters: vec![formatter], ..concat }), "ab");
    assert_eq!(
        error(of(inline("%CEL(1 +)%"))),
        "f.text_format_source: Not able to parse expression: 1:4: unexpected end"
    );
    assert_eq!(error(of(inline("%CEL%"))), "f.text_format_source: Not able to parse expression: 1:1: unexpected end");
}

#[test]
fn what_cannot_be_used_is_named() {
    assert_eq!(error(of(None)), "f.format: is required");
    assert_eq!(error(of(inline("%X%"))), "f.text_format_source: Not supported field in StreamInfo: X");
    let file = Some(Specifier::Filename("/no/such/file".to_owned()));
    let source = Some(Kind::TextFormatSource(proto::DataSource { watched_directory: None, specifier: file }));
    assert!(error(of(source)).starts_with("f.text_format_source: unable to read file '/no/such/file': "));
}
