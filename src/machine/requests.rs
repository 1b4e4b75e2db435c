//! Mutations that carry a request id: a repeated one gets its first answer, for a day.

use bytes::Bytes;

use super::Fault;
use super::apply::Machine;
use super::kv::{Kv, Table};
use super::record::{Kind, decode_message, encode_message};
use super::registry::records::ServiceRecord;
use super::subscription::record::SubscriptionRecord;
use super::subscription::state::{Placing, SubscriptionState};
use super::topic::record::TopicRecord;
use super::transaction::record::PartRecord;
use super::{schema, transaction};
use crate::model::delivery::{Sought, SubscriptionInfo};
use crate::model::ids::{Position, TransactionId};
use crate::model::outcome::{Outcome, TopicInfo};

/// The first answer to a mutation, as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RequestRecord {
    /// When it was given, Unix milliseconds.
    #[prost(uint64, tag = "1")]
    pub answered_at_ms: u64,
    /// The topic in the answer; absent: done, with nothing to tell.
    #[prost(message, optional, tag = "2")]
    topic: Option<TopicRecord>,
    #[prost(string, tag = "3")]
    name: String,
    /// The subscription in the answer.
    #[prost(message, optional, tag = "4")]
    subscription: Option<SubscriptionRecord>,
    /// Its state.
    #[prost(message, optional, tag = "5")]
    state: Option<SubscriptionState>,
    /// Of a seek: start, redelivered, skipped, truncated (0 or 1).
    #[prost(uint64, repeated, tag = "6")]
    sought: Vec<u64>,
    /// The service in the answer.
    #[prost(message, optional, tag = "7")]
    service: Option<ServiceRecord>,
    /// Of a transaction.
    #[prost(message, optional, tag = "8")]
    transacted: Option<TransactedRecord>,
    /// The staged transaction that the answer was about.
    #[prost(uint64, optional, tag = "9")]
    transaction: Option<u64>,
    /// The version of a schema, or 0 for its subject, that the answer was about; `name` is the subject.
    #[prost(uint32, optional, tag = "10")]
    schema: Option<u32>,
}

/// Where the events of a transaction went.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct TransactedRecord {
    #[prost(message, repeated, tag = "1")]
    parts: Vec<PartRecord>,
}

impl RequestRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Request, row)
    }

    fn encode(&self) -> Bytes {
        encode_message(Kind::Request, self)
    }
}

/// Whether a mutation with this request id was done before.
///
/// # Errors
/// When the store fails.
pub fn is_answered(kv: &impl Kv, request_id: &str) -> Result<bool, Fault> {
    Ok(!request_id.is_empty() && kv.get(Table::Requests, request_id.as_bytes())?.is_some())
}

pub(crate) fn first_answer<K: Kv>(
    machine: &Machine<'_, K>,
    request_id: &str,
) -> Result<Option<Outcome>, Fault> {
    if request_id.is_empty() {
        return Ok(None);
    }
    let Some(row) = machine.overlay().get(Table::Requests, request_id.as_bytes())? else {
        return Ok(None);
    };
    let record = RequestRecord::decode(&row)?;
    if let (Some(subscription), Some(state)) = (&record.subscription, &record.state) {
        return Ok(Some(Outcome::Subscription(Box::new(subscription.info(state)))));
    }
    if let [start, redelivered, skipped, truncated] = record.sought[..] {
        let (start, truncated) = (Position(start), truncated == 1);
        return Ok(Some(Outcome::Sought(Sought { start, redelivered, skipped, truncated })));
    }
    if let Some(version) = record.schema {
        // As it is now.
        return schema_outcome(machine, &record.name, version).map(Some);
    }
    if let Some(service) = record.service {
        return Ok(Some(Outcome::Service(Box::new(service.info(&record.name)))));
    }
    if let Some(transacted) = record.transacted {
        let parts = transacted.parts.into_iter().map(PartRecord::answer).collect();
        return Ok(Some(Outcome::Transacted(parts)));
    }
    if let Some(id) = record.transaction {
        // As it is now.
        return transaction::record::outcome(machine.overlay(), TransactionId(id)).map(Some);
    }
    Ok(Some(match record.topic {
        Some(topic) => Outcome::Topic(Box::new(topic.info(&record.name))),
        None => Outcome::Done,
    }))
}

fn schema_outcome<K: Kv>(
    machine: &Machine<'_, K>,
    subject: &str,
    version: u32,
) -> Result<Outcome, Fault> {
    if version == 0 {
        let found = schema::query::subject(machine.overlay(), subject)?;
        let found = found.map(|info| Outcome::Subject(Box::new(info)));
        return Ok(
            found.unwrap_or_else(|| Outcome::Rejected(schema::query::not_found(subject, None)))
        );
    }
    let found = schema::query::schema(machine.overlay(), subject, version)?;
    let found = found.map(|info| Outcome::Schema(Box::new(info)));
    Ok(found.unwrap_or_else(|| Outcome::Rejected(schema::query::not_found(subject, Some(version)))))
}

/// Keeps an answer. Refusals are not kept: they leave no trace.
pub(crate) fn remember<K: Kv>(machine: &mut Machine<'_, K>, request_id: String, outcome: &Outcome) {
    if request_id.is_empty() {
        return;
    }
    let mut record =
        RequestRecord { answered_at_ms: machine.now().get(), ..RequestRecord::default() };
    match outcome {
        Outcome::Topic(info) => {
            record.name.clone_from(&info.name);
            record.topic = Some(topic_of(info));
        }
        Outcome::Transacted(parts) => {
            let parts = parts.iter().map(PartRecord::of).collect();
            record.transacted = Some(TransactedRecord { parts });
        }
        Outcome::Transaction(info) => record.transaction = Some(info.id.get()),
        Outcome::Schema(info) => {
            record.name.clone_from(&info.subject);
            record.schema = Some(info.version);
        }
        Outcome::Subject(info) => {
            record.name.clone_from(&info.name);
            record.schema = Some(0);
        }
        Outcome::Service(info) => {
            record.name.clone_from(&info.name);
            record.service = Some(ServiceRecord::of(info));
        }
        Outcome::Subscription(info) => {
            record.subscription = Some(subscription_of(info));
            record.state = Some(state_of(info));
        }
        Outcome::Sought(sought) => {
            let truncated = u64::from(sought.truncated);
            record.sought = vec![sought.start.get(), sought.redelivered, sought.skipped, truncated];
        }
        _ => {}
    }
    machine.overlay_mut().put(Table::Requests, request_id.into_bytes(), record.encode());
}

fn topic_of(info: &TopicInfo) -> TopicRecord {
    TopicRecord {
        id: info.id.get(),
        config: info.config.clone(),
        next_offset: info.next_offset.get(),
        first_offset: info.first_offset.get(),
        bytes: info.bytes,
        created_at_ms: info.created_at.get(),
        updated_at_ms: info.updated_at.get(),
        revision: info.revision,
        specials: info.specials,
        cancels: info.cancels,
        ..TopicRecord::default()
    }
}

fn subscription_of(info: &SubscriptionInfo) -> SubscriptionRecord {
    SubscriptionRecord {
        id: info.id.get(),
        config: info.config.clone(),
        revision: info.revision,
        created_at_ms: info.created_at.get(),
        updated_at_ms: info.updated_at.get(),
        start_position: info.start.get(),
    }
}

fn state_of(info: &SubscriptionInfo) -> SubscriptionState {
    SubscriptionState {
        name: info.name.clone(),
        pause: info.pause.clone(),
        counters: info.counters,
        in_flight: info.in_flight,
        dead_letters: info.dead_letters,
        placing: info.reordering.then(Placing::default),
        ..SubscriptionState::default()
    }
}
