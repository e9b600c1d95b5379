//! Sockets and streams of bytes.

pub mod original_dst;
