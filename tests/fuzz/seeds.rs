//! Writes the corpus that fuzzing starts from: `cargo run --bin seeds -- corpus`. The files are
//! committed; this is how they came to be, and how they are made anew when messages change.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use message_hub::machine::record::{self, Kind as Record};
use message_hub::model::command::delivery::{Ack, Action, Nack, Reject, Release, SettleItem};
use message_hub::model::command::subscription::{At, Place};
use message_hub::model::command::{
    CreateSubscription, CreateTopic, DeleteTopic, Housekeep, Kind, Lease, NewLeader, Producer,
    Publish, PurgeDead, Redrive, SeekSubscription, Settle, Tick, UpdateTopic,
};
use message_hub::model::delivery::Pick;
use message_hub::model::event_run;
use message_hub::model::filter::{Comparison, Filter, Filters, Test};
use message_hub::model::ranges::{OffsetRange, Ranges};
use message_hub::model::subscription::SubscriptionConfig;
use message_hub::model::topic::{TopicConfig, TopicPatch};
use message_hub::proto::{peer, v1};
use message_hub_fuzz::{entry, joined};
use prost::Message as _;

const START_MS: u64 = 1_750_000_000_000;

fn main() {
    let root = std::env::args().nth(1).expect("name the folder of the corpus");
    for (target, seeds) in [
        ("entry", entries()),
        ("peer", peers()),
        ("snapshot", snapshots()),
        ("request", requests()),
        ("filter", filters()),
        ("config", configs()),
    ] {
        let folder = Path::new(&root).join(target);
        fs::create_dir_all(&folder).expect("make the folder");
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("seed-{number:02}")), seed).expect("write a seed");
        }
    }
}

fn event(number: u32, key: &str) -> v1::Event {
    v1::Event {
        id: format!("e{number}"),
        source: "/s".to_owned(),
        r#type: "order.placed".to_owned(),
        key: key.to_owned(),
        data: Bytes::from_static(b"{}"),
        ..v1::Event::default()
    }
}

/// An event off the defaults in everything that delivery looks at.
fn special(number: u32) -> v1::Event {
    let at = |ms: u64| prost_types_timestamp(START_MS + ms);
    v1::Event {
        priority: Some(7),
        deadline: Some(at(60_000)),
        deliver_at: Some(at(5_000)),
        fairness_key: "f".to_owned(),
        headers: [("region".to_owned(), "eu".to_owned())].into(),
        ..event(number, "k1")
    }
}

fn prost_types_timestamp(ms: u64) -> prost_types::Timestamp {
    let nanos = i32::try_from(ms % 1000).expect("below a thousand") * 1_000_000;
    prost_types::Timestamp { seconds: (ms / 1000).cast_signed(), nanos }
}

fn publish(events: &[v1::Event], producer: Option<Producer>) -> Kind {
    let encoded: Vec<Bytes> = events.iter().map(|e| e.encode_to_vec().into()).collect();
    Kind::Publish(Publish {
        topic: "orders.created".to_owned(),
        producer,
        count: u32::try_from(events.len()).expect("few events"),
        keyed: events.iter().any(|e| !e.key.is_empty()),
        largest_event_bytes: encoded.iter().map(|e| e.len() as u64).max().unwrap_or(0),
        events: event_run::encode(&encoded),
        special: events.iter().any(|e| e.priority.is_some()),
        ..Publish::default()
    })
}

fn topic() -> Kind {
    let config = TopicConfig { index_ids: true, ..TopicConfig::defaults() };
    Kind::CreateTopic(CreateTopic {
        name: "orders.created".to_owned(),
        config,
        request_id: "r1".to_owned(),
    })
}

fn subscription() -> Kind {
    let mut config = SubscriptionConfig::defaults("orders.>");
    config.lease_ms = 1000;
    config.retry.max_attempts = 2;
    Kind::CreateSubscription(CreateSubscription {
        name: "billing".to_owned(),
        config,
        start: At::Start(true).into(),
        request_id: String::new(),
    })
}

/// The hub's own topics come first: the first topic of a user has this number in these seeds.
const TOPIC_ID: u64 = 1;

fn lease(ranges: Vec<OffsetRange>) -> Kind {
    Kind::Lease(Lease {
        subscription: "billing".to_owned(),
        revision: 1,
        term: 1,
        consumer: "c".to_owned(),
        lease_ms: 1000,
        picks: vec![Pick {
            topic: "orders.created".to_owned(),
            topic_id: TOPIC_ID,
            ranges: Ranges::from_unsorted(&ranges),
            seen: None,
        }],
        skips: Vec::new(),
        in_flight_max_consumer: 0,
        service: String::new(),
    })
}

fn settle(lease_id: u64, ranges: Vec<OffsetRange>, action: Action) -> Kind {
    let item = SettleItem { lease_id, term: 1, topic_id: TOPIC_ID, ranges, action: Some(action) };
    Kind::Settle(Settle {
        subscription: "billing".to_owned(),
        consumer: "c".to_owned(),
        items: vec![item],
    })
}

fn entries() -> Vec<Vec<u8>> {
    let script = |kinds: Vec<Kind>| {
        let entries: Vec<_> =
            (0..).zip(kinds).map(|(n, kind)| entry(START_MS + n * 700, kind)).collect();
        joined(&entries)
    };
    let nack = Nack { reason: "BUSY".to_owned(), ..Nack::default() };
    let reject = Reject { reason: "BROKEN".to_owned(), ..Reject::default() };
    let all = |n| vec![OffsetRange { first: 0, count: n }];
    let producer = Producer { id: "p".to_owned(), epoch: 1, sequence: 1, acknowledged_below: 1 };
    let three = [event(1, "k1"), event(2, ""), event(3, "k2")];
    let leased = || vec![topic(), subscription(), publish(&three, None), lease(all(3))];
    let more = |rest: Vec<Kind>| script(leased().into_iter().chain(rest).collect());
    let record = {
        let message = peer::Entry {
            log_id: Some(peer::LogId { term: 1, node_id: 1, index: 3 }),
            payload: Some(peer::entry::Payload::Command(entry(START_MS, topic()).into())),
        };
        record::encode_message(Record::LogEntry, &message).to_vec()
    };
    let membership = record::encode_message(Record::Membership, &stored_membership()).to_vec();
    vec![
        script(vec![
            topic(),
            publish(&three, Some(producer.clone())),
            publish(&three, Some(producer)),
        ]),
        more(vec![settle(1, all(3), Action::Ack(Ack {}))]),
        more(vec![
            settle(1, all(2), Action::Nack(nack)),
            Kind::Tick(Tick {}),
            lease(all(2)),
            Kind::Tick(Tick {}),
        ]),
        more(vec![
            settle(1, all(2), Action::Reject(reject)),
            Kind::Redrive(Redrive {
                subscription: "billing".to_owned(),
                numbers: vec![1],
                after: 0,
                limit: 0,
            }),
            Kind::PurgeDead(PurgeDead {
                subscription: "billing".to_owned(),
                numbers: vec![2],
                up_to: 0,
            }),
        ]),
        more(vec![
            settle(1, all(1), Action::Release(Release {})),
            Kind::NewLeader(NewLeader { term: 2, grace_ms: 2000 }),
        ]),
        more(vec![Kind::SeekSubscription(SeekSubscription {
            name: "billing".to_owned(),
            to: Place { at: Some(At::Start(true)) },
            request_id: String::new(),
        })]),
        script(vec![
            topic(),
            subscription(),
            publish(&[special(1), special(2)], None),
            Kind::Tick(Tick {}),
            lease(all(2)),
        ]),
        script(vec![
            topic(),
            publish(&three, None),
            Kind::UpdateTopic(UpdateTopic {
                name: "orders.created".to_owned(),
                patch: TopicPatch { dedup_window_ms: Some(10), ..TopicPatch::default() },
                if_revision: 1,
                request_id: String::new(),
            }),
            Kind::Housekeep(Housekeep {}),
            Kind::DeleteTopic(DeleteTopic {
                name: "orders.created".to_owned(),
                request_id: String::new(),
            }),
        ]),
        record,
        membership,
    ]
}

fn log_id(index: u64) -> Option<peer::LogId> {
    Some(peer::LogId { term: 2, node_id: 1, index })
}

fn stored_membership() -> peer::StoredMembership {
    let node = |node_id| peer::Node {
        node_id,
        peer_address: format!("10.0.0.{node_id}:7401"),
        client_address: format!("10.0.0.{node_id}:7400"),
    };
    let membership = peer::Membership {
        configs: vec![peer::Config { voters: vec![1, 2] }, peer::Config { voters: vec![1, 2, 3] }],
        nodes: vec![node(1), node(2), node(3)],
    };
    peer::StoredMembership { log_id: log_id(4), membership: Some(membership) }
}

fn manifest(files: Vec<peer::SnapshotFile>) -> peer::SnapshotManifest {
    peer::SnapshotManifest { last_log_id: log_id(9), membership: Some(stored_membership()), files }
}

fn file(name: &str, content: &[u8]) -> peer::SnapshotFile {
    peer::SnapshotFile {
        name: name.to_owned(),
        size: content.len() as u64,
        crc32c: crc32c::crc32c(content),
    }
}

fn chunk(file: u32, offset: u64, content: &'static [u8]) -> Vec<u8> {
    let crc32c = crc32c::crc32c(content);
    peer::SnapshotData { file, offset, data: Bytes::from_static(content), crc32c }.encode_to_vec()
}

fn snapshots() -> Vec<Vec<u8>> {
    let files = vec![
        file("000012.sst", b"onetwo"),
        file("CURRENT", b""),
        file("MANIFEST-000004", b"three"),
    ];
    let mut wrong = manifest(vec![file("CURRENT", b"")]);
    wrong.files[0].crc32c = 1;
    let wrong = wrong.encode_to_vec();
    let manifest = manifest(files).encode_to_vec();
    let (one, two) = (chunk(0, 0, b"one"), chunk(0, 3, b"two"));
    vec![
        joined(&[manifest.clone(), one.clone(), two.clone(), chunk(2, 0, b"three")]),
        joined(&[manifest.clone(), one.clone(), two]),
        joined(&[manifest, one, chunk(0, 3, b"twx")]),
        joined(&[wrong]),
    ]
}

fn peers() -> Vec<Vec<u8>> {
    let envelope =
        Some(peer::Envelope { cluster_id: "c".to_owned(), shard_id: 0, from_node: 1, to_node: 2 });
    let vote = Some(peer::Vote { term: 2, node_id: 1, committed: true });
    let payloads = [
        peer::entry::Payload::Blank(true),
        peer::entry::Payload::Command(entry(START_MS, topic()).into()),
        peer::entry::Payload::Membership(stored_membership().membership.expect("it is there")),
    ];
    let entries = (4..).zip(payloads);
    let append = peer::AppendRequest {
        envelope: envelope.clone(),
        vote,
        prev: log_id(3),
        committed: log_id(3),
        entries: entries
            .map(|(index, payload)| peer::Entry { log_id: log_id(index), payload: Some(payload) })
            .collect(),
    };
    let matched = peer::append_response::Result::Matched(peer::Matched { log_id: log_id(6) });
    let answer = peer::AppendResponse { result: Some(matched) };
    let ask = peer::VoteRequest {
        envelope: envelope.clone(),
        vote,
        last_log_id: log_id(6),
        leader_transfer: false,
    };
    let granted = peer::VoteResponse { vote, last_log_id: log_id(6), granted: true };
    let transfer = peer::TransferLeaderRequest {
        envelope: envelope.clone(),
        from_leader: vote,
        to_node: 2,
        last_log_id: log_id(6),
    };
    let offer = peer::OfferSnapshotRequest {
        envelope: envelope.clone(),
        vote,
        manifest: Some(manifest(vec![file("000012.sst", b"onetwo")])),
    };
    let begin = peer::SnapshotBegin { envelope, vote, transfer_id: "t".to_owned() };
    let chunk = peer::SnapshotChunk { part: Some(peer::snapshot_chunk::Part::Begin(begin)) };
    let read = peer::ReadIndexResponse { read_log_id: log_id(6) };
    let encoded = [
        append.encode_to_vec(),
        answer.encode_to_vec(),
        ask.encode_to_vec(),
        granted.encode_to_vec(),
        transfer.encode_to_vec(),
        offer.encode_to_vec(),
        chunk.encode_to_vec(),
        read.encode_to_vec(),
    ];
    (0_u8..).zip(encoded).map(|(which, encoded)| [vec![which], encoded].concat()).collect()
}

fn some_filter() -> Filter {
    let compare = |attribute: &str, value: &str| Comparison {
        attribute: attribute.to_owned(),
        value: value.to_owned(),
    };
    let leaf = |test: Test| Filter { test: Some(test) };
    let not = leaf(Test::Not(Box::new(leaf(Test::Exact(compare("headers.region", "us"))))));
    let any = leaf(Test::Any(Filters {
        filters: vec![
            leaf(Test::Suffix(compare("subject", "/1"))),
            leaf(Test::Exact(compare("priority", "4"))),
        ],
    }));
    leaf(Test::All(Filters {
        filters: vec![leaf(Test::Prefix(compare("type", "order."))), not, any],
    }))
}

fn filters() -> Vec<Vec<u8>> {
    let events = [event(1, "k").encode_to_vec(), special(2).encode_to_vec()];
    let simple = Filter {
        test: Some(Test::Exact(Comparison {
            attribute: "tenant".to_owned(),
            value: "a".to_owned(),
        })),
    };
    vec![
        joined(&[&[some_filter().encode_to_vec()][..], &events].concat()),
        joined(&[&[simple.encode_to_vec()][..], &events].concat()),
    ]
}

fn requests() -> Vec<Vec<u8>> {
    let part = |which: u8, encoded: Vec<u8>| [vec![which], encoded].concat();
    let create = v1::CreateTopicRequest { name: "orders.created".to_owned(), ..Default::default() };
    let call = |events: Vec<v1::Event>| v1::PublishCall {
        topic: "orders.created".to_owned(),
        events: events.iter().map(|e| e.encode_to_vec().into()).collect(),
        producer: Some(v1::ProducerRef { id: "p".to_owned(), sequence: 1, ..Default::default() }),
        ..v1::PublishCall::default()
    };
    let subscribe = v1::CreateSubscriptionRequest {
        name: "billing".to_owned(),
        pattern: "orders.*".to_owned(),
        config: Some(v1::SubscriptionConfig {
            filter: Some(some_filter().encode_to_vec().into()),
            lease_ms: Some(2000),
            ..v1::SubscriptionConfig::default()
        }),
        ..v1::CreateSubscriptionRequest::default()
    };
    let update = v1::UpdateSubscriptionRequest {
        name: "billing".to_owned(),
        config: Some(v1::SubscriptionConfig { max_in_flight: Some(5), ..Default::default() }),
        ..v1::UpdateSubscriptionRequest::default()
    };
    let seek = v1::SeekSubscriptionRequest {
        name: "billing".to_owned(),
        to: Some(v1::Place { at: Some(v1::place::At::TimeMs(START_MS)) }),
        ..v1::SeekSubscriptionRequest::default()
    };
    let settlement = v1::Settlement {
        lease_id: 1,
        term: 1,
        topic_id: 1,
        action: Some(v1::settlement::Action::Ack(v1::Ack {})),
        ..v1::Settlement::default()
    };
    let settle = v1::SettleRequest {
        subscription: "billing".to_owned(),
        consumer: "c".to_owned(),
        items: vec![settlement],
    };
    let quota = v1::SetQuotaRequest {
        quota: Some(v1::Quota {
            service: "s".to_owned(),
            publish_events_per_s: 5,
            ..Default::default()
        }),
    };
    let change = v1::UpdateTopicRequest {
        name: "orders.created".to_owned(),
        config: Some(v1::TopicConfig { index_ids: Some(true), ..Default::default() }),
        ..v1::UpdateTopicRequest::default()
    };
    let read = v1::ReadRequest { topic: "orders.created".to_owned(), ..Default::default() };
    let topic = part(1, create.encode_to_vec());
    let subscription = part(3, subscribe.encode_to_vec());
    vec![
        joined(&[topic.clone(), part(0, call(vec![event(1, "k"), special(2)]).encode_to_vec())]),
        joined(&[
            topic.clone(),
            subscription.clone(),
            part(0, call(vec![special(1)]).encode_to_vec()),
            part(6, settle.encode_to_vec()),
        ]),
        joined(&[
            topic.clone(),
            part(0, call(vec![event(1, "")]).encode_to_vec()),
            subscription,
            part(4, update.encode_to_vec()),
            part(5, seek.encode_to_vec()),
        ]),
        joined(&[
            topic,
            part(2, change.encode_to_vec()),
            part(7, quota.encode_to_vec()),
            part(8, read.encode_to_vec()),
        ]),
    ]
}

fn configs() -> Vec<Vec<u8>> {
    let file = b"[raft]\nheartbeat_ms = 100\nelection_min_ms = 500\n[log]\nformat = \"json\"\n[listen]\ninsecure = true\n";
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        joined(&[file.to_vec(), text("MHUB_NODE_ID=7"), text("MHUB_STORAGE_COMPRESSION=lz4")]),
        joined(&[
            text("[node]\nid = 3\ndata_dir = \"/tmp/x\"\n"),
            text("MHUB_LISTEN_CLIENT=127.0.0.1:1"),
        ]),
    ]
}
