//! Judging a publish before it is proposed: everything that needs no state.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::model::command::{Expectation, Producer, Publish};
use crate::model::event::{self, EventView};
use crate::model::event_run;
use crate::model::expectation::Expect;
use crate::model::ids::UnixMs;
use crate::model::limits::{
    ATTRIBUTE_BYTES_MAX, CALL_BYTES_MAX, CALL_EVENTS_MAX, CALL_EXPECTATIONS_MAX,
    PRODUCER_ID_BYTES_MAX, REQUEST_ID_BYTES_MAX,
};
use crate::model::name::TopicName;
use crate::model::rejection::{Reason, Rejection};

/// A publish as it came from outside.
#[derive(Clone, Debug, Default)]
pub struct PublishRequest {
    /// Any text.
    pub topic: String,
    /// Any numbers.
    pub producer: Option<Producer>,
    /// Any keys.
    pub expectations: Vec<(String, Expect)>,
    /// Any bytes.
    pub events: Vec<Bytes>,
}

/// A publish that is sound.
#[derive(Clone, Debug)]
pub struct Sound {
    /// As it is proposed.
    pub publish: Publish,
    /// Why it is refused by now, unless it was done before: `DEADLINE_PAST`, or `EVENT_INVALID` for the
    /// instant of its delivery; with the index of the event.
    pub untimely: Option<Rejection>,
}

fn invalid(message: impl Into<String>) -> Rejection {
    Rejection::new(Reason::InvalidRequest, message)
}

/// Checks a publish, and frames its events once for the whole way.
///
/// # Errors
/// `INVALID_NAME`, `INVALID_REQUEST`, `CALL_TOO_LARGE`, `EVENT_INVALID` (with the index of the
/// event).
pub fn publish(mut request: PublishRequest, now: UnixMs) -> Result<Sound, Rejection> {
    let mut untimely = None;
    let topic = TopicName::parse(&request.topic)?;
    check_size(&request.events)?;
    let (mut keyed, mut special, mut correlated, mut largest) = (false, false, false, 0);
    for (index, encoded) in request.events.iter_mut().enumerate() {
        let of_event = |rejection: Rejection| rejection.with("event_index", index);
        let view = EventView::parse(encoded).map_err(of_event)?;
        if let (None, Err(rejection)) = (&untimely, view.check_times(now.get())) {
            untimely = Some(of_event(rejection));
        }
        keyed |= !view.key.is_empty();
        special |= view.is_special();
        correlated |= !view.correlation_id.is_empty();
        largest = largest.max(encoded.len() as u64);
        // What a schema says is the hub's to tell. An event that was read is published again as it is.
        if view.has_verdict {
            *encoded =
                event::without_verdict(encoded).map_err(|error| invalid(error.to_string()))?;
        }
    }
    if let Some(producer) = &request.producer {
        check_producer(producer)?;
    }
    let count = u32::try_from(request.events.len()).map_err(|_| invalid("too many events"))?;
    let publish = Publish {
        topic: topic.as_str().to_owned(),
        producer: request.producer,
        expectations: expectations(request.expectations)?,
        count,
        keyed,
        largest_event_bytes: largest,
        events: event_run::encode(&request.events),
        special,
        correlated,
        judged: None,
    };
    Ok(Sound { publish, untimely })
}

fn check_size(events: &[Bytes]) -> Result<(), Rejection> {
    if events.is_empty() {
        return Err(invalid("the call has no events; send at least one"));
    }
    let too_large = |what: String| Err(Rejection::new(Reason::CallTooLarge, what));
    if events.len() > CALL_EVENTS_MAX {
        return too_large(format!(
            "the call has {} events, {CALL_EVENTS_MAX} is the most; split it",
            events.len()
        ));
    }
    let bytes: usize = events.iter().map(Bytes::len).sum();
    if bytes > CALL_BYTES_MAX {
        return too_large(format!(
            "the call has {bytes} bytes, {CALL_BYTES_MAX} is the most; split it"
        ));
    }
    Ok(())
}

fn check_producer(producer: &Producer) -> Result<(), Rejection> {
    if producer.id.is_empty() || producer.id.len() > PRODUCER_ID_BYTES_MAX {
        return Err(invalid(format!(
            "producer id must have 1 to {PRODUCER_ID_BYTES_MAX} bytes; a UUID does well"
        )));
    }
    if producer.sequence == 0 {
        return Err(invalid("producer sequence is 0; count from 1"));
    }
    if producer.acknowledged_below > producer.sequence {
        return Err(invalid(
            "acknowledged_below is above the sequence of the call itself; send what was answered",
        ));
    }
    Ok(())
}

/// Checks expectations.
///
/// # Errors
/// `CALL_TOO_LARGE`, `INVALID_REQUEST` for keys that are none and those that contradict each other.
pub(super) fn expectations(given: Vec<(String, Expect)>) -> Result<Vec<Expectation>, Rejection> {
    if given.len() > CALL_EXPECTATIONS_MAX {
        return Err(Rejection::new(
            Reason::CallTooLarge,
            format!(
                "the call has {} expectations, {CALL_EXPECTATIONS_MAX} is the most; split it",
                given.len()
            ),
        ));
    }
    let mut by_key = BTreeMap::new();
    for (key, expect) in &given {
        if key.is_empty() || key.len() > ATTRIBUTE_BYTES_MAX {
            return Err(invalid(format!(
                "an expectation's key must have 1 to {ATTRIBUTE_BYTES_MAX} bytes"
            )));
        }
        if by_key.insert(key, expect).is_some_and(|other| other != expect) {
            return Err(invalid(format!(
                "expectations of key {key:?} contradict each other; send one"
            )));
        }
    }
    Ok(given.into_iter().map(|(key, expect)| Expectation::new(key, expect)).collect())
}

/// Checks the request id of a mutation.
///
/// # Errors
/// `INVALID_REQUEST`.
pub fn request_id(id: &str) -> Result<(), Rejection> {
    if id.len() > REQUEST_ID_BYTES_MAX {
        return Err(invalid(format!(
            "request_id is longer than {REQUEST_ID_BYTES_MAX} bytes; use a UUID"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        let twice = |a, b| expectations(vec![("k".to_owned(), a), ("k".to_owned(), b)]);
        assert!(twice(Expect::NoKey, Expect::NoKey).is_ok());
        assert_eq!(
            twice(Expect::NoKey, Expect::Exists).unwrap_err().reason,
            Reason::InvalidRequest
        );
        let producer = |sequence, acknowledged_below| Producer {
            id: "p".to_owned(),
            epoch: 0,
            sequence,
            acknowledged_below,
        };
        assert!(check_producer(&producer(1, 1)).is_ok());
        assert!(check_producer(&producer(0, 0)).is_err());
        assert!(check_producer(&producer(3, 4)).is_err());
    }

    #[test]
    fn times_are_judged_by_the_clock() {
        use crate::model::limits::DELIVER_AT_MS_MAX;
        use crate::proto::v1::Event;
        let judge = |deadline_ms: Option<u64>, deliver_at_ms: Option<u64>| {
            let at = |ms: u64| prost_types::Timestamp {
                seconds: (ms / 1000).cast_signed(),
                nanos: (ms % 1000) as i32 * 1_000_000,
            };
            let event = Event {
                id: "1".to_owned(),
                source: "/s".to_owned(),
                r#type: "t".to_owned(),
                deadline: deadline_ms.map(at),
                deliver_at: deliver_at_ms.map(at),
                ..Event::default()
            };
            let events = vec![prost::Message::encode_to_vec(&event).into()];
            let request =
                PublishRequest { topic: "t".to_owned(), events, ..PublishRequest::default() };
            let Sound { publish, untimely } = publish(request, UnixMs(5000)).unwrap();
            untimely.map_or(Ok(publish.special), |refused| {
                assert_eq!(refused.fact("event_index"), Some("0"));
                Err(refused.reason)
            })
        };
        assert_eq!(judge(None, None), Ok(false));
        assert_eq!(judge(Some(5001), None), Ok(true));
        assert_eq!(judge(Some(5000), None), Err(Reason::DeadlinePast));
        assert_eq!(judge(None, Some(1)), Ok(true));
        assert_eq!(judge(None, Some(5000 + DELIVER_AT_MS_MAX)), Ok(true));
        assert_eq!(judge(None, Some(5001 + DELIVER_AT_MS_MAX)), Err(Reason::EventInvalid));
        assert_eq!(judge(Some(6000), Some(5999)), Ok(true));
        assert_eq!(judge(Some(6000), Some(6000)), Err(Reason::EventInvalid));
    }

    #[test]
    fn the_index_of_a_bad_event_is_told() {
        // Fields 1 to 3, each "x".
        let good = Bytes::from_static(b"\x0a\x01x\x12\x01x\x1a\x01x");
        let request = PublishRequest {
            topic: "t".to_owned(),
            events: vec![good.clone(), Bytes::from_static(b"\x0a\x01x")],
            ..PublishRequest::default()
        };
        let rejection = publish(request.clone(), UnixMs(0)).unwrap_err();
        assert_eq!(
            (rejection.reason, rejection.fact("event_index")),
            (Reason::EventInvalid, Some("1"))
        );
        let request = PublishRequest { events: vec![good; 2], ..request };
        let Sound { publish, untimely } = publish(request, UnixMs(0)).unwrap();
        assert_eq!(untimely, None);
        assert_eq!((publish.count, publish.keyed, publish.largest_event_bytes), (2, false, 9));
    }
}
