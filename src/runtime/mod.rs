//! Clock, tasks, shutdown and faults: the few things that every running part needs.

pub mod clock;
pub mod fatal;
pub mod shutdown;
pub mod tasks;
