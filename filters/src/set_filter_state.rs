//! `envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue`: what both `set_filter_state` filters do.

use std::sync::Arc;

use crate::filter_state::{Entry, Factory, Shared};
use crate::format::{FormatContext, SubstitutionFormat};
use waypost_xds::Error;
use waypost_xds::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue, filter_state_value as proto,
};

/// One compiled value.
#[derive(Clone, Debug)]
pub struct Value {
    key: Arc<str>,
    factory: Factory,
    format: SubstitutionFormat,
    read_only: bool,
    shared: Shared,
    skip_if_empty: bool,
}

impl Value {
    /// Compiles a list of values; `path` is that of the list.
    pub fn compile_all(values: Vec<FilterStateValue>, path: &str) -> Result<Vec<Value>, Error> {
        values.into_iter().enumerate().map(|(i, v)| Value::compile(v, &format!("{path}[{i}]"))).collect()
    }

    #[allow(deprecated, reason = "a field that was replaced is still a field")]
    fn compile(value: FilterStateValue, path: &str) -> Result<Value, Error> {
        let FilterStateValue { factory_key, read_only, shared_with_upstream, skip_if_empty, key, value } = value;
        let Some(proto::Key::ObjectKey(key)) = key.filter(|proto::Key::ObjectKey(k)| !k.is_empty()) else {
            return Err(Error::new(format!("{path}.object_key"), "value is required"));
        };
        let factory_name = if factory_key.is_empty() { &key } else { &factory_key };
        let Some(factory) = Factory::of(factory_name) else {
            let reason = format!("'{factory_name}' does not have an object factory");
            return Err(Error::new(format!("{path}.factory_key"), reason));
        };
        let shared = match proto::SharedWithUpstream::try_from(shared_with_upstream) {
            Ok(proto::SharedWithUpstream::None) => Shared::None,
            Ok(proto::SharedWithUpstream::Once) => Shared::Once,
            Ok(proto::SharedWithUpstream::Transitive) => Shared::Transitive,
            Err(_) => return Err(Error::new(format!("{path}.shared_with_upstream"), "unknown value")),
        };
        let Some(proto::Value::FormatString(format)) = value else {
            return Err(Error::new(format!("{path}.format_string"), "value is required"));
        };
        let format = SubstitutionFormat::compile(format, &format!("{path}.format_string"));
        let format = format.map_err(|e| Error::new(e.path, e.reason))?;
        Ok(Value { key: key.into(), factory, format, read_only, shared, skip_if_empty })
    }

    /// The entry to set; none where the text is empty and to be skipped, or stands for no object of the kind (a host name is no
    /// address): Envoy leaves the state as it was and says so at debug level only.
    pub fn evaluate(&self, buffer: &mut Vec<u8>, cx: &FormatContext<'_>) -> Option<Entry> {
        buffer.clear();
        self.format.write(buffer, cx);
        if buffer.is_empty() && self.skip_if_empty {
            return None;
        }
        // Header bytes need not be UTF-8, objects are text: what is not is replaced, so that it matches no name.
        let object = self.factory.make(&String::from_utf8_lossy(buffer))?;
        Some(Entry { key: self.key.clone(), object, shared: self.shared, read_only: self.read_only })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::address::Address;
    use crate::connection::{CertificateInfo, Connection, TlsSession};
    use crate::filter::{HttpFilter, NetworkFilter, NetworkStep, Step};
    use crate::filter_state::Object;
    use crate::head::{RequestHead, Scheme};
    use crate::stream::{HttpStream, StreamInfo};
    use ::http::{HeaderMap, HeaderValue, Method};
    use waypost_xds::envoy::config::core::v3::{
        DataSource, SubstitutionFormatString, data_source::Specifier, substitution_format_string::Format,
    };
    use waypost_xds::envoy::extensions::filters::{http as http_api, network as network_api};

    fn value(key: &str, factory: &str, format: &str) -> FilterStateValue {
        let source = DataSource { specifier: Some(Specifier::InlineString(format.into())), ..DataSource::default() };
        let format = SubstitutionFormatString {
            format: Some(Format::TextFormatSource(source)),
            ..SubstitutionFormatString::default()
        };
        FilterStateValue {
            factory_key: factory.into(),
            shared_with_upstream: proto::SharedWithUpstream::Once as i32,
            key: Some(proto::Key::ObjectKey(key.into())),
            value: Some(proto::Value::FormatString(format)),
            ..FilterStateValue::default()
        }
    }

    fn connection() -> Connection {
        let address = |text: &str| Address::parse_ip_port(text).unwrap();
        let peer = CertificateInfo { uri_sans: vec!["spiffe://td/ns/x/sa/y".into()], ..CertificateInfo::default() };
        let tls = TlsSession { peer: Some(Arc::new(peer)), ..TlsSession::default() };
        Connection { tls: Some(Arc::new(tls)), ..Connection::new(address("10.0.0.1:15008"), address("10.0.0.2:999")) }
    }

    fn stream(authority: &'static str) -> HttpStream {
        let connection = connection();
        let start = connection.start;
        HttpStream {
            info: StreamInfo::new(Arc::new(connection), 0, Instant::now(), start),
            request: RequestHead {
                method: Method::CONNECT,
                scheme: Scheme::Http,
                authority: Some(HeaderValue::from_static(authority)),
                path: None,
                upgrade: None,
                headers: HeaderMap::new(),
                original_path: None,
            },
            response: None,
            response_trailers: None,
            reroute: false,
            body: Default::default(),
        }
    }

    const LOCAL_IP: &str = "envoy.filters.listener.original_dst.local_ip";

    /// `connect_authority` as istiod has it.
    #[test]
    fn a_waypoint_learns_where_a_tunnel_goes_and_whose_it_is() {
        let config = http_api::set_filter_state::v3::Config {
            on_request_headers: vec![
                value(LOCAL_IP, "", "%REQ(:AUTHORITY)%"),
                value("io.istio.connect_authority", "istio.hashable_string", "%REQ(:AUTHORITY)%"),
                value("envoy.filters.listener.original_dst.remote_ip", "", "%DOWNSTREAM_REMOTE_ADDRESS%"),
                value("io.istio.peer_principal", "istio.hashable_string", "%DOWNSTREAM_PEER_URI_SAN%"),
            ],
            clear_route_cache: true,
        };
        let filter = crate::http::set_filter_state::SetFilterState::compile(config, "f").unwrap();
        for (authority, local) in
            [("10.1.2.3:80", Some("10.1.2.3:80")), ("a.b:80", None), ("[::1]:80", Some("[::1]:80"))]
        {
            let mut stream = stream(authority);
            assert!(matches!(filter.on_request(&mut stream), Step::Continue) && stream.reroute);
            let plain = |key: &str| stream.info.object(key).map(|o| o.plain().into_owned());
            assert_eq!(plain(LOCAL_IP).as_deref(), local);
            assert_eq!(plain("io.istio.connect_authority").as_deref(), Some(authority));
            let remote = "envoy.filters.listener.original_dst.remote_ip";
            assert_eq!(plain(remote).as_deref(), Some("10.0.0.2:999"));
            let principal = stream.info.object("io.istio.peer_principal");
            assert_eq!(principal, Some(&Object::HashableString("spiffe://td/ns/x/sa/y".into())));
            assert!(stream.info.filter_state.iter().all(|e| e.shared == Shared::Once));
        }
    }

    #[test]
    fn what_is_missing_is_a_dash_unless_empty_values_are_omitted() {
        let change = |skip, omit| {
            let mut value = value("k", "envoy.string", "%REQ(nope)%");
            value.skip_if_empty = skip;
            if let Some(proto::Value::FormatString(format)) = &mut value.value {
                format.omit_empty_values = omit;
            }
            value
        };
        for (skip, omit, expected) in
            [(false, false, Some("-")), (true, false, Some("-")), (true, true, None), (false, true, Some(""))]
        {
            let values = Value::compile_all(vec![change(skip, omit)], "v").unwrap();
            let stream = stream("h");
            let entry = values[0].evaluate(&mut Vec::new(), &FormatContext::of_stream(&stream));
            assert_eq!(entry.map(|e| e.object.plain().into_owned()).as_deref(), expected, "{skip} {omit}");
        }
    }

    #[test]
    #[allow(deprecated, reason = "a field that was replaced is still a field")]
    fn network_values_see_those_before_them_and_read_only_ones_stay() {
        let mut fixed = value("a", "envoy.string", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%");
        fixed.read_only = true;
        let config = network_api::set_filter_state::v3::Config {
            on_new_connection: vec![
                fixed,
                value("b", "envoy.string", "<%FILTER_STATE(a:PLAIN)%>"),
                value("a", "envoy.string", "other"),
            ],
            ..Default::default()
        };
        let filter = crate::network::set_filter_state::SetFilterState::compile(config, "f").unwrap();
        let mut connection = connection();
        assert_eq!(filter.on_new_connection(&mut connection), NetworkStep::Continue);
        let plain = |key: &str| connection.filter_state.get(key).map(|o| o.plain().into_owned());
        assert_eq!((plain("a").as_deref(), plain("b").as_deref()), (Some("10.0.0.2"), Some("<10.0.0.2>")));
    }

    /// `set_dst_address` of a waypoint of several networks: where a tunnel was to go, or else the service's own address.
    #[test]
    fn an_expression_chooses_the_address() {
        let format = format!("%CEL('{LOCAL_IP}' in filter_state ? filter_state['{LOCAL_IP}']: r'127.2.0.9:80')%");
        let key = "envoy.network.transport_socket.original_dst_address";
        let config = network_api::set_filter_state::v3::Config {
            on_new_connection: vec![value(key, "", &format)],
            ..Default::default()
        };
        let filter = crate::network::set_filter_state::SetFilterState::compile(config, "f").unwrap();
        let mut connection = connection();
        filter.on_new_connection(&mut connection);
        let address = |text: &str| Some(Object::Address(Address::parse_ip_port(text).unwrap()));
        assert_eq!(connection.filter_state.get(key).cloned(), address("127.2.0.9:80"));
        let object = address("10.1.2.3:80").unwrap();
        connection.filter_state.set(Entry { key: LOCAL_IP.into(), object, shared: Shared::None, read_only: false });
        filter.on_new_connection(&mut connection);
        assert_eq!(connection.filter_state.get(key).cloned(), address("10.1.2.3:80"));
    }

    #[test]
    fn what_cannot_be_set_is_refused() {
        for (value, expected) in [
            (value("", "envoy.string", "x"), "v[0].object_key: value is required"),
            (value("k", "", "x"), "v[0].factory_key: 'k' does not have an object factory"),
            (
                FilterStateValue { value: None, ..value("k", "envoy.string", "x") },
                "v[0].format_string: value is required",
            ),
        ] {
            assert_eq!(Value::compile_all(vec![value], "v").unwrap_err().to_string(), expected);
        }
        let later = network_api::set_filter_state::v3::Config {
            on_downstream_data: vec![value("k", "envoy.string", "x")],
            ..Default::default()
        };
        let error = crate::network::set_filter_state::SetFilterState::compile(later, "f").unwrap_err();
        assert_eq!(error.to_string(), "f.on_downstream_data: not supported yet");
    }

    #[test]
    fn a_network_filter_reads_the_metadata_that_came_with_an_internal_connection() {
        let config = network_api::set_filter_state::v3::Config {
            on_new_connection: vec![value(
                LOCAL_IP,
                "",
                "%DYNAMIC_METADATA(envoy.filters.listener.original_dst:local)%",
            )],
            ..Default::default()
        };
        let filter = crate::network::set_filter_state::SetFilterState::compile(config, "f").unwrap();
        let mut connection = connection();
        let host = serde_json::json!({"local": "127.4.0.1:15008"});
        connection.metadata.set("envoy.filters.listener.original_dst".into(), Arc::new(host));
        assert_eq!(filter.on_new_connection(&mut connection), NetworkStep::Continue);
        assert_eq!(
            connection.filter_state.get(LOCAL_IP),
            Some(&Object::Address(Address::parse_ip_port("127.4.0.1:15008").unwrap()))
        );
    }
}
