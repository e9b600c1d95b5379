//! Envoy's rules for the head of a request and of a response.
