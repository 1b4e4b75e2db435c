//! Taking parts out of a batch without walking over its events each time.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::encoded_len_varint;

use super::batch::{Batch, Columns, Head, corrupt, encode};
use crate::machine::Fault;
use crate::model::event_run;
use crate::model::ids::{Offset, Position, UnixMs};
use crate::model::ranges::{OffsetRange, Ranges};

/// What a batch takes besides its topic's name and its events: three numbers and five lengths.
const HEAD_BYTES_MAX: usize = 64;
/// What an event's key version takes.
const VERSION_BYTES_MAX: usize = 10;

/// A batch with the place of each of its events.
#[derive(Clone, Debug)]
pub struct Cutter {
    whole: Batch,
    topic: String,
    first: (Offset, Position),
    recorded_at: UnixMs,
    run: Bytes,
    /// How far each event is behind the first; empty: they are neighbours.
    deltas: Vec<u64>,
    /// The key version of each event; empty: none has one.
    versions: Vec<u64>,
    /// Where each event begins in the run, and where the last one ends.
    starts: Vec<usize>,
}

impl Cutter {
    /// Walks over a batch.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn new(batch: Batch) -> Result<Self, Fault> {
        let view = batch.view()?;
        let run = batch.encoded.slice_ref(view.run);
        let (mut starts, mut end) = (Vec::with_capacity(batch.count as usize + 1), 0);
        starts.push(end);
        for event in event_run::iter(&run) {
            end += event_run::framed_len(event?.len());
            starts.push(end);
        }
        let count = batch.count as usize;
        let fits = |column: &[u64]| column.is_empty() || column.len() == count;
        if starts.len() != count + 1 || !fits(&view.deltas) || !fits(&view.versions) {
            return Err(corrupt("other events than it says"));
        }
        Ok(Self {
            topic: view.topic.to_owned(),
            first: (view.first_offset, view.first_position),
            recorded_at: view.recorded_at,
            run,
            deltas: view.deltas,
            versions: view.versions,
            starts,
            whole: batch,
        })
    }

    /// What it takes.
    pub(super) fn bytes(&self) -> usize {
        self.whole.encoded.len()
    }

    fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// The place in the run of the event at an offset.
    fn place(&self, offset: u64) -> Result<usize, Fault> {
        let delta = offset.wrapping_sub(self.first.0.get());
        let place = if self.deltas.is_empty() {
            usize::try_from(delta).ok().filter(|place| *place < self.count())
        } else {
            self.deltas.binary_search(&delta).ok()
        };
        place.ok_or_else(|| corrupt("an event is not where its batch says"))
    }

    /// Whether an event is in here.
    pub(super) fn has(&self, offset: Offset) -> bool {
        (self.first()..self.end()).contains(&offset) && self.place(offset.get()).is_ok()
    }

    /// The first event's offset.
    pub(super) fn first(&self) -> Offset {
        self.first.0
    }

    /// The offset after the last event's.
    pub(super) fn end(&self) -> Offset {
        let last = self.deltas.last().map_or(self.count() as u64, |delta| delta + 1);
        self.first.0.plus(last)
    }

    /// All events that are in here, as they are stored.
    pub(super) fn whole(&self) -> Batch {
        self.whole.clone()
    }

    /// All of its events, when these are the first of some sorted ranges, within bounds.
    pub(super) fn all_of(
        &self,
        ranges: &[OffsetRange],
        (events_max, bytes_max): (u64, usize),
    ) -> Option<Ranges> {
        let (first, count) = (self.first().get(), self.count() as u64);
        if count > events_max || self.bytes() > bytes_max {
            return None;
        }
        if self.deltas.is_empty() {
            let all = OffsetRange { first, count };
            return (ranges.first()?.overlap(all) == all).then(|| Ranges::from_unsorted(&[all]));
        }
        let mut wanted = ranges.iter().flat_map(|range| range.first..range.end());
        let mut all = Ranges::new();
        for delta in &self.deltas {
            let offset = first + delta;
            if wanted.next() != Some(offset) {
                return None;
            }
            all.push(OffsetRange { first: offset, count: 1 });
        }
        Some(all)
    }

    /// How many of the first events of a range are in here; the first one is.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn neighbours(&self, range: OffsetRange) -> Result<u64, Fault> {
        let from = self.place(range.first)?;
        if self.deltas.is_empty() {
            return Ok(range.count.min((self.count() - from) as u64));
        }
        let behind =
            self.deltas.get(from..).unwrap_or_default().iter().zip(range.first..range.end());
        let together = behind.take_while(|(delta, at)| self.first.0.get() + **delta == *at);
        Ok(together.count() as u64)
    }

    /// How many of the first events of a range, which are all in here, fit into some bytes of a
    /// batch; and what is left of these.
    ///
    /// # Errors
    /// When the first is not in here.
    pub(super) fn fitting(
        &self,
        range: OffsetRange,
        mut bytes: usize,
    ) -> Result<(u64, usize), Fault> {
        let from = self.place(range.first)?;
        let ends = self.starts.get(from..).unwrap_or_default();
        let versions = if self.versions.is_empty() { 0 } else { VERSION_BYTES_MAX };
        let last = self.deltas.last().copied().unwrap_or(self.count() as u64);
        let columns = versions + encoded_len_varint(last);
        let mut count = 0;
        for event in ends.windows(2) {
            let needed = event[1] - event[0] + columns;
            if count == range.count || needed > bytes {
                break;
            }
            (count, bytes) = (count + 1, bytes - needed);
        }
        Ok((count, bytes))
    }

    /// What is left of some bytes for the events of a batch.
    pub(super) fn room(&self, bytes: usize) -> usize {
        bytes.saturating_sub(HEAD_BYTES_MAX + self.topic.len())
    }

    /// The events of some ranges as a batch of its own. The ranges are sorted, not empty, do not
    /// touch, and all of their events are in here.
    ///
    /// # Errors
    /// When they are not, or the batch is corrupt.
    pub fn gather(&self, ranges: &[OffsetRange]) -> Result<Batch, Fault> {
        let count: u64 = ranges.iter().map(|range| range.count).sum();
        let count = u32::try_from(count).map_err(|_| corrupt("too many events"))?;
        if count == self.whole.count {
            return Ok(self.whole.clone());
        }
        let first = ranges.first().map_or(0, |range| range.first);
        let (mut bytes, mut places) = (0, Vec::with_capacity(ranges.len()));
        for range in ranges {
            let from = self.place(range.first)?;
            let until = self.place(range.end() - 1)? + 1;
            if (until - from) as u64 != range.count {
                return Err(corrupt("events of a range are not neighbours"));
            }
            bytes += self.starts[until] - self.starts[from];
            places.push(from..until);
        }
        let (mut versions, mut deltas) = (Vec::new(), Vec::new());
        if !self.versions.is_empty() {
            let of_range = |places: &std::ops::Range<usize>| self.versions.get(places.clone());
            versions = places.iter().filter_map(of_range).flatten().copied().collect();
        }
        if ranges.len() > 1 {
            let of_range = |range: &OffsetRange| range.first - first..range.end() - first;
            deltas = ranges.iter().flat_map(of_range).collect();
        }
        let behind = first.saturating_sub(self.first.0.get());
        let head = Head {
            topic: &self.topic,
            first_offset: Offset(first),
            first_position: self.first.1.plus(behind),
            recorded_at: self.recorded_at,
        };
        let room = HEAD_BYTES_MAX + self.topic.len() + (versions.len() + deltas.len()) * 4;
        let mut buf = BytesMut::with_capacity(room + bytes);
        encode(&mut buf, head, Columns { versions: &versions, deltas: &deltas }, &[]);
        for places in places {
            buf.put_slice(&self.run[self.starts[places.start]..self.starts[places.end]]);
        }
        Ok(Batch { count, encoded: buf.freeze() })
    }
}
