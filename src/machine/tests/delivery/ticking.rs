//! What time does to the naive model.

use std::collections::BTreeMap;

use super::leasing::ends_at;
use super::model::{Cause, End, LeaseRow, Status, Subscription, World, topic_of};
use super::world::{Said, matches, passes};
use crate::model::delivery::{DeadReason, Ticked};
use crate::model::limits::ENDINGS_KEPT_MS;
use crate::model::outcome::Outcome;

impl World {
    pub(super) fn tick(&mut self) -> Said {
        let (now, mut due) = (self.now, Vec::new());
        for sub in self.subscriptions.values() {
            due.extend(sub.leases.iter().map(|(id, l)| (l.expires, 1, sub.id, *id, 0)));
            let retries = sub.stories.iter().filter(|(_, s)| s.status == Status::Retry);
            due.extend(retries.map(|((t, o), s)| (s.due, 2, sub.id, *t, *o)));
            if let Some((_, at)) = sub.pause.filter(|(_, at)| *at > 0) {
                due.push((at, 3, sub.id, 0, 0));
            }
            let kept = sub.config.dead_letters.retention_ms;
            let dead = sub.dead.iter().filter(|_| kept > 0);
            due.extend(dead.map(|l| (l.died_at + kept, 5, sub.id, l.number, 0)));
            let dying = sub.stories.iter().filter(|(_, s)| s.status == Status::Dying);
            due.extend(dying.map(|((t, o), s)| (s.due, 10, sub.id, *t, *o)));
        }
        for topic in self.topics.values() {
            for (offset, event) in (0..).zip(&topic.events) {
                if let Some(at) = event.deadline.filter(|_| !event.cancelled && !event.fired) {
                    due.push((at, 4, topic.id, offset, 0));
                }
            }
        }
        self.buried.set(0);
        due.retain(|(at, ..)| *at <= now);
        due.sort_unstable();
        for sub in self.subscriptions.values_mut() {
            sub.unswept.clear();
            if sub.placing {
                sub.place(&self.topics, usize::MAX);
            }
            for story in sub.stories.values_mut() {
                story.swept |= story.end.is_some_and(|(_, at)| at + ENDINGS_KEPT_MS <= now);
            }
        }
        let before: BTreeMap<String, u64> =
            self.subscriptions.iter().map(|(n, s)| (n.clone(), s.counters.dead)).collect();
        let mut expired = BTreeMap::new();
        for (_, kind, a, b, c) in due {
            self.fire((kind, a, b, c), &mut expired);
        }
        for name in before.keys() {
            let mut sub = self.subscriptions.remove(name).unwrap();
            if expired.contains_key(&sub.id) {
                self.report();
            }
            self.finish(&mut sub, before[name]);
            self.subscriptions.insert(name.clone(), sub);
        }
        let more = self.is_full();
        Said::Exactly(Outcome::Ticked(Ticked { more, ..Ticked::default() }))
    }

    fn fire(&mut self, (kind, a, b, c): (u8, u64, u64, u64), expired: &mut BTreeMap<u64, ()>) {
        let now = self.now;
        if kind == 4 {
            return self.deadline(a, b, expired);
        }
        let found = self.subscriptions.iter().find(|(_, s)| s.id == a);
        let name = found.map(|(name, _)| name.clone()).unwrap();
        let mut sub = self.subscriptions.remove(&name).unwrap();
        match kind {
            1 => self.expire(&mut sub, b, expired),
            2 => {
                let (_, topic) = topic_of(&self.topics, b).unwrap();
                let story = sub.story(topic, c);
                sub.make_ready(topic, c, story);
            }
            3 => self.resume(&mut sub),
            10 if self.is_full() => {}
            10 => {
                let (topic_name, topic) = topic_of(&self.topics, b).unwrap();
                let reason = sub.story(topic, c).reason.unwrap();
                sub.keep(topic_name, topic, c, reason, now);
            }
            _ => {
                let kept = sub.config.dead_letters.retention_ms;
                sub.dead.retain(|l| l.number != b || l.died_at + kept > now);
            }
        }
        self.subscriptions.insert(name, sub);
    }

    fn expire(&mut self, sub: &mut Subscription, id: u64, expired: &mut BTreeMap<u64, ()>) {
        // The deadlines of all its events may have passed since.
        let Some(lease) = sub.leases.get(&id).cloned() else { return };
        let ends = ends_at(&lease, self.led_since, self.grace_until);
        if ends > self.now {
            sub.leases.insert(id, LeaseRow { expires: ends, ..lease });
            return;
        }
        let place = topic_of(&self.topics, lease.topic).unwrap();
        for offset in &lease.events {
            sub.counters.expired += 1;
            sub.fail(place, *offset, Cause::Nack("LEASE_EXPIRED", None), self.now);
        }
        sub.leases.remove(&id);
        expired.insert(sub.id, ());
    }

    fn deadline(&mut self, topic_id: u64, offset: u64, expired: &mut BTreeMap<u64, ()>) {
        let now = self.now;
        let Some(name) = topic_of(&self.topics, topic_id).map(|(name, _)| name.to_owned()) else {
            return;
        };
        self.topics.get_mut(&name).unwrap().events[offset as usize].fired = true;
        let topic = self.topics[&name].clone();
        for sub in self.subscriptions.values_mut() {
            if !matches(&sub.config.pattern, &name) {
                continue;
            }
            let story = sub.story(&topic, offset);
            let ended = matches!(story.status, Status::Done | Status::Dying);
            if ended || story.redrives > 0 {
                continue;
            }
            if story.status == Status::Leased {
                let uncut = |l: &&mut LeaseRow| {
                    l.deadline == 0 && l.topic == topic_id && l.events.contains(&offset)
                };
                if let Some(lease) = sub.leases.values_mut().find(uncut) {
                    lease.events.remove(&offset);
                    lease.lost = true;
                    sub.leases.retain(|_, l| !l.events.is_empty());
                    sub.counters.expired += 1;
                    sub.fail((&name, &topic), offset, Cause::Nack("LEASE_EXPIRED", None), now);
                    expired.insert(sub.id, ());
                }
                continue;
            }
            let passes = story.failing || passes(sub, &topic.events[offset as usize]);
            let in_turn = story.status != Status::Free || sub.in_turn(&topic, offset);
            let ends = in_turn || (passes && sub.note_early(&topic, offset));
            if !ends {
                continue;
            }
            if !passes {
                sub.set(&topic, offset, story.ended(End::Filtered, now));
                sub.counters.filtered += 1;
            } else {
                sub.bury(&name, &topic, offset, DeadReason::Expired, now);
            }
        }
    }
}
