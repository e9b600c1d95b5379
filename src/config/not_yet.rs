//! Holds docs/not-yet.md to the tables in the code.

use waypost_filters::http::compressor;

use crate::config::access_log;
use crate::http::config::TRACERS;
use crate::http::registry::{self, Role};
use crate::listener::network;

fn row(type_name: &str, what: &str) -> String {
    format!("| `{type_name}` | {what} |")
}

/// The document as the tables would have it: what stands between the prose.
fn tables() -> Vec<(&'static str, Vec<String>)> {
    let http = registry::FILTERS.iter().filter_map(|k| match k.role {
        Role::Build(_) => None,
        Role::Guards(_) => Some(row(k.type_name, "closed")),
        Role::Adds(missing) => Some(row(k.type_name, &format!("passed over: {missing}"))),
    });
    let tcp = network::FILTERS.iter().filter_map(|k| match k.role {
        network::Role::Build(_) | network::Role::Exchange | network::Role::Terminal(_) => None,
        network::Role::Guards(_) | network::Role::Closed => Some(row(k.type_name, "closed")),
        network::Role::Adds(missing) => Some(row(k.type_name, &format!("passed over: {missing}"))),
    });
    let list = |names: &[&str]| names.iter().map(|n| format!("* `{n}`")).collect();
    vec![
        ("HTTP filters", http.collect()),
        ("Network filters", tcp.collect()),
        ("Compressor libraries", list(compressor::NOT_BUILT)),
        ("Access logs", list(access_log::NOT_BUILT)),
        ("Tracers", list(TRACERS)),
    ]
}

#[test]
fn the_document_lists_what_the_code_does() {
    let document = include_str!("../../docs/not-yet.md");
    for (heading, expected) in tables() {
        let (_, section) = document.split_once(&format!("## {heading}\n")).unwrap();
        let section = section.split("\n## ").next().unwrap();
        let is_item = |l: &&str| l.starts_with("| `") || l.starts_with("* `");
        let found: Vec<&str> = section.lines().filter(is_item).collect();
        assert_eq!(found, expected, "{heading}: these lines belong there\n{}\n", expected.join("\n"));
    }
}
