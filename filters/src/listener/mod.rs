//! listener filters.
