//! Differences between JSON documents.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Changes;
use crate::schema::limits::TEXT_BYTES_MAX;
use crate::schema::report::{display_to, push_segment};

/// Notes the differences of two texts.
pub(super) fn diff(new: &str, old: &str, changes: &mut Changes) {
    match (serde_json::from_str(new), serde_json::from_str(old)) {
        (Ok(new), Ok(old)) => values(&new, &old, &mut String::new(), changes),
        _ if new != old => changes.changed("", old, new),
        _ => {}
    }
}

/// Notes the differences of two values at a pointer. The parser bounds how deep they nest.
fn values(new: &Value, old: &Value, pointer: &mut String, changes: &mut Changes) {
    match (new, old) {
        _ if new == old => {}
        (Value::Object(new), Value::Object(old)) => {
            for (name, value) in new {
                below(pointer, name, |pointer| match old.get(name) {
                    Some(known) => values(value, known, pointer, changes),
                    None => changes.added(pointer, &text(value)),
                });
            }
            for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
                below(pointer, name, |pointer| changes.removed(pointer, &text(value)));
            }
        }
        (Value::Array(new), Value::Array(old)) => arrays(new, old, pointer, changes),
        _ => changes.changed(pointer, &text(old), &text(new)),
    }
}

fn arrays(new: &[Value], old: &[Value], pointer: &mut String, changes: &mut Changes) {
    let keys = match (names(new), names(old)) {
        (Some(new), Some(old)) => Some((new, old)),
        _ => plain(new).zip(plain(old)),
    };
    let Some((new_keys, old_keys)) = keys else {
        return by_position(new, old, pointer, changes);
    };
    let known: BTreeMap<&str, &Value> = old_keys.iter().map(String::as_str).zip(old).collect();
    for (index, (key, value)) in new_keys.iter().zip(new).enumerate() {
        below(pointer, &index.to_string(), |pointer| match known.get(key.as_str()) {
            Some(known) => values(value, known, pointer, changes),
            None => changes.added(pointer, &text(value)),
        });
    }
    let kept: BTreeSet<&str> = new_keys.iter().map(String::as_str).collect();
    for (index, (key, value)) in old_keys.iter().zip(old).enumerate() {
        if !kept.contains(key.as_str()) {
            below(pointer, &index.to_string(), |pointer| changes.removed(pointer, &text(value)));
        }
    }
}

fn by_position(new: &[Value], old: &[Value], pointer: &mut String, changes: &mut Changes) {
    for index in 0..new.len().max(old.len()) {
        below(pointer, &index.to_string(), |pointer| match (new.get(index), old.get(index)) {
            (Some(new), Some(old)) => values(new, old, pointer, changes),
            (Some(new), None) => changes.added(pointer, &text(new)),
            (None, Some(old)) => changes.removed(pointer, &text(old)),
            (None, None) => {}
        });
    }
}

/// The names of the elements, if each is an object with its own name.
fn names(items: &[Value]) -> Option<Vec<String>> {
    let names: Option<Vec<String>> =
        items.iter().map(|item| Some(item.get("name")?.as_str()?.to_owned())).collect();
    names.filter(|names| names.iter().collect::<BTreeSet<_>>().len() == names.len())
}

/// The elements as texts, if each is a plain value and there once.
fn plain(items: &[Value]) -> Option<Vec<String>> {
    let texts: Option<Vec<String>> = items
        .iter()
        .map(|item| (!item.is_array() && !item.is_object()).then(|| item.to_string()))
        .collect();
    texts.filter(|texts| texts.iter().collect::<BTreeSet<_>>().len() == texts.len())
}

fn below(pointer: &mut String, segment: &str, then: impl FnOnce(&mut String)) {
    let back = pointer.len();
    push_segment(pointer, segment);
    then(pointer);
    pointer.truncate(back);
}

fn text(value: &Value) -> String {
    display_to(value, TEXT_BYTES_MAX)
}
