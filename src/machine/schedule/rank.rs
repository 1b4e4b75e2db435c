//! What goes first: the lowest rank, then the lowest offset.

use crate::model::ids::UnixMs;
use crate::model::limits::PRIORITY_MAX;
use crate::model::subscription::{PriorityMode, SubscriptionConfig};

/// An event's place in the order of a subscription. It never changes while the event waits, so
/// nothing is ever sorted again, and what waits long enough goes before all that came later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// With strict priority 9 − priority, else 0.
    pub tier: u64,
    /// min(deadline − slack, ready at + `base_wait` / 2^priority), milliseconds.
    pub value: u64,
}

impl Rank {
    /// Of an event of a priority, by when it is ready alone.
    #[must_use]
    pub fn by_wait(config: &SubscriptionConfig, priority: u32, ready_at: UnixMs) -> Self {
        let wait_ms = config.base_wait_ms >> priority.min(PRIORITY_MAX);
        Self { tier: tier(config, priority), value: ready_at.get().saturating_add(wait_ms) }
    }

    /// Of an event of a priority, by its deadline alone.
    #[must_use]
    pub fn by_deadline(config: &SubscriptionConfig, priority: u32, deadline: UnixMs) -> Self {
        let value = deadline.get().saturating_sub(config.slack_ms);
        Self { tier: tier(config, priority), value }
    }

    /// The same rank under other settings: which events come first by priority alone may differ.
    #[must_use]
    pub fn under(self, config: &SubscriptionConfig, priority: u32) -> Self {
        Self { tier: tier(config, priority), ..self }
    }

    /// Bytes that sort as ranks do.
    #[must_use]
    pub fn to_key(self) -> [u8; 16] {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&self.tier.to_be_bytes());
        key[8..].copy_from_slice(&self.value.to_be_bytes());
        key
    }
}

fn tier(config: &SubscriptionConfig, priority: u32) -> u64 {
    match config.priority_mode() {
        PriorityMode::Rank => 0,
        PriorityMode::Strict => u64::from(PRIORITY_MAX.saturating_sub(priority)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priority_halves_the_wait() {
        let mut config = SubscriptionConfig::defaults("a");
        let rank = |config: &SubscriptionConfig, p| Rank::by_wait(config, p, UnixMs(1000)).value;
        assert_eq!((rank(&config, 0), rank(&config, 4)), (513_000, 33_000));
        assert_eq!(rank(&config, 9), 2000);
        config.slack_ms = 500;
        assert_eq!(Rank::by_deadline(&config, 4, UnixMs(2000)).value, 1500);
        assert_eq!(Rank::by_deadline(&config, 4, UnixMs(20)).value, 0);
    }

    #[test]
    fn strict_priority_comes_before_everything() {
        let mut config = SubscriptionConfig::defaults("a");
        config.priority_mode = PriorityMode::Strict as i32;
        let (high, low) =
            (Rank::by_wait(&config, 9, UnixMs(u64::MAX)), Rank::by_deadline(&config, 8, UnixMs(0)));
        assert!(high < low && high.to_key() < low.to_key());
    }
}
