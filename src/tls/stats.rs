//! The `ssl.` counters of a listener or a cluster.

use std::sync::Arc;

use rustls::{CertificateError, CommonState, Error, HandshakeKind, OtherError};
use waypost_filters::connection::TlsSession;

use super::names;
use super::params::Side;
use super::verify::Refused;
use crate::observe::stats::{Counter, Store};

/// Why a connection fails while its context has no secret; Envoy's words.
pub(super) const NOT_READY: &str = "TLS_error:_Secret_is_not_supplied_by_SDS";

/// Handles of one listener's or cluster's counters.
#[derive(Clone, Debug)]
pub struct TlsStats {
    connection_error: Counter,
    handshake: Counter,
    session_reused: Counter,
    no_certificate: Counter,
    fail_verify_no_cert: Counter,
    fail_verify_error: Counter,
    fail_verify_san: Counter,
    fail_verify_cert_hash: Counter,
    versions: [(&'static str, Counter); 2],
    ciphers: Vec<(&'static str, Counter)>,
    curves: Vec<(rustls::NamedGroup, Counter)>,
    secrets_not_ready: Counter,
    /// Shared, so that contexts know who is still there.
    context_updates: Arc<Counter>,
}

impl TlsStats {
    /// Counters of a listener, with a prefix such as `listener.0.0.0.0_15008.`.
    pub fn server(store: &Store, prefix: &str) -> TlsStats {
        TlsStats::new(store, prefix, Side::Server)
    }

    /// Counters of a cluster, with a prefix such as `cluster.x.`.
    pub fn client(store: &Store, prefix: &str) -> TlsStats {
        TlsStats::new(store, prefix, Side::Client)
    }

    fn new(store: &Store, prefix: &str, side: Side) -> TlsStats {
        let factory = match side {
            Side::Server => "server_ssl_socket_factory",
            Side::Client => "client_ssl_socket_factory",
        };
        let of_factory = |name: &str| store.counter(&format!("{prefix}{factory}.{name}"));
        // Each side has the other's counter too, which stays at zero.
        let downstream = of_factory("downstream_context_secrets_not_ready");
        let upstream = of_factory("upstream_context_secrets_not_ready");
        let counter = |name: &str| store.counter(&format!("{prefix}ssl.{name}"));
        // Stapling is left to rustls, which does not tell; the names are there for those who look for them.
        for name in ["ocsp_staple_failed", "ocsp_staple_omitted", "ocsp_staple_requests", "ocsp_staple_responses"] {
            counter(name);
        }
        TlsStats {
            connection_error: counter("connection_error"),
            handshake: counter("handshake"),
            session_reused: counter("session_reused"),
            no_certificate: counter("no_certificate"),
            fail_verify_no_cert: counter("fail_verify_no_cert"),
            fail_verify_error: counter("fail_verify_error"),
            fail_verify_san: counter("fail_verify_san"),
            fail_verify_cert_hash: counter("fail_verify_cert_hash"),
            versions: ["TLSv1.2", "TLSv1.3"].map(|v| (v, counter(&format!("versions.{v}")))),
            ciphers: names::TLS13
                .iter()
                .chain(&names::TLS12)
                .map(|(n, _)| (*n, counter(&format!("ciphers.{n}"))))
                .collect(),
            curves: names::GROUPS.iter().map(|(n, group, _)| (*group, counter(&format!("curves.{n}")))).collect(),
            secrets_not_ready: if side == Side::Server { downstream } else { upstream },
            context_updates: Arc::new(of_factory("ssl_context_update_by_sds")),
        }
    }

    /// Counts a connection that cannot be, for lack of a secret.
    pub fn record_not_ready(&self) {
        self.secrets_not_ready.inc();
    }

    pub(super) fn updates(&self) -> &Arc<Counter> {
        &self.context_updates
    }

    /// Counts a finished handshake.
    pub fn record_handshake(&self, session: &TlsSession, connection: &CommonState) {
        self.handshake.inc();
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            self.session_reused.inc();
        }
        if session.peer.is_none() {
            self.no_certificate.inc();
        }
        if let Some((_, c)) = self.versions.iter().find(|(n, _)| *n == session.version) {
            c.inc();
        }
        if let Some((_, c)) = self.ciphers.iter().find(|(n, _)| *n == session.cipher) {
            c.inc();
        }
        let group = connection.negotiated_key_exchange_group().map(|g| g.name());
        if let Some((_, c)) = self.curves.iter().find(|(g, _)| Some(*g) == group) {
            c.inc();
        }
    }

    /// Counts a failed handshake. Errors of the connection below TLS do not count.
    pub fn record_failure(&self, error: &Error) {
        let counter = match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(other))) => {
                match other.downcast_ref::<Refused>() {
                    Some(Refused::San(_)) => &self.fail_verify_san,
                    Some(Refused::Hash) => &self.fail_verify_cert_hash,
                    None => &self.fail_verify_error,
                }
            }
            Error::InvalidCertificate(_) => &self.fail_verify_error,
            Error::NoCertificatesPresented => &self.fail_verify_no_cert,
            _ => &self.connection_error,
        };
        counter.inc();
    }
}
