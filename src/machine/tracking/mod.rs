//! The story of events: which belong together, and what became of each in every subscription.

pub mod endings;
pub mod fate;
pub mod index;
pub mod query;
