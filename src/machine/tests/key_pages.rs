//! Pages of a key's events: bounded by number and by bytes, and all of them together are all events.

use super::delivery::cases::Hub;
use super::random::{Dice, TestEvent, publish_of};
use crate::machine::kv::Order;
use crate::machine::query::{self, Bounds};
use crate::model::command::Kind;
use crate::model::ids::KeyVersion;
use crate::model::outcome::Outcome;

const PAGE_BYTES: usize = 1000;
/// What an event takes beside its data, at most.
const ATTRIBUTES_BYTES: usize = 40;

fn publish(hub: &mut Hub, key: &str, bytes: usize) {
    let event = TestEvent {
        id: "i".into(),
        source: "s".into(),
        kind: "k".into(),
        data: vec![7; bytes],
        key: key.into(),
    };
    let outcome = hub.apply(Kind::Publish(publish_of("t", &[event])));
    assert!(matches!(outcome, Outcome::Published(_)), "{outcome:?}");
}

/// All pages of key `k` from an end on: each event's version and bytes.
fn pages(hub: &Hub, order: Order, events: u64) -> Vec<Vec<(u64, usize)>> {
    let info = query::topic(&hub.kv, "t").unwrap().unwrap();
    let bounds = Bounds { events, bytes: PAGE_BYTES };
    let mut from = match order {
        Order::Ascending => KeyVersion(1),
        Order::Descending => KeyVersion(u64::MAX - 1),
    };
    let mut pages = Vec::new();
    loop {
        let (page, newest) = query::read_key(&hub.kv, &info, "k", from, order, bounds).unwrap();
        let Some(last) = page.last().map(|event| event.key_version.get()) else { return pages };
        pages.push(page.iter().map(|e| (e.key_version.get(), e.event.len())).collect());
        match order {
            Order::Ascending if last < newest.get() => from = KeyVersion(last + 1),
            Order::Descending if last > 1 => from = KeyVersion(last - 1),
            Order::Ascending | Order::Descending => return pages,
        }
    }
}

#[test]
fn pages_of_a_key_are_bounded_and_lack_nothing() {
    let mut cut_by_bytes = 0;
    for seed in super::first_seed()..super::first_seed() + super::sequences() / 50 {
        let (mut dice, mut hub) = (Dice::new(seed), Hub::plain());
        let sizes: Vec<usize> = (0..1 + dice.below(12))
            .map(|_| [dice.below(40), 300 + dice.below(500), 3000][dice.below(3) as usize] as usize)
            .collect();
        for bytes in &sizes {
            publish(&mut hub, "k", *bytes);
            publish(&mut hub, "other", 10);
        }
        let limit = 1 + dice.below(6);
        for order in [Order::Ascending, Order::Descending] {
            let pages = pages(&hub, order, limit);
            for page in &pages {
                let bytes: usize = page.iter().map(|(_, bytes)| bytes).sum();
                assert!(page.len() as u64 <= limit, "seed {seed}: {page:?}");
                assert!(bytes <= PAGE_BYTES || page.len() == 1, "seed {seed}: {page:?}");
            }
            // A page that ends before its number is full has no room for the next event.
            for pair in pages.windows(2).filter(|pair| (pair[0].len() as u64) < limit) {
                let bytes: usize = pair[0].iter().map(|(_, bytes)| bytes).sum();
                assert!(bytes + pair[1][0].1 > PAGE_BYTES, "seed {seed}: {pair:?}");
                cut_by_bytes += 1;
            }
            let mut found = pages.concat();
            if order == Order::Descending {
                found.reverse();
            }
            assert_eq!(found.len(), sizes.len(), "seed {seed}, {order:?}");
            for (n, ((version, event), data)) in (1..).zip(found.iter().zip(&sizes)) {
                assert_eq!(*version, n, "seed {seed}, {order:?}");
                assert!((*data..data + ATTRIBUTES_BYTES).contains(event), "seed {seed}");
            }
        }
    }
    assert!(cut_by_bytes > 0);
}
