//! A file system in memory that knows what was synced.
//!
//! A file is durable up to its last sync. A directory's entries are durable as of its last sync,
//! whichever files they name. A crash ([`crash`]) cuts each file somewhere in what was not synced,
//! perhaps with rubbish at its end, and takes the entries of all directories back to what was
//! durable, or, as a journal may just have been written, leaves them all as they are.
//!
//! Files only grow: what a node writes over, it replaces. Paths are absolute and plain.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use super::{below, chance};

type Entries = BTreeMap<OsString, u64>;

enum Inode {
    File { content: Vec<u8>, synced: usize },
    Dir { live: Entries, durable: Entries },
}

struct Disk {
    inodes: Vec<Inode>,
}

/// The directory that everything lies below.
const ROOT: u64 = 0;

thread_local! {
    static DISK: RefCell<Disk> = RefCell::new(Disk { inodes: vec![empty_dir()] });
}

fn empty_dir() -> Inode {
    Inode::Dir { live: Entries::new(), durable: Entries::new() }
}

fn error(kind: ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{}: {kind}", path.display()))
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl Disk {
    fn inode(&mut self, number: u64) -> &mut Inode {
        &mut self.inodes[index(number)]
    }

    fn add(&mut self, inode: Inode) -> u64 {
        self.inodes.push(inode);
        self.inodes.len() as u64 - 1
    }

    fn names(path: &Path) -> impl Iterator<Item = &OsStr> {
        path.iter().filter(|name| *name != "/")
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        Self::names(path).try_fold(ROOT, |at, name| match &self.inodes[index(at)] {
            Inode::Dir { live, .. } => {
                live.get(name).copied().ok_or_else(|| error(ErrorKind::NotFound, path))
            }
            Inode::File { .. } => Err(error(ErrorKind::NotADirectory, path)),
        })
    }

    /// The entries of the directory that holds a path, and the path's name in it.
    fn holder<'p>(&mut self, path: &'p Path) -> io::Result<(&mut Entries, &'p OsStr)> {
        let name = path.file_name().ok_or_else(|| error(ErrorKind::InvalidInput, path))?;
        let parent = self.find(path.parent().unwrap_or(Path::new("/")))?;
        match self.inode(parent) {
            Inode::Dir { live, .. } => Ok((live, name)),
            Inode::File { .. } => Err(error(ErrorKind::NotADirectory, path)),
        }
    }

    fn link(&mut self, path: &Path, number: u64) -> io::Result<()> {
        let (entries, name) = self.holder(path)?;
        entries.insert(name.to_owned(), number);
        Ok(())
    }

    fn create(&mut self, path: &Path) -> io::Result<u64> {
        // A file that was there keeps what it has for as long as its name is not durably the new
        // one's: gentler than a disk, but nobody here writes over a file.
        let number = self.add(Inode::File { content: Vec::new(), synced: 0 });
        self.link(path, number)?;
        Ok(number)
    }

    fn sync(&mut self, number: u64) {
        match self.inode(number) {
            Inode::File { content, synced } => *synced = content.len(),
            Inode::Dir { live, durable } => durable.clone_from(live),
        }
    }

    fn metadata(&self, number: u64) -> Metadata {
        let len = match &self.inodes[index(number)] {
            Inode::File { content, .. } => Some(content.len() as u64),
            Inode::Dir { .. } => None,
        };
        Metadata { number, len }
    }

    fn crash(&mut self, number: u64, journal_written: bool) {
        match self.inode(number) {
            Inode::File { content, synced } => {
                let unsynced = (content.len() - *synced) as u64;
                content.truncate(*synced + index(below(unsynced + 1)));
                // A block that was on its way may hold anything.
                if content.len() > *synced && chance(30) {
                    let torn = *synced + index(below((content.len() - *synced) as u64));
                    content[torn..].fill(0);
                }
                *synced = content.len();
            }
            Inode::Dir { live, durable } => {
                if journal_written {
                    durable.clone_from(live);
                } else {
                    live.clone_from(durable);
                }
                let below: Vec<u64> = live.values().copied().collect();
                for number in below {
                    self.crash(number, journal_written);
                }
            }
        }
    }
}

fn with<R>(work: impl FnOnce(&mut Disk) -> R) -> R {
    DISK.with_borrow_mut(work)
}

/// The machine below a directory loses power. The directory itself stays.
///
/// # Errors
/// When there is no such directory.
pub fn crash(root: &Path) -> io::Result<()> {
    with(|disk| {
        let number = disk.find(root)?;
        disk.crash(number, chance(50));
        Ok(())
    })
}

/// Appends to a file, which is there.
pub(crate) fn append(file: &File, bytes: &[u8]) {
    with(|disk| {
        if let Inode::File { content, .. } = disk.inode(file.number) {
            content.extend_from_slice(bytes);
        }
    });
}

/// Cuts a file off. What stays is as durable as it was.
pub(crate) fn truncate(file: &File, len: usize) {
    with(|disk| {
        if let Inode::File { content, synced } = disk.inode(file.number) {
            content.truncate(len);
            *synced = len.min(*synced);
        }
    });
}

/// See `std::fs`; so for all that follows.
///
/// # Errors
/// As there.
pub fn create_dir_all<P: AsRef<Path>>(path: P) -> io::Result<()> {
    with(|disk| {
        let mut at = PathBuf::from("/");
        for name in Disk::names(path.as_ref()) {
            at.push(name);
            if disk.find(&at).is_err() {
                let number = disk.add(empty_dir());
                disk.link(&at, number)?;
            }
        }
        Ok(())
    })
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn exists<P: AsRef<Path>>(path: P) -> io::Result<bool> {
    Ok(with(|disk| disk.find(path.as_ref())).is_ok())
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn read<P: AsRef<Path>>(path: P) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    with(|disk| {
        let number = disk.find(path)?;
        match disk.inode(number) {
            Inode::File { content, .. } => Ok(content.clone()),
            Inode::Dir { .. } => Err(error(ErrorKind::IsADirectory, path)),
        }
    })
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn read_to_string<P: AsRef<Path>>(path: P) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(io::Error::other)
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn write<P: AsRef<Path>, C: AsRef<[u8]>>(path: P, content: C) -> io::Result<()> {
    File::create(path)?.write_all(content.as_ref())
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn copy<P: AsRef<Path>, Q: AsRef<Path>>(from: P, to: Q) -> io::Result<u64> {
    let content = read(from)?;
    write(to, &content)?;
    Ok(content.len() as u64)
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn hard_link<P: AsRef<Path>, Q: AsRef<Path>>(original: P, link: Q) -> io::Result<()> {
    with(|disk| {
        let number = disk.find(original.as_ref())?;
        disk.link(link.as_ref(), number)
    })
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn rename<P: AsRef<Path>, Q: AsRef<Path>>(from: P, to: Q) -> io::Result<()> {
    let (from, to) = (from.as_ref(), to.as_ref());
    with(|disk| {
        let number = disk.find(from)?;
        let (entries, name) = disk.holder(from)?;
        entries.remove(name);
        disk.link(to, number)
    })
}

fn unlink(path: &Path) -> io::Result<()> {
    with(|disk| {
        let (entries, name) = disk.holder(path)?;
        entries.remove(name).map(drop).ok_or_else(|| error(ErrorKind::NotFound, path))
    })
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn remove_file<P: AsRef<Path>>(path: P) -> io::Result<()> {
    unlink(path.as_ref())
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn remove_dir_all<P: AsRef<Path>>(path: P) -> io::Result<()> {
    unlink(path.as_ref())
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn metadata<P: AsRef<Path>>(path: P) -> io::Result<Metadata> {
    with(|disk| disk.find(path.as_ref()).map(|number| disk.metadata(number)))
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn symlink_metadata<P: AsRef<Path>>(path: P) -> io::Result<Metadata> {
    metadata(path)
}

/// See `std::fs`.
///
/// # Errors
/// As there.
pub fn read_dir<P: AsRef<Path>>(
    path: P,
) -> io::Result<impl Iterator<Item = io::Result<DirEntry>> + use<P>> {
    let dir = path.as_ref();
    with(|disk| {
        let number = disk.find(dir)?;
        let Inode::Dir { live, .. } = &disk.inodes[index(number)] else {
            return Err(error(ErrorKind::NotADirectory, dir));
        };
        let entry = |(name, number): (&OsString, &u64)| {
            Ok(DirEntry { path: dir.join(name), metadata: disk.metadata(*number) })
        };
        let entries: Vec<_> = live.iter().map(entry).collect();
        Ok(entries.into_iter())
    })
}

/// What is known of a file or directory.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    number: u64,
    /// `None` for a directory.
    len: Option<u64>,
}

/// See `std::os::unix::fs::MetadataExt`.
pub trait MetadataExt {
    /// The device.
    fn dev(&self) -> u64;
    /// The number of the inode.
    fn ino(&self) -> u64;
}

impl MetadataExt for Metadata {
    fn dev(&self) -> u64 {
        0
    }

    fn ino(&self) -> u64 {
        self.number
    }
}

#[expect(clippy::len_without_is_empty, reason = "the original has none either")]
impl Metadata {
    /// Bytes of a file.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len.unwrap_or(0)
    }

    /// Whether it is a file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.len.is_some()
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.len.is_none()
    }
}

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    path: PathBuf,
    metadata: Metadata,
}

impl DirEntry {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Its name.
    #[must_use]
    pub fn file_name(&self) -> OsString {
        self.path.file_name().unwrap_or_default().to_owned()
    }

    /// What is known of it.
    ///
    /// # Errors
    /// Never.
    pub fn metadata(&self) -> io::Result<Metadata> {
        Ok(self.metadata)
    }

    /// What it is.
    ///
    /// # Errors
    /// Never.
    pub fn file_type(&self) -> io::Result<Metadata> {
        Ok(self.metadata)
    }
}

/// An open file or directory.
#[derive(Debug)]
pub struct File {
    number: u64,
    at: usize,
}

/// The file is locked by somebody else.
#[derive(Debug)]
pub enum TryLockError {
    /// It is.
    WouldBlock,
    /// The disk failed.
    Error(io::Error),
}

impl File {
    /// See `std::fs::File`.
    ///
    /// # Errors
    /// As there.
    pub fn create<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        with(|disk| disk.create(path.as_ref())).map(|number| Self { number, at: 0 })
    }

    /// See `std::fs::File`.
    ///
    /// # Errors
    /// As there.
    pub fn open<P: AsRef<Path>>(path: P) -> io::Result<Self> {
        with(|disk| disk.find(path.as_ref())).map(|number| Self { number, at: 0 })
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// Never.
    pub fn sync_all(&self) -> io::Result<()> {
        with(|disk| disk.sync(self.number));
        Ok(())
    }

    /// Makes its content durable; there is no metadata that it could leave out.
    ///
    /// # Errors
    /// Never.
    pub fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    /// A process that crashed holds no locks, and there is one process a directory.
    ///
    /// # Errors
    /// Never.
    pub fn try_lock(&self) -> Result<(), TryLockError> {
        Ok(())
    }
}

impl Write for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        append(self, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for File {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        with(|disk| {
            let Inode::File { content, .. } = disk.inode(self.number) else {
                return Err(ErrorKind::IsADirectory.into());
            };
            let rest = &content[self.at.min(content.len())..];
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            self.at += count;
            Ok(count)
        })
    }
}
