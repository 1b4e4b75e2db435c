//! Callers that publish to several topics at once, and ack what they got in the same transaction. All they ask
//! for carries a request id: who does not hear an outcome asks for the same from the beginning.

use std::sync::Arc;

use bytes::Bytes;
use message_hub::model::command::delivery::{Ack, Action};
use message_hub::model::expectation::Expect;
use message_hub::model::ids::{KeyVersion, TransactionId};
use message_hub::model::outcome::Published;
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::model::transaction::{TransactionInfo, TransactionState};
use message_hub::node::Node;
use message_hub::node::transactions::SettleRequest;
use message_hub::node::validate::PublishRequest;

use crate::clients::{ask, dice, faults_are_over, item, pause, pull, worth_asking};
use crate::dice::Dice;
use crate::ledger::{End, How, Transaction};
use crate::oracle::Held;
use crate::schemas::{event, says_nothing};
use crate::shared::{Phase, Shared};

/// A key that no event has.
const NOBODY: &str = "nobody";

pub(crate) async fn transact_all(id: u64, node: &Arc<Node>, shared: &Shared, stream: u64) {
    let mut dice = dice(id, shared, stream);
    loop {
        pause(&mut dice, 250).await;
        if shared.get().phase == Phase::Forming || !worth_asking(node, &mut dice) {
            continue;
        }
        let again = shared.change().oracle.ledger.again(id);
        let next = match again {
            Some(transaction) => Some(transaction),
            None if faults_are_over(shared) => None,
            None => begin(id, node, shared, &mut dice).await,
        };
        if let Some(transaction) = next {
            transact(id, node, shared, &mut dice, transaction).await;
        }
    }
}

/// Something new, with an event to consume now and then.
async fn begin(id: u64, node: &Arc<Node>, shared: &Shared, dice: &mut Dice) -> Option<Transaction> {
    let held = if dice.chance(40) { pull(id, node, shared, dice, 1).await } else { None };
    let consumes = held.and_then(|held| held.into_iter().next());
    if faults_are_over(shared) {
        return None;
    }
    shared.change().oracle.begin_transaction(id, dice, consumes)
}

async fn transact(
    id: u64,
    node: &Arc<Node>,
    shared: &Shared,
    dice: &mut Dice,
    transaction: Transaction,
) {
    // Before it was asked for at all: later it may be done while it is handed on.
    let handed_on = {
        let world = shared.get();
        let is_first = world.oracle.ledger.is_first_try(&transaction);
        let consumes = transaction.consumes.as_ref().filter(|_| is_first);
        consumes.and_then(|held| world.oracle.handed_on(held))
    };
    let outcome = match transaction.how {
        How::AtOnce => at_once(node, &transaction).await.map(Some),
        How::Staged(end) => staged(node, shared, &transaction, end).await,
    };
    let (said, told) = {
        let mut world = shared.change();
        let oracle = &mut world.oracle;
        match outcome {
            Ok(Some(parts)) => match handed_on {
                Some(lease) => ("done", Err(format!("{transaction} is done after lease {lease}"))),
                None => ("done", oracle.transacted(&transaction, &parts)),
            },
            Ok(None) => {
                oracle.ledger.undone(&transaction);
                ("given up", Ok(()))
            }
            Err(refused) if says_nothing(refused.reason) => {
                if refused.reason == Reason::OutcomeUnknown && dice.chance(20) {
                    oracle.ledger.walk_away(&transaction);
                    ("nobody asks any more", Ok(()))
                } else {
                    oracle.ledger.unanswered(&transaction);
                    (refused.reason.as_str(), Ok(()))
                }
            }
            Err(refused) => (refused.reason.as_str(), oracle.refused(&transaction, &refused)),
        }
    };
    shared.say(format!("transactor of {id}"), format!("{transaction}: {said}"));
    if let Err(wrong) = told {
        shared.wrong(wrong);
    }
}

async fn at_once(node: &Arc<Node>, transaction: &Transaction) -> Result<Vec<Published>, Rejection> {
    let parts = (0..transaction.parts.len()).map(|part| request(transaction, part)).collect();
    let request_id = transaction.request_id("whole");
    ask(node.transact("sim", parts, settles(transaction), request_id)).await
}

/// Where the events of each part went; `None` when it was not to be done.
async fn staged(
    node: &Arc<Node>,
    shared: &Shared,
    transaction: &Transaction,
    end: End,
) -> Result<Option<Vec<Published>>, Rejection> {
    let (timeout_ms, request_id) = (transaction.timeout_ms, transaction.request_id("begin"));
    let id = ask(node.begin_transaction(timeout_ms, String::new(), request_id)).await?.id;
    let told = shared.change().oracle.ledger.begun(transaction, id);
    if let Err(wrong) = told {
        shared.wrong(wrong);
    }
    let done = fill(node, shared, transaction, id, end).await;
    if done.as_ref().is_err_and(|refused| leaves_open(refused.reason)) {
        // Whether this is done matters to nobody.
        shared.change().oracle.ledger.gives_up(transaction);
        drop(ask(node.abort_transaction(id)).await);
    }
    done
}

/// Whether a staged transaction waits for its end after such a refusal.
fn leaves_open(reason: Reason) -> bool {
    !says_nothing(reason)
        && !matches!(reason, Reason::TransactionEnded | Reason::TransactionExpired)
}

async fn fill(
    node: &Arc<Node>,
    shared: &Shared,
    transaction: &Transaction,
    id: TransactionId,
    end: End,
) -> Result<Option<Vec<Published>>, Rejection> {
    for number in 0..transaction.parts.len() {
        let settles = if number == 0 { settles(transaction) } else { Vec::new() };
        let stage = (vec![request(transaction, number)], settles);
        let request_id = transaction.request_id(number);
        ask(node.stage_transaction("sim", id, stage, request_id)).await?;
    }
    match end {
        End::Leave => Ok(None),
        End::Commit => {
            shared.change().oracle.ledger.asks_to_do(transaction);
            let done = ask(node.commit_transaction("sim", id)).await?;
            Ok(Some(parts_of(transaction, &done)))
        }
        End::Abort => {
            shared.change().oracle.ledger.gives_up(transaction);
            let state = ask(node.abort_transaction(id)).await?.state;
            if !matches!(state, TransactionState::Aborted | TransactionState::Expired) {
                shared.wrong(format!("{transaction} was aborted, and is {}", state.as_str()));
            }
            Ok(None)
        }
    }
}

/// What a commit tells of each part.
fn parts_of(transaction: &Transaction, done: &TransactionInfo) -> Vec<Published> {
    let told = |topic: &str| done.parts.iter().find(|(name, _)| name == topic);
    let parts = transaction.parts.iter().map(|part| told(part.topic));
    parts.map(|told| told.map(|(_, published)| published.clone()).unwrap_or_default()).collect()
}

fn request(transaction: &Transaction, number: usize) -> PublishRequest {
    let (part, key) = (&transaction.parts[number], &transaction.key);
    let mut expectations = vec![(key.clone(), Expect::Exact(KeyVersion(part.expected)))];
    if transaction.impossible && number == 0 {
        expectations.push((NOBODY.to_owned(), Expect::Exists));
    }
    let version = part.written_for.unwrap_or(0);
    let events = transaction.ids_of(number).into_iter().map(|id| event(id, key.clone(), version));
    let events: Vec<Bytes> = events.collect();
    PublishRequest { topic: part.topic.to_owned(), producer: None, expectations, events }
}

fn settles(transaction: &Transaction) -> Vec<SettleRequest> {
    let settle = |held: &Held| SettleRequest {
        subscription: held.subscription.to_owned(),
        consumer: held.consumer.clone(),
        items: vec![item(held, Action::Ack(Ack {}))],
    };
    transaction.consumes.iter().map(settle).collect()
}
