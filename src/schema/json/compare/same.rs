//! Whether two sub-schemas are the same, whatever they say: then one takes what the other takes.

use std::collections::BTreeSet;

use super::{At, Compare};
use crate::schema::json::keywords::Slot;

impl Compare<'_> {
    /// Whether both assert the same by the same keywords, all the way down. Annotations do not
    /// count; the order of members and of `required` does not, but that of `allOf` and the like does.
    pub(super) fn same(&mut self, a: At, b: At) -> bool {
        let mut seen = BTreeSet::from([(a, b)]);
        // Each pair, and the one that led to it.
        let mut pairs = vec![((a, b), 0)];
        let mut next = 0;
        while let Some(((a, b), _)) = pairs.get(next).copied() {
            let identical = a == b && !self.has_dynamic(a);
            if !identical && (self.differ.contains(&(a, b)) || !self.step(1) || !self.alike(a, b)) {
                self.note_difference(&pairs, next);
                return false;
            }
            let edges = self.node(a).edges.iter().zip(&self.node(b).edges);
            for (left, right) in edges.filter(|_| !identical) {
                let pair =
                    (At { side: a.side, id: left.target }, At { side: b.side, id: right.target });
                if seen.insert(pair) {
                    pairs.push((pair, next));
                }
            }
            next += 1;
        }
        true
    }

    /// Two sub-schemas differ, and so do all those that led to them.
    fn note_difference(&mut self, pairs: &[((At, At), usize)], mut at: usize) {
        while let Some((pair, from)) = pairs.get(at) {
            if self.exhausted() || !self.differ.insert(*pair) || at == 0 {
                return;
            }
            at = *from;
        }
    }

    /// Whether two sub-schemas are the same but for what is within their parts.
    fn alike(&self, a: At, b: At) -> bool {
        let (a, b) = (self.node(a), self.node(b));
        let edges = a.edges.iter().zip(&b.edges);
        // Where a dynamic reference leads depends on the way to it.
        a.is_false == b.is_false
            && a.edges.len() == b.edges.len()
            && a.own == b.own
            && edges.into_iter().all(|(left, right)| {
                left.slot == right.slot
                    && left.slot != Slot::DynamicRef
                    && (!left.slot.has_names() || left.key == right.key)
            })
    }

    fn has_dynamic(&self, at: At) -> bool {
        self.graph(at.side).is_dynamic
    }
}
