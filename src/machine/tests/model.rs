//! The same semantics, written as plainly as possible: vectors, maps, no tables, no caches.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::random::TestEvent;
use crate::model::command::{Command, CommandBatch, Kind, Producer, Publish};
use crate::model::event_run;
use crate::model::ids::{KeyVersion, Offset, Position, TopicId, UnixMs};
use crate::model::limits::{PRODUCER_IDLE_MS, PRODUCER_WINDOW, REQUEST_ID_KEPT_MS};
use crate::model::outcome::{Outcome, Published, Receipt, TopicInfo};
use crate::model::rejection::{Reason, Rejection};
use crate::model::topic::TopicConfig;

pub(super) struct Event {
    pub(super) encoded: Bytes,
    pub(super) key: String,
    pub(super) version: u64,
    pub(super) position: u64,
    pub(super) recorded_at: u64,
    identity: (String, String),
}

pub(super) struct Topic {
    id: u64,
    config: TopicConfig,
    pub(super) events: Vec<Event>,
    bytes: u64,
    created: u64,
    updated: u64,
    revision: u64,
}

#[derive(Default)]
struct Calls {
    epoch: u64,
    floor: u64,
    answers: BTreeMap<u64, (u64, Published)>,
    used: u64,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) next_position: u64,
    now: u64,
    last_id: u64,
    producers: BTreeMap<String, Calls>,
    requests: BTreeMap<String, (u64, Outcome)>,
}

fn refuse(reason: Reason) -> Outcome {
    Outcome::Rejected(Rejection::new(reason, ""))
}

impl Model {
    pub(super) fn apply(&mut self, entry: &CommandBatch) -> Vec<Outcome> {
        self.now = self.now.max(entry.stamp_ms);
        entry.commands.iter().map(|command| self.command(command)).collect()
    }

    fn command(&mut self, command: &Command) -> Outcome {
        let kind = command.kind.clone().unwrap();
        let request_id = match &kind {
            Kind::CreateTopic(c) => c.request_id.clone(),
            Kind::UpdateTopic(c) => c.request_id.clone(),
            Kind::DeleteTopic(c) => c.request_id.clone(),
            _ => String::new(),
        };
        if let Some((_, first)) = self.requests.get(&request_id) {
            return first.clone();
        }
        let outcome = self.do_it(kind);
        if !request_id.is_empty() && !matches!(outcome, Outcome::Rejected(_)) {
            self.requests.insert(request_id, (self.now, outcome.clone()));
        }
        outcome
    }

    fn do_it(&mut self, kind: Kind) -> Outcome {
        match kind {
            Kind::CreateTopic(c) if self.topics.contains_key(&c.name) => {
                refuse(Reason::TopicExists)
            }
            Kind::CreateTopic(c) => {
                self.last_id += 1;
                let topic = Topic {
                    id: self.last_id,
                    config: c.config,
                    events: Vec::new(),
                    bytes: 0,
                    created: self.now,
                    updated: self.now,
                    revision: 1,
                };
                let info = info(&c.name, &topic);
                self.topics.insert(c.name, topic);
                Outcome::Topic(Box::new(info))
            }
            Kind::UpdateTopic(c) => match self.topics.get_mut(&c.name) {
                None => refuse(Reason::TopicNotFound),
                Some(t) if c.if_revision != 0 && c.if_revision != t.revision => {
                    refuse(Reason::RevisionMismatch)
                }
                Some(t) => {
                    t.config = c.patch.onto(&t.config);
                    t.updated = self.now;
                    t.revision += 1;
                    Outcome::Topic(Box::new(info(&c.name, t)))
                }
            },
            Kind::DeleteTopic(c) => match self.topics.remove(&c.name) {
                None => refuse(Reason::TopicNotFound),
                Some(_) => Outcome::Done,
            },
            Kind::Housekeep(_) => {
                let now = self.now;
                self.producers.retain(|_, p| p.used >= now.saturating_sub(PRODUCER_IDLE_MS));
                self.requests.retain(|_, (at, _)| *at >= now.saturating_sub(REQUEST_ID_KEPT_MS));
                Outcome::Done
            }
            Kind::Publish(publish) => self.publish(&publish),
            // Delivery has a model of its own.
            _ => Outcome::Done,
        }
    }

    fn publish(&mut self, call: &Publish) -> Outcome {
        let Some(topic) = self.topics.get(&call.topic) else {
            return refuse(Reason::TopicNotFound);
        };
        let (id, max) = (topic.id, topic.config.max_event_bytes);
        if let Some(producer) = &call.producer
            && let Some(known) = self.known_call(producer)
        {
            return known;
        }
        if call.largest_event_bytes > max {
            return refuse(Reason::EventTooLarge);
        }
        let topic = self.topics.get_mut(&call.topic).unwrap();
        for expectation in &call.expectations {
            let version = topic.events.iter().filter(|e| e.key == expectation.key).count() as u64;
            if !expectation.expect().holds(KeyVersion(version)) {
                return refuse(Reason::VersionConflict);
            }
        }
        let published = append(topic, &mut self.next_position, self.now, call);
        if let Some(producer) = &call.producer {
            self.note(producer, id, published.clone());
        }
        Outcome::Published(published)
    }

    fn known_call(&self, call: &Producer) -> Option<Outcome> {
        let known = self.producers.get(&call.id)?;
        if call.epoch > known.epoch {
            return None;
        }
        if call.epoch < known.epoch {
            return Some(refuse(Reason::ProducerFenced));
        }
        if let Some((topic_id, first)) = known.answers.get(&call.sequence) {
            let mut again = first.clone();
            again.duplicate = true;
            // Versions are read from the events, which are gone with a deleted topic.
            if !self.topics.values().any(|t| t.id == *topic_id) {
                again.key_versions.iter_mut().for_each(|v| *v = KeyVersion(0));
            }
            return Some(Outcome::Published(again));
        }
        (call.sequence < known.floor).then(|| refuse(Reason::SequenceExpired))
    }

    fn note(&mut self, call: &Producer, topic_id: u64, published: Published) {
        let now = self.now;
        let known = self.producers.entry(call.id.clone()).or_default();
        if call.epoch > known.epoch {
            *known = Calls { epoch: call.epoch, ..Calls::default() };
        }
        known.answers.insert(call.sequence, (topic_id, published));
        let newest = *known.answers.keys().last().unwrap();
        let slid = (newest + 1).saturating_sub(PRODUCER_WINDOW);
        known.floor = known.floor.max(call.acknowledged_below).max(slid);
        let floor = known.floor;
        known.answers.retain(|sequence, _| *sequence >= floor);
        known.used = now;
    }
}

fn append(topic: &mut Topic, next_position: &mut u64, now: u64, call: &Publish) -> Published {
    let (first_offset, first_position) = (topic.events.len() as u64, *next_position);
    let window = topic.config.dedup_window_ms;
    let (mut receipts, mut versions) = (Vec::new(), Vec::new());
    for encoded in event_run::iter(&call.events) {
        let encoded = Bytes::copy_from_slice(encoded.unwrap());
        let event = TestEvent::decode(encoded.clone()).unwrap();
        let identity = (event.source, event.id);
        // The newest event with this identity is the one that counts.
        let known = (0_u64..)
            .zip(&topic.events)
            .filter(|(_, e)| window > 0 && e.identity == identity)
            .last()
            .filter(|(_, e)| now - e.recorded_at < window);
        if let Some((offset, e)) = known {
            receipts.push(Receipt {
                offset: Offset(offset),
                position: Position(e.position),
                duplicate: true,
            });
            versions.push(KeyVersion(e.version));
            continue;
        }
        let version = if event.key.is_empty() {
            0
        } else {
            1 + topic.events.iter().filter(|e| e.key == event.key).count() as u64
        };
        topic.bytes += event_run::framed_len(encoded.len()) as u64;
        receipts.push(Receipt {
            offset: Offset(topic.events.len() as u64),
            position: Position(*next_position),
            duplicate: false,
        });
        versions.push(KeyVersion(version));
        topic.events.push(Event {
            encoded,
            key: event.key,
            version,
            position: *next_position,
            recorded_at: now,
            identity,
        });
        *next_position += 1;
    }
    if versions.iter().all(|v| v.get() == 0) {
        versions.clear();
    }
    let count = u32::try_from(receipts.len()).unwrap();
    let mut first = (Offset(first_offset), Position(first_position));
    if receipts.iter().any(|r| r.duplicate) {
        first = (receipts[0].offset, receipts[0].position);
    } else {
        receipts.clear();
    }
    Published {
        first_offset: first.0,
        first_position: first.1,
        count,
        duplicate: false,
        key_versions: versions,
        receipts,
    }
}

fn info(name: &str, topic: &Topic) -> TopicInfo {
    TopicInfo {
        id: TopicId(topic.id),
        name: name.to_owned(),
        config: topic.config.clone(),
        next_offset: Offset(topic.events.len() as u64),
        first_offset: Offset(0),
        bytes: topic.bytes,
        created_at: UnixMs(topic.created),
        updated_at: UnixMs(topic.updated),
        revision: topic.revision,
        specials: 0,
        cancels: 0,
    }
}
