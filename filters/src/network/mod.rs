//! Network filters.

pub mod set_filter_state;
pub mod unsupported;
