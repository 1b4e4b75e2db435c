//! A snapshot as it is received: a manifest, then chunks.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use message_hub::raft::fuzz;
use message_hub_fuzz::parts;

static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let shared_memory = PathBuf::from("/dev/shm");
    let parent = if shared_memory.is_dir() { shared_memory } else { std::env::temp_dir() };
    parent.join(format!("mhub-fuzz-snapshot-{}", std::process::id()))
});

fuzz_target!(|input: &[u8]| {
    let parts = parts(input);
    let Some((manifest, chunks)) = parts.split_first() else { return };
    let staging = ROOT.join("staging");
    fuzz::snapshot(&staging, manifest, chunks);
    if let Ok(beside) = ROOT.read_dir() {
        assert!(beside.count() <= 1, "something was written beside the staging directory");
    }
    drop(std::fs::remove_dir_all(&*ROOT));
});
