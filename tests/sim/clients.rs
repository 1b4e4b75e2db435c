//! Callers: they publish with sequences and expectations, lease and settle, and tell the oracle what
//! they were told. A caller goes to any node that leads, or thinks so; one whose node crashes, or who
//! does not hear an outcome, asks the next one the same again.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use message_hub::model::command::delivery::{
    Ack, Action, Extend, Nack, Reject, Release, SettleItem,
};
use message_hub::model::command::subscription::At;
use message_hub::model::delivery::Settled;
use message_hub::model::expectation::Expect;
use message_hub::model::ids::{KeyVersion, NodeId};
use message_hub::model::ranges::OffsetRange;
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::model::subscription::{
    DeadLetterPatch, DeliveryOrder, RetryPatch, SubscriptionPatch,
};
use message_hub::model::topic::TopicPatch;
use message_hub::node::Node;
use message_hub::node::lead::{Delivery, PullRequest};
use message_hub::node::validate::{self, PublishRequest};
use message_hub::proto::v1;
use prost::Message as _;

use crate::dice::Dice;
use crate::oracle::{Held, Op, SUBSCRIPTIONS, TOPICS};
use crate::shared::{Phase, Shared};
use crate::{schemas, transactions};

const PATIENCE: Duration = Duration::from_secs(3);
pub(crate) const LEASE_MS: u64 = 1000;

/// Topics and subscriptions that every run has.
pub(crate) async fn prepare(node: &Arc<Node>, seed: u64) -> anyhow::Result<()> {
    let refused = |rejection: Rejection| anyhow!("{rejection}");
    let mut dice = Dice::new(seed, 50);
    for topic in TOPICS {
        node.create_topic(topic, &TopicPatch::default(), String::new()).await.map_err(refused)?;
    }
    schemas::prepare(node).await.map_err(refused)?;
    for (number, (name, pattern)) in SUBSCRIPTIONS.iter().enumerate() {
        let order = if number % 2 == 1 { DeliveryOrder::ByKey } else { DeliveryOrder::None };
        let patch = SubscriptionPatch {
            lease_ms: Some(LEASE_MS),
            max_in_flight: Some(u32::try_from(dice.between(3, 60)).unwrap()),
            order: Some(order as i32),
            retry: Some(RetryPatch {
                initial_ms: Some(100),
                max_ms: Some(1500),
                max_attempts: Some(u32::try_from(dice.between(2, 5)).unwrap()),
                ..RetryPatch::default()
            }),
            dead_letters: Some(DeadLetterPatch {
                trip_disabled: Some(true),
                ..DeadLetterPatch::default()
            }),
            ..SubscriptionPatch::default()
        };
        let start = At::Start(true).into();
        let made = node.create_subscription(name, pattern, &patch, start, String::new()).await;
        made.map_err(refused)?;
    }
    Ok(())
}

/// The callers at one node.
pub(crate) async fn run(id: u64, node: &Arc<Node>, shared: &Shared) {
    tokio::join!(
        publish_all(id, node, shared, 1),
        publish_all(id, node, shared, 2),
        publish_all(id, node, shared, 3),
        consume_all(id, node, shared, 4),
        consume_all(id, node, shared, 5),
        transactions::transact_all(id, node, shared, 7),
        schemas::write_all(id, node, shared, 8),
        meddle(id, node, shared),
    );
}

pub(crate) fn dice(id: u64, shared: &Shared, stream: u64) -> Dice {
    // Another life of the node, other dice: the time tells them apart.
    let world = shared.get();
    let life = u64::try_from(world.trace.now.as_millis()).unwrap();
    Dice::new(world.seed ^ life.rotate_left(32), id * 100 + stream)
}

pub(crate) async fn pause(dice: &mut Dice, ms_max: u64) {
    tokio::time::sleep(Duration::from_millis(dice.between(1, ms_max))).await;
}

/// Who does not lead is asked now and then all the same.
pub(crate) fn worth_asking(node: &Node, dice: &mut Dice) -> bool {
    node.raft().is_leader() || dice.chance(2)
}

pub(crate) fn faults_are_over(shared: &Shared) -> bool {
    shared.get().phase == Phase::Healing
}

async fn publish_all(id: u64, node: &Arc<Node>, shared: &Shared, stream: u64) {
    let mut dice = dice(id, shared, stream);
    loop {
        pause(&mut dice, 60).await;
        if shared.get().phase == Phase::Forming || !worth_asking(node, &mut dice) {
            continue;
        }
        let op = {
            let mut world = shared.change();
            let fresh = world.phase == Phase::Faults;
            world.oracle.begin(id, &mut dice, fresh)
        };
        let Some(op) = op else { continue };
        publish(id, node, shared, op).await;
    }
}

async fn publish(id: u64, node: &Arc<Node>, shared: &Shared, op: Op) {
    let outcome = match validate::publish(request(&op, node), node.now()) {
        Ok(publish) => ask(node.publish("sim", publish)).await,
        Err(rejection) => Err(rejection),
    };
    let mut world = shared.change();
    let (oracle, trace) = {
        let world = &mut *world;
        (&mut world.oracle, &mut world.trace)
    };
    let told = match outcome {
        Ok(published) => {
            trace.say(format!("caller of {id}"), format!("{op} is at {}", published.first_offset));
            oracle.published(&op, &published)
        }
        Err(rejection) if may_be_asked_again(rejection.reason) => {
            trace.say(format!("caller of {id}"), format!("{op}: {}", rejection.reason.as_str()));
            oracle.unanswered(&op);
            Ok(())
        }
        Err(rejection) => Err(format!("{op} is refused: {rejection}")),
    };
    drop(world);
    if let Err(wrong) = told {
        shared.wrong(wrong);
    }
}

fn request(op: &Op, node: &Node) -> PublishRequest {
    let now = node.now().get();
    let event = |number: u32| {
        let at = |ms: u64| prost_types::Timestamp {
            seconds: (ms / 1000).cast_signed(),
            nanos: i32::try_from(ms % 1000).unwrap() * 1_000_000,
        };
        let event = v1::Event {
            id: op.event_id(number),
            source: "/sim".to_owned(),
            r#type: "sim".to_owned(),
            key: op.key.clone(),
            priority: op.priority,
            deliver_at: (op.delay_ms > 0).then(|| at(now + op.delay_ms)),
            data: Bytes::from(vec![b'x'; op.bytes]),
            ..v1::Event::default()
        };
        Bytes::from(event.encode_to_vec())
    };
    PublishRequest {
        topic: op.topic.to_owned(),
        producer: Some(op.producer()),
        expectations: match op.expected {
            Some(version) => vec![(op.key.clone(), Expect::Exact(KeyVersion(version)))],
            None => Vec::new(),
        },
        events: (0..op.count).map(event).collect(),
    }
}

/// An answer, if it comes in time.
pub(crate) async fn ask<T>(
    asked: impl Future<Output = Result<T, Rejection>>,
) -> Result<T, Rejection> {
    let none = |_| Err(Rejection::new(Reason::OutcomeUnknown, "no answer"));
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(none)
}

/// Refusals that say nothing about the call itself.
pub(crate) fn may_be_asked_again(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotLeader
            | Reason::NoLeader
            | Reason::NoQuorum
            | Reason::OutcomeUnknown
            | Reason::DeadlineExceeded
            | Reason::Overloaded
            | Reason::ShuttingDown
    )
}

/// What a subscription has ready for one of its consumers; `None`: no answer.
pub(crate) async fn pull(
    id: u64,
    node: &Arc<Node>,
    shared: &Shared,
    dice: &mut Dice,
    max_events: u64,
) -> Option<Vec<Held>> {
    let (subscription, _) = dice.pick(&SUBSCRIPTIONS);
    let consumer = format!("consumer-{}", dice.below(4));
    let request = PullRequest {
        service: String::new(),
        subscription: subscription.to_owned(),
        consumer: consumer.clone(),
        max_events,
        max_bytes: usize::MAX,
        lease_ms: 0,
        wait: Duration::from_millis(dice.below(300)),
    };
    match ask(node.pull(request)).await {
        Ok(deliveries) => Some(hold(id, shared, subscription, &consumer, &deliveries)),
        Err(rejection) => {
            if !may_be_asked_again(rejection.reason) {
                shared.wrong(format!("a pull is refused: {rejection}"));
            }
            None
        }
    }
}

async fn consume_all(id: u64, node: &Arc<Node>, shared: &Shared, stream: u64) {
    let mut dice = dice(id, shared, stream);
    loop {
        pause(&mut dice, 80).await;
        if shared.get().phase == Phase::Forming || !worth_asking(node, &mut dice) {
            continue;
        }
        let max_events = if faults_are_over(shared) { 64 } else { dice.between(1, 12) };
        if let Some(held) = pull(id, node, shared, &mut dice, max_events).await {
            settle_some(id, node, shared, held, &mut dice).await;
        }
    }
}

fn hold(
    id: u64,
    shared: &Shared,
    subscription: &'static str,
    consumer: &str,
    deliveries: &[Delivery],
) -> Vec<Held> {
    let mut all = Vec::new();
    for delivery in deliveries {
        for batch in &delivery.batches {
            let view = batch.view().expect("a batch as it is stored");
            for (at, n) in (0..batch.count as usize).zip(0..) {
                let delta = view.deltas.get(at).copied().unwrap_or(n);
                let offset = view.first_offset.get() + delta;
                all.push(Held {
                    subscription,
                    consumer: consumer.to_owned(),
                    topic: view.topic.to_owned(),
                    topic_id: delivery.topic_id.get(),
                    offset,
                    lease_id: delivery.lease_id.get(),
                    term: delivery.term.get(),
                });
            }
        }
    }
    for held in &all {
        let told = {
            let mut world = shared.change();
            world.trace.say(format!("consumer of {id}"), format!("gets {held}"));
            world.oracle.delivered(held)
        };
        if let Err(wrong) = told {
            shared.wrong(wrong);
        }
    }
    all
}

/// Settles what was got, one way or another; some of it late, some of it never.
async fn settle_some(id: u64, node: &Arc<Node>, shared: &Shared, held: Vec<Held>, dice: &mut Dice) {
    pause(dice, 30).await;
    // What others should have settled: their leases may have run out.
    let old = if dice.chance(30) { shared.change().oracle.left_over(dice) } else { None };
    let ack = || Action::Ack(Ack {});
    if let Some(old) = old {
        settle(id, node, shared, vec![old], ack()).await;
    }
    if !held.is_empty() && (faults_are_over(shared) || dice.chance(20)) {
        settle(id, node, shared, held, ack()).await;
        return;
    }
    for one in held {
        let action = match dice.below(100) {
            0..55 => ack(),
            55..70 => Action::Nack(Nack { reason: "BUSY".to_owned(), ..Nack::default() }),
            70..74 => Action::Reject(Reject { reason: "BROKEN".to_owned(), ..Reject::default() }),
            74..80 => Action::Release(Release {}),
            80..85 => Action::Extend(Extend { lease_ms: 1500 }),
            _ => {
                shared.change().oracle.leave(one);
                continue;
            }
        };
        settle(id, node, shared, vec![one], action).await;
    }
}

/// What is to become of an event.
pub(crate) fn item(held: &Held, action: Action) -> SettleItem {
    SettleItem {
        lease_id: held.lease_id,
        term: held.term,
        topic_id: held.topic_id,
        ranges: vec![OffsetRange { first: held.offset, count: 1 }],
        action: Some(action),
    }
}

/// Settles what one consumer got of one subscription, in one call.
async fn settle(id: u64, node: &Arc<Node>, shared: &Shared, held: Vec<Held>, action: Action) {
    let (subscription, consumer) = (held[0].subscription.to_owned(), held[0].consumer.clone());
    let handed_on: Vec<_> = held.iter().map(|held| shared.get().oracle.handed_on(held)).collect();
    let items = held.iter().map(|held| item(held, action.clone())).collect();
    let outcome = ask(node.settle(subscription, consumer, items)).await;
    let what = match &action {
        Action::Ack(_) => "ack",
        Action::Nack(_) => "nack",
        Action::Reject(_) => "reject",
        Action::Release(_) => "release",
        Action::Extend(_) => "extend",
    };
    for (number, held) in held.iter().enumerate() {
        let mut world = shared.change();
        let oracle = &mut world.oracle;
        let (said, told) = match &outcome {
            Ok(settled) => match settled.get(number) {
                Some(one) if one.done.count() > 0 => match handed_on[number] {
                    Some(lease) => ("done", Err(format!("{what} of {held} comes after {lease}"))),
                    None => ("done", oracle.settled(held, &action)),
                },
                Some(Settled { refused: Some(reason), .. }) => (reason.as_str(), Ok(())),
                Some(_) | None => ("", Err(format!("{what} of {held} is not done nor refused"))),
            },
            Err(rejection) if may_be_asked_again(rejection.reason) => {
                (rejection.reason.as_str(), Ok(()))
            }
            Err(rejection) => ("", Err(format!("{what} of {held} is refused: {rejection}"))),
        };
        world.trace.say(format!("consumer of {id}"), format!("{what} {held}: {said}"));
        drop(world);
        if let Err(wrong) = told {
            shared.wrong(wrong);
        }
    }
}

/// Hands leadership over now and then, and takes snapshots.
async fn meddle(id: u64, node: &Arc<Node>, shared: &Shared) {
    let mut dice = dice(id, shared, 6);
    loop {
        pause(&mut dice, 4000).await;
        if shared.get().phase != Phase::Faults || !node.raft().is_leader() {
            continue;
        }
        if dice.chance(40) {
            let members = node.status().members;
            let to = dice.pick(&members).node_id;
            let moved = tokio::time::timeout(PATIENCE, node.transfer_leader(Some(to))).await;
            let moved = moved.ok().and_then(Result::ok).map(NodeId::get);
            shared.say(format!("operator of {id}"), format!("leadership to {to}: {moved:?}"));
        } else {
            let taken = tokio::time::timeout(PATIENCE, node.snapshot()).await;
            let taken = taken.ok().and_then(Result::ok).map(|(index, _)| index.get());
            shared.say(format!("operator of {id}"), format!("snapshot: {taken:?}"));
        }
    }
}
