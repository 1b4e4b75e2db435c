//! Transactions: what they ask for is judged here as far as it needs no state, and decided there.

use std::collections::BTreeSet;

use super::query::Consistency;
use super::schemas::enforce::unjudged;
use super::settle::{check_consumer, check_items};
use super::validate::{self, PublishRequest, Sound};
use super::{Node, unexpected};
use crate::machine::requests;
use crate::machine::transaction::{query, record};
use crate::model::command::delivery::{Action, SettleItem};
use crate::model::command::{
    AbortTransaction, BeginTransaction, CommitTransaction, JudgedAgain, Kind, Publish, Settle,
    StageTransaction, Transact,
};
use crate::model::ids::TransactionId;
use crate::model::limits::{
    CALL_BYTES_MAX, SCHEMA_JUDGEMENTS_MAX, TRANSACTION_LABEL_BYTES_MAX, TRANSACTION_OPERATIONS_MAX,
    TRANSACTION_TIMEOUT_MS, TRANSACTION_TIMEOUT_MS_DEFAULT,
};
use crate::model::name;
use crate::model::outcome::{Outcome, Published};
use crate::model::rejection::{Reason, Rejection};
use crate::model::transaction::{TransactionInfo, TransactionState, TransactionView};
use crate::telemetry::spans::Traced;

/// What is to be settled in a transaction.
#[derive(Clone, Debug, Default)]
pub struct SettleRequest {
    /// Any text.
    pub subscription: String,
    /// Any text.
    pub consumer: String,
    /// Any leases.
    pub items: Vec<SettleItem>,
}

fn invalid(message: impl Into<String>) -> Rejection {
    Rejection::new(Reason::InvalidRequest, message)
}

impl Node {
    /// Appends and settles, all of it or nothing; where the events of each part went.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, `CALL_TOO_LARGE`, `EVENT_INVALID`, `SCHEMA_VIOLATED`, `DEADLINE_PAST`, `QUOTA_EXCEEDED`; one of
    /// `TOPIC_NOT_FOUND`, `SUBSCRIPTION_NOT_FOUND`, `EVENT_TOO_LARGE`, `VERSION_CONFLICT`, `LEASE_EXPIRED`
    /// and `LEASE_UNKNOWN` that tells of everything that stands against it; and those of any proposal.
    pub async fn transact(
        &self,
        service: &str,
        parts: Vec<PublishRequest>,
        settles: Vec<SettleRequest>,
        request_id: String,
    ) -> Result<Vec<Published>, Rejection> {
        validate::request_id(&request_id)?;
        let (parts, settles) = self.judge(service, parts, settles, &request_id).await?;
        let traced = self.traced_parts(service, &parts);
        let outcome = self.transact_judged(&parts, settles, request_id).await;
        for (index, (part, traced)) in parts.iter().zip(traced).enumerate() {
            let told = outcome.as_ref().map(|done| done.get(index).map_or(0, first_offset));
            self.tell_span(part, traced, told);
        }
        outcome
    }

    /// What of each part is traced.
    fn traced_parts(&self, service: &str, parts: &[Publish]) -> Vec<Option<(String, Traced)>> {
        parts.iter().map(|part| self.traced(service, part)).collect()
    }

    async fn transact_judged(
        &self,
        parts: &[Publish],
        settles: Vec<Settle>,
        request_id: String,
    ) -> Result<Vec<Published>, Rejection> {
        let mut tries = 0;
        loop {
            let parts = self.judged_or_repeated(parts, tries > 0, &request_id).await?;
            tries += 1;
            let (settles, request_id) = (settles.clone(), request_id.clone());
            let command = Transact { parts, settles, request_id };
            check_size(&command)?;
            match self.execute(Kind::Transact(command)).await {
                Err(refused) if is_stale(&refused, tries) => {}
                Ok(Outcome::Transacted(parts)) => return Ok(parts),
                outcome => return Err(unexpected(&outcome?)),
            }
        }
    }

    /// Begins a staged transaction; a timeout of 0 is the default.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, `LIMIT_REACHED`, and those of any proposal.
    pub async fn begin_transaction(
        &self,
        timeout_ms: u64,
        label: String,
        request_id: String,
    ) -> Result<TransactionInfo, Rejection> {
        validate::request_id(&request_id)?;
        let timeout_ms = if timeout_ms == 0 { TRANSACTION_TIMEOUT_MS_DEFAULT } else { timeout_ms };
        if !TRANSACTION_TIMEOUT_MS.contains(&timeout_ms) {
            let (least, most) = TRANSACTION_TIMEOUT_MS.into_inner();
            return Err(invalid(format!(
                "timeout is {timeout_ms} ms, {least} to {most} ms are possible; choose one of them"
            )));
        }
        if label.len() > TRANSACTION_LABEL_BYTES_MAX {
            let bytes = label.len();
            return Err(invalid(format!(
                "the label has {bytes} bytes, {TRANSACTION_LABEL_BYTES_MAX} is the most; shorten it"
            )));
        }
        let begin = BeginTransaction { timeout_ms, label, request_id };
        transaction(self.execute(Kind::BeginTransaction(begin)).await?)
    }

    /// Adds to a staged transaction.
    ///
    /// # Errors
    /// Those of [`Node::transact`] that need no commit; `TRANSACTION_NOT_FOUND`, `TRANSACTION_EXPIRED`,
    /// `TRANSACTION_ENDED`, `LIMIT_REACHED`.
    pub async fn stage_transaction(
        &self,
        service: &str,
        id: TransactionId,
        (parts, settles): (Vec<PublishRequest>, Vec<SettleRequest>),
        request_id: String,
    ) -> Result<TransactionInfo, Rejection> {
        validate::request_id(&request_id)?;
        let (parts, settles) = self.judge(service, parts, settles, &request_id).await?;
        let traced = self.traced_parts(service, &parts);
        let staged = self.stage_judged(id, &parts, settles, request_id).await;
        if let Err(refused) = &staged {
            // Of what is taken the commit tells.
            for (part, traced) in parts.iter().zip(traced) {
                self.tell_span(part, traced, Err(refused));
            }
        }
        staged
    }

    async fn stage_judged(
        &self,
        id: TransactionId,
        parts: &[Publish],
        settles: Vec<Settle>,
        request_id: String,
    ) -> Result<TransactionInfo, Rejection> {
        let parts = self.judged_or_repeated(parts, false, &request_id).await?;
        let command =
            StageTransaction { id: id.get(), parts, settles, request_id, topic_ids: Vec::new() };
        check_size(&command)?;
        transaction(self.execute(Kind::StageTransaction(command)).await?)
    }

    /// Does everything that was staged, or nothing; a repeated commit gets the first answer.
    ///
    /// # Errors
    /// Those of [`Node::transact`], `TRANSACTION_NOT_FOUND`, `TRANSACTION_EXPIRED`, `TRANSACTION_ENDED`.
    pub async fn commit_transaction(
        &self,
        service: &str,
        id: TransactionId,
    ) -> Result<TransactionInfo, Rejection> {
        let parts = self.staged_for_spans(id).await;
        let traced = self.traced_parts(service, &parts);
        let outcome = self.commit(id).await;
        for (part, traced) in parts.iter().zip(traced) {
            let told = outcome.as_ref().map(|done| offset_in(done, &part.topic));
            self.tell_span(part, traced, told);
        }
        outcome
    }

    /// What is about to be committed, where spans are told at all. They are worth no refusal.
    async fn staged_for_spans(&self, id: TransactionId) -> Vec<Publish> {
        if self.spans.is_none() {
            return Vec::new();
        }
        let staged = self.read(move |db| query::staged_parts(db, id)).await;
        staged.ok().flatten().map(|staged| staged.parts).unwrap_or_default()
    }

    async fn commit(&self, id: TransactionId) -> Result<TransactionInfo, Rejection> {
        let mut commit = CommitTransaction { id: id.get(), judged_again: None };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.execute(Kind::CommitTransaction(commit.clone())).await {
                Err(refused) if is_stale(&refused, tries) => {
                    commit.judged_again = self.judged_again(id).await?;
                }
                outcome => return transaction(outcome?),
            }
        }
    }

    /// What is staged for topics, judged by the schemas of now.
    async fn judged_again(&self, id: TransactionId) -> Result<Option<JudgedAgain>, Rejection> {
        let staged = self.read(move |db| query::staged_parts(db, id)).await?;
        let Some(JudgedAgain { stages, parts }) = staged else { return Ok(None) };
        let parts = self.judged_parts(&parts, true).await?;
        Ok(Some(JudgedAgain { stages, parts }))
    }

    /// The same as [`Node::judged_parts`]; but a repeated request gets its first answer, whatever schemas say
    /// of it by now.
    async fn judged_or_repeated(
        &self,
        parts: &[Publish],
        anew: bool,
        request_id: &str,
    ) -> Result<Vec<Publish>, Rejection> {
        let judged = self.judged_parts(parts, anew).await;
        let Err(refused) = judged else { return judged };
        if self.is_answered(request_id).await? { Ok(parts.to_vec()) } else { Err(refused) }
    }

    /// Whether a mutation with this request id was done before.
    pub(super) async fn is_answered(&self, request_id: &str) -> Result<bool, Rejection> {
        let request_id = request_id.to_owned();
        self.read(move |db| requests::is_answered(db, &request_id)).await
    }

    /// Parts with what the schemas of their topics say of them.
    async fn judged_parts(&self, parts: &[Publish], anew: bool) -> Result<Vec<Publish>, Rejection> {
        let mut judged = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            let by_schemas = self.judged(part, anew).await;
            let by_schemas = by_schemas.map_err(|rejection| rejection.with("part", index));
            judged.push(match by_schemas? {
                Some(part) => part,
                None => unjudged(part)?,
            });
        }
        Ok(judged)
    }

    /// Forgets what was staged.
    ///
    /// # Errors
    /// `TRANSACTION_NOT_FOUND`, `TRANSACTION_ENDED`, and those of any proposal.
    pub async fn abort_transaction(&self, id: TransactionId) -> Result<TransactionInfo, Rejection> {
        let abort = AbortTransaction { id: id.get() };
        transaction(self.execute(Kind::AbortTransaction(abort)).await?)
    }

    /// A staged transaction with what is staged in it.
    ///
    /// # Errors
    /// `TRANSACTION_NOT_FOUND`, and those of [`Node::fresh`].
    pub async fn staged_transaction(
        &self,
        id: TransactionId,
        wanted: Consistency,
    ) -> Result<TransactionView, Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        let found = self.read(move |db| query::transaction(db, id)).await?;
        found.ok_or_else(|| record::not_found(id))
    }

    /// Staged transactions after one, of one state if it is named; and where the next page begins.
    ///
    /// # Errors
    /// Those of [`Node::fresh`].
    pub async fn staged_transactions(
        &self,
        after: TransactionId,
        state: Option<TransactionState>,
        limit: usize,
        wanted: Consistency,
    ) -> Result<(Vec<TransactionInfo>, Option<TransactionId>), Rejection> {
        self.fresh(wanted, self.deadline()).await?;
        self.read(move |db| query::transactions(db, after, state, limit)).await
    }

    /// What needs little state to be judged. The quota of the service takes all parts or none.
    async fn judge(
        &self,
        service: &str,
        parts: Vec<PublishRequest>,
        settles: Vec<SettleRequest>,
        request_id: &str,
    ) -> Result<(Vec<Publish>, Vec<Settle>), Rejection> {
        check_count(&parts, &settles)?;
        let (mut judged, mut untimely) = (Vec::with_capacity(parts.len()), None);
        for (index, part) in parts.into_iter().enumerate() {
            let of_part = |rejection: Rejection| rejection.with("part", index);
            let part = self.part(part).map_err(of_part)?;
            untimely = untimely.or(part.untimely.map(of_part));
            judged.push(part.publish);
        }
        check_topics(&judged)?;
        let settles = checked(settles)?;
        match self.admit_publish(service, untimely, &judged) {
            Err(_) if self.is_answered(request_id).await? => {}
            admitted => admitted?,
        }
        Ok((judged, settles))
    }

    /// A part; one without events only expects.
    fn part(&self, part: PublishRequest) -> Result<Sound, Rejection> {
        if part.producer.is_some() {
            return Err(invalid("a part names a producer; the request id takes its place"));
        }
        if !part.events.is_empty() {
            return validate::publish(part, self.now());
        }
        if part.expectations.is_empty() {
            return Err(invalid("a part has neither events nor expectations; leave it out"));
        }
        let topic = name::TopicName::parse(&part.topic)?.as_str().to_owned();
        let expectations = validate::expectations(part.expectations)?;
        let publish = Publish { topic, expectations, ..Publish::default() };
        Ok(Sound { publish, untimely: None })
    }
}

fn first_offset(published: &Published) -> u64 {
    published.first_offset.get()
}

/// Where the events of a topic begin that a commit appended.
fn offset_in(done: &TransactionInfo, topic: &str) -> u64 {
    let part = done.parts.iter().find(|(name, _)| name == topic);
    part.map_or(0, |(_, published)| first_offset(published))
}

/// Whether events have to be judged again, after so many tries.
fn is_stale(refused: &Rejection, tries: u32) -> bool {
    refused.reason == Reason::SchemaChanged && tries < SCHEMA_JUDGEMENTS_MAX
}

fn transaction(outcome: Outcome) -> Result<TransactionInfo, Rejection> {
    match outcome {
        Outcome::Transaction(info) => Ok(*info),
        other => Err(unexpected(&other)),
    }
}

fn check_size(command: &impl prost::Message) -> Result<(), Rejection> {
    let bytes = command.encoded_len();
    if bytes <= CALL_BYTES_MAX {
        return Ok(());
    }
    let text = format!("the transaction has {bytes} bytes, {CALL_BYTES_MAX} is the most; split it");
    Err(Rejection::new(Reason::CallTooLarge, text))
}

fn check_count(parts: &[PublishRequest], settles: &[SettleRequest]) -> Result<(), Rejection> {
    let of_parts = parts.iter().map(|part| part.events.len() + part.expectations.len());
    let operations =
        of_parts.sum::<usize>() + settles.iter().map(|part| part.items.len()).sum::<usize>();
    if (1..=TRANSACTION_OPERATIONS_MAX).contains(&operations) {
        return Ok(());
    }
    Err(invalid(format!(
        "the transaction has {operations} events, expectations and settlements, 1 to {TRANSACTION_OPERATIONS_MAX} are possible; split it"
    )))
}

fn check_topics(parts: &[Publish]) -> Result<(), Rejection> {
    let mut seen = BTreeSet::new();
    match parts.iter().find(|part| !seen.insert(part.topic.as_str())) {
        None => Ok(()),
        Some(twice) => Err(invalid(format!(
            "topic {} is named by two parts; put what belongs to it into one",
            twice.topic
        ))),
    }
}

fn checked(settles: Vec<SettleRequest>) -> Result<Vec<Settle>, Rejection> {
    let mut leases = BTreeSet::new();
    let mut found = Vec::with_capacity(settles.len());
    for SettleRequest { subscription, consumer, items } in settles {
        name::check_subscription(&subscription)?;
        check_consumer(&consumer)?;
        check_items(&items)?;
        for item in &items {
            if matches!(item.action, Some(Action::Extend(_))) {
                return Err(invalid("a transaction extends no lease; extend it by itself"));
            }
            if !leases.insert((subscription.clone(), item.lease_id)) {
                let lease = item.lease_id;
                return Err(invalid(format!(
                    "lease {lease} of subscription {subscription} is settled twice; settle it once"
                )));
            }
        }
        found.push(Settle { subscription, consumer, items });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::delivery::{Ack, Extend};
    use crate::model::expectation::Expect;

    fn part(topic: &str, events: usize, expectations: usize) -> PublishRequest {
        PublishRequest {
            topic: topic.to_owned(),
            events: vec![bytes::Bytes::new(); events],
            expectations: vec![("k".to_owned(), Expect::NoKey); expectations],
            ..PublishRequest::default()
        }
    }

    fn settle(lease_id: u64, action: Action) -> SettleRequest {
        let item = SettleItem { lease_id, action: Some(action), ..SettleItem::default() };
        let (subscription, consumer) = ("s".to_owned(), "c".to_owned());
        SettleRequest { subscription, consumer, items: vec![item] }
    }

    #[test]
    fn operations_are_counted() {
        let most = TRANSACTION_OPERATIONS_MAX;
        assert!(check_count(&[part("a", most - 2, 1)], &[settle(1, Action::Ack(Ack {}))]).is_ok());
        assert!(check_count(&[part("a", most, 1)], &[]).is_err());
        assert!(check_count(&[], &[]).is_err());
    }

    #[test]
    fn what_is_named_twice_or_does_not_belong_is_refused() {
        let topic = |name: &str| Publish { topic: name.to_owned(), ..Publish::default() };
        assert!(check_topics(&[topic("a"), topic("b")]).is_ok());
        assert!(check_topics(&[topic("a"), topic("a")]).is_err());
        let ack = || Action::Ack(Ack {});
        assert!(checked(vec![settle(1, ack()), settle(2, ack())]).is_ok());
        assert!(checked(vec![settle(1, ack()), settle(1, ack())]).is_err());
        assert!(checked(vec![settle(1, Action::Extend(Extend { lease_ms: 5000 }))]).is_err());
    }
}
