//! Commands of delivery drawn by a seeded generator: dense, so that they meet.

use bytes::Bytes;
use prost::Message as _;

use super::model::World;
use crate::machine::tests::random::Dice;
use crate::model::command::delivery::{Ack, Action, Extend, Nack, Reject, Release, SettleItem};
use crate::model::command::subscription::{At, Place};
use crate::model::command::{
    CancelEvent, CancelRetry, CreateSubscription, CreateTopic, DeleteSubscription, DeleteTopic,
    Kind, Lease, NewLeader, PauseSubscription, Publish, PurgeDead, Redrive, ResumeSubscription,
    RetryNow, SeekSubscription, SetQuota, Settle, Tick, UpdateSubscription,
};
use crate::model::delivery::Pick;
use crate::model::event_run;
use crate::model::filter::{Comparison, Filter, Test};
use crate::model::quota::QuotaLimits;
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::subscription::{
    DeadLetterPatch, DeliveryOrder, PriorityMode, RetryPatch, RetryStrategy, SubscriptionConfig,
    SubscriptionPatch,
};
use crate::model::topic::TopicConfig;

pub(super) const TOPICS: [&str; 3] = ["t.a", "t.b", "u"];
/// What all events have to do with.
pub(super) const CORRELATION: &str = "c";
/// What bulky events have at least.
pub(super) const BULKY_BYTES: usize = 24 << 10;
const SUBSCRIPTIONS: [&str; 2] = ["s", "w"];
pub(super) const CONSUMERS: [&str; 2] = ["c", "d"];
pub(super) const SERVICES: [&str; 2] = ["", "x"];

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Timestamp {
    #[prost(uint64, tag = "1")]
    seconds: u64,
    #[prost(uint64, tag = "2")]
    nanos: u64,
}

impl Timestamp {
    pub(crate) fn of(ms: u64) -> Self {
        Self { seconds: ms / 1000, nanos: ms % 1000 * 1_000_000 }
    }

    pub(super) fn ms(&self) -> u64 {
        self.seconds * 1000 + self.nanos / 1_000_000
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TestEvent {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) source: String,
    #[prost(string, tag = "3")]
    pub(crate) kind: String,
    #[prost(string, tag = "16")]
    pub(crate) key: String,
    #[prost(uint32, optional, tag = "17")]
    pub(crate) priority: Option<u32>,
    #[prost(message, optional, tag = "18")]
    pub(crate) deadline: Option<Timestamp>,
    #[prost(message, optional, tag = "19")]
    pub(crate) deliver_at: Option<Timestamp>,
    #[prost(string, tag = "20")]
    pub(crate) correlation_id: String,
    #[prost(string, tag = "24")]
    pub(crate) flow: String,
}

impl TestEvent {
    fn special(&self) -> bool {
        self.priority.is_some_and(|p| p != 4)
            || self.deadline.is_some()
            || self.deliver_at.is_some()
            || !self.flow.is_empty()
    }
}

/// Which features the events of one sequence have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mix {
    pub(super) special: bool,
    pub(super) keyed: bool,
    /// How many fairness keys they have.
    pub(super) flows: u64,
    /// Consumers mostly reject.
    pub(super) gloomy: bool,
    /// Few events are as many bytes as one entry buries.
    pub(super) bulky: bool,
}

pub(crate) fn publish_of(topic: &str, events: &[TestEvent]) -> Publish {
    let encoded: Vec<Bytes> = events.iter().map(|e| e.encode_to_vec().into()).collect();
    Publish {
        topic: topic.to_owned(),
        count: events.len() as u32,
        keyed: events.iter().any(|e| !e.key.is_empty()),
        special: events.iter().any(TestEvent::special),
        correlated: events.iter().any(|e| !e.correlation_id.is_empty()),
        events: event_run::encode(&encoded),
        ..Publish::default()
    }
}

fn pick<'a>(dice: &mut Dice, from: &[&'a str]) -> &'a str {
    from[dice.below(from.len() as u64) as usize]
}

pub(crate) fn create_topic(name: &str) -> Kind {
    Kind::CreateTopic(CreateTopic {
        name: name.to_owned(),
        config: TopicConfig::defaults(),
        request_id: String::new(),
    })
}

fn event(dice: &mut Dice, now: u64, mix: Mix) -> TestEvent {
    let special = mix.special && dice.below(2) == 0;
    let deliver_at = (special && dice.below(3) == 0).then(|| now + dice.below(8000));
    let deadline =
        (special && dice.below(3) == 0).then(|| deliver_at.unwrap_or(now) + 1 + dice.below(15_000));
    TestEvent {
        id: "i".repeat(if mix.bulky { BULKY_BYTES } else { 1 }),
        source: "s".into(),
        correlation_id: CORRELATION.into(),
        kind: pick(dice, &["a", "b"]).into(),
        key: if mix.keyed { pick(dice, &["", "k", "l"]).into() } else { String::new() },
        priority: (special && dice.below(2) == 0).then(|| dice.below(10) as u32),
        deadline: deadline.map(Timestamp::of),
        deliver_at: deliver_at.map(Timestamp::of),
        flow: if mix.flows > 0 && dice.below(2) == 0 {
            // Of several lengths.
            (dice.below(mix.flows) * 7).to_string()
        } else {
            String::new()
        },
    }
}

pub(super) fn config(dice: &mut Dice, mix: Mix) -> SubscriptionConfig {
    let mut config = SubscriptionConfig::defaults(pick(dice, &["t.a", "t.*", ">"]));
    if dice.below(3) == 0 {
        config.filter = Some(Filter {
            test: Some(Test::Exact(Comparison { attribute: "type".into(), value: "a".into() })),
        });
    }
    config.retry.strategy = [
        RetryStrategy::FullJitter,
        RetryStrategy::Decorrelated,
        RetryStrategy::Linear,
        RetryStrategy::Fixed,
    ][dice.below(4) as usize] as i32;
    config.retry.max_attempts = dice.below(4) as u32;
    config.retry.budget_min_per_s = 1 + dice.below(3) as u32;
    config.retry.non_retryable_reasons = vec!["NEVER".into()];
    config.dead_letters.disabled = dice.below(5) == 0;
    config.dead_letters.retention_ms = 20_000;
    config.dead_letters.trip_resume_ms = dice.below(2) * 3000;
    config.lease_ms = 1000 + dice.below(3000);
    config.max_in_flight = 2 + dice.below(20) as u32;
    config.max_in_flight_per_consumer = 1 + dice.below(16) as u32;
    if mix.keyed && dice.below(2) == 0 {
        config.order = DeliveryOrder::ByKey as i32;
    }
    if dice.below(3) == 0 {
        config.priority_mode = PriorityMode::Strict as i32;
    }
    config.base_wait_ms = 1000 + dice.below(20_000);
    config.slack_ms = dice.below(2) * 500;
    config
}

/// Some settings of another subscription.
fn patch(dice: &mut Dice, mix: Mix) -> SubscriptionPatch {
    let (new, kept_ms) = (config(dice, mix), [0, 2000, 20_000, 60_000][dice.below(4) as usize]);
    let mut some = || dice.below(3) == 0;
    SubscriptionPatch {
        replace_filter: some(),
        filter: new.filter,
        max_in_flight: some().then_some(new.max_in_flight),
        max_in_flight_per_consumer: some().then_some(new.max_in_flight_per_consumer),
        lease_ms: some().then_some(new.lease_ms),
        order: some().then_some(new.order),
        priority_mode: some().then_some(new.priority_mode),
        base_wait_ms: some().then_some(new.base_wait_ms),
        slack_ms: some().then_some(new.slack_ms),
        retry: Some(RetryPatch {
            strategy: some().then_some(new.retry.strategy),
            max_attempts: some().then_some(new.retry.max_attempts),
            replace_non_retryable_reasons: some(),
            budget_min_per_s: some().then_some(new.retry.budget_min_per_s),
            ..RetryPatch::default()
        }),
        dead_letters: Some(DeadLetterPatch {
            disabled: some().then_some(new.dead_letters.disabled),
            retention_ms: some().then_some(kept_ms),
            trip_resume_ms: some().then_some(new.dead_letters.trip_resume_ms),
            ..DeadLetterPatch::default()
        }),
        ..SubscriptionPatch::default()
    }
}

fn ranges(dice: &mut Dice) -> Vec<OffsetRange> {
    let range = |dice: &mut Dice| OffsetRange { first: dice.below(20), count: dice.below(7) };
    (0..=dice.below(2)).map(|_| range(dice)).collect()
}

fn place(dice: &mut Dice, world: &World) -> Place {
    match dice.below(6) {
        0 => At::End(true),
        1 => At::Offset(dice.below(12)),
        2 => At::Position(dice.below(world.next_position + 2)),
        3 => At::TimeMs(dice.below(world.now + 1000)),
        _ => At::Start(true),
    }
    .into()
}

/// What a sequence begins with.
pub(super) fn beginning(dice: &mut Dice, mix: Mix) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = TOPICS.iter().map(|t| create_topic(t)).collect();
    for name in SUBSCRIPTIONS.iter().take(1 + dice.below(2) as usize) {
        kinds.push(Kind::CreateSubscription(CreateSubscription {
            name: (*name).to_owned(),
            config: config(dice, mix),
            start: At::Start(true).into(),
            request_id: String::new(),
        }));
    }
    kinds
}

pub(super) fn command(dice: &mut Dice, world: &World, mix: Mix) -> Kind {
    let name = pick(dice, &SUBSCRIPTIONS).to_owned();
    match dice.below(40) {
        0..=6 => {
            let events: Vec<_> = (0..=dice.below(9)).map(|_| event(dice, world.now, mix)).collect();
            Kind::Publish(publish_of(pick(dice, &TOPICS), &events))
        }
        7 => create_topic(pick(dice, &TOPICS)),
        8 if dice.below(5) == 0 => {
            let name = pick(dice, &TOPICS).to_owned();
            Kind::DeleteTopic(DeleteTopic { name, request_id: String::new() })
        }
        8 => Kind::CreateSubscription(CreateSubscription {
            name,
            config: config(dice, mix),
            start: place(dice, world),
            request_id: String::new(),
        }),
        9..=15 => Kind::Tick(Tick {}),
        16..=19 => blind_lease(dice, world, name),
        20..=36 => settle(dice, world, name, mix),
        _ => seldom(dice, world, name, mix),
    }
}

fn seldom(dice: &mut Dice, world: &World, name: String, mix: Mix) -> Kind {
    let request_id = String::new();
    let topic_id = 1 + dice.below(3);
    match dice.below(19) {
        17..=18 => Kind::UpdateSubscription(UpdateSubscription {
            name,
            patch: patch(dice, mix),
            if_revision: 0,
            request_id,
        }),
        12..=13 => Kind::SetQuota(SetQuota {
            service: "x".to_owned(),
            limits: QuotaLimits {
                in_flight: dice.below(8),
                retries_per_s: dice.below(3),
                ..QuotaLimits::default()
            },
        }),
        0 => Kind::UpdateSubscription(UpdateSubscription {
            name,
            patch: patch(dice, mix),
            if_revision: dice.below(2),
            request_id,
        }),
        1 if dice.below(3) == 0 => {
            Kind::DeleteSubscription(DeleteSubscription { name, request_id })
        }
        1..=2 => Kind::PauseSubscription(PauseSubscription {
            name,
            resume_at_ms: dice.below(2) * (world.now + dice.below(4000)),
            request_id,
            target_down: false,
        }),
        3..=4 => {
            Kind::ResumeSubscription(ResumeSubscription { name, request_id, target_up: false })
        }
        5 => Kind::SeekSubscription(SeekSubscription { name, to: place(dice, world), request_id }),
        6 => Kind::NewLeader(NewLeader { term: dice.below(4), grace_ms: dice.below(3000) }),
        7 => Kind::RetryNow(RetryNow { subscription: name, topic_id, ranges: ranges(dice) }),
        8 => Kind::CancelRetry(CancelRetry { subscription: name, topic_id, ranges: ranges(dice) }),
        9 => Kind::Redrive(Redrive {
            subscription: name,
            numbers: if dice.below(2) == 0 { vec![1 + dice.below(4)] } else { Vec::new() },
            after: dice.below(2),
            limit: dice.below(4) as u32,
        }),
        10 => Kind::PurgeDead(PurgeDead {
            subscription: name,
            numbers: if dice.below(2) == 0 { vec![1 + dice.below(4)] } else { Vec::new() },
            up_to: dice.below(4),
        }),
        _ => cancel(dice, world),
    }
}

/// Calls off a delayed event, where there is one.
fn cancel(dice: &mut Dice, world: &World) -> Kind {
    let topic = pick(dice, &TOPICS).to_owned();
    let events = world.topics.get(&topic).map(|t| t.events.as_slice()).unwrap_or_default();
    let delayed: Vec<u64> =
        (0..).zip(events).filter(|(_, e)| e.ready_at > world.now).map(|(o, _)| o).collect();
    let offset = match delayed.len() as u64 {
        0 => dice.below(15),
        count => delayed[dice.below(count) as usize],
    };
    Kind::CancelEvent(CancelEvent { topic, offset, ..CancelEvent::default() })
}

fn blind_lease(dice: &mut Dice, world: &World, subscription: String) -> Kind {
    let pick_one = |dice: &mut Dice| {
        let topic = pick(dice, &TOPICS).to_owned();
        let topic_id = world.topics.get(&topic).map_or(9, |t| t.id);
        Pick { topic, topic_id, ranges: Ranges::from_unsorted(&ranges(dice)), seen: None }
    };
    let revision = world.subscriptions.get(&subscription).map_or(1, |s| s.revision);
    Kind::Lease(Lease {
        revision: if dice.below(15) == 0 { 99 } else { revision },
        subscription,
        term: world.term.max(1) - u64::from(dice.below(20) == 0),
        consumer: pick(dice, &CONSUMERS).to_owned(),
        lease_ms: dice.below(2) * (500 + dice.below(4000)),
        picks: (0..=dice.below(2)).map(|_| pick_one(dice)).collect(),
        skips: (0..dice.below(6) / 5).map(|_| pick_one(dice)).collect(),
        in_flight_max_consumer: (dice.below(4) * dice.below(6)) as u32,
        service: pick(dice, &SERVICES).to_owned(),
    })
}

fn settle(dice: &mut Dice, world: &World, subscription: String, mix: Mix) -> Kind {
    let consumer = pick(dice, &CONSUMERS).to_owned();
    let leases = world.subscriptions.get(&subscription).map(|s| &s.leases);
    let of_consumer: Vec<_> =
        leases.into_iter().flatten().filter(|(_, l)| l.consumer == consumer).collect();
    let mut items: Vec<SettleItem> = Vec::new();
    for (id, lease) in of_consumer {
        if dice.below(3) == 0 {
            continue;
        }
        let some: Vec<_> = lease.events.iter().filter(|_| dice.below(3) > 0).collect();
        let named = some.into_iter().map(|o| OffsetRange { first: *o, count: 1 });
        items.push(SettleItem {
            lease_id: *id,
            term: lease.term,
            topic_id: lease.topic,
            ranges: if dice.below(2) == 0 { Vec::new() } else { named.collect() },
            action: Some(action(dice, mix)),
        });
    }
    if dice.below(8) == 0 {
        items.push(SettleItem {
            lease_id: dice.below(6),
            term: dice.below(3),
            topic_id: 1 + dice.below(3),
            ranges: ranges(dice),
            action: Some(action(dice, mix)),
        });
    }
    Kind::Settle(Settle { subscription, consumer, items })
}

fn action(dice: &mut Dice, mix: Mix) -> Action {
    if mix.gloomy && dice.below(3) > 0 {
        return Action::Reject(Reject::default());
    }
    match dice.below(10) {
        0..=3 => Action::Ack(Ack {}),
        4..=6 => Action::Nack(Nack {
            retry_after_ms: (dice.below(2) == 0).then(|| dice.below(3000)),
            reason: if dice.below(8) == 0 { "NEVER".into() } else { String::new() },
            detail: "no".into(),
        }),
        7 => Action::Reject(Reject { reason: "SCHEMA_VIOLATED".into(), ..Reject::default() }),
        8 => Action::Release(Release {}),
        _ => Action::Extend(Extend { lease_ms: dice.below(2) * 5000 }),
    }
}
