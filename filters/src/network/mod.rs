//! Network filters.

pub mod set_filter_state;
