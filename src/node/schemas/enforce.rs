//! What the schemas of a topic say of its events, before they are proposed.
//!
//! What is known of rules and schemas is kept from call to call, and may be old: the state takes events only if
//! what they were judged by is what judges them at that moment, else they are judged again. A refusal never
//! comes that far, so it is made sure of here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};

use super::super::query::Consistency;
use super::super::{Node, unexpected_bytes};
use super::judgement::at;
use super::judges::{JudgeStats, Known, judge};
use crate::machine::{Fault, query as topics};
use crate::model::command::Publish;
use crate::model::event::{self, EventView};
use crate::model::event_run;
use crate::model::limits::{JUDGED_AT_ONCE_BYTES_MAX, REFUSAL_BYTES_MAX};
use crate::model::rejection::{Reason, Rejection};
use crate::model::schema_rule::{Judged, SchemaMode, SchemaRule, SchemaVerdict, SubjectVersion};
use crate::runtime::tasks;
use crate::schema::Violation;

impl Node {
    /// How many events schemas judged.
    #[must_use]
    pub fn judge_stats(&self) -> &JudgeStats {
        &self.judges.stats
    }

    /// Events with what the schemas of their topic say of them; `None`: its topic has no rule, and they go on
    /// as they are. With `anew`, nothing that may be old counts.
    ///
    /// # Errors
    /// `SCHEMA_VIOLATED`, `SCHEMA_NOT_FOUND`, and those of [`Node::fresh`].
    pub(in crate::node) async fn judged(
        &self,
        publish: &Publish,
        anew: bool,
    ) -> Result<Option<Publish>, Rejection> {
        // Elsewhere it is refused anyway.
        if publish.count == 0 || !self.raft.is_leader() {
            return Ok(None);
        }
        let mut sure = anew;
        loop {
            let Some((rule, known)) = self.judges_of(publish, sure).await? else { return Ok(None) };
            match self.judge_events(publish, rule, known).await {
                Ok(judged) => return Ok(Some(judged)),
                Err(refused) if sure => {
                    self.judges.stats.refused.fetch_add(1, Ordering::Relaxed);
                    return Err(refused);
                }
                Err(_) => self.fresh(Consistency::Linearizable, self.deadline()).await?,
            }
            sure = true;
        }
    }

    /// The rule of a topic, and what judges these events.
    async fn judges_of(
        &self,
        publish: &Publish,
        anew: bool,
    ) -> Result<Option<(Arc<SchemaRule>, Known)>, Rejection> {
        let rule = match self.judges.rule(&publish.topic).filter(|_| !anew) {
            Some(rule) => rule,
            None => self.read_rule(&publish.topic).await?,
        };
        let Some(rule) = rule else { return Ok(None) };
        let subjects = subjects(publish, &rule)?;
        let mut known = self.judges.of(&subjects);
        if anew || known.len() < subjects.len() {
            let old = known;
            let read = self.read(move |db| {
                let judge = |name: &String| Ok((name.clone(), judge(db, name, old.get(name))?));
                subjects.iter().map(judge).collect::<Result<Known, Fault>>()
            });
            known = read.await?;
            self.judges.learn(&known);
        }
        Ok(Some((rule, known)))
    }

    async fn read_rule(&self, topic: &str) -> Result<Option<Arc<SchemaRule>>, Rejection> {
        let name = topic.to_owned();
        let found = self.read(move |db| topics::topic(db, &name)).await?;
        let Some(info) = found else { return Ok(None) };
        let rule = info.config.schema.map(Arc::new);
        self.judges.learn_rule(topic, rule.clone());
        Ok(rule)
    }

    async fn judge_events(
        &self,
        publish: &Publish,
        rule: Arc<SchemaRule>,
        known: Known,
    ) -> Result<Publish, Rejection> {
        let (judged, invalid) = if publish.largest_event_bytes <= JUDGED_AT_ONCE_BYTES_MAX {
            // In portions: another thread would have to be waited for, and others want this one too.
            let mut run = Run::new(publish, &rule, &known);
            while run.judge_some(JUDGED_AT_ONCE_BYTES_MAX)? {
                tokio::task::yield_now().await;
            }
            run.judged()?
        } else {
            let publish = publish.clone();
            let all = move || Run::new(&publish, &rule, &known).judge_all();
            let stopping = "the node is stopping; ask another node";
            let stopping = |_| Rejection::new(Reason::ShuttingDown, stopping);
            tasks::spawn_blocking("judge", all).await.map_err(stopping)??
        };
        let stats = &self.judges.stats;
        stats.invalid.fetch_add(invalid, Ordering::Relaxed);
        stats.valid.fetch_add(u64::from(judged.count).saturating_sub(invalid), Ordering::Relaxed);
        Ok(judged)
    }
}

/// Events of a topic without a rule: what a schema said of them before counts no more.
pub(in crate::node) fn unjudged(publish: &Publish) -> Result<Publish, Rejection> {
    if publish.judged.is_none() {
        return Ok(publish.clone());
    }
    let mut bare = BytesMut::with_capacity(publish.events.len());
    for encoded in event_run::iter(&publish.events) {
        let event = encoded.and_then(event::without_verdict).map_err(unexpected_bytes)?;
        event_run::push(&mut bare, &event);
    }
    Ok(Publish { events: bare.freeze(), judged: None, ..publish.clone() })
}

/// The subjects that judge events.
fn subjects(publish: &Publish, rule: &SchemaRule) -> Result<BTreeSet<String>, Rejection> {
    if !rule.subject.is_empty() {
        return Ok(BTreeSet::from([rule.subject.clone()]));
    }
    let mut found = BTreeSet::new();
    for encoded in event_run::iter(&publish.events) {
        let view = encoded.and_then(EventView::read).map_err(unexpected_bytes)?;
        if !found.contains(view.kind) {
            found.insert(view.kind.to_owned());
        }
    }
    Ok(found)
}

/// Events that are being judged; each gets what was said of it.
struct Run<'p> {
    publish: &'p Publish,
    rule: &'p SchemaRule,
    known: &'p Known,
    /// What is left of the events, and the number of the next one.
    left: event_run::Events<'p>,
    next: usize,
    judged: BytesMut,
    versions: BTreeMap<&'p str, u32>,
    invalid: u64,
    refused: Option<Refused>,
}

impl<'p> Run<'p> {
    fn new(publish: &'p Publish, rule: &'p SchemaRule, known: &'p Known) -> Self {
        let fields = known.values().map(|judge| judge.field.len()).max().unwrap_or(0);
        // Of each event its length may take a byte more, too.
        let more = (fields + 1) * usize::try_from(publish.count).unwrap_or(0);
        Self {
            publish,
            rule,
            known,
            left: event_run::iter(&publish.events),
            next: 0,
            judged: BytesMut::with_capacity(publish.events.len() + more),
            versions: BTreeMap::new(),
            invalid: 0,
            refused: None,
        }
    }

    /// Judges events of about so many bytes; whether there are more.
    fn judge_some(&mut self, bytes: u64) -> Result<bool, Rejection> {
        let mut seen = 0;
        while seen < bytes {
            let Some(encoded) = self.left.next() else { return Ok(false) };
            let encoded = encoded.map_err(unexpected_bytes)?;
            seen += encoded.len() as u64;
            self.judge(encoded)?;
        }
        Ok(true)
    }

    fn judge_all(mut self) -> Result<(Publish, u64), Rejection> {
        while self.judge_some(u64::MAX)? {}
        self.judged()
    }

    fn judge(&mut self, encoded: &[u8]) -> Result<(), Rejection> {
        let index = self.next;
        self.next += 1;
        let refuses = self.rule.mode() == SchemaMode::Enforce;
        let view = EventView::read(encoded).map_err(unexpected_bytes)?;
        let Some(judge) = self.known.get(self.rule.subject_of(view.kind)) else {
            let text = "an event's schema was not looked for; report this";
            return Err(Rejection::new(Reason::Internal, text));
        };
        let field = match &judge.schema {
            Ok(schema) => match schema.validate(view.data, &self.rule.message) {
                Ok(()) => judge.field.clone(),
                Err(violations) if refuses => {
                    let event = (self.publish.count > 1).then_some(index);
                    let tell = |text: &mut String| {
                        violated(text, (event, view.id), &judge.verdict, &violations);
                    };
                    let first = || {
                        let SchemaVerdict { subject, version, .. } = &judge.verdict;
                        let refused = Rejection::new(Reason::SchemaViolated, "");
                        let refused = refused.with("event_index", index).with("subject", subject);
                        refused.with("version", version).with("violations", violations.len())
                    };
                    self.refused.get_or_insert_with(|| Refused::new(first())).add(index, tell);
                    return Ok(());
                }
                Err(violations) => {
                    self.invalid += 1;
                    let violations = u32::try_from(violations.len()).unwrap_or(u32::MAX);
                    SchemaVerdict { violations, ..judge.verdict.clone() }.as_field()
                }
            },
            Err(why) if refuses => {
                let Some(refused) = &mut self.refused else {
                    return Err(why.clone().with("event_index", index));
                };
                let why = &why.message;
                refused.add(index, |text| text.push_str(&format!("event {index}: {why}")));
                return Ok(());
            }
            Err(_) => Bytes::new(),
        };
        let SchemaVerdict { subject, version, .. } = &judge.verdict;
        if !self.versions.contains_key(subject.as_str()) {
            self.versions.insert(subject, *version);
        }
        if view.has_verdict {
            let bare = event::without_verdict(encoded).map_err(unexpected_bytes)?;
            event_run::push_joined(&mut self.judged, &bare, &field);
        } else {
            event_run::push_joined(&mut self.judged, encoded, &field);
        }
        Ok(())
    }

    /// All of them, and how many are invalid.
    fn judged(self) -> Result<(Publish, u64), Rejection> {
        if let Some(refused) = self.refused {
            return Err(refused.whole());
        }
        let version = |(subject, version): (&str, u32)| SubjectVersion {
            subject: subject.to_owned(),
            version,
        };
        let versions = self.versions.into_iter().map(version).collect();
        let judged = Some(Judged { rule: self.rule.clone(), versions });
        let events = self.judged.freeze();
        Ok((Publish { events, judged, ..self.publish.clone() }, self.invalid))
    }
}

/// The refusal of a call, with every violation of each of its events that there is room for.
struct Refused {
    /// The facts of the first event, and the text of all of them.
    rejection: Rejection,
    /// The events that the text tells of.
    told: Vec<usize>,
    count: usize,
}

impl Refused {
    fn new(rejection: Rejection) -> Self {
        Self { rejection, told: Vec::new(), count: 0 }
    }

    fn add(&mut self, index: usize, tell: impl FnOnce(&mut String)) {
        self.count += 1;
        let text = &mut self.rejection.message;
        if text.len() > REFUSAL_BYTES_MAX {
            return;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        tell(text);
        self.told.push(index);
    }

    fn whole(self) -> Rejection {
        let Self { mut rejection, told, count } = self;
        if count == 1 {
            return rejection;
        }
        if count > told.len() {
            rejection.message.push_str(&format!("; and {} more events", count - told.len()));
        }
        let told: Vec<String> = told.iter().map(usize::to_string).collect();
        rejection.with("event_indexes", told.join(",")).with("invalid_events", count)
    }
}

/// Tells why an event is refused, with every violation that there is room for. Its number is told where it has
/// neighbours.
fn violated(
    text: &mut String,
    (index, id): (Option<usize>, &str),
    by: &SchemaVerdict,
    violations: &[Violation],
) {
    let number = index.map(|index| format!("{index} ")).unwrap_or_default();
    let SchemaVerdict { subject, version, .. } = by;
    let head = format!("event {number}{id:?} is invalid by version {version} of subject {subject}");
    text.push_str(&head);
    for (told, Violation { pointer, text: why }) in violations.iter().enumerate() {
        if text.len() > REFUSAL_BYTES_MAX {
            text.push_str(&format!("; and {} more", violations.len() - told));
            break;
        }
        text.push_str(if told == 0 { ": " } else { "; " });
        text.push_str(&at(pointer, why));
    }
}

#[cfg(test)]
mod tests {
    use super::super::judges::Judge;
    use super::super::judges::tests::known;
    use super::*;
    use crate::machine::schema::query;

    fn publish(kind: &str, data: &[&str]) -> Publish {
        let event = |data: &&str| {
            let data = Bytes::from((*data).to_owned());
            let (id, source) = ("i".to_owned(), "/s".to_owned());
            let event = crate::proto::v1::Event {
                id,
                source,
                r#type: kind.to_owned(),
                data,
                ..Default::default()
            };
            Bytes::from(prost::Message::encode_to_vec(&event))
        };
        let events: Vec<_> = data.iter().map(event).collect();
        let count = u32::try_from(events.len()).unwrap();
        Publish { count, events: event_run::encode(&events), ..Publish::default() }
    }

    fn judge_run(
        publish: &Publish,
        rule: &SchemaRule,
        known: &Known,
    ) -> Result<(Publish, u64), Rejection> {
        Run::new(publish, rule, known).judge_all()
    }

    fn rule(mode: SchemaMode, subject: &str) -> SchemaRule {
        SchemaRule { mode: mode as i32, subject: subject.to_owned(), ..SchemaRule::default() }
    }

    fn verdicts(publish: &Publish) -> Vec<Option<(String, u32, u32)>> {
        let decode = |encoded: Result<&[u8], _>| {
            let event: crate::proto::v1::Event = prost::Message::decode(encoded.unwrap()).unwrap();
            event.schema_verdict.map(|v| (v.subject, v.version, v.violations))
        };
        event_run::iter(&publish.events).map(decode).collect()
    }

    #[test]
    fn events_get_what_their_schema_says_of_them() {
        let known = known("order", 3, r#"{"type": "object", "required": ["a", "b"]}"#);
        let two = publish("order", &[r#"{"a": 1, "b": 2}"#, "{}"]);
        let (judged, invalid) = judge_run(&two, &rule(SchemaMode::Warn, ""), &known).unwrap();
        let said = |violations| Some(("order".to_owned(), 3, violations));
        assert_eq!((verdicts(&judged), invalid), (vec![said(0), said(2)], 1));
        let by = judged.judged.clone().unwrap();
        assert_eq!(by.versions, [SubjectVersion { subject: "order".to_owned(), version: 3 }]);
        // Again, as a commit of what was staged does: one verdict only.
        let (again, _) = judge_run(&judged, &rule(SchemaMode::Warn, ""), &known).unwrap();
        assert!(again == judged);
        let refused = judge_run(&two, &rule(SchemaMode::Enforce, "order"), &known).unwrap_err();
        assert_eq!(refused.reason, Reason::SchemaViolated);
        let facts =
            ["event_index", "subject", "version", "violations"].map(|f| refused.fact(f).unwrap());
        assert_eq!(facts, ["1", "order", "3", "2"]);
    }

    #[test]
    fn what_was_judged_is_bare_again_where_nothing_judges() {
        let known = known("order", 3, r#"{"type": "object", "required": ["a"]}"#);
        let two = publish("order", &["{}", r#"{"a": 1}"#]);
        let (judged, _) = judge_run(&two, &rule(SchemaMode::Warn, ""), &known).unwrap();
        assert!(judged != two && unjudged(&judged).unwrap() == two);
        assert!(unjudged(&two).unwrap() == two);
        // Of what was staged, some was judged and some not.
        let mixed = event_run::iter(&judged.events).chain(event_run::iter(&two.events));
        let mixed: Vec<_> = mixed.map(|event| Bytes::copy_from_slice(event.unwrap())).collect();
        let mixed = Publish { count: 4, events: event_run::encode(&mixed), ..judged };
        let bare = unjudged(&mixed).unwrap();
        assert_eq!((verdicts(&bare), bare.judged), (vec![None; 4], None));
    }

    #[test]
    fn an_event_without_a_schema_is_refused_or_not_judged() {
        let none = Known::from([(
            "x".to_owned(),
            Arc::new(Judge {
                verdict: SchemaVerdict { subject: "x".to_owned(), ..SchemaVerdict::default() },
                field: Bytes::new(),
                schema: Err(query::not_found("x", None)),
            }),
        )]);
        let one = publish("x", &["{}"]);
        let refused = judge_run(&one, &rule(SchemaMode::Enforce, ""), &none).unwrap_err();
        assert_eq!(refused.reason, Reason::SchemaNotFound);
        let (judged, invalid) = judge_run(&one, &rule(SchemaMode::Warn, ""), &none).unwrap();
        assert_eq!((verdicts(&judged), invalid), (vec![None], 0));
        assert_eq!(judged.judged.unwrap().versions[0].version, 0);
    }

    #[test]
    fn every_violation_of_every_event_is_told() {
        let schema = r#"{"type": "object", "required": ["a", "b"]}"#;
        let known = known("order", 3, schema);
        let good = r#"{"a": 1, "b": 2}"#;
        let all = publish("order", &[good, "{}", good, "[]", r#"{"a": 1}"#]);
        let refused = judge_run(&all, &rule(SchemaMode::Enforce, ""), &known).unwrap_err();
        assert_eq!(refused.reason, Reason::SchemaViolated);
        let facts = ["event_index", "violations", "event_indexes", "invalid_events"];
        assert_eq!(facts.map(|f| refused.fact(f).unwrap()), ["1", "2", "1,3,4", "3"]);
        let text = &refused.message;
        let events: Vec<_> = text.split("event ").skip(1).collect();
        assert_eq!(events.len(), 3, "{text}");
        assert!(events[0].starts_with("1 ") && events[0].contains("at /a:"), "{text}");
        assert!(events[0].contains("at /b:") && events[1].starts_with("3 "), "{text}");
        assert!(events[2].starts_with("4 ") && events[2].contains("at /b:"), "{text}");
        let alone = judge_run(&publish("order", &["[]"]), &rule(SchemaMode::Enforce, ""), &known);
        let alone = alone.unwrap_err();
        assert!(alone.message.starts_with("event \"i\" is invalid by version 3"), "{alone}");
        assert_eq!(alone.fact("event_indexes"), None);
        // Also what has no schema, behind one that is invalid.
        let mut mixed = known;
        let none = Judge {
            verdict: SchemaVerdict { subject: "x".to_owned(), ..SchemaVerdict::default() },
            field: Bytes::new(),
            schema: Err(query::not_found("x", None)),
        };
        mixed.insert("x".to_owned(), Arc::new(none));
        let both = [publish("order", &["{}"]), publish("x", &["{}"])];
        let run = |order: [usize; 2]| {
            let events = order.map(|n| both[n].events.clone()).concat().into();
            let publish = Publish { count: 2, events, ..Publish::default() };
            judge_run(&publish, &rule(SchemaMode::Enforce, ""), &mixed).unwrap_err()
        };
        let refused = run([0, 1]);
        assert_eq!(refused.reason, Reason::SchemaViolated);
        assert_eq!(refused.fact("event_indexes"), Some("0,1"));
        assert_eq!(run([1, 0]).reason, Reason::SchemaNotFound);
    }

    #[test]
    fn a_refusal_is_bounded() {
        let all: Vec<_> = (0..100)
            .map(|n| Violation { pointer: format!("/{n}"), text: "x".repeat(200) })
            .collect();
        let mut refused = Refused::new(Rejection::new(Reason::SchemaViolated, ""));
        for index in 0..500 {
            let some = if index == 0 { &all[..5] } else { &all[..] };
            refused.add(index, |text| {
                violated(text, (Some(index), "i"), &SchemaVerdict::default(), some);
            });
        }
        let refused = refused.whole();
        assert!(refused.message.len() < REFUSAL_BYTES_MAX + 400, "{}", refused.message.len());
        assert!(refused.message.contains("; and 9"), "{refused}");
        assert!(refused.message.ends_with("; and 498 more events"), "{refused}");
        assert_eq!(refused.fact("event_indexes"), Some("0,1"));
        assert_eq!(refused.fact("invalid_events"), Some("500"));
    }
}
