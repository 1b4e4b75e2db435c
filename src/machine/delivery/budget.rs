//! The retry budget: what is due beyond it waits, and is never dropped.
//!
//! Deliveries are counted by windows of a second. In each, retries may be handed out up to a share
//! of the first deliveries of this window or the one before, whichever is more, and up to a fixed
//! rate in any case. What is over the budget stays in `Ready`: nothing is moved or written anew.

use crate::model::ids::UnixMs;
use crate::model::limits::RETRY_BUDGET_WINDOW_MS;
use crate::model::subscription::RetryPolicy;

/// Recent deliveries of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Budget {
    /// The number of the window: its beginning by its length.
    #[prost(uint64, tag = "1")]
    window: u64,
    /// First deliveries in it.
    #[prost(uint64, tag = "2")]
    fresh: u64,
    /// Retries in it.
    #[prost(uint64, tag = "3")]
    retries: u64,
    /// First deliveries in the window before.
    #[prost(uint64, tag = "4")]
    fresh_before: u64,
}

impl Budget {
    fn at(self, now: UnixMs) -> Self {
        let window = Self::window_of(now);
        if window <= self.window {
            return self;
        }
        let fresh_before = if window == self.window + 1 { self.fresh } else { 0 };
        Self { window, fresh: 0, retries: 0, fresh_before }
    }

    /// Retries that may still be handed out in the window of `now`.
    #[must_use]
    pub fn left(self, now: UnixMs, policy: &RetryPolicy) -> u64 {
        let here = self.at(now);
        let share = here.fresh.max(here.fresh_before).saturating_mul(policy.budget_percent.into());
        (share / 100).max(policy.budget_min_per_s.into()).saturating_sub(here.retries)
    }

    /// The number of a window.
    #[must_use]
    pub fn window_of(now: UnixMs) -> u64 {
        now.get() / RETRY_BUDGET_WINDOW_MS
    }

    /// When the next window begins.
    #[must_use]
    pub fn next_window(now: UnixMs) -> UnixMs {
        UnixMs((Self::window_of(now) + 1) * RETRY_BUDGET_WINDOW_MS)
    }

    /// Takes note of deliveries.
    pub fn spend(&mut self, now: UnixMs, fresh: u64, retries: u64) {
        *self = self.at(now);
        self.fresh = self.fresh.saturating_add(fresh);
        self.retries = self.retries.saturating_add(retries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::subscription::SubscriptionConfig;

    #[test]
    fn retries_are_a_share_of_deliveries() {
        let policy = SubscriptionConfig::defaults("a").retry;
        let mut budget = Budget::default();
        assert_eq!(budget.left(UnixMs(5000), &policy), 3);
        budget.spend(UnixMs(5000), 100, 2);
        assert_eq!(budget.left(UnixMs(5999), &policy), 18);
        assert_eq!(budget.left(UnixMs(6000), &policy), 20);
        budget.spend(UnixMs(6500), 0, 20);
        assert_eq!(budget.left(UnixMs(6500), &policy), 0);
        assert_eq!(Budget::next_window(UnixMs(6500)), UnixMs(7000));
        assert_eq!(budget.left(UnixMs(7000), &policy), 3);
    }
}
