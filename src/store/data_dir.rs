//! The data directory and its guards: one process, one node, one cluster, a format that we know.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::files;
use crate::model::ids::NodeId;
use crate::runtime::fs::{self, File};

/// The format of the directory that this binary writes.
pub const FORMAT_VERSION: u64 = 1;

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it.
    #[error(
        "data directory {0} is in use by another process; stop that one, or choose another directory"
    )]
    InUse(PathBuf),
    /// It was written by a newer version.
    #[error(
        "data directory {dir} has format {found}, this mhub knows up to {FORMAT_VERSION}; run a newer mhub"
    )]
    NewerFormat {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: String,
    },
    /// It belongs to another node.
    #[error(
        "data directory {dir} belongs to node {found}, not to node {wanted}; correct the node id or the directory"
    )]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who asked.
        wanted: NodeId,
    },
    /// It belongs to another cluster.
    #[error("data directory {dir} belongs to cluster {found}, not to {wanted}")]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// A file in it is not what it should be.
    #[error("{0} is damaged: {1}")]
    Damaged(PathBuf, String),
    /// The disk failed.
    #[error("data directory {0}: {1}")]
    Io(PathBuf, io::Error),
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    node_id: NodeId,
    incarnation: String,
    cluster_id: Mutex<Option<String>>,
    /// Held for as long as the process lives.
    _lock: File,
}

impl DataDir {
    /// Opens or makes a data directory. A new one gets the given node id, or a random one.
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub fn open(path: &Path, node_id: Option<NodeId>) -> Result<Self, DataDirError> {
        let io = |error| DataDirError::Io(path.to_owned(), error);
        files::create_dir_all(path).map_err(io)?;
        let lock = File::create(path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(DataDirError::InUse(path.to_owned())),
            Err(fs::TryLockError::Error(error)) => return Err(io(error)),
        }
        check_format(path)?;
        let incarnation = text_or(path, "incarnation", || uuid::Uuid::new_v4().to_string())?;
        let stored = text_or(path, "node-id", || node_id.unwrap_or_else(random_id).to_string())?;
        let stored = stored.parse().map(NodeId).map_err(|_| {
            DataDirError::Damaged(path.join("node-id"), format!("{stored:?} is no id"))
        })?;
        if let Some(wanted) = node_id.filter(|wanted| *wanted != stored) {
            return Err(DataDirError::OtherNode { dir: path.to_owned(), found: stored, wanted });
        }
        let cluster_id = files::read_text(&path.join("cluster-id")).map_err(io)?;
        let this = Self {
            path: path.to_owned(),
            node_id: stored,
            incarnation,
            cluster_id: Mutex::new(cluster_id),
            _lock: lock,
        };
        for dir in [this.raft_log_path(), this.snapshots_path()] {
            files::create_dir_all(&dir).map_err(io)?;
        }
        Ok(this)
    }

    /// The node that it belongs to.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// A UUID that was drawn when it was made.
    #[must_use]
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// The cluster that it belongs to; `None` until one was formed or joined.
    #[must_use]
    pub fn cluster_id(&self) -> Option<String> {
        self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes it part of a cluster, for good.
    ///
    /// # Errors
    /// [`DataDirError::OtherCluster`] when it belongs to another.
    pub fn set_cluster_id(&self, id: &str) -> Result<(), DataDirError> {
        let mut current = self.cluster_id.lock().unwrap_or_else(PoisonError::into_inner);
        match current.as_deref() {
            Some(found) if found == id => return Ok(()),
            Some(found) => {
                return Err(DataDirError::OtherCluster {
                    dir: self.path.clone(),
                    found: found.to_owned(),
                    wanted: id.to_owned(),
                });
            }
            None => {}
        }
        files::replace(&self.path.join("cluster-id"), id.as_bytes())
            .map_err(|error| DataDirError::Io(self.path.clone(), error))?;
        *current = Some(id.to_owned());
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log database.
    #[must_use]
    pub fn raft_log_path(&self) -> PathBuf {
        self.path.join("raft-log")
    }

    /// The state of a shard.
    #[must_use]
    pub fn state_path(&self, shard: u32) -> PathBuf {
        self.path.join("state").join(shard.to_string())
    }

    /// Snapshots, own and received.
    #[must_use]
    pub fn snapshots_path(&self) -> PathBuf {
        self.path.join("snapshots")
    }
}

fn check_format(path: &Path) -> Result<(), DataDirError> {
    let found = text_or(path, "format-version", || FORMAT_VERSION.to_string())?;
    match found.parse::<u64>() {
        Ok(version) if version <= FORMAT_VERSION => Ok(()),
        Ok(_) => Err(DataDirError::NewerFormat { dir: path.to_owned(), found }),
        Err(_) => Err(DataDirError::Damaged(path.join("format-version"), format!("{found:?}"))),
    }
}

/// The content of a file, which is written first where it is not there.
fn text_or(
    dir: &Path,
    name: &str,
    default: impl FnOnce() -> String,
) -> Result<String, DataDirError> {
    let path = dir.join(name);
    let io = |error| DataDirError::Io(path.clone(), error);
    if let Some(text) = files::read_text(&path).map_err(io)? {
        return Ok(text);
    }
    let text = default();
    files::replace(&path, text.as_bytes()).map_err(io)?;
    Ok(text)
}

/// An id that no other node has, in all likelihood; positive, and short enough for JSON numbers.
fn random_id() -> NodeId {
    NodeId((uuid::Uuid::new_v4().as_u64_pair().0 >> 16).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d");
        let first = DataDir::open(&dir, Some(NodeId(3))).unwrap();
        assert!(matches!(DataDir::open(&dir, None), Err(DataDirError::InUse(_))));
        first.set_cluster_id("one").unwrap();
        first.set_cluster_id("one").unwrap();
        assert!(matches!(first.set_cluster_id("two"), Err(DataDirError::OtherCluster { .. })));
        let incarnation = first.incarnation().to_owned();
        drop(first);
        let wrong = DataDir::open(&dir, Some(NodeId(4)));
        assert!(matches!(wrong, Err(DataDirError::OtherNode { .. })), "{wrong:?}");
        let again = DataDir::open(&dir, None).unwrap();
        assert_eq!((again.node_id(), again.cluster_id().as_deref()), (NodeId(3), Some("one")));
        assert_eq!(again.incarnation(), incarnation);
        drop(again);
        fs::write(dir.join("format-version"), "99\n").unwrap();
        let newer = DataDir::open(&dir, None).unwrap_err().to_string();
        assert!(newer.contains("99") && newer.contains("newer"), "{newer}");
    }

    #[test]
    fn a_new_directory_draws_an_id() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDir::open(&root.path().join("a"), None).unwrap();
        let second = DataDir::open(&root.path().join("b"), None).unwrap();
        assert!(first.node_id() != second.node_id() && first.node_id().get() > 0);
    }
}
