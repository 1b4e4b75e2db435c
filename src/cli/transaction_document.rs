//! The document that a transaction is written as.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use prost::Message as _;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::value::duration;
use super::{Failure, input};
use crate::client::cloudevents;
use crate::model::limits::MESSAGE_BYTES_MAX;
use crate::proto::v1::key_expectation::Expect;
use crate::proto::v1::settlement::Action;
use crate::proto::v1::{
    Ack, KeyExpectation, Nack, OffsetRange, Reject, Release, SettleRequest, Settlement,
    TransactRequest, TransactionPart,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    #[serde(default, borrow)]
    parts: Vec<Part<'a>>,
    #[serde(default)]
    settles: Vec<Settle>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part<'a> {
    topic: String,
    #[serde(default, deserialize_with = "expectations")]
    expect: Vec<(String, Value)>,
    #[serde(default, borrow)]
    events: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settle {
    subscription: String,
    consumer: String,
    items: Vec<Item>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    lease_id: Value,
    term: Value,
    topic_id: Value,
    /// Absent: all that the lease still has.
    #[serde(default)]
    ranges: Vec<Range>,
    action: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    detail: String,
    /// A duration, like 30s.
    retry_after: Option<String>,
}

/// Neighbouring offsets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    first: Value,
    count: Value,
}

/// What is expected by key, in the order of the document. A key that is named twice is refused: JSON would let the
/// last one count.
fn expectations<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, Value)>, D::Error> {
    struct ByKey;

    impl<'de> Visitor<'de> for ByKey {
        type Value = Vec<(String, Value)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("what is expected of each key")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let (mut seen, mut all) = (BTreeSet::new(), Vec::new());
            while let Some((key, value)) = map.next_entry::<String, Value>()? {
                if !seen.insert(key.clone()) {
                    let text = format!("expect names key {key:?} twice; say once what is expected");
                    return Err(A::Error::custom(text));
                }
                all.push((key, value));
            }
            Ok(all)
        }
    }

    from.deserialize_map(ByKey)
}

/// A transaction from a file, or from standard input.
pub(super) fn from_file(file: &Path) -> Result<TransactRequest, Failure> {
    // One that is longer than a few messages cannot be sent anyway.
    request(&input::read_text(file, 4 * MESSAGE_BYTES_MAX)?)
}

fn request(text: &str) -> Result<TransactRequest, Failure> {
    let document: Document<'_> = serde_json::from_str(text)
        .map_err(|error| Failure::usage(format!("the document is malformed: {error}")))?;
    let parts = document.parts.into_iter().map(part).collect::<Result<_, _>>()?;
    let settles = document.settles.into_iter().map(settle).collect::<Result<_, _>>()?;
    Ok(TransactRequest { parts, settles, ..TransactRequest::default() })
}

fn part(part: Part<'_>) -> Result<TransactionPart, Failure> {
    let Part { topic, expect, events } = part;
    let mut expectations = Vec::with_capacity(expect.len());
    for (key, value) in expect {
        let expect = match (&value, number(&value)) {
            (_, Some(version)) => Expect::Exact(version),
            (Value::String(word), None) if word == "none" => Expect::NoKey(true),
            (Value::String(word), None) if word == "exists" => Expect::Exists(true),
            _ => {
                let text = format!("expect {key:?}: {value} is none of none, exists, a version");
                return Err(Failure::usage(text));
            }
        };
        expectations.push(KeyExpectation { key, expect: Some(expect) });
    }
    let event = |raw: &RawValue| Ok(cloudevents::from_json(raw.get())?.encode_to_vec().into());
    let events = events.into_iter().map(event).collect::<Result<_, Failure>>()?;
    Ok(TransactionPart { topic, expectations, events })
}

fn settle(settle: Settle) -> Result<SettleRequest, Failure> {
    let Settle { subscription, consumer, items } = settle;
    let items = items.into_iter().map(item).collect::<Result<_, _>>()?;
    Ok(SettleRequest { subscription, consumer, items })
}

fn item(item: Item) -> Result<Settlement, Failure> {
    let Item { lease_id, term, topic_id, ranges, action, reason, detail, retry_after } = item;
    let gives_reason = !reason.is_empty() || !detail.is_empty();
    if retry_after.is_some() && action != "nack"
        || gives_reason && !matches!(action.as_str(), "nack" | "reject")
    {
        let text = format!(
            "{action} takes none of retry_after (nack does), reason and detail (nack and reject do)"
        );
        return Err(Failure::usage(text));
    }
    let retry_after_ms = retry_after.map(|text| duration(&text)).transpose();
    let retry_after_ms = retry_after_ms.map_err(Failure::usage)?;
    let action = match action.as_str() {
        "ack" => Action::Ack(Ack {}),
        "release" => Action::Release(Release {}),
        "nack" => Action::Nack(Nack { reason, detail, retry_after_ms }),
        "reject" => Action::Reject(Reject { reason, detail }),
        other => {
            let text = format!("action {other:?} is none of ack, nack, reject, release");
            return Err(Failure::usage(text));
        }
    };
    let numbers = (number(&lease_id), number(&term), number(&topic_id));
    let (Some(lease_id), Some(term), Some(topic_id)) = numbers else {
        return Err(Failure::usage("an item needs lease_id, term and topic_id, as they were told"));
    };
    let ranges = ranges.iter().map(range).collect::<Result<_, _>>()?;
    Ok(Settlement { lease_id, term, topic_id, ranges, action: Some(action) })
}

fn range(range: &Range) -> Result<OffsetRange, Failure> {
    let (Some(first), Some(count)) = (number(&range.first), number(&range.count)) else {
        return Err(Failure::usage("a range needs first, an offset, and count"));
    };
    Ok(OffsetRange { first, count })
}

/// A number, or one in text as the hub writes them.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_says_it_all() {
        let text = json!({
            "parts": [
                {"topic": "a", "expect": {"k": 7, "l": "none", "m": "exists", "n": "9"}},
                {"topic": "c", "expect": {}},
                {"topic": "b", "events": [{"specversion": "1.0", "id": "1", "source": "/x", "type": "t"}]},
            ],
            "settles": [{
                "subscription": "s",
                "consumer": "c",
                "items": [
                    {"lease_id": "1", "term": 2, "topic_id": 3, "action": "nack", "reason": "BUSY",
                     "detail": "by noon", "retry_after": "30s",
                     "ranges": [{"first": "7", "count": 2}, {"first": 10, "count": 1}]},
                    {"lease_id": 4, "term": 2, "topic_id": 3, "action": "reject", "reason": "BAD", "detail": "d"},
                ],
            }],
        });
        let request = request(&text.to_string()).unwrap();
        assert_eq!(request.parts[0].expectations.len(), 4);
        assert_eq!(request.parts[0].expectations[3].expect, Some(Expect::Exact(9)));
        assert!(request.parts[1].expectations.is_empty());
        assert_eq!(request.parts[2].events.len(), 1);
        // They keep the order in which they are written: a refusal tells them by number.
        let text = r#"{"parts": [{"topic": "a", "expect": {"z": 1, "a": 2}}]}"#;
        let ordered = super::request(text).unwrap();
        let keys: Vec<_> = ordered.parts[0].expectations.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["z", "a"]);
        let item = &request.settles[0].items[0];
        assert_eq!((item.lease_id, item.term, item.topic_id), (1, 2, 3));
        let Some(Action::Nack(nack)) = &item.action else { panic!("{item:?}") };
        assert_eq!((nack.reason.as_str(), nack.detail.as_str()), ("BUSY", "by noon"));
        assert_eq!(nack.retry_after_ms, Some(30_000));
        let ranges: Vec<_> = item.ranges.iter().map(|range| (range.first, range.count)).collect();
        assert_eq!(ranges, [(7, 2), (10, 1)]);
        let other = &request.settles[0].items[1];
        assert!(matches!(&other.action, Some(Action::Reject(bad)) if bad.detail == "d"));
        assert!(other.ranges.is_empty());
    }

    #[test]
    fn what_an_action_does_not_take_is_refused_by_name() {
        for (item, says) in [
            (json!({"action": "ack", "retry_after": "30s"}), "ack takes none of retry_after"),
            (json!({"action": "reject", "retry_after": "30s"}), "reject takes none of retry_after"),
            (json!({"action": "release", "detail": "d"}), "release takes none of"),
            (json!({"action": "nack", "retry_after": "soon"}), "soon"),
            (json!({"action": "ack", "ranges": [{"first": 1, "count": -1}]}), "first"),
            (json!({"action": "ack", "ranges": [{"first": 1, "last": 2}]}), "last"),
        ] {
            let mut item = item;
            for (name, value) in [("lease_id", 1), ("term", 2), ("topic_id", 3)] {
                item[name] = value.into();
            }
            let settles = json!([{"subscription": "s", "consumer": "c", "items": [item]}]);
            let failure = request(&json!({"settles": settles}).to_string()).unwrap_err();
            assert!(failure.message.contains(says), "{settles}: {}", failure.message);
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (text, says) in [
            ("17", "malformed"),
            (r#"{"part": []}"#, "part"),
            (r#"{"parts": [{"topic": "a", "expect": {"k": -1}}]}"#, "-1"),
            (r#"{"parts": [{"topic": "a", "expect": {"k": "perhaps"}}]}"#, "perhaps"),
            (r#"{"parts": [{"topic": "a", "expect": {"k": 1, "l": 3, "k": 2}}]}"#, "\"k\" twice"),
            (r#"{"parts": [{"topic": "a", "expect": {"k": 1, "k": 1}}]}"#, "\"k\" twice"),
            (r#"{"parts": [{"topic": "a", "expect": [1]}]}"#, "what is expected of each key"),
            (r#"{"parts": [{"topic": "a", "events": [{}]}]}"#, "specversion"),
        ] {
            let failure = request(text).unwrap_err();
            assert!(failure.message.contains(says), "{text}: {}", failure.message);
        }
    }
}
