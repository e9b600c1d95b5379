//! The services that give resources, by gRPC and by HTTP.

use super::Dialect;
use crate::json::type_name;

/// A discovery service of Envoy's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// ADS: all types on one stream.
    Aggregated,
    /// CDS.
    Cluster,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// SRDS.
    ScopedRoutes,
    /// VHDS, which has the incremental dialect only.
    VirtualHost,
    /// EDS.
    Endpoint,
    /// SDS.
    Secret,
    /// ECDS.
    ExtensionConfig,
    /// RTDS.
    Runtime,
}

impl Service {
    /// The service for one type alone.
    pub fn of_type(type_url: &str) -> Option<Self> {
        Some(match type_name(type_url) {
            "envoy.config.cluster.v3.Cluster" => Self::Cluster,
            "envoy.config.listener.v3.Listener" => Self::Listener,
            "envoy.config.route.v3.RouteConfiguration" => Self::Route,
            "envoy.config.route.v3.ScopedRouteConfiguration" => Self::ScopedRoutes,
            "envoy.config.route.v3.VirtualHost" => Self::VirtualHost,
            "envoy.config.endpoint.v3.ClusterLoadAssignment" => Self::Endpoint,
            "envoy.extensions.transport_sockets.tls.v3.Secret" => Self::Secret,
            "envoy.config.core.v3.TypedExtensionConfig" => Self::ExtensionConfig,
            "envoy.service.runtime.v3.Runtime" => Self::Runtime,
            _ => return None,
        })
    }

    /// The method's name, as Envoy's log has it: `DeltaAggregatedResources`.
    pub fn method(self, dialect: Dialect) -> &'static str {
        match (self, dialect) {
            (Self::Aggregated, Dialect::Delta) => "DeltaAggregatedResources",
            (Self::Aggregated, Dialect::Sotw) => "StreamAggregatedResources",
            (Self::Cluster, Dialect::Delta) => "DeltaClusters",
            (Self::Cluster, Dialect::Sotw) => "StreamClusters",
            (Self::Listener, Dialect::Delta) => "DeltaListeners",
            (Self::Listener, Dialect::Sotw) => "StreamListeners",
            (Self::Route, Dialect::Delta) => "DeltaRoutes",
            (Self::Route, Dialect::Sotw) => "StreamRoutes",
            (Self::ScopedRoutes, Dialect::Delta) => "DeltaScopedRoutes",
            (Self::ScopedRoutes, Dialect::Sotw) => "StreamScopedRoutes",
            (Self::VirtualHost, _) => "DeltaVirtualHosts",
            (Self::Endpoint, Dialect::Delta) => "DeltaEndpoints",
            (Self::Endpoint, Dialect::Sotw) => "StreamEndpoints",
            (Self::Secret, Dialect::Delta) => "DeltaSecrets",
            (Self::Secret, Dialect::Sotw) => "StreamSecrets",
            (Self::ExtensionConfig, Dialect::Delta) => "DeltaExtensionConfigs",
            (Self::ExtensionConfig, Dialect::Sotw) => "StreamExtensionConfigs",
            (Self::Runtime, Dialect::Delta) => "DeltaRuntime",
            (Self::Runtime, Dialect::Sotw) => "StreamRuntime",
        }
    }

    /// The path of the gRPC method.
    pub fn path(self, dialect: Dialect) -> String {
        let service = match self {
            Self::Aggregated => "discovery.v3.AggregatedDiscoveryService",
            Self::Cluster => "cluster.v3.ClusterDiscoveryService",
            Self::Listener => "listener.v3.ListenerDiscoveryService",
            Self::Route => "route.v3.RouteDiscoveryService",
            Self::ScopedRoutes => "route.v3.ScopedRoutesDiscoveryService",
            Self::VirtualHost => "route.v3.VirtualHostDiscoveryService",
            Self::Endpoint => "endpoint.v3.EndpointDiscoveryService",
            Self::Secret => "secret.v3.SecretDiscoveryService",
            Self::ExtensionConfig => "extension.v3.ExtensionConfigDiscoveryService",
            Self::Runtime => "runtime.v3.RuntimeDiscoveryService",
        };
        format!("/envoy.service.{service}/{}", self.method(dialect))
    }

    /// The path for REST; there is none for ADS and VHDS.
    pub fn rest_path(self) -> Option<&'static str> {
        Some(match self {
            Self::Aggregated | Self::VirtualHost => return None,
            Self::Cluster => "/v3/discovery:clusters",
            Self::Listener => "/v3/discovery:listeners",
            Self::Route => "/v3/discovery:routes",
            Self::ScopedRoutes => "/v3/discovery:scoped-routes",
            Self::Endpoint => "/v3/discovery:endpoints",
            Self::Secret => "/v3/discovery:secrets",
            Self::ExtensionConfig => "/v3/discovery:extension_configs",
            Self::Runtime => "/v3/discovery:runtime",
        })
    }
}
