use super::*;
use crate::{
    envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
    google::protobuf::{Empty, StringValue},
};
use serde_json::json;

const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

fn typed(wrapper: &str, inner: &str, value: &Value) -> Any {
    let document = json!({"@type": format!("type.googleapis.com/{wrapper}"), "type_url": format!("type.googleapis.com/{inner}"), "value": value});
    json::from_value(&document, &Options::reject_unknown()).unwrap()
}

#[test]
fn a_message_is_unpacked_plain_or_from_a_typed_struct() {
    let plain = pack(&TcpProxy {
        stat_prefix: "a".to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster("b".to_owned())),
        ..TcpProxy::default()
    });
    assert_eq!(type_name(&plain), TCP_PROXY);
    assert_eq!(struct_value(&plain).unwrap(), None);
    assert_eq!(unpack::<TcpProxy>(&plain, "x").unwrap().stat_prefix, "a");
    for wrapper in ["udpa.type.v1.TypedStruct", "xds.type.v3.TypedStruct"] {
        let any = typed(wrapper, TCP_PROXY, &json!({"statPrefix": "a", "cluster": "b"}));
        assert_eq!(type_name(&any), TCP_PROXY);
        assert_eq!(unpack::<TcpProxy>(&any, "x").unwrap().stat_prefix, "a");
        assert_eq!(struct_value(&any).unwrap(), Some(json!({"statPrefix": "a", "cluster": "b"})));
    }
}

#[test]
fn a_typed_struct_of_a_foreign_type_is_read_as_json() {
    let any = typed("udpa.type.v1.TypedStruct", "foo.Bar", &json!({"b": {"c": [1]}}));
    assert_eq!(type_name(&any), "foo.Bar");
    assert_eq!(struct_value(&any).unwrap(), Some(json!({"b": {"c": [1]}})));
    let empty: Any =
        json::from_value(&json!({"@type": "type.googleapis.com/udpa.type.v1.TypedStruct"}), &Options::default())
            .unwrap();
    assert_eq!(type_name(&empty), "");
    assert_eq!(struct_value(&empty).unwrap(), Some(json!({})));
}

#[test]
fn errors_name_the_field_from_the_outside() {
    let wrong = typed("udpa.type.v1.TypedStruct", TCP_PROXY, &json!({"stat_prefix": 5, "cluste": "a"}));
    let error = unpack::<TcpProxy>(&wrong, "filters[0].typed_config").unwrap_err();
    assert_eq!(error.to_string(), "filters[0].typed_config.stat_prefix: expected a string, found a number");
    let unknown =
        typed("udpa.type.v1.TypedStruct", TCP_PROXY, &json!({"stat_prefix": "a", "cluster": "b", "cluste": "a"}));
    assert_eq!(unpack::<TcpProxy>(&unknown, "x").unwrap().stat_prefix, "a");
    let error = unpack_with::<TcpProxy>(&unknown, "x", &Options::reject_unknown()).unwrap_err();
    assert_eq!(error.to_string(), format!("x.cluste: {TCP_PROXY} has no such field"));
    let error = unpack::<TcpProxy>(&pack(&TcpProxy::default()), "x").unwrap_err();
    assert_eq!(error.to_string(), "x: one of cluster, weighted_clusters is required");
    let error = unpack::<TcpProxy>(&pack(&Empty {}), "x").unwrap_err();
    assert_eq!(error.to_string(), format!("x: expected a {TCP_PROXY}, found a google.protobuf.Empty"));
    let error = unpack::<Empty>(&wrong, "x").unwrap_err();
    assert_eq!(error.to_string(), format!("x: expected a google.protobuf.Empty, found a {TCP_PROXY}"));
}

#[test]
fn bytes_that_are_no_message_are_refused() {
    let url = |name: &str| format!("type.googleapis.com/{name}");
    let any = Any { type_url: url("google.protobuf.StringValue"), value: vec![0xff] };
    assert!(
        unpack::<StringValue>(&any, "x").unwrap_err().reason.starts_with("this is not a google.protobuf.StringValue")
    );
    let any = Any { type_url: url("udpa.type.v1.TypedStruct"), value: vec![0xff] };
    assert_eq!(type_name(&any), "udpa.type.v1.TypedStruct");
    assert!(struct_value(&any).is_err());
    assert_eq!(unpack::<StringValue>(&any, "x").unwrap_err().path, "x");
}

#[test]
fn a_field_is_taken_out_of_a_message_where_it_is_there_once_and_alone() {
    use crate::wire::{put, put_bytes};
    let message = |fields: &[(u32, &[u8])]| {
        let mut out = vec![];
        put(&mut out, 9, Raw::Varint(300));
        fields.iter().for_each(|(number, bytes)| put_bytes(&mut out, *number, bytes));
        out
    };
    let wire = message(&[(1, b"a"), (4, b"routes"), (5, b"b")]);
    assert_eq!(take_field(&wire, 4, &[3]), Some((&b"routes"[..], message(&[(1, b"a"), (5, b"b")]))));
    for others in [&[(1, &b"a"[..])][..], &[(4, b"x"), (4, b"y")], &[(4, b"x"), (3, b"y")], &[(3, b"x"), (4, b"y")]] {
        assert_eq!(take_field(&message(others), 4, &[3]), None, "{others:?}");
    }
    assert_eq!(take_field(&wire[..wire.len() - 1], 4, &[3]), None);
}
