//! Envoy API types.
