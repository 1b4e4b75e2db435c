//! Bugs that are planted in the hub, and what has to find them.
//!
//! A harness that never failed proves nothing. Each bug has the workload and the faults that meet it,
//! and the checks that have to complain: a run that fails for another reason has not found it.

use std::path::Path;

use anyhow::{Context as _, ensure};
use message_hub::model::planted;
use serde::Deserialize;

use crate::matrix::Pair;
use crate::nemesis::Nemesis;
use crate::workload::Workload;

/// Tells a hub which bug to plant.
pub const VARIABLE: &str = "MHUB_TEST_PLANT";
/// Of so many runs all but one have to find the bug.
pub const RUNS: u32 = 10;

/// A bug, and what finds it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The bug's name.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// What meets it.
    pub pair: Pair,
    /// The checks of which one has to complain.
    pub checks: &'static [&'static str],
}

/// All bugs, with what finds them.
#[must_use]
pub fn plans() -> Vec<Plan> {
    use Nemesis::{Kill, Membership, Partition, Pause, Power};
    const LOG: &[&str] = &["set-full", "replicas", "equal states"];
    let found_by = |name: &str| -> (Workload, &[Nemesis], &'static [&'static str]) {
        match name {
            // A node that finds less than it had promised may also stop by itself.
            "no-sync" => {
                (Workload::Log, &[Power], &["set-full", "replicas", "equal states", "complaints"])
            }
            "stale-read" => (Workload::Keys, &[Partition], &["linearizable keys"]),
            "clock-in-apply" => (Workload::Log, &[Kill], &["equal states"]),
            "late-dead-letter" => (Workload::Failures, &[Kill], &["conservation", "equal states"]),
            "no-deduplication" => (Workload::Log, &[Membership], &["set-full", "equal states"]),
            "half-quorum" => (Workload::Log, &[Partition], LOG),
            "applied-apart" => (Workload::Log, &[Kill], LOG),
            "write-skew" => (Workload::Transactions, &[Partition], &["strictly serializable"]),
            // no-fencing, stale-token, and any that is new.
            _ => (Workload::Queue, &[Pause], &["fencing"]),
        }
    };
    let plan = |(name, _, what): &(&'static str, planted::Bug, &'static str)| {
        let (workload, nemeses, checks) = found_by(name);
        let pair = Pair { workload, nemeses: nemeses.to_vec(), nodes: 3 };
        Plan { name, what, pair, checks }
    };
    planted::ALL.iter().map(plan).collect()
}

/// The plan of a bug.
///
/// # Errors
/// When there is none.
pub fn parse(name: &str) -> Result<Plan, String> {
    let found = plans().into_iter().find(|plan| plan.name == name);
    found.ok_or_else(|| format!("there is no bug {name:?}; `jepsen-like list` names them"))
}

/// Makes sure that a hub can be planted with a bug.
///
/// # Errors
/// When it was built without the feature.
pub async fn check_hub(mhub: &Path) -> anyhow::Result<()> {
    let mut command = tokio::process::Command::new(mhub);
    let asked = command.args(["config", "show"]).env(VARIABLE, "none-such").output();
    let output = asked.await.with_context(|| format!("start {}", mhub.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        said.contains("is no planted bug"),
        "{} has no bugs to plant; build one with: cargo build --bin mhub --features planted",
        mhub.display()
    );
    Ok(())
}

/// What `verdict.json` of a run says, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
pub struct Told {
    /// What was judged.
    pub checks: Vec<Judged>,
}

/// One check of it.
#[derive(Debug, Deserialize)]
pub struct Judged {
    /// What was judged.
    pub name: String,
    /// How much is wrong.
    pub wrong: u64,
    /// Figures for people.
    pub figures: std::collections::BTreeMap<String, u64>,
}

impl Told {
    /// The verdict in the directory of a run; `None` when it was never judged.
    #[must_use]
    pub fn of(run: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(run.join("verdict.json")).ok()?).ok()
    }

    /// The checks that complain.
    #[must_use]
    pub fn complaining(&self) -> Vec<&str> {
        self.checks.iter().filter(|c| c.wrong > 0).map(|c| c.name.as_str()).collect()
    }

    /// A figure, over all checks.
    #[must_use]
    pub fn figure(&self, name: &str) -> u64 {
        self.checks.iter().filter_map(|check| check.figures.get(name)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bug_has_checks_that_have_to_find_it() {
        for plan in plans() {
            assert!(!plan.checks.is_empty() && !plan.pair.nemeses.is_empty(), "{plan:?}");
            assert_eq!(parse(plan.name).unwrap().what, plan.what);
        }
        assert!(parse("none-such").is_err());
    }
}
