//! Writers that never give up, and the check that what they were told is true.
//!
//! They speak the wire protocol by themselves, so that a fault of the client library cannot hide a
//! fault of the hub.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use message_hub::model::rejection::{Code, Reason};
use message_hub::proto::status::from_status;
use message_hub::proto::v1::events_client::EventsClient;
use message_hub::proto::v1::read_request::From;
use message_hub::proto::v1::{
    Event, EventBatch, Linearizable, ProducerRef, PublishCall, ReadOptions, ReadRequest, Start,
    read_options,
};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};

use super::{Cluster, Node};

/// What a writer was told: event id → offset.
pub(crate) type Acknowledged = BTreeMap<String, u64>;

/// Writers at work in the background.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: Vec<std::thread::JoinHandle<Acknowledged>>,
    /// Where the nodes write what they have to say.
    logs: Vec<PathBuf>,
}

impl Load {
    /// Starts this many writers, each with one call of `batch` events in flight.
    pub(crate) fn start(cluster: &Cluster, topic: &str, writers: usize, batch: usize) -> Self {
        let endpoints = cluster.all_endpoints();
        let logs = cluster.nodes.iter().map(Node::log_path).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let writers = (0..writers)
            .map(|writer| {
                let mut one = Writer {
                    name: format!("w{writer}-{}", uuid::Uuid::new_v4()),
                    topic: topic.to_owned(),
                    endpoints: endpoints.clone(),
                    at: writer % endpoints.len(),
                    channel: None,
                    batch,
                };
                let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
                std::thread::spawn(move || {
                    tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap()
                        .block_on(one.run(&stop, &acknowledged))
                })
            })
            .collect();
        Self { stop, acknowledged, writers, logs }
    }

    /// Events acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until this many more events are acknowledged.
    #[track_caller]
    pub(crate) fn await_progress(&self, events: u64, within: Duration) {
        let (goal, nodes) = (self.acknowledged() + events, self.logs.iter());
        if super::poll(within, || self.acknowledged() >= goal) {
            return;
        }
        let logs: Vec<String> = nodes
            .map(|path| std::fs::read_to_string(path).unwrap_or_default())
            .map(|log| super::tail(&log))
            .collect();
        panic!(
            "no progress within {within:?}: {} of {goal} events\n{}",
            self.acknowledged(),
            logs.join("----\n")
        );
    }

    /// Lets every writer finish the call that it is at, and gives what they were told.
    pub(crate) fn finish(self) -> Acknowledged {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Acknowledged::new();
        for writer in self.writers {
            all.extend(writer.join().unwrap());
        }
        all
    }
}

struct Writer {
    name: String,
    topic: String,
    endpoints: Vec<String>,
    at: usize,
    channel: Option<EventsClient<Channel>>,
    batch: usize,
}

impl Writer {
    async fn run(&mut self, stop: &AtomicBool, total: &AtomicU64) -> Acknowledged {
        let mut told = Acknowledged::new();
        for sequence in 1.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let first = self.publish(sequence).await;
            for n in 0..self.batch as u64 {
                told.insert(format!("{}/{sequence}/{n}", self.name), first + n);
            }
            total.fetch_add(self.batch as u64, Ordering::SeqCst);
        }
        told
    }

    /// Repeats one call, with the same sequence, until it is acknowledged.
    async fn publish(&mut self, sequence: u64) -> u64 {
        let events = (0..self.batch)
            .map(|n| {
                let event = Event {
                    id: format!("{}/{sequence}/{n}", self.name),
                    source: "/load".to_owned(),
                    r#type: "load.written".to_owned(),
                    data: vec![7; 64].into(),
                    ..Event::default()
                };
                event.encode_to_vec().into()
            })
            .collect();
        let call = PublishCall {
            call: sequence,
            topic: self.topic.clone(),
            producer: Some(ProducerRef {
                id: self.name.clone(),
                epoch: 1,
                sequence,
                acknowledged_below: sequence,
            }),
            expectations: Vec::new(),
            events,
        };
        loop {
            match self.attempt(call.clone()).await {
                Ok(first_offset) => return first_offset,
                Err(status) => self.after(&status).await,
            }
        }
    }

    async fn attempt(&mut self, call: PublishCall) -> Result<u64, tonic::Status> {
        if self.channel.is_none() {
            let endpoint = Endpoint::from_shared(format!("http://{}", self.endpoints[self.at]))
                .unwrap()
                .connect_timeout(Duration::from_millis(500))
                .timeout(Duration::from_secs(6));
            let channel =
                endpoint.connect().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
            self.channel = Some(EventsClient::new(channel));
        }
        let client = self.channel.as_mut().unwrap();
        Ok(client.publish(call).await?.into_inner().first_offset)
    }

    /// Goes to the leader when it is named, else to the next node. Only what cannot be a fault of
    /// the moment ends the test.
    async fn after(&mut self, status: &tonic::Status) {
        let rejection = from_status(status);
        let code = rejection.reason.code();
        assert!(
            matches!(
                code,
                Code::Unavailable
                    | Code::Unknown
                    | Code::DeadlineExceeded
                    | Code::ResourceExhausted
            ),
            "a valid call was refused: {rejection}"
        );
        self.channel = None;
        let hinted = rejection.fact("leader_endpoint").map(|leader| {
            // Nodes that joined meanwhile may lead, too.
            let known = self.endpoints.iter().position(|e| e == leader);
            known.unwrap_or_else(|| {
                self.endpoints.push(leader.to_owned());
                self.endpoints.len() - 1
            })
        });
        match hinted {
            Some(leader) if rejection.reason == Reason::NotLeader && leader != self.at => {
                self.at = leader
            }
            _ => {
                self.at = (self.at + 1) % self.endpoints.len();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Reads a topic from its start on one node, linearizably: (offset, event id).
pub(crate) fn read_all(endpoint: &str, topic: &str) -> Vec<(u64, String)> {
    let request = ReadRequest {
        topic: topic.to_owned(),
        from: Some(From::Start(Start {})),
        options: Some(ReadOptions {
            consistency: Some(read_options::Consistency::Linearizable(Linearizable {})),
        }),
        ..ReadRequest::default()
    };
    let endpoint = format!("http://{endpoint}");
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut client =
            EventsClient::connect(endpoint).await.unwrap().max_decoding_message_size(64 << 20);
        let mut answers = client.read(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(answer) = answers.message().await.unwrap() {
            for batch in answer.batches {
                let batch = EventBatch::decode(batch).unwrap();
                for (n, event) in (0..).zip(batch.events) {
                    events.push((batch.first_offset + n, Event::decode(event).unwrap().id));
                }
            }
        }
        events
    })
}

/// Every acknowledged event is at the offset that was told, once; offsets have no gaps; nothing
/// is there that was not acknowledged.
#[track_caller]
pub(crate) fn check(acknowledged: &Acknowledged, stored: &[(u64, String)]) {
    for (expected, (offset, _)) in (0..).zip(stored) {
        assert_eq!(*offset, expected, "a gap in the offsets");
    }
    for (id, offset) in acknowledged {
        let found = usize::try_from(*offset).ok().and_then(|o| stored.get(o));
        assert_eq!(found, Some(&(*offset, id.clone())), "acknowledged event lost or moved");
    }
    assert_eq!(stored.len(), acknowledged.len(), "events are stored that no call was told of");
}
