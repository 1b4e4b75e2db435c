//! What clients ask: the first byte of each part is the kind of the request. What passes the checks
//! goes into the log, and must be applied there without a fault: every node would stop at it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use message_hub::api::fuzz;
use message_hub::machine::mem::MemKv;
use message_hub::model::ids::UnixMs;
use message_hub_fuzz::{apply, entry, parts};

/// An ordinary day.
const START_MS: u64 = 1_750_000_000_000;

fuzz_target!(|input: &[u8]| {
    let mut kv = MemKv::default();
    for (index, part) in (1..).zip(parts(input)) {
        let Some((which, encoded)) = part.split_first() else { continue };
        let now = START_MS + 700 * index;
        if let Some(kind) = fuzz::request(*which, encoded, UnixMs(now)) {
            let shown = format!("{kind:?}");
            if let Err(fault) = apply(&mut kv, index, &entry(now, kind)) {
                panic!("a request that was accepted stops every node: {fault}; {shown}");
            }
        }
    }
});
