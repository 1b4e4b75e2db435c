//! The state machine alone, over an ordered map: apply, encode and decode, reads.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may end at once")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use message_hub::machine::apply::Machine;
use message_hub::machine::kv::Order;
use message_hub::machine::mem::MemKv;
use message_hub::machine::query::{self, Bounds};
use message_hub::machine::schedule::candidates::candidates;
use message_hub::machine::schedule::cursor::Cursor;
use message_hub::model::command::delivery::{Ack, Action, SettleItem};
use message_hub::model::command::subscription::At;
use message_hub::model::command::{
    CommandBatch, CreateSubscription, CreateTopic, Kind, Lease, Publish, Settle,
};
use message_hub::model::delivery::Pick;
use message_hub::model::event::EventView;
use message_hub::model::event_run;
use message_hub::model::ids::{KeyVersion, LogIndex, Offset, UnixMs};
use message_hub::model::ranges::{OffsetRange, Ranges};
use message_hub::model::subscription::{DeliveryOrder, SubscriptionConfig};
use message_hub::model::topic::TopicConfig;
use message_hub::proto::v1::Event;
use prost::Message as _;

const EVENTS: usize = 64;

fn event(key: &str) -> Bytes {
    let event = Event {
        id: "0123456789".to_owned(),
        source: "/bench".to_owned(),
        r#type: "bench".to_owned(),
        key: key.to_owned(),
        data: vec![7; 256].into(),
        ..Event::default()
    };
    event.encode_to_vec().into()
}

fn publish(events: &[Bytes], keyed: bool) -> Kind {
    Kind::Publish(Publish {
        topic: "t".to_owned(),
        count: u32::try_from(events.len()).unwrap(),
        keyed,
        largest_event_bytes: 300,
        events: event_run::encode(events),
        ..Publish::default()
    })
}

fn entry(commands: Vec<Kind>) -> Bytes {
    let commands = commands.into_iter().map(Into::into).collect();
    CommandBatch { stamp_ms: 1, commands }.encode_to_vec().into()
}

fn with_topic() -> MemKv {
    let mut kv = MemKv::default();
    let create = CreateTopic {
        name: "t".to_owned(),
        config: TopicConfig::defaults(),
        request_id: String::new(),
    };
    apply(&mut kv, &entry(vec![Kind::CreateTopic(create)]));
    kv
}

fn apply(kv: &mut MemKv, entry: &Bytes) {
    let mut machine = Machine::load(kv).unwrap();
    machine.apply(LogIndex(1), entry).unwrap();
    let writes = machine.into_writes();
    kv.write(writes);
}

fn applying(c: &mut Criterion) {
    let kv = with_topic();
    let plain: Vec<Bytes> = (0..EVENTS).map(|_| event("")).collect();
    let keyed: Vec<Bytes> = (0..EVENTS).map(|n| event(&format!("key-{n}"))).collect();
    let singles = |events: &[Bytes], keyed| {
        entry(events.iter().map(|e| publish(std::slice::from_ref(e), keyed)).collect())
    };
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for (name, entry) in [
        ("one call of 64 plain events", entry(vec![publish(&plain, false)])),
        ("64 calls of one plain event", singles(&plain, false)),
        ("64 calls of one keyed event", singles(&keyed, true)),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut machine = Machine::load(&kv).unwrap();
                machine.apply(LogIndex(1), &entry).unwrap();
                black_box(machine.into_writes())
            });
        });
    }
}

fn encoding(c: &mut Criterion) {
    let events: Vec<Bytes> = (0..EVENTS).map(|_| event("order-42")).collect();
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(EVENTS as u64));
    group.bench_function("validate 64 events in place", |b| {
        b.iter(|| events.iter().for_each(|e| drop(black_box(EventView::parse(e)))));
    });
    group.bench_function("frame 64 events", |b| b.iter(|| black_box(event_run::encode(&events))));
    group.bench_function("encode an entry", |b| {
        b.iter_batched(|| publish(&events, true), |kind| entry(vec![kind]), BatchSize::SmallInput);
    });
    let encoded = entry(vec![publish(&events, true)]);
    group.bench_function("decode an entry", |b| {
        b.iter(|| CommandBatch::decode(black_box(encoded.clone())).unwrap());
    });
}

fn reading(c: &mut Criterion) {
    let mut kv = with_topic();
    let events: Vec<Bytes> = (0..EVENTS).map(|n| event(&format!("key-{}", n % 8))).collect();
    for _ in 0..200 {
        apply(&mut kv, &entry(vec![publish(&events, true)]));
    }
    let info = query::topic(&kv, "t").unwrap().unwrap();
    let bounds = Bounds { events: 1000, bytes: usize::MAX };
    let mut group = c.benchmark_group("read");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("1000 events by offset", |b| {
        b.iter(|| query::read_topic(&kv, &info, Offset(1001), Order::Ascending, bounds).unwrap());
    });
    group.bench_function("1000 events by key", |b| {
        b.iter(|| {
            query::read_key(&kv, &info, "key-3", KeyVersion(1), Order::Ascending, bounds).unwrap()
        });
    });
}

const LEASED: usize = 512;

/// A topic with one lease's worth of events, each with a key of its own, and a subscription to it.
fn with_subscription(order: DeliveryOrder) -> MemKv {
    let mut kv = with_topic();
    let config = SubscriptionConfig {
        max_in_flight: 100_000,
        max_in_flight_per_consumer: 100_000,
        order: order as i32,
        ..SubscriptionConfig::defaults("t")
    };
    let create = CreateSubscription {
        name: "s".to_owned(),
        config,
        start: At::Start(true).into(),
        request_id: String::new(),
    };
    apply(&mut kv, &entry(vec![Kind::CreateSubscription(create)]));
    let keyed = order == DeliveryOrder::ByKey;
    let key = |n| if keyed { format!("key-{n}") } else { String::new() };
    let events: Vec<Bytes> = (0..LEASED).map(|n| event(&key(n))).collect();
    apply(&mut kv, &entry(vec![publish(&events, keyed)]));
    kv
}

fn delivering(c: &mut Criterion) {
    let ranges = vec![OffsetRange { first: 0, count: LEASED as u64 }];
    let lease = Lease {
        subscription: "s".to_owned(),
        revision: 1,
        term: 1,
        consumer: "c".to_owned(),
        picks: vec![Pick {
            topic: "t".to_owned(),
            topic_id: 1,
            ranges: Ranges::from_unsorted(&ranges),
            seen: None,
        }],
        ..Lease::default()
    };
    let action = Some(Action::Ack(Ack {}));
    let item = SettleItem { lease_id: 1, term: 1, topic_id: 1, ranges: Vec::new(), action };
    let settle =
        Settle { subscription: "s".to_owned(), consumer: "c".to_owned(), items: vec![item] };
    let (lease, settle) = (entry(vec![Kind::Lease(lease)]), entry(vec![Kind::Settle(settle)]));
    let mut group = c.benchmark_group("deliver");
    group.throughput(Throughput::Elements(LEASED as u64));
    for (name, order) in [("plain", DeliveryOrder::None), ("in order by key", DeliveryOrder::ByKey)]
    {
        let kv = with_subscription(order);
        group.bench_function(format!("lease and acknowledge 512 {name}"), |b| {
            b.iter_batched(
                || kv.clone(),
                |mut kv| {
                    apply(&mut kv, &lease);
                    apply(&mut kv, &settle);
                    kv
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("find 512 {name}"), |b| {
            b.iter(|| candidates(&kv, "s", UnixMs(1), &mut Cursor::default(), LEASED as u64));
        });
    }
}

criterion_group!(benches, applying, encoding, reading, delivering);
criterion_main!(benches);
