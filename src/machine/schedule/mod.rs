//! Schedules: the orders of special events, and the search for what a subscription delivers next.

pub mod rank;
pub mod scheduled;
pub mod specials;

pub(crate) mod index;

pub mod cancel;

pub mod candidates;
pub mod cursor;
mod flows;
mod held;
mod lane;
pub mod reserved;
mod search;
mod streams;
mod topics;
mod turns;
