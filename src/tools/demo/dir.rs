//! A folder that is gone when its owner is.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::tools::error::Error;

/// A folder; removed with everything in it when dropped, unless it was there before.
pub struct Dir {
    path: PathBuf,
    ours: bool,
}

impl Dir {
    /// The folder `path` (made if need be), or a new one among the temporary files, readable by us alone.
    pub fn new(path: Option<&Path>) -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt;
        let failed = |path: &Path, source| Error::File { path: path.to_owned(), source };
        if let Some(path) = path {
            std::fs::create_dir_all(path).map_err(|e| failed(path, e))?;
            let path = path.canonicalize().map_err(|e| failed(path, e))?;
            return Ok(Self { path, ours: false });
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let path = std::env::temp_dir().join(format!("waypost-{}-{now:x}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| failed(&path, e))?;
        Ok(Self { path, ours: true })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if self.ours {
            // What cannot be removed stays among the temporary files, for the system to clean.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
