//! Keys: what their events amount to.

use bytes::Bytes;

use super::query::Consistency;
use super::{Node, unexpected, validate};
use crate::machine::kv::Order;
use crate::machine::query::{self, Bounds, StoredEvent};
use crate::machine::topic::key_snapshots;
use crate::model::command::{DeleteKeySnapshot, Kind, PutKeySnapshot};
use crate::model::ids::KeyVersion;
use crate::model::key_snapshot::KeySnapshot;
use crate::model::limits::{ATTRIBUTE_BYTES_MAX, KEY_SNAPSHOT_BYTES_MAX, PAGE_BYTES_TARGET};
use crate::model::name::TopicName;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

/// A key as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyState {
    /// Its snapshot.
    pub snapshot: Option<KeySnapshot>,
    /// The first events after the snapshot, by version.
    pub events: Vec<StoredEvent>,
    /// Its version; 0 when no event has it.
    pub version: KeyVersion,
}

impl Node {
    /// Keeps what the events of a key amount to, up to a version.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `VERSION_NOT_FOUND`, `SNAPSHOT_SUPERSEDED`, `INVALID_REQUEST`, `CALL_TOO_LARGE`, and
    /// those of any proposal.
    pub async fn put_key_snapshot(&self, command: PutKeySnapshot) -> Result<(), Rejection> {
        validate::request_id(&command.request_id)?;
        check(&command.topic, &command.key)?;
        if command.content_type.len() > ATTRIBUTE_BYTES_MAX {
            let text = format!(
                "the content type is longer than {ATTRIBUTE_BYTES_MAX} bytes; name a media type"
            );
            return Err(Rejection::new(Reason::InvalidRequest, text));
        }
        let bytes = command.data.len();
        if bytes > KEY_SNAPSHOT_BYTES_MAX {
            let text = format!(
                "the snapshot has {bytes} bytes, {KEY_SNAPSHOT_BYTES_MAX} is the most; keep less in it"
            );
            return Err(Rejection::new(Reason::CallTooLarge, text));
        }
        // What came along with others is not to keep them alive.
        let data = Bytes::copy_from_slice(&command.data);
        let command = PutKeySnapshot { data, ..command };
        done(&self.execute(Kind::PutKeySnapshot(command)).await?)
    }

    /// Forgets a key's snapshot.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `INVALID_REQUEST`, and those of any proposal.
    pub async fn delete_key_snapshot(&self, command: DeleteKeySnapshot) -> Result<(), Rejection> {
        validate::request_id(&command.request_id)?;
        check(&command.topic, &command.key)?;
        done(&self.execute(Kind::DeleteKeySnapshot(command)).await?)
    }

    /// A key's snapshot and the events after it.
    ///
    /// # Errors
    /// See [`Node::topic`]; `INVALID_REQUEST`.
    pub async fn key_state(
        &self,
        topic: &str,
        key: String,
        limit: usize,
        wanted: Consistency,
    ) -> Result<KeyState, Rejection> {
        check(topic, &key)?;
        let info = self.topic(topic, wanted).await?;
        self.read(move |db| {
            // The snapshot first: events after an older one are there in any case.
            let snapshot = key_snapshots::get(db, info.id, &key)?;
            let from = snapshot.as_ref().map_or(KeyVersion(1), |known| known.version.next());
            let taken = snapshot.as_ref().map_or(0, |known| known.data.len());
            let bounds =
                Bounds { events: limit as u64, bytes: PAGE_BYTES_TARGET.saturating_sub(taken) };
            let (events, version) =
                query::read_key(db, &info, &key, from, Order::Ascending, bounds)?;
            Ok(KeyState { snapshot, events, version })
        })
        .await
    }
}

fn check(topic: &str, key: &str) -> Result<(), Rejection> {
    TopicName::parse(topic)?;
    if (1..=ATTRIBUTE_BYTES_MAX).contains(&key.len()) {
        return Ok(());
    }
    let text = format!("a key has 1 to {ATTRIBUTE_BYTES_MAX} bytes; give that of the events");
    Err(Rejection::new(Reason::InvalidRequest, text))
}

fn done(outcome: &Outcome) -> Result<(), Rejection> {
    match outcome {
        Outcome::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}
