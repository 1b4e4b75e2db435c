//! The service registry: services, their instances, and what became of them.
//!
//! Only transitions are replicated. That an instance renews, and how its calls go, stays with the
//! nodes (`node/registry`); they propose what changes, and here it is judged against the state: a
//! change names the incarnation it is about, and is left out when that is gone.

pub mod breaker;
pub mod changes;
pub mod graph;
pub mod health;
pub mod instances;
pub mod query;
pub mod records;
pub mod services;
pub mod standing;
pub mod watch;
