//! Events as bytes. What they have in common is encoded once: the measured work is the hub's, not that of who calls it.

use bytes::Bytes;
use prost::Message as _;

use crate::proto::v1::Event;

/// What events with this payload have in common.
pub(super) fn common(payload: Vec<u8>) -> Vec<u8> {
    let (source, kind) = ("/bench".to_owned(), "bench".to_owned());
    Event { source, r#type: kind, data: payload.into(), ..Event::default() }.encode_to_vec()
}

/// An event with what is its own, and what it has in common with others.
pub(super) fn with_common(own: &Event, common: &[u8]) -> Bytes {
    // Encoded messages one after the other are one message with the fields of both.
    let mut encoded = Vec::with_capacity(own.encoded_len() + common.len());
    encoded.extend(own.encode_to_vec());
    encoded.extend_from_slice(common);
    encoded.into()
}

/// Bytes that are no text.
pub(super) fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 + i / 7).to_le_bytes()[0]).collect()
}
