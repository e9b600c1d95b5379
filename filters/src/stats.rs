//! How filters count. The numbers are kept elsewhere; a filter resolves its handles when it is compiled.

use std::sync::Arc;

/// A counter.
pub trait Count: Send + Sync + 'static {
    /// Adds a number.
    fn add(&self, n: u64);
}

/// A shared counter.
pub type Counter = Arc<dyn Count>;

/// Where a filter's statistics are, such as below `http.<stat_prefix>.`.
pub trait Scope {
    /// The counter of a name.
    fn counter(&self, name: &str) -> Counter;
}
