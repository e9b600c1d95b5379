//! Expected values are what an echoing upstream got from Envoy 1.40.

use super::super::header_ops::{HeaderOps, HeaderOpsChain, Side};
use super::*;
use waypost_xds::envoy::config::core::v3 as proto;
use waypost_xds::google::protobuf::BoolValue;

fn option(key: &str, value: &str, append_action: i32) -> proto::HeaderValueOption {
    proto::HeaderValueOption {
        header: Some(proto::HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() }),
        append_action,
        ..proto::HeaderValueOption::default()
    }
}

fn ops(add: Vec<proto::HeaderValueOption>, remove: &[&str]) -> HeaderOps {
    HeaderOps::compile(add, remove.iter().map(|r| (*r).to_owned()).collect(), Side::Request, "route").unwrap()
}

fn error(add: Vec<proto::HeaderValueOption>, remove: &[&str], side: Side) -> String {
    let remove = remove.iter().map(|r| (*r).to_owned()).collect();
    HeaderOps::compile(add, remove, side, "route").unwrap_err().to_string()
}

fn request(list: &[(&str, &[u8])]) -> HttpStream {
    let mut stream = stream();
    stream.request.headers = headers(list);
    stream
}

fn values(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
}

#[test]
fn the_four_actions() {
    let mut add = Vec::new();
    for action in 0..4 {
        add.push(option(&format!("x-p{action}"), "new", action));
        add.push(option(&format!("x-a{action}"), "new", action));
    }
    let mut stream =
        request(&[("x-p0", b"old"), ("x-p1", b"old"), ("x-p2", b"old"), ("x-p2", b"old2"), ("x-p3", b"old")]);
    ops(add, &[]).apply_request(&mut stream);
    let got = |name| values(&stream.request.headers, name);
    assert_eq!((got("x-p0"), got("x-a0")), (vec!["old".to_owned(), "new".to_owned()], vec!["new".to_owned()]));
    assert_eq!((got("x-p1"), got("x-a1")), (vec!["old".to_owned()], vec!["new".to_owned()]));
    assert_eq!((got("x-p2"), got("x-a2")), (vec!["new".to_owned()], vec!["new".to_owned()]));
    assert_eq!((got("x-p3"), got("x-a3")), (vec!["new".to_owned()], vec![]));
}

#[test]
fn the_deprecated_append() {
    let append = |value| {
        #[allow(deprecated, reason = "under test")]
        let option = proto::HeaderValueOption { append: Some(BoolValue { value }), ..option("x-ap", "z", 0) };
        option
    };
    let mut stream = request(&[("x-ap", b"old")]);
    ops(vec![append(true)], &[]).apply_request(&mut stream);
    assert_eq!(values(&stream.request.headers, "x-ap"), ["old", "z"]);
    ops(vec![append(false)], &[]).apply_request(&mut stream);
    assert_eq!(values(&stream.request.headers, "x-ap"), ["z"]);
    let both = proto::HeaderValueOption { append_action: 1, ..append(true) };
    assert_eq!(
        error(vec![both], &[], Side::Request),
        "route.request_headers_to_add[0]: Both append and append_action are set and it's not allowed"
    );
}

#[test]
fn values_are_made_before_any_is_set_but_after_removal() {
    let add = vec![
        option("x-seq", "1", 0),
        option("x-seq", "2", 0),
        option("x-see", "%REQ(x-seq)%|%REQ(x-rem)%|%REQ(x-p)%", 0),
        option("x-rem", "back", 0),
        option("x-f", "%PROTOCOL% 100%% %REQ(nope)%.", 0),
        option("x-lead", "  sp ", 0),
    ];
    let mut stream = request(&[("x-rem", b"gone"), ("x-p", b"old")]);
    ops(add, &["X-Rem"]).apply_request(&mut stream);
    let got = |name| values(&stream.request.headers, name);
    assert_eq!(got("x-seq"), ["1", "2"]);
    assert_eq!(got("x-see"), ["||old"]);
    assert_eq!(got("x-rem"), ["back"]);
    assert_eq!(got("x-f"), ["HTTP/1.1 100% ."]);
    assert_eq!(got("x-lead"), ["  sp "]);
}

#[test]
fn empty_values_are_kept_only_where_that_is_asked_for() {
    let keep = |option| proto::HeaderValueOption { keep_empty_value: true, ..option };
    let add = vec![
        option("x-e1", "%REQ(nope)%", 0),
        keep(option("x-e2", "%REQ(nope)%", 0)),
        keep(option("x-e3", "", 0)),
        option("x-e4", "", 0),
    ];
    let mut stream = request(&[]);
    ops(add, &[]).apply_request(&mut stream);
    let names: Vec<&str> = stream.request.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-e2", "x-e3"]);
}

#[test]
fn envoys_single_headers_are_joined_by_commas() {
    let add = vec![
        option("User-Agent", "ua2", 0),
        option("x-forwarded-for", "9.9.9.9", 0),
        option("cookie", "c=2", 0),
        option("x-other", "2", 0),
    ];
    let mut stream =
        request(&[("user-agent", b"curl"), ("x-forwarded-for", b"1.1.1.1"), ("cookie", b"c=1"), ("x-other", b"1")]);
    ops(add, &[]).apply_request(&mut stream);
    let got = |name| values(&stream.request.headers, name);
    assert_eq!(got("user-agent"), ["curl,ua2"]);
    assert_eq!(got("x-forwarded-for"), ["1.1.1.1,9.9.9.9"]);
    assert_eq!(got("cookie"), ["c=1", "c=2"]);
    assert_eq!(got("x-other"), ["1", "2"]);
}

#[test]
fn responses_see_the_request_and_the_upstream() {
    let mut stream = stream();
    stream.response.as_mut().unwrap().headers = headers(&[("x-p", b"up"), ("x-p", b"up2"), ("server", b"s")]);
    let add = vec![
        option("x-p", "n", 2),
        option("x-s", "%RESPONSE_CODE%|%RESP(x-p)%|%REQ(:method)%|%UPSTREAM_HOST%|%RESPONSE_FLAGS%", 0),
    ];
    let rules = HeaderOps::compile(add, vec!["server".to_owned()], Side::Response, "route").unwrap();
    rules.apply_response(&mut stream);
    let response = &stream.response.as_ref().unwrap().headers;
    assert_eq!(values(response, "x-p"), ["n"]);
    assert_eq!(values(response, "x-s"), ["200|up|GET|127.0.0.1:21881|-"]);
    assert!(!response.contains_key("server"));
    stream.response = None;
    rules.apply_response(&mut stream);
}

#[test]
fn the_least_specific_has_the_last_word_unless_told_otherwise() {
    let level = |text: &str| Arc::new(ops(vec![option("x-o", text, 0), option("x-w", text, 2)], &[]));
    let all = || [level("r"), level("vh"), Arc::new(HeaderOps::default()), level("rc")];
    let mut stream = request(&[]);
    HeaderOpsChain::new(all(), false).apply_request(&mut stream);
    assert_eq!(values(&stream.request.headers, "x-o"), ["r", "vh", "rc"]);
    assert_eq!(values(&stream.request.headers, "x-w"), ["rc"]);
    let mut stream = request(&[]);
    HeaderOpsChain::new(all(), true).apply_request(&mut stream);
    assert_eq!(values(&stream.request.headers, "x-w"), ["r"]);
    assert!(HeaderOpsChain::new([Arc::new(HeaderOps::default())], false).is_empty());
}

#[test]
fn a_value_that_no_header_can_hold_is_dropped() {
    let mut stream = request(&[]);
    stream.info.route_name = Some("evil\r\nx-injected: 1".into());
    ops(vec![option("x-bad", "%ROUTE_NAME%", 0), option("x-good", "y", 0)], &[]).apply_request(&mut stream);
    let names: Vec<&str> = stream.request.headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-good"]);
}

#[test]
fn formats_of_old() {
    let mut stream = request(&[]);
    let add = vec![
        option("x-md", "%DYNAMIC_METADATA([\"my\", \"o\",\"in\"])%!%UPSTREAM_METADATA([\"um\",\"a\"])%", 0),
        option("x-st", "%PER_REQUEST_STATE(hash)%", 0),
    ];
    ops(add, &[]).apply_request(&mut stream);
    assert_eq!(values(&stream.request.headers, "x-md"), ["bar!u"]);
    assert_eq!(values(&stream.request.headers, "x-st"), ["hv"]);
}

#[test]
fn what_rules_may_not_touch() {
    let request_add = |key: &str| error(vec![option(key, "x", 0)], &[], Side::Request);
    for key in [":path", ":authority", ":status", ":foo", "host", "Host"] {
        assert_eq!(
            request_add(key),
            "route.request_headers_to_add[0].header.key: :-prefixed or host headers may not be modified",
            "{key}"
        );
    }
    for key in [":path", "HOST"] {
        assert_eq!(
            error(vec![], &["x", key], Side::Response),
            "route.response_headers_to_remove[1]: :-prefixed or host headers may not be removed",
            "{key}"
        );
    }
    assert_eq!(
        error(vec![option("a", "%NOPE%", 0)], &[], Side::Request),
        "route.request_headers_to_add[0].header.value: Not supported field in StreamInfo: NOPE"
    );
    assert!(
        error(vec![option("host", "x", 0)], &[], Side::LocalReply).starts_with("route.headers_to_add[0].header.key: ")
    );
    assert!(request_add("").ends_with("value length must be at least 1 characters"));
    assert!(error(vec![option("a", "x\ny", 0)], &[], Side::Request).contains(".header.value: "));
}
