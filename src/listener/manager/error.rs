//! Why a listener is refused, in Envoy's words: operators look for them.

use std::io;
use std::sync::Arc;

use waypost_filters::address::Address;

use crate::config::ConfigError;
use crate::listener::Listener;

/// Why a listener is refused. The listener of before, if there is one, serves on.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// Its configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// Another listener has one of its addresses.
    #[error(
        "error adding listener: '{name}' has duplicate address '{addresses}' as existing listener, to check if the listener has duplicated \
         addresses with other listeners or 'enable_reuse_port' is set to 'false' for the listener"
    )]
    Duplicate {
        /// Its name.
        name: Arc<str>,
        /// Its addresses.
        addresses: String,
    },
    /// `enable_reuse_port` of a listener that exists.
    #[error("Listener {0}: reuse port cannot be changed during an update")]
    ReusePort(Arc<str>),
    /// An address that cannot be had.
    #[error("cannot {what} '{address}': {reason}")]
    Socket {
        /// What failed: `bind`, `listen() on`.
        what: &'static str,
        /// The address.
        address: Address,
        /// What the system says.
        reason: String,
    },
}

impl ListenerError {
    pub(super) fn duplicate(listener: &Listener) -> ListenerError {
        let addresses: Vec<String> = listener.addresses.iter().map(ToString::to_string).collect();
        ListenerError::Duplicate { name: listener.name.clone(), addresses: addresses.join(",") }
    }

    pub(super) fn bind(address: &Address, error: &io::Error) -> ListenerError {
        ListenerError::Socket { what: "bind", address: address.clone(), reason: reason(error) }
    }

    pub(super) fn listen(address: &Address, error: &io::Error) -> ListenerError {
        ListenerError::Socket { what: "listen() on", address: address.clone(), reason: reason(error) }
    }
}

/// The system's words, without the number that Rust adds.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
