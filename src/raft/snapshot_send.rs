//! Sending a snapshot: offer it, send the files that the receiver lacks, wait until it is installed.

use std::io::{self, Read as _};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::codec;
use super::snapshot::SnapshotHandle;
use super::types::Vote;
use crate::model::limits::{SNAPSHOT_CHUNK_BYTES_MAX, SNAPSHOT_CHUNKS_QUEUED};
use crate::proto::peer;
use crate::proto::peer::peer_client::PeerClient;
use crate::proto::peer::snapshot_chunk::Part;
use crate::runtime::fs::File;
use crate::runtime::{clock, tasks};

/// One snapshot on its way to one peer.
pub(super) struct Transfer {
    pub(super) client: PeerClient<Channel>,
    pub(super) envelope: Option<peer::Envelope>,
    pub(super) vote: Vote,
    pub(super) handle: SnapshotHandle,
    /// Bytes a second at most; `None`: as fast as the receiver takes them.
    pub(super) rate: Option<NonZeroU64>,
    /// Without progress for so long it is given up.
    pub(super) idle: Duration,
    /// For what the receiver does before the first and after the last chunk.
    pub(super) install: Duration,
}

/// Why a transfer ended early. What arrived is kept for the next try.
#[derive(Debug)]
pub(super) enum Error {
    Stalled(Duration),
    Refused(Status),
    Local(String),
}

/// Returns the receiver's vote, which is a higher one when it refuses this leader.
pub(super) async fn send(mut transfer: Transfer) -> Result<Vote, Error> {
    let offer = peer::OfferSnapshotRequest {
        envelope: transfer.envelope.clone(),
        vote: Some(codec::vote_to_proto(&transfer.vote)),
        manifest: Some(transfer.handle.manifest().clone()),
    };
    let mut request = Request::new(offer);
    request.set_timeout(transfer.install);
    let offered = timeout(transfer.install, transfer.client.offer_snapshot(request)).await;
    let offered = offered.map_err(|_| Error::Stalled(transfer.install))?;
    let offered = offered.map_err(Error::Refused)?.into_inner();
    if let Some(higher) = offered.higher_vote {
        return Ok(codec::vote_from_proto(&higher));
    }
    let index = transfer.handle.last_index();
    let files = offered.missing.len();
    tracing::info!(%index, files, to = transfer.envelope.as_ref().map(|e| e.to_node), "send a snapshot");
    let vote = send_files(transfer, offered).await?;
    fail::fail_point!("snapshot::sent");
    Ok(vote)
}

async fn send_files(
    mut transfer: Transfer,
    offered: peer::OfferSnapshotResponse,
) -> Result<Vote, Error> {
    let begin = peer::SnapshotBegin {
        envelope: transfer.envelope.take(),
        vote: Some(codec::vote_to_proto(&transfer.vote)),
        transfer_id: offered.transfer_id,
    };
    let (chunks, inbox) = mpsc::channel(SNAPSHOT_CHUNKS_QUEUED);
    let handle = transfer.handle.clone();
    // It ends when the stream is dropped, so it needs no other end.
    let reader = tasks::feed("snapshot-read", Reader::new(handle, offered.missing), chunks);
    let pulled = Arc::new(AtomicU64::new(0));
    let outbound = outbound(begin, inbox, Arc::clone(&pulled), Pace::of(transfer.rate));
    let call = transfer.client.send_snapshot(outbound);
    let sent = tokio::select! {
        sent = call => sent,
        after = stalled(&pulled, transfer.idle, transfer.install) => {
            return Err(Error::Stalled(after));
        }
    };
    // A file that cannot be read ends the stream early, and the receiver then refuses.
    match reader.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(Error::Local(format!("read the snapshot: {error}"))),
        Err(error) => return Err(Error::Local(error.to_string())),
    }
    let vote = sent.map_err(Error::Refused)?.into_inner().vote;
    let vote = vote.ok_or_else(|| Error::Local("no vote in the answer".to_owned()))?;
    Ok(codec::vote_from_proto(&vote))
}

/// Marks the end of the chunks in the counter of those pulled.
const ALL_PULLED: u64 = u64::MAX;

fn outbound(
    begin: peer::SnapshotBegin,
    inbox: mpsc::Receiver<peer::SnapshotData>,
    pulled: Arc<AtomicU64>,
    pace: Pace,
) -> impl Stream<Item = peer::SnapshotChunk> + Send + 'static {
    let first = peer::SnapshotChunk { part: Some(Part::Begin(begin)) };
    let rest = stream::unfold((inbox, pulled, pace), |(mut inbox, pulled, mut pace)| async move {
        let Some(data) = inbox.recv().await else {
            pulled.store(ALL_PULLED, Ordering::Relaxed);
            return None;
        };
        pace.wait_for(data.data.len()).await;
        pulled.fetch_add(1, Ordering::Relaxed);
        Some((peer::SnapshotChunk { part: Some(Part::Data(data)) }, (inbox, pulled, pace)))
    });
    use futures_util::StreamExt;
    stream::once(std::future::ready(first)).chain(rest)
}

/// Spreads bytes evenly over time, so that a transfer leaves disks and network to who is served.
struct Pace {
    rate: Option<NonZeroU64>,
    /// When the next bytes may go.
    next: Instant,
}

impl Pace {
    fn of(rate: Option<NonZeroU64>) -> Self {
        Self { rate, next: clock::now() }
    }

    /// Waits until some bytes may go.
    async fn wait_for(&mut self, bytes: usize) {
        let Some(rate) = self.rate else { return };
        tokio::time::sleep_until(self.next.into()).await;
        // What a slow receiver left unused is not made up for.
        let nanos = (bytes as u64).saturating_mul(1_000_000_000) / rate;
        self.next = self.next.max(clock::now()) + Duration::from_nanos(nanos);
    }
}

/// Returns once nothing has moved for `idle`, or `install` after the last chunk.
async fn stalled(pulled: &AtomicU64, idle: Duration, install: Duration) -> Duration {
    let mut seen = None;
    loop {
        let now = pulled.load(Ordering::Relaxed);
        if now == ALL_PULLED {
            tokio::time::sleep(install).await;
            return install;
        }
        if seen == Some(now) {
            return idle;
        }
        seen = Some(now);
        tokio::time::sleep(idle).await;
    }
}

/// Reads the files that are missing at the receiver, chunk by chunk.
struct Reader {
    handle: SnapshotHandle,
    missing: std::vec::IntoIter<u32>,
    current: Option<Outgoing>,
}

/// A file while it is read.
struct Outgoing {
    number: u32,
    meta: peer::SnapshotFile,
    source: File,
    offset: u64,
    crc: u32,
}

impl Reader {
    fn new(handle: SnapshotHandle, missing: Vec<u32>) -> Self {
        Self { handle, missing: missing.into_iter(), current: None }
    }

    /// The file that the next chunk comes from; `None`: all have been read.
    fn open_next(&mut self) -> io::Result<Option<Outgoing>> {
        for number in self.missing.by_ref() {
            let index = usize::try_from(number).map_err(io::Error::other)?;
            let meta = self.handle.manifest().files.get(index).cloned();
            let meta =
                meta.ok_or_else(|| io::Error::other("the receiver asks for an unknown file"))?;
            let source = File::open(self.handle.dir().join(&meta.name))?;
            if meta.size > 0 {
                return Ok(Some(Outgoing { number, meta, source, offset: 0, crc: 0 }));
            }
        }
        Ok(None)
    }

    fn next_chunk(&mut self) -> io::Result<Option<peer::SnapshotData>> {
        let next = match self.current.take() {
            Some(current) => Some(current),
            None => self.open_next()?,
        };
        let Some(mut file) = next else { return Ok(None) };
        let chunk = file.read()?;
        if file.offset < file.meta.size {
            self.current = Some(file);
        } else if file.crc != file.meta.crc32c {
            let text = format!("snapshot file {} fails its checksum", file.meta.name);
            self.handle.corrupt(&text);
            return Err(io::Error::other(text));
        }
        Ok(Some(chunk))
    }
}

impl Iterator for Reader {
    type Item = io::Result<peer::SnapshotData>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_chunk().transpose()
    }
}

impl Outgoing {
    fn read(&mut self) -> io::Result<peer::SnapshotData> {
        let left = usize::try_from(self.meta.size - self.offset).unwrap_or(usize::MAX);
        let mut data = vec![0; left.min(SNAPSHOT_CHUNK_BYTES_MAX)];
        self.source.read_exact(&mut data)?;
        self.crc = crc32c::crc32c_append(self.crc, &data);
        let offset = self.offset;
        self.offset += data.len() as u64;
        let crc32c = crc32c::crc32c(&data);
        Ok(peer::SnapshotData { file: self.number, offset, crc32c, data: Bytes::from(data) })
    }
}
