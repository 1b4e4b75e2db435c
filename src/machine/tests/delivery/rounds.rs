//! Searches that go round more topics than one of them looks at.

use super::cases::{Hub, plain};
use super::random::{TestEvent, Timestamp, create_topic, publish_of};
use crate::machine::kv::Table;
use crate::machine::schedule::candidates::{Candidates, candidates};
use crate::machine::schedule::cursor::Cursor;
use crate::model::command::delivery::{Action, Nack, SettleItem};
use crate::model::command::{Kind, Lease, Settle, Tick};
use crate::model::ids::UnixMs;
use crate::model::limits::CANDIDATE_TOPICS_MAX;
use crate::model::outcome::Outcome;
use crate::model::subscription::SubscriptionConfig;

/// Topics for three searches.
fn hub() -> Hub {
    let mut hub = Hub::new(SubscriptionConfig::defaults("*"));
    for n in 0..2 * CANDIDATE_TOPICS_MAX + 10 {
        hub.apply(create_topic(&format!("r{n:03}")));
    }
    hub
}

fn search(hub: &Hub, cursor: &mut Cursor) -> Candidates {
    candidates(&hub.kv, "s", UnixMs(hub.now_ms), cursor, 9).unwrap().unwrap()
}

/// To the end of a round: how many searches it took, the topics of what they found, and the last one.
fn round(hub: &Hub, cursor: &mut Cursor) -> (usize, Vec<String>, Candidates) {
    let (mut searches, mut topics) = (0, Vec::new());
    loop {
        let found = search(hub, cursor);
        searches += 1;
        topics.extend(found.picks.iter().map(|pick| pick.topic.clone()));
        if !found.goes_round {
            return (searches, topics, found);
        }
        assert!(found.more);
    }
}

#[test]
fn a_round_sees_every_topic_once_and_ends() {
    let (mut hub, mut cursor) = (hub(), Cursor::default());
    for _ in 0..2 {
        let (searches, topics, last) = round(&hub, &mut cursor);
        assert_eq!((searches, topics.len(), last.more), (3, 0, false));
    }
    for topic in ["r137", "r070", "r005"] {
        hub.apply(Kind::Publish(publish_of(topic, &plain(1))));
    }
    let (searches, topics, last) = round(&hub, &mut cursor);
    assert_eq!((searches, last.more), (3, false));
    assert_eq!(topics, ["r005", "r070", "r137"]);
}

#[test]
fn a_round_says_when_to_look_at_any_of_its_topics_again() {
    let (mut hub, mut cursor) = (hub(), Cursor::default());
    let later = hub.now_ms + 5000;
    let delayed = TestEvent { deliver_at: Some(Timestamp::of(later)), ..plain(1).remove(0) };
    hub.apply(Kind::Publish(publish_of("r005", &[delayed])));
    let (_, topics, last) = round(&hub, &mut cursor);
    assert_eq!((topics.len(), last.more, last.wake_at), (0, false, Some(UnixMs(later))));
    hub.now_ms = later;
    let (_, topics, last) = round(&hub, &mut cursor);
    assert_eq!((topics, last.wake_at), (vec!["r005".to_owned()], None));
}

#[test]
fn a_round_that_passed_a_topic_too_early_is_not_enough() {
    let (mut hub, mut cursor) = (hub(), Cursor::default());
    assert!(search(&hub, &mut cursor).goes_round);
    hub.apply(Kind::Publish(publish_of("r005", &plain(1))));
    cursor.look_again();
    let (_, topics, last) = round(&hub, &mut cursor);
    assert_eq!((topics.len(), last.more), (0, true));
    let (_, topics, last) = round(&hub, &mut cursor);
    assert_eq!((topics, last.more), (vec!["r005".to_owned()], false));
    // Between rounds there is nothing to remember.
    cursor.look_again();
    assert!(!round(&hub, &mut cursor).2.more);
}

#[test]
fn what_was_found_and_not_taken_is_found_again_in_the_same_round() {
    let (mut hub, mut cursor) = (hub(), Cursor::default());
    hub.apply(Kind::Publish(publish_of("r070", &plain(1))));
    assert!(search(&hub, &mut cursor).picks.is_empty());
    let places = cursor.places();
    assert_eq!(search(&hub, &mut cursor).picks.len(), 1);
    cursor.go_back(places, false);
    assert!(cursor.is_in_round());
    let (searches, topics, _) = round(&hub, &mut cursor);
    assert_eq!((searches, topics), (2, vec!["r070".to_owned()]));
}

#[test]
fn what_is_left_over_is_found_in_the_next_round_where_others_were_taken() {
    let (mut hub, mut cursor) = (hub(), Cursor::default());
    for topic in ["r005", "r070"] {
        hub.apply(Kind::Publish(publish_of(topic, &plain(1))));
    }
    let places = cursor.places();
    assert_eq!(search(&hub, &mut cursor).picks.len(), 1);
    cursor.go_back(places, true);
    let (searches, topics, last) = round(&hub, &mut cursor);
    assert_eq!((searches, topics, last.more), (2, vec!["r070".to_owned()], true));
    let (searches, topics, last) = round(&hub, &mut cursor);
    assert_eq!((searches, topics.len(), last.more), (3, 2, false));
}

#[test]
fn failed_events_of_topics_that_other_searches_see_leave_a_round_whole() {
    let mut hub = hub();
    for topic in ["r005", "r070"] {
        hub.apply(Kind::Publish(publish_of(topic, &plain(1))));
    }
    let mut cursor = Cursor::default();
    for _ in 0..3 {
        let found = search(&hub, &mut cursor);
        let (subscription, consumer) = ("s".to_owned(), "c".to_owned());
        let lease = Lease {
            subscription: subscription.clone(),
            revision: found.revision,
            term: hub.term,
            consumer: consumer.clone(),
            picks: found.picks,
            ..Lease::default()
        };
        let Outcome::Leased(leased) = hub.apply(Kind::Lease(lease)) else { panic!("not leased") };
        let nack = Nack { retry_after_ms: Some(0), ..Nack::default() };
        let items = leased.grants.iter().map(|grant| SettleItem {
            lease_id: grant.lease_id.get(),
            term: hub.term,
            topic_id: grant.topic_id.get(),
            ranges: Vec::new(),
            action: Some(Action::Nack(nack.clone())),
        });
        let items = items.collect();
        hub.apply(Kind::Settle(Settle { subscription, consumer, items }));
    }
    hub.apply(Kind::Tick(Tick {}));
    assert_eq!(hub.kv.rows(Table::Ready), 2);
    let (_, topics, last) = round(&hub, &mut Cursor::default());
    assert_eq!((topics, last.more), (vec!["r005".to_owned(), "r070".to_owned()], false));
}
