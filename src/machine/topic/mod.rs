//! Topics: their records, their commands, and the batches that hold their events.

pub(crate) mod against;
pub(crate) mod backs;
pub mod batch;
pub mod cutter;
pub mod heads;
pub mod ids;
pub mod key_snapshots;
pub mod keys;
pub mod open_batch;
pub(crate) mod reader;
pub mod record;
pub mod runs;
mod stripes;

pub mod create;
pub mod delete;
pub mod publish;
pub mod update;
