//! The index of correlation ids: of topics that are there it tells everything at any time, and of those that were
//! deleted nothing is left after a while.

use std::collections::BTreeMap;

use super::delivery::random::{TestEvent, create_topic, publish_of};
use super::random::Dice;
use super::{apply, first_seed, sequences};
use crate::machine::apply::Meta;
use crate::machine::kv::Table;
use crate::machine::mem::MemKv;
use crate::machine::tracking::query::trace;
use crate::model::command::{CommandBatch, DeleteTopic, Housekeep, Kind};
use crate::model::ids::{Position, UnixMs};
use crate::model::limits::CORRELATIONS_SWEPT_MAX;
use crate::model::trace::Chosen;

const TOPICS: [&str; 3] = ["t", "u", "v"];
/// The last stands for none.
const IDS: [&str; 4] = ["a", "aa", "b", ""];

/// By topic that is there: the correlation ids of its events.
type Known = BTreeMap<&'static str, Vec<&'static str>>;

fn publish(dice: &mut Dice, topic: &'static str, known: &mut Known) -> Kind {
    let ids: Vec<_> = (0..=dice.below(4)).map(|_| IDS[dice.below(4) as usize]).collect();
    let event = |id: &&str| TestEvent {
        id: "i".into(),
        source: "s".into(),
        kind: "k".into(),
        correlation_id: (*id).to_owned(),
        ..TestEvent::default()
    };
    let events: Vec<_> = ids.iter().map(event).collect();
    if let Some(of_it) = known.get_mut(topic) {
        of_it.extend(ids);
    }
    Kind::Publish(publish_of(topic, &events))
}

fn check(kv: &MemKv, known: &Known, seed: u64) {
    for id in &IDS[..3] {
        let found = trace(kv, (id, &Chosen::All), Position(0), 1000, UnixMs(0)).unwrap();
        let mut told: Vec<_> = found
            .events
            .iter()
            .map(|traced| (traced.topic.clone(), traced.event.offset.get()))
            .collect();
        told.sort_unstable();
        let of_topic = |(topic, ids): (&&str, &Vec<&str>)| -> Vec<_> {
            let theirs = (0..).zip(ids).filter(|(_, of)| *of == id);
            theirs.map(|(offset, _)| ((*topic).to_owned(), offset)).collect()
        };
        let expected: Vec<(String, u64)> = known.iter().flat_map(of_topic).collect();
        assert_eq!(told, expected, "seed {seed}, {id}");
    }
}

fn correlated(known: &Known) -> usize {
    known.values().flatten().filter(|id| !id.is_empty()).count()
}

struct Run {
    kv: MemKv,
    entries: Vec<CommandBatch>,
}

impl Run {
    fn apply(&mut self, commands: Vec<Kind>) {
        let commands = commands.into_iter().map(Into::into).collect();
        let entry = CommandBatch { stamp_ms: 1000, commands };
        self.entries.push(entry.clone());
        apply(&mut self.kv, &[entry], self.entries.len() as u64);
    }

    fn rounds(&self) -> u64 {
        Meta::load(&self.kv).unwrap().correlations_rounds
    }

    fn rows(&self) -> usize {
        self.kv.rows(Table::Correlations)
    }
}

#[test]
fn deleted_topics_leave_the_index_bit_by_bit_and_others_stay() {
    let (mut swept, mut second_rounds) = (0, 0);
    for seed in first_seed()..first_seed() + sequences() / 5 {
        let mut dice = Dice::new(seed);
        let (mut run, mut known) = (Run { kv: MemKv::default(), entries: vec![] }, Known::new());
        for _ in 0..10 + dice.below(30) {
            let topic = TOPICS[dice.below(3) as usize];
            let rows = run.rows();
            match dice.below(8) {
                0 | 1 => {
                    known.entry(topic).or_default();
                    run.apply(vec![create_topic(topic)]);
                }
                2 => {
                    known.remove(topic);
                    let name = topic.to_owned();
                    run.apply(vec![Kind::DeleteTopic(DeleteTopic { name, ..Default::default() })]);
                    second_rounds += u64::from(run.rounds() == 2);
                }
                3 => {
                    run.apply(vec![Kind::Housekeep(Housekeep {})]);
                    assert!(rows - run.rows() <= CORRELATIONS_SWEPT_MAX, "seed {seed}");
                    swept += rows - run.rows();
                }
                4 => {
                    // What is not stored yet stays, too.
                    let commands =
                        vec![publish(&mut dice, topic, &mut known), Kind::Housekeep(Housekeep {})];
                    run.apply(commands);
                }
                _ => {
                    let command = publish(&mut dice, topic, &mut known);
                    run.apply(vec![command]);
                }
            }
            check(&run.kv, &known, seed);
        }
        // Each round ends after so many.
        let most = 2 * (run.rows() / CORRELATIONS_SWEPT_MAX + 1);
        for _ in 0..most {
            run.apply(vec![Kind::Housekeep(Housekeep {})]);
        }
        assert_eq!((run.rounds(), run.rows()), (0, correlated(&known)), "seed {seed}");
        check(&run.kv, &known, seed);
        let mut together = MemKv::default();
        apply(&mut together, &run.entries, 1);
        assert!(together == run.kv, "seed {seed}: state depends on how entries are grouped");
    }
    let enough = swept > 0 && second_rounds > 0;
    assert!(enough || sequences() < 1000, "{swept} rows swept, {second_rounds} second rounds");
}
