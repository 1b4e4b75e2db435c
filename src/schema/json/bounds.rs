//! What a graph of sub-schemas must keep to, so that validation ends: no reference that leads back
//! without reaching a part of the value, and bounded work on every value.

use super::graph::{Graph, NodeId};
use crate::schema::limits::{
    INSTANCE_DEPTH_MAX, INSTANCE_FRAMES_MAX, PROBLEMS_MAX, SCHEMA_DEPTH_MAX, SCHEMA_NODES_MAX,
};
use crate::schema::report::{Invalid, Problems};

/// Checks the graph. Answers how many levels a payload may nest, at most [`INSTANCE_DEPTH_MAX`].
///
/// # Errors
/// Cycles of references that consume no input; chains and counts of sub-schemas for one value that
/// are too long.
pub(super) fn check(graph: &Graph) -> Result<usize, Invalid> {
    let mut problems = Problems::default();
    let order = leaves_first(graph, &mut problems);
    if !problems.is_empty() {
        return problems.into_result().map(|()| 0);
    }
    let sizes = in_place(graph, &order, |sizes| {
        sizes.iter().fold(1_usize, |sum, size| sum.saturating_add(*size))
    });
    let chains = in_place(graph, &order, |chains| {
        chains.iter().max().copied().unwrap_or(0).saturating_add(1)
    });
    for (bound, counts, what) in [
        (SCHEMA_NODES_MAX, &sizes, "sub-schemas apply to one value, references followed"),
        (SCHEMA_DEPTH_MAX, &chains, "sub-schemas apply to one value within one another"),
    ] {
        // The innermost one that is too large says the most.
        let first = order.iter().find(|id| of(counts, **id) > bound);
        if let Some(id) = first {
            let text = format!("{} {what}; keep it within {bound}", of(counts, *id));
            problems.push(&graph.place(*id), text);
        }
    }
    problems.into_result()?;
    Ok(levels(graph, &order))
}

/// The sub-schemas in an order in which those that apply to the same value come before those that
/// hold them. Cycles are noted as problems.
fn leaves_first(graph: &Graph, problems: &mut Problems) -> Vec<NodeId> {
    let mut holders: Vec<Vec<NodeId>> = vec![Vec::new(); graph.len()];
    let mut missing: Vec<usize> = vec![0; graph.len()];
    for id in graph.ids() {
        for edge in graph.node(id).edges.iter().filter(|edge| edge.slot.is_in_place()) {
            if let Some(list) = holders.get_mut(index(edge.target)) {
                list.push(id);
            }
            if let Some(count) = missing.get_mut(index(id)) {
                *count += 1;
            }
        }
    }
    let mut order = Vec::with_capacity(graph.len());
    let mut ready: Vec<NodeId> = graph.ids().filter(|id| of(&missing, *id) == 0).collect();
    for _ in 0..=PROBLEMS_MAX {
        while let Some(id) = ready.pop() {
            order.push(id);
            for holder in holders.get(index(id)).into_iter().flatten() {
                if let Some(count) = missing.get_mut(index(*holder))
                    && *count > 0
                {
                    *count -= 1;
                    if *count == 0 {
                        ready.push(*holder);
                    }
                }
            }
        }
        let Some(stuck) = graph.ids().find(|id| of(&missing, *id) > 0) else { break };
        let cycle = cycle_from(graph, &missing, stuck);
        let places: Vec<String> = cycle.iter().map(|id| graph.place(*id)).collect();
        let text = format!(
            "these sub-schemas only lead to one another and never to a part of the value: {}; \
             remove a reference from that cycle",
            places.join(", ")
        );
        problems.push(places.first().map_or("", String::as_str), text);
        for id in cycle {
            if let Some(count) = missing.get_mut(index(id)) {
                *count = 0;
            }
            ready.push(id);
        }
    }
    order
}

/// A cycle that can be reached from a sub-schema which is never ready.
fn cycle_from(graph: &Graph, missing: &[usize], start: NodeId) -> Vec<NodeId> {
    let mut path = vec![start];
    loop {
        let Some(last) = path.last() else { return path };
        let next = graph.node(*last).edges.iter().find_map(|edge| {
            let stuck = edge.slot.is_in_place() && of(missing, edge.target) > 0;
            stuck.then_some(edge.target)
        });
        let Some(next) = next else { return path };
        if let Some(at) = path.iter().position(|id| *id == next) {
            return path.split_off(at);
        }
        path.push(next);
    }
}

/// For each sub-schema a number from those of the sub-schemas that it applies to the same value.
fn in_place(graph: &Graph, order: &[NodeId], of_parts: impl Fn(&[usize]) -> usize) -> Vec<usize> {
    let mut numbers = vec![0; graph.len()];
    for id in order {
        let edges = graph.node(*id).edges.iter().filter(|edge| edge.slot.is_in_place());
        let parts: Vec<usize> = edges.map(|edge| of(&numbers, edge.target)).collect();
        if let Some(number) = numbers.get_mut(index(*id)) {
            *number = of_parts(&parts);
        }
    }
    numbers
}

/// How many levels a payload may nest so that at most [`INSTANCE_FRAMES_MAX`] sub-schemas are open
/// at once. Level by level the longest chain is found: from a sub-schema through those for the same
/// value, and one level less from those for its parts.
fn levels(graph: &Graph, order: &[NodeId]) -> usize {
    let mut below: Vec<usize> = vec![0; graph.len()];
    for level in 1..=INSTANCE_DEPTH_MAX {
        let mut chains: Vec<usize> = vec![0; graph.len()];
        for id in order {
            let edges = graph.node(*id).edges.iter();
            let longest = edges.map(|edge| {
                if edge.slot.is_in_place() {
                    of(&chains, edge.target)
                } else {
                    of(&below, edge.target)
                }
            });
            let chain = longest.max().unwrap_or(0) + 1;
            if let Some(slot) = chains.get_mut(index(*id)) {
                *slot = chain;
            }
        }
        if of(&chains, NodeId::ROOT) > INSTANCE_FRAMES_MAX {
            return level - 1;
        }
        if chains == below {
            return INSTANCE_DEPTH_MAX;
        }
        below = chains;
    }
    INSTANCE_DEPTH_MAX
}

fn index(id: NodeId) -> usize {
    id.index()
}

fn of(numbers: &[usize], id: NodeId) -> usize {
    numbers.get(index(id)).copied().unwrap_or(0)
}
