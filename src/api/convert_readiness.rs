//! What keeps a service from being ready, as far as one answer takes it.

use prost::Message as _;

use crate::machine::registry::graph::{Lack, Node};
use crate::model::limits::PAGE_BYTES_TARGET;
use crate::proto::v1::{self, DependencyNode, Readiness, ReadinessCause};

/// Bytes of the causes in one answer, and of the tree.
const BYTES_MAX: usize = PAGE_BYTES_TARGET / 2;
/// Bytes that a message costs where it is part of another one, at most.
const NESTED_BYTES: usize = 5;

fn lack(known: Option<&Lack>) -> v1::Lack {
    match known {
        None => v1::Lack::Unspecified,
        Some(Lack::Missing) => v1::Lack::Missing,
        Some(Lack::Unhealthy) => v1::Lack::Unhealthy,
        Some(Lack::Incompatible { .. }) => v1::Lack::Incompatible,
        Some(Lack::NotReady) => v1::Lack::NotReady,
        Some(Lack::ShutOff { .. }) => v1::Lack::ShutOff,
    }
}

/// The versions that there are instead, and whether there are others.
fn versions(known: Option<&Lack>) -> (Vec<String>, bool) {
    match known {
        Some(Lack::Incompatible { versions, more }) => (versions.clone(), *more),
        _ => (Vec::new(), false),
    }
}

pub(super) fn cause(chain: Vec<&Node>) -> ReadinessCause {
    let last = chain.last().and_then(|node| node.lack.as_ref());
    let (versions, more_versions) = versions(last);
    ReadinessCause {
        lack: lack(last) as i32,
        versions,
        more_versions,
        services: chain.into_iter().map(|node| node.service.clone()).collect(),
    }
}

pub(super) fn readiness(tree: &Node) -> Readiness {
    let mut told = Readiness { ready: tree.is_ready(), ..Readiness::default() };
    let mut room = BYTES_MAX;
    for chain in tree.causes() {
        let cause = cause(chain);
        let bytes = cause.encoded_len() + NESTED_BYTES;
        // One that is left out is the first of all the rest.
        if told.causes_left_out > 0 || bytes > room {
            told.causes_left_out += 1;
        } else {
            room -= bytes;
            told.causes.push(cause);
        }
    }
    let mut room = BYTES_MAX.saturating_sub(alone(tree).encoded_len() + NESTED_BYTES);
    told.tree = Some(unfolded(tree, &mut room));
    told
}

/// A service without what it needs.
fn alone(known: &Node) -> DependencyNode {
    let (versions, more_versions) = versions(known.lack.as_ref());
    let declared = known.dependency.clone().unwrap_or_default();
    DependencyNode {
        service: known.service.clone(),
        requirement: declared.requirement,
        optional: declared.optional,
        healthy: known.healthy,
        lack: lack(known.lack.as_ref()) as i32,
        versions,
        more_versions,
        needs: Vec::new(),
        needs_left_out: false,
    }
}

/// A service with what it needs below it; what one needs is told whole, or not at all where there is no room for it.
fn unfolded(known: &Node, room: &mut usize) -> DependencyNode {
    let mut told = alone(known);
    let bytes: usize =
        known.needs.iter().map(|need| alone(need).encoded_len() + NESTED_BYTES).sum();
    if bytes > *room {
        told.needs_left_out = true;
        return told;
    }
    *room -= bytes;
    told.needs = known.needs.iter().map(|need| unfolded(need, room)).collect();
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::registry::Dependency;

    /// A service that needs so many, each of which needs as many that are missing.
    fn tree(wide: usize) -> Node {
        let node = |name: String, lack: Lack, needs: Vec<Node>| {
            let requirement = format!(">=1.0.0-{}", "a".repeat(200));
            let service = format!("{}-{name}", "needed".repeat(15));
            let dependency = Dependency { service: service.clone(), requirement, optional: false };
            let (dependency, lack) = (Some(dependency), Some(lack));
            Node { service, dependency, healthy: 0, lack, needs }
        };
        let middle = |n: usize| {
            let leaf = |m: usize| node(format!("{n}-{m}"), Lack::Missing, Vec::new());
            node(n.to_string(), Lack::NotReady, (0..wide).map(leaf).collect())
        };
        node("all".to_owned(), Lack::NotReady, (0..wide).map(middle).collect())
    }

    #[test]
    fn what_fits_is_told_whole() {
        let told = readiness(&tree(4));
        assert_eq!((told.ready, told.causes.len(), told.causes_left_out), (false, 16, 0));
        assert!(told.causes.iter().all(|c| c.services.len() == 3 && c.lack() == v1::Lack::Missing));
        let top = told.tree.unwrap();
        assert!(top.needs.iter().all(|need| need.needs.len() == 4 && !need.needs_left_out));
    }

    #[test]
    fn what_is_too_much_is_cut_and_says_so() {
        let told = readiness(&tree(64));
        assert!(told.encoded_len() <= PAGE_BYTES_TARGET, "{} bytes", told.encoded_len());
        assert!(told.encoded_len() > PAGE_BYTES_TARGET * 9 / 10, "{} bytes", told.encoded_len());
        assert!(told.causes_left_out > 0);
        assert_eq!(told.causes.len() as u64 + told.causes_left_out, 64 * 64);
        let top = told.tree.unwrap();
        assert_eq!((top.needs.len(), top.needs_left_out), (64, false));
        let (whole, cut): (Vec<_>, Vec<_>) =
            top.needs.iter().partition(|need| !need.needs_left_out);
        assert!(!whole.is_empty() && whole.iter().all(|need| need.needs.len() == 64));
        assert!(!cut.is_empty() && cut.iter().all(|need| need.needs.is_empty()));
    }

    #[test]
    fn versions_that_will_not_do_are_told_and_whether_there_are_others() {
        for more in [false, true] {
            let lack = Lack::Incompatible { versions: vec!["1.0.0".to_owned()], more };
            let node = Node { lack: Some(lack), ..tree(0) };
            let told = readiness(&node);
            let (cause, top) = (&told.causes[0], told.tree.unwrap());
            assert_eq!((cause.versions.len(), cause.more_versions), (1, more));
            assert_eq!((top.versions.len(), top.more_versions), (1, more));
        }
    }
}
