//! Sockets and streams of bytes.
