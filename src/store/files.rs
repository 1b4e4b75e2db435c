//! Small files that must survive a crash whole.

use std::io::{self, Write as _};
use std::path::Path;

use crate::runtime::fs::{self, File};

/// Replaces a file: the old content or the new is there after a crash, never half of one.
///
/// # Errors
/// When the disk fails.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let staged = path.with_extension("new");
    let mut file = File::create(&staged)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    sync_parent(path)
}

/// Makes a directory, and those that it lies in, where they are not there: once this returns, a crash
/// takes none of them.
///
/// # Errors
/// When the disk fails.
pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    for dir in dir.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
        if fs::exists(dir)? {
            break;
        }
        missing.push(dir);
    }
    fs::create_dir_all(dir)?;
    missing.into_iter().rev().try_for_each(sync_parent)
}

/// Makes the directory entry of a path durable.
///
/// # Errors
/// When the disk fails.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// When the disk fails.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A file's text without surrounding space; `None` when there is no such file.
///
/// # Errors
/// When the disk fails.
pub fn read_text(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
