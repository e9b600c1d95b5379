use crate::{
    istio::{alpn, metadata_exchange, network_peer_metadata, peer_metadata, stats, workload},
    json::{self, Options},
    udpa, xds,
};
use prost::{Message, Name};
use serde_json::{Value, json};

/// The Rust type and the `.proto` file agree when everything that the one writes is read by the other.
fn agree<M: Message + Name + Default>(document: &Value) {
    let message: M = json::from_value(document, &Options::reject_unknown())
        .unwrap_or_else(|error| panic!("{}: {error}", M::full_name()));
    assert_eq!(json::to_value(&message, false).unwrap(), *document, "{}", M::full_name());
}

#[test]
fn rust_types_and_proto_files_agree() {
    agree::<udpa::r#type::v1::TypedStruct>(&json!({"type_url": "a", "value": {"b": 1}}));
    agree::<xds::r#type::v3::TypedStruct>(&json!({"type_url": "a", "value": {"b": 1}}));
    let action = json!({"action": {"name": "x"}});
    let ranges = json!([{"address_prefix": "10.0.0.0", "prefix_len": 8}]);
    agree::<xds::r#type::matcher::v3::IpMatcher>(
        &json!({"range_matchers": [{"ranges": ranges, "on_match": action, "exclusive": true}]}),
    );
    agree::<xds::r#type::matcher::v3::ServerNameMatcher>(
        &json!({"domain_matchers": [{"domains": ["*"], "on_match": action}]}),
    );
    agree::<xds::r#type::matcher::v3::CelMatcher>(&json!({"expr_match": {"cel_expr_string": "a"}, "description": "b"}));
    agree::<xds::r#type::matcher::v3::HttpAttributesCelMatchInput>(&json!({}));
    agree::<xds::r#type::matcher::v3::Int64RangeMatcher>(
        &json!({"range_matchers": [{"ranges": [{"start": "-1", "end": "9"}], "on_match": action}]}),
    );
    agree::<xds::r#type::matcher::v3::Int32RangeMatcher>(
        &json!({"range_matchers": [{"ranges": [{"start": -1, "end": 9}], "on_match": action}]}),
    );
    agree::<xds::r#type::matcher::v3::DoubleRangeMatcher>(
        &json!({"range_matchers": [{"ranges": [{"start": -0.5, "end": 9}], "on_match": action}]}),
    );
    agree::<stats::PluginConfig>(&json!({
        "disable_host_header_fallback": true, "tcp_reporting_duration": "5s",
        "metrics": [{"dimensions": {"a": "b"}, "name": "n", "tags_to_remove": ["t"], "match": "m", "drop": true}],
        "definitions": [{"name": "n", "value": "v", "type": "HISTOGRAM"}],
        "reporter": "SERVER_GATEWAY", "rotation_interval": "1s", "graceful_deletion_interval": "2s"
    }));
    agree::<workload::BootstrapExtension>(&json!({"config_source": {"ads": {}}}));
    agree::<workload::Workload>(&json!({
        "name": "a", "namespace": "b", "addresses": ["fwAAAQ=="], "network": "c", "tunnel_protocol": "LEGACY_ISTIO_MTLS", "trust_domain": "d",
        "service_account": "e", "waypoint": {"address": {"network": "f", "address": "fwAAAQ=="}, "hbone_mtls_port": 15008}, "node": "g",
        "canonical_name": "h", "canonical_revision": "i", "workload_type": "JOB", "workload_name": "j", "native_tunnel": true,
        "authorization_policies": ["k"], "status": "UNHEALTHY", "cluster_id": "l",
        "network_gateway": {"hostname": {"namespace": "m", "hostname": "n"}}, "uid": "o", "hostname": "p",
        "services": {"q": {"ports": [{"service_port": 80, "target_port": 8080}]}}, "application_tunnel": {"protocol": "PROXY", "port": 1},
        "locality": {"region": "r", "zone": "s", "subzone": "t"}, "network_mode": "HOST_NETWORK",
        "extensions": [{"name": "u", "config": {"@type": "type.googleapis.com/google.protobuf.Empty"}}], "capacity": 3
    }));
    let methods =
        json!([{"baggage": {}}, {"workload_discovery": {}}, {"istio_headers": {"skip_external_clusters": true}}]);
    let propagation = json!([{"istio_headers": {"skip_external_clusters": true}}, {"baggage": {}}]);
    agree::<peer_metadata::Config>(&json!({
        "downstream_discovery": methods, "upstream_discovery": methods, "downstream_propagation": propagation, "upstream_propagation": propagation,
        "shared_with_upstream": true, "additional_labels": ["a"]
    }));
    agree::<network_peer_metadata::Config>(&json!({"baggage_key": "a"}));
    agree::<network_peer_metadata::UpstreamConfig>(&json!({}));
    agree::<metadata_exchange::MetadataExchange>(
        &json!({"protocol": "a", "enable_discovery": true, "additional_labels": ["b"]}),
    );
    agree::<alpn::FilterConfig>(&json!({"alpn_override": [{"upstream_protocol": "HTTP2", "alpn_override": ["h2"]}]}));
}
