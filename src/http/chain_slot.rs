//! Where a connection manager's filter chain is: built once, or again whenever one of its filters comes over ECDS.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use waypost_xds::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use waypost_xds::google::protobuf::Any;

use super::filters::{Chain, Content, FilterConfig, FilterSource, Piece, compose};
use super::registry::Within;
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
    pub fn compile(
        filters: Vec<proto::HttpFilter>,
        within: &Within,
        cx: &Context<'_>,
        path: &str,
    ) -> Result<ChainSlot, ConfigError> {
        let filters = FilterConfig::list(filters, within, cx, path)?;
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

#[cfg(test)]
mod tests {
    use waypost_xds::google::protobuf::Any;
    use waypost_xds::{any, json, yaml};

    use super::*;
    use crate::config::Process;
    use crate::config::extension_slot::ExtensionSlots;
    use crate::discovery::source::Source;

    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";

    /// A chain with a discovered filter `f` of these types, and a router.
    fn chain(extensions: &ExtensionSlots, types: &[&str], more: &str) -> Result<ChainSlot, ConfigError> {
        let types: Vec<String> = types.iter().map(|t| format!("{FILTERS}.{t}")).collect();
        let text = format!(
            "{{stat_prefix: x, route_config: {{}}, http_filters: [{{name: f, config_discovery: {{config_source: {{ads: {{}}}}, type_urls: [{}]{more}}}}}, \
             {{name: router, typed_config: {{\"@type\": {FILTERS}.router.v3.Router}}}}]}}",
            types.join(", ")
        );
        let proto: proto::HttpConnectionManager =
            json::from_value(&yaml::parse(&text).unwrap(), &json::Options::reject_unknown()).unwrap();
        let cx = Context {
            stats: &Default::default(),
            clusters: &Default::default(),
            logs: &Default::default(),
            secrets: &crate::tls::SecretStore::new(),
            routes: &Default::default(),
            extensions,
            process: &Process::default(),
        };
        let within = Within { stats: cx.stats.clone(), stat_prefix: "in".into() };
        ChainSlot::compile(proto.http_filters, &within, &cx, "http_filters")
    }

    const MUTATION: &str = "header_mutation.v3.HeaderMutation";
    const CORS: &str = "cors.v3.Cors";

    fn config(kind: &str) -> Any {
        Any { type_url: format!("{FILTERS}.{kind}"), value: Vec::new() }
    }

    /// How many filters run.
    fn running(chain: &ChainSlot) -> usize {
        chain.load().filters.len()
    }

    #[test]
    fn what_one_chain_refuses_changes_none_and_what_is_taken_away_is_missing() {
        let slots = ExtensionSlots::default();
        let (one, both) = (chain(&slots, &[CORS], "").unwrap(), chain(&slots, &[CORS, MUTATION], "").unwrap());
        let slot = slots.find(&Source::Ads, "f").unwrap();
        assert_eq!(slots.take_wanted().len(), 1, "one for both");
        assert_eq!((running(&one), running(&both)), (1, 1), "what is missing stands in the chain");
        // CORS has nothing to do without a route that says so.
        slot.set(Some(config(CORS))).unwrap();
        assert_eq!((running(&one), running(&both)), (0, 0));
        let refused = slot.set(Some(config(MUTATION))).unwrap_err();
        assert!(refused.reason.starts_with("Error: filter config has type URL envoy."), "{refused}");
        assert_eq!((running(&one), running(&both)), (0, 0));
        assert!(slot.holds(&config(CORS)));
        drop(one);
        slot.set(Some(config(MUTATION))).unwrap();
        assert_eq!(running(&both), 1, "nobody refuses it any more");
        slot.set(None).unwrap();
        assert!(
            matches!(&both, ChainSlot::Discovered(c) if matches!(c.pieces.lock().unwrap()[0].content, Content::Missing))
        );
        drop((both, slot));
        assert_eq!(slots.sweep().len(), 1);
    }

    #[test]
    fn what_has_come_and_does_not_fit_a_new_chain_is_a_conflict_and_its_default_serves() {
        let slots = ExtensionSlots::default();
        let _first = chain(&slots, &[CORS], "").unwrap();
        let slot = slots.find(&Source::Ads, "f").unwrap();
        slot.set(Some(config(CORS))).unwrap();
        let default = format!(", default_config: {{\"@type\": {FILTERS}.{MUTATION}}}");
        let next = chain(&slots, &[MUTATION], &default).unwrap();
        assert_eq!((running(&next), slot.stats.config_conflict.value()), (1, 1));
        assert_eq!(any::type_name(&slot.current().unwrap()), "envoy.extensions.filters.http.cors.v3.Cors");
    }

    #[test]
    fn a_default_must_fit_and_must_be_there_where_nothing_is_waited_for() {
        let slots = ExtensionSlots::default();
        let refused = |more: &str| chain(&slots, &[CORS], more).unwrap_err().to_string();
        let at = "http_filters[0].config_discovery";
        assert_eq!(
            refused(", apply_default_config_without_warming: true"),
            format!("{at}: filter config f applied without warming but has no default config")
        );
        let other = format!(", default_config: {{\"@type\": {FILTERS}.{MUTATION}}}");
        assert!(refused(&other).starts_with(&format!("{at}.default_config: Error: filter config has type URL")));
        assert!(slots.take_wanted().len() <= 1 && slots.sweep().len() == 1, "what was refused wants nothing");
    }
}
