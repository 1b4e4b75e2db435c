//! Bugs that are planted on purpose, so that whoever looks for bugs can be shown to find them.
//!
//! They exist only with the feature `planted`, which a release build cannot have. One of them is
//! chosen when the process starts; everywhere else [`is`] asks for it, and is false at compile time
//! without the feature.

/// A bug that can be planted. The numbers are no format: they only tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bug {
    /// The log is written, but never synced.
    NoSync = 1,
    /// A follower answers linearizable reads from what it has.
    StaleRead = 2,
    /// Apply looks at the node's own wall clock.
    ClockInApply = 3,
    /// A dead letter is written later than what ends the event's delivery.
    LateDeadLetter = 4,
    /// A snapshot does not bring the answers that repeated calls get.
    NoDeduplication = 5,
    /// A settlement is done to whoever has the events now.
    NoFencing = 6,
    /// A peer that does not answer counts as one that agrees.
    HalfQuorum = 7,
    /// The applied id is written before what the entry changes.
    AppliedApart = 8,
    /// A settlement by a lease that has run out is answered as if it were done.
    StaleToken = 9,
    /// What a call expects of a key that it does not write is not looked at.
    WriteSkew = 10,
}

/// All of them: name, bug, what it does.
pub const ALL: &[(&str, Bug, &str)] = &[
    ("no-sync", Bug::NoSync, "the log is written, but never synced"),
    (
        "stale-read",
        Bug::StaleRead,
        "a follower reads without asking the leader how far it has to be",
    ),
    ("clock-in-apply", Bug::ClockInApply, "apply takes the time from the node's own clock"),
    (
        "late-dead-letter",
        Bug::LateDeadLetter,
        "a dead letter is written in a batch of its own, later",
    ),
    ("no-deduplication", Bug::NoDeduplication, "the table for deduplication is not in snapshots"),
    ("no-fencing", Bug::NoFencing, "a settlement is done whoever has the events now"),
    ("half-quorum", Bug::HalfQuorum, "peers that do not answer count as if they agreed"),
    ("applied-apart", Bug::AppliedApart, "the applied id is written in a batch of its own"),
    ("stale-token", Bug::StaleToken, "a lease that has run out is still accepted"),
    (
        "write-skew",
        Bug::WriteSkew,
        "what a call expects of a key that it does not write is not looked at",
    ),
];

impl Bug {
    /// The bug with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        ALL.iter().find(|(known, _, _)| *known == name).map(|(_, bug, _)| *bug)
    }
}

#[cfg(feature = "planted")]
static CHOSEN: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Chooses a bug, for as long as the process runs.
#[cfg(feature = "planted")]
pub fn plant(bug: Bug) {
    CHOSEN.store(bug as u8, std::sync::atomic::Ordering::Release);
}

/// Whether this bug was planted.
#[cfg(feature = "planted")]
#[must_use]
pub fn is(bug: Bug) -> bool {
    CHOSEN.load(std::sync::atomic::Ordering::Acquire) == bug as u8
}

/// Whether this bug was planted: there are none in this build.
#[cfg(not(feature = "planted"))]
#[must_use]
pub const fn is(_bug: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bug_has_a_name_of_its_own() {
        for (at, (name, bug, _)) in ALL.iter().enumerate() {
            assert_eq!(Bug::parse(name), Some(*bug));
            assert_eq!(*bug as usize, at + 1);
            assert!(!is(*bug), "nothing is planted unless somebody asks for it");
        }
        assert_eq!(Bug::parse("none-such"), None);
    }
}
