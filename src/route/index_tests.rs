//! The index finds what a scan finds.

use super::index::RouteIndex;
use super::tests::{stream, table};

/// Numbers that look random and are the same each time (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }

    /// A path over a tiny alphabet, so that prefixes of one another are common.
    fn path(&mut self) -> String {
        let len = self.below(5);
        (0..len).fold("/".to_owned(), |path, _| path + ["a", "b", "/"][self.below(3)])
    }
}

#[test]
fn an_indexed_table_finds_the_route_that_a_scan_finds() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut hits = 0;
    for _ in 0..60 {
        let count = 12 + numbers.below(60);
        let routes: Vec<String> = (0..count)
            .map(|i| {
                let path = numbers.path();
                let condition = match numbers.below(6) {
                    0 | 1 => format!("prefix: '{path}'"),
                    2 => format!("path: '{path}'"),
                    3 => format!("path_separated_prefix: '{}x'", path),
                    4 => format!("safe_regex: {{regex: '{path}.?'}}"),
                    _ => format!("path: '{path}', case_sensitive: false"),
                };
                let header = if numbers.below(3) == 0 { ", headers: [{name: x-a}]" } else { "" };
                format!("{{name: r{i}, match: {{{condition}{header}}}, direct_response: {{status: 200}}}}")
            })
            .collect();
        let t = table(&format!(
            "{{name: r, virtual_hosts: [{{name: v, domains: ['*'], routes: [{}]}}]}}",
            routes.join(", ")
        ));
        let entries = &t.virtual_hosts[0];
        assert!(entries.index.is_some());
        for _ in 0..60 {
            let mut path = numbers.path();
            path += ["", "x", "x/a", "?q", "A"][numbers.below(5)];
            let headers: &[(&str, &str)] = if numbers.below(2) == 0 { &[("x-a", "1")] } else { &[] };
            let s = stream("h", &path, headers);
            let bare = s.request.path_without_query();
            let scanned = entries.routes.iter().find(|r| r.condition.matches(&s, bare, 0)).map(|r| &r.name);
            assert_eq!(t.find(&s, 0).map(|r| &r.name), scanned, "{path} in {routes:?}");
            hits += usize::from(scanned.is_some());
        }
    }
    assert!((500..3_500).contains(&hits), "the sample should have hits and misses: {hits}");
}

#[test]
fn candidates_come_in_order_and_are_few() {
    let literals = [Some("/b"), None, Some("/a"), Some("/a/b"), Some("/a/c"), Some("/a"), Some(""), Some("/a/b/c")];
    let index = RouteIndex::new(literals.into_iter().map(|l| l.map(str::as_bytes)));
    let candidates = |path: &str| index.candidates(path.as_bytes()).collect::<Vec<_>>();
    assert_eq!(candidates("/a/b/d"), [1, 2, 3, 5, 6]);
    assert_eq!(candidates("/a/b/c"), [1, 2, 3, 5, 6, 7]);
    assert_eq!(candidates("/c"), [1, 6]);
    assert_eq!(candidates(""), [1, 6]);
}
