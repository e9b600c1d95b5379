//! What a filter is, the context it sees, and every filter Waypost has.
//!
//! Nothing here knows about sockets: a filter reads and changes a [`stream::HttpStream`] or a
//! [`connection::Connection`] and says at once whether to go on, to answer, or to wait.

pub mod access_log;
pub mod address;
pub mod body;
pub mod cel;
pub mod connection;
pub mod filter;
pub mod filter_state;
pub mod flags;
pub mod format;
pub mod head;
pub mod http;
pub mod listener;
pub mod matcher;
pub mod metadata;
pub mod network;
mod pem;
pub mod set_filter_state;
pub mod stats;
pub mod stream;
