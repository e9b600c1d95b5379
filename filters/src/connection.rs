//! What is known of a downstream connection: addresses, TLS, filter state, metadata.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

pub use crate::pem::Pem;

use crate::address::Address;
use crate::filter_state::FilterState;
use crate::metadata::Metadata;

/// A downstream connection, as listener and network filters build it up and as streams then read it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// A number that no other connection of the process has.
    pub id: u64,
    /// When it was accepted.
    pub start: SystemTime,
    /// The local address; `original_dst` may have replaced it.
    pub local: Address,
    /// The local address of the socket itself.
    pub direct_local: Address,
    /// The peer's address; `original_dst` or the PROXY protocol may have replaced it.
    pub remote: Address,
    /// The peer's address as the socket has it.
    pub direct_remote: Address,
    /// The server name of the TLS client hello (lower case), from the inspector or the handshake.
    pub server_name: Option<Arc<str>>,
    /// `raw_buffer` or `tls`, as `tls_inspector` found it.
    pub transport_protocol: &'static str,
    /// ALPN or what `http_inspector` found; names as offered.
    pub application_protocols: Vec<Arc<str>>,
    /// JA3 and JA4 are not computed yet; the TLS session, once there is one.
    pub tls: Option<Arc<TlsSession>>,
    /// Objects of connection life span.
    pub filter_state: FilterState,
    /// Dynamic metadata of the connection (passed-through host metadata on internal connections).
    pub metadata: Metadata,
    /// Why the TLS handshake failed (`%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`).
    pub transport_failure: Option<Arc<str>>,
    /// The name of the filter chain that took the connection.
    pub filter_chain: Arc<str>,
    /// The listener's name.
    pub listener: Arc<str>,
    /// `traffic_direction` of the listener.
    pub direction: Direction,
}

/// `traffic_direction` of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// `UNSPECIFIED`
    #[default]
    Unspecified,
    /// `INBOUND`
    Inbound,
    /// `OUTBOUND`
    Outbound,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Connection {
    /// A plain connection between two addresses.
    pub fn new(local: Address, remote: Address) -> Connection {
        Connection {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            start: SystemTime::now(),
            direct_local: local.clone(),
            local,
            direct_remote: remote.clone(),
            remote,
            server_name: None,
            transport_protocol: "",
            application_protocols: Vec::new(),
            tls: None,
            filter_state: FilterState::default(),
            metadata: Metadata::default(),
            transport_failure: None,
            filter_chain: Arc::from(""),
            listener: Arc::from(""),
            direction: Direction::Unspecified,
        }
    }
}

/// A TLS session with what both sides proved.
#[derive(Clone, Debug, Default)]
pub struct TlsSession {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its OpenSSL name.
    pub cipher: &'static str,
    /// The negotiated ALPN protocol.
    pub alpn: Option<Arc<str>>,
    /// The peer's certificate, if it sent one.
    pub peer: Option<Arc<CertificateInfo>>,
    /// Our certificate, if we sent one.
    pub local: Option<Arc<CertificateInfo>>,
    /// Whether the peer's chain was verified (not with `ACCEPT_UNTRUSTED`).
    pub peer_validated: bool,
    /// The session id in lower-case hex; empty in TLS 1.3 as rustls has none.
    pub session_id: String,
}

/// What XFCC, access logs and policies read from a certificate; computed once per certificate or handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Subject in RFC 2253 form, such as `CN=client,O=Org`.
    pub subject: String,
    /// Issuer in RFC 2253 form.
    pub issuer: String,
    /// URI subject alternative names.
    pub uri_sans: Vec<String>,
    /// DNS subject alternative names.
    pub dns_sans: Vec<String>,
    /// IP subject alternative names.
    pub ip_sans: Vec<String>,
    /// Email subject alternative names.
    pub email_sans: Vec<String>,
    /// SHA-256 over the DER form, lower-case hex.
    pub sha256: String,
    /// SHA-1 over the DER form, lower-case hex.
    pub sha1: String,
    /// The serial number, lower-case hex.
    pub serial: String,
    /// The certificate as URL-encoded PEM.
    pub pem_encoded: Pem,
    /// The whole chain as URL-encoded PEM.
    pub chain_pem_encoded: Pem,
    /// Not valid before, seconds since the epoch.
    pub not_before: i64,
    /// Not valid after, seconds since the epoch.
    pub not_after: i64,
}

impl CertificateInfo {
    /// URI SANs joined by commas, as `%DOWNSTREAM_PEER_URI_SAN%` prints them.
    pub fn uri_san_joined(&self) -> String {
        self.uri_sans.join(",")
    }
}
