//! Doors for fuzzing: what clients send, up to the command that comes of it.

use prost::Message as _;

use super::convert::{Labels, patch, publish, read_plan};
use super::{convert_failures, convert_subscription, delivery};
use crate::model::command::{
    CreateSubscription, CreateTopic, Kind, SeekSubscription, SetQuota, Settle, UpdateSubscription,
    UpdateTopic,
};
use crate::model::ids::UnixMs;
use crate::model::name::{TopicName, check_subscription};
use crate::model::pattern::TopicPattern;
use crate::model::quota::{QuotaLimits, check_service};
use crate::model::subscription::SubscriptionConfig;
use crate::model::topic::TopicConfig;
use crate::node::follow::AtEnd;
use crate::node::{settle, validate};
use crate::proto::v1;

/// How many kinds of requests [`request`] knows.
pub const REQUESTS: u8 = 10;

/// The command that a request leads to, if it passes every check that needs no state.
#[must_use]
pub fn request(which: u8, encoded: &[u8], now: UnixMs) -> Option<Kind> {
    match which % REQUESTS {
        0 => {
            let call = publish(v1::PublishCall::decode(encoded).ok()?).ok()?;
            let sound = validate::publish(call, now).ok()?;
            sound.untimely.is_none().then_some(Kind::Publish(sound.publish))
        }
        1 => create_topic(v1::CreateTopicRequest::decode(encoded).ok()?),
        2 => update_topic(v1::UpdateTopicRequest::decode(encoded).ok()?),
        3 => create_subscription(v1::CreateSubscriptionRequest::decode(encoded).ok()?),
        4 => update_subscription(v1::UpdateSubscriptionRequest::decode(encoded).ok()?),
        5 => {
            let request = v1::SeekSubscriptionRequest::decode(encoded).ok()?;
            check_subscription(&request.name).ok()?;
            validate::request_id(&request.request_id).ok()?;
            let to = convert_subscription::place(request.to);
            let (name, request_id) = (request.name, request.request_id);
            Some(Kind::SeekSubscription(SeekSubscription { name, to, request_id }))
        }
        6 => {
            let request = v1::SettleRequest::decode(encoded).ok()?;
            let (subscription, consumer) = (request.subscription, request.consumer);
            let items: Vec<_> = request.items.into_iter().map(delivery::item).collect();
            check_subscription(&subscription).ok()?;
            settle::check_consumer(&consumer).ok()?;
            settle::check_items(&items).ok()?;
            Some(Kind::Settle(Settle { subscription, consumer, items }))
        }
        7 => {
            let request = v1::SetQuotaRequest::decode(encoded).ok()?;
            let quota = request.quota?;
            check_service(&quota.service).ok()?;
            let limits = QuotaLimits {
                publish_events_per_s: quota.publish_events_per_s,
                publish_bytes_per_s: quota.publish_bytes_per_s,
                ..QuotaLimits::default()
            };
            Some(Kind::SetQuota(SetQuota { service: quota.service, limits }))
        }
        8 => {
            let _ = read_plan(v1::ReadRequest::decode(encoded).ok()?, AtEnd::Follow);
            None
        }
        _ => {
            if let Ok(request) = v1::PullRequest::decode(encoded) {
                let _ = delivery::pull(request, String::new());
            }
            let choice = v1::DeadLetterChoice::decode(encoded).ok()?;
            let _ = convert_failures::choice(Some(choice));
            None
        }
    }
}

fn create_topic(request: v1::CreateTopicRequest) -> Option<Kind> {
    let patch = patch(request.config, Labels::Replace);
    let name = TopicName::parse(&request.name).ok()?.to_string();
    validate::request_id(&request.request_id).ok()?;
    let config = patch.onto(&TopicConfig::defaults());
    config.check().ok()?;
    Some(Kind::CreateTopic(CreateTopic { name, config, request_id: request.request_id }))
}

fn update_topic(request: v1::UpdateTopicRequest) -> Option<Kind> {
    let labels = if request.replace_labels { Labels::Replace } else { Labels::Keep };
    let patch = patch(request.config, labels);
    let name = TopicName::parse(&request.name).ok()?.to_string();
    validate::request_id(&request.request_id).ok()?;
    patch.onto(&TopicConfig::defaults()).check().ok()?;
    let (if_revision, request_id) = (request.if_revision, request.request_id);
    Some(Kind::UpdateTopic(UpdateTopic { name, patch, if_revision, request_id }))
}

fn create_subscription(request: v1::CreateSubscriptionRequest) -> Option<Kind> {
    let patch = convert_subscription::patch(request.config).ok()?;
    check_subscription(&request.name).ok()?;
    validate::request_id(&request.request_id).ok()?;
    TopicPattern::parse(&request.pattern).ok()?;
    let config = patch.onto(&SubscriptionConfig::defaults(&request.pattern));
    config.check().ok()?;
    let start = convert_subscription::place(request.start);
    let (name, request_id) = (request.name, request.request_id);
    Some(Kind::CreateSubscription(CreateSubscription { name, config, start, request_id }))
}

fn update_subscription(request: v1::UpdateSubscriptionRequest) -> Option<Kind> {
    let patch = convert_subscription::patch(request.config).ok()?;
    check_subscription(&request.name).ok()?;
    validate::request_id(&request.request_id).ok()?;
    let (name, if_revision, request_id) = (request.name, request.if_revision, request.request_id);
    Some(Kind::UpdateSubscription(UpdateSubscription { name, patch, if_revision, request_id }))
}
