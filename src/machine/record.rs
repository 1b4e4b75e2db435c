//! How rows are framed on disk: `[kind u8][version u8][body][crc32c u32 LE]`.
//!
//! The checksum covers everything before it. Kinds are never used again; a record of a newer
//! version than the code knows is a fault, never skipped.

use bytes::{BufMut, Bytes, BytesMut};

use super::Fault;

/// Bytes around a body.
pub const OVERHEAD: usize = 6;

/// What a record is. The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Counters of the machine.
    Meta = 1,
    /// A topic.
    Topic = 2,
    /// A batch of events.
    Batch = 3,
    /// Where the batch at a position is.
    Position = 4,
    /// The version of a key.
    KeyHead = 5,
    /// The offset of a version of a key.
    KeyEntry = 6,
    /// Where the event with an id is.
    EventId = 7,
    /// When an event id may be forgotten.
    IdExpiry = 8,
    /// A producer's epoch and answers.
    Producer = 9,
    /// The first answer to a mutation.
    Request = 10,
    /// A node's incarnation.
    Node = 11,
    /// A subscription's settings.
    Subscription = 12,
    /// A subscription's state.
    SubscriptionState = 13,
    /// How far a subscription is in a topic.
    Progress = 14,
    /// What is done and leased of some offsets.
    Marks = 15,
    /// A lease.
    Lease = 16,
    /// Events in flight of a consumer.
    ConsumerLoad = 17,
    /// The story of a failed event.
    Failure = 18,
    /// A failed event that is due.
    Ready = 19,
    /// Something that is due at an instant.
    Timer = 20,
    /// A dead letter.
    DeadLetter = 21,
    /// Priority and times of an event.
    Special = 22,
    /// An event's place in the order of its priority.
    Scheduled = 23,
    /// An event's place in the order of deadlines.
    Deadline = 24,
    /// The limits of a service.
    Quota = 25,
    /// What the consumers of a service have.
    ServiceLoad = 26,
    /// How far back the events before are, by key.
    Backs = 27,
    /// Events of one priority of a batch.
    Stripe = 28,
    /// A service.
    Service = 29,
    /// An instance of a service.
    Instance = 30,
    /// What a number of the registry was given to.
    RegistryNumber = 31,
    /// The log id that was applied last.
    Applied = 32,
    /// An entry of the Raft log.
    LogEntry = 33,
    /// A Raft vote.
    Vote = 34,
    /// A log id: committed or purged.
    LogId = 35,
    /// The membership that was applied last.
    Membership = 36,
    /// The list of a snapshot's files.
    SnapshotManifest = 37,
    /// How far the write-ahead log of a database was synced.
    SyncedMark = 38,
    /// A change of the registry.
    RegistryChange = 39,
    /// A staged transaction.
    Transaction = 40,
    /// What was staged in one.
    Stage = 41,
    /// The place of an event that belongs to others.
    Correlation = 42,
    /// An event has a dead letter.
    DeadPlace = 43,
    /// What the events of a key amount to.
    KeySnapshot = 44,
    /// A subject of schemas.
    Subject = 45,
    /// A version of a subject.
    Schema = 46,
    /// How an event ended.
    Ending = 47,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Meta,
        Self::Topic,
        Self::Batch,
        Self::Position,
        Self::KeyHead,
        Self::KeyEntry,
        Self::EventId,
        Self::IdExpiry,
        Self::Producer,
        Self::Request,
        Self::Node,
        Self::Subscription,
        Self::SubscriptionState,
        Self::Progress,
        Self::Marks,
        Self::Lease,
        Self::ConsumerLoad,
        Self::Failure,
        Self::Ready,
        Self::Timer,
        Self::DeadLetter,
        Self::Special,
        Self::Scheduled,
        Self::Deadline,
        Self::Quota,
        Self::ServiceLoad,
        Self::Backs,
        Self::Stripe,
        Self::Service,
        Self::Instance,
        Self::RegistryNumber,
        Self::Applied,
        Self::LogEntry,
        Self::Vote,
        Self::LogId,
        Self::Membership,
        Self::SnapshotManifest,
        Self::SyncedMark,
        Self::RegistryChange,
        Self::Transaction,
        Self::Stage,
        Self::Correlation,
        Self::DeadPlace,
        Self::KeySnapshot,
        Self::Subject,
        Self::Schema,
        Self::Ending,
    ];
}

/// The newest version of every kind.
pub const VERSION: u8 = 1;

/// Frames a body.
#[must_use]
pub fn encode(kind: Kind, body: &[u8]) -> Bytes {
    let mut buf = start(kind, body.len());
    buf.put_slice(body);
    finish(buf)
}

/// A buffer with the header; append the body, then [`finish`].
#[must_use]
pub fn start(kind: Kind, body_len: usize) -> BytesMut {
    let mut buf = BytesMut::with_capacity(OVERHEAD + body_len);
    buf.put_u8(kind as u8);
    buf.put_u8(VERSION);
    buf
}

/// Appends the checksum.
#[must_use]
pub fn finish(mut buf: BytesMut) -> Bytes {
    let crc = crc32c::crc32c(&buf);
    buf.put_u32_le(crc);
    buf.freeze()
}

/// The body of a framed record.
///
/// # Errors
/// [`Fault::Corrupt`] for a wrong length, checksum, kind or version.
pub fn body(kind: Kind, record: &[u8]) -> Result<&[u8], Fault> {
    let corrupt = |what: String| Fault::Corrupt { record: kind, what };
    let Some((framed, crc)) = record.split_last_chunk::<4>() else {
        return Err(corrupt(format!("{} bytes are no record", record.len())));
    };
    let (stored, actual) = (u32::from_le_bytes(*crc), crc32c::crc32c(framed));
    if stored != actual {
        return Err(corrupt(format!("checksum is {actual:08x}, {stored:08x} was stored")));
    }
    match framed {
        [k, VERSION, body @ ..] if *k == kind as u8 => Ok(body),
        [k, version, ..] if *k == kind as u8 => {
            Err(corrupt(format!("version {version} is newer than {VERSION}; run a newer mhub")))
        }
        [k, ..] => Err(corrupt(format!("kind {k} is stored where {} belongs", kind as u8))),
        [] => Err(corrupt("it is empty".to_owned())),
    }
}

/// Encodes a protobuf body and frames it.
#[must_use]
pub fn encode_message(kind: Kind, message: &impl prost::Message) -> Bytes {
    let mut buf = start(kind, message.encoded_len());
    message.encode_raw(&mut buf);
    finish(buf)
}

/// Decodes a framed protobuf body.
///
/// # Errors
/// [`Fault::Corrupt`], also when the body is not the message.
pub fn decode_message<M: prost::Message + Default>(kind: Kind, record: &[u8]) -> Result<M, Fault> {
    M::decode(body(kind, record)?)
        .map_err(|e| Fault::Corrupt { record: kind, what: format!("protobuf: {e}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let record = encode(Kind::KeyHead, b"\x07");
        assert_eq!(record[..3], [5, 1, 7]);
        assert_eq!(record.len(), 7);
        assert_eq!(record[3..], crc32c::crc32c(&[5, 1, 7]).to_le_bytes());
        assert_eq!(body(Kind::KeyHead, &record).unwrap(), b"\x07");
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let record = encode(Kind::Topic, b"some body");
        for bit in 0..record.len() * 8 {
            let mut bad = record.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(body(Kind::Topic, &bad).is_err(), "bit {bit}");
        }
        for len in 0..record.len() {
            assert!(body(Kind::Topic, &record[..len]).is_err(), "length {len}");
        }
    }

    #[test]
    fn another_kind_or_a_newer_version_is_a_fault() {
        let record = encode(Kind::Topic, b"x");
        assert!(body(Kind::Node, &record).unwrap_err().to_string().contains("kind"));
        let newer = finish(BytesMut::from(&[Kind::Topic as u8, VERSION + 1, 0][..]));
        assert!(body(Kind::Topic, &newer).unwrap_err().to_string().contains("newer"));
    }
}
