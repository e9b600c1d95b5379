//! Process logs in Envoy's format.
