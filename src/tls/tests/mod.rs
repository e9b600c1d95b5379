//! Handshakes in memory, with certificates made on the spot.

mod contexts;
mod handshake;
mod pki;
mod rejects;
mod reload;
mod stream;
