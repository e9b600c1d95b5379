//! TLS contexts and secrets.
