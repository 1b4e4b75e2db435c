//! The consume stream: credits and settlements in, deliveries and results out, one task for all.
//!
//! A delivery is leased when there is credit for it and room to send it. What a client has not
//! read is bounded by its credits, by the few messages that are queued here, and by the flow control
//! of its connection; while it does not read, nothing is read from it. Who does not read for long is
//! taken for gone: others need its place.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::consume_state::{Credits, Held, Named};
use super::convert::{invalid, outsider};
use super::delivery::{item, leased_events, results};
use crate::model::delivery::Settled;
use crate::model::limits::{
    CONSUME_ANSWERS_QUEUED, CONSUME_SETTLEMENTS_MAX, CONSUME_UNREAD_MS_MAX, PULL_WAIT_MS_MAX,
    SETTLE_ITEMS_MAX,
};
use crate::model::rejection::{Reason, Rejection};
use crate::node::Node;
use crate::node::lead::{Delivery, PullRequest};
use crate::node::propose::Ticket;
use crate::node::settle::settled;
use crate::proto::status::{to_call_error, to_status};
use crate::proto::v1::consume_request::Request;
use crate::proto::v1::consume_response::Response;
use crate::proto::v1::{
    ConsumeOpened, ConsumeRequest, ConsumeResponse, Deliveries, OpenConsume, SettleBatch,
    SettleBatchResult,
};
use crate::runtime::tasks;

/// How soon a paused subscription is looked at again.
const PAUSED_LOOK: Duration = Duration::from_millis(200);

/// How long a client may take to read why its stream ends.
const LAST_WORD_PATIENCE: Duration = Duration::from_secs(5);

/// How long a stream without a leader waits for the name of one.
const DEPOSED_PATIENCE: Duration = Duration::from_millis(500);

type Answers = mpsc::Sender<Result<ConsumeResponse, Status>>;
type Pulling = Pin<Box<dyn Future<Output = Result<Vec<Delivery>, Rejection>> + Send>>;

/// Serves one stream until its client ends it or is gone, or this node cannot serve it any more.
///
/// # Errors
/// `OVERLOADED` when too many are open.
pub(super) fn serve(
    node: Arc<Node>,
    service: String,
    requests: Streaming<ConsumeRequest>,
) -> Result<BoxStream<'static, Result<ConsumeResponse, Status>>, Rejection> {
    let permit = node.admit_consumer()?;
    let (answers, responses) = mpsc::channel(CONSUME_ANSWERS_QUEUED);
    tasks::spawn("consume-stream", async move {
        let served = run(node, service, requests, &answers).await;
        if let Err(End::Refused(rejection)) = served {
            // A client that is gone needs no reason.
            let last_word = answers.send(Err(to_status(&rejection)));
            drop(tokio::time::timeout(LAST_WORD_PATIENCE, last_word).await);
        }
        drop(permit);
    });
    Ok(ReceiverStream::new(responses).boxed())
}

/// Why a stream ends before its client ends it.
enum End {
    /// The client is gone, or reads nothing: its leases run out.
    Gone,
    Refused(Rejection),
}

impl From<Rejection> for End {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection)
    }
}

struct Stream<'a> {
    node: Arc<Node>,
    /// The service that the client declares.
    service: String,
    open: OpenConsume,
    credits: Credits,
    held: Held,
    answers: &'a Answers,
}

/// A batch of settlements whose outcome has come.
struct Done {
    batch: u64,
    named: Vec<Named>,
    result: Result<Vec<Settled>, Rejection>,
}

async fn run(
    node: Arc<Node>,
    service: String,
    mut requests: Streaming<ConsumeRequest>,
    answers: &Answers,
) -> Result<(), End> {
    let open = match next(&mut requests).await? {
        Some(Request::Open(open)) => open,
        Some(_) => return Err(invalid("the stream is not open; send open first").into()),
        None => return Ok(()),
    };
    outsider(&open.consumer)?;
    let term = node.begin_consume(&open.subscription, &open.consumer, open.lease_ms).await?;
    let (credits, held) = (Credits::default(), Held::default());
    let mut stream = Stream { node: Arc::clone(&node), service, open, credits, held, answers };
    stream.send(Response::Opened(ConsumeOpened { term: term.get() })).await?;
    let mut settling = FuturesUnordered::new();
    let mut pulling: Option<Pulling> = None;
    let deposed = node.deposed();
    tokio::pin!(deposed);
    loop {
        if pulling.is_none() {
            pulling = stream.pull();
        }
        let pulled = async {
            match &mut pulling {
                Some(pulling) => pulling.await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            rejection = &mut deposed => return Err(rejection.into()),
            () = answers.closed() => return Err(End::Gone),
            Some(done) = settling.next(), if !settling.is_empty() => stream.settled(done).await?,
            request = next(&mut requests), if settling.len() < CONSUME_SETTLEMENTS_MAX => {
                match request? {
                    Some(Request::Credit(credit)) => stream.credits.grant(credit)?,
                    Some(Request::Settle(batch)) => settling.push(stream.settle(batch).await),
                    Some(Request::Open(_)) => {
                        return Err(invalid("the stream is open already; open another one").into());
                    }
                    None => break,
                }
            }
            pulled = pulled => {
                pulling = None;
                match pulled {
                    Ok(deliveries) => stream.deliver(deliveries).await?,
                    Err(rejection) if rejection.reason == Reason::SubscriptionPaused => {
                        pulling = Some(Box::pin(async {
                            tokio::time::sleep(PAUSED_LOOK).await;
                            Ok(Vec::new())
                        }));
                    }
                    // Settling what it has makes room.
                    Err(rejection) if rejection.reason == Reason::QuotaExceeded => {}
                    Err(rejection) if rejection.reason == Reason::NoLeader => {
                        return Err(with_name(rejection, deposed).await.into());
                    }
                    Err(rejection) => return Err(rejection.into()),
                }
            }
        }
    }
    // What it would get now is released.
    drop(pulling);
    while let Some(done) = settling.next().await {
        stream.settled(done).await?;
    }
    stream.release().await;
    Ok(())
}

/// Why the stream ends: with the new leader's name, where that is known soon. This node may lead by
/// now, and not be deposed for a long time: nothing may depend on that.
async fn with_name(rejection: Rejection, deposed: impl Future<Output = Rejection>) -> Rejection {
    tokio::time::timeout(DEPOSED_PATIENCE, deposed).await.unwrap_or(rejection)
}

/// The next request; `None`: the client has ended its side.
async fn next(requests: &mut Streaming<ConsumeRequest>) -> Result<Option<Request>, End> {
    match requests.message().await {
        Ok(Some(ConsumeRequest { request: Some(request) })) => Ok(Some(request)),
        Ok(Some(ConsumeRequest { request: None })) => {
            Err(invalid("a request says nothing; send open, credit or settle").into())
        }
        Ok(None) => Ok(None),
        Err(_) => Err(End::Gone),
    }
}

/// Queues a response; where there is no room, for as long as the client has patience and this node leads.
async fn hand_over(
    answers: &Answers,
    response: ConsumeResponse,
    patience: Duration,
    deposed: impl Future<Output = Rejection>,
) -> Result<(), End> {
    match answers.try_send(Ok(response)) {
        Ok(()) => Ok(()),
        Err(TrySendError::Closed(_)) => Err(End::Gone),
        Err(TrySendError::Full(response)) => tokio::select! {
            sent = tokio::time::timeout(patience, answers.send(response)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) | Err(_) => Err(End::Gone),
            },
            rejection = deposed => Err(rejection.into()),
        },
    }
}

impl Stream<'_> {
    async fn send(&self, response: Response) -> Result<(), End> {
        let response = ConsumeResponse { response: Some(response) };
        let patience = Duration::from_millis(CONSUME_UNREAD_MS_MAX);
        let sent = hand_over(self.answers, response, patience, self.node.deposed()).await;
        if let Err(End::Gone) = &sent {
            let OpenConsume { subscription, consumer, .. } = &self.open;
            tracing::debug!(subscription, consumer, "a consumer is gone, or does not read");
        }
        sent
    }

    /// Asks for as much as there is credit for.
    fn pull(&self) -> Option<Pulling> {
        let (max_events, max_bytes) = self.credits.open()?;
        let request = PullRequest {
            subscription: self.open.subscription.clone(),
            consumer: self.open.consumer.clone(),
            service: self.service.clone(),
            max_events,
            max_bytes,
            lease_ms: self.open.lease_ms,
            wait: Duration::from_millis(PULL_WAIT_MS_MAX),
        };
        let node = Arc::clone(&self.node);
        Some(Box::pin(async move { node.pull(request).await }))
    }

    async fn deliver(&mut self, deliveries: Vec<Delivery>) -> Result<(), End> {
        if deliveries.is_empty() {
            return Ok(());
        }
        let now = self.node.now();
        for delivery in &deliveries {
            self.credits.spend(delivery.events(), delivery.bytes());
            self.held.add(delivery, now);
        }
        let leased = deliveries.into_iter().map(|d| leased_events(d, now)).collect();
        self.send(Response::Deliveries(Deliveries { leased })).await
    }

    /// Begins to settle a batch.
    async fn settle(&self, batch: SettleBatch) -> impl Future<Output = Done> + use<> {
        let SettleBatch { batch, items } = batch;
        let named = items.iter().map(Named::of).collect();
        let items = items.into_iter().map(item).collect();
        let OpenConsume { subscription, consumer, .. } = self.open.clone();
        let begun = self.node.begin_settle(subscription, consumer, items).await;
        async move {
            let result = match begun.map(Ticket::outcome) {
                Ok(outcome) => settled(outcome.await),
                Err(rejection) => Err(rejection),
            };
            Done { batch, named, result }
        }
    }

    async fn settled(&mut self, done: Done) -> Result<(), End> {
        let Done { batch, named, result } = done;
        let response = match result {
            Ok(settled) => {
                self.held.note(&named, &settled);
                let results = results(settled, self.node.now());
                SettleBatchResult { batch, results, error: None }
            }
            Err(rejection) => {
                let error = Some(to_call_error(&rejection));
                SettleBatchResult { batch, results: Vec::new(), error }
            }
        };
        self.send(Response::Settled(response)).await
    }

    /// Releases what was not settled. When it fails, leases run out.
    async fn release(self) {
        let OpenConsume { subscription, consumer, .. } = self.open;
        for items in self.held.into_items().chunks(SETTLE_ITEMS_MAX) {
            let settled =
                self.node.settle(subscription.clone(), consumer.clone(), items.to_vec()).await;
            if let Err(rejection) = settled {
                tracing::debug!(%rejection, subscription, consumer, "leases are not released");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_read_is_waited_for_but_not_for_ever() {
        let never = || Box::pin(pending::<Rejection>());
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(20));
        let (answers, mut responses) = mpsc::channel(1);
        let response = ConsumeResponse::default;
        assert!(hand_over(&answers, response(), short, never()).await.is_ok());
        // Nobody reads.
        let ended = hand_over(&answers, response(), short, never()).await;
        assert!(matches!(ended, Err(End::Gone)));
        // Nor does anybody when somebody else leads.
        let deposed = async { Rejection::new(Reason::NotLeader, "ask node 2") };
        let ended = hand_over(&answers, response(), long, deposed).await;
        assert!(matches!(ended, Err(End::Refused(why)) if why.reason == Reason::NotLeader));
        // Somebody reads in the end.
        let (sent, read) =
            tokio::join!(hand_over(&answers, response(), long, never()), responses.recv());
        assert!(sent.is_ok() && read.is_some());
        drop(responses);
        assert!(matches!(hand_over(&answers, response(), long, never()).await, Err(End::Gone)));
    }

    #[tokio::test]
    async fn a_stream_without_a_leader_ends_although_nobody_is_deposed() {
        let no_leader = || Rejection::new(Reason::NoLeader, "no leader is known");
        let ended = with_name(no_leader(), pending()).await;
        assert_eq!(ended.reason, Reason::NoLeader);
        let named = async { Rejection::new(Reason::NotLeader, "ask node 2") };
        assert_eq!(with_name(no_leader(), named).await.reason, Reason::NotLeader);
    }
}
