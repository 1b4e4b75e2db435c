//! Delivery: leases, how they end, retries and dead letters, and the timers behind them.

pub mod dead;
pub mod failures;
pub mod leases;
pub mod loads;
pub mod ready;
pub mod timers;

pub mod budget;
pub mod retry;
pub mod trip;

pub(crate) mod eligible;
pub(crate) mod fail;
pub(crate) mod pauses;
pub(crate) mod work;

pub mod leader;
pub mod lease;
pub mod redrive;
pub mod retries;
pub mod settle;
pub mod tick;

pub mod query;
