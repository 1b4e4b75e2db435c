//! `mhub tx pipe`: consume, transform, and append the result, exactly once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;

use super::events::decode;
use super::output::{Lines, Output, complain};
use super::{Done, Failure, shell, stop};
use crate::client::{Client, recorded_events};
use crate::model::limits::{CALL_BYTES_MAX, NACK_DETAIL_BYTES_MAX};
use crate::model::rejection::{Exit, Reason, Rejection};
use crate::proto::status::from_call_error;
use crate::proto::v1::settlement::Action;
use crate::proto::v1::{
    Ack, Event, EventBatch, LeasedEvents, Nack, OffsetRange, PullRequest, RecordedEvent, Reject,
    Release, SettleRequest, Settlement, TransactRequest, TransactResponse, TransactionPart,
};

/// How long a pull waits for events, where nobody says when to end.
const LOOK: Duration = Duration::from_secs(5);
/// Why an event failed whose command did.
const FAILED: &str = "COMMAND_FAILED";

/// What is said of events that somebody else gets, or will.
const LEASE_ENDED: &str = "the lease ended before the work did, the events come again";
/// What is said of an event whose result is refused, and which is no dead letter.
const AGAIN: &str = "comes again, it was refused";

/// Arguments of `mhub tx pipe`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct PipeArgs {
    /// The subscription that events come from.
    subscription: String,
    /// The topic that results go to.
    #[arg(long, value_name = "TOPIC")]
    into: String,
    /// A command of the shell that gets each payload, and tells the new one; nothing: no event. An
    /// event fails when it does. Default: payloads stay as they are.
    #[arg(long, value_name = "COMMAND")]
    run: Option<String>,
    /// The type of results; default: that of the event.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// End after this many events; 0: never.
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// End when nothing came for this many seconds, at most 60.
    #[arg(long, value_name = "SECS")]
    wait: Option<f64>,
    /// Events of a transaction, at most; all of their commands have to be done within the lease.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=500))]
    batch: u32,
    /// Who takes them; default: a name of its own.
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
}

const HANDED_ON: &[(&str, usize)] =
    &[("topic", 16), ("offset", 8), ("into", 16), ("into_offset", 11), ("data", 0)];

/// Hands events on until the limit is reached or nothing comes any more.
pub(super) async fn run(client: &Client, output: Output, args: PipeArgs) -> Done {
    let wait = match args.wait {
        None => LOOK,
        Some(secs) => Duration::try_from_secs_f64(secs)
            .map_err(|_| Failure::usage(format!("--wait {secs} is no number of seconds")))?,
    };
    let consumer =
        args.consumer.clone().unwrap_or_else(|| format!("pipe-{}", uuid::Uuid::new_v4()));
    let pipe = Pipe { client, consumer, args: &args, held: Mutex::default() };
    let mut lines = Lines::new(output, HANDED_ON);
    let piped = tokio::select! {
        piped = pipe.run(wait, &mut lines) => piped,
        stopped = stop::asked() => stopped.map_err(Failure::from),
    };
    pipe.release().await;
    piped?;
    lines.end()?;
    Ok(Exit::Ok)
}

struct Pipe<'a> {
    client: &'a Client,
    consumer: String,
    args: &'a PipeArgs,
    /// Leases that were pulled, and whose events are not handed on yet.
    held: Mutex<Vec<LeasedEvents>>,
}

/// The event that was consumed, and the one that is appended, if any.
type Pair = (RecordedEvent, Option<Event>);

/// Events of a lease with what became of each.
#[derive(Default)]
struct Made {
    done: Vec<Pair>,
    failed: Vec<RecordedEvent>,
}

impl Pipe<'_> {
    async fn run(&self, wait: Duration, lines: &mut Lines) -> Result<(), Failure> {
        let mut left = if self.args.limit == 0 { u64::MAX } else { self.args.limit };
        while left > 0 {
            let pull = PullRequest {
                subscription: self.args.subscription.clone(),
                consumer: self.consumer.clone(),
                max_events: u32::try_from(left).unwrap_or(u32::MAX).min(self.args.batch),
                wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                ..PullRequest::default()
            };
            let pulled = match self.client.pull(pull).await {
                Ok(pulled) => pulled,
                // What was leased comes again once the lease is over.
                Err(unknown) if unknown.reason == Reason::OutcomeUnknown => continue,
                Err(refused) => return Err(refused.into()),
            };
            if pulled.leased.is_empty() && self.args.wait.is_some() {
                return Ok(());
            }
            self.hold(&pulled.leased);
            for (at, lease) in pulled.leased.iter().enumerate() {
                let made = self.make(lease).await?;
                left = left.saturating_sub(self.hand_on(lease, made, lines).await?);
                self.hold(&pulled.leased[at + 1..]);
            }
        }
        Ok(())
    }

    /// Keeps in mind what is to be given back if the work ends here.
    fn hold(&self, leased: &[LeasedEvents]) {
        let token = |lease: &LeasedEvents| LeasedEvents { batches: Vec::new(), ..lease.clone() };
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = leased.iter().map(token).collect();
    }

    /// Gives back what was pulled and not handed on, so that it comes again at once, and no attempt counts.
    async fn release(&self) {
        let held = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        if held.is_empty() {
            return;
        }
        let item = |lease: &LeasedEvents| Settlement {
            lease_id: lease.lease_id,
            term: lease.term,
            topic_id: lease.topic_id,
            ranges: Vec::new(),
            action: Some(Action::Release(Release {})),
        };
        let request = SettleRequest {
            subscription: self.args.subscription.clone(),
            consumer: self.consumer.clone(),
            items: held.iter().map(item).collect(),
        };
        // Where that fails the leases run out.
        if let Err(refused) = self.client.settle(request).await {
            complain(&format!("what was taken comes again when its lease ends: {refused}"));
        }
    }

    /// What is made of the events of a lease.
    async fn make(&self, lease: &LeasedEvents) -> Result<Made, Failure> {
        let mut made = Made::default();
        for batch in &lease.batches {
            let batch = EventBatch::decode(batch.clone()).map_err(anyhow::Error::from)?;
            for recorded in recorded_events(&batch) {
                let event = decode(&recorded.event)?;
                let made_of_it = match &self.args.run {
                    Some(command) => shell::transform(command, &event.data).await?,
                    None => Some(event.data.clone()),
                };
                match made_of_it {
                    Some(data) => {
                        let new = (!data.is_empty()).then(|| {
                            let place = (lease.topic_id, recorded.offset);
                            self.result(&recorded.topic, place, event, data)
                        });
                        made.done.push((recorded, new));
                    }
                    None => made.failed.push(recorded),
                }
            }
        }
        Ok(made)
    }

    /// The event that is appended: the same story goes on, with the consumed one as the cause. Its id
    /// is that of the consumed one's place: ids of events repeat from source to source.
    fn result(
        &self,
        topic: &str,
        (topic_id, offset): (u64, u64),
        event: Event,
        data: Bytes,
    ) -> Event {
        Event {
            id: format!("{topic}/{topic_id}/{offset}"),
            source: format!("/mhub/pipe/{}", self.args.subscription),
            r#type: self.args.kind.clone().unwrap_or(event.r#type),
            causation_id: event.id.clone(),
            data,
            deadline: None,
            deliver_at: None,
            dataschema: String::new(),
            schema_verdict: None,
            ..event
        }
    }

    /// Appends and acknowledges in one transaction; what failed comes again as the subscription says.
    ///
    /// A transaction that is refused for one of its events is made of fewer, down to the event itself. How many events
    /// do not come again by what was told of them.
    async fn hand_on(
        &self,
        lease: &LeasedEvents,
        made: Made,
        lines: &mut Lines,
    ) -> Result<u64, Failure> {
        let mut ended = made.done.len() as u64;
        // The first is the last here, so that results keep the order of what they come from.
        let mut waiting = vec![&made.done[..]];
        while let Some(pairs) = waiting.pop() {
            if pairs.is_empty() {
                continue;
            }
            match self.commit(lease, pairs).await {
                Ok(appended) => {
                    let first = appended.parts.first().map_or(0, |part| part.first_offset);
                    self.print(pairs, first, lines)?;
                }
                Err(refused) if is_lost(&refused) => {
                    // Of an unknown outcome they may be done.
                    if refused.reason != Reason::OutcomeUnknown {
                        ended -= pairs.len() as u64;
                    }
                    complain(&format!("{LEASE_ENDED}: {refused}"));
                }
                Err(refused) if is_of_an_event(&refused) => match pairs {
                    [(input, _)] => ended -= self.give_up(lease, input, &refused).await?,
                    _ => waiting.extend(split(pairs, &refused).into_iter().rev()),
                },
                Err(refused) => return Err(refused.into()),
            }
        }
        if !made.failed.is_empty() {
            let nack = Nack { reason: FAILED.to_owned(), ..Nack::default() };
            self.tell(self.settle(lease, made.failed.iter(), Action::Nack(nack))).await?;
        }
        Ok(ended)
    }

    async fn commit(
        &self,
        lease: &LeasedEvents,
        pairs: &[Pair],
    ) -> Result<TransactResponse, Rejection> {
        let events: Vec<Bytes> =
            pairs.iter().filter_map(|(_, new)| new.as_ref()).map(encoded).collect();
        // The hub does not read what is far too large: it would not say why.
        let bytes: usize = events.iter().map(Bytes::len).sum();
        if bytes > CALL_BYTES_MAX {
            let text = format!("results have {bytes} bytes, {CALL_BYTES_MAX} is the most");
            return Err(Rejection::new(Reason::CallTooLarge, text));
        }
        let acked = pairs.iter().map(|(recorded, _)| recorded);
        let settles = vec![self.settle(lease, acked, Action::Ack(Ack {}))];
        let part = TransactionPart { topic: self.args.into.clone(), events, ..Default::default() };
        let parts = if part.events.is_empty() { Vec::new() } else { vec![part] };
        let request = TransactRequest { parts, settles, ..TransactRequest::default() };
        self.client.transact(request).await
    }

    /// An event whose result was refused by itself: nothing was appended or acknowledged of it. How many come again.
    async fn give_up(
        &self,
        lease: &LeasedEvents,
        input: &RecordedEvent,
        refused: &Rejection,
    ) -> Result<u64, Failure> {
        let (action, what) = last_word(refused);
        let ends = matches!(action, Action::Reject(_));
        let noted = self.tell(self.settle(lease, [input].into_iter(), action)).await?;
        let what = if noted { what } else { AGAIN };
        let RecordedEvent { topic, offset, .. } = input;
        complain(&format!("event {offset} of topic {topic} {what}: {refused}"));
        Ok(u64::from(!(ends && noted)))
    }

    /// Settles what is not acknowledged; whether the hub took note of it, as far as is known. Events come again if
    /// that is lost, at the latest once the lease is over.
    async fn tell(&self, settles: SettleRequest) -> Result<bool, Failure> {
        let settled = match self.client.settle(settles).await {
            Ok(settled) => settled,
            Err(lost) if is_lost(&lost) => {
                complain(&format!("it is not known whether failures were noted: {lost}"));
                return Ok(lost.reason == Reason::OutcomeUnknown);
            }
            Err(refused) => return Err(refused.into()),
        };
        let Some(refused) = settled.results.into_iter().find_map(|result| result.refused) else {
            return Ok(true);
        };
        let refused = from_call_error(refused);
        complain(&format!("{LEASE_ENDED}: {refused}"));
        Ok(false)
    }

    fn settle<'e>(
        &self,
        lease: &LeasedEvents,
        events: impl Iterator<Item = &'e RecordedEvent>,
        action: Action,
    ) -> SettleRequest {
        let ranges = events.map(|event| OffsetRange { first: event.offset, count: 1 }).collect();
        let item = Settlement {
            lease_id: lease.lease_id,
            term: lease.term,
            topic_id: lease.topic_id,
            ranges,
            action: Some(action),
        };
        SettleRequest {
            subscription: self.args.subscription.clone(),
            consumer: self.consumer.clone(),
            items: vec![item],
        }
    }

    fn print(&self, done: &[Pair], first: u64, lines: &mut Lines) -> Result<(), Failure> {
        let mut at = first;
        for (recorded, new) in done {
            let (mut into, mut data) = (String::new(), String::new());
            if let Some(new) = new {
                into = at.to_string();
                data = String::from_utf8_lossy(&new.data).trim_end().to_owned();
                at += 1;
            }
            lines.print(&json!({
                "topic": recorded.topic,
                "offset": recorded.offset.to_string(),
                "into": self.args.into,
                "into_offset": into,
                "data": data,
            }))?;
        }
        lines.flush()
    }
}

fn encoded(event: &Event) -> Bytes {
    event.encode_to_vec().into()
}

/// Whether somebody else has the events by now, or will.
fn is_lost(refused: &Rejection) -> bool {
    matches!(refused.reason, Reason::LeaseExpired | Reason::LeaseUnknown | Reason::OutcomeUnknown)
}

/// Whether a refusal is about one of the events, or about how many they are.
fn is_of_an_event(refused: &Rejection) -> bool {
    let by_size = matches!(refused.reason, Reason::CallTooLarge | Reason::EventTooLarge);
    by_size || refused.fact("event_index").is_some()
}

/// Two or more, in order: what is before the result that was refused, that one, and what is behind it; or halves,
/// where the refusal does not tell which it is. Some may be empty, none is all of them.
fn split<'p>(pairs: &'p [Pair], refused: &Rejection) -> Vec<&'p [Pair]> {
    let index = refused.fact("event_index").and_then(|index| index.parse::<usize>().ok());
    let results = pairs.iter().enumerate().filter(|(_, (_, new))| new.is_some());
    let at = index.and_then(|index| results.map(|(at, _)| at).nth(index));
    let Some(at) = at else {
        let (some, others) = pairs.split_at(pairs.len() / 2);
        return vec![some, others];
    };
    let (before, rest) = pairs.split_at(at);
    let (it, behind) = rest.split_at(1);
    vec![before, it, behind]
}

/// What is said of an event whose result is refused. That lies with the event where it will never be anything else;
/// a schema that is missing may come.
fn last_word(refused: &Rejection) -> (Action, &'static str) {
    let reason = refused.reason.as_str().to_owned();
    let mut detail = refused.message.clone();
    detail.truncate(detail.floor_char_boundary(NACK_DETAIL_BYTES_MAX));
    match refused.reason {
        Reason::CallTooLarge
        | Reason::DeadlinePast
        | Reason::EventInvalid
        | Reason::EventTooLarge
        | Reason::SchemaViolated => {
            (Action::Reject(Reject { reason, detail }), "is a dead letter now")
        }
        _ => (Action::Nack(Nack { reason, detail, ..Nack::default() }), AGAIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs by offset; whether each has a result.
    fn pairs(results: &[bool]) -> Vec<Pair> {
        let pair = |(offset, result): (usize, &bool)| {
            let recorded = RecordedEvent { offset: offset as u64, ..RecordedEvent::default() };
            (recorded, result.then(Event::default))
        };
        results.iter().enumerate().map(pair).collect()
    }

    fn offsets(pairs: &[Pair], refused: &Rejection) -> Vec<Vec<u64>> {
        let of = |pairs: &[Pair]| pairs.iter().map(|(recorded, _)| recorded.offset).collect();
        split(pairs, refused).into_iter().map(of).collect()
    }

    #[test]
    fn a_refused_transaction_is_split_at_the_event_or_in_halves() {
        let at = |index| Rejection::new(Reason::SchemaViolated, "").with("event_index", index);
        let some = pairs(&[true, false, true, true]);
        assert_eq!(offsets(&some, &at(0)), [vec![], vec![0], vec![1, 2, 3]]);
        assert_eq!(offsets(&some, &at(1)), [vec![0, 1], vec![2], vec![3]]);
        assert_eq!(offsets(&some, &at(2)), [vec![0, 1, 2], vec![3], vec![]]);
        let large = Rejection::new(Reason::CallTooLarge, "");
        for halved in [&large, &at(3)] {
            assert_eq!(offsets(&some, halved), [[0, 1], [2, 3]]);
            assert_eq!(offsets(&some[..3], halved), [vec![0], vec![1, 2]]);
        }
        assert!(is_of_an_event(&large) && is_of_an_event(&at(0)));
        assert!(!is_of_an_event(&Rejection::new(Reason::TopicNotFound, "")));
    }

    #[test]
    fn what_lies_with_the_event_is_a_dead_letter_and_the_rest_comes_again() {
        let long = "ä".repeat(NACK_DETAIL_BYTES_MAX);
        let Action::Reject(reject) = last_word(&Rejection::new(Reason::EventInvalid, long)).0
        else {
            panic!("it is rejected")
        };
        assert_eq!((reject.reason.as_str(), reject.detail.len()), ("EVENT_INVALID", 4096));
        let missing = Rejection::new(Reason::SchemaNotFound, "no schema");
        let Action::Nack(nack) = last_word(&missing).0 else { panic!("it may come") };
        assert_eq!((nack.reason.as_str(), nack.detail.as_str()), ("SCHEMA_NOT_FOUND", "no schema"));
    }
}
