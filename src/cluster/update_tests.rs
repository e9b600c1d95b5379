use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;
use waypost_xds::{json, yaml};

use super::compile::{compile, compile_after};
use super::{Cluster, ClusterTable, Discovery, Health, Host};
use crate::config::{ConfigError, Context, Process};
use crate::observe::access_log::AccessLogFiles;
use crate::observe::stats::Store;
use crate::tls::SecretStore;

struct Rig {
    stats: Arc<Store>,
    clusters: ClusterTable,
    logs: AccessLogFiles,
    secrets: Arc<SecretStore>,
    process: Process,
}

impl Rig {
    fn new() -> Rig {
        Rig {
            stats: Arc::default(),
            clusters: ClusterTable::default(),
            logs: AccessLogFiles::new(std::time::Duration::from_secs(10)),
            secrets: SecretStore::new(),
            process: Process::default(),
        }
    }

    fn after(&self, text: &str, old: Option<&Cluster>) -> Result<Arc<Cluster>, ConfigError> {
        let proto = json::from_value(&yaml::parse(text).unwrap(), &json::Options::reject_unknown()).unwrap();
        let cx = Context {
            stats: &self.stats,
            clusters: &self.clusters,
            logs: &self.logs,
            secrets: &self.secrets,
            process: &self.process,
        };
        match old {
            None => compile(proto, &cx, "c"),
            some => compile_after(proto, &cx, "c", some),
        }
    }

    /// An EDS cluster, in its slot.
    fn eds(&self, more: &str) -> Arc<Cluster> {
        let cluster = self.after(&eds(more), None).unwrap();
        self.clusters.slot("a").set(Some(cluster.clone()));
        cluster
    }

    fn stat(&self, name: &str) -> u64 {
        self.stats.find(&format!("cluster.a.{name}")).unwrap()
    }
}

fn eds(more: &str) -> String {
    format!("{{name: a, type: EDS, eds_cluster_config: {{service_name: s, eds_config: {{ads: {{}}}}}}{more}}}")
}

fn assignment(endpoints: &str) -> ClusterLoadAssignment {
    let text = format!("{{cluster_name: s, endpoints: [{endpoints}]}}");
    json::from_value(&yaml::parse(&text).unwrap(), &json::Options::reject_unknown()).unwrap()
}

fn at(ports: &[u16]) -> String {
    let one =
        |p: &u16| format!("{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {p}}}}}}}}}");
    format!("{{lb_endpoints: [{}]}}", ports.iter().map(one).collect::<Vec<_>>().join(","))
}

fn hosts(cluster: &Cluster) -> Vec<Arc<Host>> {
    cluster.hosts.load().all.to_vec()
}

fn ids(cluster: &Cluster) -> Vec<u64> {
    hosts(cluster).iter().map(|h| h.id).collect()
}

#[test]
fn an_assignment_keeps_the_hosts_that_stay() {
    let rig = Rig::new();
    let cluster = rig.eds("");
    assert!(hosts(&cluster).is_empty() && cluster.eds_service_name() == Some("s"));
    cluster.assign(&assignment(&at(&[1, 2])), "e").unwrap();
    let before = hosts(&cluster);
    cluster.assign(&assignment(&at(&[2, 3])), "e").unwrap();
    let after = hosts(&cluster);
    assert!(Arc::ptr_eq(&before[1], &after[0]), "unchanged");
    assert!(before[0].state.retired() && !before[1].state.retired());
    assert_eq!((rig.stat("membership_total"), rig.stat("membership_change")), (2, 2));
    cluster.assign(&assignment(&at(&[2, 3])), "e").unwrap();
    assert_eq!((rig.stat("update_no_rebuild"), rig.stat("update_success"), rig.stat("update_attempt")), (1, 3, 3));
    cluster.assign(&assignment(&at(&[1])), "e").unwrap();
    assert_ne!(hosts(&cluster)[0].id, before[0].id, "a host that had gone is another one");
    cluster.assign(&assignment(""), "e").unwrap();
    assert!(hosts(&cluster).is_empty() && rig.stat("membership_total") == 0);
}

#[test]
fn what_is_said_of_a_host_may_change_and_the_host_stays() {
    let rig = Rig::new();
    let cluster = rig.eds("");
    let endpoint = |more: &str, place: &str| {
        assignment(&format!(
            "{{lb_endpoints: [{{endpoint: {{address: {{envoy_internal_address: {{server_listener_name: o, endpoint_id: x}}}}}}{more}}}]{place}}}"
        ))
    };
    cluster.assign(&endpoint("", ""), "e").unwrap();
    let first = hosts(&cluster).remove(0);
    first.state.active.fetch_add(1, Relaxed);
    for (more, place) in [
        (", load_balancing_weight: 7", ""),
        (", health_status: UNHEALTHY", ""),
        (", metadata: {filter_metadata: {istio: {workload: w}}}", ""),
        ("", ", locality: {zone: z}"),
        ("", ", priority: 1"),
    ] {
        cluster.assign(&endpoint(more, place), "e").unwrap();
        let host = hosts(&cluster).remove(0);
        assert!(!Arc::ptr_eq(&host, &first) && host.id == first.id, "{more}{place}");
        assert_eq!(host.state.active.load(Relaxed), 1);
    }
    assert!(!first.state.retired() && rig.stat("membership_change") == 1);
    cluster.assign(&endpoint(", health_status: DRAINING", ""), "e").unwrap();
    assert_eq!(hosts(&cluster)[0].health, Health::Unhealthy);
    assert_eq!(rig.stat("membership_healthy"), 0);
    let elsewhere = ", metadata: {filter_metadata: {envoy.filters.listener.original_dst: {local: \"1.2.3.4:5\"}}}";
    cluster.assign(&endpoint(elsewhere, ""), "e").unwrap();
    assert_ne!(hosts(&cluster)[0].id, first.id, "its connections would lead elsewhere");
    assert!(first.state.retired());
}

#[test]
fn endpoint_ids_tell_hosts_apart_and_a_host_named_twice_is_one() {
    let rig = Rig::new();
    let cluster = rig.eds("");
    let one = |id: &str| {
        format!("{{endpoint: {{address: {{envoy_internal_address: {{server_listener_name: o, endpoint_id: {id}}}}}}}}}")
    };
    let all = ["x1", "x2", "x1"].map(one).join(",");
    cluster.assign(&assignment(&format!("{{lb_endpoints: [{all}]}}")), "e").unwrap();
    assert_eq!(hosts(&cluster).len(), 2);
}

#[test]
fn a_bad_assignment_leaves_the_hosts_and_says_why() {
    let rig = Rig::new();
    let cluster = rig.eds("");
    cluster.assign(&assignment(&at(&[1])), "e").unwrap();
    let weight =
        "{load_balancing_weight: 4294967295, endpoint: {address: {socket_address: {address: 1.1.1.1, port_value: 1}}}}";
    for (bad, error) in [
        (
            "{lb_endpoints: [{endpoint: {address: {socket_address: {address: a.b, port_value: 1}}}}]}".to_owned(),
            "malformed IP address: a.b",
        ),
        (
            format!("{{lb_endpoints: [{weight}, {weight}]}}"),
            "The sum of weights of all endpoints in a locality exceeds 4294967295",
        ),
        (
            "{load_balancing_weight: 4294967295}, {load_balancing_weight: 1}".to_owned(),
            "The sum of weights of all localities at the same priority exceeds 4294967295",
        ),
        ("{priority: 129}".to_owned(), "value must be less than or equal to 128"),
        ("{lb_endpoints: [{endpoint_name: gone}]}".to_owned(), "Unknown endpoint name: gone"),
    ] {
        let said = cluster.assign(&assignment(&bad), "e").unwrap_err();
        assert!(said.reason.starts_with(error), "{said}");
        assert!(said.path.starts_with("e.endpoints["), "{said}");
    }
    let other = ClusterLoadAssignment { cluster_name: "t".to_owned(), ..ClusterLoadAssignment::default() };
    assert_eq!(cluster.assign(&other, "e").unwrap_err().reason, "Unexpected EDS cluster (expecting s): t");
    assert_eq!((hosts(&cluster).len(), rig.stat("update_rejected"), rig.stat("update_success")), (1, 6, 1));
}

#[test]
fn a_changed_cluster_takes_over_its_hosts_and_what_is_in_use() {
    let rig = Rig::new();
    let old = rig.eds("");
    old.assign(&assignment(&at(&[1, 2])), "e").unwrap();
    let held = old.limits.requests.take();
    let limits = ", lb_policy: RANDOM, circuit_breakers: {thresholds: [{max_requests: 1}]}";
    let new = rig.after(&eds(limits), Some(&old)).unwrap();
    assert_eq!(ids(&new), ids(&old));
    assert!(new.limits.requests.take().is_none(), "the limit is the new one, and one is in use");
    drop(held);
    assert!(new.limits.requests.take().is_some());
    // While it warms, what it drops is still the old one's.
    new.assign(&assignment(&at(&[2, 3])), "e").unwrap();
    assert!(!hosts(&old)[0].state.retired());
    rig.clusters.slot("a").set(Some(new.clone()));
    assert!(hosts(&old)[0].state.retired() && !hosts(&old)[1].state.retired());
    assert_eq!(rig.stat("membership_total"), 2);
    rig.clusters.slot("a").set(None);
    assert!(hosts(&new).iter().all(|h| h.state.retired()));
}

#[test]
fn hosts_are_others_where_connections_are_made_otherwise() {
    let rig = Rig::new();
    let old = rig.eds("");
    old.assign(&assignment(&at(&[1])), "e").unwrap();
    for more in [
        ", connect_timeout: 1s",
        ", http2_protocol_options: {}",
        ", upstream_bind_config: {source_address: {address: 127.0.0.1, port_value: 0}}",
        ", transport_socket: {name: raw_buffer}",
        ", upstream_connection_options: {tcp_keepalive: {keepalive_time: 1}}",
        ", max_requests_per_connection: 4",
    ] {
        let new = rig.after(&eds(more), Some(&old)).unwrap();
        assert!(hosts(&new).is_empty(), "{more}");
        new.assign(&assignment(&at(&[1])), "e").unwrap();
        assert_ne!(ids(&new), ids(&old), "{more}");
    }
    assert!(!hosts(&old)[0].state.retired());
}

#[test]
fn a_static_cluster_keeps_the_hosts_that_stay_in_its_list() {
    let rig = Rig::new();
    let text = |ports: &[u16], more: &str| {
        format!("{{name: a, type: STATIC, load_assignment: {{cluster_name: a, endpoints: [{}]}}{more}}}", at(ports))
    };
    let old = rig.after(&text(&[1, 2, 2], ""), None).unwrap();
    assert_eq!(hosts(&old).len(), 3, "a static list may name a host twice");
    let new = rig.after(&text(&[2, 3, 2], ", lb_policy: RANDOM"), Some(&old)).unwrap();
    assert_eq!((ids(&new)[0], ids(&new)[2]), (ids(&old)[1], ids(&old)[2]));
    assert_ne!(ids(&new)[1], ids(&old)[0]);
    let same = rig.after(&text(&[2, 3, 2], ", lb_policy: RANDOM"), Some(&new)).unwrap();
    assert!(hosts(&same).iter().zip(&hosts(&new)).all(|(a, b)| Arc::ptr_eq(a, b)));
}

#[test]
fn hosts_made_on_demand_stay_with_the_cluster_that_connects_alike() {
    let rig = Rig::new();
    let text = |more: &str| format!("{{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED{more}}}");
    let origin = |c: &Cluster| match &c.discovery {
        Discovery::OriginalDst(config) => config.origin.clone(),
        other => panic!("{other:?}"),
    };
    let old = rig.after(&text(""), None).unwrap();
    let slot = rig.clusters.slot("a");
    slot.set(Some(old.clone()));
    let new = rig.after(&text(", circuit_breakers: {thresholds: [{max_requests: 1}]}"), Some(&old)).unwrap();
    slot.set(Some(new.clone()));
    assert!(Arc::ptr_eq(&origin(&old), &origin(&new)) && !origin(&old).state.retired());
    let other = rig.after(&text(", connect_timeout: 1s"), Some(&new)).unwrap();
    slot.set(Some(other.clone()));
    assert!(origin(&new).state.retired() && !origin(&other).state.retired());
}

#[test]
fn what_is_only_for_eds_is_refused_elsewhere_and_missed_there() {
    let rig = Rig::new();
    let error = |text: &str| rig.after(text, None).unwrap_err().to_string();
    assert_eq!(
        error("{name: a, type: STATIC, eds_cluster_config: {eds_config: {ads: {}}}}"),
        "c.eds_cluster_config: eds_cluster_config set in a non-EDS cluster"
    );
    assert_eq!(error("{name: a, type: EDS}"), "c.eds_cluster_config.eds_config: value is required");
    assert!(
        error("{name: a, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}, load_assignment: {cluster_name: a}}")
            .starts_with("c.load_assignment")
    );
    let unnamed = rig.after("{name: a, type: EDS, eds_cluster_config: {eds_config: {ads: {}}}}", None).unwrap();
    assert_eq!(unnamed.eds_service_name(), Some("a"));
}

fn resolved(list: &[(&str, &[&str])]) -> super::dns::Resolved {
    list.iter().map(|(n, a)| ((*n).into(), a.iter().map(|a| a.parse().unwrap()).collect())).collect()
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    hosts(cluster).iter().map(|h| h.info.address.to_string()).collect()
}

fn named(kind: &str, endpoints: &[&str]) -> String {
    let one = |n: &&str| format!("{{endpoint: {{address: {{socket_address: {{address: {n}, port_value: 80}}}}}}}}");
    let all = endpoints.iter().map(one).collect::<Vec<_>>().join(",");
    format!("{{name: a, type: {kind}, load_assignment: {{cluster_name: a, endpoints: [{{lb_endpoints: [{all}]}}]}}}}")
}

#[test]
fn each_address_of_a_name_is_a_host_and_an_address_is_its_own_name() {
    let rig = Rig::new();
    let cluster = rig.after(&named("STRICT_DNS", &["x.y", "9.9.9.9", "z.y"]), None).unwrap();
    assert_eq!(addresses(&cluster), ["9.9.9.9:80"]);
    assert!(cluster.waits_for_names());
    cluster.set_resolved(&resolved(&[("x.y", &["1.1.1.1", "2.2.2.2"])]));
    assert_eq!(addresses(&cluster), ["1.1.1.1:80", "2.2.2.2:80", "9.9.9.9:80"]);
    assert_eq!(hosts(&cluster)[0].info.hostname, "x.y".into());
    let before = ids(&cluster);
    cluster.set_resolved(&resolved(&[("x.y", &["2.2.2.2"]), ("z.y", &["2.2.2.2", "::1"])]));
    assert_eq!(addresses(&cluster), ["2.2.2.2:80", "9.9.9.9:80", "[::1]:80"], "an address is one host");
    assert_eq!(ids(&cluster)[..2], before[1..]);
    let next = rig.after(&named("STRICT_DNS", &["x.y", "9.9.9.9", "z.y"]), Some(&cluster)).unwrap();
    assert_eq!(ids(&next), ids(&cluster), "a version that names the same begins with what is known");
    let fixed = rig.after(&named("STRICT_DNS", &["9.9.9.9"]), None).unwrap();
    assert!(!fixed.waits_for_names());
}

#[test]
fn the_host_of_logical_dns_is_the_same_wherever_it_is() {
    let rig = Rig::new();
    let cluster = rig.after(&named("LOGICAL_DNS", &["x.y"]), None).unwrap();
    assert!(hosts(&cluster).is_empty());
    cluster.set_resolved(&resolved(&[("x.y", &["1.1.1.1", "2.2.2.2"])]));
    let before = ids(&cluster);
    cluster.set_resolved(&resolved(&[("x.y", &["2.2.2.2", "1.1.1.1"])]));
    assert_eq!((ids(&cluster), addresses(&cluster)), (before, vec!["2.2.2.2:80".to_owned()]));
    assert_eq!(rig.stat("membership_change"), 1);
    assert!(
        rig.after(&named("LOGICAL_DNS", &["x1", "x2"]), None)
            .unwrap_err()
            .reason
            .starts_with("LOGICAL_DNS clusters must have")
    );
}

/// Run alone: `cargo test --lib -- --ignored --nocapture what_a_cluster_costs`.
#[test]
#[ignore = "it measures the whole process"]
fn what_a_cluster_costs() {
    const COUNT: usize = 4000;
    let rig = Rig::new();
    let mut before = 0;
    // The first ones pay for what all share.
    for i in 0..COUNT + 100 {
        if i == 100 {
            before = crate::overload::resident_bytes();
        }
        let name = format!("inbound-vip|80{:02}|http|service-{i}.namespace-{}.svc.cluster.local", i % 100, i % 50);
        let text = format!(
            "{{name: \"{name}\", alt_stat_name: \"{name};\", type: EDS, connect_timeout: 10s, lb_policy: LEAST_REQUEST, \
             eds_cluster_config: {{service_name: \"{name}\", eds_config: {{ads: {{}}, initial_fetch_timeout: 0s, resource_api_version: V3}}}}, \
             circuit_breakers: {{thresholds: [{{max_connections: 4294967295}}]}}, common_lb_config: {{healthy_panic_threshold: {{}}}}, \
             metadata: {{filter_metadata: {{istio: {{services: [{{host: service-{i}.namespace.svc.cluster.local, name: service-{i}, namespace: n}}]}}}}}}, \
             transport_socket: {{name: internal_upstream, typed_config: {{\
             \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport, \
             passthrough_metadata: [{{kind: {{host: {{}}}}, name: envoy.filters.listener.original_dst}}, {{kind: {{host: {{}}}}, name: istio}}], \
             transport_socket: {{name: raw_buffer, typed_config: {{\
             \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}}}}}}}"
        );
        let cluster = rig.after(&text, None).unwrap();
        let endpoint = |k: usize| {
            let at = format!("10.{}.{}.{k}:8080", i / 250, i % 250);
            format!(
                "{{endpoint: {{address: {{envoy_internal_address: {{server_listener_name: connect_originate, endpoint_id: \"{at}\"}}}}}}, \
                 load_balancing_weight: 1, metadata: {{filter_metadata: {{envoy.filters.listener.original_dst: {{local: \"{at}\"}}, \
                 istio: {{workload: \"service-{i};namespace;service-{i};;Kubernetes\"}}}}}}}}"
            )
        };
        let endpoints = [endpoint(1), endpoint(2), endpoint(3)].join(", ");
        let mut assignment = assignment(&format!("{{locality: {{region: r, zone: z}}, lb_endpoints: [{endpoints}]}}"));
        assignment.cluster_name = name.clone();
        cluster.assign(&assignment, "e").unwrap();
        rig.clusters.slot(&name).set(Some(cluster));
    }
    rig.clusters.publish();
    let each = (crate::overload::resident_bytes() - before) / COUNT as u64;
    eprintln!("a cluster with three hosts: {each} bytes");
    // Envoy 1.40 takes 80 KiB for the same.
    assert!(each < 16 * 1024, "{each}");
}
