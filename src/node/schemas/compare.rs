//! Comparing a schema with the versions of its subject: how much of that is done at once, and for one caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Found;
use super::compile::compiled;
use super::judgement::Incompatible;
use crate::machine::kv::Kv;
use crate::machine::schema::query;
use crate::model::limits::{
    COMPARED_BYTES_A_STEP, JUDGEMENT_STEPS_MAX, SCHEMAS_COMPARED_AT_ONCE,
    SCHEMAS_COMPILED_BYTES_MAX, SCHEMAS_COMPILED_MAX,
};
use crate::model::rejection::{Reason, Rejection};
use crate::model::schema::{Compatibility, SchemaInfo, SchemaState, SubjectInfo};
use crate::runtime::clock;
use crate::schema::{self, Compiled, Direction, Incompatibility, Steps};

/// Who compares at the moment, and what was compiled for that.
pub(in crate::node) struct Comparing {
    turns: Arc<Semaphore>,
    versions: Arc<Versions>,
}

impl Default for Comparing {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(SCHEMAS_COMPARED_AT_ONCE)), versions: Arc::default() }
    }
}

impl Comparing {
    /// Waits for a turn, so that those who compare leave reads to others.
    ///
    /// # Errors
    /// `DEADLINE_EXCEEDED`.
    pub(super) async fn turn(&self, deadline: Instant) -> Result<Turn, Rejection> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        match tokio::time::timeout_at(deadline.into(), turn).await {
            Ok(Ok(permit)) => Ok(Turn {
                _permit: permit,
                versions: Arc::clone(&self.versions),
                deadline,
                steps: JUDGEMENT_STEPS_MAX,
            }),
            Ok(Err(_)) | Err(_) => Err(late()),
        }
    }
}

fn late() -> Rejection {
    let text = "schemas are being compared that take all the time there is; try again, or ask for fewer comparisons by a rule that is not transitive";
    Rejection::new(Reason::DeadlineExceeded, text)
}

/// The right to compare, for one judgement.
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
    versions: Arc<Versions>,
    deadline: Instant,
    steps: usize,
}

/// Versions that were compiled, bounded by number and by the bytes of their texts. A version never changes.
#[derive(Default)]
struct Versions(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    compiled: HashMap<(String, u32), Arc<Compiled>>,
    source_bytes: usize,
}

impl Versions {
    fn compiled(&self, kv: &impl Kv, info: &SchemaInfo) -> Found<Arc<Compiled>> {
        let version = (info.subject.clone(), info.version);
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().compiled.get(&version) {
            return Ok(Ok(Arc::clone(known)));
        }
        let compiled = match compiled(kv, &info.definition)? {
            Ok(compiled) => Arc::new(compiled),
            Err(rejection) => return Ok(Err(rejection)),
        };
        lock().keep(version, &compiled);
        Ok(Ok(compiled))
    }
}

impl Kept {
    fn keep(&mut self, version: (String, u32), compiled: &Arc<Compiled>) {
        let bytes = compiled.source_bytes();
        let fits = self.source_bytes + bytes <= SCHEMAS_COMPILED_BYTES_MAX;
        if !fits || self.compiled.len() >= SCHEMAS_COMPILED_MAX {
            // Too much is forgotten, and what is asked for is known again soon.
            *self = Self::default();
        }
        if bytes > SCHEMAS_COMPILED_BYTES_MAX {
            return;
        }
        self.source_bytes += bytes;
        if let Some(old) = self.compiled.insert(version, Arc::clone(compiled)) {
            self.source_bytes -= old.source_bytes();
        }
    }
}

/// The versions of a subject that are not deleted, the newest first.
pub(super) fn standing(subject: &SubjectInfo) -> impl Iterator<Item = u32> {
    let stands = |(_, state): &&(u32, SchemaState)| *state != SchemaState::Deleted;
    subject.versions.iter().rev().filter(stands).map(|(number, _)| *number)
}

/// Why a version with this number cannot stand beside the others that a rule compares it with. What cannot be
/// compared within the steps of a judgement counts as incompatible.
pub(super) fn compare(
    kv: &impl Kv,
    turn: &Turn,
    subject: &SubjectInfo,
    (number, it): (u32, &Compiled),
    rule: Compatibility,
) -> Found<Incompatible> {
    let (directions, all) = asks(rule);
    let mut found = Incompatible::default();
    if directions.is_empty() {
        return Ok(Ok(found));
    }
    let mut budget = Steps::new(turn.steps);
    let others = neighbours(standing(subject).collect(), number, all);
    for (done, other) in others.iter().copied().enumerate() {
        let Some(stored) = query::schema(kv, &subject.name, other)? else { continue };
        let stored = match turn.versions.compiled(kv, &stored)? {
            Ok(stored) => stored,
            Err(rejection) => return Ok(Err(rejection)),
        };
        budget.take(stored.source_bytes() / COMPARED_BYTES_A_STEP);
        for direction in directions.iter().copied() {
            if clock::now() >= turn.deadline {
                return Ok(Err(late()));
            }
            let (new, old) = if other < number { (it, &*stored) } else { (&*stored, it) };
            // Told as what readers with it can do, and what others can do with it.
            let told = if other < number { direction } else { direction.opposite() };
            let why = schema::incompatibilities_within(new, old, direction, &mut budget);
            let cut = budget.used_up();
            // What was not proven for want of steps is told once.
            for why in why.into_iter().filter(|why| !cut || why.rule != CANNOT_PROVE) {
                found.add(other, told, why);
            }
            if cut {
                found.add(other, told, unproven(turn.steps, others.len() - done));
                return Ok(Ok(found));
            }
        }
    }
    Ok(Ok(found))
}

/// The rule of what cannot be proven either way.
const CANNOT_PROVE: &str = "cannot_prove";

/// The steps of a judgement were used up while so many versions were left.
fn unproven(steps: usize, left: usize) -> Incompatibility {
    Incompatibility {
        path: String::new(),
        rule: CANNOT_PROVE,
        text: format!(
            "cannot be proven within {steps} steps for all versions, {left} were left: use a rule that is not transitive, or delete versions nobody refers to"
        ),
    }
}

/// Which of the versions that stand, newest first, one with this number is compared with: all, or those next to it.
fn neighbours(standing: Vec<u32>, number: u32, all: bool) -> Vec<u32> {
    let (after, before): (Vec<u32>, Vec<u32>) =
        standing.into_iter().filter(|other| *other != number).partition(|other| *other > number);
    if all {
        return [after, before].concat();
    }
    after.last().into_iter().chain(before.first()).copied().collect()
}

/// In which directions a rule asks, and whether of all versions.
fn asks(rule: Compatibility) -> (&'static [Direction], bool) {
    const BOTH: &[Direction] = &[Direction::Backward, Direction::Forward];
    match rule {
        Compatibility::BackwardTransitive => (&BOTH[..1], true),
        Compatibility::Backward => (&BOTH[..1], false),
        Compatibility::ForwardTransitive => (&BOTH[1..], true),
        Compatibility::Forward => (&BOTH[1..], false),
        Compatibility::FullTransitive => (BOTH, true),
        Compatibility::Full => (BOTH, false),
        Compatibility::None => (&[], false),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;

    use super::*;
    use crate::machine::apply::Machine;
    use crate::machine::mem::MemKv;
    use crate::model::command::{CommandBatch, Kind, RegisterSchema};
    use crate::model::ids::LogIndex;
    use crate::model::outcome::Outcome;
    use crate::model::schema::{SchemaDefinition, SchemaFile, SchemaFormat};
    use crate::schema::{Definition, Format, SourceFile};

    #[test]
    fn a_rule_compares_with_all_or_with_those_next_to_it() {
        use Compatibility::{
            Backward, BackwardTransitive, Forward, ForwardTransitive, Full, FullTransitive, None,
        };
        let (back, forth) = (Direction::Backward, Direction::Forward);
        type Case<'a> = (Compatibility, &'a [Direction], &'a [u32], &'a [u32]);
        let cases: [Case<'_>; 7] = [
            (None, &[], &[5], &[5, 2]),
            (Backward, &[back], &[5], &[5, 2]),
            (BackwardTransitive, &[back], &[5, 2, 1], &[7, 5, 2, 1]),
            (Forward, &[forth], &[5], &[5, 2]),
            (ForwardTransitive, &[forth], &[5, 2, 1], &[7, 5, 2, 1]),
            (Full, &[back, forth], &[5], &[5, 2]),
            (FullTransitive, &[back, forth], &[5, 2, 1], &[7, 5, 2, 1]),
        ];
        for (rule, directions, of_a_new_one, of_the_third) in cases {
            let (asked, all) = asks(rule);
            assert_eq!(asked, directions, "{rule:?}");
            assert_eq!(neighbours(vec![5, 2, 1], u32::MAX, all), of_a_new_one, "{rule:?}");
            assert_eq!(neighbours(vec![7, 5, 3, 2, 1], 3, all), of_the_third, "{rule:?}");
        }
        assert!(
            neighbours(Vec::new(), 1, true).is_empty() && neighbours(vec![1], 1, false).is_empty()
        );
    }

    /// A hub with versions of a subject, all of the same shape.
    fn hub(versions: u32) -> (MemKv, SubjectInfo) {
        let mut kv = MemKv::default();
        for n in 1..=versions {
            let text = format!(r#"{{"title":"{n}","properties":{{"a":{{"type":"string"}}}}}}"#);
            let definition = SchemaDefinition {
                format: SchemaFormat::Json as i32,
                files: vec![SchemaFile { name: "main".into(), text }],
                references: Vec::new(),
            };
            let known = query::subject(&kv, "s").unwrap();
            let register = RegisterSchema {
                subject: "s".into(),
                definition,
                fingerprint: n.to_string(),
                judged_at: known.map_or(0, |known| known.revision),
                request_id: String::new(),
            };
            let commands = vec![Kind::RegisterSchema(register).into()];
            let entry = CommandBatch { stamp_ms: 1, commands }.encode_to_vec();
            let mut machine = Machine::load(&kv).unwrap();
            let applied = machine.apply(LogIndex(n.into()), &entry.into()).unwrap();
            assert!(matches!(applied.outcomes[0], Outcome::Schema(_)), "{:?}", applied.outcomes);
            let writes = machine.into_writes();
            kv.write(writes);
        }
        let subject = query::subject(&kv, "s").unwrap().unwrap();
        (kv, subject)
    }

    async fn turn(steps: usize) -> Turn {
        let turn = Comparing::default().turn(clock::now() + Duration::from_secs(60)).await;
        Turn { steps, ..turn.unwrap_or_else(|refused| panic!("{refused}")) }
    }

    fn judged(kv: &MemKv, turn: &Turn, subject: &SubjectInfo, rule: Compatibility) -> Incompatible {
        let new = query::schema(kv, "s", 1).unwrap().unwrap();
        let new = compiled(kv, &new.definition).unwrap().unwrap();
        compare(kv, turn, subject, (u32::MAX, &new), rule).unwrap().unwrap()
    }

    #[tokio::test]
    async fn all_comparisons_of_a_judgement_share_their_steps() {
        let (kv, subject) = hub(5);
        let all = Compatibility::FullTransitive;
        let found = judged(&kv, &turn(1000).await, &subject, all);
        assert!(found.is_empty(), "{found:?}");
        // What each of them may take by itself is too little for all.
        let few = turn(60).await;
        let found = judged(&kv, &few, &subject, Compatibility::Full);
        assert!(found.is_empty(), "{found:?}");
        let found = judged(&kv, &few, &subject, all);
        let [(version, _, why)] = &found.told[..] else { panic!("{found:?}") };
        assert_eq!(why.rule, "cannot_prove");
        assert!((1..5).contains(version), "{found:?}");
        let says = ["within 60 steps", &format!("{version} were left"), "not transitive", "delete"];
        assert!(says.iter().all(|says| why.text.contains(says)), "{}", why.text);
        // Nothing is said of what there is no time for.
        let late = Turn { deadline: clock::now(), ..turn(1000).await };
        let it = compiled(&kv, &query::schema(&kv, "s", 1).unwrap().unwrap().definition);
        let refused = compare(&kv, &late, &subject, (9, &it.unwrap().unwrap()), all).unwrap();
        assert_eq!(refused.unwrap_err().reason, Reason::DeadlineExceeded);
    }

    #[tokio::test]
    async fn versions_are_compiled_once_while_there_is_room() {
        let (kv, subject) = hub(3);
        let turn = turn(1000).await;
        judged(&kv, &turn, &subject, Compatibility::BackwardTransitive);
        let kept = |n: u32| {
            let kept = turn.versions.0.lock().unwrap();
            kept.compiled.get(&("s".to_owned(), n)).cloned()
        };
        let first: Vec<_> = (1..=3).map(|n| kept(n).unwrap()).collect();
        judged(&kv, &turn, &subject, Compatibility::BackwardTransitive);
        assert!((1..).zip(&first).all(|(n, first)| Arc::ptr_eq(first, &kept(n).unwrap())));
        let bytes = || turn.versions.0.lock().unwrap().source_bytes;
        assert_eq!(bytes(), first.iter().map(|known| known.source_bytes()).sum::<usize>());
        let large = compile_text(&format!("{:1$}", "{}", SCHEMAS_COMPILED_BYTES_MAX - 10));
        turn.versions.0.lock().unwrap().keep(("t".into(), 1), &large);
        assert_eq!(bytes(), SCHEMAS_COMPILED_BYTES_MAX - 10);
        assert!(kept(1).is_none());
    }

    fn compile_text(text: &str) -> Arc<Compiled> {
        let files = vec![SourceFile { name: "main".into(), text: text.into() }];
        let definition = Definition { format: Format::Json, files, references: Vec::new() };
        Arc::new(schema::compile(&definition, &[]).unwrap_or_else(|error| panic!("{error}")))
    }

    #[tokio::test]
    async fn few_compare_at_once_and_the_others_wait_in_bounded_time() {
        let comparing = Comparing::default();
        let soon = || clock::now() + Duration::from_millis(20);
        let mut turns = Vec::new();
        for _ in 0..SCHEMAS_COMPARED_AT_ONCE {
            turns.push(comparing.turn(soon()).await.unwrap_or_else(|refused| panic!("{refused}")));
        }
        let refused = comparing.turn(soon()).await.map(|_| ()).unwrap_err();
        assert_eq!(refused.reason, Reason::DeadlineExceeded);
        turns.pop();
        assert!(comparing.turn(soon()).await.is_ok());
    }
}
