//! The databases: appending to the log with a sync, applying to RocksDB, reading from it.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark may end at once")]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use message_hub::machine::kv::{Kv as _, Table, Write};
use message_hub::model::ids::LogIndex;
use message_hub::store::log_db::LogDb;
use message_hub::store::options::StoreOptions;
use message_hub::store::state::StateDb;

fn log(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let db = LogDb::open(dir.path()).unwrap();
    let mut next = 1;
    let mut group = c.benchmark_group("log");
    for bytes in [256, 64 << 10, 256 << 10] {
        let record = Bytes::from(vec![7; bytes]);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("append {bytes} bytes and sync"), |b| {
            b.iter(|| {
                db.append(0, [(LogIndex(next), record.clone())], []).unwrap();
                db.sync().unwrap();
                next += 1;
            });
        });
    }
}

fn state(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let db = StateDb::open(dir.path(), &StoreOptions::default()).unwrap();
    let value = Bytes::from(vec![7; 64 << 10]);
    let mut next = 0_u64;
    let mut group = c.benchmark_group("state");
    group.throughput(Throughput::Bytes(64 << 10));
    group.bench_function("write a batch of 64 KiB", |b| {
        b.iter(|| {
            let key = next.to_be_bytes().to_vec();
            db.write(vec![Write::Put(Table::Batches, key, value.clone())]).unwrap();
            next += 1;
        });
    });
    group.bench_function("read a batch of 64 KiB", |b| {
        let (tables, mut at) = (db.tables(), 0_u64);
        b.iter(|| {
            at = (at + 7919) % next;
            tables.get(Table::Batches, &at.to_be_bytes()).unwrap().unwrap()
        });
    });
}

criterion_group!(benches, log, state);
criterion_main!(benches);
