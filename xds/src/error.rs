//! What a configuration error looks like: where, and why.

/// A value of the configuration that cannot be used. Shown as one line, `path: reason`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// The field in Envoy's names, e.g. `static_resources.listeners[0].name`; empty for the document itself.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() { f.write_str(&self.reason) } else { write!(f, "{}: {}", self.path, self.reason) }
    }
}

impl Error {
    /// An error at a field.
    pub fn new(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { path: path.into(), reason: reason.into() }
    }

    /// The same error, seen from further out: `prefix` is the path of the message it was found in.
    #[must_use]
    pub fn within(self, prefix: &str) -> Self {
        Self { path: join(prefix, &self.path), reason: self.reason }
    }
}

/// Puts a path behind the path of the message that holds it.
pub(crate) fn join(prefix: &str, path: &str) -> String {
    match (prefix.is_empty(), path.is_empty()) {
        (true, _) => path.to_owned(),
        (_, true) => prefix.to_owned(),
        _ if path.starts_with('[') => format!("{prefix}{path}"),
        _ => format!("{prefix}.{path}"),
    }
}
