//! Which event caused which: the tree of causation ids.

use std::collections::HashMap;

/// An event's place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Which of the events.
    pub index: usize,
    /// Which of them caused it; `None`: it is a root, for its cause is not among them, or nobody is.
    pub parent: Option<usize>,
    /// Causes above it, 0 for a root.
    pub depth: usize,
    /// It is a root only because its causes run in a circle.
    pub circular: bool,
}

/// Orders events as a tree, each right before what it caused. What caused what is told by ids; of several
/// events with the same id, the first is meant. Takes time and memory in proportion to the events, however
/// deep they are.
///
/// Each event is given as (id, causation id), in the order of positions; an empty causation id is none.
#[must_use]
pub fn causes(events: &[(&str, &str)]) -> Vec<Branch> {
    let mut by_id = HashMap::with_capacity(events.len());
    for (index, (id, _)) in events.iter().enumerate() {
        by_id.entry(*id).or_insert(index);
    }
    let parent = |index: usize| {
        let cause = events.get(index).map(|(_, cause)| *cause).filter(|cause| !cause.is_empty());
        cause.and_then(|cause| by_id.get(cause).copied())
    };
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); events.len()];
    let mut roots = Vec::new();
    for index in 0..events.len() {
        match parent(index) {
            Some(cause) => children[cause].push(index),
            None => roots.push(index),
        }
    }
    let mut tree = Vec::with_capacity(events.len());
    let mut placed = vec![false; events.len()];
    let whole = roots.into_iter().map(|root| (root, false));
    // What no root leads to runs in a circle: it is cut at the first.
    for (root, circular) in whole.chain((0..events.len()).map(|index| (index, true))) {
        let mut waiting = vec![Branch { index: root, parent: None, depth: 0, circular }];
        while let Some(branch) = waiting.pop() {
            let index = branch.index;
            if std::mem::replace(&mut placed[index], true) {
                continue;
            }
            tree.push(branch);
            let (parent, depth) = (Some(index), branch.depth + 1);
            let caused = children[index].iter().rev();
            waiting.extend(caused.map(|index| Branch {
                index: *index,
                parent,
                depth,
                circular: false,
            }));
        }
    }
    tree
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn drawn(events: &[(&str, &str)]) -> String {
        let line = |b: &Branch| {
            format!(
                "{}{}{}",
                "-".repeat(b.depth),
                events[b.index].0,
                if b.circular { "!" } else { "" }
            )
        };
        causes(events).iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn causes_are_above_what_they_caused() {
        let events = [("a", ""), ("b", "a"), ("c", "b"), ("d", "a"), ("e", "gone"), ("f", "c")];
        assert_eq!(drawn(&events), "a -b --c ---f -d e");
        // Whoever comes first in the log, and of two with the same id the first.
        assert_eq!(drawn(&[("b", "a"), ("a", ""), ("b", ""), ("c", "b")]), "a -b --c b");
    }

    #[test]
    fn circles_are_cut() {
        assert_eq!(drawn(&[("a", "a")]), "a!");
        assert_eq!(drawn(&[("a", "c"), ("b", "a"), ("c", "b"), ("d", "b")]), "a! -b --c --d");
        assert_eq!(drawn(&[("x", ""), ("a", "b"), ("b", "a")]), "x a! -b");
    }

    #[test]
    fn a_long_chain_is_no_trouble() {
        let ids: Vec<String> = (0..100_000).map(|n| n.to_string()).collect();
        let cause = |n: usize| if n == 0 { "" } else { ids[n - 1].as_str() };
        let events: Vec<_> = (0..ids.len()).map(|n| (ids[n].as_str(), cause(n))).collect();
        let tree = causes(&events);
        assert!(tree.iter().enumerate().all(|(n, branch)| (branch.index, branch.depth) == (n, n)));
    }

    proptest! {
        #[test]
        fn everybody_has_one_place_below_its_cause(drawn in prop::collection::vec((0_u8..12, 0_u8..14), 0..30)) {
            let text: Vec<_> = drawn.iter().map(|(id, cause)| (id.to_string(), cause.to_string())).collect();
            let events: Vec<_> = text.iter().map(|(id, cause)| (id.as_str(), cause.as_str())).collect();
            let tree = causes(&events);
            let mut seen: Vec<_> = tree.iter().map(|branch| branch.index).collect();
            for (at, branch) in tree.iter().enumerate() {
                let (_, cause) = events[branch.index];
                let first = events.iter().position(|(id, _)| *id == cause);
                match branch.parent {
                    Some(parent) => {
                        prop_assert_eq!(Some(parent), first);
                        let above = tree[..at].iter().rfind(|b| b.depth < branch.depth).unwrap();
                        prop_assert_eq!((above.index, above.depth + 1), (parent, branch.depth));
                    }
                    None if branch.circular => {
                        // Following the causes never comes to an end.
                        let mut at = branch.index;
                        for _ in 0..=events.len() {
                            at = events.iter().position(|(id, _)| *id == events[at].1).unwrap();
                        }
                    }
                    None => prop_assert_eq!(first, None),
                }
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..events.len()).collect::<Vec<_>>());
        }
    }
}
