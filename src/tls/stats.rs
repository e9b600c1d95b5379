//! The `ssl.` counters of a listener or a cluster.

use std::any::Any;
use std::sync::Arc;

use rustls::{CertificateError, CommonState, Error, HandshakeKind, OtherError};
use waypost_filters::connection::TlsSession;

use super::names;
use super::params::Side;
use super::verify::Refused;
use crate::observe::stats::{Stat, StatGroup, Store, Tally};

/// Why a connection fails while its context has no secret; Envoy's words.
pub(super) const NOT_READY: &str = "TLS_error:_Secret_is_not_supplied_by_SDS";

/// Stapling is left to rustls, which does not tell; the names are there for those who look for them.
const UNTOLD: [&str; 4] =
    ["ocsp_staple_failed", "ocsp_staple_omitted", "ocsp_staple_requests", "ocsp_staple_responses"];

/// The versions that are spoken.
const VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];

/// One listener's or cluster's counters.
#[derive(Debug)]
pub struct TlsStats {
    prefix: Arc<str>,
    factory: Arc<FactoryStats>,
    connection_error: Tally,
    handshake: Tally,
    session_reused: Tally,
    no_certificate: Tally,
    fail_verify_no_cert: Tally,
    fail_verify_error: Tally,
    fail_verify_san: Tally,
    fail_verify_cert_hash: Tally,
    versions: [Tally; 2],
    /// In the order of [`ciphers`].
    ciphers: Box<[Tally]>,
    /// In the order of [`names::GROUPS`].
    curves: Box<[Tally]>,
}

/// What is counted of the secrets of a listener's or cluster's contexts.
#[derive(Debug)]
pub(super) struct FactoryStats {
    prefix: Arc<str>,
    side: Side,
    secrets_not_ready: Tally,
    context_updates: Tally,
}

impl FactoryStats {
    /// Counts a context that was made again for a new secret.
    pub fn record_update(&self) {
        self.context_updates.inc();
    }
}

fn ciphers() -> impl Iterator<Item = &'static str> {
    names::TLS13.iter().chain(&names::TLS12).map(|(n, _)| *n)
}

impl TlsStats {
    /// Counters of a listener, with a prefix such as `listener.0.0.0.0_15008.`.
    pub fn server(store: &Store, prefix: &str) -> Arc<TlsStats> {
        TlsStats::new(store, prefix, Side::Server)
    }

    /// Counters of a cluster, with a prefix such as `cluster.x.`.
    pub fn client(store: &Store, prefix: &str) -> Arc<TlsStats> {
        TlsStats::new(store, prefix, Side::Client)
    }

    fn new(store: &Store, prefix: &str, side: Side) -> Arc<TlsStats> {
        let name = match side {
            Side::Server => "server_ssl_socket_factory",
            Side::Client => "client_ssl_socket_factory",
        };
        let factory = store.group(&format!("{prefix}{name}."), |prefix| FactoryStats {
            prefix,
            side,
            secrets_not_ready: Tally::default(),
            context_updates: Tally::default(),
        });
        store.group(&format!("{prefix}ssl."), |prefix| TlsStats {
            prefix,
            factory,
            connection_error: Tally::default(),
            handshake: Tally::default(),
            session_reused: Tally::default(),
            no_certificate: Tally::default(),
            fail_verify_no_cert: Tally::default(),
            fail_verify_error: Tally::default(),
            fail_verify_san: Tally::default(),
            fail_verify_cert_hash: Tally::default(),
            versions: Default::default(),
            ciphers: ciphers().map(|_| Tally::default()).collect(),
            curves: names::GROUPS.iter().map(|_| Tally::default()).collect(),
        })
    }

    /// Counts a connection that cannot be, for lack of a secret.
    pub fn record_not_ready(&self) {
        self.factory.secrets_not_ready.inc();
    }

    pub(super) fn factory(&self) -> &Arc<FactoryStats> {
        &self.factory
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
        if let Some((_, c)) = VERSIONS.iter().zip(&self.versions).find(|(n, _)| **n == session.version) {
            c.inc();
        }
        if let Some((_, c)) = ciphers().zip(&self.ciphers).find(|(n, _)| *n == session.cipher) {
            c.inc();
        }
        let group = connection.negotiated_key_exchange_group().map(|g| g.name());
        if let Some((_, c)) = names::GROUPS.iter().zip(&self.curves).find(|((_, g, _), _)| Some(*g) == group) {
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

impl StatGroup for FactoryStats {
    fn prefix(&self) -> &Arc<str> {
        &self.prefix
    }

    fn each(&self, visit: &mut dyn FnMut(&str, Stat)) {
        // Each side has the other's counter too, which stays at zero.
        let none = Tally::default();
        let (downstream, upstream) = match self.side {
            Side::Server => (&self.secrets_not_ready, &none),
            Side::Client => (&none, &self.secrets_not_ready),
        };
        visit("downstream_context_secrets_not_ready", Stat::Counter(downstream.stat()));
        visit("upstream_context_secrets_not_ready", Stat::Counter(upstream.stat()));
        visit("ssl_context_update_by_sds", Stat::Counter(self.context_updates.stat()));
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

impl StatGroup for TlsStats {
    fn prefix(&self) -> &Arc<str> {
        &self.prefix
    }

    fn each(&self, visit: &mut dyn FnMut(&str, Stat)) {
        UNTOLD.iter().for_each(|name| visit(name, Stat::Counter(Tally::default().stat())));
        for (name, counter) in [
            ("connection_error", &self.connection_error),
            ("handshake", &self.handshake),
            ("session_reused", &self.session_reused),
            ("no_certificate", &self.no_certificate),
            ("fail_verify_no_cert", &self.fail_verify_no_cert),
            ("fail_verify_error", &self.fail_verify_error),
            ("fail_verify_san", &self.fail_verify_san),
            ("fail_verify_cert_hash", &self.fail_verify_cert_hash),
        ] {
            visit(name, Stat::Counter(counter.stat()));
        }
        let mut list = |kind: &str, name: &str, counter: &Tally| {
            visit(&format!("{kind}.{name}"), Stat::Counter(counter.stat()));
        };
        VERSIONS.iter().zip(&self.versions).for_each(|(n, c)| list("versions", n, c));
        ciphers().zip(&self.ciphers).for_each(|(n, c)| list("ciphers", n, c));
        names::GROUPS.iter().zip(&self.curves).for_each(|((n, ..), c)| list("curves", n, c));
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
