//! `google.protobuf.FieldMask` on JSON.

use serde_json::Value;

/// Paths of fields.
pub struct Mask(Vec<String>);

impl Mask {
    /// Reads paths between commas.
    pub fn parse(text: &str) -> Mask {
        Mask(text.split(',').map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect())
    }

    /// The paths.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Leaves what the paths name, and every `@type`.
    pub fn trim(&self, value: &mut Value) {
        trim(value, &self.paths().collect::<Vec<_>>());
    }
}

fn trim(value: &mut Value, paths: &[&str]) {
    let Value::Object(map) = value else { return };
    map.retain(|name, value| {
        if name == "@type" {
            return true;
        }
        let mut below = Vec::new();
        for path in paths {
            match path.strip_prefix(name.as_str()) {
                Some("") => return true,
                Some(rest) => below.extend(rest.strip_prefix('.')),
                None => {}
            }
        }
        // Within a list nothing can be named.
        if below.is_empty() || !value.is_object() {
            return false;
        }
        trim(value, &below);
        true
    });
}
