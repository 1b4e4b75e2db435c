//! The tree keeps its shape: arrows between rooms, sizes of files, no dead files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a test may end at once, print its seed, and look at the clock"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms that it may name. The order is that of the diagram in `ARCHITECTURE.md`.
const ARROWS: &[(&str, &[&str])] = &[
    (
        "cli",
        &["api", "gateway", "client", "node", "config", "telemetry", "runtime", "proto", "model"],
    ),
    (
        "api",
        &[
            "gateway",
            "node",
            "raft",
            "store",
            "machine",
            "schema",
            "config",
            "telemetry",
            "runtime",
            "proto",
            "model",
        ],
    ),
    ("gateway", &["node", "telemetry", "runtime", "proto", "model"]),
    ("client", &["balance", "proto", "model"]),
    (
        "node",
        &[
            "raft",
            "store",
            "machine",
            "config",
            "telemetry",
            "runtime",
            "balance",
            "schema",
            "proto",
            "model",
        ],
    ),
    ("raft", &["store", "machine", "telemetry", "runtime", "proto", "model"]),
    ("store", &["machine", "runtime", "model"]),
    ("machine", &["model"]),
    ("model", &[]),
    ("config", &["model"]),
    ("telemetry", &["config", "model"]),
    ("runtime", &["model"]),
    ("balance", &["model"]),
    ("schema", &[]),
    ("proto", &["model"]),
];

/// Crates that only one room may name.
const ONLY_IN: &[(&str, &str)] = &[("openraft::", "raft"), ("rocksdb::", "store")];

/// What the machine must not know.
const NOT_IN_MACHINE: &[&str] = &[
    "tokio",
    "tonic",
    "SystemTime",
    "Instant",
    "HashMap",
    "HashSet",
    "rand::",
    "f32",
    "f64",
    "std::env",
    "std::fs",
    "std::thread",
    "async ",
];

const LINES_MAX: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn files_in(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    rust_files(&root().join(dir), &mut found);
    found.sort();
    found
}

/// The room of a file below `src`; `None` for `lib.rs` and `main.rs`.
fn room(path: &Path) -> Option<String> {
    let below = path.strip_prefix(root().join("src")).ok()?;
    (below.components().count() > 1)
        .then(|| below.components().next().unwrap().as_os_str().to_string_lossy().into_owned())
}

/// The code of a file: no comments, no text literals, nothing of its tests.
fn code(text: &str) -> String {
    let until_tests = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    until_tests
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .collect::<Vec<_>>()
        .join("\n")
}

fn words_after<'t>(text: &'t str, prefix: &str) -> BTreeSet<&'t str> {
    text.match_indices(prefix)
        .map(|(at, _)| {
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            &rest[..end]
        })
        .filter(|word| !word.is_empty())
        .collect()
}

/// What is wrong with the arrows of one file.
fn wrong_arrows(room: &str, text: &str) -> Vec<String> {
    let code = code(text);
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("room {room} is not in the table of arrows")];
    };
    let mut wrong = Vec::new();
    for named in words_after(&code, "crate::") {
        let is_room = ARROWS.iter().any(|(name, _)| *name == named);
        if is_room && named != room && !allowed.contains(&named) {
            wrong.push(format!("{room} names {named}"));
        }
    }
    for (what, home) in ONLY_IN {
        let crate_named = code.contains(&format!(" {what}")) || code.contains(&format!("({what}"));
        if room != *home && crate_named {
            wrong.push(format!("{room} names {what}, which belongs to {home}"));
        }
    }
    if room == "machine" || room == "model" {
        let found = NOT_IN_MACHINE.iter().filter(|what| code.contains(**what));
        wrong.extend(found.map(|what| format!("{room} names {what}")));
    }
    wrong
}

#[test]
fn arrows_go_one_way() {
    let mut wrong = Vec::new();
    for path in files_in("src") {
        let Some(room) = room(&path) else { continue };
        if path.components().any(|c| c.as_os_str() == "tests") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        wrong.extend(
            wrong_arrows(&room, &text).into_iter().map(|w| format!("{}: {w}", path.display())),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_arrow_is_found() {
    for (room, text) in [
        ("model", "use crate::machine::kv;"),
        ("machine", "use crate::store::state::StateDb;"),
        ("machine", "fn now() -> std::time::SystemTime { todo() }"),
        ("node", "let db = (rocksdb::DB::open)(path);"),
        ("client", "use crate::runtime::tasks;"),
        ("store", "use openraft::Raft;\nuse crate::node::Node;"),
        ("nowhere", ""),
    ] {
        assert!(!wrong_arrows(room, text).is_empty(), "{room}: {text}");
    }
    assert!(
        wrong_arrows("machine", "//! like crate::store, but pure\nuse crate::model::ids;")
            .is_empty()
    );
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for path in ["src", "tests", "benches", "jepsen-like"].into_iter().flat_map(files_in) {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        if lines > LINES_MAX {
            long.push(format!("{}: {lines} lines, {LINES_MAX} is the most", path.display()));
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn every_file_is_declared() {
    let files = files_in("src");
    let mut dead = Vec::new();
    for path in &files {
        let stem = path.file_stem().unwrap().to_string_lossy();
        if room(path).is_none() {
            continue;
        }
        // `a/b.rs` is declared in `a/mod.rs`, `a/mod.rs` beside `a` one level up.
        let (name, parent) = if stem == "mod" {
            let dir = path.parent().unwrap();
            (dir.file_name().unwrap().to_string_lossy().into_owned(), dir.parent().unwrap())
        } else {
            (stem.into_owned(), path.parent().unwrap())
        };
        let declaring = [parent.join("mod.rs"), parent.join("lib.rs")];
        let text: String = declaring.iter().filter_map(|p| fs::read_to_string(p).ok()).collect();
        if !text.contains(&format!("mod {name};")) {
            dead.push(path.display().to_string());
        }
    }
    assert!(dead.is_empty(), "declared nowhere: {}", dead.join(", "));
}
