//! Header names.
