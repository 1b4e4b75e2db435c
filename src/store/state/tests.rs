use std::fs;

use prost::Message as _;

use super::*;
use crate::machine::apply::Machine;
use crate::machine::mem::MemKv;
use crate::machine::tests::random::{Dice, random_entry};
use crate::machine::topic::heads::Heads;
use crate::machine::verify;
use crate::model::command::CommandBatch;
use crate::model::ids::LogIndex;

fn apply(kv: &impl Kv, heads: &mut Heads, index: u64, entry: &CommandBatch) -> Vec<Write> {
    let mut machine = Machine::load_with(kv, std::mem::take(heads)).unwrap();
    machine.apply(LogIndex(index), &entry.encode_to_vec().into()).unwrap();
    let (writes, kept) = machine.finish();
    *heads = kept;
    writes
}

#[test]
fn the_same_log_gives_the_same_bytes_as_on_an_ordered_map() {
    let mut rows = 0;
    for seed in 1..=40 {
        let dir = tempfile::tempdir().unwrap();
        let mut db = StateDb::open(dir.path(), &StoreOptions::default()).unwrap();
        let mut map = MemKv::default();
        let mut dice = Dice::new(seed);
        // One remembers versions of keys, the other reads them each time.
        let mut heads = Heads::default();
        for index in 1..=12 {
            let entry = random_entry(&mut dice, index - 1);
            db.write(apply(&db.tables(), &mut heads, index, &entry)).unwrap();
            map.write(apply(&map, &mut Heads::default(), index, &entry));
            if dice.below(4) == 0 {
                db.flush().unwrap();
                drop(db);
                db = StateDb::open(dir.path(), &StoreOptions::default()).unwrap();
            }
            let hash = verify::hash(&map).unwrap();
            assert_eq!(verify::hash(&db.tables()).unwrap(), hash, "seed {seed}, entry {index}");
            rows += hash.1;
        }
    }
    assert!(rows > 1000, "the logs changed hardly anything: {rows}");
}

#[test]
fn a_flipped_bit_in_a_table_file_is_a_fault_never_other_content() {
    let dir = tempfile::tempdir().unwrap();
    let db = StateDb::open(dir.path(), &StoreOptions::default()).unwrap();
    let value = |n: u8| Bytes::from(vec![n; 900]);
    let key = |n: u8| vec![0, n];
    db.write((0..100).map(|n| Write::Put(Table::Topics, key(n), value(n))).collect()).unwrap();
    db.flush().unwrap();
    drop(db);
    let tables = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
    let table = tables.filter(|p| p.extension().is_some_and(|e| e == "sst")).max().unwrap();
    let sound = fs::read(&table).unwrap();
    let mut noticed = 0;
    for place in (0..sound.len()).step_by(sound.len() / 40) {
        let mut damaged = sound.clone();
        damaged[place] ^= 1 << (place % 8);
        fs::write(&table, damaged).unwrap();
        let Ok(db) = StateDb::open(dir.path(), &StoreOptions::default()) else {
            noticed += 1;
            continue;
        };
        for n in 0..100 {
            match db.tables().get(Table::Topics, &key(n)) {
                Ok(found) => assert_eq!(found, Some(value(n)), "byte {place}"),
                Err(_) => noticed += 1,
            }
        }
    }
    assert!(noticed > 30, "hardly any flip was noticed: {noticed}");
}

#[test]
fn a_view_stays_as_it_was_whatever_is_written_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let db = StateDb::open(dir.path(), &StoreOptions::default()).unwrap();
    let put = |n: u8| db.write(vec![Write::Put(Table::Topics, vec![n], Bytes::from_static(b"x"))]);
    let rows = |kv: &dyn Fn(&mut Visit<'_>) -> Result<(), Fault>| {
        let mut count = 0;
        kv(&mut |_, _| {
            count += 1;
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        count
    };
    put(1).unwrap();
    for whole in [false, true] {
        db.view_of(whole, |view| {
            let scan = |visit: &mut Visit<'_>| {
                view.scan(Table::Topics, &[0], &[9], Order::Ascending, visit)
            };
            let before = rows(&scan);
            put(if whole { 3 } else { 2 }).unwrap();
            assert_eq!(rows(&scan), before);
            assert_eq!(view.get(Table::Topics, &[if whole { 3 } else { 2 }]).unwrap(), None);
        });
    }
    assert!(db.tables().get(Table::Topics, &[3]).unwrap().is_some());
}
