//! Handshakes in memory, with certificates made on the spot.

#![allow(clippy::result_large_err, reason = "errors of both ends of a handshake, in tests only")]

mod contexts;
mod handshake;
mod pki;
mod rejects;
mod reload;
mod sds;
mod stream;
