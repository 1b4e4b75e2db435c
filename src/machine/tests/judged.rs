//! Rules of topics: events are taken exactly if what they were judged by is what judges them, alone, in a
//! transaction and staged.

use std::collections::BTreeMap;

use super::delivery::cases::Hub;
use super::random::{Dice, TestEvent, publish_of};
use crate::machine::{producers, query, requests, transaction};
use crate::model::command::{
    AbortTransaction, BeginTransaction, CommitTransaction, CreateTopic, JudgedAgain, Kind,
    Producer, Publish, RegisterSchema, SetSchemaState, StageTransaction, Transact, UpdateTopic,
};
use crate::model::ids::TransactionId;
use crate::model::outcome::Outcome;
use crate::model::rejection::Reason;
use crate::model::schema::SchemaState;
use crate::model::schema_rule::{Judged, SchemaMode, SchemaRule, SubjectVersion};
use crate::model::topic::{TopicConfig, TopicPatch};

const TOPICS: [&str; 2] = ["x", "y"];
const SUBJECTS: [&str; 3] = ["a", "b", "c"];

/// What judges, without looking at the state.
#[derive(Default)]
struct World {
    rules: BTreeMap<&'static str, Option<SchemaRule>>,
    /// Whether each version of a subject stands.
    versions: BTreeMap<&'static str, Vec<bool>>,
    taken: BTreeMap<&'static str, u64>,
    refused: u64,
    judged_again: u64,
}

fn reason(outcome: &Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Rejected(rejection) => Some(rejection.reason),
        _ => None,
    }
}

fn revision_of(hub: &Hub, subject: &str) -> u64 {
    let known = crate::machine::schema::query::subject(&hub.kv, subject).unwrap();
    known.map_or(0, |known| known.revision)
}

impl World {
    fn judge(&self, subject: &str) -> u32 {
        let versions = self.versions.get(subject).into_iter().flatten();
        (1..).zip(versions).filter(|(_, stands)| **stands).map(|(n, _)| n).max().unwrap_or(0)
    }

    fn rule(&self, dice: &mut Dice) -> SchemaRule {
        let mode = [SchemaMode::Off, SchemaMode::Warn, SchemaMode::Enforce][dice.below(3) as usize];
        let subject = ["", "a", "b"][dice.below(3) as usize].to_owned();
        SchemaRule { mode: mode as i32, subject, message: String::new() }
    }

    /// By what events of these types have to be judged.
    fn right(&self, topic: &str, types: &[&str]) -> Option<Judged> {
        let rule = self.rules.get(topic)?.clone()?;
        let mut versions: Vec<_> = types.iter().map(|of| rule.subject_of(of).to_owned()).collect();
        versions.sort();
        versions.dedup();
        let version = |subject: String| SubjectVersion { version: self.judge(&subject), subject };
        let versions = versions.into_iter().map(version).collect();
        Some(Judged { rule, versions })
    }

    /// Events that were judged rightly, or by something else; and whether it is right.
    fn publish(&self, dice: &mut Dice, topic: &str) -> (Publish, bool) {
        let types: Vec<_> = (0..=dice.below(2)).map(|_| SUBJECTS[dice.below(3) as usize]).collect();
        let event = |kind: &&str| TestEvent {
            id: "i".into(),
            source: "s".into(),
            kind: (*kind).to_owned(),
            ..TestEvent::default()
        };
        let events: Vec<_> = types.iter().map(event).collect();
        let right = self.right(topic, &types);
        let mut judged = right.clone();
        match (dice.below(6), &mut judged) {
            (0, judged) => *judged = None,
            (1, Some(judged)) => judged.rule = self.rule(dice),
            (2, Some(judged)) => judged.versions[0].version ^= 1,
            (3, judged @ None) => {
                let rule = SchemaRule { mode: 1, ..SchemaRule::default() };
                *judged = Some(Judged { rule, versions: Vec::new() });
            }
            _ => {}
        }
        let is_right = judged == right;
        (Publish { judged, ..publish_of(topic, &events) }, is_right)
    }

    fn change(&mut self, hub: &mut Hub, dice: &mut Dice, seed: u64) {
        let subject = SUBJECTS[dice.below(3) as usize];
        let known = self.versions.entry(subject).or_default();
        if known.is_empty() || (dice.below(3) == 0 && known.len() < 5) {
            let outcome = hub.apply(Kind::RegisterSchema(RegisterSchema {
                subject: subject.into(),
                fingerprint: format!("{subject}{}", known.len()),
                judged_at: revision_of(hub, subject),
                ..RegisterSchema::default()
            }));
            assert_eq!(reason(&outcome), None, "seed {seed}");
            known.push(true);
            return;
        }
        let at = dice.below(known.len() as u64) as usize;
        let state = [SchemaState::Active, SchemaState::Deprecated, SchemaState::Deleted]
            [dice.below(3) as usize];
        let version = at as u32 + 1;
        let set = SetSchemaState {
            subject: subject.into(),
            version,
            state: state as i32,
            judged_at: revision_of(hub, subject),
            ..SetSchemaState::default()
        };
        assert_eq!(reason(&hub.apply(Kind::SetSchemaState(set))), None, "seed {seed}");
        known[at] = state != SchemaState::Deleted;
    }

    fn set_rule(&mut self, hub: &mut Hub, dice: &mut Dice, seed: u64) {
        let name = TOPICS[dice.below(2) as usize];
        let rule = self.rule(dice);
        let none = rule.mode() == SchemaMode::Off;
        let lacks = !none && !rule.subject.is_empty() && self.judge(&rule.subject) == 0;
        let patch = TopicPatch { schema: Some(rule.clone()), ..TopicPatch::default() };
        let outcome = if self.rules.contains_key(name) {
            let name = name.to_owned();
            hub.apply(Kind::UpdateTopic(UpdateTopic {
                name,
                patch,
                if_revision: 0,
                request_id: String::new(),
            }))
        } else {
            let config = patch.onto(&TopicConfig::defaults());
            let name = name.to_owned();
            hub.apply(Kind::CreateTopic(CreateTopic { name, config, request_id: String::new() }))
        };
        assert_eq!(reason(&outcome), lacks.then_some(Reason::SchemaNotFound), "seed {seed}");
        if !lacks {
            self.rules.insert(name, Some(rule).filter(|_| !none));
        }
    }

    fn note(
        &mut self,
        (outcome, topics, right): (&Outcome, &[&'static str], bool),
        parts: &[&Publish],
        seed: u64,
    ) {
        let there = topics.iter().all(|topic| self.rules.contains_key(topic));
        let expected = if there && right {
            None
        } else if there {
            Some(Reason::SchemaChanged)
        } else {
            reason(outcome).filter(|r| matches!(r, Reason::TopicNotFound | Reason::SchemaChanged))
        };
        assert_eq!(reason(outcome), expected, "seed {seed}");
        assert!(there || reason(outcome).is_some(), "seed {seed}");
        if reason(outcome).is_some() {
            self.refused += 1;
            return;
        }
        for (topic, part) in topics.iter().zip(parts) {
            *self.taken.entry(topic).or_default() += u64::from(part.count);
        }
    }

    fn staged(&mut self, hub: &mut Hub, dice: &mut Dice, seed: u64) {
        let begin = BeginTransaction { timeout_ms: 60_000, ..BeginTransaction::default() };
        let Outcome::Transaction(begun) = hub.apply(Kind::BeginTransaction(begin)) else {
            panic!("seed {seed}: not begun")
        };
        let (id, topic) = (begun.id.get(), TOPICS[dice.below(2) as usize]);
        self.commit(hub, dice, (id, topic), seed);
        // Few may be open at a time; after a commit this says so and changes nothing.
        hub.apply(Kind::AbortTransaction(AbortTransaction { id }));
    }

    fn commit(&mut self, hub: &mut Hub, dice: &mut Dice, of: (u64, &'static str), seed: u64) {
        let (id, topic) = of;
        let mut all_right = true;
        let mut whole = Publish::default();
        for _ in 0..=dice.below(2) {
            let (part, right) = self.publish(dice, topic);
            (all_right, whole.count) = (all_right & right, whole.count + part.count);
            let stage = StageTransaction { id, parts: vec![part], ..StageTransaction::default() };
            hub.apply(Kind::StageTransaction(stage));
            // What was right for one stage has to be right at the commit.
            if dice.below(4) == 0 {
                let (before, rule) =
                    (SUBJECTS.map(|s| self.judge(s)), self.rules.get(topic).cloned());
                self.change(hub, dice, seed);
                self.set_rule(hub, dice, seed);
                let same = before == SUBJECTS.map(|s| self.judge(s))
                    && rule.as_ref() == self.rules.get(topic);
                all_right &= same;
                if !same {
                    // It may be right all the same: what changed may not concern it.
                    self.commit_again(hub, of, seed);
                    return;
                }
            }
        }
        if !self.rules.contains_key(topic) {
            return;
        }
        let outcome =
            hub.apply(Kind::CommitTransaction(CommitTransaction { id, judged_again: None }));
        self.note((&outcome, &[topic], all_right), &[&whole], seed);
        if reason(&outcome).is_some() {
            self.commit_again(hub, of, seed);
        }
    }

    /// As a proposer does whose commit was refused.
    fn commit_again(&mut self, hub: &mut Hub, (id, topic): (u64, &'static str), seed: u64) {
        let staged = transaction::query::staged_parts(&hub.kv, TransactionId(id)).unwrap();
        let Some(JudgedAgain { stages, mut parts }) =
            staged.filter(|_| self.rules.contains_key(topic))
        else {
            return;
        };
        let Some(part) = parts.first_mut() else { return };
        part.judged = self.right(topic, &SUBJECTS);
        let whole = part.clone();
        let late = JudgedAgain { stages: stages + 1, parts: parts.clone() };
        let late = CommitTransaction { id, judged_again: Some(late) };
        let outcome = hub.apply(Kind::CommitTransaction(late));
        assert_eq!(reason(&outcome), Some(Reason::SchemaChanged), "seed {seed}");
        let again = CommitTransaction { id, judged_again: Some(JudgedAgain { stages, parts }) };
        let outcome = hub.apply(Kind::CommitTransaction(again));
        self.note((&outcome, &[topic], true), &[&whole], seed);
        self.judged_again += 1;
    }
}

#[test]
fn events_are_taken_if_what_judged_them_is_what_judges_them() {
    let (mut taken, mut refused, mut again) = (0, 0, 0);
    let count = super::sequences() / 5;
    for seed in super::first_seed()..super::first_seed() + count {
        let (mut dice, mut hub, mut world) = (Dice::new(seed), Hub::plain(), World::default());
        for _ in 0..10 + dice.below(30) {
            hub.now_ms += 1;
            match dice.below(10) {
                0 | 1 => world.change(&mut hub, &mut dice, seed),
                2 | 3 => world.set_rule(&mut hub, &mut dice, seed),
                4 => world.staged(&mut hub, &mut dice, seed),
                5 | 6 => {
                    let (x, x_right) = world.publish(&mut dice, "x");
                    let (y, y_right) = world.publish(&mut dice, "y");
                    let parts = vec![x.clone(), y.clone()];
                    let transact = Transact { parts, ..Transact::default() };
                    let outcome = hub.apply(Kind::Transact(transact));
                    world.note((&outcome, &TOPICS, x_right && y_right), &[&x, &y], seed);
                }
                _ => {
                    let topic = TOPICS[dice.below(2) as usize];
                    let (publish, right) = world.publish(&mut dice, topic);
                    let outcome = hub.apply(Kind::Publish(publish.clone()));
                    world.note((&outcome, &[topic], right), &[&publish], seed);
                }
            }
        }
        for (topic, rule) in &world.rules {
            let info = query::topic(&hub.kv, topic).unwrap().unwrap();
            assert_eq!(info.config.schema, *rule, "seed {seed}");
            let wanted = world.taken.get(topic).copied().unwrap_or(0);
            assert_eq!(info.next_offset.get(), wanted, "seed {seed}: topic {topic}");
        }
        taken += world.taken.values().sum::<u64>();
        refused += world.refused;
        again += world.judged_again;
    }
    assert!(taken > count && refused > count && again > count / 4, "{taken} {refused} {again}");
}

/// So a proposer may send a repeated call as it is, although it breaks the schema of now.
#[test]
fn a_repeated_call_gets_its_first_answer_although_it_was_not_judged_again() {
    let mut hub = Hub::plain();
    let register = |fingerprint: &str, judged_at| RegisterSchema {
        subject: "a".into(),
        fingerprint: fingerprint.into(),
        judged_at,
        ..RegisterSchema::default()
    };
    hub.apply(Kind::RegisterSchema(register("1", 0)));
    let rule = SchemaRule { mode: 2, subject: "a".into(), message: String::new() };
    let config = TopicConfig { schema: Some(rule.clone()), ..TopicConfig::defaults() };
    let (name, request_id) = ("x".to_owned(), String::new());
    hub.apply(Kind::CreateTopic(CreateTopic { name, config, request_id }));
    let versions = vec![SubjectVersion { subject: "a".into(), version: 1 }];
    let judged = Some(Judged { rule, versions });
    let event = TestEvent { id: "i".into(), kind: "k".into(), ..TestEvent::default() };
    let producer = Some(Producer { id: "p".into(), sequence: 1, ..Producer::default() });
    let unjudged = Publish { producer: producer.clone(), ..publish_of("x", &[event]) };
    let first = Publish { judged, ..unjudged.clone() };
    let known = |hub: &Hub| producers::is_answered(&hub.kv, producer.as_ref().unwrap()).unwrap();
    assert!(!known(&hub));
    assert_eq!(reason(&hub.apply(Kind::Publish(unjudged.clone()))), Some(Reason::SchemaChanged));
    assert!(!known(&hub));
    let transact = |part: &Publish| {
        let part = Publish { producer: None, ..part.clone() };
        Kind::Transact(Transact {
            parts: vec![part],
            request_id: "r".into(),
            ..Transact::default()
        })
    };
    assert_eq!(reason(&hub.apply(Kind::Publish(first.clone()))), None);
    assert_eq!(reason(&hub.apply(transact(&first))), None);
    assert_eq!(reason(&hub.apply(Kind::RegisterSchema(register("2", 1)))), None);
    assert!(known(&hub) && requests::is_answered(&hub.kv, "r").unwrap());
    assert!(!requests::is_answered(&hub.kv, "s").unwrap());
    let Outcome::Published(again) = hub.apply(Kind::Publish(unjudged.clone())) else { panic!() };
    assert!(again.duplicate && again.count == 1);
    assert_eq!(reason(&hub.apply(transact(&unjudged))), None);
    assert_eq!(query::topic(&hub.kv, "x").unwrap().unwrap().next_offset.get(), 2);
}
