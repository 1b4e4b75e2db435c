//! JSON Schema's own test suite: as a Debian package ships it, which `cluster-scripts/test.sh` unpacks and names in
//! `MHUB_TEST_JSON_SUITE`; else as the crate `json_schema_test_suite` does, which is older. That crate is no dependency
//! that is built; its files are where cargo keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::definition;
use crate::schema::{Compiled, Format, compile};

/// A newer suite than the crate's.
fn other_suite() -> Option<PathBuf> {
    std::env::var_os("MHUB_TEST_JSON_SUITE").map(PathBuf::from)
}

fn suite() -> PathBuf {
    if let Some(folder) = other_suite() {
        return folder;
    }
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    let metadata: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|of| of["name"] == "json_schema_test_suite").unwrap();
    let manifest = Path::new(package["manifest_path"].as_str().unwrap());
    manifest.with_file_name("path/to/JSON-Schema-Test-Suite/repository")
}

fn named(of: &Value) -> &str {
    of["description"].as_str().unwrap()
}

/// What was found of a draft's cases.
#[derive(Default)]
struct Found {
    right: usize,
    wrong: Vec<String>,
    /// Schemas that were refused, by their files.
    refused: BTreeMap<String, BTreeSet<String>>,
}

fn judge(draft: &str, meta: &str, leave_out: &[&str]) -> Found {
    let mut found = Found::default();
    let mut files: Vec<_> = std::fs::read_dir(suite().join("tests").join(draft)).unwrap().collect();
    files.sort_by_key(|file| file.as_ref().unwrap().path());
    for file in files {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() || leave_out.contains(&name.as_str()) {
            continue;
        }
        let groups: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        for group in groups.as_array().unwrap() {
            let mut schema = group["schema"].clone();
            if let Some(members) = schema.as_object_mut() {
                members.entry("$schema").or_insert_with(|| meta.into());
            }
            match compile(&definition(Format::Json, &schema.to_string()), &[]) {
                Ok(schema) => check(&schema, group, &name, &mut found),
                Err(_) => {
                    let refused = found.refused.entry(name.clone()).or_default();
                    refused.insert(named(group).to_owned());
                }
            }
        }
    }
    found
}

fn check(schema: &Compiled, group: &Value, file: &str, found: &mut Found) {
    for case in group["tests"].as_array().unwrap() {
        let valid = schema.validate(case["data"].to_string().as_bytes(), "").is_ok();
        if Value::Bool(valid) == case["valid"] {
            found.right += 1;
        } else {
            found.wrong.push(format!("{file}: {}: {}", named(group), named(case)));
        }
    }
}

/// Nothing is fetched, and the meta-schemas are no exception; nor are identifiers outside of what is given known.
const REFUSED_7: &[(&str, &str)] = &[
    ("definitions", "invalid definition"),
    ("definitions", "valid definition"),
    ("ref", "Location-independent identifier with absolute URI"),
    ("ref", "remote ref, containing refs itself"),
];

/// The same, and what 2020-12 forbids.
const REFUSED_2020_12: &[(&str, &str)] = &[
    ("defs", "invalid definition"),
    ("defs", "valid definition"),
    ("id", "Invalid use of fragments in location-independent $id"),
    ("id", "Unnormalized $ids are allowed but discouraged"),
    ("id", "Valid use of empty fragments in location-independent $id"),
    ("ref", "relative pointer ref to array"),
    ("ref", "remote ref, containing refs itself"),
    ("uniqueItems", "uniqueItems with an array of items"),
    ("uniqueItems", "uniqueItems with an array of items and additionalItems=false"),
    ("uniqueItems", "uniqueItems=false with an array of items"),
    ("uniqueItems", "uniqueItems=false with an array of items and additionalItems=false"),
];

/// The files of a newer suite in which identifiers and meta-schemas occur that nobody gave.
const OF_IDENTIFIERS: &[&str] =
    &["anchor", "definitions", "defs", "dynamicRef", "id", "ref", "unevaluatedItems", "vocabulary"];

fn assert_as_expected(found: &Found, refused: &[(&str, &str)], least: usize) {
    assert!(found.wrong.is_empty(), "{:#?}", found.wrong);
    assert!(found.right >= least, "only {} cases were looked at", found.right);
    let known = found.refused.iter().flat_map(|(file, all)| all.iter().map(|of| (&**file, &**of)));
    let known: Vec<_> = known.collect();
    if other_suite().is_some() {
        let of_identifiers = known.iter().all(|(file, _)| OF_IDENTIFIERS.contains(file));
        assert!(of_identifiers && known.len() < 40, "{known:#?}");
    } else {
        assert_eq!(known, refused);
    }
}

#[test]
fn draft_7_is_validated_as_the_official_suite_says() {
    let found = judge("draft7", "http://json-schema.org/draft-07/schema#", &["refRemote"]);
    assert_as_expected(&found, REFUSED_7, 700);
}

/// By the draft's own cases with `MHUB_TEST_JSON_SUITE`; else by those of the draft before it, but for the keywords
/// that it changed: the crate has no newer ones.
#[test]
fn draft_2020_12_is_validated_as_the_official_suite_says() {
    let meta = "https://json-schema.org/draft/2020-12/schema";
    if other_suite().is_some() {
        let found = judge("draft2020-12", meta, &["refRemote"]);
        return assert_as_expected(&found, &[], 1000);
    }
    let changed = ["refRemote", "items", "additionalItems", "unevaluatedItems"];
    let found = judge("draft2019-09", meta, &changed);
    assert_as_expected(&found, REFUSED_2020_12, 700);
}
