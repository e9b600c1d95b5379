//! Tests of the matchers.
