//! Renewals of instances, in the leader's memory: only that they end is replicated.
//!
//! A new leader gives every instance the time of one renewal. Where far more of a service fall silent
//! at once than usual, the fault lies more likely with the hub or its network than with them: then
//! none of them is given up for a while. A leader that stood still gives everybody that time back.
//! Where a service's renewals last shorter from now on, those by the time before will do once more.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::machine::registry::records::InstanceRecord;
use crate::model::command::HealthChange;
use crate::model::ids::Term;
use crate::model::limits::{BRAKE_INSTANCES_MIN, BRAKE_MS_MAX, BRAKE_PERCENT, LEADER_STALL_MS};
use crate::model::registry::Signal;

/// An instance that renews.
struct Tracked {
    service: String,
    id: String,
    ttl: Duration,
    /// It named that time itself: its service's does not matter.
    has_own_ttl: bool,
    /// When it is given up.
    until: Instant,
    /// That it is lost is on its way.
    expiring: bool,
}

/// A service of which too many fall silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Brake {
    pub(super) since: Instant,
    pub(super) silent: usize,
    pub(super) instances: usize,
}

/// What the leader knows of renewals.
#[derive(Default)]
pub(super) struct Renewals {
    term: Option<Term>,
    /// By incarnation.
    tracked: HashMap<u64, Tracked>,
    /// How many instances of a service renew.
    counts: HashMap<String, usize>,
    /// When instances of a service were given up.
    lost: HashMap<String, VecDeque<Instant>>,
    brakes: BTreeMap<String, Brake>,
    /// Services whose renewals last shorter since a while: until when those by the time before will do.
    graces: HashMap<String, Instant>,
    /// Services that the state knows as braked, and from when on that may be taken back: a new leader has not
    /// seen yet who is silent.
    told: BTreeMap<String, Instant>,
    /// The newest incarnation that was heard of.
    newest: u64,
    looked_at: Option<Instant>,
}

/// What one look led to.
#[derive(Debug, Default)]
pub(super) struct Silent {
    /// Instances to give up.
    pub(super) changes: Vec<HealthChange>,
    /// Services whose brake was pulled now.
    pub(super) braked: Vec<(String, Brake)>,
    /// Services whose brake was let go now.
    pub(super) released: Vec<String>,
}

impl Renewals {
    /// The term that this is about.
    pub(super) fn term(&self) -> Option<Term> {
        self.term
    }

    /// The newest incarnation that was heard of.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// Begins to lead, with all instances that are there, each of which has all of its time, and the services
    /// that are known as braked; `None`: it is over.
    pub(super) fn begin(
        &mut self,
        term: Option<Term>,
        instances: impl IntoIterator<Item = (InstanceRecord, Duration)>,
        braked: impl IntoIterator<Item = String>,
        now: Instant,
    ) {
        // Who leads now does not change by which time instances renew.
        let graces = std::mem::take(&mut self.graces);
        *self = Self { term, graces, ..Self::default() };
        self.told = braked.into_iter().map(|service| (service, now)).collect();
        for (record, ttl) in instances {
            if let Some(until) = self.told.get_mut(&record.spec.service) {
                *until = (*until).max(now + ttl);
            }
            self.track(&record, ttl, now);
        }
    }

    /// Brakes that were pulled, and services whose brake was let go (`None`), without the state knowing.
    pub(super) fn brake_news(&self, now: Instant) -> Vec<(String, Option<Brake>)> {
        let pulled = self.brakes.iter().filter(|(service, _)| !self.told.contains_key(*service));
        let pulled = pulled.map(|(service, brake)| (service.clone(), Some(*brake)));
        let over = |(service, from): &(&String, &Instant)| {
            **from <= now && !self.brakes.contains_key(*service)
        };
        let over = self.told.iter().filter(over).map(|(service, _)| (service.clone(), None));
        pulled.chain(over).collect()
    }

    /// The state knows of it now.
    pub(super) fn brake_told(&mut self, service: &str, brake: Option<Brake>, now: Instant) {
        match brake {
            Some(_) => drop(self.told.insert(service.to_owned(), now)),
            None => drop(self.told.remove(service)),
        }
    }

    /// Takes note of an instance as it is after a change.
    pub(super) fn track(&mut self, record: &InstanceRecord, ttl: Duration, now: Instant) {
        self.newest = self.newest.max(record.number);
        if record.lost_at_ms > 0 {
            return self.forget(record.number);
        }
        let (service, has_own_ttl) = (record.spec.service.clone(), record.spec.ttl_ms > 0);
        let tracked = Tracked {
            until: self.lasts_until(&service, (ttl, has_own_ttl), now),
            service,
            id: record.spec.id.clone(),
            ttl,
            has_own_ttl,
            expiring: false,
        };
        match self.tracked.get_mut(&record.number) {
            Some(known) => {
                known.until += ttl.saturating_sub(known.ttl);
                known.ttl = ttl;
            }
            None => {
                *self.counts.entry(tracked.service.clone()).or_default() += 1;
                self.tracked.insert(record.number, tracked);
            }
        }
    }

    /// The renewals of a service last shorter from now on than before. Whoever has not heard of it yet
    /// renews by that time.
    pub(super) fn shorten(&mut self, service: &str, before: Duration, now: Instant) {
        self.graces.retain(|_, until| *until > now);
        let grace = self.graces.entry(service.to_owned()).or_insert(now);
        *grace = (*grace).max(now + before);
    }

    fn lasts_until(
        &self,
        service: &str,
        (ttl, has_own_ttl): (Duration, bool),
        now: Instant,
    ) -> Instant {
        let grace = self.graces.get(service).filter(|_| !has_own_ttl);
        grace.map_or(now + ttl, |grace| (now + ttl).max(*grace))
    }

    /// Forgets a registration that is over.
    pub(super) fn forget(&mut self, number: u64) {
        if let Some(gone) = self.tracked.remove(&number)
            && let Some(count) = self.counts.get_mut(&gone.service)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&gone.service);
            }
        }
    }

    /// Renews, and tells for how long; `None`: nothing is known of it.
    pub(super) fn renew(
        &mut self,
        number: u64,
        service: &str,
        id: &str,
        now: Instant,
    ) -> Option<Duration> {
        let known = self.tracked.get(&number);
        let known = known.filter(|k| !k.expiring && k.service == service && k.id == id)?;
        let ttl = known.ttl;
        let until = self.lasts_until(service, (ttl, known.has_own_ttl), now);
        self.tracked.get_mut(&number)?.until = until;
        Some(ttl)
    }

    /// What was to be given up and could not be told: it is looked at again.
    pub(super) fn untold(&mut self, changes: &[HealthChange]) {
        for change in changes {
            if let Some(known) = self.tracked.get_mut(&change.incarnation) {
                known.expiring = false;
            }
        }
    }

    /// Looks who fell silent.
    pub(super) fn look(&mut self, now: Instant) -> Silent {
        let late = self.looked_at.replace(now).map_or(Duration::ZERO, |last| now - last);
        if late > Duration::from_millis(LEADER_STALL_MS) {
            self.tracked.values_mut().for_each(|known| known.until += late);
            self.graces.values_mut().for_each(|until| *until += late);
        }
        let mut silent: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (number, known) in self.tracked.iter().filter(|(_, k)| !k.expiring && k.until <= now) {
            silent.entry(known.service.clone()).or_default().push(*number);
        }
        let mut found = Silent::default();
        let over: Vec<String> =
            self.brakes.keys().filter(|service| !silent.contains_key(*service)).cloned().collect();
        for service in over {
            self.brakes.remove(&service);
            found.released.push(service);
        }
        for (service, mut numbers) in silent {
            if self.is_braked(&service, &numbers, now, &mut found) {
                continue;
            }
            numbers.sort_unstable();
            for number in numbers {
                self.give_up(number, now, &mut found.changes);
            }
        }
        found
    }

    /// Whether too many instances of a service fell silent within the time of a renewal.
    fn is_braked(
        &mut self,
        service: &str,
        silent: &[u64],
        now: Instant,
        found: &mut Silent,
    ) -> bool {
        let ttl = silent.iter().filter_map(|n| self.tracked.get(n)).map(|k| k.ttl).max();
        let ttl = ttl.unwrap_or_default();
        let lost = self.lost.entry(service.to_owned()).or_default();
        while lost.front().is_some_and(|at| now - *at > ttl) {
            lost.pop_front();
        }
        let lost = lost.len();
        let count = self.counts.get(service).copied().unwrap_or(0);
        let (gone, all) = (silent.len() + lost, count + lost);
        let bound = (all * BRAKE_PERCENT / 100).max(BRAKE_INSTANCES_MIN);
        if gone <= bound {
            if self.brakes.remove(service).is_some() {
                found.released.push(service.to_owned());
            }
            return false;
        }
        let brake = Brake { since: now, silent: gone, instances: all };
        let known = *self.brakes.entry(service.to_owned()).or_insert_with(|| {
            found.braked.push((service.to_owned(), brake));
            brake
        });
        now - known.since < Duration::from_millis(BRAKE_MS_MAX)
    }

    fn give_up(&mut self, number: u64, now: Instant, changes: &mut Vec<HealthChange>) {
        let Some(known) = self.tracked.get_mut(&number) else { return };
        known.expiring = true;
        self.lost.entry(known.service.clone()).or_default().push_back(now);
        changes.push(HealthChange {
            service: known.service.clone(),
            id: known.id.clone(),
            incarnation: number,
            signal: Signal::Ttl as i32,
            ok: false,
            reason: format!("no renewal for {} ms", known.ttl.as_millis()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::registry::InstanceSpec;
    use crate::runtime::clock;

    const TTL: Duration = Duration::from_secs(15);

    fn instance(number: u64) -> InstanceRecord {
        let (service, id) = ("s".to_owned(), format!("i{number}"));
        let spec = InstanceSpec { service, id, ..InstanceSpec::default() };
        InstanceRecord { number, spec, ..InstanceRecord::default() }
    }

    fn leading(count: u64) -> (Renewals, Instant) {
        let (mut renewals, now) = (Renewals::default(), clock::now());
        renewals.begin(Some(Term(1)), (1..=count).map(|n| (instance(n), TTL)), [], now);
        (renewals, now)
    }

    /// Looks every 200 ms from one instant to another, while some renew each time; who was given up.
    fn pass(
        renewals: &mut Renewals,
        (from, to): (Instant, Instant),
        renewing: std::ops::RangeInclusive<u64>,
    ) -> (Vec<u64>, usize) {
        let (mut lost, mut braked, mut now) = (Vec::new(), 0, from);
        while now <= to {
            for n in renewing.clone() {
                renewals.renew(n, "s", &format!("i{n}"), now);
            }
            let found = renewals.look(now);
            braked += found.braked.len();
            for change in found.changes {
                renewals.forget(change.incarnation);
                lost.push(change.incarnation);
            }
            now += Duration::from_millis(200);
        }
        (lost, braked)
    }

    #[test]
    fn who_falls_silent_is_given_up_after_its_time() {
        let (mut renewals, start) = leading(10);
        let span = (start, start + TTL - Duration::from_millis(1));
        assert_eq!(pass(&mut renewals, span, 1..=9), (vec![], 0));
        let span = (start + TTL, start + TTL + Duration::from_secs(1));
        assert_eq!(pass(&mut renewals, span, 1..=9), (vec![10], 0));
        assert_eq!(renewals.renew(10, "s", "i10", start), None, "it is lost");
        assert_eq!(renewals.renew(1, "s", "other", start), None, "that is another one");
        assert_eq!(renewals.renew(1, "s", "i1", start), Some(TTL));
    }

    #[test]
    fn a_new_leader_gives_each_one_time_of_its_own_renewal() {
        let (mut renewals, start) = leading(10);
        renewals.track(&instance(11), TTL / 5, start);
        assert!(renewals.look(start + TTL / 5 - Duration::from_millis(1)).changes.is_empty());
        let lost = renewals.look(start + TTL / 5).changes;
        assert_eq!(lost.iter().map(|change| change.incarnation).collect::<Vec<_>>(), [11]);
        assert!(renewals.look(start + TTL - Duration::from_millis(1)).changes.is_empty());
    }

    #[test]
    fn when_many_fall_silent_at_once_nobody_is_given_up_for_a_while() {
        let (mut renewals, start) = leading(100);
        // Sixteen of a hundred.
        let span = (start, start + TTL + Duration::from_secs(280));
        assert_eq!(pass(&mut renewals, span, 17..=100), (vec![], 1));
        // They come back: nothing happened.
        let back = span.1 + Duration::from_millis(200);
        assert_eq!(pass(&mut renewals, (back, back + TTL), 1..=100), (vec![], 0));
        // Fifteen are few enough.
        let span = (back + TTL, back + 3 * TTL);
        assert_eq!(pass(&mut renewals, span, 16..=100).0, (1..=15).collect::<Vec<_>>());
    }

    #[test]
    fn the_brake_does_not_hold_for_ever() {
        let (mut renewals, start) = leading(100);
        let end = start + TTL + Duration::from_millis(BRAKE_MS_MAX) + Duration::from_secs(1);
        let (lost, braked) = pass(&mut renewals, (start, end), 51..=100);
        assert_eq!((lost.len(), braked), (50, 1));
    }

    #[test]
    fn that_a_brake_holds_is_told_once_also_by_the_next_leader() {
        let (mut renewals, start) = leading(100);
        let end = start + TTL + Duration::from_secs(1);
        pass(&mut renewals, (start, end), 51..=100);
        let news = renewals.brake_news(end);
        assert_eq!((news.len(), news[0].0.as_str(), news[0].1.unwrap().silent), (1, "s", 50));
        // What could not be told is told again.
        assert_eq!(renewals.brake_news(end), news);
        renewals.brake_told("s", news[0].1, end);
        assert_eq!(renewals.brake_news(end), []);
        // The next leader has not seen yet who is silent; then it goes on.
        let instances = || (1..=100).map(|n| (instance(n), TTL));
        renewals.begin(Some(Term(2)), instances(), ["s".to_owned()], end);
        let almost = end + TTL - Duration::from_millis(1);
        pass(&mut renewals, (end, almost), 51..=100);
        assert_eq!(renewals.brake_news(almost), []);
        let later = end + 2 * TTL;
        pass(&mut renewals, (almost, later), 51..=100);
        assert_eq!(renewals.brake_news(later), []);
        // All are back.
        pass(&mut renewals, (later, later + TTL), 1..=100);
        assert_eq!(renewals.brake_news(later + TTL), [("s".to_owned(), None)]);
        renewals.brake_told("s", None, later + TTL);
        assert_eq!(renewals.brake_news(later + TTL), []);
        // As the next leader finds it, if they are back by then.
        renewals.begin(Some(Term(3)), instances(), ["s".to_owned()], later);
        pass(&mut renewals, (later, later + 2 * TTL), 1..=100);
        assert_eq!(renewals.brake_news(later + 2 * TTL), [("s".to_owned(), None)]);
    }

    #[test]
    fn of_few_instances_all_may_go() {
        let (mut renewals, start) = leading(2);
        let (lost, _) = pass(&mut renewals, (start, start + 2 * TTL), 9..=9);
        assert_eq!(lost, [1, 2]);
    }

    #[test]
    fn a_leader_that_stood_still_gives_the_time_back() {
        let (mut renewals, start) = leading(2);
        pass(&mut renewals, (start, start + TTL), 1..=2);
        let after = start + TTL + Duration::from_secs(60);
        assert!(renewals.look(after).changes.is_empty());
        let (lost, _) = pass(&mut renewals, (after, after + TTL + Duration::from_secs(1)), 9..=9);
        assert_eq!(lost, [1, 2]);
    }

    const SHORT: Duration = Duration::from_secs(3);

    /// Looks every second from one to another; who was given up, and in which second.
    fn seconds(
        renewals: &mut Renewals,
        start: Instant,
        seconds: std::ops::RangeInclusive<u64>,
        mut each: impl FnMut(&mut Renewals, u64, Instant),
    ) -> Vec<(u64, u64)> {
        let mut lost = Vec::new();
        for second in seconds {
            let now = start + Duration::from_secs(second);
            each(renewals, second, now);
            for change in renewals.look(now).changes {
                renewals.forget(change.incarnation);
                lost.push((second, change.incarnation));
            }
        }
        lost
    }

    /// The renewals of a service last three seconds from now on.
    fn shorten(renewals: &mut Renewals, numbers: std::ops::RangeInclusive<u64>, now: Instant) {
        renewals.shorten("s", TTL, now);
        numbers.for_each(|n| renewals.track(&instance(n), SHORT, now));
    }

    #[test]
    fn who_renews_by_the_time_before_hears_of_a_shorter_one_first() {
        let (mut renewals, start) = leading(3);
        let lost = seconds(&mut renewals, start, 0..=40, |renewals, second, now| {
            let old_round = second % 5 == 0;
            if old_round || second > 10 {
                // The first heard of it at its next renewal, and renews by it.
                let lasts = if second > 5 { SHORT } else { TTL };
                assert_eq!(renewals.renew(1, "s", "i1", now), Some(lasts), "{second}");
            }
            if old_round && second <= 15 {
                // The second does not listen.
                assert!(renewals.renew(2, "s", "i2", now).is_some(), "{second}");
            }
            if second == 5 {
                shorten(renewals, 1..=3, now);
            }
        });
        // The third never renewed. The others have the time before once more, from the change on.
        assert_eq!(lost, [(15, 3), (20, 2)]);
    }

    #[test]
    fn a_new_leader_knows_who_may_not_have_heard_of_a_shorter_time() {
        let (mut renewals, start) = leading(1);
        shorten(&mut renewals, 1..=1, start);
        let mut own = instance(2);
        own.spec.ttl_ms = 3000;
        let now = start + Duration::from_secs(1);
        renewals.begin(Some(Term(2)), [(instance(1), SHORT), (own, SHORT)], [], now);
        let lost = seconds(&mut renewals, start, 1..=30, |_, _, _| ());
        assert_eq!(lost, [(4, 2), (15, 1)]);
    }

    #[test]
    fn a_longer_time_counts_from_the_last_renewal() {
        let (mut renewals, start) = leading(1);
        let lost = seconds(&mut renewals, start, 0..=40, |renewals, second, now| {
            if second == 5 {
                renewals.track(&instance(1), 2 * TTL, now);
            }
        });
        assert_eq!(lost, [(30, 1)]);
    }
}
