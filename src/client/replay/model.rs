//! Drawn replays against what they are by their description: the events of a log one by one, each looked at
//! by itself.

use std::sync::{Arc, Mutex};

use prost::Message as _;

use super::*;
use crate::client::fake::{Fake, client};
use crate::client::filter_json;
use crate::client::spawn::spawn;
use crate::proto::v1::{Event, EventBatch, ReadResponse, Start, Topic};

/// Drawn replays; `MHUB_TEST_REPLAYS` asks for more, `MHUB_TEST_SEED` for others.
const SEQUENCES: u64 = 400;
const TOPICS: [&str; 2] = ["t", "u"];

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }
}

/// What a node has: two topics in one order, with gaps where others were deleted.
struct Log {
    dice: Dice,
    events: Vec<RecordedEvent>,
    next_offsets: [u64; 2],
    /// The next position to be given out.
    position: u64,
    now_ms: u64,
}

impl Log {
    fn new(dice: Dice) -> Self {
        let (events, next_offsets) = (Vec::new(), [0; 2]);
        let mut log = Self { dice, events, next_offsets, position: 0, now_ms: 1000 };
        // The hub is never without any event here, the topic may be.
        log.append(1);
        log.grow();
        log
    }

    fn grow(&mut self) {
        for _ in 0..self.dice.below(15) {
            let topic = self.dice.below(2);
            self.append(usize::try_from(topic).unwrap());
        }
    }

    /// Some events of one call.
    fn append(&mut self, topic: usize) {
        self.position += [0, 0, 0, 5][usize::try_from(self.dice.below(4)).unwrap()];
        self.now_ms += self.dice.below(3) * 10;
        for _ in 0..=self.dice.below(5) {
            let event = Event {
                id: self.position.to_string(),
                r#type: self.dice.pick(&["a", "b"]).to_owned(),
                key: self.dice.pick(&["", "k", "kk"]).to_owned(),
                correlation_id: self.dice.pick(&["", "c"]).to_owned(),
                ..Event::default()
            };
            self.events.push(RecordedEvent {
                topic: TOPICS[topic].to_owned(),
                offset: self.next_offsets[topic],
                position: self.position,
                recorded_at_ms: self.now_ms,
                event: event.encode_to_vec().into(),
                ..RecordedEvent::default()
            });
            self.next_offsets[topic] += 1;
            self.position += 1;
        }
    }

    fn topic(&self) -> Topic {
        Topic { next_offset: self.next_offsets[0], created_at_ms: 1, ..Topic::default() }
    }

    /// The events of a topic, or all; and where they end.
    fn of(&self, topic: &str) -> (Vec<RecordedEvent>, u64) {
        let of = self.events.iter().filter(|event| topic.is_empty() || event.topic == topic);
        let end = if topic.is_empty() { self.position } else { self.next_offsets[0] };
        (of.cloned().collect(), end)
    }

    /// What a node answers to a read, cut anywhere.
    fn answers(&mut self, request: &ReadRequest) -> Vec<ReadResponse> {
        let (mut events, end) = self.of(&request.topic);
        if request.backward {
            events = events.split_off(events.len() - 1);
        } else {
            events.retain(|event| match &request.from {
                None | Some(From::Start(_)) => true,
                Some(From::End(_)) => false,
                Some(From::Offset(offset)) => event.offset >= *offset,
                Some(From::Position(position)) => event.position >= *position,
                Some(From::TimeMs(ms)) => event.recorded_at_ms >= *ms,
            });
        }
        let mut next = end;
        if request.limit > 0 {
            events.truncate(usize::try_from(request.limit).unwrap());
        } else if !request.topic.is_empty() && self.dice.below(40) == 0 {
            // A node that lags: a topic has no gaps, so it shows.
            let some = self.dice.below(events.len() as u64 + 1);
            events.truncate(usize::try_from(some).unwrap());
            next = events.last().map_or(end, |last| last.offset + 1);
        }
        let place = |event: &RecordedEvent| {
            if request.topic.is_empty() { event.position } else { event.offset }
        };
        let mut answers = vec![ReadResponse { next, at_end: true, ..ReadResponse::default() }];
        let mut batches: Vec<EventBatch> = Vec::new();
        for event in events {
            let follows = batches.last().is_some_and(|batch| {
                let count = batch.events.len() as u64;
                batch.topic == event.topic
                    && batch.recorded_at_ms == event.recorded_at_ms
                    && batch.first_position + count == event.position
            });
            if !follows || self.dice.below(4) == 0 {
                batches.push(EventBatch {
                    topic: event.topic.clone(),
                    first_offset: event.offset,
                    first_position: event.position,
                    recorded_at_ms: event.recorded_at_ms,
                    ..EventBatch::default()
                });
            }
            let after = place(&event) + 1;
            if let Some(batch) = batches.last_mut() {
                batch.events.push(event.event);
            }
            if self.dice.below(6) == 0 {
                answers.insert(answers.len() - 1, answer(&mut batches, after));
            }
        }
        if let Some(last) = answers.last_mut() {
            last.batches = answer(&mut batches, next).batches;
        }
        answers.iter_mut().for_each(|answer| answer.applied_position = self.position);
        answers
    }
}

fn answer(batches: &mut Vec<EventBatch>, next: u64) -> ReadResponse {
    let batches = batches.drain(..).map(|batch| batch.encode_to_vec().into()).collect();
    ReadResponse { batches, next, ..ReadResponse::default() }
}

/// A replay by its description.
struct Naive {
    options: ReplayOptions,
    start: u64,
    until: Until,
    refused: Option<Reason>,
}

impl Naive {
    fn new(options: &ReplayOptions, log: &Log) -> Self {
        let hub = options.topic.is_empty();
        let (events, end) = log.of(&options.topic);
        let place = |event: &RecordedEvent| if hub { event.position } else { event.offset };
        let first = |is: &dyn Fn(&RecordedEvent) -> bool| {
            events.iter().find(|event| is(event)).map_or(end, place)
        };
        let start = match &options.from {
            None | Some(From::Start(_)) => 0,
            Some(From::End(_)) => end,
            Some(From::Offset(offset)) => *offset,
            Some(From::Position(position)) if hub => *position,
            Some(From::Position(position)) => first(&|event| event.position >= *position),
            Some(From::TimeMs(ms)) => first(&|event| event.recorded_at_ms >= *ms),
        };
        let ends = match options.until {
            Until::Place(place) => place,
            Until::Position(position) if hub => position,
            Until::Position(position) => first(&|event| event.position >= position),
            Until::End | Until::Time(_) => end,
        };
        let backwards = match (&options.from, options.until) {
            (Some(From::TimeMs(begins)), Until::Time(ends)) => ends < *begins,
            _ => false,
        };
        let refused = if backwards {
            Some(Reason::InvalidRequest)
        } else if start > end {
            Some(Reason::BeyondEnd)
        } else {
            (ends.min(end) < start).then_some(Reason::InvalidRequest)
        };
        Self { options: options.clone(), start, until: options.until, refused }
    }

    /// The positions of what it plays of a log as it is.
    fn plays(&self, log: &Log) -> Vec<u64> {
        let hub = self.options.topic.is_empty();
        let plays = |event: &&RecordedEvent| {
            let place = if hub { event.position } else { event.offset };
            let before = match self.until {
                Until::End => true,
                Until::Place(end) => place < end,
                Until::Position(end) => event.position < end,
                Until::Time(end) => event.recorded_at_ms < end,
            };
            let content = Event::decode(event.event.clone()).unwrap();
            let Selection { key, correlation_id, filter } = &self.options.selection;
            place >= self.start
                && before
                && key.as_ref().is_none_or(|key| content.key == *key)
                && correlation_id.as_ref().is_none_or(|id| content.correlation_id == *id)
                && (filter.is_none() || content.r#type == "a")
        };
        let (events, _) = log.of(&self.options.topic);
        events.iter().filter(plays).map(|event| event.position).collect()
    }
}

fn draw(dice: &mut Dice, log: &Log) -> ReplayOptions {
    let hub = dice.below(3) == 0;
    let topic = if hub { String::new() } else { TOPICS[0].to_owned() };
    let (_, end) = log.of(&topic);
    let (position, now) = (log.position + 4, log.now_ms + 15);
    let from = match dice.below(8) {
        0 | 1 => None,
        2 => Some(From::Start(Start {})),
        3 => Some(From::End(End {})),
        4 if hub => Some(From::Position(dice.below(end + 2))),
        4 => Some(From::Offset(dice.below(end + 2))),
        5 | 6 => Some(From::Position(dice.below(position))),
        _ => Some(From::TimeMs(990 + dice.below(now - 990))),
    };
    let until = match dice.below(6) {
        0 | 1 => Until::End,
        2 => Until::Place(dice.below(end + 4)),
        3 | 4 => Until::Position(dice.below(position)),
        _ => Until::Time(990 + dice.below(now - 990)),
    };
    let filter = filter_json::from_json(r#"{"exact": {"type": "a"}}"#).unwrap();
    let mut sometimes = || dice.below(3) == 0;
    let selection = Selection {
        key: sometimes().then(|| "k".to_owned()),
        correlation_id: sometimes().then(|| "c".to_owned()),
        filter: sometimes().then(|| filter.compile().unwrap()),
    };
    // Of a slow one, some has been read and not let out when it is broken off.
    let pace = if dice.below(2) == 0 { Pace::Fast } else { Pace::Rate(10_000) };
    ReplayOptions { topic, from, until, selection, pace, options: None }
}

/// A node with a log, and a client of it.
struct Hub {
    log: Arc<Mutex<Log>>,
    topic: Arc<Mutex<Topic>>,
    client: Client,
}

impl Hub {
    async fn start() -> Self {
        let mut fake = Fake::start().await;
        let client = client(&[&fake.endpoint], 10_000);
        let log = Arc::new(Mutex::new(Log::new(Dice(0))));
        let (topic, answering) = (Arc::clone(&fake.topic), Arc::clone(&log));
        spawn(async move {
            loop {
                let reading = fake.reading().await;
                let answers = answering.lock().unwrap().answers(&reading.request);
                spawn(async move {
                    for answer in answers {
                        if !reading.offer(answer).await {
                            return;
                        }
                    }
                });
            }
        });
        Self { log, topic, client }
    }

    fn change(&self, change: impl FnOnce(&mut Log)) {
        let mut log = self.log.lock().unwrap();
        change(&mut log);
        *self.topic.lock().unwrap() = log.topic();
    }
}

/// Plays a drawn replay, broken off now and then, and gone on with by its cursor when there is more.
async fn play(hub: &Hub, dice: &mut Dice) -> (Naive, Result<Vec<u64>, Rejection>) {
    let (options, naive) = {
        let log = hub.log.lock().unwrap();
        let options = draw(dice, &log);
        let naive = Naive::new(&options, &log);
        (options, naive)
    };
    let mut expected = naive.plays(&hub.log.lock().unwrap());
    let mut replay = match Replay::begin(&hub.client, options.clone(), None).await {
        Ok(replay) => replay,
        Err(refused) => return (naive, Err(refused)),
    };
    let (mut seen, mut grown) = (Vec::new(), 0);
    while let Some(events) = replay.next().await.unwrap() {
        assert!(!events.is_empty());
        seen.extend(events.iter().map(|event| event.position));
        if dice.below(4) == 0 {
            let text = serde_json::to_string(&replay.cursor()).unwrap();
            if grown < 3 && dice.below(3) == 0 {
                grown += 1;
                hub.change(Log::grow);
                expected = naive.plays(&hub.log.lock().unwrap());
            }
            let cursor = Some(serde_json::from_str(&text).unwrap());
            replay = Replay::begin(&hub.client, options.clone(), cursor).await.unwrap();
        }
    }
    assert_eq!(seen, expected, "{options:?}");
    // At its end, there is nothing left.
    let cursor = Some(replay.cursor());
    let mut rest = Replay::begin(&hub.client, options.clone(), cursor).await.unwrap();
    assert!(rest.next().await.unwrap().is_none(), "{options:?}");
    (naive, Ok(seen))
}

#[tokio::test]
async fn a_replay_plays_what_its_range_and_selection_say() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let sequences = asked("MHUB_TEST_REPLAYS").unwrap_or(SEQUENCES);
    let first = asked("MHUB_TEST_SEED").unwrap_or(0);
    let hub = Hub::start().await;
    let (mut refused, mut whole, mut part, mut none) = (0, 0, 0, 0);
    for seed in first..first + sequences {
        println!("seed {seed}");
        let mut dice = Dice(seed.wrapping_mul(0xD134_2543_DE82_EF95));
        hub.change(|log| *log = Log::new(Dice(dice.below(u64::MAX))));
        let (naive, played) = play(&hub, &mut dice).await;
        let options = &naive.options;
        match played {
            Ok(seen) => {
                assert_eq!(naive.refused, None, "{options:?}");
                match seen.len() {
                    0 => none += 1,
                    all if all == hub.log.lock().unwrap().of(&options.topic).0.len() => whole += 1,
                    _ => part += 1,
                }
            }
            Err(rejection) => {
                assert_eq!(Some(rejection.reason), naive.refused, "{options:?}: {rejection}");
                refused += 1;
            }
        }
    }
    println!("{refused} refused, {whole} whole, {part} in part, {none} without events");
    // All kinds are drawn.
    assert!(sequences < SEQUENCES || [refused, whole, part, none].iter().all(|kind| *kind > 3));
}
