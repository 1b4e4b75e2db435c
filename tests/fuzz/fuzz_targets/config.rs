//! Configuration: a file, and an environment variable.

#![no_main]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use message_hub::config;
use message_hub_fuzz::parts;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let shared_memory = PathBuf::from("/dev/shm");
    let parent = if shared_memory.is_dir() { shared_memory } else { std::env::temp_dir() };
    parent.join(format!("mhub-fuzz-config-{}.toml", std::process::id()))
});

fuzz_target!(|input: &[u8]| {
    let parts = parts(input);
    let Some((file, environment)) = parts.split_first() else { return };
    std::fs::write(&*FILE, file).expect("write the file");
    let environment = environment.iter().filter_map(|pair| {
        let (name, value) = std::str::from_utf8(pair).ok()?.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    let loaded = config::load(Some(FILE.as_path()), environment, &BTreeMap::new());
    drop(std::fs::remove_file(&*FILE));
    let Ok((config, settings)) = loaded else { return };
    // What is shown is what is in force.
    let flags = settings.iter().map(|s| (s.key.to_owned(), s.value.clone())).collect();
    std::fs::write(&*FILE, "").expect("write the file");
    let (again, _) = config::load(Some(FILE.as_path()), std::iter::empty(), &flags)
        .expect("settings that were accepted are accepted as they are shown");
    drop(std::fs::remove_file(&*FILE));
    assert_eq!(config, again, "settings read differently as they are shown");
});
