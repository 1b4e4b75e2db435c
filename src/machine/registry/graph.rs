//! What depends on what: circles, readiness, who depends on a service.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use prost::Message as _;

use super::breaker::{lets_any_through, lets_through};
use super::records::{InstanceRecord, ServiceRecord, instances_of, service};
use crate::machine::kv::{Kv, Order, Table};
use crate::machine::{Fault, key};
use crate::model::limits::{
    DEPENDENCY_CHAIN_MAX, LACK_VERSIONS_MAX, NOT_READY_REASON_CHARS_MAX, PAGE_BYTES_TARGET,
};
use crate::model::registry::{Dependency, meets};

/// The circle that a service would be in with these dependencies: from it back to it.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn cycle(
    kv: &impl Kv,
    name: &str,
    dependencies: &[Dependency],
) -> Result<Option<Vec<String>>, Fault> {
    // Depth first; who leads to each service that was come to.
    let mut from: BTreeMap<String, String> = BTreeMap::new();
    let mut open: Vec<(String, String)> = needs(name, dependencies);
    while let Some((service_name, parent)) = open.pop() {
        if service_name == name {
            return Ok(Some(path(&from, name, parent)));
        }
        if from.contains_key(&service_name) {
            continue;
        }
        from.insert(service_name.clone(), parent);
        if let Some(record) = service(kv, &service_name)? {
            open.extend(needs(&service_name, &record.config.dependencies));
        }
    }
    Ok(None)
}

/// How many services stand on the longest chain through a service, if it had these dependencies; no more are counted
/// than one over what is allowed on either side of it. There are no circles.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn chain(kv: &impl Kv, name: &str, dependencies: &[Dependency]) -> Result<usize, Fault> {
    let declared = edges(kv, "")?.unwrap_or_default();
    let declared = declared.iter().filter(|(from, _)| from != name);
    let declared = declared.map(|(from, dependency)| (from.as_str(), dependency.service.as_str()));
    let (mut needs, mut needed_by): (Steps<'_>, Steps<'_>) = Default::default();
    let own = dependencies.iter().map(|dependency| (name, dependency.service.as_str()));
    for (from, to) in declared.chain(own) {
        needs.entry(from).or_default().push(to);
        needed_by.entry(to).or_default().push(from);
    }
    Ok(steps(&needs, name) + 1 + steps(&needed_by, name))
}

/// Which services come directly after one.
type Steps<'a> = BTreeMap<&'a str, Vec<&'a str>>;

/// The most steps that can be gone from a service.
fn steps(next: &Steps<'_>, from: &str) -> usize {
    let (mut reached, mut count) = (BTreeSet::from([from]), 0);
    while count < DEPENDENCY_CHAIN_MAX {
        reached = reached.iter().filter_map(|at| next.get(at)).flatten().copied().collect();
        if reached.is_empty() {
            break;
        }
        count += 1;
    }
    count
}

/// What is needed, and by whom; the last first, to be taken from the end.
fn needs(by: &str, dependencies: &[Dependency]) -> Vec<(String, String)> {
    dependencies.iter().rev().map(|d| (d.service.clone(), by.to_owned())).collect()
}

fn path(from: &BTreeMap<String, String>, name: &str, last: String) -> Vec<String> {
    let mut path = vec![name.to_owned(), last];
    while let Some(parent) = path.last().filter(|at| *at != name).and_then(|at| from.get(at)) {
        path.push(parent.clone());
    }
    path.reverse();
    path
}

/// Why a dependency is not there for whoever declared it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// No such service is registered.
    Missing,
    /// None of its instances is healthy.
    Unhealthy,
    /// Some are healthy, and none of these has a version that is wanted.
    Incompatible {
        /// The first of those that are there.
        versions: Vec<String>,
        /// There are others.
        more: bool,
    },
    /// Some are healthy, and breakers are not closed: those of all that will do, or the service's.
    ShutOff {
        /// At least one is being tried: some calls go through.
        tried: bool,
    },
    /// It lacks something itself, which it requires.
    NotReady,
}

impl Lack {
    /// What it is, in a word or two.
    fn word(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unhealthy => "no healthy instance",
            Self::Incompatible { .. } => "only other versions",
            Self::ShutOff { .. } => "shut off by breakers",
            Self::NotReady => "not ready",
        }
    }
}

/// A service in the view of who depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The service.
    pub service: String,
    /// How it is declared; absent: it is the service that was asked for.
    pub dependency: Option<Dependency>,
    /// Healthy instances.
    pub healthy: u64,
    /// What is wrong with it; `None`: nothing.
    pub lack: Option<Lack>,
    /// What it needs itself; empty also where it stands for the second time.
    pub needs: Vec<Node>,
}

impl Node {
    /// Whether nothing is wrong with it, as far as it is required.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lack.is_none()
    }

    /// The chains from here to what keeps it from being called at all, though it could be: what it requires
    /// and lets no calls through. Breakers that are being tried are no reason to wait: who waited until they
    /// close might be the only one to call.
    #[must_use]
    pub fn waits_for(&self) -> Vec<Vec<&Self>> {
        if !matches!(self.lack, Some(Lack::NotReady | Lack::ShutOff { tried: true })) {
            return Vec::new();
        }
        let mut chains = self.chains(Some(&Lack::NotReady));
        chains.retain(|chain| {
            let last = chain.last().and_then(|node| node.lack.as_ref());
            last != Some(&Lack::ShutOff { tried: true })
        });
        chains
    }

    /// The chains of services from here to what is wrong: each ends with the one that lacks
    /// something by itself. What lacks something of others is gone through once.
    #[must_use]
    pub fn causes(&self) -> Vec<Vec<&Self>> {
        self.chains(self.lack.as_ref())
    }

    /// The first of these chains and what is wrong with its end, for people; empty: nothing is.
    #[must_use]
    pub fn reason(&self) -> String {
        let causes = self.causes();
        let Some((chain, last)) = causes.first().and_then(|chain| Some((chain, chain.last()?)))
        else {
            return String::new();
        };
        let names: Vec<_> = chain.iter().map(|node| node.service.as_str()).collect();
        let lack = last.lack.as_ref().map_or("not ready", Lack::word);
        let text = format!("{}: {lack}", names.join(" -> "));
        text.chars().take(NOT_READY_REASON_CHARS_MAX).collect()
    }

    /// The same, whatever is wrong with this one.
    fn chains(&self, own: Option<&Lack>) -> Vec<Vec<&Self>> {
        let (mut unfolded, mut open) = (BTreeMap::new(), vec![self]);
        while let Some(node) = open.pop() {
            if !node.needs.is_empty() {
                unfolded.insert(node.service.as_str(), node);
            }
            open.extend(&node.needs);
        }
        let (mut found, mut passed) = (Vec::new(), BTreeSet::new());
        let mut open: Vec<Vec<&Self>> = vec![vec![self]];
        while let Some(chain) = open.pop() {
            let Some(last) = chain.last() else { continue };
            let lack = if chain.len() == 1 { own } else { last.lack.as_ref() };
            match lack {
                None => {}
                Some(Lack::NotReady) if passed.insert(last.service.as_str()) => {
                    // Where it stands for the second time, what it needs is told elsewhere.
                    let whole = unfolded.get(last.service.as_str()).unwrap_or(last);
                    let required =
                        |need: &&Self| need.dependency.as_ref().is_some_and(|d| !d.optional);
                    let bad = whole.needs.iter().filter(required).rev();
                    open.extend(bad.map(|need| [chain.as_slice(), &[need]].concat()));
                }
                Some(Lack::NotReady) => {}
                Some(_) => found.push(chain),
            }
        }
        found
    }
}

/// A service with all that it needs, transitively; `None`: it is not there. Each service is unfolded
/// once, so that the tree is no larger than the graph.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn tree(kv: &impl Kv, name: &str) -> Result<Option<Node>, Fault> {
    if service(kv, name)?.is_none() {
        return Ok(None);
    }
    Unfolding::new(kv).node(name, None).map(Some)
}

/// Services that are looked at together, each of them once.
pub(super) struct Unfolding<'k, K> {
    kv: &'k K,
    /// Services that were unfolded, and whether they lack something that they require.
    known: BTreeMap<String, bool>,
    /// Services that are being unfolded. There are no circles, but a corrupt state must not hang.
    open: BTreeSet<String>,
}

impl<'k, K: Kv> Unfolding<'k, K> {
    pub(super) fn new(kv: &'k K) -> Self {
        Self { kv, known: BTreeMap::new(), open: BTreeSet::new() }
    }

    /// A service as whoever has this dependency on it sees it; what it needs below it, unless that was
    /// looked at before.
    pub(super) fn node(
        &mut self,
        name: &str,
        dependency: Option<&Dependency>,
    ) -> Result<Node, Fault> {
        let requirement = dependency.map_or("", |dependency| &dependency.requirement);
        let mut node = Node {
            service: name.to_owned(),
            dependency: dependency.cloned(),
            healthy: 0,
            lack: None,
            needs: Vec::new(),
        };
        let Some(record) = service(self.kv, name)? else {
            node.lack = Some(Lack::Missing);
            return Ok(node);
        };
        node.healthy = record.healthy;
        let lacks = self.unfold(name, &record, &mut node)?;
        let of_its_own = self.lack(name, &record, requirement)?;
        node.lack = of_its_own.or_else(|| lacks.then_some(Lack::NotReady));
        Ok(node)
    }

    /// Whether something is lacking that the service requires.
    fn unfold(
        &mut self,
        name: &str,
        record: &ServiceRecord,
        node: &mut Node,
    ) -> Result<bool, Fault> {
        if let Some(lacks) = self.known.get(name) {
            return Ok(*lacks);
        }
        if !self.open.insert(name.to_owned()) {
            return Ok(false);
        }
        for dependency in &record.config.dependencies {
            node.needs.push(self.node(&dependency.service, Some(dependency))?);
        }
        let lacks = node
            .needs
            .iter()
            .any(|need| !need.is_ready() && need.dependency.as_ref().is_some_and(|d| !d.optional));
        self.open.remove(name);
        self.known.insert(name.to_owned(), lacks);
        Ok(lacks)
    }

    /// What is wrong with a service itself, for whoever has this requirement.
    fn lack(
        &self,
        name: &str,
        record: &ServiceRecord,
        requirement: &str,
    ) -> Result<Option<Lack>, Fault> {
        if record.healthy == 0 {
            return Ok(Some(Lack::Unhealthy));
        }
        if record.is_available() && requirement.is_empty() {
            return Ok(None);
        }
        let found = self.healthy(name, requirement)?;
        if found.closed + found.tried + found.shut == 0 {
            let (versions, more) = (found.versions.into_iter().collect(), found.more_versions);
            return Ok(Some(Lack::Incompatible { versions, more }));
        }
        if found.closed > 0 && record.breaker.is_closed() {
            return Ok(None);
        }
        let tried = found.closed + found.tried > 0 && lets_any_through(record);
        Ok(Some(Lack::ShutOff { tried }))
    }

    /// The healthy instances of a service.
    fn healthy(&self, name: &str, requirement: &str) -> Result<Healthy, Fault> {
        let mut found = Healthy::default();
        let prefix = instances_of(name);
        let end = key::after_prefix(&prefix);
        self.kv.scan(Table::Instances, &prefix, &end, Order::Ascending, &mut |_, row| {
            let record = InstanceRecord::decode(row)?;
            if !record.takes_work() {
                return Ok(ControlFlow::Continue(()));
            }
            if !meets(&record.spec.version, requirement) {
                found.versions.insert(record.spec.version);
                if found.versions.len() > LACK_VERSIONS_MAX {
                    found.versions.pop_last();
                    found.more_versions = true;
                }
                return Ok(ControlFlow::Continue(()));
            }
            *match (record.breaker.is_closed(), lets_through(&record)) {
                (true, _) => &mut found.closed,
                (false, true) => &mut found.tried,
                (false, false) => &mut found.shut,
            } += 1;
            // One that takes all calls is enough to know.
            Ok(if found.closed > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found)
    }
}

/// Healthy instances of a service: those that meet a requirement, by their breakers, as far as it was
/// looked.
#[derive(Default)]
struct Healthy {
    closed: u64,
    tried: u64,
    shut: u64,
    /// Of those that do not: the first of their versions.
    versions: BTreeSet<String>,
    more_versions: bool,
}

/// Who declares a dependency on whom.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Edges {
    /// In the order of the names of those who declare them.
    pub edges: Vec<(String, Dependency)>,
    /// Others after the last of them declare more.
    pub more: bool,
}

/// Who declares a dependency on whom, in the order of names: of one service both ways, or (empty) of
/// all; `None`: there is no such service, and nobody needs it.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn edges(kv: &impl Kv, name: &str) -> Result<Option<Vec<(String, Dependency)>>, Fault> {
    Ok(edges_within(kv, name, "", usize::MAX)?.map(|found| found.edges))
}

/// The same, of who comes after a name, as much as a page takes. What one service declares is never cut.
///
/// # Errors
/// When the store fails or a row is corrupt.
pub fn edges_page(kv: &impl Kv, name: &str, after: &str) -> Result<Option<Edges>, Fault> {
    edges_within(kv, name, after, PAGE_BYTES_TARGET)
}

fn edges_within(
    kv: &impl Kv,
    name: &str,
    after: &str,
    bytes_max: usize,
) -> Result<Option<Edges>, Fault> {
    let (mut found, mut bytes, mut start) = (Edges::default(), 0, after.as_bytes().to_vec());
    if !after.is_empty() {
        start.push(0);
    }
    kv.scan(Table::Services, &start, &key::END, Order::Ascending, &mut |row, value| {
        let from = String::from_utf8_lossy(row).into_owned();
        let mut declared = ServiceRecord::decode(value)?.config.dependencies;
        declared.retain(|d| name.is_empty() || from == name || d.service == name);
        bytes += declared.iter().map(|d| from.len() + d.encoded_len()).sum::<usize>();
        if bytes > bytes_max && !declared.is_empty() && !found.edges.is_empty() {
            found.more = true;
            return Ok(ControlFlow::Break(()));
        }
        found.edges.extend(declared.into_iter().map(|dependency| (from.clone(), dependency)));
        Ok(ControlFlow::Continue(()))
    })?;
    // Who comes after something has seen that it is known.
    let is_known = name.is_empty() || !after.is_empty() || !found.edges.is_empty();
    Ok((is_known || service(kv, name)?.is_some()).then_some(found))
}
