//! Clock, tasks, shutdown and faults: the few things that every running part needs.

pub mod clock;
pub mod fatal;
#[cfg(feature = "planted")]
pub mod planted;
pub mod shutdown;
pub mod tasks;
#[cfg(feature = "failpoints")]
mod wrong_clock;
