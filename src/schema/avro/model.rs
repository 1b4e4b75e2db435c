//! An Avro schema as a graph of types, names resolved.

use std::collections::BTreeMap;

use serde_json::Value;

/// A type of a [`Model`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TypeId(u32);

/// A primitive type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Primitive {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
}

/// A type.
#[derive(Clone, Debug)]
pub(super) enum Type {
    Primitive(Primitive),
    Array(TypeId),
    Map(TypeId),
    Union(Vec<TypeId>),
    Fixed {
        name: Named,
        size: u64,
    },
    Enum {
        name: Named,
        symbols: Vec<String>,
        default: Option<String>,
    },
    Record {
        name: Named,
        fields: Vec<Field>,
        /// The positions of the fields whose values take bytes.
        solid: Vec<usize>,
    },
}

/// How a type is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// With its namespace.
    pub(super) full: String,
    /// Other names that readers know it by, with their namespaces.
    pub(super) aliases: Vec<String>,
}

/// A field of a record.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) aliases: Vec<String>,
    pub(super) of: TypeId,
    pub(super) default: Option<Value>,
}

/// Where a type stands.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// It is a whole schema; its places begin so.
    Schema(String),
    /// Below another, at these segments of a JSON pointer, escaped.
    Below(TypeId, String),
}

/// All types of a schema and of those that it refers to.
#[derive(Default)]
pub(super) struct Model {
    types: Vec<(Place, Type)>,
}

impl Primitive {
    /// The primitive type of a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "int" => Self::Int,
            "long" => Self::Long,
            "float" => Self::Float,
            "double" => Self::Double,
            "bytes" => Self::Bytes,
            "string" => Self::String,
            _ => return None,
        })
    }

    /// Its name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes => "bytes",
            Self::String => "string",
        }
    }
}

impl Named {
    /// Its name without the namespace.
    pub(super) fn short(&self) -> &str {
        self.full.rsplit('.').next().unwrap_or(&self.full)
    }
}

impl Type {
    /// What it is called in texts.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Primitive(primitive) => primitive.as_str().to_owned(),
            Self::Array(_) => "array".to_owned(),
            Self::Map(_) => "map".to_owned(),
            Self::Union(_) => "union".to_owned(),
            Self::Fixed { name, .. } => format!("fixed {}", name.full),
            Self::Enum { name, .. } => format!("enum {}", name.full),
            Self::Record { name, .. } => format!("record {}", name.full),
        }
    }

    /// How it is told apart from the other types in a union.
    pub(super) fn branch_name(&self) -> String {
        match self {
            Self::Fixed { name, .. } | Self::Enum { name, .. } | Self::Record { name, .. } => {
                name.full.clone()
            }
            other => other.describe(),
        }
    }
}

/// What is never reached: ids come from the model that is asked.
static NOWHERE: Type = Type::Primitive(Primitive::Null);

impl Model {
    /// Adds a type.
    pub(super) fn add(&mut self, place: Place, of: Type) -> TypeId {
        let id = TypeId(u32::try_from(self.types.len()).unwrap_or(u32::MAX));
        self.types.push((place, of));
        id
    }

    /// A type.
    pub(super) fn of(&self, id: TypeId) -> &Type {
        self.types.get(id.0 as usize).map_or(&NOWHERE, |(_, of)| of)
    }

    /// A type, to be completed.
    pub(super) fn of_mut(&mut self, id: TypeId) -> Option<&mut Type> {
        self.types.get_mut(id.0 as usize).map(|(_, of)| of)
    }

    /// All types.
    pub(super) fn ids(&self) -> impl Iterator<Item = TypeId> + use<> {
        (0..self.types.len()).map(|index| TypeId(u32::try_from(index).unwrap_or(u32::MAX)))
    }

    /// How many types there are.
    pub(super) fn len(&self) -> usize {
        self.types.len()
    }

    /// Where a type stands, as a JSON pointer.
    pub(super) fn place(&self, id: TypeId) -> String {
        let mut segments = Vec::new();
        let mut at = id;
        let mut place = loop {
            match self.types.get(at.0 as usize).map(|(place, _)| place) {
                Some(Place::Below(parent, segment)) => {
                    segments.push(segment);
                    at = *parent;
                }
                Some(Place::Schema(prefix)) => break prefix.clone(),
                None => break String::new(),
            }
        };
        for segment in segments.iter().rev() {
            place.push_str(segment);
        }
        place
    }

    /// Finds the fields whose values take bytes. Those without are found from the inside out, so
    /// that a record that holds itself is not among them.
    pub(super) fn mark_solid(&mut self) {
        let mut users: BTreeMap<TypeId, Vec<(TypeId, usize)>> = BTreeMap::new();
        for id in self.ids() {
            if let Some(Type::Record { fields, solid, .. }) = self.of_mut(id) {
                *solid = (0..fields.len()).collect();
                for (index, field) in fields.iter().enumerate() {
                    users.entry(field.of).or_default().push((id, index));
                }
            }
        }
        let mut empty: Vec<TypeId> = self.ids().filter(|id| self.is_empty(*id)).collect();
        while let Some(id) = empty.pop() {
            for (record, index) in users.remove(&id).unwrap_or_default() {
                if let Some(Type::Record { solid, .. }) = self.of_mut(record)
                    && let Ok(at) = solid.binary_search(&index)
                {
                    solid.remove(at);
                }
                if self.is_empty(record) {
                    empty.push(record);
                }
            }
        }
    }

    /// Whether no value of a type takes any bytes, once the fields were looked at.
    pub(super) fn is_empty(&self, id: TypeId) -> bool {
        match self.of(id) {
            Type::Primitive(primitive) => *primitive == Primitive::Null,
            Type::Fixed { size, .. } => *size == 0,
            Type::Record { solid, .. } => solid.is_empty(),
            Type::Array(_) | Type::Map(_) | Type::Union(_) | Type::Enum { .. } => false,
        }
    }
}
