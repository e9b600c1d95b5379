//! What is compiled from `HttpConnectionManager`.
