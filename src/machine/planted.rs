//! What it takes to plant bugs in the state machine. Not part of a release build.

use super::Fault;
use crate::model::command::Publish;
use crate::model::event;
use crate::model::event_run;
use crate::model::planted::{Bug, is};

/// Write skew: whether nobody looks at what is expected of a key, since no event of the call has it.
///
/// # Errors
/// When the events cannot be read.
pub(super) fn is_passed_over(command: &Publish, key: &str) -> Result<bool, Fault> {
    if !is(Bug::WriteSkew) {
        return Ok(false);
    }
    for encoded in event_run::iter(&command.events) {
        if event::key_of(encoded?)? == key {
            return Ok(false);
        }
    }
    Ok(true)
}
