//! JSON Schema, content models of objects, references and drafts: what the registries expect of
//! changes, and where this room is stricter.

use super::check_changes;
use crate::schema::Format;

/// Name, old, new, the rule broken backward and that broken forward; no rule: compatible.
const CHANGES: &[(&str, &str, &str, &str, &str)] = &[
    // Content models (Confluent): open, closed, partially open.
    (
        "property added to an open model",
        r#"{"type":"object","properties":{"a":{"type":"string"}}}"#,
        r#"{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"string"}}}"#,
        "property_added_to_open_content_model",
        "",
    ),
    (
        "property without constraints added to an open model",
        r#"{"type":"object"}"#,
        r#"{"type":"object","properties":{"b":{}}}"#,
        "",
        "",
    ),
    (
        "property added to a closed model",
        r#"{"type":"object","properties":{"a":{}},"additionalProperties":false}"#,
        r#"{"type":"object","properties":{"a":{},"b":{"type":"string"}},"additionalProperties":false}"#,
        "",
        "property_removed_from_closed_content_model",
    ),
    (
        "property added that is covered",
        r#"{"additionalProperties":{"type":"string"}}"#,
        r#"{"properties":{"b":{"type":["string","null"]}},"additionalProperties":{"type":"string"}}"#,
        "",
        "property_removed_not_covered_by_partially_open_content_model",
    ),
    (
        "property added that is not covered",
        r#"{"additionalProperties":{"type":"string"}}"#,
        r#"{"properties":{"b":{"type":"integer"}},"additionalProperties":{"type":"string"}}"#,
        "property_added_not_covered_by_partially_open_content_model",
        "property_removed_not_covered_by_partially_open_content_model",
    ),
    (
        "property added that a pattern covers",
        r#"{"patternProperties":{"^I_":{"type":"integer"}},"additionalProperties":false}"#,
        r#"{"properties":{"I_1":{"type":"number"}},"patternProperties":{"^I_":{"type":"integer"}},"additionalProperties":false}"#,
        "",
        "",
    ),
    (
        "model opened",
        r#"{"properties":{"a":{}},"additionalProperties":false}"#,
        r#"{"properties":{"a":{}}}"#,
        "",
        "additional_properties_removed",
    ),
    (
        "additional properties narrowed",
        r#"{"additionalProperties":{"type":["string","integer"]}}"#,
        r#"{"additionalProperties":{"type":"string"}}"#,
        "additional_properties_narrowed",
        "",
    ),
    (
        "pattern of properties narrowed",
        r#"{"patternProperties":{"^a":{"type":"number"}}}"#,
        r#"{"patternProperties":{"^a":{"type":"integer"}}}"#,
        "pattern_property_narrowed",
        "",
    ),
    (
        "unevaluated alone is additional",
        r#"{"properties":{"a":{}},"unevaluatedProperties":false}"#,
        r#"{"properties":{"a":{},"b":{"type":"string"}},"additionalProperties":false}"#,
        "",
        "property_removed_from_closed_content_model",
    ),
    (
        "property of another type",
        r#"{"properties":{"a":{"type":"string"}}}"#,
        r#"{"properties":{"a":{"type":"integer"}}}"#,
        "type_changed",
        "type_changed",
    ),
    (
        "required added",
        r#"{"properties":{"a":{}}}"#,
        r#"{"properties":{"a":{}},"required":["a"]}"#,
        "required_property_added",
        "",
    ),
    (
        "required with a default is still required",
        r#"{"type":"object"}"#,
        r#"{"type":"object","properties":{"a":{"default":1}},"required":["a"]}"#,
        "required_property_added",
        "",
    ),
    ("required in another order", r#"{"required":["a","b"]}"#, r#"{"required":["b","a"]}"#, "", ""),
    (
        "minProperties by required",
        r#"{"type":"object","required":["a","b"]}"#,
        r#"{"type":"object","required":["a"],"minProperties":2}"#,
        "",
        "required_property_added",
    ),
    (
        "maxProperties decreased",
        r#"{"maxProperties":4}"#,
        r#"{"maxProperties":3}"#,
        "max_properties_decreased",
        "",
    ),
    (
        "property names narrowed",
        r#"{"propertyNames":{"maxLength":4}}"#,
        r#"{"propertyNames":{"maxLength":3}}"#,
        "property_names_narrowed",
        "",
    ),
    (
        "dependentRequired added",
        r#"{"type":"object"}"#,
        r#"{"type":"object","dependentRequired":{"a":["b"]}}"#,
        "dependent_required_added",
        "",
    ),
    (
        "dependentRequired that always holds",
        r#"{"type":"object","required":["b"]}"#,
        r#"{"type":"object","dependentRequired":{"a":["b"]}}"#,
        "",
        "required_property_added",
    ),
    (
        "dependentSchemas added",
        r#"{"type":"object"}"#,
        r#"{"type":"object","dependentSchemas":{"a":{"required":["b"]}}}"#,
        "dependent_schema_added",
        "",
    ),
    (
        "pattern that hides from the rest",
        r#"{"patternProperties":{"^a":{"type":"string"}},"additionalProperties":{"type":"integer"}}"#,
        r#"{"additionalProperties":{"type":"integer"}}"#,
        "additional_properties_narrowed",
        "pattern_property_narrowed",
    ),
    (
        "pattern or rest, both fit",
        r#"{"patternProperties":{"^a":{"type":"string"}},"additionalProperties":{"type":"integer"}}"#,
        r#"{"additionalProperties":{"type":["integer","string"]}}"#,
        "",
        "pattern_property_narrowed",
    ),
    (
        "another pattern may match too",
        r#"{"patternProperties":{"^a":{"type":"string"}},"additionalProperties":false}"#,
        r#"{"patternProperties":{"b$":{"type":"integer"}}}"#,
        "pattern_property_narrowed",
        "additional_properties_removed",
    ),
    (
        "proofs that relied on one that failed",
        r##"{"type":"object","properties":{"c":{"$ref":"#"},"z":{"type":"integer"}},"additionalProperties":false}"##,
        r##"{"anyOf":[{"$ref":"#/$defs/b"},{"properties":{"c":{"$ref":"#/$defs/g"}}}],"$defs":{"b":{"properties":{"c":{"$ref":"#/$defs/g"},"z":{"type":"string"}}},"g":{"properties":{"c":{"$ref":"#/$defs/b"}}}}}"##,
        "cannot_prove",
        "type_narrowed",
    ),
    (
        "unevaluatedProperties beside allOf is more open",
        r#"{"allOf":[{"properties":{"a":{}}}],"unevaluatedProperties":false}"#,
        r#"{"maxProperties":0}"#,
        "max_properties_decreased",
        "cannot_prove",
    ),
    (
        "unevaluatedItems beside allOf is more open",
        r#"{"allOf":[{"prefixItems":[true]}],"unevaluatedItems":false}"#,
        r#"{"maxItems":0}"#,
        "max_items_added",
        "cannot_prove",
    ),
    (
        "unevaluatedItems beside contains is more open",
        r#"{"contains":{"type":"integer"},"unevaluatedItems":false}"#,
        r#"{"maxItems":0}"#,
        "max_items_added",
        "contains_added",
    ),
    // References.
    (
        "moved to a definition",
        r#"{"properties":{"a":{"type":"string"}}}"#,
        r##"{"properties":{"a":{"$ref":"#/$defs/s"}},"$defs":{"s":{"type":"string"}}}"##,
        "",
        "",
    ),
    (
        "definition narrowed",
        r##"{"$ref":"#/$defs/s","$defs":{"s":{"type":"number"}}}"##,
        r##"{"$ref":"#/$defs/s","$defs":{"s":{"type":"integer"}}}"##,
        "type_narrowed",
        "",
    ),
    (
        "tree widened",
        r##"{"properties":{"v":{"type":"integer"},"next":{"$ref":"#"}},"additionalProperties":false}"##,
        r##"{"properties":{"v":{"type":"number"},"next":{"$ref":"#"}},"additionalProperties":false}"##,
        "",
        "type_narrowed",
    ),
    (
        "tree unrolled once",
        r##"{"type":"object","properties":{"next":{"$ref":"#"}},"additionalProperties":false}"##,
        r##"{"type":"object","properties":{"next":{"type":"object","properties":{"next":{"$ref":"#"}},"additionalProperties":false}},"additionalProperties":false}"##,
        "",
        "",
    ),
    // Draft 7.
    (
        "draft 7: definitions",
        r##"{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"s":{"type":"number"}},"items":{"$ref":"#/definitions/s"}}"##,
        r##"{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"s":{"type":"integer"}},"items":{"$ref":"#/definitions/s"}}"##,
        "type_narrowed",
        "",
    ),
    (
        "draft 7: list of items",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"}],"additionalItems":false}"#,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"},{"type":"integer"}],"additionalItems":false}"#,
        "",
        "items_removed_from_closed_content_model",
    ),
    (
        "draft 7: additionalItems without a list counts for nothing",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","additionalItems":false}"#,
        "",
        "",
    ),
    (
        "draft 7: dependencies",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","dependencies":{"a":["b","c"]}}"#,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","dependencies":{"a":["b"]}}"#,
        "",
        "dependent_required_added",
    ),
    (
        "draft 7 to 2020-12",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"}]}"#,
        r#"{"prefixItems":[{"type":"string"}]}"#,
        "",
        "",
    ),
];

#[test]
fn json_changes_of_content_models() {
    check_changes(Format::Json, CHANGES);
}
