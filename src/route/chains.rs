//! The filter chains of a route that says something about filters.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::http::filters::Chain;

/// How many are kept. A route table usually serves one connection manager, and a chain is replaced when one of its filters is discovered anew.
const KEPT: usize = 4;

/// What a route makes of the chains of connection managers: made for the first request, kept for all others.
#[derive(Default)]
pub struct RouteChains(ArcSwap<Vec<Made>>);

/// A chain, and what the route makes of it; nothing where it stays as it is.
type Made = (Arc<Chain>, Option<Arc<Chain>>);

impl fmt::Debug for RouteChains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteChains").field(&self.0.load().len()).finish()
    }
}

impl RouteChains {
    /// What has been made of a chain, or is made of it now.
    pub fn get(&self, chain: &Arc<Chain>, make: impl FnOnce() -> Option<Arc<Chain>>) -> Option<Arc<Chain>> {
        let kept = self.0.load();
        if let Some((_, made)) = kept.iter().find(|(of, _)| Arc::ptr_eq(of, chain)) {
            return made.clone();
        }
        let made = make();
        let newest = kept.len().saturating_sub(KEPT - 1);
        let mut all: Vec<Made> = kept.iter().skip(newest).cloned().collect();
        all.push((chain.clone(), made.clone()));
        // Of two workers that are first at once, one's is lost, and made again.
        self.0.store(Arc::new(all));
        made
    }
}
