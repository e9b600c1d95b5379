//! ECDS: filters whose configuration comes on its own.

use waypost_xds::client::Update;
use waypost_xds::envoy::config::core::v3::TypedExtensionConfig;

use super::source::Source;
use super::{Manager, Type};
use crate::admin::Kind;

impl Manager {
    pub(super) fn apply_extensions(&mut self, _source: &Source, update: &Update) -> Result<(), String> {
        for one in self.decode::<TypedExtensionConfig>(Type::Extension, update)? {
            let body = one.resource.body.clone();
            self.config.put_dynamic(Kind::Extension, one.name, body, &update.version, false);
        }
        Ok(())
    }
}
