//! The newest events of keys that were asked for lately: a busy key is not read from the store
//! again and again.

use std::collections::BTreeMap;

use super::keys::{self, Head};
use crate::machine::Fault;
use crate::machine::kv::Kv;
use crate::model::ids::{Offset, Position, TopicId};
use crate::model::limits::KEY_HEADS_KEPT;

/// Known heads, bounded; what is not among them is in the store.
///
/// Heads change with appended events only, and a topic's number is never used again. So what is
/// known at one position of the hub holds for any state at that position.
#[derive(Debug, Default)]
pub struct Heads {
    known: BTreeMap<TopicId, BTreeMap<String, Head>>,
    /// How many.
    count: usize,
    /// The position that the next event got when this was put aside.
    position: Position,
}

impl Heads {
    /// What holds for a state, of what was put aside.
    pub(crate) fn at(self, position: Position) -> Self {
        if self.position == position { self } else { Self { position, ..Self::default() } }
    }

    /// Puts it aside after the last entry, for the next one.
    pub(crate) fn keep(self, position: Position) -> Self {
        let kept = if self.count > KEY_HEADS_KEPT { Self::default() } else { self };
        Self { position, ..kept }
    }

    /// A key's newest event; version 0 when no event has it.
    pub(crate) fn get(&mut self, kv: &impl Kv, topic: TopicId, key: &str) -> Result<Head, Fault> {
        if let Some(head) = self.known.get(&topic).and_then(|keys| keys.get(key)) {
            return Ok(*head);
        }
        let head = keys::head(kv, topic, key)?;
        self.known.entry(topic).or_default().insert(key.to_owned(), head);
        self.count += 1;
        Ok(head)
    }

    /// Notes a key's next event; what was its newest before, and is now.
    pub(crate) fn advance(
        &mut self,
        kv: &impl Kv,
        topic: TopicId,
        key: &str,
        offset: Offset,
    ) -> Result<(Head, Head), Fault> {
        let before = self.get(kv, topic, key)?;
        let now = Head { version: before.version.next(), last: offset };
        if let Some(known) = self.known.get_mut(&topic).and_then(|keys| keys.get_mut(key)) {
            *known = now;
        }
        Ok((before, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::kv::{Table, Write};
    use crate::machine::mem::MemKv;
    use crate::model::ids::KeyVersion;

    const TOPIC: TopicId = TopicId(1);

    fn head(version: u64, last: u64) -> Head {
        Head { version: KeyVersion(version), last: Offset(last) }
    }

    fn stored(version: u64) -> MemKv {
        let mut kv = MemKv::default();
        let value = head(version, 70).encode();
        kv.write(vec![Write::Put(Table::KeyHeads, keys::head_key(TOPIC, "k"), value)]);
        kv
    }

    #[test]
    fn what_was_put_aside_holds_at_its_position_only() {
        let mut heads = Heads::default();
        let advanced = heads.advance(&stored(4), TOPIC, "k", Offset(80)).unwrap();
        assert_eq!(advanced, (head(4, 70), head(5, 80)));
        let mut same = heads.keep(Position(9)).at(Position(9));
        assert_eq!(same.get(&stored(4), TOPIC, "k").unwrap(), head(5, 80));
        let mut other = same.keep(Position(9)).at(Position(8));
        assert_eq!(other.get(&stored(4), TOPIC, "k").unwrap(), head(4, 70));
    }

    #[test]
    fn it_is_bounded() {
        let (kv, mut heads) = (MemKv::default(), Heads::default());
        for key in 0..=KEY_HEADS_KEPT {
            heads.advance(&kv, TOPIC, &key.to_string(), Offset(0)).unwrap();
        }
        assert_eq!(heads.count, KEY_HEADS_KEPT + 1);
        assert_eq!(heads.keep(Position(0)).count, 0);
    }
}
