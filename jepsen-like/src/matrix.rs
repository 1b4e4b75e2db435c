//! Which workloads have to meet which faults, and what all runs together have to show.

use std::path::{Path, PathBuf};

use crate::nemesis::Nemesis;
use crate::plant::Told;
use crate::workload::Workload;

/// A run of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What clients do.
    pub workload: Workload,
    /// What breaks.
    pub nemeses: Vec<Nemesis>,
    /// Nodes.
    pub nodes: u8,
}

impl Pair {
    /// The faults as `run --nemesis` takes them.
    #[must_use]
    pub fn faults(&self) -> String {
        self.nemeses.iter().map(|n| n.name()).collect::<Vec<_>>().join(",")
    }
}

/// How much of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A few minutes.
    Quick,
    /// Every pair.
    Full,
}

/// How long the runs of an extent are unless something else is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Length {
    /// Seconds with faults.
    pub time_s: u64,
    /// Seconds without.
    pub calm_s: u64,
    /// Operations a second.
    pub rate: u32,
    /// How often each fault must have been there.
    pub installed_min: u32,
}

impl Extent {
    /// Quick: four runs within eight minutes. Full: half an hour in all.
    #[must_use]
    pub fn length(self) -> Length {
        match self {
            Self::Quick => Length { time_s: 60, calm_s: 15, rate: 150, installed_min: 2 },
            Self::Full => Length { time_s: 58, calm_s: 25, rate: 1000, installed_min: 2 },
        }
    }
}

/// The runs.
#[must_use]
pub fn pairs(extent: Extent) -> Vec<Pair> {
    use Nemesis::{
        Bridge, Clock, Damage, Failing, Full, Kill, Loss, Membership, OneWay, Partition, Pause,
        Power, Resets, Slow,
    };
    let runs: &[(Workload, &[Nemesis], u8)] = match extent {
        Extent::Quick => &[
            (Workload::Keys, &[Partition, Membership], 3),
            (Workload::Log, &[Power, Kill], 3),
            (Workload::Queue, &[Partition, Kill], 3),
            (Workload::Failures, &[Power, Membership], 3),
        ],
        Extent::Full => &[
            (Workload::Keys, &[Partition, OneWay], 3),
            (Workload::Keys, &[Bridge, Resets, Kill], 5),
            (Workload::Keys, &[Power, Loss], 3),
            (Workload::Keys, &[Membership, Pause], 3),
            (Workload::Log, &[Power], 3),
            (Workload::Log, &[Power, Kill, Partition], 5),
            (Workload::Log, &[Failing, Full, Damage], 3),
            (Workload::Queue, &[Partition, OneWay, Kill], 3),
            (Workload::Queue, &[Pause, Clock], 3),
            (Workload::Failures, &[Kill, Power], 3),
            (Workload::Failures, &[Membership, Power], 3),
            (Workload::Urgency, &[Partition, Clock], 3),
            (Workload::Urgency, &[Kill, Pause], 3),
            (Workload::Registry, &[Partition, OneWay, Kill], 3),
            (Workload::Registry, &[Pause, Clock], 3),
            (Workload::Transactions, &[Partition, Power], 3),
            (Workload::Transactions, &[Kill, Membership], 3),
            (Workload::Replay, &[Partition, Loss, Pause], 3),
            (Workload::Replay, &[Membership, Slow], 3),
        ],
    };
    runs.iter()
        .map(|(workload, nemeses, nodes)| Pair {
            workload: *workload,
            nemeses: nemeses.to_vec(),
            nodes: *nodes,
        })
        .collect()
}

/// What runs showed, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Events that the hub acknowledged.
    pub acknowledged: u64,
    /// Faults that really were there.
    pub faults: u64,
    /// Of these, power cuts.
    pub power_cuts: u64,
    /// Transactions that were done.
    pub transactions: u64,
}

impl Sum {
    /// Of the runs that have a directory in this one.
    #[must_use]
    pub fn of(runs: &Path) -> Self {
        let mut sum = Self::default();
        for dir in directories(runs) {
            let Some(told) = Told::of(&dir) else { continue };
            sum.acknowledged += told.figure("acknowledged");
            sum.faults += told.figure("installed");
            sum.power_cuts += told.figure("power cuts");
            sum.transactions += told.figure("transactions");
        }
        sum
    }

    /// What is missing, when as much as this is wanted.
    #[must_use]
    pub fn lacks(&self, wanted: &Self) -> Vec<String> {
        [
            ("acknowledged events", self.acknowledged, wanted.acknowledged),
            ("faults", self.faults, wanted.faults),
            ("power cuts", self.power_cuts, wanted.power_cuts),
            ("transactions", self.transactions, wanted.transactions),
        ]
        .into_iter()
        .filter(|(_, have, wanted)| have < wanted)
        .map(|(what, have, wanted)| format!("{have} {what}, {wanted} are needed"))
        .collect()
    }
}

/// The directories in a directory.
#[must_use]
pub fn directories(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_summed_up() {
        let dir = tempfile::tempdir().unwrap();
        for (name, cuts) in [("a", 3), ("b", 4)] {
            let run = dir.path().join(name);
            std::fs::create_dir(&run).unwrap();
            let verdict = format!(
                r#"{{"pass":true,"checks":[
                    {{"name":"faults","wrong":0,"figures":{{"installed":9,"power cuts":{cuts}}}}},
                    {{"name":"set-full","wrong":0,"figures":{{"acknowledged":100}}}}]}}"#
            );
            std::fs::write(run.join("verdict.json"), verdict).unwrap();
        }
        std::fs::create_dir(dir.path().join("broken")).unwrap();
        let sum = Sum::of(dir.path());
        assert_eq!(sum, Sum { acknowledged: 200, faults: 18, power_cuts: 7, transactions: 0 });
        assert!(sum.lacks(&sum).is_empty());
        let more = Sum { faults: 20, ..sum };
        assert_eq!(sum.lacks(&more), ["18 faults, 20 are needed"]);
    }

    #[test]
    fn every_workload_and_every_fault_is_in_the_full_matrix() {
        let all = pairs(Extent::Full);
        for (name, workload, _) in crate::workload::ALL {
            assert!(all.iter().any(|pair| pair.workload == *workload), "{name}");
        }
        for (name, nemesis, _) in crate::nemesis::ALL {
            assert!(all.iter().any(|pair| pair.nemeses.contains(nemesis)), "{name}");
        }
    }
}
