//! Tests of what an update is taken for. How connections fare is told in tests/e2e/listener_updates.rs.

use std::sync::{Arc, OnceLock};

use waypost_xds::envoy::config::listener::v3::Listener as Proto;
use waypost_xds::{json, yaml};

use super::*;
use crate::config::Process;
use crate::listener::Terminal;
use crate::observe::access_log::AccessLogFiles;
use crate::tls::SecretStore;

struct Rig {
    manager: ListenerManager,
    shared: Arc<Shared>,
    logs: AccessLogFiles,
    secrets: Arc<SecretStore>,
}

impl Rig {
    fn new() -> Rig {
        let shared = Arc::new(Shared {
            clusters: Default::default(),
            listeners: Default::default(),
            stats: Default::default(),
            drain: Default::default(),
            workers: OnceLock::from(Vec::new()),
            overload: Default::default(),
        });
        Rig {
            manager: ListenerManager::new(shared.clone()),
            shared,
            logs: AccessLogFiles::default(),
            secrets: SecretStore::new(),
        }
    }

    fn prepare(&mut self, proto: Proto) -> Result<Prepared, ListenerError> {
        let cx = Context {
            stats: &self.shared.stats,
            clusters: &self.shared.clusters,
            logs: &self.logs,
            secrets: &self.secrets,
            routes: &crate::route::slot::RouteSlots::default(),
            extensions: &crate::config::extension_slot::ExtensionSlots::default(),
            process: &Process::default(),
        };
        self.manager.prepare(proto, &cx, "l")
    }

    fn apply(&mut self, proto: Proto) {
        let Ok(Prepared::Ready(pending)) = self.prepare(proto) else { panic!("expected an update") };
        assert!(self.manager.activate(*pending).unwrap());
    }

    fn chains(&self) -> Arc<Chains> {
        self.manager.active("l").unwrap().chains.load_full()
    }
}

fn proto(text: &str) -> Proto {
    json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap()
}

/// An internal listener with a chain for each number, told apart by an IP matcher as istiod writes it.
fn many(numbers: impl Iterator<Item = usize> + Clone, changed: usize) -> Proto {
    let echo =
        "typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config";
    let chains = numbers.clone().map(|n| {
        let text = if n == changed { "new" } else { "old" };
        format!("  - {{name: c{n}, filters: [{{name: d, {echo}, response: {{inline_string: {text}{n}}}}}}}]}}\n")
    });
    let ranges = numbers.clone().map(|n| {
        let action = format!("{{name: c{n}, typed_config: {{\"@type\": type.googleapis.com/google.protobuf.StringValue, value: c{n}}}}}");
        let port = "{name: port, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DestinationPortInput}}";
        format!(
            "      - {{ranges: [{{address_prefix: 10.{}.{}.{}, prefix_len: 32}}], on_match: {{matcher: {{matcher_tree: {{input: {port}, \
             exact_match_map: {{map: {{\"80\": {{action: {action}}}}}}}}}}}}}}}\n",
            n >> 16,
            n >> 8 & 255,
            n & 255
        )
    });
    let text = format!(
        "name: l\ninternal_listener: {{}}\nfilter_chains:\n{}filter_chain_matcher:\n  matcher_tree:\n    input: {{name: ip, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DestinationIPInput}}}}\n    custom_match:\n      name: ip\n      \
         typed_config:\n        \"@type\": type.googleapis.com/xds.type.matcher.v3.IPMatcher\n        range_matchers:\n{}",
        chains.collect::<String>(),
        ranges.map(|r| format!("  {r}")).collect::<String>()
    );
    proto(&text)
}

#[tokio::test]
async fn chains_that_are_the_same_are_the_same_object() {
    let mut rig = Rig::new();
    rig.apply(many(0..50, 1000));
    let before = rig.chains();
    // One changes, one goes, one comes, and all of them move.
    rig.apply(many((1..51).rev(), 25));
    let after = rig.chains();
    let find = |chains: &Chains, name: &str| chains.all.iter().find(|c| &*c.name == name).cloned();
    for n in 1..50 {
        let name = format!("c{n}");
        let (old, new) = (find(&before, &name).unwrap(), find(&after, &name).unwrap());
        assert_eq!(Arc::ptr_eq(&old, &new), n != 25, "{name}");
        assert_eq!(old.state.is_leaving(), n == 25, "{name}");
    }
    assert!(find(&before, "c0").unwrap().state.is_leaving() && find(&after, "c50").is_some());
}

#[tokio::test]
async fn a_listener_that_changes_otherwise_shares_what_was_compiled_and_no_connections() {
    let mut rig = Rig::new();
    let text = "name: l
internal_listener: {}
filter_chains: [{name: a, filters: [{name: t, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}]}]";
    rig.apply(proto(text));
    let before = rig.chains();
    rig.apply(proto(&format!("{text}\ntraffic_direction: INBOUND")));
    let (old, new) = (before.all.first().unwrap().clone(), rig.chains().all.first().unwrap().clone());
    let (Terminal::Tcp(a), Terminal::Tcp(b)) = (&old.terminal, &new.terminal) else { panic!("not TCP") };
    assert!(Arc::ptr_eq(a, b) && !Arc::ptr_eq(&old.state, &new.state));
    assert!(old.state.is_leaving() && !new.state.is_leaving());
}

#[tokio::test]
async fn maps_are_the_same_in_any_order() {
    let mut rig = Rig::new();
    let entries: String = (0..30).map(|n| format!("k{n}: {{a: 1, b: [x, {{c: d, e: f}}], n: null}}, ")).collect();
    let text = format!(
        "name: l\ninternal_listener: {{}}\nmetadata: {{filter_metadata: {{{entries}}}}}\nfilter_chains: [{{name: a, metadata: {{filter_metadata: {{{entries}}}}}}}]"
    );
    rig.apply(proto(&text));
    // Maps that are read anew have another order.
    for _ in 0..5 {
        assert!(matches!(rig.prepare(proto(&text)), Ok(Prepared::Unchanged)));
    }
    let Ok(Prepared::Ready(changed)) = rig.prepare(proto(&text.replace("k7: {a: 1", "k7: {a: 2"))) else {
        panic!("expected an update")
    };
    assert!(!changed.is_in_place());
}

#[tokio::test]
async fn a_listener_of_the_bootstrap_stays_what_it_is() {
    let mut rig = Rig::new();
    let text = "name: l\ninternal_listener: {}\nfilter_chains: [{name: a}]";
    let process = Process::default();
    let cx = Context {
        stats: &rig.shared.stats,
        clusters: &rig.shared.clusters,
        logs: &rig.logs,
        secrets: &rig.secrets,
        routes: &crate::route::slot::RouteSlots::default(),
        extensions: &crate::config::extension_slot::ExtensionSlots::default(),
        process: &process,
    };
    let compiled = compile::compile(proto(text), &cx, "l").unwrap();
    rig.manager.add_static(compiled).unwrap();
    assert!(matches!(rig.prepare(proto(&format!("{text}\ntraffic_direction: INBOUND"))), Ok(Prepared::Ignored)));
    assert!(!rig.manager.remove("l") && rig.manager.removable().is_empty());
    assert_eq!(rig.shared.listeners.load().internal.len(), 1);
}

/// Prints how long one changed chain among thousands takes; run by hand.
#[tokio::test]
#[ignore = "prints times"]
async fn one_chain_of_thousands() {
    for count in [2000, 4000, 8000] {
        let mut rig = Rig::new();
        let (first, second) = (many(0..count, count), many(0..count, 7));
        let start = std::time::Instant::now();
        rig.apply(first);
        let all = start.elapsed();
        let start = std::time::Instant::now();
        rig.apply(second);
        let one = start.elapsed();
        let more = many(0..count + 1, 7);
        let start = std::time::Instant::now();
        rig.apply(more);
        println!("{count} chains: {all:?}, one that changes: {one:?}, one more: {:?}", start.elapsed());
    }
}
