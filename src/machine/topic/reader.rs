//! Reading neighbouring events one by one: their batch is read and taken apart once.

use bytes::Bytes;

use super::batch;
use crate::machine::Fault;
use crate::machine::kv::Kv;
use crate::model::event_run;
use crate::model::ids::{Offset, TopicId};

/// Remembers the batch that was read last.
#[derive(Debug, Default)]
pub(crate) struct EventReader {
    topic: TopicId,
    first: Offset,
    events: Vec<Bytes>,
}

impl EventReader {
    /// The event at an offset; `None`: it is gone.
    ///
    /// # Errors
    /// When the store fails or the batch is corrupt.
    pub(crate) fn read(
        &mut self,
        kv: &impl Kv,
        topic: TopicId,
        offset: Offset,
    ) -> Result<Option<Bytes>, Fault> {
        let known = topic == self.topic
            && offset >= self.first
            && offset.since(self.first) < self.events.len() as u64;
        if !known && !self.load(kv, topic, offset)? {
            return Ok(None);
        }
        let index = usize::try_from(offset.since(self.first)).unwrap_or(usize::MAX);
        Ok(self.events.get(index).cloned())
    }

    fn load(&mut self, kv: &impl Kv, topic: TopicId, offset: Offset) -> Result<bool, Fault> {
        let Some((first, batch)) = batch::containing(kv, topic, offset)? else { return Ok(false) };
        let view = batch.view()?;
        self.events.clear();
        for event in event_run::iter(view.run) {
            self.events.push(batch.encoded.slice_ref(event?));
        }
        (self.topic, self.first) = (topic, first);
        Ok(true)
    }
}
