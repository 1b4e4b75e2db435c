//! What a consumer keeps in mind: its leases, what is to be settled, what the hub may still send.
//! No I/O and no clock: the driver tells the time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::wish::{Answer, Item, Wish};
use super::{Arrived, ConsumerOptions};
use crate::model::limits::{CONSUMER_BATCH_BYTES, CONSUMER_BATCHES_MAX, SETTLE_ITEMS_MAX};
use crate::model::ranges::{OffsetRange, Ranges};
use crate::model::rejection::{Reason, Rejection};
use crate::proto::status::from_call_error;
use crate::proto::v1::settlement::Action;
use crate::proto::v1::{Credit, Extend, Release, SettleBatch, SettleBatchResult, SettleResult};

/// The shortest time between renewals of one lease.
const RENEW_MIN: Duration = Duration::from_millis(250);
/// How long a consumer that ends waits until what it gives back is taken.
pub(super) const RELEASE_PATIENCE: Duration = Duration::from_secs(3);

/// A lease that is not settled as a whole.
#[derive(Debug)]
struct Lease {
    term: u64,
    topic_id: u64,
    /// Events that are not settled.
    left: Ranges,
    /// Bytes of credit that they take.
    bytes: i64,
    /// The next look at it: to renew it, or when nobody works on it any more, to see it end.
    look_at: Instant,
    expires_at: Instant,
    abandoned: bool,
}

/// What a consumer is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Consuming,
    /// It takes nothing more, and lets those finish who work, until then.
    Draining(Instant),
    /// What was not settled is being given back, until then.
    Releasing(Instant),
    Ended,
}

#[derive(Debug)]
pub(super) struct State {
    options: ConsumerOptions,
    pub(super) phase: Phase,
    leases: BTreeMap<u64, Lease>,
    wishes: VecDeque<Wish>,
    sent: BTreeMap<u64, Vec<Item>>,
    last_batch: u64,
    /// Credit that came back and was not granted anew.
    owed: Credit,
    /// Deliveries that nobody has taken yet.
    pub(super) arrived: VecDeque<Arrived>,
    /// Why it ended by itself.
    pub(super) failure: Option<Rejection>,
    /// The earliest look at any lease.
    look_at: Option<Instant>,
}

impl State {
    pub(super) fn new(options: ConsumerOptions) -> Self {
        Self {
            options,
            phase: Phase::Consuming,
            leases: BTreeMap::new(),
            wishes: VecDeque::new(),
            sent: BTreeMap::new(),
            last_batch: 0,
            owed: Credit::default(),
            arrived: VecDeque::new(),
            failure: None,
            look_at: None,
        }
    }

    /// Begins a stream: what was not answered is sent again, all credit is granted anew.
    pub(super) fn begin_stream(&mut self) {
        let items: Vec<Item> = std::mem::take(&mut self.sent).into_values().flatten().collect();
        items.into_iter().rev().for_each(|item| self.again(item, Wish::repeated));
        let events: u64 = self.leases.values().map(|lease| lease.left.count()).sum();
        let bytes: i64 = self.leases.values().map(|lease| lease.bytes).sum();
        let events = self.options.events - i64::try_from(events).unwrap_or(i64::MAX);
        self.owed = Credit { events, bytes: self.options.bytes - bytes };
    }

    fn again(&mut self, item: Item, how: impl Fn(Wish) -> Wish) {
        for wish in item.wishes.into_iter().rev() {
            self.wishes.push_front(how(wish));
        }
    }

    /// The credit to grant now: in large bits, so that deliveries come in large ones.
    pub(super) fn due_credit(&self) -> Option<Credit> {
        let Credit { events, bytes } = self.owed;
        let large = events * 4 >= self.options.events && bytes * 4 >= self.options.bytes;
        let due = large || self.leases.is_empty();
        let wanted = self.phase == Phase::Consuming && events > 0 && bytes > 0;
        (wanted && due).then_some(self.owed)
    }

    /// The credit was granted.
    pub(super) fn granted(&mut self) {
        self.owed = Credit::default();
    }

    /// Takes a delivery in; while nobody wants any more, to give it back.
    pub(super) fn accept(&mut self, delivery: Arrived, now: Instant) {
        let (lease_id, expires_in) = (delivery.lease_id, delivery.expires_in);
        let ranges: Vec<OffsetRange> = delivery.ranges().collect();
        let mut lease = Lease {
            term: delivery.term,
            topic_id: delivery.topic_id,
            left: Ranges::from_unsorted(&ranges),
            bytes: delivery.bytes,
            look_at: now,
            expires_at: now,
            abandoned: false,
        };
        lease.lasts(now, expires_in);
        self.look_by(lease.look_at);
        self.leases.insert(lease_id, lease);
        if self.phase == Phase::Consuming {
            self.arrived.push_back(delivery);
        } else {
            self.release(lease_id);
        }
    }

    fn look_by(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |known| known.min(at)));
    }

    /// When [`State::look`] is to be called.
    pub(super) fn next_look(&self) -> Option<Instant> {
        match self.phase {
            Phase::Draining(until) | Phase::Releasing(until) => {
                Some(self.look_at.map_or(until, |at| at.min(until)))
            }
            Phase::Consuming | Phase::Ended => self.look_at,
        }
    }

    /// Renews leases, lets go of those that ran out, and ends what has taken long enough.
    pub(super) fn look(&mut self, now: Instant) {
        let due: Vec<u64> =
            self.leases.iter().filter(|(_, l)| l.look_at <= now).map(|(id, _)| *id).collect();
        for id in due {
            let Some(lease) = self.leases.get_mut(&id) else { continue };
            if lease.abandoned {
                self.lose(id);
                continue;
            }
            lease.look_at = (now + RENEW_MIN).max(lease.expires_at);
            let extend = Extend { lease_ms: self.options.lease_ms() };
            self.wishes.push_back(Wish::new(id, Ranges::new(), Action::Extend(extend)));
        }
        self.look_at = self.leases.values().map(|lease| lease.look_at).min();
        match self.phase {
            Phase::Draining(until) if until <= now => self.release_all(now),
            Phase::Releasing(until) if until <= now => self.phase = Phase::Ended,
            _ => {}
        }
    }

    /// Settles events of a lease; none: all that are left.
    pub(super) fn settle(&mut self, lease_id: u64, events: Ranges, action: Action, answer: Answer) {
        let wish = Wish::new(lease_id, events, action).answered_to(answer);
        if self.phase == Phase::Ended {
            let text = "the consumer has ended; what it had not settled comes again";
            wish.answer(Err(Rejection::new(Reason::ShuttingDown, text)));
        } else {
            self.wishes.push_back(wish);
        }
    }

    /// Nobody works on a lease any more: what is not settled runs out, and counts as failed.
    pub(super) fn abandon(&mut self, lease_id: u64) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        lease.abandoned = true;
        lease.look_at = lease.expires_at;
    }

    fn release(&mut self, lease_id: u64) {
        let action = Action::Release(Release {});
        self.wishes.push_back(Wish::new(lease_id, Ranges::new(), action));
    }

    /// Takes nothing more; those who work may finish until then.
    pub(super) fn drain(&mut self, until: Instant) {
        if self.phase == Phase::Consuming {
            self.phase = Phase::Draining(until);
        }
        for delivery in std::mem::take(&mut self.arrived) {
            self.release(delivery.lease_id);
        }
    }

    fn release_all(&mut self, now: Instant) {
        self.phase = Phase::Releasing(now + RELEASE_PATIENCE);
        let held: Vec<u64> =
            self.leases.iter().filter(|(_, l)| !l.abandoned).map(|(id, _)| *id).collect();
        held.into_iter().for_each(|id| self.release(id));
    }

    /// Whether nothing is left to do for a consumer that ends.
    pub(super) fn is_done(&self) -> bool {
        match self.phase {
            Phase::Consuming => false,
            Phase::Ended => true,
            Phase::Draining(_) | Phase::Releasing(_) => {
                let idle = self.wishes.is_empty() && self.sent.is_empty();
                idle && self.leases.values().all(|lease| lease.abandoned)
            }
        }
    }

    /// Whether there is a batch to send.
    pub(super) fn has_batch(&self) -> bool {
        !self.wishes.is_empty() && self.sent.len() < CONSUMER_BATCHES_MAX
    }

    /// The next batch to send: while some are on their way, wishes gather for the next.
    pub(super) fn next_batch(&mut self) -> Option<SettleBatch> {
        let (mut items, mut open, mut bytes) = (Vec::new(), BTreeMap::new(), 0);
        while self.has_batch() && bytes < CONSUMER_BATCH_BYTES && items.len() < SETTLE_ITEMS_MAX {
            if !items.is_empty() && self.wishes.front().is_some_and(|wish| wish.alone) {
                break;
            }
            let Some(wish) = self.wishes.pop_front() else { break };
            if !self.leases.contains_key(&wish.lease_id) {
                wish.answer(Err(lost()));
                continue;
            }
            let (lease_id, alone) = (wish.lease_id, wish.alone);
            bytes += wish.encoded_len();
            let slot = open.get(&lease_id).copied().filter(|_| wish.is_part());
            let slot = slot.and_then(|at: usize| items.get_mut(at));
            match slot.filter(|item: &&mut Item| item.takes(&wish)) {
                Some(item) => item.push(wish),
                None => {
                    if wish.is_part() {
                        open.insert(lease_id, items.len());
                    }
                    items.push(Item::new(wish));
                }
            }
            if alone {
                break;
            }
        }
        if items.is_empty() {
            return None;
        }
        self.last_batch += 1;
        let settlements = items.iter().filter_map(|item| {
            let lease = self.leases.get(&item.lease_id()?)?;
            item.settlement(lease.term, lease.topic_id, &lease.left)
        });
        let batch = SettleBatch { batch: self.last_batch, items: settlements.collect() };
        self.sent.insert(self.last_batch, items);
        Some(batch)
    }

    /// Takes in what became of a batch.
    pub(super) fn settled(&mut self, result: SettleBatchResult, now: Instant) {
        let SettleBatchResult { batch, results, error } = result;
        let Some(items) = self.sent.remove(&batch) else { return };
        if let Some(error) = error {
            self.failed(items, &from_call_error(error));
            return;
        }
        for (item, result) in items.into_iter().zip(results) {
            self.item_settled(item, result, now);
        }
    }

    /// Nothing of a batch was done, or it is not known.
    fn failed(&mut self, items: Vec<Item>, rejection: &Rejection) {
        let single = items.iter().map(|item| item.wishes.len()).sum::<usize>() == 1;
        for item in items.into_iter().rev() {
            match rejection.reason {
                Reason::OutcomeUnknown => self.again(item, Wish::repeated),
                Reason::NotLeader
                | Reason::NoLeader
                | Reason::NoQuorum
                | Reason::ShuttingDown
                | Reason::Overloaded
                | Reason::DeadlineExceeded => self.again(item, |wish| wish),
                // Only the one that is to blame fails.
                _ if !single => self.again(item, Wish::alone),
                _ => self.refused(item, rejection),
            }
        }
    }

    fn refused(&mut self, item: Item, rejection: &Rejection) {
        for wish in item.wishes {
            if wish.is_extension() {
                self.lose(wish.lease_id);
            }
            wish.answer(Err(rejection.clone()));
        }
    }

    fn item_settled(&mut self, item: Item, result: SettleResult, now: Instant) {
        let ranges: Vec<OffsetRange> =
            result.done.iter().map(|r| OffsetRange { first: r.first, count: r.count }).collect();
        let done = Ranges::from_unsorted(&ranges);
        let refused = result.refused.map(from_call_error);
        let Some(lease_id) = item.lease_id() else { return };
        for wish in item.wishes {
            if wish.is_extension() {
                if refused.is_some() {
                    self.lose(lease_id);
                } else if let Some(lease) = self.leases.get_mut(&lease_id) {
                    lease.lasts(now, Duration::from_millis(result.expires_in_ms));
                    let look_at = lease.look_at;
                    self.look_by(look_at);
                }
                wish.answer(refused.clone().map_or(Ok(()), Err));
                continue;
            }
            let all_done = match wish.events.is_empty() {
                true => refused.is_none(),
                false => wish.events.minus(&done).is_empty(),
            };
            // Where only these are refused, they may have been settled before: the lease lasts.
            self.shed(lease_id, &wish.events);
            if all_done {
                wish.answer(Ok(()));
            } else {
                wish.refused(refused.clone().unwrap_or_else(lost));
            }
        }
    }

    /// Events of a lease are not ours any more; none: all that are left.
    fn shed(&mut self, lease_id: u64, events: &Ranges) {
        let Some(lease) = self.leases.get_mut(&lease_id) else { return };
        let before = i64::try_from(lease.left.count()).unwrap_or(i64::MAX).max(1);
        lease.left = if events.is_empty() { Ranges::new() } else { lease.left.minus(events) };
        let after = i64::try_from(lease.left.count()).unwrap_or(i64::MAX);
        let bytes = lease.bytes * (before - after) / before;
        lease.bytes -= bytes;
        self.owed.events += before - after;
        self.owed.bytes += bytes;
        if after == 0 {
            self.leases.remove(&lease_id);
        }
    }

    /// A lease has run out.
    fn lose(&mut self, lease_id: u64) {
        self.shed(lease_id, &Ranges::new());
    }

    /// Ends by itself.
    pub(super) fn fail(&mut self, rejection: Rejection) {
        self.end();
        self.failure = Some(rejection);
    }

    /// Nothing is sent any more: whoever waits is told.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Ended;
        self.arrived.clear();
        let items = std::mem::take(&mut self.sent).into_values().flatten();
        let waiting = items.flat_map(|item| item.wishes).chain(std::mem::take(&mut self.wishes));
        for wish in waiting {
            let text = "the consumer has ended; it may or may not have been settled";
            wish.answer(Err(Rejection::new(Reason::OutcomeUnknown, text)));
        }
    }
}

impl Lease {
    /// It lasts so long from now on, and is renewed at a third of that.
    fn lasts(&mut self, now: Instant, expires_in: Duration) {
        self.expires_at = now + expires_in;
        if !self.abandoned {
            self.look_at = now + (expires_in / 3).max(RENEW_MIN);
        }
    }
}

fn lost() -> Rejection {
    let text = "the lease has run out, or these events were settled before; they come again";
    Rejection::new(Reason::LeaseExpired, text)
}
