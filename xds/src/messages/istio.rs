//! Istio's own messages: what istiod puts before its proxy build that no stock Envoy knows.

/// `stats.*`: the configuration of the filter `istio.stats`.
pub mod stats {
    use envoy_types::pb::google::protobuf::Duration;
    use std::collections::HashMap;

    /// `stats.PluginConfig`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct PluginConfig {
        /// Leave the destination service unknown rather than take the `Host` header for it.
        #[prost(bool, tag = "6")]
        pub disable_host_header_fallback: bool,
        /// How often the bytes of an open TCP connection are reported.
        #[prost(message, optional, tag = "7")]
        pub tcp_reporting_duration: Option<Duration>,
        /// Overrides of metrics.
        #[prost(message, repeated, tag = "8")]
        pub metrics: Vec<MetricConfig>,
        /// Metrics beyond the standard ones.
        #[prost(message, repeated, tag = "9")]
        pub definitions: Vec<MetricDefinition>,
        /// Whose view is reported.
        #[prost(enumeration = "Reporter", tag = "10")]
        pub reporter: i32,
        /// Deprecated upstream: how often the metric scope is renewed.
        #[prost(message, optional, tag = "11")]
        pub rotation_interval: Option<Duration>,
        /// Deprecated upstream: how long a renewed scope's predecessor lives on.
        #[prost(message, optional, tag = "12")]
        pub graceful_deletion_interval: Option<Duration>,
    }

    /// `stats.MetricConfig`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct MetricConfig {
        /// Tag name to CEL expression.
        #[prost(map = "string, string", tag = "1")]
        pub dimensions: HashMap<String, String>,
        /// The metric meant; all of them when empty.
        #[prost(string, tag = "2")]
        pub name: String,
        /// Tags left out.
        #[prost(string, repeated, tag = "3")]
        pub tags_to_remove: Vec<String>,
        /// Not implemented upstream.
        #[prost(string, tag = "4")]
        pub r#match: String,
        /// Report the metric not at all.
        #[prost(bool, tag = "5")]
        pub drop: bool,
    }

    /// `stats.MetricDefinition`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct MetricDefinition {
        /// The metric's name.
        #[prost(string, tag = "1")]
        pub name: String,
        /// The CEL expression that gives its value.
        #[prost(string, tag = "2")]
        pub value: String,
        /// The metric's kind.
        #[prost(enumeration = "MetricType", tag = "3")]
        pub r#type: i32,
    }

    /// `stats.MetricType`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
    #[repr(i32)]
    pub enum MetricType {
        /// A sum.
        Counter = 0,
        /// A last value.
        Gauge = 1,
        /// A distribution.
        Histogram = 2,
    }

    /// `stats.Reporter`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
    #[repr(i32)]
    pub enum Reporter {
        /// By the listener's direction.
        Unspecified = 0,
        /// A gateway before the server: a waypoint.
        ServerGateway = 1,
    }

    crate::messages::named!("stats":
        PluginConfig => "PluginConfig",
        MetricConfig => "MetricConfig",
        MetricDefinition => "MetricDefinition",
    );
}

/// `istio.workload.*`: the mesh's workloads (WDS) and the extension that subscribes to them.
pub mod workload {
    use envoy_types::pb::{
        envoy::config::core::v3::ConfigSource,
        google::protobuf::{Any, UInt32Value},
    };
    use std::collections::HashMap;

    /// `istio.workload.BootstrapExtension`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct BootstrapExtension {
        /// Where workloads come from.
        #[prost(message, optional, tag = "1")]
        pub config_source: Option<ConfigSource>,
    }

    /// `istio.workload.Workload`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct Workload {
        /// The pod's name.
        #[prost(string, tag = "1")]
        pub name: String,
        /// The pod's namespace.
        #[prost(string, tag = "2")]
        pub namespace: String,
        /// IPv4 and IPv6 addresses, 4 or 16 bytes each.
        #[prost(bytes = "bytes", repeated, tag = "3")]
        pub addresses: Vec<bytes::Bytes>,
        /// The network the addresses belong to.
        #[prost(string, tag = "4")]
        pub network: String,
        /// How to talk to the workload.
        #[prost(enumeration = "TunnelProtocol", tag = "5")]
        pub tunnel_protocol: i32,
        /// Empty is the mesh's own.
        #[prost(string, tag = "6")]
        pub trust_domain: String,
        /// Empty is `default`.
        #[prost(string, tag = "7")]
        pub service_account: String,
        /// The waypoint before the workload.
        #[prost(message, optional, tag = "8")]
        pub waypoint: Option<GatewayAddress>,
        /// The node it runs on.
        #[prost(string, tag = "9")]
        pub node: String,
        /// For telemetry.
        #[prost(string, tag = "10")]
        pub canonical_name: String,
        /// For telemetry.
        #[prost(string, tag = "11")]
        pub canonical_revision: String,
        /// For telemetry.
        #[prost(enumeration = "WorkloadType", tag = "12")]
        pub workload_type: i32,
        /// For telemetry.
        #[prost(string, tag = "13")]
        pub workload_name: String,
        /// The workload speaks the tunnel protocol itself.
        #[prost(bool, tag = "14")]
        pub native_tunnel: bool,
        /// Policies that select the workload.
        #[prost(string, repeated, tag = "16")]
        pub authorization_policies: Vec<String>,
        /// Whether it is ready.
        #[prost(enumeration = "WorkloadStatus", tag = "17")]
        pub status: i32,
        /// The cluster it runs in.
        #[prost(string, tag = "18")]
        pub cluster_id: String,
        /// The gateway of its network.
        #[prost(message, optional, tag = "19")]
        pub network_gateway: Option<GatewayAddress>,
        /// The key of the resource.
        #[prost(string, tag = "20")]
        pub uid: String,
        /// Its name when it has no address.
        #[prost(string, tag = "21")]
        pub hostname: String,
        /// Services it belongs to, keyed `namespace/hostname`.
        #[prost(map = "string, message", tag = "22")]
        pub services: HashMap<String, PortList>,
        /// A tunnel within the tunnel.
        #[prost(message, optional, tag = "23")]
        pub application_tunnel: Option<ApplicationTunnel>,
        /// Where it runs.
        #[prost(message, optional, tag = "24")]
        pub locality: Option<Locality>,
        /// Whether it shares its node's addresses.
        #[prost(enumeration = "NetworkMode", tag = "25")]
        pub network_mode: i32,
        /// What others attach to it.
        #[prost(message, repeated, tag = "26")]
        pub extensions: Vec<Extension>,
        /// Its weight.
        #[prost(message, optional, tag = "27")]
        pub capacity: Option<UInt32Value>,
    }

    /// `istio.workload.TunnelProtocol`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
    #[repr(i32)]
    pub enum TunnelProtocol {
        /// As it is.
        None = 0,
        /// HTTP CONNECT in mTLS.
        Hbone = 1,
        /// Sidecar mTLS.
        LegacyIstioMtls = 2,
    }

    /// `istio.workload.WorkloadType`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
    #[repr(i32)]
    pub enum WorkloadType {
        /// A Deployment.
        Deployment = 0,
        /// A CronJob.
        Cronjob = 1,
        /// A bare Pod.
        Pod = 2,
        /// A Job.
        Job = 3,
    }

    /// `istio.workload.WorkloadStatus`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
    #[repr(i32)]
    pub enum WorkloadStatus {
        /// Ready.
        Healthy = 0,
        /// Not ready.
        Unhealthy = 1,
    }

    /// `istio.workload.NetworkMode`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
    #[repr(i32)]
    pub enum NetworkMode {
        /// Addresses of its own.
        Standard = 0,
        /// Its node's addresses.
        HostNetwork = 1,
    }

    /// `istio.workload.PortList`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct PortList {
        /// The ports.
        #[prost(message, repeated, tag = "1")]
        pub ports: Vec<Port>,
    }

    /// `istio.workload.Port`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct Port {
        /// The service's port.
        #[prost(uint32, tag = "1")]
        pub service_port: u32,
        /// The workload's port.
        #[prost(uint32, tag = "2")]
        pub target_port: u32,
    }

    /// `istio.workload.ApplicationTunnel`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct ApplicationTunnel {
        /// The protocol within.
        #[prost(enumeration = "application_tunnel::Protocol", tag = "1")]
        pub protocol: i32,
        /// The port it is spoken on.
        #[prost(uint32, tag = "2")]
        pub port: u32,
    }

    /// Nested enums of [`ApplicationTunnel`].
    pub mod application_tunnel {
        /// `istio.workload.ApplicationTunnel.Protocol`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
        #[repr(i32)]
        pub enum Protocol {
            /// None.
            None = 0,
            /// PROXY protocol.
            Proxy = 1,
        }
    }

    /// `istio.workload.GatewayAddress`.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct GatewayAddress {
        /// Its port for HBONE.
        #[prost(uint32, tag = "3")]
        pub hbone_mtls_port: u32,
        /// Its address.
        #[prost(oneof = "gateway_address::Destination", tags = "1, 2")]
        pub destination: Option<gateway_address::Destination>,
    }

    /// The oneof of [`GatewayAddress`].
    pub mod gateway_address {
        /// `istio.workload.GatewayAddress.destination`.
        #[derive(Clone, PartialEq, Eq, Hash, ::prost::Oneof)]
        pub enum Destination {
            /// By name.
            #[prost(message, tag = "1")]
            Hostname(super::NamespacedHostname),
            /// By address.
            #[prost(message, tag = "2")]
            Address(super::NetworkAddress),
        }
    }

    /// `istio.workload.NamespacedHostname`.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct NamespacedHostname {
        /// The service's namespace.
        #[prost(string, tag = "1")]
        pub namespace: String,
        /// The service's host name.
        #[prost(string, tag = "2")]
        pub hostname: String,
    }

    /// `istio.workload.NetworkAddress`.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct NetworkAddress {
        /// The network.
        #[prost(string, tag = "1")]
        pub network: String,
        /// 4 or 16 bytes.
        #[prost(bytes = "bytes", tag = "2")]
        pub address: bytes::Bytes,
    }

    /// `istio.workload.Locality`.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct Locality {
        /// The region.
        #[prost(string, tag = "1")]
        pub region: String,
        /// The zone.
        #[prost(string, tag = "2")]
        pub zone: String,
        /// The part of the zone.
        #[prost(string, tag = "3")]
        pub subzone: String,
    }

    /// `istio.workload.Extension`.
    #[derive(Clone, PartialEq, ::prost::Message)]
    pub struct Extension {
        /// Its name.
        #[prost(string, tag = "1")]
        pub name: String,
        /// Its content.
        #[prost(message, optional, tag = "2")]
        pub config: Option<Any>,
    }

    crate::messages::named!("istio.workload":
        BootstrapExtension => "BootstrapExtension",
        Workload => "Workload",
        PortList => "PortList",
        Port => "Port",
        ApplicationTunnel => "ApplicationTunnel",
        GatewayAddress => "GatewayAddress",
        NamespacedHostname => "NamespacedHostname",
        NetworkAddress => "NetworkAddress",
        Locality => "Locality",
        Extension => "Extension",
    );
}

/// `io.istio.http.peer_metadata.*`: the HTTP filter that finds out who the peer is.
pub mod peer_metadata {
    /// `io.istio.http.peer_metadata.Config`.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct Config {
        /// How the downstream peer is found; the first that succeeds.
        #[prost(message, repeated, tag = "1")]
        pub downstream_discovery: Vec<config::DiscoveryMethod>,
        /// How the upstream peer is found; the first that succeeds.
        #[prost(message, repeated, tag = "2")]
        pub upstream_discovery: Vec<config::DiscoveryMethod>,
        /// How the downstream peer is told about us.
        #[prost(message, repeated, tag = "3")]
        pub downstream_propagation: Vec<config::PropagationMethod>,
        /// How the upstream peer is told about us.
        #[prost(message, repeated, tag = "4")]
        pub upstream_propagation: Vec<config::PropagationMethod>,
        /// Share what was found with the upstream connection.
        #[prost(bool, tag = "5")]
        pub shared_with_upstream: bool,
        /// Labels told beside the usual ones.
        #[prost(string, repeated, tag = "6")]
        pub additional_labels: Vec<String>,
    }

    /// Nested messages of [`Config`].
    pub mod config {
        /// `io.istio.http.peer_metadata.Config.Baggage`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
        pub struct Baggage {}

        /// `io.istio.http.peer_metadata.Config.WorkloadDiscovery`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
        pub struct WorkloadDiscovery {}

        /// `io.istio.http.peer_metadata.Config.IstioHeaders`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
        pub struct IstioHeaders {
            /// Tell nothing to services outside the mesh.
            #[prost(bool, tag = "1")]
            pub skip_external_clusters: bool,
        }

        /// `io.istio.http.peer_metadata.Config.DiscoveryMethod`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
        pub struct DiscoveryMethod {
            /// The method.
            #[prost(oneof = "discovery_method::MethodSpecifier", tags = "1, 2, 3")]
            pub method_specifier: Option<discovery_method::MethodSpecifier>,
        }

        /// The oneof of [`DiscoveryMethod`].
        pub mod discovery_method {
            /// `io.istio.http.peer_metadata.Config.DiscoveryMethod.method_specifier`.
            #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Oneof)]
            pub enum MethodSpecifier {
                /// The `baggage` header.
                #[prost(message, tag = "1")]
                Baggage(super::Baggage),
                /// The mesh's workloads, by address.
                #[prost(message, tag = "2")]
                WorkloadDiscovery(super::WorkloadDiscovery),
                /// `x-envoy-peer-metadata`.
                #[prost(message, tag = "3")]
                IstioHeaders(super::IstioHeaders),
            }
        }

        /// `io.istio.http.peer_metadata.Config.PropagationMethod`.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
        pub struct PropagationMethod {
            /// The method.
            #[prost(oneof = "propagation_method::MethodSpecifier", tags = "1, 2")]
            pub method_specifier: Option<propagation_method::MethodSpecifier>,
        }

        /// The oneof of [`PropagationMethod`].
        pub mod propagation_method {
            /// `io.istio.http.peer_metadata.Config.PropagationMethod.method_specifier`.
            #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Oneof)]
            pub enum MethodSpecifier {
                /// `x-envoy-peer-metadata`.
                #[prost(message, tag = "1")]
                IstioHeaders(super::IstioHeaders),
                /// The `baggage` header.
                #[prost(message, tag = "2")]
                Baggage(super::Baggage),
            }
        }
    }

    crate::messages::named!("io.istio.http.peer_metadata": Config => "Config");
}

/// `envoy.extensions.network_filters.peer_metadata.*`: the network filters that carry peer metadata over HBONE.
pub mod network_peer_metadata {
    /// `envoy.extensions.network_filters.peer_metadata.Config`.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct Config {
        /// The filter state key that holds our `baggage` value.
        #[prost(string, tag = "1")]
        pub baggage_key: String,
    }

    /// `envoy.extensions.network_filters.peer_metadata.UpstreamConfig`.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct UpstreamConfig {}

    crate::messages::named!("envoy.extensions.network_filters.peer_metadata":
        Config => "Config",
        UpstreamConfig => "UpstreamConfig",
    );
}

/// `envoy.tcp.metadataexchange.config.*`: the network filter that exchanges metadata ahead of a TCP stream.
pub mod metadata_exchange {
    /// `envoy.tcp.metadataexchange.config.MetadataExchange`.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct MetadataExchange {
        /// The ALPN that says the peer takes part.
        #[prost(string, tag = "1")]
        pub protocol: String,
        /// Look the peer up among the mesh's workloads when it does not.
        #[prost(bool, tag = "2")]
        pub enable_discovery: bool,
        /// Labels told beside the usual ones.
        #[prost(string, repeated, tag = "3")]
        pub additional_labels: Vec<String>,
    }

    crate::messages::named!("envoy.tcp.metadataexchange.config": MetadataExchange => "MetadataExchange");
}

/// `istio.envoy.config.filter.http.alpn.v2alpha1.*`: the filter `istio.alpn`.
pub mod alpn {
    /// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig`.
    #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
    pub struct FilterConfig {
        /// What to offer upstream, by the protocol spoken there.
        #[prost(message, repeated, tag = "1")]
        pub alpn_override: Vec<filter_config::AlpnOverride>,
    }

    /// Nested messages of [`FilterConfig`].
    pub mod filter_config {
        /// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig.AlpnOverride`.
        #[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
        pub struct AlpnOverride {
            /// The protocol spoken upstream.
            #[prost(enumeration = "Protocol", tag = "1")]
            pub upstream_protocol: i32,
            /// The names offered for it.
            #[prost(string, repeated, tag = "2")]
            pub alpn_override: Vec<String>,
        }

        /// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig.Protocol`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ::prost::Enumeration)]
        #[repr(i32)]
        pub enum Protocol {
            /// HTTP/1.0.
            Http10 = 0,
            /// HTTP/1.1.
            Http11 = 1,
            /// HTTP/2.
            Http2 = 2,
        }
    }

    crate::messages::named!("istio.envoy.config.filter.http.alpn.v2alpha1": FilterConfig => "FilterConfig");
}
