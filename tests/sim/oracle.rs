//! What callers were promised, and whether it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use message_hub::model::command::Producer;
use message_hub::model::command::delivery::{Ack, Action};
use message_hub::model::outcome::Published;
use message_hub::model::rejection::{Reason, Rejection};

use crate::dice::Dice;
use crate::errand::Errand;
use crate::ledger::{Ledger, Transaction};
use crate::subject::{JUDGED, Subject, Writing};

pub(crate) const TOPICS: [&str; 3] = ["orders.created", "orders.paid", "stock"];
/// Names and patterns. Every second one is ordered by key.
pub(crate) const SUBSCRIPTIONS: [(&str, &str); 3] =
    [("billing", "orders.*"), ("audit", "orders.created"), ("shop", "stock")];
const PRODUCERS: usize = 6;
/// Leases that consumers have walked away from.
const LEFT_MAX: usize = 50;

/// One publish, however often it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Op {
    pub(crate) producer: usize,
    pub(crate) sequence: u64,
    pub(crate) topic: &'static str,
    pub(crate) key: String,
    pub(crate) count: u32,
    /// The version that the key has before.
    pub(crate) expected: Option<u64>,
    pub(crate) priority: Option<u32>,
    pub(crate) delay_ms: u64,
    pub(crate) bytes: usize,
}

impl Op {
    pub(crate) fn event_id(&self, number: u32) -> String {
        format!("p{}-{}-{number}", self.producer, self.sequence)
    }

    pub(crate) fn producer(&self) -> Producer {
        Producer {
            id: format!("p{}", self.producer),
            epoch: 1,
            sequence: self.sequence,
            acknowledged_below: self.sequence,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { producer, sequence, topic, count, .. } = self;
        write!(f, "publish {sequence} of p{producer}, {count} to {topic}")
    }
}

/// An event under a lease.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) subscription: &'static str,
    pub(crate) consumer: String,
    pub(crate) topic: String,
    pub(crate) topic_id: u64,
    pub(crate) offset: u64,
    pub(crate) lease_id: u64,
    pub(crate) term: u64,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subscription, consumer, topic, offset, lease_id, term, .. } = self;
        write!(
            f,
            "{subscription} {topic}/{offset} of {consumer} by lease {lease_id} of term {term}"
        )
    }
}

#[derive(Default)]
struct Caller {
    sequence: u64,
    errand: Errand<Op>,
}

/// A place in a topic as a subscription sees it.
type Place = (&'static str, String, u64);

pub(crate) struct Oracle {
    callers: Vec<Caller>,
    /// Versions of keys that only one producer publishes to.
    versions: BTreeMap<(usize, &'static str), u64>,
    /// What was acknowledged: topic and offset → id.
    acknowledged: BTreeMap<(&'static str, u64), String>,
    /// Events that were acked or rejected, and by which lease.
    ended: BTreeMap<Place, u64>,
    /// The latest lease by which an event was handed out.
    handed_out: BTreeMap<Place, u64>,
    left: Vec<Held>,
    pub(crate) deliveries: u64,
    pub(crate) ledger: Ledger,
    pub(crate) subject: Subject,
}

impl Oracle {
    pub(crate) fn new(_seed: u64) -> Self {
        Self {
            callers: (0..PRODUCERS).map(|_| Caller::default()).collect(),
            versions: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            ended: BTreeMap::new(),
            handed_out: BTreeMap::new(),
            left: Vec::new(),
            deliveries: 0,
            ledger: Ledger::default(),
            subject: Subject::default(),
        }
    }

    /// The next thing to ask a node for: what some producer has no answer to, or something new.
    pub(crate) fn begin(&mut self, node: u64, dice: &mut Dice, fresh: bool) -> Option<Op> {
        let idle: Vec<usize> = (0..PRODUCERS)
            .filter(|p| self.callers[*p].errand.is_idle())
            .filter(|p| fresh || !self.callers[*p].errand.is_done())
            .collect();
        if idle.is_empty() {
            return None;
        }
        let producer = dice.pick(&idle);
        if let Some(op) = self.callers[producer].errand.again(node) {
            return Some(op);
        }
        let op = self.invent(producer, dice);
        Some(self.callers[producer].errand.begin(op, node))
    }

    fn invent(&mut self, producer: usize, dice: &mut Dice) -> Op {
        self.callers[producer].sequence += 1;
        let topic = dice.pick(&TOPICS);
        let owned = dice.chance(60);
        let key = match (owned, dice.below(3)) {
            (true, _) => format!("own-{producer}"),
            (false, 0) => String::new(),
            (false, n) => format!("shared-{n}"),
        };
        let version = self.versions.get(&(producer, topic)).copied().unwrap_or(0);
        Op {
            producer,
            sequence: self.callers[producer].sequence,
            topic,
            key,
            count: u32::try_from(dice.between(1, 4)).unwrap(),
            expected: owned.then_some(version),
            priority: dice.chance(20).then(|| u32::try_from(dice.below(10)).unwrap()),
            delay_ms: if dice.chance(10) { dice.between(1, 2500) } else { 0 },
            bytes: usize::try_from(dice.between(1, 200)).unwrap(),
        }
    }

    /// The node that was asked is gone, and with it whoever waited there.
    pub(crate) fn crashed(&mut self, node: u64) {
        for caller in &mut self.callers {
            caller.errand.crashed(node);
        }
        self.ledger.crashed(node);
        self.subject.crashed(node);
    }

    pub(crate) fn unanswered(&mut self, op: &Op) {
        self.callers[op.producer].errand.unanswered();
    }

    pub(crate) fn published(&mut self, op: &Op, published: &Published) -> Result<(), String> {
        self.callers[op.producer].errand.answered();
        let ids = (0..op.count).map(|number| op.event_id(number));
        self.acknowledge(op.topic, published, ids.collect())?;
        if let Some(expected) = op.expected {
            let version = expected + u64::from(op.count);
            let told = published.key_versions.last().map(|v| v.get());
            if told != Some(version) {
                return Err(format!("{op} came to version {told:?}, not {version}"));
            }
            self.versions.insert((op.producer, op.topic), version);
        }
        Ok(())
    }

    /// An event to the topic with the schema was taken.
    pub(crate) fn written(
        &mut self,
        writing: &Writing,
        published: &Published,
    ) -> Result<(), String> {
        self.subject.written(writing)?;
        self.acknowledge(JUDGED, published, writing.event_ids().collect())
    }

    /// Events of a call, with their ids, are where its answer says.
    fn acknowledge(
        &mut self,
        topic: &'static str,
        published: &Published,
        ids: Vec<String>,
    ) -> Result<(), String> {
        if published.count as usize != ids.len() {
            return Err(format!("{ids:?} were answered with {} events", published.count));
        }
        for (number, id) in (0..).zip(ids) {
            let offset = published.first_offset.get() + number;
            if let Some(other) = self.acknowledged.insert((topic, offset), id.clone()) {
                return Err(format!("{id} and {other} are both at {topic}/{offset}"));
            }
        }
        Ok(())
    }

    /// The next transaction, if there is room for one.
    pub(crate) fn begin_transaction(
        &mut self,
        node: u64,
        dice: &mut Dice,
        consumes: Option<Held>,
    ) -> Option<Transaction> {
        self.ledger.invent(node, dice, consumes, &self.subject)
    }

    /// A transaction was done, and this is where the events of each part went.
    pub(crate) fn transacted(
        &mut self,
        transaction: &Transaction,
        parts: &[Published],
    ) -> Result<(), String> {
        self.ledger.done(transaction, parts)?;
        for (number, published) in parts.iter().enumerate() {
            let topic = transaction.parts[number].topic;
            self.acknowledge(topic, published, transaction.ids_of(number))?;
        }
        match &transaction.consumes {
            Some(held) => self.settled(held, &Action::Ack(Ack {})),
            None => Ok(()),
        }
    }

    /// A transaction was refused for good, for what it asks for.
    pub(crate) fn refused(
        &mut self,
        transaction: &Transaction,
        refused: &Rejection,
    ) -> Result<(), String> {
        self.ledger.undone(transaction);
        let mut judged = transaction.parts.iter().filter_map(|part| part.written_for);
        let expected = match refused.reason {
            Reason::VersionConflict => transaction.impossible,
            Reason::SchemaViolated => !judged.all(|version| self.subject.must_be_taken(version)),
            Reason::LeaseExpired | Reason::LeaseUnknown => transaction.consumes.is_some(),
            Reason::TransactionExpired => transaction.is_staged(),
            Reason::TransactionEnded => {
                refused.fact("state") == Some("aborted") && self.ledger.was_given_up(transaction)
            }
            _ => false,
        };
        if expected { Ok(()) } else { Err(format!("{transaction} is refused: {refused}")) }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.acknowledged.len()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.callers.iter().all(|caller| caller.errand.is_done())
            && self.ledger.is_idle()
            && self.subject.is_idle()
    }

    /// Holds a topic against what was acknowledged.
    pub(crate) fn check_topic(&self, topic: &str, ids: &[String]) -> Result<(), String> {
        for ((_, offset), id) in self.acknowledged.iter().filter(|((t, _), _)| *t == topic) {
            let found = usize::try_from(*offset).ok().and_then(|at| ids.get(at));
            if found != Some(id) {
                return Err(format!(
                    "{id} was acknowledged at {topic}/{offset}; there is {found:?}"
                ));
            }
        }
        let mut seen = BTreeSet::new();
        match ids.iter().find(|id| !seen.insert(*id)) {
            Some(twice) => Err(format!("{twice} is twice in {topic}")),
            None => Ok(()),
        }
    }

    /// How many events of a subscription were acked or rejected, as consumers were told.
    pub(crate) fn ended(&self, subscription: &str) -> u64 {
        self.ended.keys().filter(|(s, ..)| *s == subscription).count() as u64
    }

    fn place(held: &Held) -> Place {
        (held.subscription, held.topic.clone(), held.offset)
    }

    pub(crate) fn delivered(&mut self, held: &Held) -> Result<(), String> {
        self.deliveries += 1;
        let latest = self.handed_out.entry(Self::place(held)).or_default();
        *latest = held.lease_id.max(*latest);
        match self.ended.get(&Self::place(held)) {
            // What a later lease hands out was not done when that lease was granted.
            Some(lease) if held.lease_id > *lease => {
                Err(format!("{held} comes after lease {lease} has ended it"))
            }
            _ => Ok(()),
        }
    }

    /// The lease by which an event was handed out again: nothing that is asked from now on may be done
    /// by the one before.
    pub(crate) fn handed_on(&self, held: &Held) -> Option<u64> {
        self.handed_out.get(&Self::place(held)).copied().filter(|latest| *latest > held.lease_id)
    }

    pub(crate) fn settled(&mut self, held: &Held, action: &Action) -> Result<(), String> {
        let ends = matches!(action, Action::Ack(_) | Action::Reject(_));
        // What an earlier lease gave back or failed may be answered late: it was done before the later
        // one was granted. What was asked after that is judged by `handed_on`.
        let late = |lease: &&u64| !ends && **lease > held.lease_id;
        if let Some(lease) = self.ended.get(&Self::place(held)).filter(|lease| !late(lease)) {
            return Err(format!("{held} is settled although lease {lease} has ended it"));
        }
        if ends {
            self.ended.insert(Self::place(held), held.lease_id);
        }
        Ok(())
    }

    /// A consumer walks away from an event.
    pub(crate) fn leave(&mut self, held: Held) {
        if self.left.len() < LEFT_MAX {
            self.left.push(held);
        }
    }

    /// Something that a consumer walked away from, and comes back to.
    pub(crate) fn left_over(&mut self, dice: &mut Dice) -> Option<Held> {
        if self.left.is_empty() {
            return None;
        }
        let at = usize::try_from(dice.below(self.left.len() as u64)).unwrap();
        Some(self.left.swap_remove(at))
    }
}
