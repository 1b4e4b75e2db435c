//! Receiving a snapshot: files go to a staging directory under names that were checked, every chunk
//! and every file against its checksum. What has arrived whole is kept for the next try.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::snapshot::{SnapshotHandle, Snapshots};
use super::snapshot_files::crc_of_file;
use super::types::Snapshot;
use crate::model::limits::{
    SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNKS_QUEUED, SNAPSHOT_FILES_MAX, SNAPSHOT_UNSYNCED_BYTES,
};
use crate::proto::peer;
use crate::proto::peer::snapshot_chunk::Part;
use crate::runtime::fs::{self, File};
use crate::runtime::tasks;

/// What the sender has to send.
pub(super) struct Offer {
    pub(super) transfer_id: String,
    pub(super) missing: Vec<u32>,
}

/// The one transfer that is under way.
struct Active {
    transfer_id: String,
    manifest: peer::SnapshotManifest,
    missing: Vec<u32>,
}

/// Receives one snapshot at a time; a later offer takes the place of an earlier one.
pub(super) struct Receiver {
    snapshots: Snapshots,
    idle: Duration,
    active: Arc<Mutex<Option<Active>>>,
    /// Ends the transfer that is being received.
    superseded: StdMutex<CancellationToken>,
}

impl Receiver {
    pub(super) fn new(snapshots: Snapshots, idle: Duration) -> Self {
        Self { snapshots, idle, active: Arc::default(), superseded: StdMutex::default() }
    }

    /// Looks at what is there already.
    pub(super) async fn offer(&self, manifest: peer::SnapshotManifest) -> Result<Offer, Status> {
        check(&manifest).map_err(Status::invalid_argument)?;
        self.supersede().cancel();
        let mut active = self.active.lock().await;
        *active = None;
        let staging = self.snapshots.staging();
        let offered = manifest.clone();
        let missing =
            tasks::spawn_blocking("snapshot-staging", move || prepare(&staging, &offered));
        let missing = missing.await.map_err(|error| Status::internal(error.to_string()))?;
        let missing = missing.map_err(|error| Status::internal(format!("staging: {error}")))?;
        let transfer_id = uuid::Uuid::new_v4().to_string();
        *active =
            Some(Active { transfer_id: transfer_id.clone(), manifest, missing: missing.clone() });
        Ok(Offer { transfer_id, missing })
    }

    /// Puts a new token in place of the current one, which is returned.
    fn supersede(&self) -> CancellationToken {
        let mut token = self.superseded.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut token)
    }

    fn token(&self) -> CancellationToken {
        self.superseded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first message of a transfer.
    pub(super) async fn begin(
        &self,
        inbound: &mut Streaming<peer::SnapshotChunk>,
    ) -> Result<peer::SnapshotBegin, Status> {
        let first = timeout(self.idle, inbound.message()).await;
        match first.map_err(|_| Status::deadline_exceeded("no first message"))?? {
            Some(peer::SnapshotChunk { part: Some(Part::Begin(begin)) }) => Ok(begin),
            _ => Err(Status::invalid_argument("a transfer begins with its beginning")),
        }
    }

    /// Takes the missing files in.
    pub(super) async fn receive(
        &self,
        transfer_id: &str,
        mut inbound: Streaming<peer::SnapshotChunk>,
    ) -> Result<Snapshot<SnapshotHandle>, Status> {
        let superseded = self.token();
        let mut active = self.active.lock().await;
        let Some(transfer) = active.take_if(|active| active.transfer_id == transfer_id) else {
            return Err(Status::aborted("another transfer has taken this one's place"));
        };
        let (chunks, inbox) = mpsc::channel(SNAPSHOT_CHUNKS_QUEUED);
        let files = transfer.manifest.files.clone();
        let mut writer = Writer::new(self.snapshots.staging(), files, transfer.missing);
        let writer = tasks::drain("snapshot-write", inbox, move |chunk| match chunk {
            Some(chunk) => writer.take(&chunk),
            None => writer.finish(),
        });
        let pumped = tokio::select! {
            pumped = pump(&mut inbound, chunks, self.idle) => pumped,
            () = superseded.cancelled() => Err(Status::aborted("superseded by a later offer")),
        };
        // The writer first: it knows best what was wrong, and must not outlive the lock.
        let written = writer.await.map_err(|error| Status::internal(error.to_string()))?;
        pumped?;
        written.map_err(|error| Status::data_loss(format!("receive a snapshot: {error}")))?;
        fail::fail_point!("snapshot::received");
        // Still under the lock: a later offer must find an empty staging directory.
        let snapshots = self.snapshots.clone();
        let received = tasks::spawn_blocking("snapshot-received", move || {
            snapshots.received(transfer.manifest)
        });
        let received = received.await.map_err(|error| Status::internal(error.to_string()))?;
        received.map_err(|error| Status::internal(format!("keep a snapshot: {error}")))
    }
}

async fn pump(
    inbound: &mut Streaming<peer::SnapshotChunk>,
    chunks: mpsc::Sender<peer::SnapshotData>,
    idle: Duration,
) -> Result<(), Status> {
    loop {
        let message = timeout(idle, inbound.message()).await;
        match message.map_err(|_| Status::deadline_exceeded("the transfer stalled"))?? {
            None => return Ok(()),
            Some(peer::SnapshotChunk { part: Some(Part::Data(data)) }) => {
                if chunks.send(data).await.is_err() {
                    // The writer has failed and says why.
                    return Ok(());
                }
            }
            Some(_) => return Err(Status::invalid_argument("a second beginning")),
        }
    }
}

/// Whether a manifest is one that this node would write files for.
pub(super) fn check(manifest: &peer::SnapshotManifest) -> Result<(), String> {
    if manifest.last_log_id.is_none() {
        return Err("the snapshot is empty".to_owned());
    }
    if manifest.files.len() > SNAPSHOT_FILES_MAX {
        return Err(format!("{} files; the most are {SNAPSHOT_FILES_MAX}", manifest.files.len()));
    }
    let mut names = std::collections::BTreeSet::new();
    for file in &manifest.files {
        if !is_safe_name(&file.name) {
            return Err(format!("file name {:?} is not allowed", file.name));
        }
        if !names.insert(&file.name) {
            return Err(format!("file name {:?} comes twice", file.name));
        }
    }
    Ok(())
}

/// A plain name: nothing that leaves the directory, nothing hidden.
fn is_safe_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(allowed)
}

/// Removes from the staging directory what is not part of the snapshot or has not arrived whole;
/// returns the numbers of the files that are not there.
pub(super) fn prepare(staging: &Path, manifest: &peer::SnapshotManifest) -> io::Result<Vec<u32>> {
    fs::create_dir_all(staging)?;
    let wanted: BTreeMap<&str, &peer::SnapshotFile> =
        manifest.files.iter().map(|file| (file.name.as_str(), file)).collect();
    for entry in fs::read_dir(staging)? {
        let entry = entry?;
        let name = entry.file_name();
        let wanted = name.to_str().and_then(|name| wanted.get(name));
        let whole = match wanted {
            Some(file) => is_whole(&entry.path(), file)?,
            None => false,
        };
        if whole {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    let mut missing = Vec::new();
    for (number, file) in (0..).zip(&manifest.files) {
        if !fs::exists(staging.join(&file.name))? {
            missing.push(number);
        }
    }
    Ok(missing)
}

fn is_whole(path: &Path, file: &peer::SnapshotFile) -> io::Result<bool> {
    let meta = fs::symlink_metadata(path)?;
    Ok(meta.is_file() && meta.len() == file.size && crc_of_file(path)? == file.crc32c)
}

/// A file while it arrives.
struct Incoming {
    number: u32,
    file: File,
    written: u64,
    /// Of these, not known to be on the disk.
    unsynced: usize,
    crc: u32,
}

/// Writes the files that were missing, one after the other.
pub(super) struct Writer {
    staging: PathBuf,
    files: Vec<peer::SnapshotFile>,
    left: std::vec::IntoIter<u32>,
    incoming: Option<Incoming>,
}

impl Writer {
    /// `missing` are numbers of `files`.
    pub(super) fn new(staging: PathBuf, files: Vec<peer::SnapshotFile>, missing: Vec<u32>) -> Self {
        Self { staging, files, left: missing.into_iter(), incoming: None }
    }

    /// The file that the next chunk is for; `None`: all are there.
    fn next_file(&mut self) -> io::Result<Option<Incoming>> {
        for number in self.left.by_ref() {
            let meta = &self.files[number as usize];
            let file = File::create(self.staging.join(&meta.name))?;
            let incoming = Incoming { number, file, written: 0, unsynced: 0, crc: 0 };
            if meta.size > 0 {
                return Ok(Some(incoming));
            }
            incoming.finish(meta)?;
        }
        Ok(None)
    }

    pub(super) fn take(&mut self, chunk: &peer::SnapshotData) -> io::Result<()> {
        let next = match self.incoming.take() {
            Some(incoming) => Some(incoming),
            None => self.next_file()?,
        };
        let mut target = next.ok_or_else(|| io::Error::other("more than was missing"))?;
        let meta = &self.files[target.number as usize];
        target.take(chunk, meta)?;
        if target.written == meta.size {
            return target.finish(meta);
        }
        self.incoming = Some(target);
        Ok(())
    }

    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.incoming.is_some() || self.next_file()?.is_some() {
            return Err(io::Error::other("the transfer ended early"));
        }
        File::open(&self.staging)?.sync_all()
    }
}

impl Incoming {
    fn take(&mut self, data: &peer::SnapshotData, meta: &peer::SnapshotFile) -> io::Result<()> {
        let length = data.data.len() as u64;
        if data.file != self.number || data.offset != self.written {
            return Err(io::Error::other("chunks out of order"));
        }
        if length == 0
            || data.data.len() > SNAPSHOT_CHUNK_BYTES_MAX
            || length > meta.size - self.written
        {
            return Err(io::Error::other(format!("a chunk of {length} bytes does not fit")));
        }
        if crc32c::crc32c(&data.data) != data.crc32c {
            return Err(io::Error::other("a chunk fails its checksum"));
        }
        self.file.write_all(&data.data)?;
        self.crc = crc32c::crc32c_append(self.crc, &data.data);
        self.written += length;
        self.unsynced += data.data.len();
        if self.unsynced >= SNAPSHOT_UNSYNCED_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn finish(self, meta: &peer::SnapshotFile) -> io::Result<()> {
        if self.crc != meta.crc32c {
            return Err(io::Error::other(format!("file {} fails its checksum", meta.name)));
        }
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn file(name: &str, content: &[u8]) -> peer::SnapshotFile {
        let crc32c = crc32c::crc32c(content);
        peer::SnapshotFile { name: name.to_owned(), size: content.len() as u64, crc32c }
    }

    fn manifest(files: Vec<peer::SnapshotFile>) -> peer::SnapshotManifest {
        let last_log_id = Some(peer::LogId { term: 1, node_id: 1, index: 9 });
        peer::SnapshotManifest { last_log_id, membership: None, files }
    }

    fn chunk(file: u32, offset: u64, data: &'static [u8]) -> peer::SnapshotData {
        let crc32c = crc32c::crc32c(data);
        peer::SnapshotData { file, offset, data: Bytes::from_static(data), crc32c }
    }

    fn write(
        staging: &Path,
        manifest: &peer::SnapshotManifest,
        missing: &[u32],
        chunks: Vec<peer::SnapshotData>,
    ) -> io::Result<()> {
        let mut writer = Writer::new(staging.to_owned(), manifest.files.clone(), missing.to_vec());
        chunks.iter().try_for_each(|chunk| writer.take(chunk))?;
        writer.finish()
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", ".hidden", "a\0b", "a\\b"] {
            assert!(!is_safe_name(name), "{name:?}");
            assert!(check(&manifest(vec![file(name, b"x")])).is_err(), "{name:?}");
        }
        assert!(!is_safe_name(&"a".repeat(129)));
        for name in ["000012.sst", "MANIFEST-000004", "CURRENT", "OPTIONS-000007", "000013.blob"] {
            assert!(is_safe_name(name), "{name:?}");
        }
        assert!(check(&manifest(vec![file("a", b"x"), file("a", b"y")])).is_err());
    }

    #[test]
    fn files_arrive_in_chunks_and_what_is_whole_is_not_asked_for_again() {
        let staging = tempfile::tempdir().unwrap();
        let offer = manifest(vec![file("a", b"onetwo"), file("b", b""), file("c", b"three")]);
        std::fs::write(staging.path().join("stranger"), b"x").unwrap();
        std::fs::write(staging.path().join("c"), b"wrong").unwrap();
        assert_eq!(prepare(staging.path(), &offer).unwrap(), [0, 1, 2]);
        assert!(!staging.path().join("stranger").exists());

        // The first try breaks off inside of the last file.
        let some = vec![chunk(0, 0, b"one"), chunk(0, 3, b"two"), chunk(2, 0, b"th")];
        let error = write(staging.path(), &offer, &[0, 1, 2], some).unwrap_err();
        assert!(error.to_string().contains("early"), "{error}");
        assert_eq!(prepare(staging.path(), &offer).unwrap(), [2]);
        write(staging.path(), &offer, &[2], vec![chunk(2, 0, b"three")]).unwrap();
        assert_eq!(prepare(staging.path(), &offer).unwrap(), [0_u32; 0]);
        assert_eq!(std::fs::read(staging.path().join("a")).unwrap(), b"onetwo");
    }

    #[test]
    fn an_empty_file_has_the_checksum_of_nothing() {
        let staging = tempfile::tempdir().unwrap();
        let mut offer = manifest(vec![file("a", b"one"), file("b", b"")]);
        offer.files[1].crc32c = 1;
        let error = write(staging.path(), &offer, &[0, 1], vec![chunk(0, 0, b"one")]).unwrap_err();
        assert!(error.to_string().contains("file b fails its checksum"), "{error}");
        assert_eq!(prepare(staging.path(), &offer).unwrap(), [1]);
    }

    #[test]
    fn chunks_that_do_not_fit_are_refused() {
        let staging = tempfile::tempdir().unwrap();
        let offer = manifest(vec![file("a", b"onetwo")]);
        let refused = |chunks: Vec<peer::SnapshotData>| {
            write(staging.path(), &offer, &[0], chunks).unwrap_err().to_string()
        };
        assert!(refused(vec![chunk(0, 3, b"two")]).contains("order"));
        assert!(refused(vec![chunk(1, 0, b"one")]).contains("order"));
        assert!(refused(vec![chunk(0, 0, b"onetwothree")]).contains("fit"));
        assert!(refused(vec![chunk(0, 0, b"")]).contains("fit"));
        let mut flipped = chunk(0, 0, b"one");
        flipped.crc32c ^= 1;
        assert!(refused(vec![flipped]).contains("checksum"));
        assert!(refused(vec![chunk(0, 0, b"onetwx")]).contains("checksum"));
        assert!(refused(vec![chunk(0, 0, b"onetwo"), chunk(0, 6, b"x")]).contains("more"));
    }
}
