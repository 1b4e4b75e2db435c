//! Transactions as callers asked for them, what they were told, and whether it is so: all of a transaction is
//! there, or nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use message_hub::model::ids::TransactionId;
use message_hub::model::outcome::Published;

use crate::dice::Dice;
use crate::errand::Errand;
use crate::oracle::{Held, TOPICS};
use crate::subject::{JUDGED, Subject};

/// Transactions that are asked for at once.
const SLOTS: usize = 3;

/// How a transaction is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    AtOnce,
    Staged(End),
}

/// What becomes of what was staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Commit,
    Abort,
    /// It expires.
    Leave,
}

/// Events for one topic.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) topic: &'static str,
    pub(crate) count: u32,
    /// The version that the transaction's key has there before.
    pub(crate) expected: u64,
    /// Where a schema judges: the version of it that the events are written for.
    pub(crate) written_for: Option<u32>,
}

/// One transaction, however often it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    number: usize,
    slot: usize,
    pub(crate) how: How,
    pub(crate) key: String,
    pub(crate) parts: Vec<Part>,
    /// It expects what never is, of a key that it does not write.
    pub(crate) impossible: bool,
    /// One of its events broke the schema before anybody asked.
    outdated: bool,
    /// What it acks.
    pub(crate) consumes: Option<Held>,
    /// Of a staged one.
    pub(crate) timeout_ms: u64,
}

impl Transaction {
    pub(crate) fn event_id(&self, part: usize, number: u32) -> String {
        format!("t{}-{part}-{number}", self.number)
    }

    /// The ids of the events of a part.
    pub(crate) fn ids_of(&self, part: usize) -> Vec<String> {
        (0..self.parts[part].count).map(|number| self.event_id(part, number)).collect()
    }

    fn event_ids(&self) -> BTreeSet<String> {
        (0..self.parts.len()).flat_map(|part| self.ids_of(part)).collect()
    }

    pub(crate) fn request_id(&self, step: impl fmt::Display) -> String {
        format!("t{}-{step}", self.number)
    }

    pub(crate) fn is_staged(&self) -> bool {
        matches!(self.how, How::Staged(_))
    }
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "transaction {} ({:?})", self.number, self.how)?;
        for Part { topic, count, .. } in &self.parts {
            write!(f, ", {count} to {topic}")?;
        }
        self.consumes.as_ref().map_or(Ok(()), |held| write!(f, ", acks {held}"))
    }
}

/// What callers know of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Done,
    Undone,
    /// Who asked walked away.
    Either,
}

struct Told {
    transaction: Transaction,
    fate: Fate,
    /// How often it was begun to ask for it.
    tries: u32,
    /// Whether somebody asked to do it: it need not be invisible any more.
    may_be_done: bool,
    /// Whether somebody asked to abort it.
    given_up: bool,
    /// Of a staged one, once it has begun.
    id: Option<TransactionId>,
}

#[derive(Default)]
struct Slot {
    /// The number of a transaction.
    errand: Errand<usize>,
    /// Grows where it is not known how far a key is.
    generation: u64,
}

pub(crate) struct Ledger {
    all: Vec<Told>,
    slots: Vec<Slot>,
    /// Versions of each slot's key of now.
    versions: BTreeMap<(usize, &'static str), u64>,
}

impl Default for Ledger {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| Slot::default()).collect();
        Self { all: Vec::new(), slots, versions: BTreeMap::new() }
    }
}

impl Ledger {
    /// A transaction that has no answer yet.
    pub(crate) fn again(&mut self, node: u64) -> Option<Transaction> {
        let number = self.slots.iter_mut().find_map(|slot| slot.errand.again(node))?;
        let told = &mut self.all[number];
        told.tries += 1;
        Some(told.transaction.clone())
    }

    pub(crate) fn invent(
        &mut self,
        node: u64,
        dice: &mut Dice,
        consumes: Option<Held>,
        subject: &Subject,
    ) -> Option<Transaction> {
        let slot = self.slots.iter().position(|slot| slot.errand.is_done())?;
        let number = self.all.len();
        let how = match dice.below(10) {
            0..5 => How::AtOnce,
            5..8 => How::Staged(End::Commit),
            8 => How::Staged(End::Abort),
            _ => How::Staged(End::Leave),
        };
        let parts = self.parts(slot, dice, subject);
        let outdated = |part: &Part| part.written_for.is_some_and(|v| subject.is_outdated(v));
        let transaction = Transaction {
            number,
            slot,
            how,
            key: format!("tx-{slot}-{}", self.slots[slot].generation),
            impossible: dice.chance(12),
            outdated: parts.iter().any(outdated),
            parts,
            consumes,
            timeout_ms: dice.between(1000, 5000),
        };
        self.slots[slot].errand.begin(number, node);
        self.all.push(Told {
            transaction: transaction.clone(),
            fate: Fate::Open,
            tries: 1,
            may_be_done: how == How::AtOnce,
            given_up: false,
            id: None,
        });
        Some(transaction)
    }

    fn parts(&self, slot: usize, dice: &mut Dice, subject: &Subject) -> Vec<Part> {
        let count = dice.between(1, 3);
        let mut topics: Vec<&'static str> = TOPICS.into_iter().chain([JUDGED]).collect();
        let part = |_| {
            let at = usize::try_from(dice.below(topics.len() as u64)).unwrap();
            let topic = topics.swap_remove(at);
            Part {
                topic,
                count: u32::try_from(dice.between(1, 3)).unwrap(),
                expected: self.versions.get(&(slot, topic)).copied().unwrap_or(0),
                written_for: (topic == JUDGED).then(|| subject.draw(dice)),
            }
        };
        (0..count).map(part).collect()
    }

    pub(crate) fn crashed(&mut self, node: u64) {
        for slot in &mut self.slots {
            slot.errand.crashed(node);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.errand.is_done())
    }

    pub(crate) fn is_first_try(&self, transaction: &Transaction) -> bool {
        self.all[transaction.number].tries == 1
    }

    /// A staged one has begun, or was told that it had.
    pub(crate) fn begun(
        &mut self,
        transaction: &Transaction,
        id: TransactionId,
    ) -> Result<(), String> {
        match self.all[transaction.number].id.replace(id) {
            Some(other) if other != id => {
                Err(format!("{transaction} has begun as {other}, and again as {id}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// From now on it may be seen.
    pub(crate) fn asks_to_do(&mut self, transaction: &Transaction) {
        self.all[transaction.number].may_be_done = true;
    }

    pub(crate) fn gives_up(&mut self, transaction: &Transaction) {
        self.all[transaction.number].given_up = true;
    }

    pub(crate) fn was_given_up(&self, transaction: &Transaction) -> bool {
        self.all[transaction.number].given_up
    }

    pub(crate) fn unanswered(&mut self, transaction: &Transaction) {
        self.slots[transaction.slot].errand.unanswered();
    }

    /// Nobody asks any more what became of it.
    pub(crate) fn walk_away(&mut self, transaction: &Transaction) {
        if !self.all[transaction.number].may_be_done {
            self.close(transaction, Fate::Undone);
            return;
        }
        self.close(transaction, Fate::Either);
        self.slots[transaction.slot].generation += 1;
        self.versions.retain(|(slot, _), _| *slot != transaction.slot);
    }

    pub(crate) fn undone(&mut self, transaction: &Transaction) {
        self.close(transaction, Fate::Undone);
    }

    /// It was done, and this is where the events of each part went.
    pub(crate) fn done(
        &mut self,
        transaction: &Transaction,
        parts: &[Published],
    ) -> Result<(), String> {
        self.close(transaction, Fate::Done);
        if transaction.impossible || transaction.outdated {
            return Err(format!("{transaction} is done, and must not be"));
        }
        if parts.len() != transaction.parts.len() {
            return Err(format!("{transaction} was answered with {} parts", parts.len()));
        }
        for (part, published) in transaction.parts.iter().zip(parts) {
            let version = part.expected + u64::from(part.count);
            let told = published.key_versions.last().map(|v| v.get());
            if published.count != part.count || told != Some(version) {
                let topic = part.topic;
                return Err(format!("{transaction} was answered with {published:?} for {topic}"));
            }
            self.versions.insert((transaction.slot, part.topic), version);
        }
        Ok(())
    }

    fn close(&mut self, transaction: &Transaction, fate: Fate) {
        self.slots[transaction.slot].errand.answered();
        self.all[transaction.number].fate = fate;
    }

    /// How many are known to be done.
    pub(crate) fn count_done(&self) -> usize {
        self.all.iter().filter(|told| told.fate == Fate::Done).count()
    }

    /// Holds what came to be seen at once against what may be seen.
    pub(crate) fn see(&self, ids: &[String]) -> Result<(), String> {
        let mut seen: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for id in ids {
            if let Some(number) = number_of(id) {
                seen.entry(number).or_default().insert(id.clone());
            }
        }
        for (number, found) in seen {
            let Some(told) = self.all.get(number) else {
                return Err(format!("{found:?} is there, and nobody sent it"));
            };
            let transaction = &told.transaction;
            if found != transaction.event_ids() {
                return Err(format!("of {transaction} only {found:?} is seen"));
            }
            if !told.may_be_done {
                return Err(format!("{transaction} is seen before anybody asked to do it"));
            }
            if told.fate == Fate::Undone {
                return Err(format!("{transaction} is seen, and was not done"));
            }
        }
        Ok(())
    }

    /// Holds what is there in the end against what callers were told; which of the staged ones are done, by
    /// their id, and of those that consume something which.
    pub(crate) fn check(&self, there: &BTreeSet<String>) -> Result<Found<'_>, String> {
        let (mut found, mut events) = (Found::default(), 0);
        for Told { transaction, fate, id, .. } in &self.all {
            let wanted = transaction.event_ids();
            let count = wanted.intersection(there).count();
            events += count;
            let fits = match fate {
                Fate::Done => count == wanted.len(),
                Fate::Undone => count == 0,
                Fate::Either => count == 0 || count == wanted.len(),
                Fate::Open => false,
            };
            if !fits {
                let all = wanted.len();
                return Err(format!("{transaction}: {fate:?}, {count} of {all} events are there"));
            }
            found.staged.extend(id.map(|id| (id, count > 0)));
            found.consuming.extend(transaction.consumes.as_ref().map(|held| (held, count > 0)));
        }
        let all = there.iter().filter(|id| number_of(id).is_some()).count();
        if all != events {
            return Err(format!("{all} events of transactions are there, {events} were sent"));
        }
        Ok(found)
    }
}

/// What a state has to show of transactions, each with whether it was done.
#[derive(Default)]
pub(crate) struct Found<'l> {
    pub(crate) staged: Vec<(TransactionId, bool)>,
    pub(crate) consuming: Vec<(&'l Held, bool)>,
}

/// The number of the transaction that an event belongs to.
fn number_of(id: &str) -> Option<usize> {
    id.strip_prefix('t')?.split('-').next()?.parse().ok()
}
