//! Real three-node clusters of real processes, faults included.

mod support;

mod bad_input;
mod crash;
mod membership;
