//! `path_config_source`: a `DiscoveryResponse` in a file.

use super::{Event, Update, sotw::open_all};
use crate::{Error, envoy::service::discovery::v3::DiscoveryResponse, json, yaml};
use prost::Message;
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{select, sync::mpsc::UnboundedSender, time::sleep};

/// How often the file is looked at. Envoy has the kernel tell it of renames; a configuration that is a second late is none the worse.
const POLL: Duration = Duration::from_secs(1);

/// A file of resources of one type, and what is known of it.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    type_url: String,
    /// Of what was read last; `None` before that.
    seen: Option<Result<Stamp, io::ErrorKind>>,
}

/// Another file by the name (through a link or a directory swapped, too), or other content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileSource {
    /// Nothing is read yet.
    pub fn new(path: impl Into<PathBuf>, type_url: impl Into<String>) -> Self {
        Self { path: path.into(), type_url: type_url.into(), seen: None }
    }

    /// Reads the file if it is another than at the last call: an [`Event::Update`], which needs no verdict, or an [`Event::Rejected`].
    pub fn poll(&mut self) -> Option<Event> {
        // The stamp is taken before the file is read, so that a change in between is seen next time.
        let stamp = fs::metadata(&self.path).map(|found| stamp(&found)).map_err(|error| error.kind());
        if self.seen == Some(stamp) {
            return None;
        }
        self.seen = Some(stamp);
        Some(match self.read() {
            Ok(update) => Event::Update(update),
            Err(reason) => {
                let reason = format!("{}: {reason}", self.path.display());
                Event::Rejected { type_url: self.type_url.clone(), version: String::new(), reason }
            }
        })
    }

    fn read(&self) -> Result<Update, String> {
        let bytes = fs::read(&self.path).map_err(|error| error.to_string())?;
        let response = parse(&self.path, &bytes).map_err(|error| error.to_string())?;
        update(response, &self.type_url)
    }
}

/// Reads the file at once and whenever it changes, until nobody listens any more.
pub async fn watch(mut source: FileSource, events: UnboundedSender<Event>) {
    loop {
        if let Some(event) = source.poll()
            && events.send(event).is_err()
        {
            return;
        }
        select! {
            () = sleep(POLL) => {}
            () = events.closed() => return,
        }
    }
}

/// The update that a response without a stream is.
pub(super) fn update(response: DiscoveryResponse, type_url: &str) -> Result<Update, String> {
    let DiscoveryResponse { version_info, resources, canary: _, type_url: own, nonce, control_plane, resource_errors } =
        response;
    if !own.is_empty() && own != type_url {
        return Err(format!("type_url: expected {type_url}, found {own}"));
    }
    super::mux::note_errors(type_url, &resource_errors);
    Ok(Update {
        type_url: type_url.to_owned(),
        resources: open_all(resources, type_url, &version_info)?,
        version: version_info,
        nonce,
        removed: Vec::new(),
        aliases: Vec::new(),
        missing: Vec::new(),
        complete: true,
        control_plane: control_plane.map(|plane| plane.identifier).unwrap_or_default(),
    })
}

/// The name says in which format it is, as with Envoy: `.pb`, `.yaml` or `.yml`, and JSON by any other.
fn parse(path: &Path, bytes: &[u8]) -> Result<DiscoveryResponse, Error> {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    let text = || std::str::from_utf8(bytes).map_err(|error| Error::new("", error.to_string()));
    let document = match extension.as_deref() {
        Some("pb") => return DiscoveryResponse::decode(bytes).map_err(|error| Error::new("", error.to_string())),
        Some("pb_text") => return Err(Error::new("", "the protobuf text format is not read")),
        Some("yaml" | "yml") => yaml::parse(text()?)?,
        _ => json::parse(text()?)?,
    };
    let options = json::Options::ignore_unknown();
    let response = json::from_value(&document, &options)?;
    let unknown = options.take_unknown();
    if !unknown.is_empty() {
        tracing::warn!("{}: unknown fields are passed over: {}", path.display(), unknown.join(", "));
    }
    Ok(response)
}

fn stamp(found: &fs::Metadata) -> Stamp {
    Stamp {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    }
}

#[cfg(test)]
mod tests;
