//! What a consumer keeps in mind, without a hub.

use super::state::RELEASE_PATIENCE;
use super::*;
use crate::model::limits::{CONSUMER_BATCHES_MAX, SETTLE_ITEMS_MAX};
use crate::proto::status::to_call_error;
use crate::proto::v1::{self, Credit, SettleBatch, SettleBatchResult, SettleResult};

const SECOND: Duration = Duration::from_secs(1);

fn start() -> (State, Instant) {
    let options = ConsumerOptions { events: 100, bytes: 1000, ..ConsumerOptions::default() };
    let mut state = State::new(options);
    state.begin_stream();
    (state, Instant::from_std(now()))
}

/// Events from an offset on, of 10 bytes each, leased for 3 s.
fn arrived(lease_id: u64, first_offset: u64, count: u8) -> Arrived {
    let events = vec![bytes::Bytes::from_static(b"0123456789"); usize::from(count)];
    Arrived {
        lease_id,
        term: 7,
        topic_id: 1,
        expires_in: 3 * SECOND,
        attempts: Vec::new(),
        batches: vec![EventBatch { first_offset, events, ..EventBatch::default() }],
        bytes: 10 * i64::from(count),
    }
}

fn ack(state: &mut State, lease_id: u64, events: &[u64]) -> Outcome {
    settle(state, lease_id, events, Action::Ack(Ack {}))
}

fn settle(state: &mut State, lease_id: u64, events: &[u64], action: Action) -> Outcome {
    let (answer, outcome) = tokio::sync::oneshot::channel();
    let events = events.iter().map(|offset| OffsetRange { first: *offset, count: 1 });
    state.settle(lease_id, Ranges::from_unsorted(&events.collect::<Vec<_>>()), action, answer);
    Outcome(outcome)
}

struct Outcome(tokio::sync::oneshot::Receiver<Result<(), Rejection>>);

impl Outcome {
    /// `None`: none yet.
    fn get(&mut self) -> Option<Result<(), Reason>> {
        self.0.try_recv().ok().map(|outcome| outcome.map_err(|rejection| rejection.reason))
    }
}

fn done(ranges: &[(u64, u64)], refused: Option<Reason>) -> SettleResult {
    let done = ranges.iter().map(|(first, count)| v1::OffsetRange { first: *first, count: *count });
    let refused = refused.map(|reason| to_call_error(&Rejection::new(reason, "no")));
    SettleResult { done: done.collect(), refused, expires_in_ms: 3000, ..SettleResult::default() }
}

fn results(batch: u64, results: Vec<SettleResult>) -> SettleBatchResult {
    SettleBatchResult { batch, results, error: None }
}

fn refusal(batch: u64, reason: Reason) -> SettleBatchResult {
    let error = Some(to_call_error(&Rejection::new(reason, "no")));
    SettleBatchResult { batch, results: Vec::new(), error }
}

/// Lease and number of ranges of each item.
fn shape(batch: &SettleBatch) -> Vec<(u64, usize)> {
    batch.items.iter().map(|item| (item.lease_id, item.ranges.len())).collect()
}

#[test]
fn credit_comes_back_with_settlements_in_large_bits() {
    let (mut state, at) = start();
    assert_eq!(state.due_credit(), Some(Credit { events: 100, bytes: 1000 }));
    state.granted();
    assert_eq!(state.due_credit(), None);
    state.accept(arrived(1, 0, 60), at);
    let mut few = ack(&mut state, 1, &[0, 1, 2]);
    assert_eq!(shape(&state.next_batch().unwrap()), [(1, 1)]);
    state.settled(results(1, vec![done(&[(0, 3)], None)]), at);
    assert_eq!(few.get(), Some(Ok(())));
    assert_eq!(state.due_credit(), None);
    let mut rest = ack(&mut state, 1, &[]);
    state.next_batch().unwrap();
    state.settled(results(2, vec![done(&[(3, 57)], None)]), at);
    assert_eq!(rest.get(), Some(Ok(())));
    assert_eq!(state.due_credit(), Some(Credit { events: 60, bytes: 600 }));
}

#[test]
fn acknowledgements_of_a_lease_are_joined() {
    let (mut state, at) = start();
    state.accept(arrived(1, 0, 10), at);
    state.accept(arrived(2, 20, 10), at);
    let mut outcomes: Vec<Outcome> =
        [3, 1, 2, 7].iter().map(|offset| ack(&mut state, 1, &[*offset])).collect();
    let nack = Nack { reason: "BROKEN".to_owned(), ..Nack::default() };
    let mut failed = settle(&mut state, 1, &[5], Action::Nack(nack));
    let mut whole = ack(&mut state, 2, &(20..30).collect::<Vec<_>>());
    let batch = state.next_batch().unwrap();
    // Ranges 1 to 3 and 7; the nack; all of the other lease goes without ranges.
    assert_eq!(shape(&batch), [(1, 2), (1, 1), (2, 0)]);
    let partly = done(&[(1, 3)], Some(Reason::LeaseExpired));
    state.settled(results(1, vec![partly, done(&[(5, 1)], None), done(&[(20, 10)], None)]), at);
    for outcome in &mut outcomes[..3] {
        assert_eq!(outcome.get(), Some(Ok(())));
    }
    assert_eq!(outcomes[3].get(), Some(Err(Reason::LeaseExpired)));
    assert_eq!((failed.get(), whole.get()), (Some(Ok(())), Some(Ok(()))));
}

#[test]
fn batches_on_their_way_are_bounded_and_others_gather() {
    let (mut state, at) = start();
    state.accept(arrived(1, 0, 100), at);
    for offset in 0..CONSUMER_BATCHES_MAX as u64 {
        drop(ack(&mut state, 1, &[offset]));
        assert!(state.next_batch().is_some());
    }
    for offset in 50..90 {
        drop(ack(&mut state, 1, &[offset]));
    }
    assert!(!state.has_batch() && state.next_batch().is_none());
    state.settled(results(1, vec![done(&[(0, 1)], None)]), at);
    let batch = state.next_batch().unwrap();
    assert_eq!((batch.batch, shape(&batch)), (5, vec![(1, 1)]));
}

#[test]
fn a_batch_has_no_more_items_than_the_hub_takes() {
    let (mut state, at) = start();
    let most = SETTLE_ITEMS_MAX as u64;
    state.accept(arrived(1, 0, 2), at);
    let nack = || Action::Nack(Nack { reason: "BROKEN".to_owned(), ..Nack::default() });
    (0..=most).for_each(|_| drop(settle(&mut state, 1, &[0], nack())));
    let mut last = settle(&mut state, 1, &[1], nack());
    let items = [state.next_batch().unwrap(), state.next_batch().unwrap()].map(|b| b.items.len());
    assert_eq!(items, [SETTLE_ITEMS_MAX, 2]);
    assert!(state.next_batch().is_none());
    let one = || done(&[(0, 1)], None);
    state.settled(results(1, vec![one(); SETTLE_ITEMS_MAX]), at);
    state.settled(results(2, vec![one(), done(&[(1, 1)], None)]), at);
    assert_eq!(last.get(), Some(Ok(())));
}

#[test]
fn a_refusal_of_some_events_leaves_the_lease_and_one_of_all_ends_it() {
    let (mut state, at) = start();
    state.accept(arrived(1, 0, 10), at);
    let expired = || done(&[], Some(Reason::LeaseExpired));
    // Done at a leader that died before it said so.
    let mut first = ack(&mut state, 1, &[1]);
    state.next_batch().unwrap();
    state.begin_stream();
    let batch = state.next_batch().unwrap();
    state.settled(results(batch.batch, vec![expired()]), at);
    assert_eq!(first.get(), Some(Err(Reason::OutcomeUnknown)));
    // Settled twice.
    let mut second = ack(&mut state, 1, &[2]);
    let batch = state.next_batch().unwrap();
    state.settled(results(batch.batch, vec![done(&[(2, 1)], None)]), at);
    let mut twice = ack(&mut state, 1, &[2]);
    let batch = state.next_batch().unwrap();
    state.settled(results(batch.batch, vec![expired()]), at);
    assert_eq!((second.get(), twice.get()), (Some(Ok(())), Some(Err(Reason::LeaseExpired))));
    // The others are renewed and settled as before.
    state.look(at + SECOND);
    let batch = state.next_batch().unwrap();
    assert!(matches!(batch.items[0].action, Some(Action::Extend(_))));
    state.settled(results(batch.batch, vec![done(&[(3, 7)], None)]), at + SECOND);
    let mut others = ack(&mut state, 1, &[3, 4]);
    let batch = state.next_batch().unwrap();
    assert_eq!(shape(&batch), [(1, 1)]);
    state.settled(results(batch.batch, vec![done(&[(3, 2)], None)]), at + SECOND);
    assert_eq!(others.get(), Some(Ok(())));
    // A renewal is of all that is left.
    state.look(at + 2 * SECOND);
    let batch = state.next_batch().unwrap();
    assert!(matches!(batch.items[0].action, Some(Action::Extend(_))));
    state.settled(results(batch.batch, vec![expired()]), at + 2 * SECOND);
    let mut late = ack(&mut state, 1, &[5]);
    assert_eq!(state.next_batch(), None);
    assert_eq!(late.get(), Some(Err(Reason::LeaseExpired)));
}

#[test]
fn events_that_left_their_lease_are_not_acknowledged_with_the_others() {
    let (mut state, at) = start();
    for lease in 1..=4 {
        state.accept(arrived(lease, lease * 10, 2), at);
    }
    let expired = Some(Reason::LeaseExpired);
    // All that a lease has goes without ranges: whoever named the event that is left hears of it.
    let mut whole = ack(&mut state, 1, &[]);
    let mut both = ack(&mut state, 2, &[20, 21]);
    let (mut first, mut second) = (ack(&mut state, 3, &[30]), ack(&mut state, 3, &[31]));
    let mut untold = ack(&mut state, 4, &[40, 41]);
    let batch = state.next_batch().unwrap();
    assert_eq!(shape(&batch), [(1, 0), (2, 0), (3, 0), (4, 0)]);
    let of = |first, refused| done(&[(first, 1)], refused);
    let told = vec![of(10, expired), of(20, expired), of(30, expired), of(40, None)];
    state.settled(results(1, told), at);
    let lost = Some(Err(Reason::LeaseExpired));
    assert_eq!((whole.get(), both.get(), untold.get()), (lost, lost, lost));
    assert_eq!((first.get(), second.get()), (Some(Ok(())), lost));
}

#[test]
fn only_the_one_that_is_to_blame_fails() {
    let (mut state, at) = start();
    state.accept(arrived(1, 0, 10), at);
    let bad = Nack { reason: "not snake".to_owned(), ..Nack::default() };
    let mut good = ack(&mut state, 1, &[1]);
    let mut bad = settle(&mut state, 1, &[2], Action::Nack(bad));
    let batch = state.next_batch().unwrap();
    state.settled(refusal(batch.batch, Reason::InvalidRequest), at);
    let first = state.next_batch().unwrap();
    let second = state.next_batch().unwrap();
    assert_eq!((first.items.len(), second.items.len()), (1, 1));
    state.settled(results(first.batch, vec![done(&[(1, 1)], None)]), at);
    state.settled(refusal(second.batch, Reason::InvalidRequest), at);
    assert_eq!((good.get(), bad.get()), (Some(Ok(())), Some(Err(Reason::InvalidRequest))));
}

#[test]
fn what_was_not_answered_is_sent_again_and_may_have_been_done() {
    let (mut state, at) = start();
    state.granted();
    state.accept(arrived(1, 0, 10), at);
    let (mut first, mut second) = (ack(&mut state, 1, &[1]), ack(&mut state, 1, &[]));
    state.next_batch().unwrap();
    state.begin_stream();
    assert_eq!(state.due_credit(), Some(Credit { events: 90, bytes: 900 }));
    let batch = state.next_batch().unwrap();
    assert_eq!(shape(&batch), [(1, 1), (1, 0)]);
    let expired = || done(&[], Some(Reason::LeaseExpired));
    state.settled(results(batch.batch, vec![expired(), expired()]), at);
    assert_eq!(first.get(), Some(Err(Reason::OutcomeUnknown)));
    assert_eq!(second.get(), Some(Err(Reason::OutcomeUnknown)));
    let mut late = ack(&mut state, 1, &[3]);
    assert_eq!(state.next_batch(), None);
    assert_eq!(late.get(), Some(Err(Reason::LeaseExpired)));
}

#[test]
fn leases_are_renewed_at_a_third_until_they_are_abandoned() {
    let (mut state, at) = start();
    state.accept(arrived(1, 0, 10), at);
    assert_eq!(state.next_look(), Some(at + SECOND));
    state.look(at + SECOND);
    let batch = state.next_batch().unwrap();
    assert!(matches!(batch.items[0].action, Some(Action::Extend(_))));
    // While the answer is out, it is not asked for again.
    state.look(at + SECOND);
    assert!(!state.has_batch());
    state.settled(results(1, vec![done(&[(0, 10)], None)]), at + 2 * SECOND);
    assert_eq!(state.next_look(), Some(at + 3 * SECOND));
    state.abandon(1);
    state.look(at + 3 * SECOND);
    assert!(!state.has_batch());
    assert_eq!(state.next_look(), Some(at + 5 * SECOND));
    state.granted();
    state.look(at + 5 * SECOND);
    assert_eq!(state.due_credit(), Some(Credit { events: 10, bytes: 100 }));
}

#[test]
fn a_shutdown_lets_those_finish_who_work_and_gives_the_rest_back() {
    let (mut state, at) = start();
    state.accept(arrived(1, 0, 10), at);
    state.accept(arrived(2, 20, 10), at);
    // One was taken, the other is still there.
    state.arrived.pop_front();
    state.drain(at + 5 * SECOND);
    assert_eq!((state.due_credit(), state.next_look()), (None, Some(at + SECOND)));
    let batch = state.next_batch().unwrap();
    assert_eq!(shape(&batch), [(2, 0)]);
    assert!(matches!(batch.items[0].action, Some(Action::Release(_))));
    state.settled(results(1, vec![done(&[(20, 10)], None)]), at);
    // What comes now goes back as well.
    state.accept(arrived(3, 30, 1), at);
    assert_eq!(shape(&state.next_batch().unwrap()), [(3, 0)]);
    state.settled(results(2, vec![done(&[(30, 1)], None)]), at);
    assert!(!state.is_done());
    let mut last = ack(&mut state, 1, &[]);
    state.next_batch().unwrap();
    state.settled(results(3, vec![done(&[(0, 10)], None)]), at);
    assert_eq!(last.get(), Some(Ok(())));
    assert!(state.is_done());
}

#[test]
fn a_shutdown_does_not_wait_for_ever() {
    let (mut state, at) = start();
    state.accept(arrived(1, 0, 10), at);
    state.arrived.pop_front();
    state.drain(at + SECOND / 2);
    state.look(at + SECOND / 2);
    let batch = state.next_batch().unwrap();
    assert!(matches!(batch.items[0].action, Some(Action::Release(_))));
    state.look(at + SECOND / 2 + RELEASE_PATIENCE);
    assert!(state.is_done());
    let mut late = ack(&mut state, 1, &[1]);
    assert_eq!(late.get(), Some(Err(Reason::ShuttingDown)));
}
