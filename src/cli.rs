//! Envoy's command line.
