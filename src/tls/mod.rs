//! TLS contexts and secrets.
use crate::config::ConfigError;
use std::sync::Arc;
use waypost_xds::envoy::extensions::transport_sockets::tls::v3 as t;
/// stub
#[derive(Debug, Default)]
pub struct SecretStore;
/// stub
#[derive(Debug)]
pub struct ClientTls;
impl ClientTls {
    /// stub
    pub fn compile(_: t::UpstreamTlsContext, _: &SecretStore, path: &str) -> Result<Arc<ClientTls>, ConfigError> {
        Err(ConfigError::unsupported(path))
    }
    /// stub
    pub fn config(&self) -> Option<Arc<rustls::ClientConfig>> {
        None
    }
    /// stub
    pub fn server_name(&self) -> rustls::pki_types::ServerName<'static> {
        rustls::pki_types::ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into())
    }
}
