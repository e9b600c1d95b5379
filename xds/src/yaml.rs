//! YAML as Envoy reads it.

use crate::Error;
use serde_json::Value;

/// Reads a YAML document.
pub fn parse(_text: &str) -> Result<Value, Error> {
    Err(Error::new("", "not read yet"))
}
