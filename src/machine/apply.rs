//! Applying entries: commands in, outcomes out, writes kept over the store until they are taken.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;

use super::Fault;
use super::kv::{Kv, Table, Write};
use super::lifecycle::{self, Report};
use super::overlay::Overlay;
use super::producers::{self, ProducerRecord};
use super::record::{Kind as RecordKind, decode_message, encode_message};
use super::topic::heads::Heads;
use super::topic::keys::Head;
use super::topic::open_batch::OpenBatch;
use super::topic::record::TopicRecord;
use super::{
    delivery, housekeeping, nodes, quota, registry, schedule, schema, subscription, topic,
    transaction,
};
use crate::model::command::{Command, CommandBatch, Kind};
use crate::model::ids::{KeyVersion, LogIndex, Offset, Position, SubscriptionId, TopicId, UnixMs};
use crate::model::limits::DEAD_LETTERS_BURIED_BYTES;
use crate::model::outcome::{Effect, Outcome};

/// The key of the one row of [`Table::Meta`].
pub const META_KEY: &[u8] = b"machine";

/// Counters of the machine, as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Meta {
    /// The largest stamp seen, Unix milliseconds.
    #[prost(uint64, tag = "1")]
    pub stamp_ms: u64,
    /// The position that the next event gets.
    #[prost(uint64, tag = "2")]
    pub next_position: u64,
    /// The number that the newest topic got.
    #[prost(uint64, tag = "3")]
    pub last_topic_id: u64,
    /// Topics that exist.
    #[prost(uint64, tag = "4")]
    pub topics: u64,
    /// Where housekeeping goes on in `Producers`.
    #[prost(bytes = "vec", tag = "5")]
    pub producers_cursor: Vec<u8>,
    /// Where housekeeping goes on in `Requests`.
    #[prost(bytes = "vec", tag = "6")]
    pub requests_cursor: Vec<u8>,
    /// Where housekeeping goes on in `Topics`.
    #[prost(string, tag = "7")]
    pub topics_cursor: String,
    /// The number that the newest subscription got.
    #[prost(uint64, tag = "8")]
    pub last_subscription_id: u64,
    /// Subscriptions that exist.
    #[prost(uint64, tag = "9")]
    pub subscriptions: u64,
    /// The newest leader's term.
    #[prost(uint64, tag = "10")]
    pub term: u64,
    /// Leases of earlier leaders last until then at least, Unix milliseconds.
    #[prost(uint64, tag = "11")]
    pub grace_until_ms: u64,
    /// Quotas that exist.
    #[prost(uint64, tag = "12")]
    pub quotas: u64,
    /// When the newest leader announced itself, Unix milliseconds.
    #[prost(uint64, tag = "13")]
    pub led_since_ms: u64,
    /// Services that exist.
    #[prost(uint64, tag = "14")]
    pub services: u64,
    /// Instances that exist.
    #[prost(uint64, tag = "15")]
    pub instances: u64,
    /// The number that the newest service or registration of an instance got.
    #[prost(uint64, tag = "16")]
    pub last_registry_number: u64,
    /// Changes of the registry so far.
    #[prost(uint64, tag = "17")]
    pub registry_revision: u64,
    /// The number that the newest staged transaction got.
    #[prost(uint64, tag = "18")]
    pub last_transaction_id: u64,
    /// Staged transactions that are open.
    #[prost(uint64, tag = "19")]
    pub open_transactions: u64,
    /// Bytes that are staged in them.
    #[prost(uint64, tag = "20")]
    pub staged_bytes: u64,
    /// Where housekeeping goes on in `Transactions`.
    #[prost(bytes = "vec", tag = "21")]
    pub transactions_cursor: Vec<u8>,
    /// Subjects of schemas that exist.
    #[prost(uint64, tag = "22")]
    pub subjects: u64,
    /// Bytes of all versions of all subjects.
    #[prost(uint64, tag = "23")]
    pub schema_bytes: u64,
    /// Where housekeeping goes on in `Correlations`.
    #[prost(bytes = "vec", tag = "24")]
    pub correlations_cursor: Vec<u8>,
    /// How often it has to come to the end of `Correlations` until nothing is there of topics that were deleted.
    #[prost(uint64, tag = "25")]
    pub correlations_rounds: u64,
    /// Where housekeeping goes on among the loads of services.
    #[prost(bytes = "vec", tag = "26")]
    pub loads_cursor: Vec<u8>,
    /// The largest number that a lease of any subscription got that was deleted.
    #[prost(uint64, tag = "27")]
    pub last_deleted_lease_id: u64,
}

impl Meta {
    /// Reads the stored row; of an empty store, the beginning of everything.
    ///
    /// # Errors
    /// When the store fails or the row is corrupt.
    pub fn load(kv: &impl Kv) -> Result<Self, Fault> {
        let row = kv.get(Table::Meta, META_KEY)?;
        row.map_or_else(|| Ok(Self::default()), |row| decode_message(RecordKind::Meta, &row))
    }
}

/// What one entry led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One a command, in order.
    pub outcomes: Vec<Outcome>,
    /// Wishes; to be acted on once the writes are done.
    pub effects: Vec<Effect>,
}

/// The state machine over a store: apply entries, then take the writes as one batch.
#[derive(Debug)]
pub struct Machine<'k, K> {
    overlay: Overlay<'k, K>,
    meta: Meta,
    stored_meta: Meta,
    topics: BTreeMap<String, Cached<Option<TopicRecord>>>,
    producers: BTreeMap<String, Cached<Option<ProducerRecord>>>,
    open: Option<OpenBatch>,
    heads: Heads,
    wakes: BTreeSet<SubscriptionId>,
    appended: BTreeSet<TopicId>,
    registry: BTreeSet<String>,
    targets_changed: bool,
    reports: Vec<(String, Report)>,
    letters: Letters,
}

/// Bytes of the dead letters that were written.
#[derive(Debug, Default)]
struct Letters {
    /// Since this was loaded.
    all: usize,
    /// By the entry that is being applied, or by the tick.
    lately: usize,
}

#[derive(Debug)]
struct Cached<T> {
    value: T,
    changed: bool,
}

impl<'k, K: Kv> Machine<'k, K> {
    /// Starts from what is stored.
    ///
    /// # Errors
    /// When the store fails or is corrupt.
    pub fn load(kv: &'k K) -> Result<Self, Fault> {
        Self::load_with(kv, Heads::default())
    }

    /// The same with what [`Machine::finish`] gave back, of this state or another.
    ///
    /// # Errors
    /// When the store fails or is corrupt.
    pub fn load_with(kv: &'k K, heads: Heads) -> Result<Self, Fault> {
        let meta = Meta::load(kv)?;
        Ok(Self {
            heads: heads.at(Position(meta.next_position)),
            overlay: Overlay::new(kv),
            stored_meta: meta.clone(),
            meta,
            topics: BTreeMap::new(),
            producers: BTreeMap::new(),
            open: None,
            wakes: BTreeSet::new(),
            appended: BTreeSet::new(),
            registry: BTreeSet::new(),
            targets_changed: false,
            reports: Vec::new(),
            letters: Letters::default(),
        })
    }

    /// Applies one entry. A refused command has an outcome like any other and leaves no trace.
    ///
    /// # Errors
    /// An undecodable entry, a corrupt row or a failing store: the node must stop.
    pub fn apply(&mut self, index: LogIndex, entry: &Bytes) -> Result<Applied, Fault> {
        let batch = CommandBatch::decode(entry.clone())
            .map_err(|e| Fault::Undecodable(format!("entry {index}: {e}")))?;
        self.meta.stamp_ms = self.meta.stamp_ms.max(batch.stamp_ms);
        self.count_letters_anew();
        let mut applied =
            Applied { outcomes: Vec::with_capacity(batch.commands.len()), ..Applied::default() };
        for command in batch.commands {
            let outcome = self.command(index, command, &mut applied.effects)?;
            let reports = std::mem::take(&mut self.reports);
            lifecycle::publish(self, reports)?;
            applied.outcomes.push(outcome);
        }
        self.close_batch();
        let wakes = std::mem::take(&mut self.wakes).into_iter().map(Effect::Wake);
        applied.effects.extend(wakes);
        if std::mem::take(&mut self.targets_changed) {
            applied.effects.push(Effect::TargetsChanged);
        }
        let registry = std::mem::take(&mut self.registry);
        applied.effects.extend(registry.into_iter().map(Effect::RegistryChanged));
        let appended = std::mem::take(&mut self.appended);
        let changed = self.topics.iter().filter(|(_, topic)| {
            topic.value.as_ref().is_some_and(|topic| appended.contains(&topic.topic_id()))
        });
        applied.effects.extend(changed.map(|(name, _)| Effect::TopicAppended(name.clone())));
        Ok(applied)
    }

    fn command(
        &mut self,
        index: LogIndex,
        command: Command,
        effects: &mut Vec<Effect>,
    ) -> Result<Outcome, Fault> {
        let kind = command.kind.ok_or_else(|| {
            Fault::Undecodable(format!(
                "entry {index} has a command of a newer version; run a newer mhub"
            ))
        })?;
        match kind {
            Kind::Publish(publish) => topic::publish::apply(self, &publish),
            Kind::CreateTopic(create) => topic::create::apply(self, create),
            Kind::UpdateTopic(update) => topic::update::apply(self, update),
            Kind::DeleteTopic(delete) => topic::delete::apply(self, delete),
            Kind::Housekeep(_) => housekeeping::apply(self),
            Kind::RegisterNode(register) => nodes::register(self, register),
            Kind::Verify(_) => {
                effects.push(Effect::HashState(index));
                Ok(Outcome::Verifying(index))
            }
            Kind::CreateSubscription(create) => subscription::create::apply(self, create),
            Kind::UpdateSubscription(update) => subscription::update::apply(self, update),
            Kind::DeleteSubscription(delete) => subscription::delete::apply(self, delete),
            Kind::PauseSubscription(pause) => subscription::pause::pause(self, pause),
            Kind::ResumeSubscription(resume) => subscription::pause::resume(self, resume),
            Kind::SeekSubscription(seek) => subscription::seek::apply(self, seek),
            Kind::Transact(transact) => transaction::transact::apply(self, transact),
            Kind::BeginTransaction(begin) => transaction::begin::apply(self, begin),
            Kind::StageTransaction(stage) => transaction::stage::apply(self, stage),
            Kind::CommitTransaction(commit) => transaction::end::commit(self, &commit),
            Kind::AbortTransaction(abort) => transaction::end::abort(self, &abort),
            Kind::PutKeySnapshot(put) => topic::key_snapshots::put(self, put),
            Kind::DeleteKeySnapshot(delete) => topic::key_snapshots::delete(self, delete),
            Kind::RegisterSchema(register) => schema::register::apply(self, register),
            Kind::SetCompatibility(set) => schema::settings::set_compatibility(self, set),
            Kind::SetSchemaState(set) => schema::settings::set_state(self, set),
            Kind::Lease(lease) => delivery::lease::apply(self, &lease),
            Kind::Settle(settle) => delivery::settle::apply(self, &settle),
            Kind::Tick(_) => delivery::tick::apply(self),
            Kind::NewLeader(leader) => delivery::leader::apply(self, leader),
            Kind::RetryNow(retry) => delivery::retries::now(self, &retry),
            Kind::CancelRetry(cancel) => delivery::retries::cancel(self, &cancel),
            Kind::Redrive(redrive) => delivery::redrive::redrive(self, &redrive),
            Kind::PurgeDead(purge) => delivery::redrive::purge(self, &purge),
            Kind::CancelEvent(cancel) => schedule::cancel::apply(self, &cancel),
            Kind::SetQuota(set) => quota::set(self, set),
            Kind::Notice(notice) => lifecycle::notice(self, &notice),
            Kind::PutService(put) => registry::services::put(self, put),
            Kind::DeleteService(delete) => registry::services::delete(self, delete),
            Kind::RegisterInstances(register) => registry::instances::register(self, register),
            Kind::DeregisterInstances(gone) => registry::instances::deregister(self, gone),
            Kind::SetMode(set) => registry::instances::set_mode(self, set),
            Kind::SetHealth(set) => registry::health::set(self, &set),
            Kind::SetBreaker(set) => registry::breaker::set(self, &set),
        }
    }

    /// A subscription with a target came, went, or has other settings.
    pub(crate) fn targets_changed(&mut self) {
        self.targets_changed = true;
    }

    /// Wishes that somebody looks for what this subscription may deliver.
    pub(crate) fn wake(&mut self, subscription: SubscriptionId) {
        self.wakes.insert(subscription);
    }

    /// Wishes that those who take this topic are woken.
    pub(crate) fn appended(&mut self, topic: TopicId) {
        self.appended.insert(topic);
    }

    /// Wishes that those who watch this service are woken.
    pub(crate) fn registry_changed(&mut self, service: &str) {
        if !self.registry.contains(service) {
            self.registry.insert(service.to_owned());
        }
    }

    /// Says something about a subscription or a service in the lifecycle feed.
    pub(crate) fn report(&mut self, about: &str, what: Report) {
        self.reports.push((about.to_owned(), what));
    }

    /// Counts bytes of dead letters that are being written.
    pub(crate) fn count_letter(&mut self, bytes: usize) {
        self.letters.all = self.letters.all.saturating_add(bytes);
        self.letters.lately = self.letters.lately.saturating_add(bytes);
    }

    /// What is written from here on is bounded by itself.
    pub(crate) fn count_letters_anew(&mut self) {
        self.letters.lately = 0;
    }

    /// Whether other dead letters have to wait.
    pub(crate) fn is_full_of_letters(&self) -> bool {
        self.letters.lately >= DEAD_LETTERS_BURIED_BYTES
    }

    /// Bytes of the dead letters that all entries so far wrote.
    #[must_use]
    pub fn letter_bytes(&self) -> usize {
        self.letters.all
    }

    /// The position that the next event gets.
    #[must_use]
    pub fn next_position(&self) -> Position {
        Position(self.meta.next_position)
    }

    /// Everything that was applied, as one batch; ranges first.
    #[must_use]
    pub fn into_writes(self) -> Vec<Write> {
        self.finish().0
    }

    /// Everything that was applied, and what is worth keeping in memory for what comes next.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Write>, Heads) {
        self.settle();
        if self.meta != self.stored_meta {
            let row = encode_message(RecordKind::Meta, &self.meta);
            self.overlay.put(Table::Meta, META_KEY.to_vec(), row);
        }
        let heads = self.heads.keep(Position(self.meta.next_position));
        (self.overlay.into_writes(), heads)
    }

    /// A key's version; 0 when no event has it.
    pub(crate) fn key_version(&mut self, topic: TopicId, key: &str) -> Result<KeyVersion, Fault> {
        Ok(self.heads.get(&self.overlay, topic, key)?.version)
    }

    /// Notes a key's next event; what was its newest before, and what is it now, to be written by
    /// the caller.
    pub(crate) fn advance_key(
        &mut self,
        topic: TopicId,
        key: &str,
        offset: Offset,
    ) -> Result<(Head, Head), Fault> {
        self.heads.advance(&self.overlay, topic, key, offset)
    }

    /// The time of the entry that is being applied.
    pub(crate) fn now(&self) -> UnixMs {
        UnixMs(self.meta.stamp_ms)
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    pub(crate) fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }

    pub(crate) fn overlay(&self) -> &Overlay<'k, K> {
        &self.overlay
    }

    pub(crate) fn overlay_mut(&mut self) -> &mut Overlay<'k, K> {
        &mut self.overlay
    }

    /// A topic by name.
    pub(crate) fn topic(&mut self, name: &str) -> Result<Option<&TopicRecord>, Fault> {
        if !self.topics.contains_key(name) {
            let row = self.overlay.get(Table::Topics, name.as_bytes())?;
            let value = row.map(|row| TopicRecord::decode(&row)).transpose()?;
            self.topics.insert(name.to_owned(), Cached { value, changed: false });
        }
        Ok(self.topics.get(name).and_then(|cached| cached.value.as_ref()))
    }

    pub(crate) fn put_topic(&mut self, name: &str, record: TopicRecord) {
        let cached = Cached { value: Some(record), changed: true };
        match self.topics.get_mut(name) {
            Some(slot) => *slot = cached,
            None => drop(self.topics.insert(name.to_owned(), cached)),
        }
    }

    pub(crate) fn remove_topic(&mut self, name: &str) {
        self.topics.insert(name.to_owned(), Cached { value: None, changed: true });
    }

    /// A producer by id.
    pub(crate) fn producer(&mut self, id: &str) -> Result<Option<&ProducerRecord>, Fault> {
        Ok(self.cached_producer(id)?.value.as_ref())
    }

    /// A producer by id, new if need be, to be written.
    pub(crate) fn producer_mut(&mut self, id: &str) -> Result<&mut ProducerRecord, Fault> {
        let cached = self.cached_producer(id)?;
        cached.changed = true;
        Ok(cached.value.get_or_insert_default())
    }

    fn cached_producer(&mut self, id: &str) -> Result<&mut Cached<Option<ProducerRecord>>, Fault> {
        if !self.producers.contains_key(id) {
            let row = self.overlay.get(producers::TABLE, &producers::key(id))?;
            let value = row.map(|row| ProducerRecord::decode(&row)).transpose()?;
            self.producers.insert(id.to_owned(), Cached { value, changed: false });
        }
        self.producers
            .get_mut(id)
            .ok_or_else(|| Fault::Storage("a row that was just cached is gone".to_owned()))
    }

    /// The batch that a run of this length goes into; the one before it is closed when it does not
    /// fit there.
    pub(crate) fn open_batch(
        &mut self,
        topic: TopicId,
        name: &str,
        first: Offset,
        run_len: usize,
    ) -> &mut OpenBatch {
        if self.open.as_ref().is_none_or(|open| !open.takes(topic, run_len)) {
            self.close_batch();
        }
        let (position, now) = (self.next_position(), self.now());
        self.open.get_or_insert_with(|| OpenBatch::new(topic, name, (first, position), now))
    }

    pub(crate) fn close_batch(&mut self) {
        if let Some(open) = self.open.take() {
            open.write(&mut self.overlay);
        }
    }

    /// Writes everything that is cached into the overlay, so that scans see it.
    pub(crate) fn settle(&mut self) {
        self.close_batch();
        for (name, cached) in &mut self.topics {
            if !std::mem::take(&mut cached.changed) {
                continue;
            }
            match &cached.value {
                Some(record) => {
                    self.overlay.put(Table::Topics, name.as_bytes().to_vec(), record.encode())
                }
                None => self.overlay.delete(Table::Topics, name.as_bytes().to_vec()),
            }
        }
        for (id, cached) in std::mem::take(&mut self.producers) {
            if let Some(record) = cached.value.filter(|_| cached.changed) {
                self.overlay.put(producers::TABLE, producers::key(&id), record.encode());
            }
        }
    }
}
