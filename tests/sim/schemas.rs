//! Callers at the topic whose schema is enforced: they register versions and publish, what is valid and what
//! is not.

use std::sync::Arc;

use bytes::Bytes;
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::model::schema::Compatibility;
use message_hub::model::schema_rule::{SchemaMode, SchemaRule};
use message_hub::model::topic::TopicPatch;
use message_hub::node::Node;
use message_hub::node::validate::{self, PublishRequest};
use message_hub::proto::v1;
use prost::Message as _;

use crate::clients::{ask, dice, may_be_asked_again, pause, worth_asking};
use crate::shared::{Phase, Shared};
use crate::subject::{JUDGED, SUBJECT, Wish, Writing, definition, payload};

/// The first version, and the topic with its rule.
pub(crate) async fn prepare(node: &Arc<Node>) -> Result<(), Rejection> {
    let subject = || SUBJECT.to_owned();
    node.set_compatibility(subject(), Compatibility::None, String::new()).await?;
    node.register_schema(subject(), definition(1), String::new()).await?;
    let rule = SchemaRule {
        mode: SchemaMode::Enforce as i32,
        subject: subject(),
        ..SchemaRule::default()
    };
    let patch = TopicPatch { schema: Some(rule), ..TopicPatch::default() };
    node.create_topic(JUDGED, &patch, String::new()).await.map(drop)
}

/// An event for the topic.
pub(crate) fn event(id: String, key: String, version: u32) -> Bytes {
    let event = v1::Event {
        id,
        source: "/sim".to_owned(),
        r#type: "sim".to_owned(),
        key,
        data: payload(version),
        ..v1::Event::default()
    };
    Bytes::from(event.encode_to_vec())
}

pub(crate) async fn write_all(id: u64, node: &Arc<Node>, shared: &Shared, stream: u64) {
    let mut dice = dice(id, shared, stream);
    loop {
        pause(&mut dice, 250).await;
        if shared.get().phase == Phase::Forming || !worth_asking(node, &mut dice) {
            continue;
        }
        let wish = {
            let mut world = shared.change();
            let fresh = world.phase == Phase::Faults;
            let subject = &mut world.oracle.subject;
            match subject.again(id) {
                None if fresh => subject.invent(id, &mut dice),
                again => again,
            }
        };
        match wish {
            Some(Wish::Register(version)) => register(id, node, shared, version).await,
            Some(Wish::Write(writing)) => write(id, node, shared, writing).await,
            None => {}
        }
    }
}

/// Whether a refusal says nothing about the events.
pub(crate) fn says_nothing(reason: Reason) -> bool {
    // It was judged again too often.
    may_be_asked_again(reason) || reason == Reason::SchemaChanged
}

async fn register(id: u64, node: &Arc<Node>, shared: &Shared, version: u32) {
    let asked = node.register_schema(SUBJECT.to_owned(), definition(version), String::new());
    let answer = match ask(asked).await {
        Ok(info) => Ok(Some(info.version)),
        Err(rejection) if says_nothing(rejection.reason) => Ok(None),
        Err(rejection) => Err(format!("version {version} is refused: {rejection}")),
    };
    shared.say(format!("registrar of {id}"), format!("version {version}: {answer:?}"));
    let told = answer.and_then(|answer| shared.change().oracle.subject.registered(version, answer));
    if let Err(wrong) = told {
        shared.wrong(wrong);
    }
}

async fn write(id: u64, node: &Arc<Node>, shared: &Shared, writing: Writing) {
    let event =
        |(number, version): (usize, &u32)| event(writing.event_id(number), String::new(), *version);
    let request = PublishRequest {
        topic: JUDGED.to_owned(),
        producer: Some(writing.producer()),
        expectations: Vec::new(),
        events: writing.versions.iter().enumerate().map(event).collect(),
    };
    let outcome = match validate::publish(request, node.now()) {
        Ok(publish) => ask(node.publish("sim", publish)).await,
        Err(rejection) => Err(rejection),
    };
    let (said, told) = {
        let mut world = shared.change();
        let oracle = &mut world.oracle;
        match outcome {
            Ok(published) => ("taken", oracle.written(&writing, &published)),
            Err(rejection) if rejection.reason == Reason::SchemaViolated => {
                ("refused", oracle.subject.refused(&writing))
            }
            Err(rejection) if says_nothing(rejection.reason) => {
                oracle.subject.unanswered(&writing);
                (rejection.reason.as_str(), Ok(()))
            }
            Err(rejection) => ("", Err(format!("{writing} is refused: {rejection}"))),
        }
    };
    shared.say(format!("writer of {id}"), format!("{writing}: {said}"));
    if let Err(wrong) = told {
        shared.wrong(wrong);
    }
}
