//! A new leader: leases of earlier ones are honoured a little longer, since their consumers could
//! not renew them while there was none. One row says so; no lease is rewritten.
//!
//! What is earlier is told by the time of the grant, not by the term: two nodes may lead one after
//! the other under the same number of a term. To announce the same leader again does no harm.

use crate::machine::Fault;
use crate::machine::apply::Machine;
use crate::machine::kv::Kv;
use crate::model::command::NewLeader;
use crate::model::limits::LEASE_GRACE_MS_MAX;
use crate::model::outcome::Outcome;

#[expect(clippy::unnecessary_wraps, reason = "every command has this shape")]
pub(crate) fn apply<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: NewLeader,
) -> Result<Outcome, Fault> {
    let now = machine.now().get();
    let until = now.saturating_add(command.grace_ms.min(LEASE_GRACE_MS_MAX));
    let meta = machine.meta_mut();
    if command.term >= meta.term {
        meta.term = command.term;
        meta.led_since_ms = now;
        meta.grace_until_ms = meta.grace_until_ms.max(until);
    }
    Ok(Outcome::Done)
}
