//! The schema table.
