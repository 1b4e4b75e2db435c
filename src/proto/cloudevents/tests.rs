use bytes::Bytes;
use proptest::prelude::*;
use prost_types::Timestamp;

use super::*;
use crate::model::rejection::Reason;
use crate::proto::v1::attribute_value::Attr;
use crate::proto::v1::{AttributeValue, Event, RecordedEvent};

fn json(event: &Event) -> String {
    serde_json::to_string(&EventJson(event)).unwrap()
}

const FULL: &str = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"sub","datacontenttype":"application/json","dataschema":"http://x/y","partitionkey":"order-1","correlationid":"c","causationid":"d","traceparent":"00-x","fairnesskey":"acme","time":"2026-01-31T12:00:00.5Z","expirytime":"2999-01-01T00:00:00Z","deliverat":"2998-01-01T00:00:00Z","priority":7,"flag":true,"n":-3,"other":"text","data":{"big":12345678901234567890123,"a":[1.0,2]}}"#;

#[test]
fn a_full_event_comes_back_as_it_was() {
    let event = from_json(FULL).unwrap();
    assert_eq!((event.key.as_str(), event.priority), ("order-1", Some(7)));
    assert_eq!(event.fairness_key, "acme");
    assert_eq!(event.extensions["n"].attr, Some(Attr::CeInteger(-3)));
    assert_eq!(event.time, Some(Timestamp { seconds: 1_769_860_800, nanos: 500_000_000 }));
    assert_eq!(json(&event), FULL);
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let ok = r#"{"specversion":"1.0","id":"1","source":"s","type":"t""#;
    for (json, attribute) in [
        ("[]", "event"),
        ("{", "event"),
        (r#"{"id":"1","source":"s","type":"t"}"#, "specversion"),
        (r#"{"specversion":"0.3","id":"1","source":"s","type":"t"}"#, "specversion"),
        (r#"{"specversion":"1.0","source":"s","type":"t"}"#, "id"),
        (r#"{"specversion":"1.0","id":"","source":"s","type":"t"}"#, "id"),
        (r#"{"specversion":"1.0","id":7,"source":"s","type":"t"}"#, "id"),
        (r#"{"specversion":"1.0","id":"1","type":"t"}"#, "source"),
        (r#"{"specversion":"1.0","id":"1","source":"s"}"#, "type"),
        (&format!(r#"{ok},"time":"yesterday"}}"#), "time"),
        (&format!(r#"{ok},"time":"1969-12-31T23:59:59Z"}}"#), "time"),
        (&format!(r#"{ok},"priority":10}}"#), "priority"),
        (&format!(r#"{ok},"Upper":1}}"#), "Upper"),
        (&format!(r#"{ok},"sequence":"1"}}"#), "sequence"),
        (&format!(r#"{ok},"headers":{{}}}}"#), "headers"),
        (&format!(r#"{ok},"ext":{{}}}}"#), "ext"),
        (&format!(r#"{ok},"ext":1.5}}"#), "ext"),
        (&format!(r#"{ok},"data":1,"data_base64":"AA=="}}"#), "data"),
        (&format!(r#"{ok},"data_base64":"%"}}"#), "data_base64"),
        (&format!(r#"{ok},"datacontenttype":"text/plain","data":1}}"#), "data"),
    ] {
        let error = from_json(json).unwrap_err();
        assert_eq!(error.reason, Reason::EventInvalid, "{json}");
        assert_eq!(error.fact("attribute"), Some(attribute), "{json}: {error}");
    }
}

#[test]
fn data_takes_the_form_that_its_type_asks_for() {
    let event = |content_type: &str, data: &'static [u8]| Event {
        id: "1".into(),
        source: "s".into(),
        r#type: "t".into(),
        datacontenttype: content_type.into(),
        data: Bytes::from_static(data),
        ..Event::default()
    };
    for (event, member) in [
        (event("", b"{\"a\": 1}"), r#""data":{"a": 1}"#),
        (event("", b"plain"), r#""data_base64":"cGxhaW4=""#),
        (event("", b"null"), r#""data_base64":"bnVsbA==""#),
        (event("application/cloud+JSON; x=y", b"[\n  1,\r\n  2\n]"), r#""data":[1,2]"#),
        (event("text/plain", b"a\nb"), r#""data":"a\nb""#),
        (event("text/plain", b"\xff"), r#""data_base64":"/w==""#),
    ] {
        let json = json(&event);
        assert!(json.contains(member), "{json} has no {member}");
        assert!(!json.contains('\n'));
        let back = from_json(&json).unwrap();
        if !event.data.contains(&b'\n') || event.datacontenttype == "text/plain" {
            assert_eq!(back, event);
        }
    }
}

#[test]
fn the_envelope_tells_what_the_hub_knows() {
    let mut event = from_json(r#"{"specversion":"1.0","id":"1","source":"s","type":"t"}"#).unwrap();
    event.headers.insert("h".into(), "v".into());
    let recorded = RecordedEvent {
        topic: "orders".into(),
        offset: 3,
        position: 9,
        recorded_at_ms: 1_769_860_800_250,
        key_version: 2,
        event: Bytes::new(),
    };
    let json = serde_json::to_string(&EnvelopeJson { recorded: &recorded, event: &event }).unwrap();
    assert_eq!(
        json,
        r#"{"topic":"orders","offset":"3","position":"9","version":"2","recorded_at":"2026-01-31T12:00:00.25Z","headers":{"h":"v"},"event":{"specversion":"1.0","id":"1","source":"s","type":"t"}}"#
    );
}

fn times() -> impl Strategy<Value = Option<Timestamp>> {
    let time = (0..253_402_207_200_i64, 0..1_000_000_000_i32);
    proptest::option::of(time.prop_map(|(seconds, nanos)| Timestamp { seconds, nanos }))
}

fn extensions() -> impl Strategy<Value = std::collections::HashMap<String, AttributeValue>> {
    let value = prop_oneof![
        any::<bool>().prop_map(Attr::CeBoolean),
        any::<i32>().prop_map(Attr::CeInteger),
        ".*".prop_map(Attr::CeString),
    ];
    let value = value.prop_map(|attr| AttributeValue { attr: Some(attr) });
    proptest::collection::hash_map("x[a-z0-9]{1,19}", value, 0..4)
}

fn data() -> impl Strategy<Value = (String, Vec<u8>)> {
    prop_oneof![
        (Just(String::new()), proptest::collection::vec(any::<u8>(), 0..64)),
        (Just("application/json".to_owned()), "[0-9]{1,30}".prop_map(String::into_bytes)),
        (Just("text/plain".to_owned()), ".*".prop_map(String::into_bytes)),
        (Just("image/png".to_owned()), proptest::collection::vec(any::<u8>(), 0..64)),
    ]
}

prop_compose! {
    fn events()(
        required in (".+", ".+", ".+"),
        texts in (".*", ".*", ".*", ".*", ".*", ".*", ".*"),
        times in (times(), times(), times()),
        priority in proptest::option::of(0..10_u32),
        extensions in extensions(),
        (datacontenttype, data) in data(),
    ) -> Event {
        Event {
            id: required.0, source: required.1, r#type: required.2,
            subject: texts.0, dataschema: texts.1, key: texts.2, correlation_id: texts.3,
            causation_id: texts.4, traceparent: texts.5,
            time: times.0, deadline: times.1, deliver_at: times.2,
            priority, extensions, datacontenttype, data: data.into(),
            fairness_key: texts.6,
            // The JSON format has no names for these.
            headers: Default::default(), schema_verdict: None,
        }
    }
}

proptest! {
    #[test]
    fn any_event_survives_the_way_through_json(event in events()) {
        let json = json(&event);
        prop_assert!(!json.contains('\n'));
        let mut expected = event.clone();
        // Space around and line breaks inside of JSON mean nothing, and are not kept.
        if is_json(&event.datacontenttype)
            && let Ok(raw) = serde_json::from_slice::<&serde_json::value::RawValue>(&event.data)
        {
            prop_assume!(!raw.get().contains(['\n', '\r']));
            expected.data = Bytes::copy_from_slice(raw.get().as_bytes());
        }
        prop_assert_eq!(from_json(&json).unwrap(), expected);
    }
}
