//! `config.core.v3.DataSource`: bytes from a file, the configuration or the environment, and noticing that a file has changed.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use waypost_xds::envoy::config::core::v3::{DataSource, WatchedDirectory, data_source::Specifier};

use crate::config::ConfigError;

/// What `/certs` and messages call data of the configuration itself.
pub(super) const INLINE: &str = "<inline>";

/// What a source held.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub bytes: Vec<u8>,
    /// The file, or `<inline>`, as `/certs` shows it.
    pub origin: String,
}

/// Files whose change means that something must be read again.
#[derive(Debug, Default)]
pub(super) struct Watch {
    files: Vec<(PathBuf, Option<Stamp>)>,
}

/// What changes when a file is written to, replaced by a rename, or reached through a symbolic link that now points elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    #[cfg(unix)]
    inode: (u64, u64, i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Stamp> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Stamp {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            #[cfg(unix)]
            inode: {
                use std::os::unix::fs::MetadataExt;
                (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
            },
        })
    }
}

impl Watch {
    /// Reads a file and remembers the state it was in before.
    pub fn read(&mut self, path: &Path) -> std::io::Result<Vec<u8>> {
        // The stamp comes first: a change between the two is seen at the next look.
        self.files.push((path.to_owned(), Stamp::of(path)));
        std::fs::read(path)
    }

    /// Whether any file is not what it was when it was read.
    pub fn changed(&self) -> bool {
        self.files.iter().any(|(path, stamp)| Stamp::of(path) != *stamp)
    }
}

/// Reads a source. None if it is not set, for messages that may leave it out.
pub(super) fn read(source: Option<&DataSource>, path: &str, watch: &mut Watch) -> Result<Option<Content>, ConfigError> {
    let content = read_or_empty(source, path, watch)?;
    match &content {
        Some(c) if c.bytes.is_empty() => Err(ConfigError::new(path, "DataSource cannot be empty")),
        _ => Ok(content),
    }
}

/// Reads a source that may hold nothing.
pub(super) fn read_or_empty(
    source: Option<&DataSource>,
    path: &str,
    watch: &mut Watch,
) -> Result<Option<Content>, ConfigError> {
    let Some(DataSource { watched_directory, specifier }) = source else {
        return Ok(None);
    };
    watched(watched_directory.as_ref());
    let inline = |bytes: &[u8]| Content { bytes: bytes.to_vec(), origin: INLINE.to_owned() };
    let content = match specifier {
        None => return Ok(None),
        Some(Specifier::Filename(name)) => {
            let bytes = watch.read(Path::new(name)).map_err(|e| {
                let reason = match e.kind() {
                    std::io::ErrorKind::NotFound => format!("Invalid path: {name}"),
                    _ => format!("unable to read file {name}: {e}"),
                };
                ConfigError::new(format!("{path}.filename"), reason)
            })?;
            Content { bytes, origin: name.clone() }
        }
        Some(Specifier::InlineBytes(bytes)) => inline(bytes),
        Some(Specifier::InlineString(text)) => inline(text.as_bytes()),
        Some(Specifier::EnvironmentVariable(name)) => {
            let value = std::env::var(name).map_err(|_| {
                ConfigError::new(
                    format!("{path}.environment_variable"),
                    format!("environment variable {name} does not exist"),
                )
            })?;
            inline(value.as_bytes())
        }
    };
    Ok(Some(content))
}

/// `watched_directory` asks for what is done anyway: every file is looked at each second, through symbolic links, so that the swap of a
/// directory is seen too.
pub(super) fn watched(directory: Option<&WatchedDirectory>) {
    if let Some(WatchedDirectory { path: _, watch_modify: _ }) = directory {}
}
