//! Renewals of instances, in the leader's memory: only that they end is replicated.
//!
//! A new leader gives every instance the time of one renewal. Where far more of a service fall silent
//! at once than usual, the fault lies more likely with the hub or its network than with them: then
//! none of them is given up for a while. A leader that stood still gives everybody that time back.
//! Where a service's renewals last shorter from now on, those by the time before will do once more.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::machine::registry::records::InstanceRecord;
use crate::model::command::HealthChange;
use crate::model::ids::Term;
use crate::model::limits::{
    BRAKE_INSTANCES_MIN, BRAKE_MS_MAX, BRAKE_PERCENT, INSTANCE_TTL_MS, LEADER_STALL_MS,
};
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
    /// When which instances of a service were given up.
    lost: HashMap<String, VecDeque<(Instant, u64)>>,
    brakes: BTreeMap<String, Brake>,
    /// Services that were braked when this leader began: that instant, and how long they had been by then. What
    /// holds here goes on with that.
    braked_before: BTreeMap<String, (Instant, Duration)>,
    /// Services whose renewals last shorter since a while: until when those by the time before will do.
    graces: HashMap<String, Instant>,
    /// Services that the state knows as braked, and from when on that may be taken back: a new leader has not
    /// seen yet who is silent.
    told: BTreeMap<String, Instant>,
    /// A new leader: until when somebody has time only because it has just begun.
    grace_until: Option<Instant>,
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

    /// Begins to lead, with all instances that are there, each of which has all of its time, the services that
    /// are known as braked, and for how long, and those whose renewals last shorter since a while, with what is left of the time by
    /// which those before will do; `None`: it is over.
    pub(super) fn begin(
        &mut self,
        term: Option<Term>,
        instances: impl IntoIterator<Item = (InstanceRecord, Duration)>,
        braked: impl IntoIterator<Item = (String, Duration)>,
        graces: impl IntoIterator<Item = (String, Duration)>,
        now: Instant,
    ) {
        let graces = graces.into_iter().map(|(service, left)| (service, now + left)).collect();
        *self = Self { term, graces, ..Self::default() };
        for (service, since) in braked {
            self.told.insert(service.clone(), now);
            self.braked_before.insert(service, (now, since));
        }
        for (record, ttl) in instances {
            let time = (ttl, record.spec.ttl_ms > 0);
            let until = self.lasts_until(&record.spec.service, time, now);
            if let Some(from) = self.told.get_mut(&record.spec.service) {
                *from = (*from).max(until);
            }
            self.track(&record, ttl, now);
        }
        self.grace_until = self.tracked.values().map(|known| known.until).max();
    }

    /// How many instances renew.
    pub(super) fn count(&self) -> usize {
        self.tracked.len()
    }

    /// How much longer not everybody who is silent is given up, since this leader has just begun.
    pub(super) fn grace(&self, now: Instant) -> Duration {
        self.grace_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
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

    /// The state knows of it now. What was told in another term says nothing of this one's brakes.
    pub(super) fn brake_told(
        &mut self,
        term: Term,
        service: &str,
        brake: Option<Brake>,
        now: Instant,
    ) {
        match brake {
            _ if self.term != Some(term) => {}
            // Heard of before, it is known better when it may be taken back.
            Some(_) => drop(self.told.entry(service.to_owned()).or_insert(now)),
            None => self.unbraked(service),
        }
    }

    /// The state knows a service as braked, whoever told it so. Where nothing is known here of its having been
    /// told, nor of a brake, it is taken back no sooner than all who renew had their time.
    pub(super) fn braked(&mut self, service: &str, now: Instant) {
        if self.term.is_none() || self.told.contains_key(service) {
            return;
        }
        let is_own = self.brakes.contains_key(service);
        let of = self.tracked.values().filter(|known| !is_own && known.service == service);
        let from = of.map(|known| known.until).fold(now, Instant::max);
        self.told.insert(service.to_owned(), from);
    }

    /// The state does not know a service as braked, whoever told it so.
    pub(super) fn unbraked(&mut self, service: &str) {
        self.told.remove(service);
        self.braked_before.remove(service);
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

    /// The renewals of a service last shorter from now on than before. Whoever has not heard of it yet renews by
    /// that time.
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
            let known = self.tracked.get_mut(&change.incarnation);
            if let Some(known) = known.filter(|known| known.expiring) {
                known.expiring = false;
                // It does not count twice.
                if let Some(lost) = self.lost.get_mut(&known.service) {
                    lost.retain(|(_, number)| *number != change.incarnation);
                }
            }
        }
    }

    /// Looks who fell silent.
    pub(super) fn look(&mut self, now: Instant) -> Silent {
        let late = self.looked_at.replace(now).map_or(Duration::ZERO, |last| now - last);
        if late > Duration::from_millis(LEADER_STALL_MS) {
            self.tracked.values_mut().for_each(|known| known.until += late);
            self.graces.values_mut().for_each(|until| *until += late);
            self.told.values_mut().for_each(|from| *from += late);
            self.grace_until = self.grace_until.map(|until| until + late);
        }
        self.forget_lost(now);
        let mut silent: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (number, known) in self.tracked.iter().filter(|(_, k)| !k.expiring && k.until <= now) {
            silent.entry(known.service.clone()).or_default().push(*number);
        }
        let mut found = Silent::default();
        // Those that are being given up may turn out not to be: then it holds for no longer than it would have.
        let expiring = self.tracked.values().filter(|known| known.expiring);
        let expiring: BTreeSet<&str> = expiring.map(|known| known.service.as_str()).collect();
        let is_over = |service: &&String| {
            !silent.contains_key(*service) && !expiring.contains(service.as_str())
        };
        let over: Vec<String> = self.brakes.keys().filter(is_over).cloned().collect();
        for service in over {
            self.let_go(service, &mut found);
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
        while lost.front().is_some_and(|(at, _)| now - *at > ttl) {
            lost.pop_front();
        }
        let lost = lost.len();
        let count = self.counts.get(service).copied().unwrap_or(0);
        let (gone, all) = (silent.len() + lost, count + lost);
        let bound = (all * BRAKE_PERCENT / 100).max(BRAKE_INSTANCES_MIN);
        if gone <= bound {
            if self.brakes.contains_key(service) {
                self.let_go(service.to_owned(), found);
            }
            return false;
        }
        let brake = Brake { since: now, silent: gone, instances: all };
        let is_new = !self.brakes.contains_key(service);
        let since = self.brakes.entry(service.to_owned()).or_insert(brake).since;
        let before = self.braked_before.get(service).copied();
        let (since, before) = before.unwrap_or((since, Duration::ZERO));
        let holds = before + (now - since) < Duration::from_millis(BRAKE_MS_MAX);
        if is_new && holds {
            found.braked.push((service.to_owned(), brake));
        }
        holds
    }

    fn let_go(&mut self, service: String, found: &mut Silent) {
        self.brakes.remove(&service);
        self.braked_before.remove(&service);
        found.released.push(service);
    }

    /// Forgets when instances were given up, once it is too long ago to matter to any service.
    fn forget_lost(&mut self, now: Instant) {
        let longest = Duration::from_millis(*INSTANCE_TTL_MS.end());
        self.lost.retain(|_, lost| {
            while lost.front().is_some_and(|(at, _)| now - *at > longest) {
                lost.pop_front();
            }
            !lost.is_empty()
        });
    }

    fn give_up(&mut self, number: u64, now: Instant, changes: &mut Vec<HealthChange>) {
        let Some(known) = self.tracked.get_mut(&number) else { return };
        known.expiring = true;
        self.lost.entry(known.service.clone()).or_default().push_back((now, number));
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
mod tests;
