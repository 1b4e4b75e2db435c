//! Mutations of topics, and of what is scheduled in them.

use super::query::Which;
use super::{Node, unexpected, validate};
use crate::model::command::{CancelEvent, CreateTopic, DeleteTopic, Kind, UpdateTopic};
use crate::model::limits::{ATTRIBUTE_BYTES_MAX, URI_BYTES_MAX};
use crate::model::name::TopicName;
use crate::model::outcome::{Outcome, TopicInfo};
use crate::model::rejection::{Reason, Rejection};
use crate::model::topic::{TopicConfig, TopicPatch};

impl Node {
    /// Creates a topic; what the patch leaves open gets its default.
    ///
    /// # Errors
    /// `TOPIC_EXISTS`, `INVALID_NAME`, `INVALID_CONFIG`, and those of any proposal.
    pub async fn create_topic(
        &self,
        name: &str,
        patch: &TopicPatch,
        request_id: String,
    ) -> Result<TopicInfo, Rejection> {
        let name = TopicName::parse(name)?;
        validate::request_id(&request_id)?;
        let config = patch.onto(&TopicConfig::defaults());
        config.check()?;
        let create = CreateTopic { name: name.to_string(), config, request_id };
        topic(self.execute(Kind::CreateTopic(create)).await?)
    }

    /// Changes a topic's settings.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `REVISION_MISMATCH`, `INVALID_CONFIG`, and those of any proposal.
    pub async fn update_topic(
        &self,
        name: &str,
        patch: TopicPatch,
        if_revision: u64,
        request_id: String,
    ) -> Result<TopicInfo, Rejection> {
        let name = TopicName::parse(name)?;
        validate::request_id(&request_id)?;
        // What is wrong whatever the old settings are.
        patch.onto(&TopicConfig::defaults()).check()?;
        let update = UpdateTopic { name: name.to_string(), patch, if_revision, request_id };
        topic(self.execute(Kind::UpdateTopic(update)).await?)
    }

    /// Deletes a topic; the name has to be repeated.
    ///
    /// # Errors
    /// `CONFIRMATION_REQUIRED`, `TOPIC_NOT_FOUND`, and those of any proposal.
    pub async fn delete_topic(
        &self,
        name: &str,
        confirm_name: &str,
        request_id: String,
    ) -> Result<(), Rejection> {
        let name = TopicName::parse(name)?;
        validate::request_id(&request_id)?;
        if confirm_name != name.as_str() {
            return Err(Rejection::new(
                Reason::ConfirmationRequired,
                format!(
                    "deleting topic {name} deletes its events; confirm it by repeating the name"
                ),
            ));
        }
        let delete = DeleteTopic { name: name.to_string(), request_id };
        match self.execute(Kind::DeleteTopic(delete)).await? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Calls a delayed event off, for every subscription.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `EVENT_NOT_FOUND`, `NOT_SCHEDULED`, and those of any proposal.
    pub async fn cancel_event(&self, topic: &str, which: Which) -> Result<(), Rejection> {
        let topic = TopicName::parse(topic)?.to_string();
        let cancel = match which {
            Which::Offset(offset) => {
                CancelEvent { topic, offset: offset.get(), ..CancelEvent::default() }
            }
            Which::Id(source, id) => {
                let too_long = id.len() > ATTRIBUTE_BYTES_MAX || source.len() > URI_BYTES_MAX;
                if id.is_empty() || too_long {
                    return Err(Rejection::new(
                        Reason::InvalidRequest,
                        format!(
                            "an event id has 1 to {ATTRIBUTE_BYTES_MAX} bytes, a source at most {URI_BYTES_MAX}; give those that it was published with"
                        ),
                    ));
                }
                CancelEvent { topic, source, id, ..CancelEvent::default() }
            }
        };
        match self.execute(Kind::CancelEvent(cancel)).await? {
            Outcome::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

fn topic(outcome: Outcome) -> Result<TopicInfo, Rejection> {
    match outcome {
        Outcome::Topic(info) => Ok(*info),
        other => Err(unexpected(&other)),
    }
}
