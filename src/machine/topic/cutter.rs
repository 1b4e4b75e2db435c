//! Cutting parts out of a batch without walking over its events each time.

use bytes::{Bytes, BytesMut};

use super::batch::{Batch, BatchView, Head, corrupt, encode};
use crate::machine::Fault;
use crate::model::event_run;

/// The events of a batch, or of one of its stripes, each with its place.
#[derive(Clone, Debug)]
pub struct Cutter {
    /// The whole batch, unless this is a stripe: then without events.
    encoded: Bytes,
    run: Bytes,
    /// How far each event is behind the first of the batch; empty: they are all of the batch.
    at: Vec<u32>,
    /// Where each event begins in the run, and where the last one ends.
    starts: Vec<usize>,
    /// The key version of each event of the batch; empty: none has one.
    versions: Vec<u64>,
}

impl Cutter {
    /// Walks over a batch.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn new(batch: Batch) -> Result<Self, Fault> {
        let run = batch.encoded.slice_ref(batch.view()?.run);
        Self::over(batch.encoded, run, Vec::new())
    }

    /// Walks over a stripe of a batch of which `encoded` is the rest, with the places of its events.
    ///
    /// # Errors
    /// When it is corrupt.
    pub(super) fn of_stripe(encoded: Bytes, run: Bytes, at: Vec<u32>) -> Result<Self, Fault> {
        let count = at.len();
        let cutter = Self::over(encoded, run, at)?;
        if cutter.starts.len() == count + 1 {
            return Ok(cutter);
        }
        Err(corrupt("a stripe has other events than its batch says"))
    }

    fn over(encoded: Bytes, run: Bytes, at: Vec<u32>) -> Result<Self, Fault> {
        let (mut starts, mut end) = (vec![0], 0);
        for event in event_run::iter(&run) {
            end += event_run::framed_len(event?.len());
            starts.push(end);
        }
        let versions = BatchView::parse(&encoded)?.versions;
        Ok(Self { encoded, run, at, starts, versions })
    }

    /// The neighbouring events from `skip` behind the batch's first on, at most `take` of them, as a
    /// batch of its own.
    ///
    /// # Errors
    /// When it is corrupt, or an event is not in this stripe.
    pub fn cut(&self, skip: u32, take: u32) -> Result<Batch, Fault> {
        let count = u32::try_from(self.starts.len() - 1).unwrap_or(u32::MAX);
        if self.at.is_empty() && skip == 0 && take >= count {
            return Ok(Batch { count, encoded: self.encoded.clone() });
        }
        let from = if self.at.is_empty() {
            skip
        } else {
            let found = self.at.binary_search(&skip).map_err(|_| corrupt("not in its stripe"))?;
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        let take = take.min(count.saturating_sub(from));
        let ends = self.starts.get(from as usize).zip(self.starts.get((from + take) as usize));
        let run = ends.and_then(|(first, end)| self.run.get(*first..*end));
        let run = run.ok_or_else(|| corrupt("fewer events than it says"))?;
        let view = BatchView::parse_head(&self.encoded)?;
        let head = Head {
            topic: view.topic,
            first_offset: view.first_offset.plus(u64::from(skip)),
            first_position: view.first_position.plus(u64::from(skip)),
            recorded_at: view.recorded_at,
        };
        let versions = self.versions.get(skip as usize..(skip + take) as usize).unwrap_or_default();
        let mut buf = BytesMut::with_capacity(run.len() + versions.len() * 2 + 128);
        encode(&mut buf, head, versions, run);
        Ok(Batch { count: take, encoded: buf.freeze() })
    }
}
