//! network filters.
