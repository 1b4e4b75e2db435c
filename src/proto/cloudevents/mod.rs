//! CloudEvents 1.0 as `messagehub.v1.Event`: the JSON format, and the headers of HTTP's binary mode.
//!
//! Extension attributes that have a field of their own are mapped: `correlationid`, `causationid`,
//! `partitionkey` (the key), `expirytime` (the deadline), `traceparent`, `priority`, `deliverat` and
//! `fairnesskey`.
//! `sequence` belongs to the hub and `headers` has no form as an attribute: both are refused.
//! JSON data stays the text that it was, so that no number is rounded.

mod attributes;
mod binary;
mod parse;
mod print;
#[cfg(test)]
mod tests;

pub use binary::{JSON_TYPE, add_place, binary_headers};
pub use parse::from_json;
pub use print::{EnvelopeJson, EventJson, to_json};

/// Whether data of this content type is JSON; the JSON format implies it when there is none.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence.is_empty()
        || essence == "application/json"
        || essence == "text/json"
        || essence.ends_with("+json")
}
