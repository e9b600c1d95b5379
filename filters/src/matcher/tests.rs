//! Tests of the matchers. Expectations marked with a case number were observed on Envoy 1.40.

use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::json;
use waypost_xds::envoy::config::core::v3::CidrRange;
use waypost_xds::envoy::r#type::matcher::v3 as proto;
use waypost_xds::{json, yaml};

use super::*;
use crate::head::{RequestHead, Scheme};
use crate::metadata::Metadata;

fn read<M: prost::Message + prost::Name + Default>(text: &str) -> M {
    json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap()
}

fn string(text: &str) -> Result<StringMatcher, MatcherError> {
    StringMatcher::compile(read(text), "m")
}

fn request(headers: &[(&str, &str)]) -> RequestHead {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Some(HeaderValue::from_static("Ex.com")),
        path: Some(HeaderValue::from_static("/p?q=1")),
        upgrade: None,
        headers: map,
        original_path: None,
    }
}

fn header(text: &str, headers: &[(&str, &str)]) -> bool {
    HeaderMatcher::compile(read(text), "h").unwrap().matches(&request(headers))
}

#[test]
fn strings_match_by_every_pattern_and_in_any_case() {
    for (matcher, yes, no) in [
        ("exact: ab", "ab", "abc"),
        ("prefix: ab", "abc", "cab"),
        ("suffix: ab", "cab", "abc"),
        ("contains: ab", "xabx", "axb"),
        ("{exact: aB, ignore_case: true}", "Ab", "abc"),
        ("{prefix: aB, ignore_case: true}", "Abc", "a"),
        ("{suffix: aB, ignore_case: true}", "cAb", "b"),
        ("{contains: aB, ignore_case: true}", "xAbx", "axb"),
        ("safe_regex: {regex: 'a|ab'}", "ab", "abc"),
    ] {
        let m = string(matcher).unwrap();
        assert!(m.matches(yes.as_bytes()), "{matcher} should match {yes}");
        assert!(!m.matches(no.as_bytes()), "{matcher} should not match {no}");
    }
}

#[test]
fn a_string_matcher_that_cannot_work_is_refused_with_its_path() {
    let error = |text: &str| string(text).unwrap_err().to_string();
    assert_eq!(
        error("safe_regex: {regex: a}\nignore_case: true"),
        "m.ignore_case: ignore_case has no effect for safe_regex."
    );
    assert!(error("safe_regex: {regex: 'a)|(b'}").starts_with("m.safe_regex.regex: "));
    assert_eq!(error("custom: {name: x, typed_config: {}}"), "m.custom: not supported yet");
    assert_eq!(error("ignore_case: true"), "m.match_pattern: value is required");
    let big = format!("safe_regex: {{regex: '{}'}}", "(a{1,900}){1,900}");
    assert!(error(&big).starts_with("m.safe_regex.regex: "), "a program without bounds is refused");
}

#[test]
fn regular_expressions_mean_what_re2_means() {
    for (pattern, yes, no) in [
        ("/a/{id}", &b"/a/{id}"[..], &b"/a/id"[..]),
        ("a{2}", b"aa", b"a{2}"),
        ("a{2,}", b"aaa", b"a"),
        ("a{,2}", b"a{,2}", b"aa"),
        (r"\Qa.b|\E+", b"a.b||", b"axb|"),
        ("[a[b]+", b"a[b", b"c"),
        ("[]a]+", b"]a", b"b"),
        ("[^]a]", b"b", b"]"),
        ("[a&&b]+", b"a&b", b"c"),
        ("[[:digit:]x]+", b"1x", b"d"),
        (r"\<a\>", b"<a>", b"a"),
        ("caf.", b"caf\xe9", b"caf\xc3\xa9"),
        ("a.b", b"a\xffb", b"a\nb"),
        (r"[\[\]]+", b"[]", b"\\"),
    ] {
        let path = "p";
        let m = Regex::new(&super::regex::re2_to_rust(pattern), path).unwrap();
        assert!(m.is_match(yes), "{pattern} should match {yes:?}");
        assert!(!m.is_match(no), "{pattern} should not match {no:?}");
    }
}

#[test]
fn a_rewrite_puts_groups_where_they_belong() {
    let rewrite = |pattern: &str, substitution: &str, text: &str| {
        let config = proto::RegexMatchAndSubstitute {
            pattern: Some(proto::RegexMatcher { regex: pattern.into(), engine_type: None }),
            substitution: substitution.into(),
        };
        let rewrite = RegexRewrite::compile(config, "r").map_err(|e| e.to_string())?;
        Ok::<_, String>(String::from_utf8(rewrite.replace_all(text.as_bytes()).into_owned()).unwrap())
    };
    assert_eq!(rewrite("^/rx/(.*)/(.*)$", r"/\2/\1", "/rx/12/echo").unwrap(), "/echo/12"); // E20
    assert_eq!(rewrite("o", r"0\\\0", "foo").unwrap(), r"f0\o0\o");
    assert_eq!(rewrite("x", "y", "foo").unwrap(), "foo");
    assert!(rewrite("(x)", r"\2", "x").unwrap_err().starts_with("r.substitution: invalid substitution"));
    assert!(rewrite("x", r"\", "x").is_err() && rewrite("x", r"\n", "x").is_err());
}

#[test]
fn each_value_of_a_header_counts_for_itself() {
    let two = [("x-a", "1"), ("x-a", "2")];
    assert!(header("{name: x-a, string_match: {exact: '1'}}", &two)); // E12
    assert!(!header("{name: x-a, string_match: {exact: '1,2'}}", &two));
    // One value that matches is enough, and so enough to fail an inverted matcher.
    assert!(!header("{name: x-a, string_match: {exact: '1'}, invert_match: true}", &two));
    assert!(header("{name: x-a, string_match: {exact: '3'}, invert_match: true}", &two));
    assert!(header("{name: x-a, range_match: {start: 2, end: 3}}", &two));
    let cookies = [("cookie", "a=1"), ("cookie", "u=1")];
    assert!(header("{name: cookie, string_match: {contains: u=1}}", &cookies)); // E14
}

#[test]
fn a_missing_header_matches_only_where_it_is_asked_for() {
    let exact = "{name: x-a, string_match: {exact: v}, invert_match: true";
    assert!(!header(&format!("{exact}}}"), &[])); // E13
    assert!(header(&format!("{exact}, treat_missing_header_as_empty: true}}"), &[])); // E13
    assert!(header("{name: x-a, string_match: {exact: ''}, treat_missing_header_as_empty: true}", &[]));
    for (matcher, with, without) in [
        ("{name: x-a}", true, false),
        ("{name: x-a, present_match: true}", true, false),
        ("{name: x-a, present_match: false}", false, true),
        ("{name: x-a, present_match: true, invert_match: true}", false, true),
        ("{name: x-a, present_match: false, invert_match: true}", true, false),
        ("{name: x-a, present_match: true, treat_missing_header_as_empty: true}", true, true),
    ] {
        assert_eq!(header(matcher, &[("x-a", "v")]), with, "{matcher} with the header");
        assert_eq!(header(matcher, &[]), without, "{matcher} without it");
    }
}

#[test]
fn a_range_wants_a_whole_number_below_its_end() {
    for (value, expected) in
        [("1", true), ("9", true), ("10", false), ("+5", true), ("005", true), ("5x", false), ("", false)]
    {
        let m = "{name: x-n, range_match: {start: 1, end: 10}}";
        assert_eq!(header(m, &[("x-n", value)]), expected, "{value}"); // E11
    }
}

#[test]
fn pseudo_headers_are_headers() {
    assert!(header("{name: ':method', string_match: {exact: GET}}", &[]));
    assert!(header("{name: ':path', string_match: {exact: '/p?q=1'}}", &[]));
    assert!(header("{name: ':scheme', string_match: {exact: http}}", &[]));
    assert!(header("{name: ':authority', string_match: {exact: Ex.com}}", &[]));
    assert!(!header("{name: ':authority', string_match: {exact: ex.com}}", &[]));
    assert!(header("{name: Host, string_match: {exact: Ex.com}}", &[]));
    assert!(!header("{name: ':status'}", &[]));
    let response = crate::head::ResponseHead::default();
    let status = HeaderMatcher::compile(read("{name: ':status', string_match: {exact: '200'}}"), "h").unwrap();
    assert!(status.matches_response(&response));
}

#[test]
fn the_first_parameter_of_a_name_decides_and_nothing_is_decoded() {
    let query = |m: &str, path: &str| QueryMatcher::compile(read(m), "q").unwrap().matches(path.as_bytes());
    let exact = "{name: a, string_match: {exact: '1'}}";
    assert!(query(exact, "/p?b&a=1")); // E10
    assert!(!query(exact, "/p?a=2&a=1&b")); // E10
    assert!(!query(exact, "/a=1"));
    assert!(query("{name: b, present_match: true}", "/p?b&a=1"));
    assert!(query("{name: b, present_match: false}", "/p?a") && !query("{name: b, present_match: false}", "/p?b"));
    assert!(!query("{name: a, string_match: {exact: 'x y'}}", "/p?a=x%20y"));
}

#[test]
fn the_first_cookie_of_a_name_decides() {
    let cookie = |invert: bool, lines: &[&str]| {
        let m = format!("{{name: a, string_match: {{exact: '1'}}, invert_match: {invert}}}");
        let headers: Vec<_> = lines.iter().map(|l| ("cookie", *l)).collect();
        CookieMatcher::compile(read(&m), "c").unwrap().matches(&request(&headers))
    };
    assert!(cookie(false, &["b=3; a=1"]) && cookie(false, &["b=2", "a=\"1\""]) && cookie(false, &["a=1; a=2"]));
    assert!(!cookie(false, &["a=2; a=1"]) && !cookie(false, &[]));
    assert!(cookie(true, &[]) && !cookie(true, &["a=1"]));
}

#[test]
fn metadata_is_looked_into() {
    let mut metadata = Metadata::default();
    let claims = json!({"payload": {"iss": "me", "groups": ["a", "b"], "n": 2, "ok": true, "nil": null}});
    metadata.set("jwt".into(), std::sync::Arc::new(claims));
    let matches = |key: &str, value: &str, invert: bool| {
        let m =
            format!("{{filter: jwt, path: [{{key: payload}}, {{key: '{key}'}}], value: {value}, invert: {invert}}}");
        MetadataMatcher::compile(read(&m), "m").unwrap().matches(&metadata)
    };
    assert!(matches("iss", "{string_match: {prefix: m}}", false));
    assert!(matches("groups", "{list_match: {one_of: {string_match: {exact: b}}}}", false));
    let either = "{or_match: {value_matchers: [{list_match: {one_of: {string_match: {exact: me}}}}, {string_match: {exact: me}}]}}";
    assert!(matches("iss", either, false) && !matches("groups", either, false));
    assert!(matches("n", "{double_match: {range: {start: 1, end: 3}}}", false));
    assert!(!matches("n", "{double_match: {range: {start: 1, end: 2}}}", false));
    assert!(matches("n", "{double_match: {exact: 2}}", false));
    assert!(matches("ok", "{bool_match: true}", false) && matches("nil", "{null_match: {}}", false));
    assert!(matches("none", "{present_match: false}", false) && !matches("none", "{null_match: {}}", false));
    assert!(matches("none", "{string_match: {exact: x}}", true), "what is missing matches inverted");
}

#[test]
fn the_longest_prefix_wins_and_shorter_ones_follow() {
    let mut trie: CidrTrie<Vec<&str>> = CidrTrie::default();
    for (address, len, name) in [
        ("10.0.0.0", 8, "ten"),
        ("10.1.2.3", 32, "host"),
        ("10.1.9.9", 16, "masked"),
        ("0.0.0.0", 0, "all"),
        ("2001:db8::", 32, "v6"),
        ("10.1.2.3", 32, "again"),
    ] {
        trie.entry(Cidr::new(address.parse().unwrap(), len)).push(name);
    }
    let names = |ip: &str| trie.matches(ip.parse().unwrap()).flatten().copied().collect::<Vec<_>>().join(" ");
    assert_eq!(names("10.1.2.3"), "host again masked ten all");
    assert_eq!(names("10.1.0.1"), "masked ten all");
    assert_eq!(names("::ffff:10.2.0.1"), "ten all", "an IPv4 address in IPv6 clothes is an IPv4 address");
    assert_eq!(names("2001:db8::1"), "v6");
    assert_eq!(names("2001:db9::1"), "");
    let range = CidrRange { address_prefix: "10.0.0".into(), prefix_len: None };
    assert_eq!(
        CidrSet::compile(&[range], "r").unwrap_err().to_string(),
        "r[0].address_prefix: malformed IP address: 10.0.0"
    );
}

#[test]
fn none_and_all_are_exact_and_the_rest_is_a_share() {
    let percent = |numerator, denominator| FractionalPercent { numerator, denominator };
    for random in [0, 1, 99, 100, u64::MAX] {
        assert!(!percent(0, 100).matches(random) && percent(100, 100).matches(random));
    }
    assert_eq!((0..10_000).filter(|r| percent(25, 10_000).matches(*r)).count(), 25);
}
