//! Something that is asked for until it is answered, by one caller at a time.

pub(crate) struct Errand<T> {
    /// Asked for, and not answered yet.
    what: Option<T>,
    /// At which node it is being asked.
    at: Option<u64>,
}

impl<T> Default for Errand<T> {
    fn default() -> Self {
        Self { what: None, at: None }
    }
}

impl<T: Clone> Errand<T> {
    /// Whether nothing lacks an answer.
    pub(crate) fn is_done(&self) -> bool {
        self.what.is_none()
    }

    /// Whether nobody is asking.
    pub(crate) fn is_idle(&self) -> bool {
        self.at.is_none()
    }

    /// Something new is asked for at a node.
    pub(crate) fn begin(&mut self, what: T, node: u64) -> T {
        self.at = Some(node);
        self.what.insert(what).clone()
    }

    /// What has no answer is asked for again, at this node, unless somebody is asking.
    pub(crate) fn again(&mut self, node: u64) -> Option<T> {
        let what = self.what.clone().filter(|_| self.is_idle())?;
        self.at = Some(node);
        Some(what)
    }

    pub(crate) fn unanswered(&mut self) {
        self.at = None;
    }

    pub(crate) fn answered(&mut self) {
        *self = Self::default();
    }

    /// A node is gone, and with it whoever waited there.
    pub(crate) fn crashed(&mut self, node: u64) {
        if self.at == Some(node) {
            self.at = None;
        }
    }
}
