//! How much memory and which compression the databases may use.

/// Compression of stored events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// None: the fastest.
    #[default]
    None,
    /// LZ4: cheap, about a half of typical JSON.
    Lz4,
    /// Zstandard: denser, slower.
    Zstd,
}

/// Bounds of the state database.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Bytes of cached blocks, shared by all tables. Default 32 MiB.
    pub block_cache_bytes: usize,
    /// Bytes of unflushed rows, over all tables. Default 64 MiB.
    pub write_buffer_bytes: usize,
    /// Compression of events. Default none.
    pub compression: Compression,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 32 << 20,
            write_buffer_bytes: 64 << 20,
            compression: Compression::None,
        }
    }
}

/// What all databases have in common.
#[cfg(not(feature = "sim"))]
pub(super) fn base() -> rocksdb::Options {
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(2);
    // Freshly written pages would only push out those that are read.
    options.set_use_direct_io_for_flush_and_compaction(true);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}
