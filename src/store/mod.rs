//! Everything that names RocksDB: the state database, the log database, snapshots, the data
//! directory. With the feature `sim` the two databases are simulated ones.

pub mod options;

#[cfg(not(feature = "sim"))]
pub mod log_db;
#[cfg(not(feature = "sim"))]
mod open;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(not(feature = "sim"))]
pub mod state;
#[cfg(not(feature = "sim"))]
mod synced_mark;

pub mod shard;

pub mod data_dir;
pub mod files;
#[cfg(not(feature = "sim"))]
mod local_record;

#[cfg(not(feature = "sim"))]
pub use self::open::wait_closed;
#[cfg(feature = "sim")]
pub use self::sim::{log_db, state, wait_closed};
