//! Which workloads have to meet which faults.

use crate::nemesis::Nemesis;
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

/// How much of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A few minutes.
    Quick,
    /// Every pair.
    Full,
}

/// The runs.
#[must_use]
pub fn pairs(extent: Extent) -> Vec<Pair> {
    use Nemesis::{
        Bridge, Damage, Failing, Full, Kill, Loss, Membership, OneWay, Partition, Pause, Power,
        Resets, Slow,
    };
    let runs: &[(Workload, &[Nemesis], u8)] = match extent {
        Extent::Quick => &[
            (Workload::Log, &[Power, Kill], 3),
            (Workload::Keys, &[Partition, Membership], 3),
            (Workload::Replay, &[Partition, Pause], 3),
        ],
        Extent::Full => &[
            (Workload::Keys, &[Partition, OneWay], 3),
            (Workload::Keys, &[Bridge, Resets], 5),
            (Workload::Keys, &[Kill, Pause], 3),
            (Workload::Keys, &[Power, Partition], 3),
            (Workload::Keys, &[Membership, Partition], 3),
            (Workload::Log, &[Kill], 3),
            (Workload::Log, &[Power], 3),
            (Workload::Log, &[Power, Kill, Partition], 5),
            (Workload::Log, &[Membership, Power], 3),
            (Workload::Log, &[Failing, Full, Damage], 3),
            (Workload::Replay, &[Partition, Loss, Pause], 3),
            (Workload::Replay, &[Kill, Membership, Slow], 3),
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
