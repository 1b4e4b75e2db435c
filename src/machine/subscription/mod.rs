//! Subscriptions: their records, their progress, and the commands over them.

pub mod marks;
pub mod progress;
pub mod record;
pub mod state;

pub mod create;
pub mod delete;
pub mod pause;
pub mod seek;
pub mod update;

pub mod backlog;
pub mod query;
pub mod stats;
