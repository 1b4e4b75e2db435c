//! What one node says to another: the first byte is the kind of the message.

#![no_main]

use libfuzzer_sys::fuzz_target;
use message_hub::raft::fuzz;

fuzz_target!(|input: &[u8]| {
    if let Some((which, encoded)) = input.split_first() {
        fuzz::peer_message(*which, encoded);
    }
});
