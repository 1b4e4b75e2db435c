//! W7: transactions that read and append to several keys of two topics. What was read is expected to be
//! so still when it is committed; each fourth one is staged part by part.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use fastrand::Rng;
use message_hub::client::Client;
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::proto::v1::key_expectation::Expect;
use message_hub::proto::v1::{
    AbortTransactionRequest, BeginTransactionRequest, CommitTransactionRequest, KeyExpectation,
    StageTransactionRequest, TransactRequest, TransactionPart,
};
use prost::Message as _;
use tokio::task::JoinSet;

use super::keys::all_values;
use super::{Shared, TOPIC, event, pace};
use crate::history::{Answer, Line, Op, Part};

/// Clients: each waits for several answers a transaction.
const WORKERS: u64 = 24;
/// Where the odd keys are.
const OTHER_TOPIC: &str = "chaos.other";
/// Keys in use at a time.
const KEYS_IN_USE: u64 = 20;
/// Appends, of all keys in use together, before the oldest of them is left for good.
const APPENDS_A_KEY: u64 = 40;
/// Reads and appends of one transaction.
const PARTS_MAX: u64 = 4;
/// Of so many transactions one is staged.
const STAGED_ONE_OF: u8 = 4;
/// When a staged one expires that nobody ended, milliseconds.
const TIMEOUT_MS: u64 = 30_000;

/// Which keys are in use.
#[derive(Debug, Default)]
pub(super) struct Board {
    appends: AtomicU64,
}

impl Board {
    fn oldest(&self) -> u64 {
        self.appends.load(Ordering::Relaxed) / APPENDS_A_KEY
    }
}

pub(super) async fn start(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    shared.create_topic(OTHER_TOPIC).await?;
    for label in 1..=WORKERS {
        tasks.spawn(worker(Arc::clone(shared), shared.client()?, label));
    }
    Ok(())
}

async fn worker(shared: Arc<Shared>, client: Client, label: u64) {
    let mut rng = shared.rng(label);
    let mut process = shared.next_process();
    while shared.goes_on() {
        pace(&shared, WORKERS, &mut rng).await;
        let parts = draw(&shared, &mut rng);
        let staged = rng.u8(..STAGED_ONE_OF) == 0;
        let op = Op::Transact { parts: parts.clone(), staged };
        let (known, _) = shared.record(process, op, transact(&client, &parts, staged)).await;
        if !known {
            process = shared.next_process();
        }
    }
}

/// Reads and appends of some of the keys in use.
fn draw(shared: &Shared, rng: &mut Rng) -> Vec<Part> {
    let (oldest, count) = (shared.lists.oldest(), rng.u64(1..=PARTS_MAX));
    let part = |_| {
        let key = oldest + rng.u64(..KEYS_IN_USE);
        if rng.bool() {
            return Part::Read(key);
        }
        shared.lists.appends.fetch_add(1, Ordering::Relaxed);
        Part::Append(key, shared.next_value())
    };
    (0..count).map(part).collect()
}

fn name(key: u64) -> String {
    format!("list-{key}")
}

fn topic(key: u64) -> &'static str {
    if key.is_multiple_of(2) { TOPIC } else { OTHER_TOPIC }
}

/// What fails before the commit is certain to have done nothing, whatever it was.
fn nothing_done(rejection: Rejection) -> Rejection {
    Rejection { reason: Reason::NoQuorum, ..rejection }
}

async fn transact(client: &Client, parts: &[Part], staged: bool) -> Result<Answer, Rejection> {
    let mut lists: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for part in parts {
        if let Part::Read(key) = part
            && !lists.contains_key(key)
        {
            let values = all_values(client, topic(*key), &name(*key)).await;
            lists.insert(*key, values.map_err(nothing_done)?);
        }
    }
    let request = request(parts, &lists);
    let done = if staged {
        commit_staged(client, request).await
    } else {
        let request = TransactRequest { parts: request, ..TransactRequest::default() };
        client.transact(request).await.map(drop)
    };
    if let Err(refused) = done {
        let actual = refused.fact("actual").and_then(|text| text.parse().ok());
        return match actual.filter(|_| refused.reason == Reason::VersionConflict) {
            Some(actual) => Ok(Answer::Conflict { actual }),
            None => Err(refused),
        };
    }
    let mut reads = Vec::new();
    for part in parts {
        match part {
            Part::Read(key) => reads.push(lists.get(key).cloned().unwrap_or_default()),
            Part::Append(key, value) => {
                if let Some(list) = lists.get_mut(key) {
                    list.push(*value);
                }
            }
        }
    }
    Ok(Answer::Transacted { reads })
}

/// The appends, and that what was read is still so.
fn request(parts: &[Part], lists: &BTreeMap<u64, Vec<u64>>) -> Vec<TransactionPart> {
    [TOPIC, OTHER_TOPIC]
        .into_iter()
        .map(|of| {
            let read = lists.iter().filter(|(key, _)| topic(**key) == of);
            let expectations = read.map(|(key, values)| KeyExpectation {
                key: name(*key),
                expect: Some(match values.len() as u64 {
                    0 => Expect::NoKey(true),
                    version => Expect::Exact(version),
                }),
            });
            let events = parts.iter().filter_map(|part| match part {
                Part::Append(key, value) if topic(*key) == of => {
                    Some(event(*value).key(name(*key)).build().encode_to_vec().into())
                }
                Part::Append(..) | Part::Read(_) => None,
            });
            TransactionPart {
                topic: of.to_owned(),
                expectations: expectations.collect(),
                events: events.collect(),
            }
        })
        .filter(|part| !part.events.is_empty() || !part.expectations.is_empty())
        .collect()
}

async fn commit_staged(client: &Client, parts: Vec<TransactionPart>) -> Result<(), Rejection> {
    let begin = BeginTransactionRequest { timeout_ms: TIMEOUT_MS, ..Default::default() };
    let id = client.begin_transaction(begin).await.map_err(nothing_done)?.id;
    let abort = async || drop(client.abort_transaction(AbortTransactionRequest { id }).await);
    for part in parts {
        let stage = StageTransactionRequest { id, parts: vec![part], ..Default::default() };
        if let Err(refused) = client.stage_transaction(stage).await {
            abort().await;
            return Err(nothing_done(refused));
        }
    }
    match client.commit_transaction(CommitTransactionRequest { id }).await {
        Ok(_) => Ok(()),
        Err(refused) => {
            if refused.reason == Reason::VersionConflict {
                abort().await;
            }
            Err(refused)
        }
    }
}

/// Writes down all values of each key.
pub(super) async fn read_back(shared: &Shared) -> anyhow::Result<()> {
    let client = shared.client()?;
    for key in 0..shared.lists.oldest() + KEYS_IN_USE {
        let values = all_values(&client, topic(key), &name(key)).await;
        let values = values.with_context(|| format!("read key {key}"))?;
        shared.recorder.tell(|_| Line::Key { key, values, versions: Vec::new() });
    }
    Ok(())
}
