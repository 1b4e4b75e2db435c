//! JSON payloads: the specification, keyword by keyword, with the places of violations.

use super::{compiled, definition};
use crate::schema::limits::{INSTANCE_DEPTH_MAX, VIOLATIONS_MAX};
use crate::schema::{Format, Reference, Resolved, compile};

/// Name, schema, payload, and the pointers of its violations; none: it is valid.
const CASES: &[(&str, &str, &str, &[&str])] = &[
    ("true takes all", "true", "1", &[]),
    ("false takes nothing", "false", "1", &[""]),
    ("type", r#"{"type":"string"}"#, "1", &[""]),
    ("type list", r#"{"type":["string","null"]}"#, "null", &[]),
    ("1.0 is an integer", r#"{"type":"integer"}"#, "1.0", &[]),
    ("1.5 is none", r#"{"type":"integer"}"#, "1.5", &[""]),
    ("1e300 is an integer", r#"{"type":"integer"}"#, "1e300", &[]),
    ("booleans are no numbers", r#"{"type":"number"}"#, "true", &[""]),
    ("const of numbers", r#"{"const":1}"#, "1.0", &[]),
    ("const is no boolean", r#"{"const":1}"#, "true", &[""]),
    ("enum", r#"{"enum":["a",{"b":[1]}]}"#, r#"{"b":[1.0]}"#, &[]),
    ("not in enum", r#"{"enum":["a","b"]}"#, r#""c""#, &[""]),
    ("minimum", r#"{"minimum":2}"#, "1.9", &[""]),
    ("minimum of other types", r#"{"minimum":2}"#, r#""a""#, &[]),
    ("exclusiveMaximum", r#"{"exclusiveMaximum":2}"#, "2", &[""]),
    ("bounds beyond f64", r#"{"maximum":9007199254740992}"#, "9007199254740993", &[""]),
    ("multipleOf", r#"{"multipleOf":3}"#, "7", &[""]),
    ("multipleOf of a fraction", r#"{"multipleOf":0.01}"#, "0.07", &[]),
    ("minLength counts characters", r#"{"minLength":2}"#, r#""é""#, &[""]),
    ("maxLength counts characters", r#"{"maxLength":1}"#, r#""💩""#, &[]),
    ("pattern is not anchored", r#"{"pattern":"b+"}"#, r#""abc""#, &[]),
    ("pattern anchored", r#"{"pattern":"^b+$"}"#, r#""abc""#, &[""]),
    ("pattern with classes of ECMA-262", r#"{"pattern":"^\\d$"}"#, r#""٣""#, &[""]),
    ("format is not asserted", r#"{"format":"email"}"#, r#""no mail""#, &[]),
    (
        "format is not asserted in draft 7 either",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","format":"ipv4"}"#,
        r#""no address""#,
        &[],
    ),
    (
        "content is not asserted in draft 7 either",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","contentMediaType":"application/json","contentEncoding":"base64"}"#,
        r#""{""#,
        &[],
    ),
    ("required", r#"{"required":["a","b"]}"#, "{}", &["/a", "/b"]),
    ("required of other types", r#"{"required":["a"]}"#, "[]", &[]),
    (
        "properties",
        r#"{"properties":{"a":{"type":"string"},"b/c":{"type":"string"}}}"#,
        r#"{"a":1,"b/c":2}"#,
        &["/a", "/b~1c"],
    ),
    (
        "patternProperties",
        r#"{"patternProperties":{"^x":{"type":"integer"}}}"#,
        r#"{"x1":"a","y":"b"}"#,
        &["/x1"],
    ),
    (
        "additionalProperties",
        r#"{"properties":{"a":{}},"patternProperties":{"^x":{}},"additionalProperties":false}"#,
        r#"{"a":1,"x":2,"b":3}"#,
        &[""],
    ),
    (
        "additionalProperties with a schema",
        r#"{"properties":{"a":{}},"additionalProperties":{"type":"string"}}"#,
        r#"{"a":1,"b":2}"#,
        &["/b"],
    ),
    (
        "additionalProperties does not look into allOf",
        r#"{"allOf":[{"properties":{"a":{}}}],"additionalProperties":false}"#,
        r#"{"a":1}"#,
        &[""],
    ),
    (
        "unevaluatedProperties does",
        r#"{"allOf":[{"properties":{"a":{}}}],"unevaluatedProperties":false}"#,
        r#"{"a":1}"#,
        &[],
    ),
    (
        "unevaluatedProperties refuses the rest",
        r#"{"allOf":[{"properties":{"a":{}}}],"unevaluatedProperties":false}"#,
        r#"{"a":1,"b":2}"#,
        &[""],
    ),
    (
        "unevaluatedProperties after a branch that failed",
        r#"{"anyOf":[{"properties":{"a":{"const":1}},"required":["a"]},true],"unevaluatedProperties":false}"#,
        r#"{"a":2}"#,
        &[""],
    ),
    ("propertyNames", r#"{"propertyNames":{"maxLength":1}}"#, r#"{"ab":1}"#, &[""]),
    ("minProperties", r#"{"minProperties":1}"#, "{}", &[""]),
    ("maxProperties", r#"{"maxProperties":1}"#, r#"{"a":1,"b":2}"#, &[""]),
    ("dependentRequired", r#"{"dependentRequired":{"a":["b"]}}"#, r#"{"a":1}"#, &["/b"]),
    (
        "dependentRequired without its cause",
        r#"{"dependentRequired":{"a":["b"]}}"#,
        r#"{"c":1}"#,
        &[],
    ),
    ("dependentSchemas", r#"{"dependentSchemas":{"a":{"required":["b"]}}}"#, r#"{"a":1}"#, &["/b"]),
    ("items", r#"{"items":{"type":"integer"}}"#, r#"[1,"a",2,"b"]"#, &["/1", "/3"]),
    (
        "prefixItems",
        r#"{"prefixItems":[{"type":"integer"},{"type":"string"}]}"#,
        r#"["a",1,true]"#,
        &["/0", "/1"],
    ),
    (
        "prefixItems of a shorter array",
        r#"{"prefixItems":[{"type":"integer"},{"type":"string"}]}"#,
        "[1]",
        &[],
    ),
    (
        "items after prefixItems",
        r#"{"prefixItems":[true],"items":{"type":"integer"}}"#,
        r#"["a","b"]"#,
        &["/1"],
    ),
    ("items false after prefixItems", r#"{"prefixItems":[true],"items":false}"#, "[1,2]", &["/1"]),
    (
        "unevaluatedItems",
        r#"{"allOf":[{"prefixItems":[true]}],"unevaluatedItems":false}"#,
        "[1,2]",
        &[""],
    ),
    ("minItems", r#"{"minItems":2}"#, "[1]", &[""]),
    ("maxItems", r#"{"maxItems":1}"#, "[1,2]", &[""]),
    ("uniqueItems", r#"{"uniqueItems":true}"#, "[1,1.0]", &[""]),
    ("uniqueItems tells apart", r#"{"uniqueItems":true}"#, "[1,true,[1],{\"a\":1}]", &[]),
    ("contains", r#"{"contains":{"type":"integer"}}"#, r#"["a"]"#, &[""]),
    ("minContains of zero", r#"{"contains":{"type":"integer"},"minContains":0}"#, "[]", &[]),
    ("maxContains", r#"{"contains":{"type":"integer"},"maxContains":1}"#, "[1,2]", &[""]),
    ("allOf", r#"{"allOf":[{"minimum":1},{"maximum":2}]}"#, "3", &[""]),
    ("anyOf", r#"{"anyOf":[{"type":"string"},{"minimum":2}]}"#, "1", &[""]),
    ("oneOf with two", r#"{"oneOf":[{"type":"integer"},{"minimum":2}]}"#, "3", &[""]),
    ("oneOf with one", r#"{"oneOf":[{"type":"integer"},{"minimum":2}]}"#, "1", &[]),
    ("not", r#"{"not":{"type":"integer"}}"#, "1", &[""]),
    (
        "if and then",
        r#"{"if":{"properties":{"a":{"const":1}}},"then":{"required":["b"]},"else":{"required":["c"]}}"#,
        r#"{"a":1}"#,
        &["/b"],
    ),
    (
        "if and else",
        r#"{"if":{"properties":{"a":{"const":1}}},"then":{"required":["b"]},"else":{"required":["c"]}}"#,
        r#"{"a":2}"#,
        &["/c"],
    ),
    ("then without if", r#"{"then":false}"#, "1", &[]),
    ("$ref to $defs", r##"{"$ref":"#/$defs/a","$defs":{"a":{"type":"string"}}}"##, "1", &[""]),
    (
        "$ref with its neighbours",
        r##"{"$ref":"#/$defs/a","maxLength":1,"$defs":{"a":{"type":"string"}}}"##,
        r#""ab""#,
        &[""],
    ),
    (
        "$ref without its neighbours in draft 7",
        r##"{"$schema":"http://json-schema.org/draft-07/schema#","properties":{"x":{"$ref":"#/definitions/a","maxLength":1}},"definitions":{"a":{"type":"string"}}}"##,
        r#"{"x":"ab"}"#,
        &[],
    ),
    (
        "$ref to the whole",
        r##"{"properties":{"next":{"$ref":"#"},"v":{"type":"integer"}}}"##,
        r#"{"next":{"next":{"v":"a"}}}"#,
        &["/next/next/v"],
    ),
    (
        "$ref to an anchor",
        r##"{"$ref":"#here","$defs":{"a":{"$anchor":"here","type":"string"}}}"##,
        "1",
        &[""],
    ),
    (
        "$ref to an embedded $id",
        r#"{"$id":"https://x.test/a","$ref":"b","$defs":{"b":{"$id":"b","type":"string"}}}"#,
        "1",
        &[""],
    ),
    (
        "$ref with escapes",
        r##"{"properties":{"x":{"$ref":"#/$defs/a~1b%25"}},"$defs":{"a/b%":{"type":"string"}}}"##,
        r#"{"x":1}"#,
        &["/x"],
    ),
    (
        "$dynamicRef",
        r##"{"$id":"https://x.test/strict","$dynamicAnchor":"n","$ref":"tree","unevaluatedProperties":false,"$defs":{"t":{"$id":"tree","$dynamicAnchor":"n","properties":{"c":{"items":{"$dynamicRef":"#n"}}}}}}"##,
        r#"{"c":[{"d":1}]}"#,
        &["/c/0"],
    ),
    (
        "draft 7: items as a list",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"integer"}],"additionalItems":{"type":"string"}}"#,
        r#"["a",1]"#,
        &["/0", "/1"],
    ),
    (
        "draft 7: definitions",
        r##"{"$schema":"http://json-schema.org/draft-07/schema#","$ref":"#/definitions/a","definitions":{"a":{"type":"string"}}}"##,
        "1",
        &[""],
    ),
    (
        "draft 7: dependencies",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","dependencies":{"a":["b"],"c":{"required":["d"]}}}"#,
        r#"{"a":1,"c":1}"#,
        &["/b", "/d"],
    ),
    (
        "draft 7: no prefixItems",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","prefixItems":[{"type":"integer"}]}"#,
        r#"["a"]"#,
        &[],
    ),
    ("unknown keywords", r#"{"x-owner":"me","minimun":3}"#, "1", &[]),
    (
        "the last of two members counts",
        r#"{"properties":{"a":{"type":"integer"}}}"#,
        r#"{"a":"x","a":1}"#,
        &[],
    ),
];

#[test]
fn json_payloads() {
    let mut wrong = Vec::new();
    for (name, schema, payload, pointers) in CASES {
        let found = compiled(Format::Json, schema).validate(payload.as_bytes(), "");
        let found: Vec<String> = found
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(|violation| violation.pointer)
            .collect();
        if found != *pointers {
            wrong.push(format!("{name}: {pointers:?} expected, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn broken_json_names_line_and_column() {
    let schema = compiled(Format::Json, "{}");
    for (payload, place) in [
        (&b""[..], "line 1 column 0"),
        (b"{\"a\":\n 1,}", "line 2 column 4"),
        (b"1 2", "line 1 column 3"),
        (b"\"\xff\"", "line 1 column"),
        (b"1e999", "line 1 column"),
    ] {
        let found = schema.validate(payload, "").unwrap_err();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pointer, "");
        assert!(found[0].text.contains(place), "{}", found[0].text);
    }
}

#[test]
fn payloads_nest_so_deep_and_no_deeper() {
    let schema = compiled(Format::Json, r##"{"items":{"$ref":"#"}}"##);
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(schema.validate(nested(INSTANCE_DEPTH_MAX - 1).as_bytes(), ""), Ok(()));
    for levels in [INSTANCE_DEPTH_MAX, 100_000] {
        let found = schema.validate(nested(levels).as_bytes(), "").unwrap_err();
        assert!(found[0].text.contains("recursion limit"), "{}", found[0].text);
    }
}

#[test]
fn every_violation_is_named_up_to_a_bound() {
    let schema = compiled(Format::Json, r#"{"items":{"type":"string","minLength":3}}"#);
    let some = format!("[{}]", vec!["1"; 40].join(","));
    let found = schema.validate(some.as_bytes(), "").unwrap_err();
    assert_eq!(found.len(), 40);
    assert_eq!(found[39].pointer, "/39");
    assert_eq!(
        found[39].text,
        "1 is not of type \"string\"; the schema asks for it at /items/type"
    );
    for (count, last) in
        [(100, "1 is not of type"), (101, "there are more"), (400_000, "there are more")]
    {
        let many = format!("[{}]", vec!["1"; count].join(","));
        let found = schema.validate(many.as_bytes(), "").unwrap_err();
        assert_eq!(found.len(), count.min(VIOLATIONS_MAX + 1));
        assert!(found.last().unwrap().text.starts_with(last), "{count}: {:?}", found.last());
    }
}

#[test]
fn the_branch_that_was_meant_is_named() {
    let schema = compiled(
        Format::Json,
        r#"{"oneOf":[{"type":"null"},{"properties":{"a":{"properties":{"b":{"type":"string"}}}}}]}"#,
    );
    let found = schema.validate(br#"{"a":{"b":1}}"#, "").unwrap_err();
    assert_eq!(found.len(), 1);
    assert!(found[0].text.contains(r#"at "/a/b": 1 is not of type "string""#), "{}", found[0].text);
}

fn reference(name: &str) -> Reference {
    Reference { name: name.to_owned(), subject: "s".to_owned(), version: 1 }
}

fn resolved(name: &str, text: &str, inner: Vec<Resolved>) -> Resolved {
    let mut definition = definition(Format::Json, text);
    definition.references = inner.iter().map(|inner| reference(&inner.name)).collect();
    Resolved { name: name.to_owned(), definition, resolved: inner }
}

#[test]
fn references_are_found_by_name() {
    let deep = resolved("money.json", r#"{"type":"integer"}"#, Vec::new());
    for (main, name) in [
        (r#"{"properties":{"c":{"$ref":"customer.json"}}}"#, "customer.json"),
        (r##"{"properties":{"c":{"$ref":"customer.json#"}}}"##, "customer.json"),
        (
            r#"{"$id":"https://x.test/s/order","properties":{"c":{"$ref":"customer.json"}}}"#,
            "customer.json",
        ),
        (
            r#"{"$id":"https://x.test/s/order","properties":{"c":{"$ref":"https://x.test/s/customer.json"}}}"#,
            "customer.json",
        ),
        (r#"{"properties":{"c":{"$ref":"https://y.test/c"}}}"#, "https://y.test/c"),
        (r#"{"properties":{"c":{"$ref":"urn:example:c"}}}"#, "urn:example:c"),
    ] {
        // What the other refers to in turn is found from where that one is.
        let text = r#"{"properties":{"credit":{"$ref":"money.json"}},"required":["id"]}"#;
        let relative = !name.starts_with("urn");
        let inner = if relative { vec![deep.clone()] } else { Vec::new() };
        let text = if relative { text } else { r#"{"required":["id"]}"# };
        let mut order = definition(Format::Json, main);
        order.references = vec![reference(name)];
        let schema = compile(&order, &[resolved(name, text, inner)]).unwrap();
        let found = schema.validate(br#"{"c":{"credit":"x"}}"#, "").unwrap_err();
        let pointers: Vec<&str> = found.iter().map(|v| v.pointer.as_str()).collect();
        let expected: &[&str] = if relative { &["/c/id", "/c/credit"] } else { &["/c/id"] };
        assert_eq!(pointers, expected, "{main}");
    }
}

#[test]
fn a_reference_may_be_called_by_its_id() {
    let mut order = definition(Format::Json, r##"{"$ref":"https://x.test/c#/$defs/n"}"##);
    order.references = vec![reference("c.json")];
    let text = r#"{"$id":"https://x.test/c","$defs":{"n":{"type":"integer"}}}"#;
    let schema = compile(&order, &[resolved("c.json", text, Vec::new())]).unwrap();
    assert!(schema.validate(b"1", "").is_ok());
    assert!(schema.validate(b"\"a\"", "").is_err());
}
