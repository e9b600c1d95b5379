//! Network filters.

pub mod metadata_exchange;
pub mod set_filter_state;
pub mod unsupported;
