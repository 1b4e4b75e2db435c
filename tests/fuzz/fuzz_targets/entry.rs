//! Entries of the log: records as they are stored, and commands one after the other on one state.
//! Nonsense may be refused or be a fault, but no command may make the state machine panic, go on for
//! ever, or leave a state that the next command cannot read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use message_hub::machine::Fault;
use message_hub::machine::mem::MemKv;
use message_hub::raft::fuzz;
use message_hub_fuzz::{apply, parts};

fuzz_target!(|input: &[u8]| {
    fuzz::log_record(input);
    fuzz::meta_record(input);
    let mut kv = MemKv::default();
    for (index, encoded) in (1..).zip(parts(input)) {
        match apply(&mut kv, index, encoded) {
            Ok(_) => {}
            // A node would stop here.
            Err(Fault::Undecodable(_)) => return,
            Err(fault) => panic!("entry {index}: {fault}"),
        }
    }
});
