//! Substitution formatters.
