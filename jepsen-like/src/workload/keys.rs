//! W1: appends with an expected version, and reads of the newest event of a key. Only a few keys are
//! in use at a time, so that clients meet; each is left for good after some operations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use message_hub::client::{Client, Publisher};
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::proto::v1::key_expectation::Expect;
use message_hub::proto::v1::{KeyExpectation, ReadKeyRequest};
use prost::Message as _;
use tokio::task::JoinSet;

use super::{Shared, TOPIC, WORKERS, event, pace, value_of};
use crate::history::{Answer, Line, Op};

/// Keys in use at a time.
const KEYS_IN_USE: u64 = 6;
/// Operations on a key before the next one takes its place.
const OPERATIONS_A_KEY: u64 = 200;
/// Of so many operations one is a read.
const READS_ONE_OF: u8 = 3;
/// Events of a key that are read back at a time.
const PAGE: u32 = 1000;

/// Which keys are in use, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<BTreeMap<u64, Known>>);

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    operations: u64,
    version: u64,
}

impl Board {
    /// A key to work on: its number and the version that it is believed to have.
    fn draw(&self, rng: &mut fastrand::Rng) -> (u64, u64) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = rng.u64(..KEYS_IN_USE);
        // Keys of a place follow each other: place, place + KEYS_IN_USE, …
        let mut key = place;
        while keys.get(&key).is_some_and(|known| known.operations >= OPERATIONS_A_KEY) {
            key += KEYS_IN_USE;
        }
        let known = keys.entry(key).or_default();
        known.operations += 1;
        (key, known.version)
    }

    fn saw(&self, key: u64, version: u64) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = keys.entry(key).or_default();
        known.version = known.version.max(version);
    }

    fn all(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

pub(super) fn start(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    for label in 1..=WORKERS {
        let readers: anyhow::Result<Vec<Client>> =
            (1..=shared.nodes).map(|slot| shared.pinned(slot)).collect();
        tasks.spawn(worker(Arc::clone(shared), shared.client()?, readers?, label));
    }
    Ok(())
}

async fn worker(shared: Arc<Shared>, client: Client, readers: Vec<Client>, label: u64) {
    let mut rng = shared.rng(label);
    let mut process = shared.next_process();
    let mut publisher = client.publisher();
    while shared.goes_on() {
        pace(&shared, WORKERS, &mut rng).await;
        let (key, version) = shared.keys.draw(&mut rng);
        let (known, answer) = if rng.u8(..READS_ONE_OF) == 0 {
            let slot = rng.u8(1..=shared.nodes);
            let op = Op::ReadKey { key, node: slot };
            shared.record(process, op, head(&readers[usize::from(slot) - 1], key)).await
        } else {
            let value = shared.next_value();
            let op = Op::Append { key, expect: version, value };
            shared.record(process, op, append(&publisher, key, version, value)).await
        };
        if let Some(
            Answer::Placed { version, .. }
            | Answer::Conflict { actual: version }
            | Answer::Head { version, .. },
        ) = answer
        {
            shared.keys.saw(key, version);
        }
        if !known {
            process = shared.next_process();
            publisher = client.publisher();
        }
    }
}

fn name(key: u64) -> String {
    format!("key-{key}")
}

async fn append(
    publisher: &Publisher,
    key: u64,
    version: u64,
    value: u64,
) -> Result<Answer, Rejection> {
    let bytes = event(value).key(name(key)).build().encode_to_vec().into();
    let expectation = KeyExpectation { key: name(key), expect: Some(Expect::Exact(version)) };
    match publisher.publish_all(TOPIC, vec![bytes], vec![expectation]).await {
        Ok(result) => Ok(Answer::Placed {
            offset: result.first_offset,
            position: result.first_position,
            version: result.key_versions.first().copied().unwrap_or(0),
        }),
        Err(refused) if refused.reason == Reason::VersionConflict => {
            let actual = refused.fact("actual").and_then(|text| text.parse().ok());
            actual.map(|actual| Answer::Conflict { actual }).ok_or(refused)
        }
        Err(refused) => Err(refused),
    }
}

async fn head(client: &Client, key: u64) -> Result<Answer, Rejection> {
    let request = ReadKeyRequest {
        topic: TOPIC.to_owned(),
        key: name(key),
        from_version: u64::MAX,
        backward: true,
        limit: 1,
        ..ReadKeyRequest::default()
    };
    let answer = client.read_key(request).await?;
    let newest = answer.events.first();
    Ok(Answer::Head {
        version: newest.map_or(0, |recorded| recorded.key_version),
        value: newest.map_or(0, |recorded| value_of(&recorded.event)),
    })
}

/// Writes down all events of each key.
pub(super) async fn read_back(shared: &Shared) -> anyhow::Result<()> {
    let client = shared.client()?;
    for key in shared.keys.all() {
        let values = all_values(&client, TOPIC, &name(key)).await;
        let values = values.with_context(|| format!("read key {key}"))?;
        shared.recorder.tell(|_| Line::Key { key, values, versions: Vec::new() });
    }
    Ok(())
}

/// All values of a key, linearizably; its version is their number.
pub(super) async fn all_values(
    client: &Client,
    topic: &str,
    key: &str,
) -> Result<Vec<u64>, Rejection> {
    let (mut values, mut from_version) = (Vec::new(), 1);
    while from_version > 0 {
        let request = ReadKeyRequest {
            topic: topic.to_owned(),
            key: key.to_owned(),
            from_version,
            limit: PAGE,
            ..ReadKeyRequest::default()
        };
        let page = client.read_key(request).await?;
        for recorded in &page.events {
            if recorded.key_version != values.len() as u64 + 1 {
                let (version, count) = (recorded.key_version, values.len());
                let what = format!("key {key} has version {version} after {count} events");
                return Err(Rejection::new(Reason::Internal, what));
            }
            values.push(value_of(&recorded.event));
        }
        from_version = page.next_version;
    }
    Ok(values)
}
