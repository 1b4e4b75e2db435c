//! Settings of a node, each with the place that it came from.
//!
//! Flag > environment (`MHUB_SECTION_KEY`) > file (`mhub.toml`) > default. Unknown keys are refused.

mod load;
mod settings;
mod value;

pub use self::load::{ConfigError, Origin, Overrides, Setting, load};
pub use self::settings::{
    Config, EgressConfig, LimitsConfig, ListenConfig, LogConfig, NodeConfig, RaftConfig,
    RuntimeConfig, StorageConfig,
};
pub use self::value::{CompressionName, LogFormat, Networks};
