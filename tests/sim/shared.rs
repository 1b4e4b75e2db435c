//! What the nodes, their callers and the watchers of one run share. All of it is one thread.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Weak};

use message_hub::node::Node;

use crate::oracle::Oracle;
use crate::trace::Trace;

/// What the run is about at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first node forms a cluster, the others join.
    Forming,
    /// Faults come and go.
    Faults,
    /// No more faults, no new calls: what was begun is brought to its end.
    Healing,
}

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) phase: Phase,
    pub(crate) cluster_id: Option<String>,
    /// The running nodes; a crash takes what they are.
    pub(crate) nodes: BTreeMap<u64, Weak<Node>>,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    /// What must not be. The first ends the run.
    pub(crate) wrong: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Shared(Rc<RefCell<World>>);

impl Shared {
    pub(crate) fn new(seed: u64, trace: Option<&Path>) -> Self {
        Self(Rc::new(RefCell::new(World {
            seed,
            phase: Phase::Forming,
            cluster_id: None,
            nodes: BTreeMap::new(),
            oracle: Oracle::new(seed),
            trace: Trace::new(trace),
            wrong: Vec::new(),
        })))
    }

    pub(crate) fn get(&self) -> Ref<'_, World> {
        self.0.borrow()
    }

    pub(crate) fn change(&self) -> RefMut<'_, World> {
        self.0.borrow_mut()
    }

    pub(crate) fn say(&self, who: impl std::fmt::Display, what: impl std::fmt::Display) {
        self.change().trace.say(who, what);
    }

    pub(crate) fn wrong(&self, what: String) {
        let mut world = self.change();
        world.trace.say("WRONG", &what);
        world.wrong.push(what);
    }

    pub(crate) fn node(&self, id: u64) -> Option<Arc<Node>> {
        self.get().nodes.get(&id).and_then(Weak::upgrade)
    }
}
