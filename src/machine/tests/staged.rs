//! Staged transactions: nobody sees what is staged; a commit does the same as all of it in one command, once.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use prost::Message as _;

use super::delivery::cases::Hub;
use super::delivery::random::{TestEvent, create_topic};
use super::random::{Dice, keyed_publish};
use super::transact::{Held, hub, is_refused, lease, on, transact};
use crate::machine::delivery::timers::{Due, Timer};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::mem::MemKv;
use crate::machine::transaction::query;
use crate::model::command::{
    AbortTransaction, BeginTransaction, CommitTransaction, DeleteTopic, Expectation, Housekeep,
    Kind, Publish, StageTransaction, Tick, Transact,
};
use crate::model::event_run;
use crate::model::expectation::Expect;
use crate::model::ids::{KeyVersion, TransactionId};
use crate::model::limits::{
    TICK_EVENTS_MAX, TRANSACTION_KEPT_MS, TRANSACTION_OPERATIONS_MAX, TRANSACTIONS_OPEN_MAX,
    TRANSACTIONS_STAGED_BYTES_MAX,
};
use crate::model::outcome::Outcome;
use crate::model::rejection::Reason;
use crate::model::transaction::{TransactionInfo, TransactionState};

/// What a transaction is, without looking at the state.
struct Staged {
    state: TransactionState,
    expires_at: u64,
    stages: Vec<Transact>,
    bytes: u64,
    answer: Option<TransactionInfo>,
}

/// All stages as one command, event by event; `None`: they contradict each other.
fn joined(stages: &[Transact]) -> Option<Transact> {
    let mut whole = Transact::default();
    let mut leases = Vec::new();
    for part in stages.iter().flat_map(|stage| &stage.parts) {
        let Some(known) = whole.parts.iter_mut().find(|known| known.topic == part.topic) else {
            whole.parts.push(part.clone());
            continue;
        };
        for new in &part.expectations {
            let contradicts =
                |old: &Expectation| old.key == new.key && old.expect() != new.expect();
            if known.expectations.iter().any(contradicts) {
                return None;
            }
            known.expectations.push(new.clone());
        }
        let events = event_run::iter(&known.events).chain(event_run::iter(&part.events));
        let events: Vec<_> = events.map(|event| event.unwrap().to_vec().into()).collect();
        known.events = event_run::encode(&events);
        known.count += part.count;
        known.keyed |= part.keyed;
        known.special |= part.special;
        known.largest_event_bytes = known.largest_event_bytes.max(part.largest_event_bytes);
    }
    for settle in stages.iter().flat_map(|stage| &stage.settles) {
        for item in &settle.items {
            let lease = (settle.subscription.clone(), item.lease_id);
            if leases.contains(&lease) {
                return None;
            }
            leases.push(lease);
        }
        whole.settles.push(settle.clone());
    }
    Some(whole)
}

/// Everything that is not about staged transactions.
fn others(kv: &MemKv) -> BTreeMap<(Table, Vec<u8>), Vec<u8>> {
    let mut rows = BTreeMap::new();
    let about = [Table::Meta, Table::Transactions, Table::Staged, Table::Requests];
    for table in Table::ALL.into_iter().filter(|table| !about.contains(table)) {
        let end = [0xff; 64];
        kv.scan(table, &[], &end, Order::Ascending, &mut |key, row| {
            let of_it = table == Table::Timers
                && matches!(Timer::decode(key).unwrap().due, Due::Transaction(_));
            if !of_it {
                rows.insert((table, key.to_vec()), row.to_vec());
            }
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    }
    rows
}

fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Rejected(rejection) => Some(rejection.reason),
        _ => None,
    }
}

fn info(outcome: Outcome) -> TransactionInfo {
    match outcome {
        Outcome::Transaction(info) => *info,
        other => panic!("{other:?}"),
    }
}

fn begin(hub: &mut Hub, timeout_ms: u64, request_id: &str) -> Outcome {
    let request_id = request_id.to_owned();
    let begin = BeginTransaction { timeout_ms, label: "l".into(), request_id };
    hub.apply(Kind::BeginTransaction(begin))
}

fn stage_of(id: u64, what: &Transact, request_id: &str) -> StageTransaction {
    let Transact { parts, settles, .. } = what.clone();
    let request_id = request_id.to_owned();
    StageTransaction { id, parts, settles, request_id, topic_ids: Vec::new() }
}

fn commit(hub: &mut Hub, id: u64) -> Outcome {
    hub.apply(Kind::CommitTransaction(CommitTransaction { id, judged_again: None }))
}

fn abort(hub: &mut Hub, id: u64) -> Outcome {
    hub.apply(Kind::AbortTransaction(AbortTransaction { id }))
}

/// Why a transaction takes nothing any more.
fn closed(of: &Staged, now: u64) -> Option<Reason> {
    match of.state {
        TransactionState::Open if of.expires_at > now => None,
        TransactionState::Open | TransactionState::Expired => Some(Reason::TransactionExpired),
        TransactionState::Committed | TransactionState::Aborted => Some(Reason::TransactionEnded),
    }
}

#[derive(Default)]
struct World {
    known: BTreeMap<u64, Staged>,
    held: Vec<Held>,
    committed: u64,
    refused: u64,
}

impl World {
    fn some(&self, dice: &mut Dice) -> u64 {
        1 + dice.below(self.known.len() as u64 + 1)
    }

    fn open(&self) -> usize {
        self.known.values().filter(|of| of.state == TransactionState::Open).count()
    }

    fn begin(&mut self, hub: &mut Hub, dice: &mut Dice) {
        let timeout_ms = 1000 + dice.below(5000);
        let outcome = begin(hub, timeout_ms, "");
        if self.open() as u64 == TRANSACTIONS_OPEN_MAX {
            assert_eq!(reason(&outcome), Some(Reason::LimitReached));
            return;
        }
        let info = info(outcome);
        assert_eq!(info.id.get(), self.known.len() as u64 + 1, "numbers are never used again");
        let expires_at = hub.now_ms + timeout_ms;
        assert_eq!(info.expires_at.get(), expires_at);
        let (state, stages) = (TransactionState::Open, Vec::new());
        self.known
            .insert(info.id.get(), Staged { state, expires_at, stages, bytes: 0, answer: None });
    }

    fn stage(&mut self, hub: &mut Hub, dice: &mut Dice, seed: u64) {
        let id = self.some(dice);
        let what = transact(dice, &self.held);
        let staged = |of: &Staged| if of.state == TransactionState::Open { of.bytes } else { 0 };
        let everywhere: u64 = self.known.values().map(staged).sum();
        let before = others(&hub.kv);
        let outcome = hub.apply(Kind::StageTransaction(stage_of(id, &what, "")));
        assert!(others(&hub.kv) == before, "seed {seed}: what is staged is seen");
        let bytes = stage_of(id, &what, "").encoded_len() as u64;
        let Some(of) = self.known.get_mut(&id) else {
            assert_eq!(reason(&outcome), Some(Reason::TransactionNotFound));
            return;
        };
        let mut stages = of.stages.clone();
        stages.push(what.clone());
        let names_nothing = what.parts.iter().any(|part| part.topic == "gone");
        let nobody = what.settles.iter().any(|settle| settle.subscription == "missing");
        let expected = match closed(of, hub.now_ms) {
            Some(reason) => Some(reason),
            None if everywhere + bytes > TRANSACTIONS_STAGED_BYTES_MAX => {
                Some(Reason::LimitReached)
            }
            None if names_nothing => Some(Reason::TopicNotFound),
            None if nobody => Some(Reason::SubscriptionNotFound),
            None if joined(&stages).is_none() => Some(Reason::InvalidRequest),
            None => None,
        };
        assert_eq!(reason(&outcome), expected, "seed {seed}: {outcome:?}");
        if expected.is_none() {
            of.stages = stages;
            of.bytes += bytes;
            assert_eq!(info(outcome).bytes, of.bytes, "seed {seed}");
        }
    }

    fn commit(&mut self, hub: &mut Hub, dice: &mut Dice, seed: u64) {
        let id = self.some(dice);
        let Some(of) = self.known.get_mut(&id) else {
            assert_eq!(reason(&commit(hub, id)), Some(Reason::TransactionNotFound));
            return;
        };
        if let Some(answer) = &of.answer {
            let (before, _) = on(hub, Vec::new());
            let again = info(commit(hub, id));
            assert!(hub.kv == before, "seed {seed}: a repeated commit does nothing");
            let offsets = |info: &TransactionInfo| -> Vec<_> {
                info.parts.iter().map(|(topic, part)| (topic.clone(), part.first_offset)).collect()
            };
            assert_eq!(offsets(&again), offsets(answer), "seed {seed}");
            return;
        }
        if let Some(expected) = closed(of, hub.now_ms) {
            let (before, _) = on(hub, Vec::new());
            assert_eq!(reason(&commit(hub, id)), Some(expected), "seed {seed}");
            assert!(hub.kv == before, "seed {seed}: a refusal left a trace");
            return;
        }
        let whole = joined(&of.stages).unwrap();
        let refused = is_refused(hub, &whole);
        let (expected, outcomes) = on(hub, vec![Kind::Transact(whole.clone())]);
        let (before, _) = on(hub, Vec::new());
        let outcome = commit(hub, id);
        assert!(others(&hub.kv) == others(&expected), "seed {seed}");
        if refused {
            assert!(reason(&outcome).is_some(), "seed {seed}: {outcome:?}");
            assert!(hub.kv == before, "seed {seed}: a refusal left a trace");
            self.refused += 1;
            return;
        }
        let info = info(outcome);
        let Outcome::Transacted(parts) = &outcomes[0] else { panic!("seed {seed}: {outcomes:?}") };
        let topics = whole.parts.iter().map(|part| part.topic.clone());
        assert_eq!(info.parts, topics.zip(parts.clone()).collect::<Vec<_>>(), "seed {seed}");
        of.state = TransactionState::Committed;
        of.answer = Some(info);
        self.committed += 1;
    }

    fn abort(&mut self, hub: &mut Hub, dice: &mut Dice) {
        let id = self.some(dice);
        let outcome = abort(hub, id);
        let Some(of) = self.known.get_mut(&id) else {
            assert_eq!(reason(&outcome), Some(Reason::TransactionNotFound));
            return;
        };
        match of.state {
            TransactionState::Committed => {
                assert_eq!(reason(&outcome), Some(Reason::TransactionEnded));
            }
            TransactionState::Open => {
                of.state = TransactionState::Aborted;
                assert_eq!(info(outcome).state, TransactionState::Aborted);
            }
            other => assert_eq!(info(outcome).state, other),
        }
    }

    fn tick(&mut self, hub: &mut Hub) {
        while matches!(hub.apply(Kind::Tick(Tick {})), Outcome::Ticked(ticked) if ticked.more) {}
        for of in self.known.values_mut() {
            if of.state == TransactionState::Open && of.expires_at <= hub.now_ms {
                of.state = TransactionState::Expired;
            }
        }
    }

    fn check(&self, hub: &Hub, seed: u64) {
        let none = TransactionId(0);
        let (listed, more) = query::transactions(&hub.kv, none, None, 1000).unwrap();
        assert_eq!((listed.len(), more), (self.known.len(), None), "seed {seed}");
        let mut rows = 0;
        for (info, (id, of)) in listed.iter().zip(&self.known) {
            assert_eq!((info.id.get(), info.state), (*id, of.state), "seed {seed}");
            let view = query::transaction(&hub.kv, info.id).unwrap().unwrap();
            assert_eq!(&view.info, info, "seed {seed}");
            let open = of.state == TransactionState::Open;
            rows += if open { of.stages.len() } else { 0 };
            let events: u32 = view.parts.iter().map(|part| part.events).sum();
            let staged = of.stages.iter().flat_map(|stage| &stage.parts).map(|part| part.count);
            assert_eq!(events, if open { staged.sum() } else { 0 }, "seed {seed}");
        }
        assert_eq!(hub.kv.rows(Table::Staged), rows, "seed {seed}: nothing of what ended is kept");
        let open = Some(TransactionState::Open);
        let (listed, _) = query::transactions(&hub.kv, none, open, 1000).unwrap();
        assert_eq!(listed.len(), self.open(), "seed {seed}");
    }
}

#[test]
fn a_commit_does_what_was_staged_once_and_nothing_else_does() {
    let (mut committed, mut refused) = (0, 0);
    let count = super::sequences() / 5;
    for seed in super::first_seed()..super::first_seed() + count {
        let (mut dice, mut hub, mut world) = (Dice::new(seed), hub(), World::default());
        for _ in 0..10 + dice.below(30) {
            match dice.below(12) {
                0 | 1 => world.begin(&mut hub, &mut dice),
                2..=5 => world.stage(&mut hub, &mut dice, seed),
                6 | 7 => world.commit(&mut hub, &mut dice, seed),
                8 => world.abort(&mut hub, &mut dice),
                9 => {
                    let publish = keyed_publish(&mut dice, "t", 2, &["a", "b", "c"]);
                    hub.apply(Kind::Publish(publish));
                    world.held.extend(lease(&mut hub, &mut dice));
                }
                10 => hub.now_ms += dice.below(1500),
                _ => world.tick(&mut hub),
            }
        }
        world.check(&hub, seed);
        committed += world.committed;
        refused += world.refused;
    }
    // Both happen often enough to say something.
    assert!(committed > count / 2 && refused > count / 8, "{committed} done, {refused} refused");
}

#[test]
fn repeated_requests_change_nothing_and_what_ended_is_forgotten_after_a_day() {
    let mut hub = hub();
    let first = info(begin(&mut hub, 5000, "b"));
    assert_eq!(info(begin(&mut hub, 9000, "b")), first);
    let parts = vec![keyed_publish(&mut Dice::new(1), "t", 2, &["a"])];
    let what = Transact { parts, ..Transact::default() };
    let stage = || Kind::StageTransaction(stage_of(1, &what, "s"));
    let staged = info(hub.apply(stage()));
    assert_eq!(info(hub.apply(stage())), staged);
    assert_eq!(staged.operations, 2);
    let done = info(commit(&mut hub, 1));
    assert_eq!((done.state, done.parts[0].1.count), (TransactionState::Committed, 2));
    assert_eq!(reason(&abort(&mut hub, 1)), Some(Reason::TransactionEnded));
    // A stage that comes late changes nothing, also when it is a repetition.
    assert_eq!(info(hub.apply(stage())).state, TransactionState::Committed);
    assert_eq!(reason(&hub.apply(Kind::StageTransaction(stage_of(1, &what, "")))), {
        Some(Reason::TransactionEnded)
    });
    hub.now_ms += TRANSACTION_KEPT_MS;
    hub.apply(Kind::Housekeep(Housekeep {}));
    assert_eq!(hub.kv.rows(Table::Transactions), 1, "kept for a day");
    hub.now_ms += 2;
    hub.apply(Kind::Housekeep(Housekeep {}));
    assert_eq!(hub.kv.rows(Table::Transactions), 0);
    assert_eq!(reason(&commit(&mut hub, 1)), Some(Reason::TransactionNotFound));
    assert_eq!(info(begin(&mut hub, 5000, "b")).id.get(), 2, "never touches a newer one");
}

#[test]
fn stages_that_expire_count_among_what_a_tick_does() {
    const STAGES: usize = 10;
    let mut hub = hub();
    // A lease that leaves room for less than that, and ends first.
    let events = TICK_EVENTS_MAX - 6;
    let event =
        TestEvent { id: "i".into(), source: "s".into(), kind: "k".into(), ..Default::default() };
    hub.publish(&vec![event; events as usize]);
    let granted = hub.lease(&[(0, events)]);
    assert_eq!(granted.iter().map(|grant| grant.ranges.count()).sum::<u64>(), events);
    let lease_ms = granted[0].expires_at.get() - hub.now_ms;
    for id in 1..=3 {
        begin(&mut hub, lease_ms, "");
        let expectations = vec![Expectation::new("k".into(), Expect::Any)];
        let part = Publish { topic: "t".into(), expectations, ..Publish::default() };
        let what = Transact { parts: vec![part], ..Transact::default() };
        for _ in 0..STAGES {
            info(hub.apply(Kind::StageTransaction(stage_of(id, &what, ""))));
        }
    }
    hub.now_ms += lease_ms;
    let mut tick = || match hub.apply(Kind::Tick(Tick {})) {
        Outcome::Ticked(ticked) => (ticked.timers, ticked.more, hub.kv.rows(Table::Staged)),
        other => panic!("{other:?}"),
    };
    assert_eq!(tick(), (2, true, 2 * STAGES), "the lease and one transaction");
    assert_eq!(tick(), (2, false, 0), "the others");
}

#[test]
fn a_transaction_is_bounded() {
    let mut hub = hub();
    begin(&mut hub, 5000, "");
    let expecting = |from: usize, count: usize| {
        let key = |n: usize| Expectation::new(format!("{n}"), Expect::Exact(KeyVersion(1)));
        let expectations = (from..from + count).map(key).collect();
        let part = Publish { topic: "t".into(), expectations, ..Publish::default() };
        Transact { parts: vec![part], ..Transact::default() }
    };
    let mut stage = |what: &Transact| hub.apply(Kind::StageTransaction(stage_of(1, what, "")));
    let most = TRANSACTION_OPERATIONS_MAX;
    assert_eq!(reason(&stage(&expecting(0, most + 1))), Some(Reason::InvalidRequest));
    assert_eq!(info(stage(&expecting(0, 100))).operations, 100);
    assert_eq!(reason(&stage(&expecting(100, most - 99))), Some(Reason::InvalidRequest));
    let contradicting = Transact { parts: expecting(5, 1).parts, ..Transact::default() };
    assert_eq!(info(stage(&contradicting)).operations, 101, "the same expectation twice");
    let mut parts = contradicting.parts;
    parts[0].expectations = vec![Expectation::new("5".into(), Expect::NoKey)];
    let refused = stage(&Transact { parts, ..Transact::default() });
    assert_eq!(reason(&refused), Some(Reason::InvalidRequest));
}

#[test]
fn a_commit_follows_no_name_to_another_topic() {
    let mut hub = hub();
    let what = |topic: &str| {
        let parts = vec![keyed_publish(&mut Dice::new(1), topic, 1, &["a"])];
        Transact { parts, ..Transact::default() }
    };
    let replace = |hub: &mut Hub| {
        hub.apply(Kind::DeleteTopic(DeleteTopic { name: "w".into(), ..DeleteTopic::default() }));
        hub.apply(create_topic("w"));
    };
    hub.apply(create_topic("w"));
    for id in 1..=3 {
        info(begin(&mut hub, 5000, ""));
        info(hub.apply(Kind::StageTransaction(stage_of(id, &what("t"), ""))));
    }
    for id in 1..=2 {
        info(hub.apply(Kind::StageTransaction(stage_of(id, &what("w"), ""))));
    }
    replace(&mut hub);
    // Also with what was staged for the new one.
    info(hub.apply(Kind::StageTransaction(stage_of(2, &what("w"), ""))));
    info(hub.apply(Kind::StageTransaction(stage_of(3, &what("w"), ""))));
    for id in 1..=2 {
        let (before, _) = on(&hub, Vec::new());
        let Outcome::Rejected(refused) = commit(&mut hub, id) else { panic!("{id} is committed") };
        assert_eq!((refused.reason, refused.fact("topic")), (Reason::TopicNotFound, Some("w")));
        assert!(refused.message.contains("created anew"), "{refused}");
        assert!(hub.kv == before, "a refusal left a trace");
        assert_eq!(info(abort(&mut hub, id)).state, TransactionState::Aborted);
    }
    assert_eq!(info(commit(&mut hub, 3)).state, TransactionState::Committed);
}
