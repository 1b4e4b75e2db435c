//! The binary mode of the CloudEvents HTTP binding: attributes as headers.

use super::attributes::{attributes, timestamp};
use crate::proto::v1::attribute_value::Attr;
use crate::proto::v1::{AttributeValue, Event, RecordedEvent};

/// The media type of an event in the JSON format.
pub const JSON_TYPE: &str = "application/cloudevents+json; charset=utf-8";

/// Adds where and when an event was recorded, as the extension attributes `sequence` (the offset) and
/// `recordedtime`.
pub fn add_place(event: &mut Event, recorded: &RecordedEvent) {
    let at = timestamp(recorded.recorded_at_ms);
    for (name, attr) in [
        ("sequence", Attr::CeString(recorded.offset.to_string())),
        ("recordedtime", Attr::CeTimestamp(at)),
    ] {
        event.extensions.insert(name.to_owned(), AttributeValue { attr: Some(attr) });
    }
}

/// The headers of an event: `content-type` for its data, `ce-NAME` for every other attribute. The data
/// is the body.
#[must_use]
pub fn binary_headers(event: &Event) -> Vec<(String, String)> {
    let mut headers = vec![("ce-specversion".to_owned(), "1.0".to_owned())];
    for (name, value) in attributes(event) {
        headers.push(match name {
            "datacontenttype" => ("content-type".to_owned(), value.to_string()),
            name => (format!("ce-{name}"), encode(&value.to_string())),
        });
    }
    headers
}

/// Percent-encoding as the binding has it (CloudEvents HTTP binding 1.0.2, 3.1.3.2): everything that is
/// not printable ASCII, and space, double quote and percent.
fn encode(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'!' | b'#' | b'$' | b'&'..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_into_a_header_is_escaped() {
        assert_eq!(encode("Euro \u{20ac} \u{1f600}"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(encode("a\"b%c\r\n~!"), "a%22b%25c%0D%0A~!");
    }

    #[test]
    fn attributes_are_headers() {
        let mut event = Event {
            id: "1".into(),
            source: "/a b".into(),
            r#type: "t".into(),
            datacontenttype: "text/plain; charset=utf-8".into(),
            key: "k".into(),
            priority: Some(7),
            ..Event::default()
        };
        let recorded = RecordedEvent { offset: 42, recorded_at_ms: 1500, ..Default::default() };
        add_place(&mut event, &recorded);
        let headers = binary_headers(&event);
        let of = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(of("ce-specversion"), Some("1.0"));
        assert_eq!(of("ce-source"), Some("/a%20b"));
        assert_eq!(of("ce-partitionkey"), Some("k"));
        assert_eq!(of("ce-priority"), Some("7"));
        assert_eq!(of("ce-sequence"), Some("42"));
        assert_eq!(of("ce-recordedtime"), Some("1970-01-01T00:00:01.5Z"));
        assert_eq!(of("content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(of("ce-subject"), None);
    }
}
