//! Breakers that are being tried, as one client sees them: so many of its calls may be under way to them
//! at once. Another client, and each node, has as many of its own.

use std::collections::HashSet;
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

/// Instances that are being tried since an earlier answer: calls from before it do not count.
pub(super) fn newly_tried(before: &[ResolveResponse], after: &[ResolveResponse]) -> Vec<u64> {
    let of = |answer: &ResolveResponse| {
        let all = answer.instances.iter();
        let some = all.filter(|instance| answer.service_half_open || is_tried(instance));
        some.map(|instance| instance.incarnation).collect::<Vec<_>>()
    };
    let tried = |pools: &[ResolveResponse]| -> HashSet<u64> { pools.iter().flat_map(of).collect() };
    let (known, now) = (tried(before), tried(after));
    now.into_iter().filter(|number| !known.contains(number)).collect()
}

/// The refusal when all that is known is being tried by enough calls.
pub(super) fn refused(service: &str) -> Rejection {
    let text = format!(
        "a breaker of {service} is being tried, by as many of this client's calls as it lets through: call again when they are over"
    );
    let rejection = Rejection::new(Reason::NoInstance, text).with("service", service);
    rejection.retry_after_ms(PROBES_RETRY_MS)
}
