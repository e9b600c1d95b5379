//! Listener filters: what is found out about a connection before a filter chain takes it.

pub mod http_inspector;
pub mod original_dst;
pub mod proxy_protocol;
pub mod tls_inspector;
