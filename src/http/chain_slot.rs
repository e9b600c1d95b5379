//! Where a connection manager's filter chain is: built once, or again whenever one of its filters comes over ECDS.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use waypost_xds::google::protobuf::Any;

use super::filters::{Chain, Content, FilterConfig, FilterSource, Piece, compose};
use crate::config::extension::Discovery;
use crate::config::extension_slot::{Commit, ExtensionSlot, User};
use crate::config::{ConfigError, Context};

/// The chain of a connection manager or of an upgrade.
#[derive(Clone, Debug)]
pub enum ChainSlot {
    /// All its filters are configured where they stand.
    Here(Arc<Chain>),
    /// Some of them are discovered.
    Discovered(Arc<DiscoveredChain>),
}

/// A chain that is built again when one of its filters comes, changes or goes.
pub struct DiscoveredChain {
    current: ArcSwap<Chain>,
    later: Vec<Later>,
    /// All filters, as they are now; only the control thread looks at them.
    pieces: Mutex<Vec<Piece>>,
}

/// A filter of a chain that is discovered.
struct Later {
    place: usize,
    last: bool,
    filter: FilterConfig,
    discovery: Arc<Discovery>,
    /// What it is where nothing has come.
    default: Content,
}

impl ChainSlot {
    /// Builds the chain of a list of filters; `path` is that of the list.
    pub fn compile(filters: Vec<proto::HttpFilter>, cx: &Context<'_>, path: &str) -> Result<ChainSlot, ConfigError> {
        let filters = FilterConfig::list(filters, cx, path)?;
        if !filters.last().is_some_and(FilterConfig::may_end) {
            return Err(ConfigError::new(
                path,
                "the last filter must be the terminal filter envoy.filters.http.router",
            ));
        }
        let count = filters.len();
        let (mut pieces, mut later) = (Vec::with_capacity(count), Vec::new());
        for (place, filter) in filters.into_iter().enumerate() {
            let last = place + 1 == count;
            let path = &filter.path;
            // What a filter says is checked even where it is disabled.
            let content = match &filter.source {
                FilterSource::Inline(any) => filter.build(any, last, path)?,
                FilterSource::Discovery(None) => Content::NOTHING,
                FilterSource::Discovery(Some(discovery)) => {
                    let (current, default) = discovery.first(path, |any, path| filter.build(any, last, path))?;
                    let default = default.unwrap_or(Content::Missing);
                    let content = current.unwrap_or_else(|| default.clone());
                    let (discovery, filter) = (discovery.clone(), filter.clone());
                    later.push(Later { place, last, filter, discovery, default });
                    content
                }
            };
            pieces.push(Piece::new(&filter, content));
        }
        let chain = Arc::new(compose(&pieces));
        if later.is_empty() {
            return Ok(ChainSlot::Here(chain));
        }
        let chain = Arc::new(DiscoveredChain { current: ArcSwap::new(chain), later, pieces: Mutex::new(pieces) });
        for later in &chain.later {
            let user: Weak<DiscoveredChain> = Arc::downgrade(&chain);
            later.discovery.slot.tell(user);
        }
        Ok(ChainSlot::Discovered(chain))
    }

    /// The chain for a request that comes now.
    pub fn load(&self) -> Arc<Chain> {
        match self {
            ChainSlot::Here(chain) => chain.clone(),
            ChainSlot::Discovered(chain) => chain.current.load_full(),
        }
    }

    /// What its filters wait for.
    pub fn discovered(&self) -> impl Iterator<Item = &Discovery> {
        let later = match self {
            ChainSlot::Here(_) => &[][..],
            ChainSlot::Discovered(chain) => &chain.later,
        };
        later.iter().map(|l| &*l.discovery)
    }
}

impl User for DiscoveredChain {
    fn prepare(self: Arc<Self>, slot: &ExtensionSlot, config: Option<&Any>) -> Result<Commit, ConfigError> {
        let mut changed = Vec::new();
        for Later { place, last, filter, discovery, default } in &self.later {
            // One name may be that of two filters, or be asked for at two places.
            if !std::ptr::eq(&*discovery.slot, slot) {
                continue;
            }
            let content = match config {
                Some(any) => {
                    discovery.check_type(any, &filter.path)?;
                    filter.build(any, *last, &filter.path)?
                }
                None => default.clone(),
            };
            changed.push((*place, content));
        }
        Ok(Box::new(move || {
            let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
            for (place, content) in changed {
                if let Some(piece) = pieces.get_mut(place) {
                    piece.content = content;
                }
            }
            self.current.store(Arc::new(compose(&pieces)));
        }))
    }
}

impl fmt::Debug for DiscoveredChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveredChain").field("current", &self.current).finish_non_exhaustive()
    }
}
