//! `/config_dump`.

use http::{Method, StatusCode};
use serde_json::Value;
use waypost_xds::any;
use waypost_xds::envoy::config::cluster::v3::Cluster;
use waypost_xds::envoy::config::listener::v3::Listener;

use super::super::config_store::{Failed, Kind};
use super::{add_cluster, ask, get, loaded};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn types(dump: &Value) -> Vec<&str> {
    let all = dump["configs"].as_array().unwrap().iter();
    all.map(|c| c["@type"].as_str().unwrap().rsplit('.').next().unwrap()).collect()
}

#[test]
fn the_dumps_come_in_envoys_order() {
    let state = loaded();
    add_cluster(&state);
    let plain = json(&get(&state, "/config_dump"));
    let mut expected = vec![
        "BootstrapConfigDump",
        "ClustersConfigDump",
        "ListenersConfigDump",
        "ScopedRoutesConfigDump",
        "RoutesConfigDump",
        "SecretsConfigDump",
    ];
    assert_eq!(types(&plain), expected);
    assert_eq!(plain["configs"][4]["static_route_configs"][0]["route_config"]["name"], "r1");
    expected.insert(2, "EndpointsConfigDump");
    let with = json(&get(&state, "/config_dump?include_eds"));
    assert_eq!(types(&with), expected);
    let assignment = &with["configs"][2]["static_endpoint_configs"][0]["endpoint_config"];
    assert_eq!(assignment["cluster_name"], "c1");
    assert_eq!(assignment["endpoints"][0]["lb_endpoints"][1]["health_status"], "UNHEALTHY");
    let first = &assignment["endpoints"][0]["lb_endpoints"][0];
    assert_eq!(
        (&first["load_balancing_weight"], &first["metadata"]["filter_metadata"]["a"]["b"]),
        (&3.into(), &"c".into())
    );
}

#[test]
fn secrets_are_hidden_everywhere() {
    let text = get(&loaded(), "/config_dump");
    assert!(!text.contains("\"abc\""), "{text}");
    assert_eq!(text.matches("\"inline_string\": \"[redacted]\"").count(), 2, "{text}");
    assert_eq!(
        get(&loaded(), "/config_dump?resource=static_secrets"),
        r#"{
 "configs": [
  {
   "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump.StaticSecret",
   "name": "s1",
   "secret": {
    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    "name": "s1",
    "generic_secret": {
     "secret": {
      "inline_string": "[redacted]"
     }
    }
   }
  }
 ]
}
"#
    );
}

#[test]
fn a_mask_leaves_what_it_names() {
    let state = loaded();
    assert_eq!(
        get(&state, "/config_dump?resource=static_clusters&mask=cluster.name,cluster.type"),
        r#"{
 "configs": [
  {
   "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
   "cluster": {
    "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "name": "c1",
    "type": "STATIC"
   }
  },
  {
   "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
   "cluster": {
    "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "name": "xds",
    "type": "STATIC"
   }
  }
 ]
}
"#
    );
    assert_eq!(
        get(&state, "/config_dump?mask=bootstrap.node.id"),
        r#"{
 "configs": [
  {
   "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
   "bootstrap": {
    "node": {
     "id": "n1"
    }
   }
  }
 ]
}
"#
    );
    for (query, status, reason) in [
        (
            "mask=bootstrap.node,static_clusters.cluster",
            StatusCode::BAD_REQUEST,
            "FieldMask bootstrap.node,static_clusters.cluster could not be successfully applied to any configs.",
        ),
        ("resource=zzz", StatusCode::NOT_FOUND, "zzz not found in config dump"),
        (
            "resource=dynamic_endpoint_configs",
            StatusCode::NOT_FOUND,
            "dynamic_endpoint_configs not found in config dump",
        ),
        (
            "resource=bootstrap",
            StatusCode::BAD_REQUEST,
            "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field",
        ),
        (
            "resource=static_clusters&mask=foo",
            StatusCode::BAD_REQUEST,
            "FieldMask paths: \"foo\"\n could not be successfully used.",
        ),
    ] {
        let page = ask(&state, Method::GET, &format!("/config_dump?{query}"));
        assert_eq!((page.status, page.body.as_str()), (status, reason));
    }
}

#[test]
fn name_regex_matches_whole_names() {
    let state = loaded();
    let names = |query: &str| {
        let dump = json(&get(&state, &format!("/config_dump?resource=static_clusters&{query}")));
        let all = dump["configs"].as_array().cloned().unwrap_or_default();
        all.iter().map(|c| c["cluster"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names("name_regex=c1"), ["c1"]);
    assert_eq!(names("name_regex=c1|x.s"), ["c1", "xds"]);
    assert!(names("name_regex=c").is_empty());
    assert_eq!(get(&state, "/config_dump?resource=static_clusters&name_regex=%5Ec"), "{}\n");
    // The bootstrap has no name and stays.
    let dump = json(&get(&state, "/config_dump?name_regex=nobody"));
    assert!(dump["configs"][0]["bootstrap"].is_object() && dump["configs"][1].get("static_clusters").is_none());
    let page = ask(&state, Method::GET, "/config_dump?name_regex=[");
    assert!(page.body.starts_with("INVALID_ARGUMENT: Error while parsing name_regex from [: "), "{}", page.body);
}

#[test]
fn dynamic_resources_show_version_and_errors() {
    let state = loaded();
    let (config, now) = (&state.config, std::time::SystemTime::UNIX_EPOCH);
    config.set_version(Kind::Cluster, "7");
    config.put_dynamic(Kind::Cluster, "d", any::pack(&Cluster { name: "d".into(), ..Default::default() }), "7", false);
    config.put_dynamic(Kind::Listener, "w", any::pack(&Listener { name: "w".into(), ..Default::default() }), "3", true);
    let failed = Failed { message: None, version: "4".into(), details: "no such filter".into(), at: now };
    config.failed(Kind::Listener, "w", failed);
    let dump = json(&get(&state, "/config_dump"));
    let clusters = &dump["configs"][1];
    assert_eq!(clusters["version_info"], "7");
    assert_eq!(clusters["dynamic_active_clusters"][0]["cluster"]["name"], "d");
    let listener = &dump["configs"][2]["dynamic_listeners"][0];
    assert_eq!((&listener["name"], &listener["warming_state"]["version_info"]), (&"w".into(), &"3".into()));
    assert_eq!(listener["error_state"]["details"], "no such filter");
    assert_eq!(listener["error_state"]["last_update_attempt"], "1970-01-01T00:00:00.000Z");
    assert!(get(&state, "/init_dump").contains("init manager Listener-local-init-manager w"));
    assert!(get(&state, "/stats").contains("listener_manager.total_listeners_warming: 1\n"));
    config.warmed(Kind::Listener, "w");
    assert!(get(&state, "/stats").contains("listener_manager.total_listeners_warming: 0\n"));
    let dump = json(&get(&state, "/config_dump?resource=dynamic_listeners"));
    assert_eq!(dump["configs"][0]["active_state"]["listener"]["name"], "w");
    config.remove(Kind::Cluster, "d");
    assert_eq!(get(&state, "/config_dump?resource=dynamic_active_clusters"), "{}\n");
}

/// A message of the JSON that has its type.
fn typed(value: &Value) -> waypost_xds::google::protobuf::Any {
    waypost_xds::json::from_value(value, &waypost_xds::json::Options::reject_unknown()).unwrap()
}

#[test]
fn what_is_secret_in_discovered_resources_is_hidden() {
    const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
    let state = loaded();
    let certificate = serde_json::json!({
        "certificate_chain": {"inline_string": "a chain"},
        "private_key": {"inline_bytes": "aHVzaA=="},
        "password": {"inline_string": "hush"},
        // The type of the provider's configuration is not known here.
        "private_key_provider": {
            "provider_name": "cryptomb",
            "typed_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "hush"},
        },
    });
    let secret = |name: &str, field: &str, value: &Value| {
        typed(&serde_json::json!({"@type": format!("{TLS}.Secret"), "name": name, field: value}))
    };
    let mut unknown = certificate.clone();
    unknown.as_object_mut().unwrap().remove("private_key_provider");
    let put = |name: &str, message, warming| state.config.put_dynamic(Kind::Secret, name, message, "7", warming);
    put("default", secret("default", "tls_certificate", &certificate), false);
    let keys = serde_json::json!({"keys": [{"inline_string": "hush"}, {"inline_bytes": "aHVzaA=="}]});
    put("keys", secret("keys", "session_ticket_keys", &keys), false);
    let generic = serde_json::json!({"secret": {"inline_string": "hush"}, "secrets": {"k": {"inline_string": "hush"}}});
    put("generic", secret("generic", "generic_secret", &generic), true);
    put("waits", secret("waits", "tls_certificate", &serde_json::json!({})), true);

    let socket = |message: &str| {
        let common = serde_json::json!({"common_tls_context": {"tls_certificates": [unknown]}});
        let mut config = common.clone();
        config["@type"] = format!("{TLS}.{message}").into();
        let boxed = serde_json::json!({
            "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
            "type_url": format!("{TLS}.{message}"),
            "value": common,
        });
        [config, boxed].map(|c| serde_json::json!({"name": "tls", "typed_config": c}))
    };
    let chains: Vec<Value> =
        socket("DownstreamTlsContext").into_iter().map(|s| serde_json::json!({"transport_socket": s})).collect();
    let listener = serde_json::json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "l", "filter_chains": chains,
    });
    state.config.put_dynamic(Kind::Listener, "l", typed(&listener), "7", false);
    for (i, socket) in socket("UpstreamTlsContext").into_iter().enumerate() {
        let cluster = serde_json::json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": format!("c{i}"),
            "transport_socket_matches": [{"name": "m", "transport_socket": socket}],
        });
        state.config.put_dynamic(Kind::Cluster, &format!("c{i}"), typed(&cluster), "7", false);
    }

    let text = get(&state, "/config_dump");
    for hidden in ["hush", "aHVzaA==", "hushed"] {
        assert!(!text.contains(hidden), "{hidden}: {text}");
    }
    assert_eq!(text.matches("a chain").count(), 5, "what everybody may know is shown");
    let dump = json(&text);
    let secrets = dump["configs"].as_array().unwrap().iter().find(|c| c["@type"].as_str().unwrap().contains("Secrets"));
    let secrets = secrets.unwrap();
    let list = |field: &str| {
        let list = secrets[field].as_array().unwrap().iter();
        list.map(|s| (s["name"].as_str().unwrap().to_owned(), s["version_info"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(list("dynamic_active_secrets"), [("default".to_owned(), "7".into()), ("keys".to_owned(), "7".into())]);
    assert_eq!(list("dynamic_warming_secrets"), [("generic".to_owned(), "7".into()), ("waits".to_owned(), "7".into())]);
}
