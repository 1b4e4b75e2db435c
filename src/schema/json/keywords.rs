//! The keywords of the two dialects that hold sub-schemas or assert something.

use jsonschema::Draft;

/// How a sub-schema bears on the value that its schema is applied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    /// `$ref`.
    Ref,
    /// `$dynamicRef`, to everything that it may lead to.
    DynamicRef,
    /// `allOf`.
    AllOf,
    /// `anyOf`.
    AnyOf,
    /// `oneOf`.
    OneOf,
    /// `not`.
    Not,
    /// `if`.
    If,
    /// `then`.
    Then,
    /// `else`.
    Else,
    /// A schema in `dependentSchemas` or `dependencies`; the key is the property.
    Dependent,
    /// In `properties`; the key is the name.
    Property,
    /// In `patternProperties`; the key is the pattern.
    PatternProperty,
    /// `additionalProperties`.
    AdditionalProperties,
    /// `unevaluatedProperties`.
    UnevaluatedProperties,
    /// `propertyNames`.
    PropertyNames,
    /// In `prefixItems`, or in the list `items` of draft 7.
    PrefixItem,
    /// `items` for all the rest; `additionalItems` of draft 7 next to a list.
    Items,
    /// `unevaluatedItems`.
    UnevaluatedItems,
    /// `contains`.
    Contains,
}

impl Slot {
    /// Whether the sub-schema is applied to the same value as the schema that holds it.
    pub(super) fn is_in_place(self) -> bool {
        self <= Self::Dependent
    }

    /// Whether several of them are told apart by name.
    pub(super) fn has_names(self) -> bool {
        matches!(self, Self::Dependent | Self::Property | Self::PatternProperty)
    }

    /// Its keyword, for texts.
    pub(super) fn keyword(self) -> &'static str {
        match self {
            Self::Ref => "$ref",
            Self::DynamicRef => "$dynamicRef",
            Self::AllOf => "allOf",
            Self::AnyOf => "anyOf",
            Self::OneOf => "oneOf",
            Self::Not => "not",
            Self::If => "if",
            Self::Then => "then",
            Self::Else => "else",
            Self::Dependent => "dependentSchemas",
            Self::Property => "properties",
            Self::PatternProperty => "patternProperties",
            Self::AdditionalProperties => "additionalProperties",
            Self::UnevaluatedProperties => "unevaluatedProperties",
            Self::PropertyNames => "propertyNames",
            Self::PrefixItem => "prefixItems",
            Self::Items => "items",
            Self::UnevaluatedItems => "unevaluatedItems",
            Self::Contains => "contains",
        }
    }
}

/// What a keyword's value holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// A schema.
    One(Slot),
    /// A list of schemas.
    List(Slot),
    /// A schema, or a list of schemas in another role: `items` of draft 7.
    OneOrList(Slot, Slot),
    /// Schemas by name.
    Map(Slot),
    /// Schemas or lists of names, by name: `dependencies`.
    MapOrNames(Slot),
    /// Schemas by name that are only there to be referred to.
    Definitions,
    /// A schema that asserts nothing.
    Annotation,
}

/// What the value of `keyword` holds; `None` when it holds no schema.
///
/// `dependencies` counts in draft 2020-12 too: its meta-schema still knows it, and the validator
/// asserts it.
pub(super) fn holds(draft: Draft, keyword: &str) -> Option<Holds> {
    let old = draft == Draft::Draft7;
    Some(match keyword {
        "allOf" => Holds::List(Slot::AllOf),
        "anyOf" => Holds::List(Slot::AnyOf),
        "oneOf" => Holds::List(Slot::OneOf),
        "not" => Holds::One(Slot::Not),
        "if" => Holds::One(Slot::If),
        "then" => Holds::One(Slot::Then),
        "else" => Holds::One(Slot::Else),
        "dependencies" => Holds::MapOrNames(Slot::Dependent),
        "dependentSchemas" if !old => Holds::Map(Slot::Dependent),
        "properties" => Holds::Map(Slot::Property),
        "patternProperties" => Holds::Map(Slot::PatternProperty),
        "additionalProperties" => Holds::One(Slot::AdditionalProperties),
        "unevaluatedProperties" if !old => Holds::One(Slot::UnevaluatedProperties),
        "propertyNames" => Holds::One(Slot::PropertyNames),
        "prefixItems" if !old => Holds::List(Slot::PrefixItem),
        "items" if old => Holds::OneOrList(Slot::Items, Slot::PrefixItem),
        "items" => Holds::One(Slot::Items),
        "additionalItems" if old => Holds::One(Slot::Items),
        "unevaluatedItems" if !old => Holds::One(Slot::UnevaluatedItems),
        "contains" => Holds::One(Slot::Contains),
        "definitions" => Holds::Definitions,
        "$defs" if !old => Holds::Definitions,
        "contentSchema" if !old => Holds::Annotation,
        _ => return None,
    })
}

/// Whether `keyword` asserts something by its plain value.
pub(super) fn asserts(draft: Draft, keyword: &str) -> bool {
    match keyword {
        "type" | "enum" | "const" | "multipleOf" | "maximum" | "exclusiveMaximum" | "minimum"
        | "exclusiveMinimum" | "maxLength" | "minLength" | "pattern" | "maxItems" | "minItems"
        | "uniqueItems" | "maxProperties" | "minProperties" | "required" => true,
        "maxContains" | "minContains" | "dependentRequired" => draft != Draft::Draft7,
        _ => false,
    }
}
