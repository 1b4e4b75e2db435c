//! JSON Schemas and payloads that mean harm, or that are simply wrong.

use super::{compiled, definition, problems};
use crate::schema::limits::{
    JSON_STEPS_MAX, SCHEMA_BYTES_MAX, SCHEMA_PATTERNS_MAX, TEXT_BYTES_MAX, VIOLATIONS_MAX,
};
use crate::schema::{Direction, Format, compile, incompatibilities};

/// Name, schema, the place of its first problem, and a part of its text.
const REFUSED: &[(&str, &str, &str, &str)] = &[
    ("no JSON", "{", "", "line 1 column 1"),
    ("no schema", "[]", "", "neither an object nor a boolean"),
    ("wrong keyword", r#"{"properties":{"a":{"type":"text"}}}"#, "/properties/a/type", "text"),
    (
        "wrong keyword in draft 7",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","required":"a"}"#,
        "/required",
        "array",
    ),
    (
        "remote by http",
        r#"{"properties":{"a":{"$ref":"http://x.test/a"}}}"#,
        "/properties/a/$ref",
        "nothing is fetched",
    ),
    (
        "remote by https, in an unused part",
        r##"{"$defs":{"a":{"items":{"$ref":"https://x.test/a#/b"}}}}"##,
        "/$defs/a/items/$ref",
        "nothing is fetched",
    ),
    ("remote by file", r#"{"$ref":"file:///etc/passwd"}"#, "/$ref", "nothing is fetched"),
    ("remote by name", r#"{"$ref":"order.json"}"#, "/$ref", "nothing is fetched"),
    (
        "remote by $dynamicRef",
        r##"{"$dynamicRef":"https://x.test/a#b"}"##,
        "/$dynamicRef",
        "nothing is fetched",
    ),
    (
        "meta-schema by $ref",
        r#"{"$ref":"https://json-schema.org/draft/2020-12/schema"}"#,
        "/$ref",
        "nothing is fetched",
    ),
    ("no URI", r#"{"items":{"$ref":"http://[x"}}"#, "", "http://[x"),
    ("leads to nothing", r##"{"$ref":"#/$defs/a"}"##, "/$ref", "leads to nothing"),
    ("anchor that is not there", r##"{"items":{"$ref":"#a"}}"##, "/items/$ref", "leads to nothing"),
    (
        "leads to no schema",
        r##"{"$ref":"#/x","x":"text"}"##,
        "/x",
        "neither an object nor a boolean",
    ),
    (
        "leads to a broken schema",
        r##"{"$ref":"#/x","x":{"minLength":"a"}}"##,
        "/x/minLength",
        "integer",
    ),
    (
        "other meta-schema",
        r#"{"$schema":"http://x.test/meta"}"#,
        "/$schema",
        "draft/2020-12/schema",
    ),
    (
        "draft 4",
        r#"{"$schema":"http://json-schema.org/draft-04/schema#"}"#,
        "/$schema",
        "draft-07/schema",
    ),
    (
        "draft 2019-09",
        r#"{"$schema":"https://json-schema.org/draft/2019-09/schema"}"#,
        "/$schema",
        "draft/2020-12/schema",
    ),
    (
        "other meta-schema within",
        r#"{"items":{"$id":"a","$schema":"http://x.test/meta"}}"#,
        "/items/$schema",
        "is not supported",
    ),
    ("meta-schema that is no text", r#"{"$schema":1}"#, "/$schema", "is not supported"),
    ("cycle of one", r##"{"$ref":"#"}"##, "", "only lead to one another"),
    (
        "cycle of two",
        r##"{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##,
        "/$defs/a",
        "/$defs/b",
    ),
    (
        "cycle through allOf and not",
        r##"{"properties":{"x":{"allOf":[{"not":{"$ref":"#/properties/x"}}]}}}"##,
        "/properties/x",
        "only lead to one another",
    ),
    ("cycle through if", r##"{"if":{"$ref":"#"},"then":false}"##, "", "only lead to one another"),
    (
        "cycle through dependentSchemas",
        r##"{"dependentSchemas":{"a":{"$ref":"#"}}}"##,
        "",
        "only lead to one another",
    ),
    (
        "cycle through $dynamicRef",
        r##"{"$dynamicAnchor":"a","allOf":[{"$dynamicRef":"#a"}]}"##,
        "",
        "only lead to one another",
    ),
    ("look-ahead", r#"{"pattern":"a(?=b)"}"#, "/pattern", "without look-around"),
    ("look-behind", r#"{"items":{"pattern":"(?<!a)b"}}"#, "/items/pattern", "without look-around"),
    ("back reference", r#"{"pattern":"(a)\\1"}"#, "/pattern", "without back references"),
    (
        "broken pattern",
        r#"{"patternProperties":{"(/~":true}}"#,
        "/patternProperties/(~1~0",
        "no regular expression",
    ),
    ("huge pattern", r#"{"pattern":"(\\p{L}{100}){100}"}"#, "/pattern", "fewer repetitions"),
];

#[test]
fn refused_with_their_places() {
    let mut wrong = Vec::new();
    for (name, schema, place, text) in REFUSED {
        let found = problems(Format::Json, schema);
        let first = found.first().map(|p| (p.place.as_str(), p.text.contains(text)));
        if first != Some((*place, true)) {
            wrong.push(format!("{name}: {place:?} and {text:?} expected, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_problems_of_a_stage_are_named() {
    let schema = r#"{"properties":{"a":{"$ref":"http://x.test/a"},"b":{"$ref":"b"},"c":{"pattern":"(?=a)"}}}"#;
    let found = problems(Format::Json, schema);
    let mut places: Vec<&str> = found.iter().map(|p| p.place.as_str()).collect();
    places.sort_unstable();
    assert_eq!(places, ["/properties/a/$ref", "/properties/b/$ref"]);
    let types: Vec<String> = (0..300).map(|i| format!(r#""p{i}":{{"type":{i}}}"#)).collect();
    let found = problems(Format::Json, &format!(r#"{{"properties":{{{}}}}}"#, types.join(",")));
    assert_eq!(found.len(), 101);
    assert_eq!(found[100].text, "there are more; the first 100 are told");
}

#[test]
fn large_and_deep_schemas_are_refused() {
    let nested =
        |levels: usize| format!("{}true{}", "{\"not\":".repeat(levels), "}".repeat(levels));
    for (schema, text) in [
        (format!(r#"{{"title":"{}"}}"#, "a".repeat(10 << 20)), "bytes of text"),
        (format!(r#"{{"title":"{}"}}"#, "a".repeat(SCHEMA_BYTES_MAX)), "bytes of text"),
        (nested(64), "nests deeper than 64"),
        (nested(1000), "recursion limit"),
        (nested(10_000), "recursion limit"),
        (
            format!(r#"{{"allOf":[{}]}}"#, vec!["true"; 10_001].join(",")),
            "more than 10000 sub-schemas",
        ),
    ] {
        let found = problems(Format::Json, &schema);
        assert!(found[0].text.contains(text), "{text}: {found:?}");
    }
    // With a container at the end it would be one level more.
    compiled(Format::Json, &nested(63));
    let patterns = |count: usize| {
        let all: Vec<String> = (0..count).map(|i| format!(r#""^a{i}":true"#)).collect();
        format!(r#"{{"patternProperties":{{{}}}}}"#, all.join(","))
    };
    compiled(Format::Json, &patterns(SCHEMA_PATTERNS_MAX));
    let found = problems(Format::Json, &patterns(SCHEMA_PATTERNS_MAX + 1));
    assert!(found[0].text.contains("regular expressions"), "{found:?}");
}

/// Definitions of which each refers to the next, in a form that has `NEXT` for that.
fn chain(count: usize, form: &str, last: &str) -> String {
    let mut definitions: Vec<String> = (0..count)
        .map(|i| {
            let next = format!(r##"{{"$ref":"#/$defs/d{}"}}"##, i + 1);
            format!(r#""d{i}":{}"#, form.replace("NEXT", &next))
        })
        .collect();
    definitions.push(format!(r#""d{count}":{last}"#));
    format!(r##"{{"$ref":"#/$defs/d0","$defs":{{{}}}}}"##, definitions.join(","))
}

#[test]
fn schemas_that_multiply_are_refused_or_shared() {
    // Doubling for one value is work for each payload; for the parts of a value it is not.
    let found = problems(Format::Json, &chain(14, r#"{"allOf":[NEXT,NEXT]}"#, "true"));
    assert!(found[0].text.contains("apply to one value, references followed"), "{found:?}");
    let found = problems(Format::Json, &chain(70, "NEXT", "true"));
    assert!(found[0].text.contains("within one another"), "{found:?}");
    let shared = compiled(
        Format::Json,
        &chain(60, r#"{"properties":{"a":NEXT,"b":NEXT}}"#, r#"{"type":"string"}"#),
    );
    assert!(shared.validate(br#"{"a":{"b":{}}}"#, "").is_ok());
    assert_eq!(incompatibilities(&shared, &shared, Direction::Backward), []);
}

#[test]
fn long_chains_take_less_deep_payloads() {
    let schema = compiled(Format::Json, &chain(50, "NEXT", r##"{"items":{"$ref":"#/$defs/d0"}}"##));
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    assert!(schema.validate(nested(10).as_bytes(), "").is_ok());
    let found = schema.validate(nested(40).as_bytes(), "").unwrap_err();
    assert!(found[0].text.contains("nests 41 levels deep"), "{found:?}");
}

#[test]
fn validation_keeps_to_the_stack() {
    // As many sub-schemas within one another as there may be, on the smallest stack of a thread.
    let tree = r##"{"$defs":{"a":{"allOf":[{"anyOf":[{"oneOf":[{"properties":{"a":{"$ref":"#/$defs/a"}},"additionalProperties":false}]}]}]}},"$ref":"#/$defs/a"}"##;
    let run = move || {
        let schema = compiled(Format::Json, tree);
        let nested = |inner: &str| format!("{}{inner}{}", "{\"a\":".repeat(125), "}".repeat(125));
        assert!(schema.validate(nested("1").as_bytes(), "").is_ok());
        assert!(schema.validate(nested("{\"b\":1}").as_bytes(), "").is_err());
        let long = compiled(Format::Json, &chain(2000, r#"{"items":NEXT}"#, r#"{"maxLength":1}"#));
        let other = compiled(Format::Json, &chain(2000, r#"{"items":NEXT}"#, r#"{"maxLength":2}"#));
        assert!(!incompatibilities(&long, &other, Direction::Backward).is_empty());
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
}

#[test]
fn regular_expressions_take_linear_time() {
    let schema = compiled(Format::Json, r#"{"pattern":"^(a+)+$"}"#);
    let long = format!("\"{}b\"", "a".repeat(1_000_000));
    assert!(schema.validate(long.as_bytes(), "").is_err());
    let schema = compiled(Format::Json, r#"{"patternProperties":{"(x+x+)+y":false}}"#);
    let long = format!("{{\"{}\":1}}", "x".repeat(1_000_000));
    assert!(schema.validate(long.as_bytes(), "").is_ok());
}

#[test]
fn payloads_that_cost_too_much_are_refused() {
    let checks = vec![r#"{"type":"number"}"#; 5000].join(",");
    let schema = compiled(Format::Json, &format!(r#"{{"items":{{"allOf":[{checks}]}}}}"#));
    let payload = format!("[{}]", vec!["1"; 100_000].join(","));
    let found = schema.validate(payload.as_bytes(), "").unwrap_err();
    assert!(found[0].text.contains(&format!("more than {JSON_STEPS_MAX} steps")), "{found:?}");
    let unique = vec![r#"{"uniqueItems":true}"#; 5000].join(",");
    let schema = compiled(Format::Json, &format!(r#"{{"allOf":[{unique}]}}"#));
    let payload: Vec<String> = (0..100_000).map(|i| i.to_string()).collect();
    let found = schema.validate(format!("[{}]", payload.join(",")).as_bytes(), "").unwrap_err();
    assert!(found[0].text.contains("steps"), "{found:?}");
    assert!(schema.validate(b"[1,2]", "").is_ok());
}

#[test]
fn reports_are_small_whatever_is_wrong() {
    let name = "n".repeat(200_000);
    let schema = compiled(Format::Json, r#"{"additionalProperties":{"items":{"type":"string"}}}"#);
    let payload = format!("{{\"{name}\":[{}]}}", vec!["1"; 100_000].join(","));
    let found = schema.validate(payload.as_bytes(), "").unwrap_err();
    assert!(!found.is_empty() && found.len() <= VIOLATIONS_MAX + 1);
    for violation in &found {
        assert!(violation.pointer.len() <= TEXT_BYTES_MAX + 3, "{}", violation.pointer.len());
        assert!(violation.text.len() <= TEXT_BYTES_MAX + 3, "{}", violation.text.len());
    }
    let needs: Vec<String> = (0..5000).map(|i| format!(r#"{{"required":["r{i}"]}}"#)).collect();
    let schema = compiled(
        Format::Json,
        &format!(r#"{{"anyOf":[{{"allOf":[{}]}},{{"type":"string"}}]}}"#, needs.join(",")),
    );
    let payload = format!("{{\"a\":[{}]}}", vec!["1"; 100_000].join(","));
    let found = schema.validate(payload.as_bytes(), "").unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].text.contains("more ways than can be listed"), "{found:?}");
}

#[test]
fn comparisons_that_cost_too_much_are_refused() {
    let schema = |max: usize| {
        let all: Vec<String> = (0..40)
            .map(|i| {
                format!(
                    r#"{{"anyOf":[{{"required":["a{i}"]}},{{"properties":{{"b{i}":{{"maxLength":{max}}}}}}},{{"minProperties":{i}}}]}}"#
                )
            })
            .collect();
        compiled(Format::Json, &format!(r#"{{"allOf":[{}]}}"#, all.join(",")))
    };
    let found = incompatibilities(&schema(3), &schema(2), Direction::Backward);
    assert!(found.iter().all(|found| found.rule == "cannot_prove"), "{found:?}");
    assert!(!found.is_empty());
}

#[test]
fn two_schemas_of_one_name_are_refused() {
    let mut order = definition(Format::Json, r#"{"$id":"https://x.test/a","$ref":"b"}"#);
    let resolved = |name: &str, text: &str| crate::schema::Resolved {
        name: name.to_owned(),
        definition: definition(Format::Json, text),
        resolved: Vec::new(),
    };
    order.references = ["b", "c"]
        .map(|name| crate::schema::Reference {
            name: name.to_owned(),
            subject: name.to_owned(),
            version: 1,
        })
        .to_vec();
    let same = [resolved("b", "true"), resolved("c", r#"{"$id":"b"}"#)];
    let found = compile(&order, &same).err().unwrap().problems;
    assert!(found[0].text.contains("two different schemas are called"), "{found:?}");
    let missing = compile(&order, &[resolved("b", "true")]).err().unwrap().problems;
    assert_eq!(missing[0].place, "c");
    assert!(missing[0].text.contains("was not resolved"), "{missing:?}");
}
