use prost::Message as _;

use super::*;
use crate::machine::kv::{Table, Write};
use crate::machine::mem::MemKv;
use crate::machine::subscription::progress::ProgressRecord;
use crate::model::delivery::Attempt;
use crate::model::event::EventView;
use crate::proto::v1::Event;

const ID: SubscriptionId = SubscriptionId(1);

/// Dead letters 1 to 6 and one of another subscription: even ones were rejected and have key
/// `k`, all of type `t` and died at their number.
fn kv(data_len: usize, detail_len: usize) -> MemKv {
    let mut kv = MemKv::default();
    let letter = |id: SubscriptionId, number: u64| {
        let event = Event {
            id: number.to_string(),
            source: "/s".to_owned(),
            r#type: "t".to_owned(),
            key: if number.is_multiple_of(2) { "k".to_owned() } else { String::new() },
            data: vec![0; data_len].into(),
            ..Event::default()
        };
        let event = event.encode_to_vec();
        assert!(EventView::parse(&event).is_ok());
        let reason = match number % 2 {
            0 => DeadReason::Rejected,
            _ => DeadReason::MaxAttempts,
        };
        let attempt = Attempt { detail: "x".repeat(detail_len), ..Attempt::default() };
        let letter = DeadLetter {
            attempts: vec![attempt],
            topic: "orders".to_owned(),
            event: event.into(),
            reason: reason as i32,
            died_at_ms: number,
            ..DeadLetter::default()
        };
        let row = dead::row_key(id, DeadNumber(number));
        Write::Put(Table::DeadLetters, row, letter.encode())
    };
    let mut writes: Vec<_> = (1..=6).map(|number| letter(ID, number)).collect();
    writes.push(letter(ID.next(), 1));
    kv.write(writes);
    kv
}

fn numbers(choice: &DeadLetterChoice) -> (Vec<u64>, Option<DeadNumber>) {
    chosen(&kv(10, 0), ID, choice).unwrap()
}

fn filtered(change: impl FnOnce(&mut DeadLetterFilter)) -> Vec<u64> {
    let mut filter = DeadLetterFilter::default();
    change(&mut filter);
    numbers(&DeadLetterChoice { filter, ..DeadLetterChoice::default() }).0
}

#[test]
fn a_filter_asks_for_everything_that_it_names() {
    assert_eq!(filtered(|_| ()), [1, 2, 3, 4, 5, 6]);
    assert_eq!(filtered(|f| f.reasons = vec![DeadReason::Rejected]), [2, 4, 6]);
    assert_eq!(filtered(|f| f.key = "k".into()), [2, 4, 6]);
    assert_eq!(filtered(|f| f.event_type = "other".into()), [0; 0]);
    assert_eq!(filtered(|f| f.topic = "orders".into()).len(), 6);
    assert_eq!(filtered(|f| (f.died_from_ms, f.died_until_ms) = (2, 5)), [2, 3, 4]);
    let both = |f: &mut DeadLetterFilter| {
        f.key = "k".into();
        f.died_from_ms = 3;
    };
    assert_eq!(filtered(both), [4, 6]);
}

#[test]
fn steps_lead_to_the_end() {
    let filter = DeadLetterFilter { key: "k".into(), ..DeadLetterFilter::default() };
    let mut choice = DeadLetterChoice { filter, limit: 2, ..DeadLetterChoice::default() };
    let (first, next) = numbers(&choice);
    assert_eq!((first, next), (vec![2, 4], Some(DeadNumber(4))));
    choice.after = DeadNumber(4);
    assert_eq!(numbers(&choice), (vec![6], None));
    choice = DeadLetterChoice { up_to: DeadNumber(4), ..choice };
    assert_eq!(numbers(&choice), (vec![], None), "6 died later");
    choice = DeadLetterChoice { after: DeadNumber(0), ..choice };
    assert_eq!(numbers(&choice), (vec![2, 4], None), "to the last of them");
    let named = DeadLetterChoice { numbers: vec![5, 99, 1, 5], ..Default::default() };
    assert_eq!(numbers(&named), (vec![1, 5], None));
    let some = DeadLetterChoice { numbers: vec![5, 1], limit: 1, ..Default::default() };
    assert_eq!(numbers(&some), (vec![1], Some(DeadNumber(1))));
    assert_eq!(numbers(&DeadLetterChoice { after: DeadNumber(1), ..some }), (vec![5], None));
}

#[test]
fn a_step_is_bounded_in_bytes() {
    let half = DEAD_LETTERS_MOVED_BYTES / 2;
    for kv in [kv(half, 0), kv(0, half)] {
        for numbers in [vec![], vec![1, 2, 3, 4]] {
            let choice = DeadLetterChoice { numbers, ..DeadLetterChoice::default() };
            let (chosen, next) = chosen(&kv, ID, &choice).unwrap();
            assert_eq!((chosen, next), (vec![1, 2], Some(DeadNumber(2))));
        }
    }
}

#[test]
fn retries_come_in_pages() {
    let mut kv = MemKv::default();
    let places = [(1, 5), (1, 6), (2, 0)];
    kv.write(
        places
            .map(|(topic, offset)| {
                let row =
                    crate::machine::delivery::failures::row_key(ID, TopicId(topic), Offset(offset));
                Write::Put(Table::Failures, row, FailureRecord::default().encode())
            })
            .into(),
    );
    let progress = |topic| {
        let row = progress::row_key(ID, TopicId(topic));
        Write::Put(Table::Progress, row, ProgressRecord::default().encode())
    };
    kv.write(vec![progress(1), progress(2)]);
    let page = |from, limit| {
        let (page, next) = retries(&kv, ID, from, limit).unwrap();
        let places = page.into_iter().map(|r| (r.place.0.get(), r.place.1.get()));
        (places.collect::<Vec<_>>(), next)
    };
    let (first, next) = page((TopicId(0), Offset(0)), 2);
    assert_eq!((&first[..], next), (&places[..2], Some((TopicId(2), Offset(0)))));
    assert_eq!(page(next.unwrap(), 2), (places[2..].to_vec(), None));
}
