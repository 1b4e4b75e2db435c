//! The topic whose schema is enforced: which events have to be taken and which refused, and that it never
//! holds one of the latter.
//!
//! A version of the schema takes only what was written for it: with each new one, what was valid is so no
//! more.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use message_hub::model::command::Producer;
use message_hub::model::schema::{SchemaDefinition, SchemaFile, SchemaFormat};
use message_hub::proto::v1;
use prost::Message as _;

use crate::dice::Dice;
use crate::errand::Errand;

/// The topic.
pub(crate) const JUDGED: &str = "invoices";
/// The subject of its rule.
pub(crate) const SUBJECT: &str = "invoice";
const WRITERS: usize = 2;

/// A version of the schema.
pub(crate) fn definition(version: u32) -> SchemaDefinition {
    let text = format!(
        r#"{{"type": "object", "properties": {{"v": {{"const": {version}}}}}, "required": ["v"]}}"#
    );
    let file = SchemaFile { name: "invoice.json".to_owned(), text };
    SchemaDefinition {
        format: SchemaFormat::Json as i32,
        files: vec![file],
        references: Vec::new(),
    }
}

/// What is written for a version.
pub(crate) fn payload(version: u32) -> Bytes {
    Bytes::from(format!(r#"{{"v": {version}}}"#))
}

fn written_for(data: &[u8]) -> Option<u32> {
    std::str::from_utf8(data).ok()?.strip_prefix(r#"{"v": "#)?.strip_suffix('}')?.parse().ok()
}

/// A publish to the topic, however often it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Writing {
    writer: usize,
    sequence: u64,
    /// The version that each event is written for.
    pub(crate) versions: Vec<u32>,
    /// One of them was not the newest any more before anybody asked.
    must_fail: bool,
}

impl Writing {
    pub(crate) fn event_id(&self, number: usize) -> String {
        format!("w{}-{}-{number}", self.writer, self.sequence)
    }

    pub(crate) fn event_ids(&self) -> impl Iterator<Item = String> + '_ {
        (0..self.versions.len()).map(|number| self.event_id(number))
    }

    pub(crate) fn producer(&self) -> Producer {
        Producer {
            id: format!("w{}", self.writer),
            epoch: 1,
            sequence: self.sequence,
            acknowledged_below: self.sequence,
        }
    }
}

impl fmt::Display for Writing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { writer, sequence, versions, .. } = self;
        write!(f, "publish {sequence} of w{writer}, for versions {versions:?}")
    }
}

/// Something to ask a node for.
pub(crate) enum Wish {
    /// A new version.
    Register(u32),
    Write(Writing),
}

#[derive(Default)]
struct Writer {
    sequence: u64,
    errand: Errand<Writing>,
}

pub(crate) struct Subject {
    /// The newest version that is known to be there.
    registered: u32,
    /// The newest that anybody asked for.
    asked: u32,
    registering: Errand<u32>,
    writers: Vec<Writer>,
    /// The ids of events that were refused.
    refused: BTreeSet<String>,
}

impl Default for Subject {
    /// As every run has it before its faults begin.
    fn default() -> Self {
        Self {
            registered: 1,
            asked: 1,
            registering: Errand::default(),
            writers: (0..WRITERS).map(|_| Writer::default()).collect(),
            refused: BTreeSet::new(),
        }
    }
}

impl Subject {
    /// What has no answer yet.
    pub(crate) fn again(&mut self, node: u64) -> Option<Wish> {
        if let Some(version) = self.registering.again(node) {
            return Some(Wish::Register(version));
        }
        self.writers.iter_mut().find_map(|writer| writer.errand.again(node)).map(Wish::Write)
    }

    pub(crate) fn invent(&mut self, node: u64, dice: &mut Dice) -> Option<Wish> {
        if dice.chance(12) && self.registering.is_done() {
            self.asked += 1;
            return Some(Wish::Register(self.registering.begin(self.asked, node)));
        }
        let number = self.writers.iter().position(|writer| writer.errand.is_done())?;
        let versions: Vec<u32> = (0..dice.between(1, 2)).map(|_| self.draw(dice)).collect();
        let must_fail = versions.iter().any(|version| self.is_outdated(*version));
        let writer = &mut self.writers[number];
        writer.sequence += 1;
        let writing = Writing { writer: number, sequence: writer.sequence, versions, must_fail };
        Some(Wish::Write(writer.errand.begin(writing, node)))
    }

    /// A version to write for: the newest more often than not, else the one before or none that ever was.
    pub(crate) fn draw(&self, dice: &mut Dice) -> u32 {
        match dice.below(10) {
            0 => 0,
            1 | 2 => self.registered - 1,
            _ => self.registered,
        }
    }

    /// Whether what is written for a version must not be taken any more.
    pub(crate) fn is_outdated(&self, version: u32) -> bool {
        version < self.registered
    }

    /// Whether what was written for a version could not be refused: nobody asked for a newer one.
    pub(crate) fn must_be_taken(&self, version: u32) -> bool {
        version == self.registered && version == self.asked
    }

    pub(crate) fn crashed(&mut self, node: u64) {
        self.registering.crashed(node);
        for writer in &mut self.writers {
            writer.errand.crashed(node);
        }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.registering.is_done() && self.writers.iter().all(|writer| writer.errand.is_done())
    }

    /// A registration was answered with a version, or not at all.
    pub(crate) fn registered(&mut self, asked: u32, answer: Option<u32>) -> Result<(), String> {
        match answer {
            None => self.registering.unanswered(),
            Some(version) if version == asked => {
                self.registering.answered();
                self.registered = asked;
            }
            Some(other) => return Err(format!("version {asked} was registered as {other}")),
        }
        Ok(())
    }

    pub(crate) fn unanswered(&mut self, writing: &Writing) {
        self.writers[writing.writer].errand.unanswered();
    }

    pub(crate) fn written(&mut self, writing: &Writing) -> Result<(), String> {
        self.writers[writing.writer].errand.answered();
        if writing.must_fail {
            return Err(format!("{writing} is taken; {} was there before", self.registered));
        }
        Ok(())
    }

    pub(crate) fn refused(&mut self, writing: &Writing) -> Result<(), String> {
        self.writers[writing.writer].errand.answered();
        self.refused.extend(writing.event_ids());
        if writing.versions.iter().all(|version| self.must_be_taken(*version)) {
            return Err(format!("{writing} is refused, and there is no other version"));
        }
        Ok(())
    }

    /// How many events were refused.
    pub(crate) fn count_refused(&self) -> usize {
        self.refused.len()
    }

    /// Holds all events of the topic against what its schema says.
    pub(crate) fn check(&self, events: &[Bytes]) -> Result<(), String> {
        let mut newest = 1;
        for encoded in events {
            let event = v1::Event::decode(encoded.clone()).map_err(|error| error.to_string())?;
            let (id, verdict) = (&event.id, &event.schema_verdict);
            let version = written_for(&event.data)
                .ok_or_else(|| format!("{id} in {JUDGED} is none of ours: {:?}", event.data))?;
            let valid = verdict.as_ref().is_some_and(|verdict| {
                verdict.subject == SUBJECT && verdict.version == version && verdict.violations == 0
            });
            if !valid {
                return Err(format!("{id} in {JUDGED} is for version {version}, but {verdict:?}"));
            }
            if version < newest || version > self.asked {
                return Err(format!("{id} in {JUDGED} is for version {version} after {newest}"));
            }
            newest = version;
            if self.refused.contains(id) {
                return Err(format!("{id} was refused, and is in {JUDGED}"));
            }
        }
        Ok(())
    }
}
