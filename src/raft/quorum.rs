//! Decisions about members, as pure functions of what the leader knows.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::ids::NodeId;

/// A set of members, and whom the leader hears of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// The node that looks.
    pub(super) this: NodeId,
    /// The sets of voters: one, or two while a change is unfinished.
    pub(super) configs: Vec<BTreeSet<NodeId>>,
    /// All members.
    pub(super) nodes: BTreeSet<NodeId>,
    /// The members that were heard of lately, this node included.
    pub(super) live: BTreeSet<NodeId>,
    /// How far each member's log is known to agree.
    pub(super) matched: BTreeMap<NodeId, u64>,
    /// This node's last log index.
    pub(super) last_log: u64,
}

impl View {
    pub(super) fn is_voter(&self, id: NodeId) -> bool {
        self.configs.iter().any(|config| config.contains(&id))
    }

    pub(super) fn is_joint(&self) -> bool {
        self.configs.len() > 1
    }

    /// Entries that a member still misses; all of them when nothing is known.
    pub(super) fn lag(&self, id: NodeId) -> u64 {
        if id == self.this {
            return 0;
        }
        let next = self.matched.get(&id).map_or(0, |index| index + 1);
        (self.last_log + 1).saturating_sub(next)
    }

    /// Whether the live voters would decide anything once `gone` no longer votes.
    pub(super) fn survives_removal(&self, gone: NodeId) -> bool {
        let without = |config: &BTreeSet<NodeId>| -> BTreeSet<NodeId> {
            config.iter().copied().filter(|id| *id != gone).collect()
        };
        self.configs.iter().all(|config| {
            let left = without(config);
            // Until the change is through, the old voters have to agree as well, and the one that
            // leaves is among them for as long as it lives.
            is_quorum(&left, &self.live) && is_quorum(config, &self.live)
        })
    }

    /// Whether the live voters would still decide things while `stopped` is away but a member.
    /// Those that lag by more than `lag_max` entries do not count: they would hold up the others.
    pub(super) fn survives_stop(&self, stopped: NodeId, lag_max: u64) -> bool {
        let up: BTreeSet<NodeId> = self
            .live
            .iter()
            .copied()
            .filter(|id| *id != stopped && self.lag(*id) <= lag_max)
            .collect();
        self.configs.iter().all(|config| is_quorum(config, &up))
    }

    /// The live voter, other than this node, that is furthest.
    pub(super) fn successor(&self) -> Option<NodeId> {
        let others = self.live.iter().copied().filter(|id| *id != self.this);
        // The smallest id among equals, so that the choice can be foretold.
        others.filter(|id| self.is_voter(*id)).min_by_key(|id| (self.lag(*id), *id))
    }
}

fn is_quorum(config: &BTreeSet<NodeId>, live: &BTreeSet<NodeId>) -> bool {
    let votes = config.intersection(live).count();
    !config.is_empty() && votes > config.len() / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(configs: &[&[u64]], live: &[u64]) -> View {
        let set = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<BTreeSet<_>>();
        let configs: Vec<_> = configs.iter().map(|ids| set(ids)).collect();
        let nodes = configs.iter().flatten().copied().collect();
        let matched = live.iter().map(|id| (NodeId(*id), 100)).collect();
        View { this: NodeId(1), configs, nodes, live: set(live), matched, last_log: 100 }
    }

    #[test]
    fn a_dead_voter_may_be_removed_from_three() {
        assert!(view(&[&[1, 2, 3]], &[1, 2]).survives_removal(NodeId(3)));
    }

    #[test]
    fn a_live_voter_may_not_be_removed_when_another_is_dead() {
        assert!(!view(&[&[1, 2, 3]], &[1, 2]).survives_removal(NodeId(2)));
    }

    #[test]
    fn the_last_voter_may_not_be_removed() {
        assert!(!view(&[&[1]], &[1]).survives_removal(NodeId(1)));
    }

    #[test]
    fn one_of_two_may_be_removed_while_both_live() {
        assert!(view(&[&[1, 2]], &[1, 2]).survives_removal(NodeId(2)));
        assert!(!view(&[&[1, 2]], &[1]).survives_removal(NodeId(2)));
    }

    #[test]
    fn a_stop_needs_the_others_alive_and_close() {
        let mut three = view(&[&[1, 2, 3]], &[1, 2, 3]);
        assert!(three.survives_stop(NodeId(2), 10));
        assert!(three.survives_stop(NodeId(1), 10));
        three.matched.insert(NodeId(3), 50);
        assert!(!three.survives_stop(NodeId(2), 10));
        assert!(three.survives_stop(NodeId(2), 50));
        assert!(!view(&[&[1, 2, 3]], &[1, 2]).survives_stop(NodeId(2), 10));
        assert!(!view(&[&[1]], &[1]).survives_stop(NodeId(1), 10));
    }

    #[test]
    fn every_config_of_an_unfinished_change_counts() {
        let joint = view(&[&[1, 2, 3], &[1, 4, 5]], &[1, 2, 4]);
        assert!(joint.survives_stop(NodeId(3), 10));
        assert!(!joint.survives_stop(NodeId(4), 10));
    }

    #[test]
    fn the_furthest_live_voter_succeeds() {
        let mut three = view(&[&[1, 2, 3]], &[1, 2, 3]);
        assert_eq!(three.successor(), Some(NodeId(2)));
        three.matched.insert(NodeId(2), 99);
        assert_eq!(three.successor(), Some(NodeId(3)));
        three.live.remove(&NodeId(3));
        assert_eq!(three.successor(), Some(NodeId(2)));
        assert_eq!(view(&[&[1]], &[1]).successor(), None);
    }

    #[test]
    fn lag_is_everything_while_nothing_is_known() {
        let mut two = view(&[&[1, 2]], &[1, 2]);
        assert_eq!(two.lag(NodeId(2)), 0);
        two.matched.remove(&NodeId(2));
        assert_eq!(two.lag(NodeId(2)), 101);
    }
}
