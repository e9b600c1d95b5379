//! Tests of the choice of a filter chain. Where fall-through and ties are concerned, Envoy 1.40 was asked.

use std::path::{Path, PathBuf};

use waypost_filters::address::Address;
use waypost_filters::connection::Connection;
use waypost_filters::filter_state::{Entry, Object, Shared};
use waypost_xds::envoy::config::listener::v3::Listener;
use waypost_xds::{Value, json, yaml};

use super::*;

fn read<M: prost::Message + prost::Name + Default>(text: &str) -> M {
    json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap()
}

/// Compiles a listener and gives its chains' names with it.
fn compile(listener: &Listener) -> Result<(ChainMatch, Vec<String>), String> {
    let Listener { filter_chains, default_filter_chain, filter_chain_matcher, .. } = listener;
    let compiled =
        ChainMatch::compile(filter_chains, default_filter_chain.is_some(), filter_chain_matcher.as_ref(), "l")
            .map_err(|e| e.to_string())?;
    let names = filter_chains.iter().chain(default_filter_chain).map(|c| c.name.clone()).collect();
    Ok((compiled, names))
}

struct Chains(ChainMatch, Vec<String>);

impl Chains {
    fn of(text: &str) -> Chains {
        let (chains, names) = compile(&read::<Listener>(text)).unwrap();
        Chains(chains, names)
    }

    fn find(&self, connection: &Connection) -> &str {
        self.0.find(connection).map_or("-", |i| &self.1[i])
    }
}

fn connection(local: &str, remote: &str) -> Connection {
    let address = |text: &str| Address::Ip(text.parse().unwrap());
    Connection::new(address(local), address(remote))
}

fn refused(text: &str) -> String {
    compile(&read::<Listener>(text)).map(|_| ()).unwrap_err()
}

#[test]
fn server_names_match_exactly_then_by_the_longest_suffix() {
    let chains = Chains::of(
        "filter_chains:
- {name: exact, filter_chain_match: {server_names: [WWW.a.com]}}
- {name: long, filter_chain_match: {server_names: ['*.b.a.com']}}
- {name: short, filter_chain_match: {server_names: ['*.com']}}
- {name: none, filter_chain_match: {transport_protocol: tls}}
default_filter_chain: {name: default}",
    );
    for (name, chain) in [
        (Some("www.a.com"), "exact"),
        (Some("x.y.b.a.com"), "long"),
        (Some("b.a.com"), "short"),
        (Some("a.com"), "short"),
        (Some("com"), "none"),
        (Some("x.org"), "none"),
        (None, "none"),
    ] {
        let mut c = connection("10.0.0.1:443", "10.0.0.2:1");
        c.server_name = name.map(Into::into);
        c.transport_protocol = "tls";
        assert_eq!(chains.find(&c), chain, "{name:?}");
    }
    assert_eq!(chains.find(&connection("10.0.0.1:443", "10.0.0.2:1")), "default");
}

#[test]
fn a_criterion_that_matched_is_not_gone_back_on() {
    let chains = Chains::of(
        "filter_chains:
- {name: tls, filter_chain_match: {prefix_ranges: [{address_prefix: 10.0.0.1, prefix_len: 32}], transport_protocol: tls}}
- {name: net, filter_chain_match: {prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}}
- {name: port, filter_chain_match: {destination_port: 81, transport_protocol: tls}}
- {name: rest, filter_chain_match: {source_ports: [7]}}
default_filter_chain: {name: default}",
    );
    assert_eq!(chains.find(&connection("10.0.0.2:80", "10.0.0.9:1")), "net");
    assert_eq!(chains.find(&connection("10.0.0.1:80", "10.0.0.9:1")), "default");
    assert_eq!(chains.find(&connection("10.0.0.2:81", "10.0.0.9:1")), "default");
    assert_eq!(chains.find(&connection("11.0.0.2:80", "10.0.0.9:7")), "rest");
    assert_eq!(chains.find(&connection("[::1]:80", "[::2]:7")), "rest");
}

#[test]
fn the_source_narrows_by_type_address_and_port() {
    let chains = Chains::of(
        "filter_chains:
- {name: local, filter_chain_match: {source_type: SAME_IP_OR_LOOPBACK, source_ports: [1]}}
- {name: net, filter_chain_match: {source_prefix_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}}
- {name: direct, filter_chain_match: {direct_source_prefix_ranges: [{address_prefix: 9.9.9.9, prefix_len: 32}]}}
- {name: h2, filter_chain_match: {application_protocols: [h2]}}",
    );
    assert_eq!(chains.find(&connection("10.0.0.1:80", "10.0.0.1:1")), "local");
    assert_eq!(chains.find(&connection("10.0.0.1:80", "127.0.0.1:1")), "local");
    assert_eq!(chains.find(&connection("10.0.0.1:80", "10.0.0.1:2")), "-", "of the local ones no port matches");
    assert_eq!(chains.find(&connection("10.0.0.1:80", "10.0.0.2:1")), "net");
    assert_eq!(chains.find(&connection("10.0.0.1:80", "127.0.0.2:1")), "-", "only 127.0.0.1 is loopback here");
    let mut c = connection("10.0.0.1:80", "10.0.0.2:1");
    c.direct_remote = Address::Ip("9.9.9.9:1".parse().unwrap());
    assert_eq!(chains.find(&c), "direct");
    c.application_protocols = vec!["x".into(), "h2".into()];
    assert_eq!(chains.find(&c), "h2", "application protocols come before source addresses");
}

#[test]
fn chains_that_cannot_be_told_apart_are_refused() {
    let pair = |a: &str, b: &str| {
        refused(&format!(
            "filter_chains: [{{name: a, filter_chain_match: {{{a}}}}}, {{name: b, filter_chain_match: {{{b}}}}}]"
        ))
    };
    let same = "l.filter_chains[1]: filter chain 'b' has the same matching rules defined as 'a'";
    assert_eq!(pair("", ""), same);
    assert_eq!(pair("server_names: [a]", "server_names: [a]"), same);
    let overlap =
        "l.filter_chains[1].filter_chain_match: multiple filter chains with overlapping matching rules are defined";
    assert_eq!(pair("server_names: [a, b]", "server_names: [b]"), overlap);
    assert_eq!(pair("server_names: [A]", "server_names: [a]"), overlap);
    let partial = "partial wildcards are not supported in \"server_names\"";
    for name in ["'*'", "a*.b", "'*.*.b'"] {
        assert!(pair("", &format!("server_names: [{name}]")).ends_with(partial), "{name}");
    }
}

const INPUT: &str = "typed_config: {'@type': type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3";

fn action(chain: &str) -> String {
    format!(
        "{{action: {{name: {chain}, typed_config: {{'@type': type.googleapis.com/google.protobuf.StringValue, value: {chain}}}}}}}"
    )
}

fn tree(matcher: &str) -> Chains {
    Chains::of(&format!(
        "{{filter_chains: [{{name: a}}, {{name: b}}], default_filter_chain: {{name: d}}, filter_chain_matcher: {matcher}}}"
    ))
}

/// A map over an input; `kind` is `exact_match_map` or `prefix_match_map`.
fn map(input: &str, kind: &str, entries: &[(&str, String)], no_match: Option<String>) -> String {
    let entries: Vec<_> = entries.iter().map(|(k, m)| format!("\"{k}\": {m}")).collect();
    let no_match = no_match.map_or(String::new(), |m| format!(", on_no_match: {m}"));
    let entries = entries.join(", ");
    format!("{{matcher_tree: {{input: {{name: i, {INPUT}.{input}}}}}, {kind}: {{map: {{{entries}}}}}}}{no_match}}}")
}

fn ranges(entries: &[(&str, u32, String, bool)]) -> String {
    let one = |(a, l, m, e): &(&str, u32, String, bool)| {
        format!("{{ranges: [{{address_prefix: {a}, prefix_len: {l}}}], on_match: {m}, exclusive: {e}}}")
    };
    let entries = entries.iter().map(one).collect::<Vec<_>>().join(", ");
    format!(
        "{{matcher_tree: {{input: {{name: i, {INPUT}.DestinationIPInput}}}}, custom_match: {{name: ip, typed_config: \
         {{'@type': type.googleapis.com/xds.type.matcher.v3.IPMatcher, range_matchers: [{entries}]}}}}}}}}"
    )
}

fn miss() -> String {
    format!("{{matcher: {}}}", map("DestinationPortInput", "exact_match_map", &[("1", action("a"))], None))
}

#[test]
fn a_nested_matcher_that_finds_nothing_lets_the_search_go_on() {
    let c = connection("127.0.0.1:80", "127.0.0.1:9");
    for (matcher, chain) in [
        (map("DestinationIPInput", "exact_match_map", &[("127.0.0.1", miss())], Some(action("b"))), "b"),
        (map("DestinationIPInput", "prefix_match_map", &[("127", action("b")), ("127.0.0", miss())], None), "b"),
        (ranges(&[("127.0.0.1", 32, miss(), false), ("127.0.0.0", 8, action("b"), false)]), "b"),
        (ranges(&[("127.0.0.1", 32, miss(), false), ("127.0.0.0", 8, action("b"), true)]), "d"),
        (ranges(&[("127.0.0.0", 8, action("b"), true)]), "b"),
        (ranges(&[("127.0.0.1", 32, miss(), false), ("127.0.0.1", 32, action("b"), false)]), "b"),
        (ranges(&[("127.0.0.1", 32, action("b"), false), ("127.0.0.1", 32, action("a"), false)]), "b"),
        (map("DestinationPortInput", "exact_match_map", &[("1", action("a"))], None), "d"),
        (map("DestinationPortInput", "exact_match_map", &[("080", action("a")), ("80", action("b"))], None), "b"),
        (map("DestinationPortInput", "exact_match_map", &[("80", action("unknown"))], None), "-"),
        (map("SourceTypeInput", "exact_match_map", &[("local", action("a"))], Some(action("b"))), "a"),
        (map("TransportProtocolInput", "exact_match_map", &[("raw_buffer", action("a"))], None), "a"),
    ] {
        assert_eq!(tree(&matcher).find(&c), chain, "{matcher}");
    }
}

#[test]
fn a_list_takes_the_first_match_and_what_is_missing_matches_no_value() {
    let single = |input: &str, m: &str| {
        format!("{{single_predicate: {{input: {{name: i, {INPUT}.{input}}}}}, value_match: {m}}}}}")
    };
    let list = |entries: &[(String, String)]| {
        let one = |(p, m): &(String, String)| format!("{{predicate: {p}, on_match: {m}}}");
        format!("{{matcher_list: {{matchers: [{}]}}}}", entries.iter().map(one).collect::<Vec<_>>().join(", "))
    };
    let local = single("DestinationIPInput", "{prefix: '127'}");
    let named = single("ServerNameInput", "{exact: x}");
    let c = connection("127.0.0.1:80", "127.0.0.1:9");
    let find = |entries: &[(String, String)]| tree(&list(entries)).find(&c).to_owned();
    assert_eq!(find(&[(local.clone(), miss()), (format!("{{not_matcher: {named}}}"), action("b"))]), "b");
    assert_eq!(find(&[(format!("{{or_matcher: {{predicate: [{named}, {local}]}}}}"), action("a"))]), "a");
    assert_eq!(find(&[(format!("{{and_matcher: {{predicate: [{named}, {local}]}}}}"), action("a"))]), "d");
}

#[test]
fn filter_state_and_protocols_are_inputs() {
    let state = tree(&map(
        "FilterStateInput, key: authority",
        "exact_match_map",
        &[("h:80", action("a")), ("1.2.3.4:5", action("b"))],
        None,
    ));
    let mut c = connection("127.0.0.1:80", "127.0.0.1:9");
    assert_eq!(state.find(&c), "d");
    let set = |c: &mut Connection, object| {
        c.filter_state.set(Entry { key: "authority".into(), object, shared: Shared::None, read_only: false })
    };
    set(&mut c, Object::String("h:80".into()));
    assert_eq!(state.find(&c), "a");
    set(&mut c, Object::Address(Address::Ip("1.2.3.4:5".parse().unwrap())));
    assert_eq!(state.find(&c), "b");

    let protocols = tree(&map(
        "ApplicationProtocolInput",
        "exact_match_map",
        &[("'h2c'", action("a")), ("'h2','http/1.1'", action("b"))],
        None,
    ));
    assert_eq!(protocols.find(&c), "d");
    c.application_protocols = vec!["h2c".into()];
    assert_eq!(protocols.find(&c), "a");
    c.application_protocols = vec!["h2".into(), "http/1.1".into()];
    assert_eq!(protocols.find(&c), "b");
}

#[test]
fn what_a_matcher_cannot_do_is_refused_with_its_path() {
    let on = |m: &str| refused(&format!("{{filter_chains: [{{name: a}}], filter_chain_matcher: {m}}}"));
    let keep =
        map("DestinationPortInput", "exact_match_map", &[("1", "{keep_matching: true, matcher: {}}".into())], None);
    assert_eq!(
        on(&keep),
        "l.filter_chain_matcher.matcher_tree.exact_match_map.map[1].keep_matching: not supported yet"
    );
    let input = map("NetworkNamespaceInput", "exact_match_map", &[("1", action("a"))], None);
    assert!(on(&input).contains("matcher_tree.input.typed_config: input envoy.extensions"), "{}", on(&input));
    let names = |a: &str, b: &str| {
        let m = map("DestinationPortInput", "exact_match_map", &[("1", action("a"))], None);
        refused(&format!("{{filter_chains: [{{name: {a}}}, {{name: {b}}}], filter_chain_matcher: {m}}}"))
    };
    assert_eq!(names("a", "a"), "l.filter_chains[1].name: \"name\" field is duplicated with value 'a'");
    assert_eq!(names("a", "''"), "l.filter_chains[1].name: \"name\" field is required when using a listener matcher");
}

#[test]
fn a_listener_filter_is_left_out_by_port() {
    let disabled = |text: &str| FilterDisabled::compile(Some(&read(text)), "p").unwrap();
    let range = disabled("destination_port_range: {start: 80, end: 82}");
    assert_eq!([79, 80, 81, 82].map(|p| range.disabled(Some(p))), [false, true, true, false]);
    assert!(range.disabled(None) && !FilterDisabled::default().disabled(Some(80)));
    let ports = "destination_port_range: {start: 80, end: 81}}, {destination_port_range: {start: 90, end: 91}";
    let either = disabled(&format!("or_match: {{rules: [{{{ports}}}]}}"));
    assert_eq!([80, 90, 85].map(|p| either.disabled(Some(p))), [true, true, false]);
    assert!(!disabled(&format!("and_match: {{rules: [{{{ports}}}]}}")).disabled(Some(80)));
    assert!(disabled("not_match: {destination_port_range: {start: 80, end: 81}}").disabled(Some(81)));
    assert!(disabled("any_match: true").disabled(Some(1)));
}

/// The recorded pushes of istiod that are in the repository, or all where `WAYPOST_FIXTURES` says.
fn recorded() -> Vec<(PathBuf, Vec<Listener>)> {
    let root = std::env::var_os("WAYPOST_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("xds/testdata"), PathBuf::from);
    let mut found = Vec::new();
    for scenario in std::fs::read_dir(root).unwrap() {
        let path = scenario.unwrap().path().join("recorded/state/0-initial/lds.json");
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let Value::Array(listeners) = serde_json::from_str(&text).unwrap() else { panic!("{path:?} is no list") };
        let one = |mut v: Value| {
            v.as_object_mut().unwrap().shift_remove("@type");
            json::from_value(&v, &json::Options::ignore_unknown()).unwrap()
        };
        found.push((path, listeners.into_iter().map(one).collect()));
    }
    assert!(!found.is_empty());
    found
}

#[test]
fn every_listener_that_istiod_sends_compiles() {
    for (path, listeners) in recorded() {
        for listener in listeners {
            compile(&listener).unwrap_or_else(|e| panic!("{path:?} {}: {e}", listener.name));
            for filter in &listener.listener_filters {
                FilterDisabled::compile(filter.filter_disabled.as_ref(), "f").unwrap();
            }
        }
    }
}

#[test]
fn a_waypoint_finds_the_chain_of_each_service_and_workload() {
    let all = recorded();
    let (_, listeners) = all.iter().find(|(p, _)| p.to_string_lossy().contains("waypoint-extensions")).unwrap();
    let main = listeners.iter().find(|l| l.name == "main_internal").unwrap();
    let (chains, names) = compile(main).unwrap();
    let chains = Chains(chains, names);
    let at = |local: &str, protocol: Option<&str>| {
        let mut c = connection(local, "127.1.0.9:1");
        c.application_protocols = protocol.map(Into::into).into_iter().collect();
        chains.find(&c).to_owned()
    };
    assert_eq!(at("127.2.0.12:3306", None), "inbound-vip|3306|tcp|db.default.svc.cluster.local");
    assert_eq!(at("127.2.0.13:8000", None), "inbound-vip|8000|tcp|mixed.default.svc.cluster.local");
    assert_eq!(at("127.2.0.13:8000", Some("h2c")), "inbound-vip|8000|http|mixed.default.svc.cluster.local");
    assert_eq!(at("127.2.0.13:8000", Some("http/1.1")), "inbound-vip|8000|http|mixed.default.svc.cluster.local");
    assert_eq!(at("127.2.0.13:81", None), "-");
    assert_eq!(at("127.99.0.1:80", None), "-", "an address of nobody");
}
