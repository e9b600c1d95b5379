//! The TLS contexts that are in use, each compiled once however many listeners and clusters spell it the same.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::certs::ContextCertificates;
use super::{ClientTls, ServerTls};

/// A TLS context that is in use.
pub(super) trait Context: Send + Sync {
    /// Reads slots again if any has changed, and files if `files` says so.
    fn refresh(&self, files: bool);
    /// What `/certs` shows of it.
    fn certificates(&self) -> ContextCertificates;
}

/// Contexts by their wire form.
#[derive(Default)]
pub(super) struct Contexts {
    servers: Table<ServerTls>,
    clients: Table<ClientTls>,
    made: u64,
}

/// With the number under which a context was made: `/certs` lists them in this order.
type Table<T> = HashMap<Vec<u8>, (u64, Weak<T>)>;

impl Contexts {
    pub fn server(&self, key: &[u8]) -> Option<Arc<ServerTls>> {
        self.servers.get(key)?.1.upgrade()
    }

    pub fn client(&self, key: &[u8]) -> Option<Arc<ClientTls>> {
        self.clients.get(key)?.1.upgrade()
    }

    pub fn add_server(&mut self, key: Vec<u8>, tls: &Arc<ServerTls>) {
        self.made += 1;
        self.servers.insert(key, (self.made, Arc::downgrade(tls)));
    }

    pub fn add_client(&mut self, key: Vec<u8>, tls: &Arc<ClientTls>) {
        self.made += 1;
        self.clients.insert(key, (self.made, Arc::downgrade(tls)));
    }

    /// Those that still have a user, oldest first; the others are forgotten.
    pub fn live(&mut self) -> Vec<Arc<dyn Context>> {
        self.servers.retain(|_, (_, c)| c.strong_count() > 0);
        self.clients.retain(|_, (_, c)| c.strong_count() > 0);
        let servers = self.servers.values().filter_map(|(n, c)| Some((*n, c.upgrade()? as Arc<dyn Context>)));
        let clients = self.clients.values().filter_map(|(n, c)| Some((*n, c.upgrade()? as Arc<dyn Context>)));
        let mut live: Vec<_> = servers.chain(clients).collect();
        live.sort_unstable_by_key(|(made, _)| *made);
        live.into_iter().map(|(_, c)| c).collect()
    }
}
