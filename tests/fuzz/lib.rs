//! What the targets share.

use bytes::Bytes;
use message_hub::machine::Fault;
use message_hub::machine::apply::Machine;
use message_hub::machine::mem::MemKv;
use message_hub::model::command::{Command, CommandBatch, Kind};
use message_hub::model::ids::LogIndex;
use message_hub::model::outcome::Outcome;
use prost::Message as _;

/// Cuts an input into parts, each with its length before it, two bytes little endian.
pub fn parts(mut input: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = input.split_at_checked(2) {
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        let (part, rest) = rest.split_at(length.min(rest.len()));
        parts.push(part);
        input = rest;
    }
    parts
}

/// The input that is cut into these parts.
pub fn joined(parts: &[Vec<u8>]) -> Vec<u8> {
    let framed = |part: &Vec<u8>| {
        let length = u16::try_from(part.len()).expect("seeds are short");
        [&length.to_le_bytes()[..], part].concat()
    };
    parts.iter().flat_map(framed).collect()
}

/// An entry of one command.
pub fn entry(stamp_ms: u64, kind: Kind) -> Vec<u8> {
    CommandBatch { stamp_ms, commands: vec![Command::from(kind)] }.encode_to_vec()
}

/// Applies an entry as a node does, and checks that another replica comes to the same.
pub fn apply(kv: &mut MemKv, index: u64, encoded: &[u8]) -> Result<Vec<Outcome>, Fault> {
    let encoded = Bytes::copy_from_slice(encoded);
    let once = |kv: &MemKv| {
        let mut machine = Machine::load(kv)?;
        let applied = machine.apply(LogIndex(index), &encoded)?;
        Ok::<_, Fault>((applied, machine.into_writes()))
    };
    let (applied, writes) = once(kv)?;
    let (again, same) = once(kv)?;
    assert!(applied == again && writes == same, "two replicas differ");
    kv.write(writes);
    Ok(applied.outcomes)
}
