//! TLS contexts and secrets.
//!
//! A context of the API ([`ServerTls`], [`ClientTls`]) is compiled once and then follows its secrets: whenever a certificate, a key or a
//! trusted CA changes, a new rustls configuration takes the place of the old one, and connections that are open stay as they are.
//!
//! ```text
//! DownstreamTlsContext ─┐                     ┌─ files, inline data
//! UpstreamTlsContext ───┴─ context::Live ◀────┤
//!          │ rustls config, swapped atomically └─ SecretSlot ◀─ static secret │ SDS file │ (SDS client)
//! ```

mod cache;
mod certs;
mod client;
mod context;
mod failure;
mod handshake;
mod identity;
mod info;
mod names;
mod params;
mod san;
mod sds;
mod secrets;
mod server;
mod slot;
mod source;
mod stats;
#[cfg(test)]
mod tests;
mod validation;
mod verify;

pub use certs::{CertificateDetails, ContextCertificates};
pub use client::{ClientTls, Target};
pub use failure::{io_reason, reason};
pub use handshake::{accept, connect};
pub use info::{certificate_info, session_of_client, session_of_server};
pub use secrets::SecretStore;
pub use server::ServerTls;
pub use slot::{Origin, SecretKind, SecretRef, SecretSlot};
pub use stats::TlsStats;
