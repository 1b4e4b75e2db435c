//! Breakers that are being tried, as one client sees them: so many of its calls may be under way to them
//! at once. Another client, and each node, has as many of its own.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::limits::PROBES_RETRY_MS;
use crate::model::rejection::{Reason, Rejection};
use crate::proto::v1::{BreakerState, Instance, ResolveResponse};

fn is_tried(instance: &Instance) -> bool {
    instance.breaker.as_ref().is_some_and(|breaker| breaker.state() == BreakerState::HalfOpen)
}

/// What an answer tells to choose from: each when those before it have no room.
pub(super) fn pools(mut answer: ResolveResponse) -> Arc<[ResolveResponse]> {
    let next = std::mem::take(&mut answer.next);
    std::iter::once(answer).chain(next).collect()
}

/// Which instances one call more may go to, when so many are under way to each.
pub(super) fn with_room(answer: &ResolveResponse, under_way: &[u32]) -> Vec<bool> {
    let is_full = |calls: u32| answer.probes > 0 && calls >= answer.probes;
    let of_all = under_way.iter().copied().fold(0, u32::saturating_add);
    let all_full = answer.service_half_open && is_full(of_all);
    let each = answer.instances.iter().zip(under_way);
    each.map(|(instance, calls)| !(all_full || (is_tried(instance) && is_full(*calls)))).collect()
}

/// Takes note of which instances are being tried, and names those that were not when they were told of last:
/// calls from before do not count. Those that nobody tells of any more are kept in mind while they are called.
pub(super) fn newly_tried(
    known: &mut HashMap<u64, bool>,
    pools: &[ResolveResponse],
    is_called: impl Fn(u64) -> bool,
) -> Vec<u64> {
    let of = |pool: &ResolveResponse| {
        let tried = |one: &Instance| pool.service_half_open || is_tried(one);
        pool.instances.iter().map(|one| (one.incarnation, tried(one))).collect::<Vec<_>>()
    };
    let told: HashMap<u64, bool> = pools.iter().flat_map(of).collect();
    let newly = told.iter().filter(|(number, tried)| **tried && known.get(number) != Some(&true));
    let newly = newly.map(|(number, _)| *number).collect();
    known.retain(|number, _| !told.contains_key(number) && is_called(*number));
    known.extend(told);
    newly
}

/// The refusal when all that is known is being tried by enough calls.
pub(super) fn refused(service: &str) -> Rejection {
    let text = format!(
        "a breaker of {service} is being tried, by as many of this client's calls as it lets through: call again when they are over"
    );
    let rejection = Rejection::new(Reason::NoInstance, text).with("service", service);
    rejection.retry_after_ms(PROBES_RETRY_MS)
}
