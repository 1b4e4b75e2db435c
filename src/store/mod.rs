//! Everything that names RocksDB: the state database, the log database, snapshots, the data
//! directory.

mod open;
pub mod options;

pub mod log_db;
pub mod shard;
pub mod state;
mod synced_mark;

pub mod data_dir;
pub mod files;
mod local_record;

pub use self::open::wait_closed;
