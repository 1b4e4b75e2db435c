//! The files of snapshots.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::snapshot::SnapshotHandle;
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::proto::peer::{SnapshotFile, SnapshotManifest};
use crate::runtime::fs::{self, File, MetadataExt as _};

/// Beginnings of directory names.
pub(super) const KEPT: &str = "snap-";
pub(super) const BUILDING: &str = "building-";
pub(super) const RECEIVED: &str = "received-";
pub(super) const REMOVING: &str = "removing-";
/// Whole directory names.
pub(super) const STAGING: &str = "staging";
pub(super) const INSTALLING: &str = "installing";

/// In the directory of each kept snapshot.
const MANIFEST: &str = "manifest";
const READ_BYTES: usize = 1 << 20;

/// Removes what is unfinished, and all but the latest snapshot; returns that one.
pub(super) fn clean(root: &Path) -> io::Result<Option<(PathBuf, SnapshotManifest)>> {
    fs::create_dir_all(root)?;
    let mut latest: Option<(PathBuf, SnapshotManifest)> = None;
    let index = |manifest: &SnapshotManifest| manifest.last_log_id.as_ref().map(|id| id.index);
    for entry in fs::read_dir(root)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == STAGING {
            continue;
        }
        if !name.starts_with(KEPT) {
            let unfinished =
                [BUILDING, RECEIVED, REMOVING].iter().any(|kind| name.starts_with(kind));
            if unfinished || name == INSTALLING {
                fs::remove_dir_all(&path)?;
            }
            continue;
        }
        let found = (read_manifest(&path)?, path);
        match &latest {
            Some((_, best)) if index(best) >= index(&found.0) => remove(&found.1)?,
            _ => {
                if let Some((old, _)) = latest.replace((found.1, found.0)) {
                    remove(&old)?;
                }
            }
        }
    }
    Ok(latest)
}

/// Removes a snapshot. Under another name first: a crash must not leave half of one behind that
/// looks like a whole one.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let removing = dir.with_file_name(format!("{REMOVING}{name}"));
    rename(dir, &removing)?;
    fs::remove_dir_all(removing)
}

fn read_manifest(dir: &Path) -> io::Result<SnapshotManifest> {
    let path = dir.join(MANIFEST);
    let corrupt = |what: String| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", path.display()))
    };
    let bytes = fs::read(&path)?;
    let manifest: SnapshotManifest = decode_message(Kind::SnapshotManifest, &bytes)
        .map_err(|fault| corrupt(fault.to_string()))?;
    for file in &manifest.files {
        let size = fs::metadata(dir.join(&file.name))?.len();
        if size != file.size {
            return Err(corrupt(format!("{} has {size} bytes, not {}", file.name, file.size)));
        }
    }
    Ok(manifest)
}

/// Writes the manifest next to the files and makes the directory durable.
pub(super) fn write_manifest(dir: &Path, manifest: &SnapshotManifest) -> io::Result<()> {
    let bytes = encode_message(Kind::SnapshotManifest, manifest);
    let path = dir.join(MANIFEST);
    fs::write(&path, bytes)?;
    File::open(&path)?.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Renames within one directory, durably.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    let parent = to.parent().ok_or_else(|| io::Error::other("a path without a parent"))?;
    File::open(parent)?.sync_all()
}

/// The files of a checkpoint with their checksums. Most are hard links to the same files as those
/// of the snapshot before, and are not read again.
pub(super) fn list(
    dir: &Path,
    known: Option<(&Path, &SnapshotManifest)>,
) -> io::Result<Vec<SnapshotFile>> {
    let known = known.map(|(dir, manifest)| known_files(dir, manifest)).unwrap_or_default();
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        let name = entry.file_name().into_string();
        let name = name.map_err(|name| io::Error::other(format!("file name {name:?}")))?;
        if !meta.is_file() {
            return Err(io::Error::other(format!("{name} in a checkpoint is no file")));
        }
        let crc32c = match known.get(&(meta.dev(), meta.ino())) {
            Some(crc32c) => *crc32c,
            None => {
                File::open(entry.path())?.sync_all()?;
                crc_of_file(&entry.path())?
            }
        };
        files.push(SnapshotFile { name, size: meta.len(), crc32c });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Checksums by identity of the file. A file that both have was never changed since: its name in
/// the older snapshot keeps its number from being used again.
fn known_files(dir: &Path, manifest: &SnapshotManifest) -> BTreeMap<(u64, u64), u32> {
    let table_files = manifest.files.iter().filter(|file| is_immutable(&file.name));
    let identities = table_files.filter_map(|file| {
        let meta = fs::metadata(dir.join(&file.name)).ok()?;
        (meta.len() == file.size).then_some(((meta.dev(), meta.ino()), file.crc32c))
    });
    identities.collect()
}

/// Files that a database writes once and never changes.
fn is_immutable(name: &str) -> bool {
    name.ends_with(".sst") || name.ends_with(".blob")
}

pub(super) fn crc_of_file(path: &Path) -> io::Result<u32> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut crc = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(crc);
        }
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
    }
}

/// A copy for a database to take over: links to what it never changes, copies of the rest.
pub(super) fn copy(from: &SnapshotHandle, to: &Path) -> io::Result<()> {
    if fs::exists(to)? {
        fs::remove_dir_all(to)?;
    }
    fs::create_dir_all(to)?;
    for file in &from.manifest().files {
        let (source, target) = (from.dir().join(&file.name), to.join(&file.name));
        if is_immutable(&file.name) {
            fs::hard_link(source, target)?;
        } else {
            fs::copy(source, &target)?;
            File::open(&target)?.sync_all()?;
        }
    }
    File::open(to)?.sync_all()
}
