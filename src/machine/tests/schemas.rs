//! The registry of schemas against a naive model: numbers, states, references and bounds.

use std::collections::BTreeMap;

use prost::Message as _;

use super::delivery::cases::Hub;
use super::random::Dice;
use crate::machine::schema::query;
use crate::model::command::{Kind, RegisterSchema, SetCompatibility, SetSchemaState};
use crate::model::limits::{SCHEMA_VERSIONS_MAX, SCHEMAS_BYTES_MAX, SUBJECTS_MAX};
use crate::model::outcome::Outcome;
use crate::model::rejection::Reason;
use crate::model::schema::{
    Compatibility, SchemaDefinition, SchemaFile, SchemaInfo, SchemaReference, SchemaState,
};

const SUBJECTS: [&str; 6] = ["a", "a.b", "b", "c", "d", "e"];
const STATES: [SchemaState; 3] =
    [SchemaState::Active, SchemaState::Deprecated, SchemaState::Deleted];

struct Version {
    definition: SchemaDefinition,
    fingerprint: String,
    state: SchemaState,
}

#[derive(Default)]
struct Subject {
    compatibility: Option<Compatibility>,
    versions: Vec<Version>,
}

#[derive(Default)]
struct Model {
    subjects: BTreeMap<&'static str, Subject>,
    registered: u64,
    refused: u64,
}

impl Model {
    fn version(&self, subject: &str, number: u32) -> Option<&Version> {
        self.subjects.get(subject)?.versions.get((number as usize).checked_sub(1)?)
    }

    fn bytes(&self) -> u64 {
        let all = self.subjects.values().flat_map(|subject| &subject.versions);
        all.map(|version| version.definition.encoded_len() as u64).sum()
    }

    fn stands(&self, reference: &SchemaReference) -> bool {
        let found = self.version(&reference.subject, reference.version);
        found.is_some_and(|version| version.state != SchemaState::Deleted)
    }

    fn is_used(&self, subject: &str, number: u32) -> bool {
        let standing = self.subjects.values().flat_map(|subject| &subject.versions);
        let mut standing = standing.filter(|version| version.state != SchemaState::Deleted);
        standing.any(|version| {
            let mut references = version.definition.references.iter();
            references.any(|r| r.subject == subject && r.version == number)
        })
    }

    fn register(&mut self, hub: &mut Hub, dice: &mut Dice, seed: u64) {
        let name = SUBJECTS[dice.below(6) as usize];
        let text = "x".repeat(1 + dice.below(6) as usize * 9);
        let references = (0..dice.below(3).saturating_sub(1)).map(|_| SchemaReference {
            name: "r".into(),
            subject: SUBJECTS[dice.below(6) as usize].into(),
            version: 1 + dice.below(3) as u32,
        });
        let definition = SchemaDefinition {
            references: references.collect(),
            files: vec![SchemaFile { name: "m".into(), text }],
            ..SchemaDefinition::default()
        };
        let fingerprint = format!("{definition:?}");
        let revision = query::subject(&hub.kv, name).unwrap().map_or(0, |info| info.revision);
        let judged_at = if dice.below(8) == 0 { revision + 1 } else { revision };
        let (before, bytes) = (hub.kv.clone(), definition.encoded_len() as u64);
        let outcome = hub.apply(Kind::RegisterSchema(RegisterSchema {
            subject: name.into(),
            definition: definition.clone(),
            fingerprint: fingerprint.clone(),
            judged_at,
            ..RegisterSchema::default()
        }));
        let known = self.subjects.get(name);
        let is = |v: &&Version| v.fingerprint == fingerprint && v.state != SchemaState::Deleted;
        let versions = known.map_or(&[][..], |known| &known.versions);
        if let Some((number, _)) = (1..).zip(versions).find(|(_, version)| is(version)) {
            assert_eq!(schema(outcome).version, number, "seed {seed}: it is there");
            assert!(hub.kv == before, "seed {seed}");
            return;
        }
        let expected = if known.is_none() && self.subjects.len() as u64 == SUBJECTS_MAX {
            Some(Reason::LimitReached)
        } else if judged_at != revision {
            Some(Reason::SchemaChanged)
        } else if versions.len() == SCHEMA_VERSIONS_MAX || self.bytes() + bytes > SCHEMAS_BYTES_MAX
        {
            Some(Reason::LimitReached)
        } else if definition.references.iter().any(|reference| !self.stands(reference)) {
            Some(Reason::SchemaNotFound)
        } else {
            None
        };
        if let Outcome::Rejected(rejection) = outcome {
            assert_eq!(Some(rejection.reason), expected, "seed {seed}");
            assert!(hub.kv == before, "seed {seed}: a refusal left a trace");
            self.refused += 1;
            return;
        }
        assert_eq!(expected, None, "seed {seed}");
        let state = SchemaState::Active;
        let subject = self.subjects.entry(name).or_default();
        subject.versions.push(Version { definition, fingerprint, state });
        assert_eq!(schema(outcome).version as usize, subject.versions.len(), "seed {seed}");
        self.registered += 1;
    }

    fn set_state(&mut self, hub: &mut Hub, dice: &mut Dice, seed: u64) {
        let (name, version) = (SUBJECTS[dice.below(6) as usize], 1 + dice.below(3) as u32);
        let to = STATES[dice.below(3) as usize];
        let before = hub.kv.clone();
        let revision = query::subject(&hub.kv, name).unwrap().map_or(0, |known| known.revision);
        let judged_at = if dice.below(8) == 0 { revision + 1 } else { revision };
        let outcome = hub.apply(Kind::SetSchemaState(SetSchemaState {
            subject: name.into(),
            version,
            state: to as i32,
            judged_at,
            ..SetSchemaState::default()
        }));
        let expected = match self.version(name, version) {
            None => Some(Reason::SchemaNotFound),
            Some(_) if to == SchemaState::Deleted && self.is_used(name, version) => {
                Some(Reason::SchemaInUse)
            }
            Some(known) if to != SchemaState::Deleted && known.state == SchemaState::Deleted => {
                let dangling = known.definition.references.iter().any(|r| !self.stands(r));
                let stale = (judged_at != revision).then_some(Reason::SchemaChanged);
                if dangling { Some(Reason::SchemaNotFound) } else { stale }
            }
            Some(_) => None,
        };
        if let Outcome::Rejected(rejection) = outcome {
            assert_eq!(Some(rejection.reason), expected, "seed {seed}");
            assert!(hub.kv == before, "seed {seed}: a refusal left a trace");
            return;
        }
        assert_eq!(expected, None, "seed {seed}");
        assert_eq!(schema(outcome).state, to, "seed {seed}");
        self.subjects.get_mut(name).unwrap().versions[version as usize - 1].state = to;
    }

    fn set_compatibility(&mut self, hub: &mut Hub, dice: &mut Dice) {
        let name = SUBJECTS[dice.below(6) as usize];
        let to = [Compatibility::None, Compatibility::Full][dice.below(2) as usize];
        let outcome = hub.apply(Kind::SetCompatibility(SetCompatibility {
            subject: name.into(),
            compatibility: to as i32,
            ..SetCompatibility::default()
        }));
        let full = self.subjects.len() as u64 == SUBJECTS_MAX && !self.subjects.contains_key(name);
        match outcome {
            Outcome::Subject(info) => {
                assert_eq!(info.compatibility, to);
                self.subjects.entry(name).or_default().compatibility = Some(to);
            }
            other => assert!(full, "{other:?}"),
        }
    }

    fn check(&self, hub: &Hub, seed: u64) {
        let listed = query::subjects(&hub.kv, "", 100).unwrap();
        let names: Vec<_> = listed.iter().map(|info| info.name.as_str()).collect();
        assert_eq!(names, self.subjects.keys().copied().collect::<Vec<_>>(), "seed {seed}");
        for info in listed {
            let known = &self.subjects[info.name.as_str()];
            let wanted = known.compatibility.unwrap_or(Compatibility::BackwardTransitive);
            assert_eq!(info.compatibility, wanted, "seed {seed}");
            let states: Vec<_> =
                (1..).zip(&known.versions).map(|(n, version)| (n, version.state)).collect();
            assert_eq!(info.versions, states, "seed {seed}");
            let standing = states.iter().filter(|(_, state)| *state != SchemaState::Deleted);
            assert_eq!(info.judge(), standing.map(|(n, _)| *n).max(), "seed {seed}");
            for (number, version) in (1..).zip(&known.versions) {
                let found = query::schema(&hub.kv, &info.name, number).unwrap().unwrap();
                assert_eq!(found.definition, version.definition, "seed {seed}: it stays readable");
                assert_eq!(found.state, version.state, "seed {seed}");
            }
            let beyond = states.len() as u32 + 1;
            assert_eq!(query::schema(&hub.kv, &info.name, beyond).unwrap(), None, "seed {seed}");
        }
    }
}

fn schema(outcome: Outcome) -> SchemaInfo {
    match outcome {
        Outcome::Schema(info) => *info,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_registry_does_what_the_naive_model_does() {
    let (mut registered, mut refused) = (0, 0);
    let count = super::sequences() / 5;
    for seed in super::first_seed()..super::first_seed() + count {
        let (mut dice, mut hub, mut model) = (Dice::new(seed), Hub::plain(), Model::default());
        for _ in 0..10 + dice.below(30) {
            hub.now_ms += dice.below(5);
            // Time goes on also where nothing else does: the same entry leaves the same state.
            hub.apply(Kind::Tick(crate::model::command::Tick {}));
            match dice.below(10) {
                0..=5 => model.register(&mut hub, &mut dice, seed),
                6..=8 => model.set_state(&mut hub, &mut dice, seed),
                _ => model.set_compatibility(&mut hub, &mut dice),
            }
        }
        model.check(&hub, seed);
        registered += model.registered;
        refused += model.refused;
    }
    assert!(registered > count && refused > count, "{registered} registered, {refused} refused");
}

#[test]
fn a_repeated_request_gets_its_first_answer() {
    let mut hub = Hub::plain();
    let register = |fingerprint: &str| RegisterSchema {
        subject: "a".into(),
        fingerprint: fingerprint.into(),
        request_id: "r".into(),
        ..RegisterSchema::default()
    };
    let first = schema(hub.apply(Kind::RegisterSchema(register("1"))));
    assert_eq!(schema(hub.apply(Kind::RegisterSchema(register("2")))), first);
    let set = SetCompatibility { subject: "a".into(), request_id: "s".into(), compatibility: 6 };
    let Outcome::Subject(set_to) = hub.apply(Kind::SetCompatibility(set.clone())) else { panic!() };
    let set = SetCompatibility { compatibility: 0, ..set };
    assert_eq!(hub.apply(Kind::SetCompatibility(set)), Outcome::Subject(set_to));
}
