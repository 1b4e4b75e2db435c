//! How an event stands with a subscription, from the rows that delivery keeps.

use super::endings::{self, End};
use crate::machine::Fault;
use crate::machine::delivery::failures::{self, FailureRecord};
use crate::machine::delivery::query::LeaseInfo;
use crate::machine::delivery::{dead, query as delivery};
use crate::machine::kv::Kv;
use crate::machine::query::StoredEvent;
use crate::machine::schedule::specials;
use crate::machine::subscription::record::SubscriptionRecord;
use crate::machine::subscription::{marks, progress, state};
use crate::model::filter::Compiled;
use crate::model::ids::{DeadNumber, LeaseId, Offset, TopicId, UnixMs};
use crate::model::limits::{MARKS_OFFSETS, TRACE_LEASES_MAX};
use crate::model::trace::{Death, Fate, Holder, Standing};

/// A subscription whose view of events is asked for.
pub struct Observer {
    name: String,
    record: SubscriptionRecord,
    filter: Option<Compiled>,
    /// The leases, once one of them was asked for.
    leases: Option<Vec<LeaseInfo>>,
}

impl Observer {
    /// Of a subscription.
    ///
    /// # Errors
    /// When its stored filter is none.
    pub fn new(name: String, record: SubscriptionRecord) -> Result<Self, Fault> {
        let filter = record.config.filter.as_ref();
        let filter = filter
            .map(|filter| filter.compile().map_err(|e| Fault::Undecodable(e.to_string())))
            .transpose()?;
        Ok(Self { name, record, filter, leases: None })
    }

    /// What became of an event of a topic that the subscription takes, at a time.
    ///
    /// # Errors
    /// When the store fails or a row is corrupt.
    pub fn fate(
        &mut self,
        kv: &impl Kv,
        topic: TopicId,
        event: &StoredEvent,
        now: UnixMs,
    ) -> Result<Fate, Fault> {
        let (id, offset) = (self.record.subscription_id(), event.offset);
        let mut fate = Fate {
            subscription: id,
            name: self.name.clone(),
            standing: Standing::Pending,
            failures: 0,
            attempts: Vec::new(),
            redrives: 0,
        };
        if let Some(story) = failures::get(kv, id, topic, offset)? {
            fate.standing = self.failed(kv, topic, offset, &story)?;
            fate.failures = story.failures;
            fate.attempts = story.attempts;
            fate.redrives = story.redrives;
            return Ok(fate);
        }
        let marks = marks::load(kv, id, topic, marks::chunk_of(offset))?;
        let place = offset.get() % MARKS_OFFSETS;
        let stored = progress::stored(kv, id, topic)?;
        let before = event.position.get() < self.record.start_position;
        let floor = stored.as_ref().map_or(0, |progress| progress.floor);
        // Where nothing was done yet, the start alone says what is passed over.
        let passed_over = before && (offset.get() < floor || stored.is_none());
        if offset.get() < floor || marks.done.has(place) || passed_over {
            fate.standing = if passed_over { Standing::Before } else { Standing::Acked };
            self.ended(kv, topic, event, &mut fate)?;
        } else if marks.leased.has(place) {
            fate.standing = Standing::Leased(self.holder(kv, topic, offset)?);
        } else {
            fate.standing = self.waiting(kv, topic, event, now)?;
        }
        Ok(fate)
    }

    fn failed(
        &mut self,
        kv: &impl Kv,
        topic: TopicId,
        offset: Offset,
        story: &FailureRecord,
    ) -> Result<Standing, Fault> {
        Ok(match story.stands() {
            failures::Standing::Leased => Standing::Leased(self.holder(kv, topic, offset)?),
            failures::Standing::Retry | failures::Standing::Ready => {
                Standing::Retrying(UnixMs(story.due_ms))
            }
            // A tick will write its dead letter.
            failures::Standing::Dying => {
                let (reason, at) = (story.dead_reason(), UnixMs(story.due_ms));
                Standing::Dead(Death { number: None, reason, at })
            }
        })
    }

    /// How an event that is done came to that: what is noted of its end, else its dead letter, else by itself.
    fn ended(
        &self,
        kv: &impl Kv,
        topic: TopicId,
        event: &StoredEvent,
        fate: &mut Fate,
    ) -> Result<(), Fault> {
        let (id, offset) = (fate.subscription, event.offset);
        if let Some(ending) = endings::get(kv, id, topic, offset)? {
            fate.standing = match ending.end() {
                End::Acked => Standing::Acked,
                End::Filtered => Standing::Filtered,
                End::Dead => {
                    let (reason, at) = (ending.reason(), UnixMs(ending.ended_at_ms));
                    Standing::Dead(Death { number: None, reason, at })
                }
            };
            fate.failures = ending.failures;
            fate.attempts = ending.attempts;
            fate.redrives = ending.redrives;
            return Ok(());
        }
        if let Some((number, letter)) = dead::at(kv, id, topic, offset)?
            && (fate.standing == Standing::Before || self.is_of_today(kv, number)?)
        {
            let (reason, at) = (letter.reason(), letter.died_at());
            fate.standing = Standing::Dead(Death { number: Some(number), reason, at });
            fate.failures = letter.failures;
            fate.attempts = letter.attempts;
            fate.redrives = letter.redrives;
        } else if specials::get(kv, topic, offset)?.is_some_and(|special| special.cancelled) {
            fate.standing = Standing::Cancelled;
        } else if !self.passes(event)? {
            fate.standing = Standing::Filtered;
        }
        Ok(())
    }

    /// Whether a dead letter is from after the newest seek.
    fn is_of_today(&self, kv: &impl Kv, number: DeadNumber) -> Result<bool, Fault> {
        let state = state::get(kv, self.record.subscription_id())?.unwrap_or_default();
        Ok(number.get() > state.dead_before_seek)
    }

    fn waiting(
        &self,
        kv: &impl Kv,
        topic: TopicId,
        event: &StoredEvent,
        now: UnixMs,
    ) -> Result<Standing, Fault> {
        if !self.passes(event)? {
            return Ok(Standing::Filtered);
        }
        Ok(match specials::get(kv, topic, event.offset)? {
            Some(special) if special.cancelled => Standing::Cancelled,
            Some(special) if special.ready_at_ms > now.get() => {
                Standing::Delayed(UnixMs(special.ready_at_ms))
            }
            _ => Standing::Pending,
        })
    }

    fn passes(&self, event: &StoredEvent) -> Result<bool, Fault> {
        let Some(filter) = &self.filter else { return Ok(true) };
        Ok(filter.matches(&event.event)?)
    }

    /// Who has an event, as far as a bounded number of leases tells.
    fn holder(&mut self, kv: &impl Kv, topic: TopicId, offset: Offset) -> Result<Holder, Fault> {
        let id = self.record.subscription_id();
        let leases = match &mut self.leases {
            Some(known) => known,
            unknown => unknown.insert(delivery::leases(kv, id, LeaseId(0), TRACE_LEASES_MAX)?),
        };
        let has = |info: &&LeaseInfo| {
            info.lease.topic_id == topic.get() && info.lease.events.contains(offset)
        };
        let holder = |info: &LeaseInfo| Holder {
            consumer: info.lease.consumer.clone(),
            until: info.ends_at,
        };
        Ok(leases.iter().find(has).map(holder).unwrap_or_default())
    }
}
