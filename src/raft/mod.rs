//! Everything that names the consensus library.

pub(crate) mod codec;
pub mod log_flusher;
pub mod log_store;
mod log_tail;
pub mod types;
