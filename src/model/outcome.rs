//! What a command led to.

use super::delivery::{Leased, Moved, Settled, Sought, SubscriptionInfo, Ticked};
use super::ids::{KeyVersion, LogIndex, Offset, Position, SubscriptionId, TopicId, UnixMs};
use super::registry::{InstanceInfo, ServiceInfo};
use super::rejection::Rejection;
use super::schema::{SchemaInfo, SubjectInfo};
use super::topic::TopicConfig;
use super::transaction::TransactionInfo;

/// What a command led to, the same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Events were appended, or recognised as a repetition.
    Published(Published),
    /// Where the events of each part went; of a part without events nowhere.
    Transacted(Vec<Published>),
    /// The staged transaction as it is after the command.
    Transaction(Box<TransactionInfo>),
    /// The version that was registered or changed, as it is after the command.
    Schema(Box<SchemaInfo>),
    /// The subject of schemas as it is after the command.
    Subject(Box<SubjectInfo>),
    /// The topic as it is after the command.
    Topic(Box<TopicInfo>),
    /// The subscription as it is after the command.
    Subscription(Box<SubscriptionInfo>),
    /// What a consumer was given.
    Leased(Leased),
    /// What became of each item, in order.
    Settled(Vec<Settled>),
    /// What a subscription was moved over.
    Sought(Sought),
    /// Dead letters or retries were moved.
    Moved(Moved),
    /// Timers fired.
    Ticked(Ticked),
    /// The service as it is after the command.
    Service(Box<ServiceInfo>),
    /// What became of each instance, in order.
    Instances(Vec<InstanceOutcome>),
    /// Every node hashes its state as it is after this entry.
    Verifying(LogIndex),
    /// Done, with nothing to tell.
    Done,
    /// Refused; nothing was changed.
    Rejected(Rejection),
}

/// The instance as it is after the command, before it when it went, or why not.
pub type InstanceOutcome = Result<InstanceInfo, Rejection>;

/// Where the events of a call went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The first event's offset.
    pub first_offset: Offset,
    /// The first event's position.
    pub first_position: Position,
    /// Number of events.
    pub count: u32,
    /// The whole call is a repetition.
    pub duplicate: bool,
    /// One an event, 0 for an event without a key; empty when no event has one.
    pub key_versions: Vec<KeyVersion>,
    /// One an event, only when some event was a duplicate by source and id.
    pub receipts: Vec<Receipt>,
}

/// Where one event went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its offset.
    pub offset: Offset,
    /// Its position.
    pub position: Position,
    /// It was there already.
    pub duplicate: bool,
}

/// A topic with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its number.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub config: TopicConfig,
    /// The next event's offset.
    pub next_offset: Offset,
    /// The first readable offset.
    pub first_offset: Offset,
    /// Encoded bytes of the events appended.
    pub bytes: u64,
    /// When it was created.
    pub created_at: UnixMs,
    /// When its settings were last changed.
    pub updated_at: UnixMs,
    /// From 1, grows with every update.
    pub revision: u64,
    /// Its events off the defaults of delivery.
    pub specials: u64,
    /// Of these, those that were cancelled.
    pub cancels: u64,
}

/// A wish that applying left behind. Effects are hints: a new leader rebuilds them from state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Hash the state as it is after this entry.
    HashState(LogIndex),
    /// Something may be ready for this subscription: look for it.
    Wake(SubscriptionId),
    /// A subscription with a target came, went, or has other settings.
    TargetsChanged,
    /// The registry changed for the service of this name.
    RegistryChanged(String),
    /// Events were appended to the topic of this name, or called off: wake who takes it.
    TopicAppended(String),
}
