//! RTDS: layers of the runtime.

use std::sync::PoisonError;

use waypost_xds::client::Update;
use waypost_xds::envoy::service::runtime::v3::Runtime;

use super::{Manager, Type};

impl Manager {
    /// Keeps the values for `/runtime`. Keys that decide something are read when the process starts, so here they are shown only.
    pub(super) fn apply_runtime(&mut self, update: &Update) -> Result<(), String> {
        for one in self.decode::<Runtime>(Type::Runtime, update)? {
            let Runtime { name: _, layer } = one.message;
            let values = crate::config::bootstrap::runtime_values(layer);
            if !values.is_empty() {
                crate::config::warn_ignored(true, "rtds", one.name);
            }
            let layer = self.dynamic.runtime.iter().find(|l| l.name == one.name);
            let mut layers = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(shown) = layers.iter_mut().find(|l| layer.is_some_and(|w| w.layer == l.name)) {
                shown.values = values;
            }
        }
        Ok(())
    }
}
