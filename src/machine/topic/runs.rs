//! Reading runs of neighbouring events as batches, within a budget of bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::{self, Batch, StoredBatch};
use super::cutter::Cutter;
use crate::machine::Fault;
use crate::machine::kv::Kv;
use crate::model::event_run;
use crate::model::ids::{Offset, TopicId};
use crate::model::limits::RUN_READER_BATCHES;
use crate::model::ranges::OffsetRange;

/// What a reader does when not even one event is within the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Least {
    /// It takes none.
    None,
    /// It takes one.
    One,
}

/// What became of a wish for events.
#[derive(Clone, Debug)]
pub enum Taken {
    /// The first events of the range, as a batch of their own.
    Batch(Batch),
    /// The bytes do not suffice.
    Full,
    /// The range's first event is gone.
    Gone,
}

/// Reads runs of events. It remembers the stored batches that it read last, which never change.
#[derive(Clone, Debug, Default)]
pub struct RunReader {
    opened: VecDeque<Opened>,
}

/// A stored batch, and what of it was read.
#[derive(Clone, Debug)]
struct Opened {
    topic: TopicId,
    stored: Arc<StoredBatch>,
    /// By stripe.
    parts: Vec<(Option<u8>, Arc<Cutter>)>,
}

impl RunReader {
    /// The first events of a range: as many as are stored together and the bytes allow.
    ///
    /// # Errors
    /// When the store fails or the batch is corrupt.
    pub fn take(
        &mut self,
        kv: &impl Kv,
        topic: TopicId,
        range: OffsetRange,
        bytes_max: usize,
        least: Least,
    ) -> Result<Taken, Fault> {
        let Some(opened) = self.open(kv, topic, Offset(range.first))? else {
            return Ok(Taken::Gone);
        };
        let wanted = u32::try_from(range.count).unwrap_or(u32::MAX);
        let skip = range.first - opened.stored.first.get();
        let skip = u32::try_from(skip).unwrap_or(u32::MAX);
        let wanted = wanted.min(opened.stored.neighbours(skip));
        let cut = opened.part(kv, skip)?.cut(skip, wanted)?;
        if cut.encoded.len() <= bytes_max {
            return Ok(Taken::Batch(cut));
        }
        let fitting = fitting(&cut, bytes_max)?.max(u32::from(least == Least::One));
        Ok(if fitting == 0 { Taken::Full } else { Taken::Batch(cut.cut(0, fitting)?) })
    }

    fn open(
        &mut self,
        kv: &impl Kv,
        topic: TopicId,
        offset: Offset,
    ) -> Result<Option<&mut Opened>, Fault> {
        let holds = |opened: &Opened| opened.topic == topic && opened.stored.has(offset);
        let at = match self.opened.iter().position(holds) {
            Some(at) => at,
            None => {
                let Some(stored) = batch::stored_at(kv, topic, offset)? else { return Ok(None) };
                self.opened.truncate(RUN_READER_BATCHES - 1);
                let (stored, parts) = (Arc::new(stored), Vec::new());
                self.opened.push_front(Opened { topic, stored, parts });
                0
            }
        };
        Ok(self.opened.get_mut(at))
    }
}

impl Opened {
    /// What is stored together with the event `skip` behind the first.
    fn part(&mut self, kv: &impl Kv, skip: u32) -> Result<Arc<Cutter>, Fault> {
        let stripe = self.stored.stripe_of(skip);
        if let Some((_, part)) = self.parts.iter().find(|(of, _)| *of == stripe) {
            return Ok(Arc::clone(part));
        }
        let part = Arc::new(self.stored.cutter(kv, self.topic, stripe)?);
        self.parts.push((stripe, Arc::clone(&part)));
        Ok(part)
    }
}

/// How many of a batch's first events fit into some bytes, as a batch of their own.
fn fitting(batch: &Batch, bytes_max: usize) -> Result<u32, Fault> {
    let run = batch.view()?.run;
    let mut bytes = batch.encoded.len() - run.len();
    let mut count = 0;
    for event in event_run::iter(run) {
        bytes += event_run::framed_len(event?.len());
        if bytes > bytes_max {
            break;
        }
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::mem::MemKv;
    use crate::machine::overlay::Overlay;
    use crate::machine::topic::open_batch::OpenBatch;
    use crate::model::ids::{Position, UnixMs};

    /// Events 10..14 and 14..16 of topic 3, each of 100 bytes.
    fn stored() -> MemKv {
        let mut kv = MemKv::default();
        let mut overlay = Overlay::new(&kv);
        for (first, count) in [(10, 4), (14, 2)] {
            let at = (Offset(first), Position(first + 90));
            let mut open = OpenBatch::new(TopicId(3), "orders", at, UnixMs(5));
            let events: Vec<_> = (0..count).map(|_| vec![b'x'; 100].into()).collect();
            open.push(count, &event_run::encode(&events), &[]);
            open.write(&mut overlay);
        }
        let writes = overlay.into_writes();
        kv.write(writes);
        kv
    }

    fn take(range: (u64, u64), bytes_max: usize, least: Least) -> Option<(u64, u32)> {
        let (kv, mut reader) = (stored(), RunReader::default());
        let range = OffsetRange { first: range.0, count: range.1 };
        match reader.take(&kv, TopicId(3), range, bytes_max, least).unwrap() {
            Taken::Batch(batch) => {
                assert!(batch.encoded.len() <= bytes_max || batch.count == 1);
                Some((batch.view().unwrap().first_offset.get(), batch.count))
            }
            Taken::Full => Some((0, 0)),
            Taken::Gone => None,
        }
    }

    #[test]
    fn a_run_ends_with_its_batch_its_range_or_its_bytes() {
        assert_eq!(take((10, 9), 9999, Least::None), Some((10, 4)));
        assert_eq!(take((11, 9), 9999, Least::None), Some((11, 3)));
        assert_eq!(take((11, 2), 9999, Least::None), Some((11, 2)));
        assert_eq!(take((14, 9), 9999, Least::None), Some((14, 2)));
        assert_eq!(take((10, 9), 300, Least::None), Some((10, 2)));
        assert_eq!(take((10, 9), 9, Least::None), Some((0, 0)));
        assert_eq!(take((10, 9), 9, Least::One), Some((10, 1)));
        assert_eq!(take((9, 1), 9999, Least::One), None);
        assert_eq!(take((16, 1), 9999, Least::One), None);
    }

    #[test]
    fn what_was_read_is_remembered_within_a_bound() {
        let (kv, mut reader) = (stored(), RunReader::default());
        for offset in [10, 11, 14, 12, 15] {
            let one = OffsetRange { first: offset, count: 1 };
            reader.take(&kv, TopicId(3), one, 9999, Least::One).unwrap();
        }
        assert_eq!(reader.opened.len(), 2);
        let gone = MemKv::default();
        let one = OffsetRange { first: 13, count: 1 };
        let taken = reader.take(&gone, TopicId(3), one, 9999, Least::One).unwrap();
        assert!(matches!(taken, Taken::Batch(_)));
    }
}
