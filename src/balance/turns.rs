//! Whose turn it is: policies that go round count the choices of each pool by themselves. One counter for all of
//! them would give every other turn of two that are asked for alternately to the same instance.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::model::limits::TURNS_MAX;

/// What a pool is known by: a hash of the words that lead to it.
#[must_use]
pub fn pool(words: &[&str]) -> u64 {
    words.iter().fold(0, |seed, word| xxh3_64_with_seed(word.as_bytes(), seed))
}

/// The next turns of pools.
#[derive(Debug, Default)]
pub struct Turns(Mutex<HashMap<u64, u64>>);

impl Turns {
    /// The number of a choice from a pool. The first one is a number that nobody foresees: else those who begin
    /// together would all begin with the same instance.
    #[must_use]
    pub fn take(&self, pool: u64, dice: u64) -> u64 {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if next.len() >= TURNS_MAX && !next.contains_key(&pool) {
            // Those that are still asked for begin anew.
            next.clear();
        }
        let next = next.entry(pool).or_insert(dice);
        let turn = *next;
        *next = turn.wrapping_add(1);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pool_has_its_own_turns_from_anywhere_on() {
        let turns = Turns::default();
        let (s, t) = (pool(&["s", ""]), pool(&["t", ""]));
        assert_eq!(turns.take(s, u64::MAX - 1), u64::MAX - 1);
        assert_eq!(turns.take(t, 7), 7);
        assert_eq!([9, 9].map(|dice| turns.take(s, dice)), [u64::MAX, 0]);
        assert_eq!(turns.take(t, 9), 8);
        // Words are kept apart.
        assert_ne!(pool(&["ab", "c"]), pool(&["a", "bc"]));
    }

    #[test]
    fn what_is_known_of_turns_is_bounded() {
        let turns = Turns::default();
        let most = u64::try_from(TURNS_MAX).unwrap();
        for pool in 0..most {
            assert_eq!(turns.take(pool, 0), 0);
        }
        assert_eq!(turns.take(0, 0), 1, "it is known");
        assert_eq!(turns.take(most, 5), 5);
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
