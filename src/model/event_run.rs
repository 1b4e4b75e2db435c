//! Encoded events in a row, framed as the `events` field of `messagehub.v1.EventBatch`.
//!
//! One encoding from the call to the reader: the proposer frames the events once; log, network,
//! state and read answers carry those bytes as they are.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{encode_varint, encoded_len_varint};

use super::wire::{Malformed, Value, next_field};

/// The field number of `EventBatch.events`.
pub const EVENTS_TAG: u32 = 6;
/// Its key on the wire: length-delimited.
const EVENTS_KEY: u8 = 6 << 3 | 2;

/// Bytes that an event of this length takes in a run.
#[must_use]
pub fn framed_len(event_len: usize) -> usize {
    1 + encoded_len_varint(event_len as u64) + event_len
}

/// Appends one event to a run.
pub fn push(run: &mut BytesMut, event: &[u8]) {
    push_joined(run, event, &[]);
}

/// Appends one event to a run, with further fields.
pub fn push_joined(run: &mut BytesMut, event: &[u8], fields: &[u8]) {
    let length = event.len() + fields.len();
    run.reserve(framed_len(length));
    run.put_u8(EVENTS_KEY);
    encode_varint(length as u64, run);
    run.put_slice(event);
    run.put_slice(fields);
}

/// Frames events into a run.
#[must_use]
pub fn encode(events: &[Bytes]) -> Bytes {
    let mut run = BytesMut::with_capacity(events.iter().map(|e| framed_len(e.len())).sum());
    for event in events {
        push(&mut run, event);
    }
    run.freeze()
}

/// Walks over the events of a run.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    rest: &'a [u8],
}

/// The events of a run, in order.
#[must_use]
pub fn iter(run: &[u8]) -> Events<'_> {
    Events { rest: run }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<&'a [u8], Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        match next_field(&mut self.rest) {
            Ok(None) => None,
            Ok(Some((EVENTS_TAG, Value::Bytes(event)))) => Some(Ok(event)),
            Ok(Some(_)) | Err(Malformed) => {
                self.rest = &[];
                Some(Err(Malformed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_gives_back_its_events() {
        let events: Vec<Bytes> =
            [0_usize, 1, 127, 128, 70_000].iter().map(|n| Bytes::from(vec![7; *n])).collect();
        let run = encode(&events);
        assert_eq!(run.len(), events.iter().map(|e| framed_len(e.len())).sum::<usize>());
        let back: Result<Vec<_>, _> = iter(&run).collect();
        assert_eq!(back.unwrap(), events);
    }

    #[test]
    fn a_torn_run_is_an_error() {
        let run = encode(&[Bytes::from_static(b"hello")]);
        assert!(iter(&run[..run.len() - 1]).any(|e| e.is_err()));
    }
}
