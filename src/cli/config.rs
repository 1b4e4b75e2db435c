//! `mhub config`.

use serde_json::json;

use super::output::{self, Output};
use super::serve::SettingArgs;
use super::{Done, Failure};
use crate::model::rejection::Exit;

#[derive(Debug, clap::Subcommand)]
pub(super) enum ConfigCommand {
    /// Print every setting, its value, and where that comes from.
    #[command(
        after_help = "Examples:\n  mhub config show\n  MHUB_RAFT_HEARTBEAT_MS=100 mhub config show -o json"
    )]
    Show(SettingArgs),
}

pub(super) fn run(command: &ConfigCommand, output: Output) -> Done {
    let ConfigCommand::Show(args) = command;
    let (_, settings) = args.clone().load()?;
    let rows: Vec<_> = settings
        .iter()
        .map(|s| json!({"key": s.key, "value": s.value, "origin": s.origin.to_string(), "help": s.help}))
        .collect();
    output::list(output, &["key", "value", "origin", "help"], &rows)?;
    Ok::<_, Failure>(Exit::Ok)
}
