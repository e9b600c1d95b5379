//! http filters.
