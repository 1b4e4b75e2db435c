//! Filters: which events of its topics a subscription takes.
//!
//! The dialects `exact`, `prefix`, `suffix`, `all`, `any` and `not` of CloudEvents Subscriptions
//! 1.0, over attributes, extension attributes by name, and headers as `headers.NAME`. A filter is
//! read in place from an encoded event, without building messages.

use std::borrow::Cow;

use prost::Message as _;

use super::event::{EventView, check_extension_name, extension_of, header_of};
use super::limits::{
    FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_NODES_MAX, HEADER_NAME_BYTES_MAX, PRIORITY_DEFAULT,
};
use super::rejection::{Reason, Rejection};
use super::wire::Malformed;

/// Begins the name of a header in a filter.
pub const HEADERS_PREFIX: &str = "headers.";

/// A node of a filter's tree.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Filter {
    /// What has to hold; absent: refused.
    #[prost(oneof = "Test", tags = "1, 2, 3, 4, 5, 6")]
    pub test: Option<Test>,
}

/// What has to hold.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub enum Test {
    /// The attribute has the value.
    #[prost(message, tag = "1")]
    Exact(Comparison),
    /// The attribute begins with the value.
    #[prost(message, tag = "2")]
    Prefix(Comparison),
    /// The attribute ends with the value.
    #[prost(message, tag = "3")]
    Suffix(Comparison),
    /// All of them hold; at least one is named.
    #[prost(message, tag = "4")]
    All(Filters),
    /// Any of them holds; at least one is named.
    #[prost(message, tag = "5")]
    Any(Filters),
    /// It does not hold.
    #[prost(message, tag = "6")]
    Not(Box<Filter>),
}

/// An attribute and a text. Both are compared byte by byte; neither is empty.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Comparison {
    /// A CloudEvents attribute that is no instant, an extension attribute, `key`, `priority`, `fairnesskey` or
    /// `headers.NAME`.
    #[prost(string, tag = "1")]
    pub attribute: String,
    /// The text.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// Several filters.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Filters {
    /// In the order of testing.
    #[prost(message, repeated, tag = "1")]
    pub filters: Vec<Filter>,
}

/// A filter that was checked and may be asked.
#[derive(Clone, Debug)]
pub struct Compiled(Node);

#[derive(Clone, Debug)]
enum Node {
    Leaf(Attribute, Comparator, String),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
}

#[derive(Clone, Copy, Debug)]
enum Comparator {
    Exact,
    Prefix,
    Suffix,
}

#[derive(Clone, Debug)]
enum Attribute {
    SpecVersion,
    Id,
    Source,
    Type,
    Subject,
    DataContentType,
    DataSchema,
    Key,
    Priority,
    CorrelationId,
    CausationId,
    TraceParent,
    FairnessKey,
    Header(String),
    Extension(String),
}

impl Filter {
    /// Reads an encoded `messagehub.v1.Filter` and checks it.
    ///
    /// # Errors
    /// `INVALID_FILTER`.
    pub fn parse(encoded: &[u8]) -> Result<Self, Rejection> {
        if encoded.len() > FILTER_BYTES_MAX {
            return Err(refuse(&format!(
                "has {} bytes, more than {FILTER_BYTES_MAX}",
                encoded.len()
            )));
        }
        // The decoder's own bound on nesting lies far above ours.
        let filter = Self::decode(encoded)
            .map_err(|_| refuse(&format!("is malformed, or far deeper than {FILTER_DEPTH_MAX}")))?;
        filter.compile()?;
        Ok(filter)
    }

    /// Checks the grammar and every bound, and makes it ready to be asked.
    ///
    /// # Errors
    /// `INVALID_FILTER`.
    pub fn compile(&self) -> Result<Compiled, Rejection> {
        let bytes = self.encoded_len();
        if bytes > FILTER_BYTES_MAX {
            return Err(refuse(&format!("has {bytes} bytes, more than {FILTER_BYTES_MAX}")));
        }
        let mut nodes = 0;
        compile(self, 1, &mut nodes).map(Compiled)
    }
}

impl Compiled {
    /// Whether an encoded event, validated before, passes.
    ///
    /// # Errors
    /// [`Malformed`] when it was not validated.
    pub fn matches(&self, encoded: &[u8]) -> Result<bool, Malformed> {
        let view = EventView::read(encoded)?;
        self.0.holds(&view, encoded)
    }
}

fn refuse(why: &str) -> Rejection {
    Rejection::new(Reason::InvalidFilter, format!("filter {why}; correct the filter"))
}

fn compile(filter: &Filter, depth: usize, nodes: &mut usize) -> Result<Node, Rejection> {
    *nodes += 1;
    if depth > FILTER_DEPTH_MAX {
        return Err(refuse(&format!("is deeper than {FILTER_DEPTH_MAX}")));
    }
    if *nodes > FILTER_NODES_MAX {
        return Err(refuse(&format!("has more than {FILTER_NODES_MAX} nodes")));
    }
    let leaf = |comparison: &Comparison, comparator| {
        if comparison.value.is_empty() {
            return Err(refuse(&format!("compares {} with nothing", comparison.attribute)));
        }
        let attribute = Attribute::parse(&comparison.attribute)?;
        Ok(Node::Leaf(attribute, comparator, comparison.value.clone()))
    };
    let mut each = |filters: &Filters| {
        if filters.filters.is_empty() {
            return Err(refuse("has an all or any of nothing"));
        }
        filters.filters.iter().map(|f| compile(f, depth + 1, nodes)).collect::<Result<Vec<_>, _>>()
    };
    match &filter.test {
        None => Err(refuse("has a node that tests nothing")),
        Some(Test::Exact(comparison)) => leaf(comparison, Comparator::Exact),
        Some(Test::Prefix(comparison)) => leaf(comparison, Comparator::Prefix),
        Some(Test::Suffix(comparison)) => leaf(comparison, Comparator::Suffix),
        Some(Test::All(filters)) => each(filters).map(Node::All),
        Some(Test::Any(filters)) => each(filters).map(Node::Any),
        Some(Test::Not(inner)) => Ok(Node::Not(Box::new(compile(inner, depth + 1, nodes)?))),
    }
}

impl Node {
    fn holds(&self, view: &EventView<'_>, encoded: &[u8]) -> Result<bool, Malformed> {
        match self {
            Self::Leaf(attribute, comparator, wanted) => {
                let value = attribute.of(view, encoded)?;
                Ok(value.is_some_and(|value| match comparator {
                    Comparator::Exact => value == *wanted,
                    Comparator::Prefix => value.starts_with(wanted),
                    Comparator::Suffix => value.ends_with(wanted),
                }))
            }
            Self::All(nodes) => {
                for node in nodes {
                    if !node.holds(view, encoded)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Self::Any(nodes) => {
                for node in nodes {
                    if node.holds(view, encoded)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Not(node) => Ok(!node.holds(view, encoded)?),
        }
    }
}

impl Attribute {
    fn parse(name: &str) -> Result<Self, Rejection> {
        if let Some(header) = name.strip_prefix(HEADERS_PREFIX) {
            if header.is_empty() || header.len() > HEADER_NAME_BYTES_MAX {
                return Err(refuse(&format!("names the header {header:?}, which cannot be")));
            }
            return Ok(Self::Header(header.to_owned()));
        }
        Ok(match name {
            "specversion" => Self::SpecVersion,
            "id" => Self::Id,
            "source" => Self::Source,
            "type" => Self::Type,
            "subject" => Self::Subject,
            "datacontenttype" => Self::DataContentType,
            "dataschema" => Self::DataSchema,
            "key" | "partitionkey" => Self::Key,
            "priority" => Self::Priority,
            "correlationid" => Self::CorrelationId,
            "causationid" => Self::CausationId,
            "traceparent" => Self::TraceParent,
            "fairnesskey" => Self::FairnessKey,
            "time" | "expirytime" | "deliverat" => {
                let what =
                    format!("names the attribute {name:?}, an instant; filters compare text");
                return Err(refuse(&what));
            }
            _ if check_extension_name(name).is_ok() => Self::Extension(name.to_owned()),
            _ => return Err(refuse(&format!("names the attribute {name:?}, which has no text"))),
        })
    }

    fn of<'a>(
        &self,
        view: &EventView<'a>,
        encoded: &'a [u8],
    ) -> Result<Option<Cow<'a, str>>, Malformed> {
        let text = match self {
            Self::SpecVersion => "1.0",
            Self::Id => view.id,
            Self::Source => view.source,
            Self::Type => view.kind,
            Self::Subject => view.subject,
            Self::DataContentType => view.datacontenttype,
            Self::DataSchema => view.dataschema,
            Self::Key => view.key,
            Self::CorrelationId => view.correlation_id,
            Self::CausationId => view.causation_id,
            Self::TraceParent => view.traceparent,
            Self::FairnessKey => view.fairness_key,
            Self::Priority => {
                let priority = view.priority.unwrap_or(PRIORITY_DEFAULT);
                return Ok(Some(Cow::Owned(priority.to_string())));
            }
            Self::Header(name) => return Ok(header_of(encoded, name)?.map(Cow::Borrowed)),
            Self::Extension(name) => return extension_of(encoded, name),
        };
        Ok((!text.is_empty()).then_some(Cow::Borrowed(text)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Event {
        #[prost(string, tag = "1")]
        id: String,
        #[prost(string, tag = "3")]
        kind: String,
        #[prost(btree_map = "string, message", tag = "9")]
        extensions: BTreeMap<String, Attr>,
        #[prost(uint32, optional, tag = "17")]
        priority: Option<u32>,
        #[prost(btree_map = "string, string", tag = "23")]
        headers: BTreeMap<String, String>,
        #[prost(string, tag = "24")]
        fairness_key: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Attr {
        #[prost(int32, optional, tag = "2")]
        integer: Option<i32>,
        #[prost(string, optional, tag = "3")]
        text: Option<String>,
        #[prost(bool, optional, tag = "1")]
        truth: Option<bool>,
    }

    fn event() -> Vec<u8> {
        let extensions = [
            ("region", Attr { text: Some("eu-1".into()), ..Attr::default() }),
            ("size", Attr { integer: Some(-7), ..Attr::default() }),
            ("gold", Attr { truth: Some(true), ..Attr::default() }),
        ];
        Event {
            id: "i-1".into(),
            kind: "order.created".into(),
            extensions: extensions.map(|(name, value)| (name.to_owned(), value)).into(),
            priority: Some(7),
            headers: BTreeMap::from([("Tenant".to_owned(), "acme".to_owned())]),
            fairness_key: "acme".into(),
        }
        .encode_to_vec()
    }

    fn comparison(attribute: &str, value: &str) -> Comparison {
        Comparison { attribute: attribute.into(), value: value.into() }
    }

    fn of(test: Test) -> Filter {
        Filter { test: Some(test) }
    }

    fn exact(attribute: &str, value: &str) -> Filter {
        of(Test::Exact(comparison(attribute, value)))
    }

    fn holds(filter: &Filter) -> bool {
        filter.compile().unwrap().matches(&event()).unwrap()
    }

    #[test]
    fn leaves_look_into_the_event() {
        for (attribute, value) in [
            ("id", "i-1"),
            ("type", "order.created"),
            ("region", "eu-1"),
            ("size", "-7"),
            ("gold", "true"),
            ("priority", "7"),
            ("headers.Tenant", "acme"),
            ("fairnesskey", "acme"),
            ("specversion", "1.0"),
        ] {
            assert!(holds(&exact(attribute, value)), "{attribute}");
            assert!(!holds(&exact(attribute, "other")), "{attribute}");
        }
        assert!(holds(&of(Test::Prefix(comparison("type", "order.")))));
        assert!(holds(&of(Test::Suffix(comparison("type", "created")))));
        assert!(!holds(&of(Test::Prefix(comparison("subject", "x")))));
    }

    #[test]
    fn branches_combine() {
        let (yes, no) = (exact("id", "i-1"), exact("id", "x"));
        let list = |filters: &[&Filter]| Filters {
            filters: filters.iter().map(|f| (*f).clone()).collect(),
        };
        assert!(holds(&of(Test::All(list(&[&yes, &yes])))));
        assert!(!holds(&of(Test::All(list(&[&yes, &no])))));
        assert!(holds(&of(Test::Any(list(&[&no, &yes])))));
        assert!(!holds(&of(Test::Any(list(&[&no])))));
        assert!(holds(&of(Test::Not(Box::new(no)))));
        assert!(holds(&of(Test::Not(Box::new(exact("absent", "x"))))));
    }

    #[test]
    fn bombs_are_refused_before_they_are_unfolded() {
        let mut bomb = exact("id", "x").encode_to_vec();
        assert!(Filter::parse(&bomb).is_ok());
        for _ in 0..2000 {
            let mut outer = Vec::new();
            prost::encoding::bytes::encode(6, &bomb, &mut outer);
            bomb = outer;
        }
        assert!(bomb.len() < FILTER_BYTES_MAX);
        for encoded in [&bomb[..], &vec![0x22; 1 << 20], b"\xff"] {
            assert_eq!(Filter::parse(encoded).unwrap_err().reason, Reason::InvalidFilter);
        }
    }

    #[test]
    fn bounds_hold() {
        let mut deep = exact("id", "x");
        for _ in 1..FILTER_DEPTH_MAX {
            deep = of(Test::Not(Box::new(deep)));
        }
        assert!(deep.compile().is_ok());
        let refused = [
            of(Test::Not(Box::new(deep))),
            of(Test::All(Filters { filters: vec![exact("id", "x"); FILTER_NODES_MAX] })),
            of(Test::All(Filters::default())),
            Filter::default(),
            exact("Not An Extension", "x"),
            exact("time", "x"),
            exact("headers.", "x"),
            exact("id", ""),
            exact("id", &"x".repeat(FILTER_BYTES_MAX)),
        ];
        for filter in refused {
            assert_eq!(filter.compile().unwrap_err().reason, Reason::InvalidFilter, "{filter:?}");
        }
    }
}
