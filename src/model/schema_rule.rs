//! What schemas say of a topic's events: the rule, by what events were judged, and what it led to.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::event::VERDICT_TAG;
use super::limits::ATTRIBUTE_BYTES_MAX;
use super::name;

/// What becomes of events that break their schema. The numbers are persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum SchemaMode {
    /// Nothing is judged.
    Off = 0,
    /// They are taken, and marked.
    Warn = 1,
    /// They are refused.
    Enforce = 2,
    /// No topic has it: events were judged by several rules, so that no rule is the one.
    Several = 3,
}

/// What schemas say of a topic's events.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SchemaRule {
    /// What becomes of events that break their schema.
    #[prost(enumeration = "SchemaMode", tag = "1")]
    pub mode: i32,
    /// The subject whose schema judges all events; empty: the one that is called as an event's type.
    #[prost(string, tag = "2")]
    pub subject: String,
    /// For Protobuf the full name of the message; empty: the first one of the main file.
    #[prost(string, tag = "3")]
    pub message: String,
}

impl SchemaRule {
    /// Checks what needs no state.
    ///
    /// # Errors
    /// Why it is none.
    pub fn check(&self) -> Result<(), String> {
        if !matches!(self.mode, 0..=2) {
            return Err("has a mode that is none of off, warn and enforce".to_owned());
        }
        if !self.subject.is_empty() {
            name::check_subject(&self.subject)
                .map_err(|refused| format!("names a subject that is none ({})", refused.message))?;
        }
        if self.message.len() > ATTRIBUTE_BYTES_MAX {
            return Err(format!("names a message of more than {ATTRIBUTE_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    /// The subject whose schema judges an event of this type.
    #[must_use]
    pub fn subject_of<'a>(&'a self, event_type: &'a str) -> &'a str {
        if self.subject.is_empty() { event_type } else { &self.subject }
    }
}

/// By what events were judged before they were proposed.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Judged {
    /// The rule of their topic.
    #[prost(message, required, tag = "1")]
    pub rule: SchemaRule,
    /// The versions, each once.
    #[prost(message, repeated, tag = "2")]
    pub versions: Vec<SubjectVersion>,
}

impl Judged {
    /// What further events of the same topic were judged by, too.
    pub fn join(known: &mut Option<Self>, other: Option<Self>) {
        match (known, other) {
            (None, None) => {}
            (Some(known), Some(other)) if known.rule == other.rule => {
                let new = other.versions.into_iter().filter(|v| !known.versions.contains(v));
                let new: Vec<_> = new.collect();
                known.versions.extend(new);
            }
            (known, _) => {
                let rule = SchemaRule { mode: SchemaMode::Several as i32, ..SchemaRule::default() };
                *known = Some(Self { rule, versions: Vec::new() });
            }
        }
    }
}

/// A version of a subject.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, prost::Message)]
pub struct SubjectVersion {
    /// The subject.
    #[prost(string, tag = "1")]
    pub subject: String,
    /// The version that judges; 0: there was none.
    #[prost(uint32, tag = "2")]
    pub version: u32,
}

/// What the schema of an event said of it: `messagehub.v1.SchemaVerdict`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SchemaVerdict {
    /// The subject that judged.
    #[prost(string, tag = "1")]
    pub subject: String,
    /// The version of it.
    #[prost(uint32, tag = "2")]
    pub version: u32,
    /// How many violations were found, 101: more than 100; 0: it is valid.
    #[prost(uint32, tag = "3")]
    pub violations: u32,
}

impl SchemaVerdict {
    /// The field that is appended to an encoded event.
    #[must_use]
    pub fn as_field(&self) -> Bytes {
        let mut field = BytesMut::new();
        encode_key(VERDICT_TAG, WireType::LengthDelimited, &mut field);
        encode_varint(self.encoded_len() as u64, &mut field);
        field.put_slice(&self.encode_to_vec());
        field.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(subject: &str, version: u32) -> Option<Judged> {
        let rule = SchemaRule { mode: 2, ..SchemaRule::default() };
        let versions = vec![SubjectVersion { subject: subject.to_owned(), version }];
        Some(Judged { rule, versions })
    }

    #[test]
    fn what_was_judged_by_one_rule_joins_and_by_several_never_counts() {
        let mut known = judged("a", 1);
        Judged::join(&mut known, judged("a", 1));
        Judged::join(&mut known, judged("a", 2));
        Judged::join(&mut known, judged("b", 1));
        let versions: Vec<_> = known.as_ref().unwrap().versions.iter().map(|v| v.version).collect();
        assert_eq!((versions, known.as_ref().unwrap().rule.mode), (vec![1, 2, 1], 2));
        Judged::join(&mut known, None);
        assert_eq!(known.unwrap().rule.mode(), SchemaMode::Several);
        let mut none = None;
        Judged::join(&mut none, None);
        assert_eq!(none, None);
        Judged::join(&mut none, judged("a", 1));
        assert_eq!(none.unwrap().rule.mode(), SchemaMode::Several);
    }

    #[test]
    fn a_rule_is_checked() {
        let rule = |mode, subject: &str| SchemaRule {
            mode,
            subject: subject.to_owned(),
            ..SchemaRule::default()
        };
        assert!(rule(1, "").check().is_ok() && rule(2, "order").check().is_ok());
        for bad in [rule(3, ""), rule(9, ""), rule(-1, ""), rule(2, "a b")] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
        let message = "m".repeat(ATTRIBUTE_BYTES_MAX + 1);
        assert!(SchemaRule { message, ..rule(2, "") }.check().is_err());
    }
}
