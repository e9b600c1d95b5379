use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use waypost_xds::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::super::{Cluster, Discovery, Health};
use super::{Rig, assignment, at, eds, hosts, ids};

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
