//! The file system.

pub use std::fs::{
    File, TryLockError, copy, create_dir_all, exists, hard_link, metadata, read, read_dir,
    read_to_string, remove_dir_all, remove_file, rename, symlink_metadata, write,
};
pub use std::os::unix::fs::MetadataExt;
