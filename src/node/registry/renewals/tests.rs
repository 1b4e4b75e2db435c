//! Renewals, by instants that are given.

use super::*;
use crate::model::registry::InstanceSpec;
use crate::runtime::clock;

const TTL: Duration = Duration::from_secs(15);

fn instance(number: u64) -> InstanceRecord {
    let (service, id) = ("s".to_owned(), format!("i{number}"));
    let spec = InstanceSpec { service, id, ..InstanceSpec::default() };
    InstanceRecord { number, spec, ..InstanceRecord::default() }
}

fn leading(count: u64) -> (Renewals, Instant) {
    let (mut renewals, now) = (Renewals::default(), clock::now());
    renewals.begin(Some(Term(1)), (1..=count).map(|n| (instance(n), TTL)), [], [], now);
    (renewals, now)
}

/// The service as one that has just been braked.
fn braked() -> (String, Duration) {
    ("s".to_owned(), Duration::ZERO)
}

/// Looks every 200 ms from one instant to another, while some renew each time; who was given up.
fn pass(
    renewals: &mut Renewals,
    (from, to): (Instant, Instant),
    renewing: std::ops::RangeInclusive<u64>,
) -> (Vec<u64>, usize) {
    let (mut lost, mut braked, mut now) = (Vec::new(), 0, from);
    while now <= to {
        for n in renewing.clone() {
            renewals.renew(n, "s", &format!("i{n}"), now);
        }
        let found = renewals.look(now);
        braked += found.braked.len();
        for change in found.changes {
            renewals.forget(change.incarnation);
            lost.push(change.incarnation);
        }
        now += Duration::from_millis(200);
    }
    (lost, braked)
}

#[test]
fn who_falls_silent_is_given_up_after_its_time() {
    let (mut renewals, start) = leading(10);
    let span = (start, start + TTL - Duration::from_millis(1));
    assert_eq!(pass(&mut renewals, span, 1..=9), (vec![], 0));
    let span = (start + TTL, start + TTL + Duration::from_secs(1));
    assert_eq!(pass(&mut renewals, span, 1..=9), (vec![10], 0));
    assert_eq!(renewals.renew(10, "s", "i10", start), None, "it is lost");
    assert_eq!(renewals.renew(1, "s", "other", start), None, "that is another one");
    assert_eq!(renewals.renew(1, "s", "i1", start), Some(TTL));
}

#[test]
fn a_new_leader_gives_each_one_time_of_its_own_renewal() {
    let (mut renewals, start) = leading(10);
    renewals.track(&instance(11), TTL / 5, start);
    assert!(renewals.look(start + TTL / 5 - Duration::from_millis(1)).changes.is_empty());
    let lost = renewals.look(start + TTL / 5).changes;
    assert_eq!(lost.iter().map(|change| change.incarnation).collect::<Vec<_>>(), [11]);
    assert!(renewals.look(start + TTL - Duration::from_millis(1)).changes.is_empty());
}

#[test]
fn a_new_leader_says_how_long_it_gives_somebody_time() {
    let (mut renewals, start) = leading(0);
    assert_eq!((renewals.count(), renewals.grace(start)), (0, Duration::ZERO));
    let lost = InstanceRecord { lost_at_ms: 1, ..instance(3) };
    let instances = [(instance(1), TTL / 3), (instance(2), TTL), (lost, 9 * TTL)];
    renewals.begin(Some(Term(2)), instances, [], [], start);
    assert_eq!((renewals.count(), renewals.grace(start)), (2, TTL));
    // Who comes later, or renews, does not prolong it.
    renewals.track(&instance(4), 4 * TTL, start);
    renewals.look(start);
    let almost = start + TTL - Duration::from_millis(1);
    renewals.renew(2, "s", "i2", almost);
    assert_eq!(renewals.grace(almost), Duration::from_millis(1));
    assert_eq!(renewals.grace(start + TTL), Duration::ZERO);
    // A leader that stood still gives that time back.
    renewals.look(almost);
    assert_eq!(renewals.grace(almost), TTL);
    renewals.begin(None, [], [], [], start);
    assert_eq!((renewals.count(), renewals.grace(start)), (0, Duration::ZERO));
}

#[test]
fn when_many_fall_silent_at_once_nobody_is_given_up_for_a_while() {
    let (mut renewals, start) = leading(100);
    // Sixteen of a hundred.
    let span = (start, start + TTL + Duration::from_secs(280));
    assert_eq!(pass(&mut renewals, span, 17..=100), (vec![], 1));
    // They come back: nothing happened.
    let back = span.1 + Duration::from_millis(200);
    assert_eq!(pass(&mut renewals, (back, back + TTL), 1..=100), (vec![], 0));
    // Fifteen are few enough.
    let span = (back + TTL, back + 3 * TTL);
    assert_eq!(pass(&mut renewals, span, 16..=100).0, (1..=15).collect::<Vec<_>>());
}

#[test]
fn the_brake_does_not_hold_for_ever() {
    let (mut renewals, start) = leading(100);
    let end = start + TTL + Duration::from_millis(BRAKE_MS_MAX) + Duration::from_secs(1);
    let (lost, braked) = pass(&mut renewals, (start, end), 51..=100);
    assert_eq!((lost.len(), braked), (50, 1));
}

#[test]
fn a_brake_holds_no_longer_for_changes_of_leader() {
    let (mut renewals, start) = leading(100);
    let max = Duration::from_millis(BRAKE_MS_MAX);
    // Four minutes of it are over when another one leads.
    let held = max - Duration::from_secs(60);
    let instances = || (1..=100).map(|n| (instance(n), TTL));
    renewals.begin(Some(Term(2)), instances(), [("s".to_owned(), held)], [], start);
    let end = start + Duration::from_secs(60);
    let almost = (start, end - Duration::from_millis(200));
    assert_eq!(pass(&mut renewals, almost, 51..=100), (vec![], 1));
    assert_eq!(pass(&mut renewals, (end, end), 51..=100).0.len(), 50);
    // All of it is: it gives them the time of one renewal, and no more; nor is the brake said to hold.
    renewals.begin(Some(Term(3)), instances(), [("s".to_owned(), max)], [], start);
    let (lost, braked) = pass(&mut renewals, (start, start + TTL), 51..=100);
    assert_eq!((lost.len(), braked), (50, 0));
    // Once it was let go, the next one is a new one.
    renewals.begin(Some(Term(4)), instances(), [("s".to_owned(), max)], [], start);
    pass(&mut renewals, (start, start + TTL), 1..=100);
    assert_eq!(renewals.brake_news(start + TTL), [("s".to_owned(), None)]);
    renewals.unbraked("s");
    assert_eq!(pass(&mut renewals, (start + TTL, start + 3 * TTL), 51..=100), (vec![], 1));
}

#[test]
fn a_brake_that_is_over_does_not_begin_anew_where_it_cannot_be_told_who_is_given_up() {
    let (mut renewals, start) = leading(100);
    let over = start + TTL + Duration::from_millis(BRAKE_MS_MAX);
    let almost = (start, over - Duration::from_millis(200));
    assert_eq!(pass(&mut renewals, almost, 51..=100), (vec![], 1));
    let mut now = over;
    for _ in 0..3 {
        for n in 51..=100 {
            renewals.renew(n, "s", &format!("i{n}"), now);
        }
        let found = renewals.look(now);
        assert_eq!((found.changes.len(), found.braked), (50, vec![]));
        assert!(renewals.look(now).released.is_empty(), "they are on their way");
        renewals.untold(&found.changes);
        now += Duration::from_millis(200);
    }
}

#[test]
fn when_instances_were_given_up_is_forgotten_once_it_matters_to_nobody() {
    let (mut renewals, start) = leading(10);
    pass(&mut renewals, (start, start + TTL), 2..=10);
    assert_eq!(renewals.lost["s"].len(), 1);
    let longest = Duration::from_millis(*INSTANCE_TTL_MS.end());
    let end = start + TTL + longest;
    pass(&mut renewals, (start + TTL, end), 2..=10);
    assert_eq!(renewals.lost["s"].len(), 1);
    pass(&mut renewals, (end, end + Duration::from_secs(1)), 2..=10);
    assert!(renewals.lost.is_empty());
}

#[test]
fn that_a_brake_holds_is_told_once_also_by_the_next_leader() {
    let (mut renewals, start) = leading(100);
    let end = start + TTL + Duration::from_secs(1);
    pass(&mut renewals, (start, end), 51..=100);
    let news = renewals.brake_news(end);
    assert_eq!((news.len(), news[0].0.as_str(), news[0].1.unwrap().silent), (1, "s", 50));
    // What could not be told is told again.
    assert_eq!(renewals.brake_news(end), news);
    renewals.brake_told(Term(1), "s", news[0].1, end);
    assert_eq!(renewals.brake_news(end), []);
    // The next leader has not seen yet who is silent; then it goes on.
    let instances = || (1..=100).map(|n| (instance(n), TTL));
    renewals.begin(Some(Term(2)), instances(), [braked()], [], end);
    let almost = end + TTL - Duration::from_millis(1);
    pass(&mut renewals, (end, almost), 51..=100);
    assert_eq!(renewals.brake_news(almost), []);
    let later = end + 2 * TTL;
    pass(&mut renewals, (almost, later), 51..=100);
    assert_eq!(renewals.brake_news(later), []);
    // All are back.
    pass(&mut renewals, (later, later + TTL), 1..=100);
    assert_eq!(renewals.brake_news(later + TTL), [("s".to_owned(), None)]);
    renewals.brake_told(Term(2), "s", None, later + TTL);
    assert_eq!(renewals.brake_news(later + TTL), []);
    // As the next leader finds it, if they are back by then.
    renewals.begin(Some(Term(3)), instances(), [braked()], [], later);
    pass(&mut renewals, (later, later + 2 * TTL), 1..=100);
    assert_eq!(renewals.brake_news(later + 2 * TTL), [("s".to_owned(), None)]);
}

#[test]
fn of_few_instances_all_may_go() {
    let (mut renewals, start) = leading(2);
    let (lost, _) = pass(&mut renewals, (start, start + 2 * TTL), 9..=9);
    assert_eq!(lost, [1, 2]);
}

#[test]
fn a_leader_that_stood_still_gives_the_time_back() {
    let (mut renewals, start) = leading(2);
    pass(&mut renewals, (start, start + TTL), 1..=2);
    let after = start + TTL + Duration::from_secs(60);
    assert!(renewals.look(after).changes.is_empty());
    let (lost, _) = pass(&mut renewals, (after, after + TTL + Duration::from_secs(1)), 9..=9);
    assert_eq!(lost, [1, 2]);
}

#[test]
fn a_brake_is_not_taken_back_before_a_leader_that_stood_still_has_seen_who_is_silent() {
    let (mut renewals, start) = leading(100);
    let instances = (1..=100).map(|n| (instance(n), TTL));
    renewals.begin(Some(Term(2)), instances, [braked()], [], start);
    renewals.look(start);
    // It stands still for a minute of the first renewals' time.
    let late = start + Duration::from_secs(60);
    let almost = late + TTL - Duration::from_millis(1);
    for now in [late, almost] {
        pass(&mut renewals, (now, now), 51..=100);
        assert_eq!(renewals.brake_news(now), []);
        renewals.looked_at = Some(almost);
    }
    let seen = pass(&mut renewals, (late + TTL, late + TTL), 51..=100);
    assert_eq!((seen, renewals.brake_news(late + TTL)), ((vec![], 1), vec![]));
}

#[test]
fn a_brake_is_not_taken_back_while_renewals_by_a_longer_time_will_do() {
    let (mut renewals, start) = leading(1);
    let (braked, graces) = ([braked()], [("s".to_owned(), TTL)]);
    renewals.begin(Some(Term(2)), [(instance(1), SHORT)], braked, graces, start);
    assert_eq!(renewals.brake_news(start + TTL - Duration::from_millis(1)), []);
    assert_eq!(renewals.brake_news(start + TTL), [("s".to_owned(), None)]);
}

#[test]
fn who_is_told_of_in_vain_is_told_of_again_and_counts_once() {
    let (mut renewals, start) = leading(10);
    let (almost, now) = (start + TTL - Duration::from_millis(1), start + TTL);
    pass(&mut renewals, (start, almost), 1..=9);
    for _ in 0..9 {
        let found = renewals.look(now);
        assert_eq!(found.changes.iter().map(|c| c.incarnation).collect::<Vec<_>>(), [10]);
        assert_eq!(found.braked, []);
        assert!(renewals.look(now).changes.is_empty(), "it is on its way");
        renewals.untold(&found.changes);
        // That it is not on its way any more is told once.
        renewals.untold(&found.changes);
    }
}

#[test]
fn of_those_given_up_only_who_was_told_of_in_vain_does_not_count() {
    let (mut renewals, start) = leading(10);
    let (first, second) = (start + TTL, start + TTL + Duration::from_secs(1));
    pass(&mut renewals, (start, first - Duration::from_millis(1)), 2..=10);
    let gone = renewals.look(first).changes;
    for n in 2..10 {
        renewals.renew(n, "s", &format!("i{n}"), first);
    }
    renewals.tracked.get_mut(&10).unwrap().until = second;
    assert_eq!(renewals.look(second).changes[0].incarnation, 10);
    renewals.untold(&gone);
    assert_eq!(renewals.lost["s"], [(second, 10)]);
}

#[test]
fn what_is_told_late_of_a_brake_does_not_change_when_it_may_be_taken_back() {
    let (mut renewals, start) = leading(1);
    let braked = [braked()];
    renewals.begin(Some(Term(2)), [(instance(1), TTL)], braked, [], start);
    let brake = Some(Brake { since: start, silent: 1, instances: 1 });
    let taken_back = [("s".to_owned(), None)];
    for (term, told) in [(1, brake), (1, None), (2, brake)] {
        renewals.brake_told(Term(term), "s", told, start);
        assert_eq!(renewals.brake_news(start), []);
        assert_eq!(renewals.brake_news(start + TTL), taken_back);
    }
    renewals.brake_told(Term(2), "s", None, start);
    assert_eq!(renewals.brake_news(start + TTL), []);
}

#[test]
fn a_leaders_own_brake_is_taken_back_as_soon_as_all_are_back_however_it_heard_that_it_is_known() {
    let (mut renewals, start) = leading(100);
    let end = start + TTL;
    let (_, braked) = pass(&mut renewals, (start, end), 51..=100);
    assert_eq!(braked, 1);
    renewals.braked("s", end);
    assert_eq!(renewals.brake_news(end), []);
    let back = end + Duration::from_millis(200);
    pass(&mut renewals, (back, back), 1..=100);
    assert_eq!(renewals.brake_news(back), [("s".to_owned(), None)]);
}

const SHORT: Duration = Duration::from_secs(3);

/// Looks every second from one to another; who was given up, and in which second.
fn seconds(
    renewals: &mut Renewals,
    start: Instant,
    seconds: std::ops::RangeInclusive<u64>,
    mut each: impl FnMut(&mut Renewals, u64, Instant),
) -> Vec<(u64, u64)> {
    let mut lost = Vec::new();
    for second in seconds {
        let now = start + Duration::from_secs(second);
        each(renewals, second, now);
        for change in renewals.look(now).changes {
            renewals.forget(change.incarnation);
            lost.push((second, change.incarnation));
        }
    }
    lost
}

/// The renewals of a service last three seconds from now on.
fn shorten(renewals: &mut Renewals, numbers: std::ops::RangeInclusive<u64>, now: Instant) {
    renewals.shorten("s", TTL, now);
    numbers.for_each(|n| renewals.track(&instance(n), SHORT, now));
}

#[test]
fn who_renews_by_the_time_before_hears_of_a_shorter_one_first() {
    let (mut renewals, start) = leading(3);
    let lost = seconds(&mut renewals, start, 0..=40, |renewals, second, now| {
        let old_round = second % 5 == 0;
        if old_round || second > 10 {
            // The first heard of it at its next renewal, and renews by it.
            let lasts = if second > 5 { SHORT } else { TTL };
            assert_eq!(renewals.renew(1, "s", "i1", now), Some(lasts), "{second}");
        }
        if old_round && second <= 15 {
            // The second does not listen.
            assert!(renewals.renew(2, "s", "i2", now).is_some(), "{second}");
        }
        if second == 5 {
            shorten(renewals, 1..=3, now);
        }
    });
    // The third never renewed. The others have the time before once more, from the change on.
    assert_eq!(lost, [(15, 3), (20, 2)]);
}

#[test]
fn a_new_leader_knows_who_may_not_have_heard_of_a_shorter_time() {
    let (mut renewals, start) = leading(1);
    shorten(&mut renewals, 1..=1, start);
    let mut own = instance(2);
    own.spec.ttl_ms = 3000;
    let now = start + Duration::from_secs(1);
    let graces = [("s".to_owned(), TTL - Duration::from_secs(1))];
    renewals.begin(Some(Term(2)), [(instance(1), SHORT), (own, SHORT)], [], graces, now);
    let lost = seconds(&mut renewals, start, 1..=30, |_, _, _| ());
    assert_eq!(lost, [(4, 2), (15, 1)]);
}

#[test]
fn a_longer_time_counts_from_the_last_renewal() {
    let (mut renewals, start) = leading(1);
    let lost = seconds(&mut renewals, start, 0..=40, |renewals, second, now| {
        if second == 5 {
            renewals.track(&instance(1), 2 * TTL, now);
        }
    });
    assert_eq!(lost, [(30, 1)]);
}
