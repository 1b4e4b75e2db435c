//! Filters in the JSON of CloudEvents Subscriptions 1.0.
//!
//! `{"exact": {"type": "order.created"}}`, and so `prefix` and `suffix`; `{"all": […]}`,
//! `{"any": […]}`, `{"not": {…}}`. Several attributes of one comparison all have to hold, and so do
//! the filters of an array. `sql` is not offered.

use serde_json::{Map, Value, json};

use crate::model::filter::{Comparison, Filter, Filters, Test};
use crate::model::limits::FILTER_BYTES_MAX;
use crate::model::rejection::{Reason, Rejection};

/// The longest text of a filter: its names and brackets take room too.
const TEXT_BYTES_MAX: usize = 8 * FILTER_BYTES_MAX;

/// Reads a filter and checks it.
///
/// # Errors
/// `INVALID_FILTER`.
pub fn from_json(text: &str) -> Result<Filter, Rejection> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(refuse(&format!("has {} bytes, more than {TEXT_BYTES_MAX}", text.len())));
    }
    // The parser's own bound on nesting lies far above that of filters.
    let value =
        serde_json::from_str(text).map_err(|error| refuse(&format!("is no JSON: {error}")))?;
    let filter = filter(&value)?;
    filter.compile()?;
    Ok(filter)
}

fn refuse(why: &str) -> Rejection {
    Rejection::new(
        Reason::InvalidFilter,
        format!("filter {why}; write it like {{\"exact\": {{\"type\": \"order.created\"}}}}"),
    )
}

fn filter(value: &Value) -> Result<Filter, Rejection> {
    match value {
        Value::Array(filters) => several(filters.iter().map(filter)),
        Value::Object(dialects) => {
            several(dialects.iter().map(|(name, value)| dialect(name, value)))
        }
        _ => Err(refuse("is neither an object nor an array")),
    }
}

/// All of them, or the only one.
fn several(filters: impl Iterator<Item = Result<Filter, Rejection>>) -> Result<Filter, Rejection> {
    let mut filters = filters.collect::<Result<Vec<_>, _>>()?;
    match filters.len() {
        1 => Ok(filters.remove(0)),
        _ => Ok(of(Test::All(Filters { filters }))),
    }
}

fn of(test: Test) -> Filter {
    Filter { test: Some(test) }
}

fn dialect(name: &str, value: &Value) -> Result<Filter, Rejection> {
    let compare = |test: fn(Comparison) -> Test| {
        let Value::Object(attributes) = value else {
            return Err(refuse(&format!("has a {name} that is no object of attributes")));
        };
        several(attributes.iter().map(|(attribute, value)| {
            let Value::String(value) = value else {
                return Err(refuse(&format!("compares {attribute} with what is no text")));
            };
            Ok(of(test(Comparison { attribute: attribute.clone(), value: value.clone() })))
        }))
    };
    let list = || match value {
        Value::Array(filters) => {
            Ok(Filters { filters: filters.iter().map(filter).collect::<Result<_, _>>()? })
        }
        _ => Err(refuse(&format!("has an {name} that is no array"))),
    };
    match name {
        "exact" => compare(Test::Exact),
        "prefix" => compare(Test::Prefix),
        "suffix" => compare(Test::Suffix),
        "all" => Ok(of(Test::All(list()?))),
        "any" => Ok(of(Test::Any(list()?))),
        "not" => Ok(of(Test::Not(Box::new(filter(value)?)))),
        _ => Err(refuse(&format!("has the dialect {name:?}, which does not exist"))),
    }
}

/// The same as JSON.
#[must_use]
pub fn to_json(filter: &Filter) -> Value {
    let comparison = |name: &str, c: &Comparison| json!({ name: { &c.attribute: c.value } });
    let list = |name: &str, filters: &Filters| json!({ name: filters.filters.iter().map(to_json).collect::<Vec<_>>() });
    match &filter.test {
        None => Value::Object(Map::new()),
        Some(Test::Exact(c)) => comparison("exact", c),
        Some(Test::Prefix(c)) => comparison("prefix", c),
        Some(Test::Suffix(c)) => comparison("suffix", c),
        Some(Test::All(filters)) => list("all", filters),
        Some(Test::Any(filters)) => list("any", filters),
        Some(Test::Not(inner)) => json!({ "not": to_json(inner) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects_come_back_as_they_were_written() {
        for text in [
            r#"{"exact":{"type":"a"}}"#,
            r#"{"not":{"prefix":{"headers.Tenant":"a"}}}"#,
            r#"{"all":[{"suffix":{"key":"a"}},{"any":[{"exact":{"region":"eu"}}]}]}"#,
        ] {
            assert_eq!(to_json(&from_json(text).unwrap()).to_string(), text);
        }
    }

    #[test]
    fn several_have_to_hold_together() {
        let all = r#"{"all":[{"exact":{"type":"a"}},{"exact":{"source":"b"}}]}"#;
        for text in [
            r#"{"exact":{"type":"a","source":"b"}}"#,
            r#"[{"exact":{"type":"a"}},{"exact":{"source":"b"}}]"#,
        ] {
            assert_eq!(to_json(&from_json(text).unwrap()).to_string(), all);
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let bomb = format!("{}{}", "{\"not\":".repeat(100_000), "}".repeat(100_000));
        let long = format!("{{\"exact\":{{\"type\":\"{}\"}}}}", "x".repeat(1 << 20));
        for text in [
            "",
            "[]",
            "{}",
            "7",
            r#"{"sql":"type = 'a'"}"#,
            r#"{"exact":{"type":7}}"#,
            r#"{"exact":"type"}"#,
            r#"{"all":{}}"#,
            r#"{"exact":{"time":"x"}}"#,
            &bomb,
            &long,
        ] {
            let refused = from_json(text).unwrap_err();
            assert_eq!(refused.reason, Reason::InvalidFilter, "{}", &text[..text.len().min(50)]);
        }
    }
}
