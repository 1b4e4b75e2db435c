//! Telling all that would be chosen from, to who chooses by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message as _;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    Pool, Registry, Resolved, Wanted, healthy, in_zone, is_tried_whole, panics, recovered, unshut,
    warmth_milli,
};
use crate::machine::registry::records::{InstanceRecord, service_not_found};
use crate::model::ids::UnixMs;
use crate::model::limits::{RESOLVE_BYTES_TARGET, RESOLVE_INSTANCES_MAX};
use crate::model::registry::BreakerState;
use crate::model::rejection::Rejection;
use crate::node::registry::view::Known;

impl Pool {
    /// Whether breakers that are being tried may let no call more through to any of them.
    fn fills(&self) -> bool {
        let Some(service) = &self.known.service else { return false };
        let is_tried = |member: &Arc<InstanceRecord>| {
            !service.config.breaker.disabled && member.breaker.state() == BreakerState::HalfOpen
        };
        is_tried_whole(service) || self.members.iter().all(is_tried)
    }
}

impl Registry {
    /// All that would be chosen from, for who chooses by itself, and whom from when breakers that are being
    /// tried let no more calls through to them.
    pub(super) fn all(
        &self,
        wanted: &Wanted,
        dice: u64,
        now: UnixMs,
        revision: u64,
    ) -> Result<Resolved, Rejection> {
        let mut left = Left { instances: RESOLVE_INSTANCES_MAX, bytes: RESOLVE_BYTES_TARGET };
        let mut tell = |pool: &Pool| {
            let is_full = left.instances == 0 || left.bytes == 0;
            let service = pool.known.service.as_ref().filter(|_| !is_full)?;
            let some = left.sample(&pool.members, dice);
            let slow = service.config.slow_start_ms;
            let warmth_milli = some.iter().map(|member| warmth_milli(member, slow, now)).collect();
            Some(Resolved { warmth_milli, ..pool.tell(service, wanted, &some, revision) })
        };
        let pools = self.pools(wanted, now);
        let mut told = Vec::new();
        for pool in &pools {
            told.extend(tell(pool));
            if !pool.fills() {
                break;
            }
        }
        let mut told = told.into_iter();
        let Some(first) = told.next() else {
            // Why there is nobody.
            let refused = self.pool(wanted, now, None).err();
            return Err(refused.unwrap_or_else(|| service_not_found(&wanted.service)));
        };
        Ok(Resolved { next: told.collect(), ..first })
    }

    /// The instances that are chosen from, and after them whom `pool` comes to when those before have
    /// no room. Nobody is among two of them.
    fn pools(&self, wanted: &Wanted, now: UnixMs) -> Vec<Pool> {
        let name = wanted.service.as_str();
        let Some(known) = self.view.service(name) else { return Vec::new() };
        let Some(service) = &known.service else { return Vec::new() };
        let own = self.shapes(name, &known, wanted);
        let is_down = own.is_empty();
        let steps = service.config.failover.iter();
        let steps = steps.filter(|step| wanted.may_fall_back_to(&step.service));
        let mut names = BTreeSet::new();
        let others = steps.filter_map(|step| {
            if !names.insert(&step.service) {
                return None;
            }
            let known = self.view.service(&step.service)?;
            Some(self.shapes(&step.service, &known, wanted))
        });
        let mut pools: Vec<Pool> = if recovered(service, now) {
            own.into_iter().chain(others.flatten()).collect()
        } else {
            others.flatten().chain(own).collect()
        };
        if is_down && panics(service, wanted) {
            let members = unshut(&known, wanted);
            let (name, known) = (name.to_owned(), Arc::clone(&known));
            if !members.is_empty() {
                pools.push(Pool { name, known, members, panic: true });
            }
        }
        pools
    }

    /// The pool of `shape`, then the next zone, and so on.
    fn shapes(&self, name: &str, known: &Arc<Known>, wanted: &Wanted) -> Vec<Pool> {
        let mut left = healthy(known, wanted);
        let first = self.shape(name, known, &left, wanted, None);
        let Some((service, first)) = known.service.as_ref().zip(first) else { return Vec::new() };
        // Who tries a whole service has no room in one zone that there is not in all.
        if first.panic || is_tried_whole(service) {
            return vec![first];
        }
        let mut pools = Vec::new();
        while !left.is_empty() {
            let members = in_zone(service, &left, wanted).unwrap_or_else(|| left.clone());
            let zone = members.first().map(|member| member.spec.zone.clone());
            let is_all = members.len() == left.len();
            left.retain(|member| !is_all && Some(&member.spec.zone) != zone.as_ref());
            let (name, known) = (name.to_owned(), Arc::clone(known));
            pools.push(Pool { name, known, members, panic: false });
        }
        pools
    }
}

/// What is left of an answer.
struct Left {
    instances: usize,
    bytes: usize,
}

impl Left {
    /// All, or as many of them as fit, but one in any case: others for each number that nobody foresees.
    fn sample(&mut self, members: &[Arc<InstanceRecord>], dice: u64) -> Vec<Arc<InstanceRecord>> {
        let mut some = members.to_vec();
        if some.len() > self.instances {
            shuffle(&mut some, dice);
            some.truncate(self.instances);
        }
        let mut bytes: usize = some.iter().map(|member| member.encoded_len()).sum();
        if bytes > self.bytes {
            shuffle(&mut some, dice);
            bytes = 0;
            let fits = |member: &&Arc<InstanceRecord>| {
                bytes += member.encoded_len();
                bytes <= self.bytes
            };
            let fitting = some.iter().take_while(fits).count();
            some.truncate(fitting.max(1));
        }
        self.instances -= some.len();
        self.bytes = self.bytes.saturating_sub(bytes);
        some
    }
}

fn shuffle(members: &mut [Arc<InstanceRecord>], dice: u64) {
    members.sort_by_cached_key(|member| xxh3_64_with_seed(&member.number.to_be_bytes(), dice));
}
