//! How far back the event before of the same key is, of the events of one stored batch: what
//! delivery in order by key asks for. A row of its own beside the batch, so that nobody reads the
//! events for it: (topic id, first offset) → number of events (u32 LE), then a varint an event.
//! Batches without keys have none.

use std::ops::ControlFlow;

use bytes::{Buf, BufMut};
use prost::encoding::{decode_varint, encode_varint};

use crate::machine::kv::{Kv, Order, Table};
use crate::machine::overlay::Overlay;
use crate::machine::record::{Kind, body, finish, start};
use crate::machine::{Fault, topic::batch};
use crate::model::ids::{Offset, TopicId};
use crate::model::ranges::OffsetRange;

/// Writes the row of a batch; one distance an event, 0: its key had none before, or it has no key.
pub(super) fn write<K: Kv>(
    overlay: &mut Overlay<'_, K>,
    topic: TopicId,
    first: Offset,
    backs: &[u64],
) {
    let mut buf = start(Kind::Backs, 4 + backs.len() * 4);
    buf.put_u32_le(u32::try_from(backs.len()).unwrap_or(u32::MAX));
    backs.iter().for_each(|back| encode_varint(*back, &mut buf));
    overlay.put(Table::Backs, batch::key(topic, first), finish(buf));
}

/// Of some neighbouring events, how far back the one before of the same key is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backs {
    events: OffsetRange,
    /// One an event; what is not there has none before.
    backs: Vec<u64>,
}

impl Backs {
    /// Of an event and neighbours.
    ///
    /// # Errors
    /// When the store fails or a row is corrupt.
    pub(crate) fn around(kv: &impl Kv, topic: TopicId, offset: Offset) -> Result<Self, Fault> {
        let mut found = Self::default();
        let (low, high) = (batch::key(topic, Offset(0)), batch::key(topic, offset.next()));
        kv.scan(Table::Backs, &low, &high, Order::Descending, &mut |key, row| {
            found = Self::decode(batch::first_offset(key)?, row)?;
            Ok(ControlFlow::Break(()))
        })?;
        if found.has(offset) {
            return Ok(found);
        }
        // Between rows there are no keys.
        let mut until = u64::MAX;
        let (low, high) = (high, batch::key(topic, Offset(u64::MAX)));
        kv.scan(Table::Backs, &low, &high, Order::Ascending, &mut |key, _| {
            until = batch::first_offset(key)?.get();
            Ok(ControlFlow::Break(()))
        })?;
        let events = OffsetRange::between(offset.get(), until);
        Ok(Self { events, backs: Vec::new() })
    }

    fn decode(first: Offset, row: &[u8]) -> Result<Self, Fault> {
        let corrupt = |what: &str| Fault::Corrupt { record: Kind::Backs, what: what.to_owned() };
        let mut rest = body(Kind::Backs, row)?;
        let count = rest.try_get_u32_le().map_err(|_| corrupt("no count"))?;
        let mut backs = Vec::new();
        while rest.has_remaining() {
            backs.push(decode_varint(&mut rest).map_err(|_| corrupt("distances"))?);
        }
        Ok(Self { events: OffsetRange { first: first.get(), count: u64::from(count) }, backs })
    }

    /// Whether it tells of an event.
    pub(crate) fn has(&self, offset: Offset) -> bool {
        self.events.has(offset)
    }

    /// The event before one of these, of the same key.
    pub(crate) fn before(&self, offset: Offset) -> Option<Offset> {
        let index = usize::try_from(offset.get() - self.events.first).unwrap_or(usize::MAX);
        let back = self.backs.get(index).copied().unwrap_or(0);
        (back > 0).then(|| Offset(offset.get().saturating_sub(back)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::mem::MemKv;

    #[test]
    fn events_are_looked_up_by_row_and_between_rows() {
        let mut kv = MemKv::default();
        let mut overlay = Overlay::new(&kv);
        write(&mut overlay, TopicId(3), Offset(10), &[0, 7, 300]);
        write(&mut overlay, TopicId(3), Offset(20), &[20]);
        let writes = overlay.into_writes();
        kv.write(writes);
        let around = |n| Backs::around(&kv, TopicId(3), Offset(n)).unwrap();
        let before = |n| around(n).before(Offset(n)).map(Offset::get);
        assert_eq!([10, 11, 20].map(before), [None, Some(4), Some(0)]);
        assert_eq!([0, 13, 19, 21, 99].map(before), [None; 5]);
        let told = |n| (around(n).events.first, around(n).events.end());
        assert_eq!([11, 15, 3].map(told), [(10, 13), (15, 20), (3, 10)]);
        assert!(around(21).has(Offset(u64::MAX - 1)));
    }
}
