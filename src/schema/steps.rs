//! Work that is bounded as a whole.

use super::limits::COMPARE_STEPS_MAX;

/// Steps that several comparisons may take together.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    left: usize,
}

impl Steps {
    /// So many.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self { left: most }
    }

    /// Takes some, down to none.
    pub fn take(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }

    /// None are left: what was being compared then may not have been compared to its end.
    #[must_use]
    pub const fn used_up(&self) -> bool {
        self.left == 0
    }

    /// What one comparison may take of them at once.
    pub(super) fn at_once(&self) -> usize {
        self.left.min(COMPARE_STEPS_MAX)
    }
}
