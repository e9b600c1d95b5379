use super::super::Cluster;
use super::super::dns::Resolved;
use super::{Rig, hosts, ids};

fn resolved(list: &[(&str, &[&str])]) -> Resolved {
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
