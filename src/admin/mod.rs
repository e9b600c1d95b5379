//! The admin interface.
use std::sync::Arc;
/// stub
#[derive(Default)]
pub struct ConfigStore;
impl ConfigStore {
    /// stub
    pub fn set_bootstrap(&self, _: waypost_xds::envoy::config::bootstrap::v3::Bootstrap) {}
}
/// stub
pub fn keep_static(_: &ConfigStore, _: &waypost_xds::envoy::config::bootstrap::v3::Bootstrap) {}
/// stub
#[allow(clippy::too_many_arguments)]
pub fn launch(address: std::net::SocketAddr, _: &crate::cli::Options, _: &crate::config::bootstrap::Settings, shared: &Arc<crate::worker::Shared>, _: &Arc<crate::lifecycle::Control>, _: Arc<ConfigStore>, _: crate::observe::log::LogHandle, _: &Arc<crate::observe::access_log::AccessLogFiles>, _: &Arc<crate::tls::SecretStore>) -> std::io::Result<()> {
    let l = std::net::TcpListener::bind(address)?;
    let shared = shared.clone();
    std::thread::spawn(move || for s in l.incoming() {
        use std::io::{Read, Write};
        let Ok(mut s) = s else { continue };
        let mut b = [0u8; 4096];
        let n = s.read(&mut b).unwrap_or(0);
        let req = String::from_utf8_lossy(b.get(..n).unwrap_or_default()).into_owned();
        let body = if req.starts_with("GET /ready") { "LIVE\n".to_owned() } else {
            let mut t = String::new();
            for (n, c) in shared.stats.counters() { t += &format!("{n}: {}\n", c.value()); }
            for (n, c) in shared.stats.gauges() { t += &format!("{n}: {}\n", c.value()); }
            t
        };
        let _ = write!(s, "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    });
    Ok(())
}
