//! Taking back what consumers had: checked here, decided by the state.

use prost::Message as _;

use super::propose::Ticket;
use super::{Node, unexpected};
use crate::model::command::delivery::{Action, SettleItem};
use crate::model::command::{Kind, Settle};
use crate::model::delivery::{Settled, is_reason};
use crate::model::limits::{
    CALL_BYTES_MAX, CONSUMER_BYTES_MAX, LEASE_MS, NACK_DETAIL_BYTES_MAX, NACK_REASON_BYTES_MAX,
    RANGES_MAX, RETRY_AFTER_MS_MAX, SETTLE_ITEMS_MAX,
};
use crate::model::name;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

impl Node {
    /// Settles deliveries; what became of each item, in order.
    ///
    /// # Errors
    /// See [`Node::begin_settle`]; `SUBSCRIPTION_NOT_FOUND`, and those of any proposal.
    pub async fn settle(
        &self,
        subscription: String,
        consumer: String,
        items: Vec<SettleItem>,
    ) -> Result<Vec<Settled>, Rejection> {
        settled(self.begin_settle(subscription, consumer, items).await?.outcome().await)
    }

    /// Queues a settlement; the outcome comes with the ticket.
    ///
    /// # Errors
    /// `INVALID_REQUEST` (with the index of the item), `CALL_TOO_LARGE`, and when too much is
    /// queued already.
    pub async fn begin_settle(
        &self,
        subscription: String,
        consumer: String,
        items: Vec<SettleItem>,
    ) -> Result<Ticket, Rejection> {
        name::check_subscription(&subscription)?;
        check_consumer(&consumer)?;
        check_items(&items)?;
        let settle = Settle { subscription, consumer, items };
        #[cfg(feature = "planted")]
        let settle = super::planted::for_whoever_has_them(self, settle).await?;
        if settle.encoded_len() > CALL_BYTES_MAX {
            let text = format!(
                "a settlement of {} bytes is above {CALL_BYTES_MAX}; settle fewer deliveries at once",
                settle.encoded_len()
            );
            return Err(Rejection::new(Reason::CallTooLarge, text));
        }
        self.proposer.submit(Kind::Settle(settle)).await
    }
}

/// The outcome of a settlement.
///
/// # Errors
/// What the state refused.
pub fn settled(outcome: Result<Outcome, Rejection>) -> Result<Vec<Settled>, Rejection> {
    match outcome? {
        #[cfg(feature = "planted")]
        Outcome::Settled(settled) => Ok(super::planted::accepted(settled)),
        #[cfg(not(feature = "planted"))]
        Outcome::Settled(settled) => Ok(settled),
        other => Err(unexpected(&other)),
    }
}

fn invalid(message: impl Into<String>) -> Rejection {
    Rejection::new(Reason::InvalidRequest, message)
}

/// Checks the name of a consumer.
pub(crate) fn check_consumer(consumer: &str) -> Result<(), Rejection> {
    let fits = (1..=CONSUMER_BYTES_MAX).contains(&consumer.len());
    if fits && !consumer.chars().any(char::is_control) {
        return Ok(());
    }
    Err(invalid(format!(
        "consumer {:?} is not a name of 1 to {CONSUMER_BYTES_MAX} bytes without control characters; choose one",
        consumer.chars().take(CONSUMER_BYTES_MAX).collect::<String>()
    )))
}

/// Checks the length of a lease; 0 is the subscription's own.
pub(super) fn check_lease_ms(lease_ms: u64) -> Result<(), Rejection> {
    if lease_ms == 0 || LEASE_MS.contains(&lease_ms) {
        return Ok(());
    }
    let (least, most) = (LEASE_MS.start(), LEASE_MS.end());
    Err(invalid(format!(
        "lease_ms {lease_ms} is not within {least} and {most}; leave it out for the subscription's own"
    )))
}

pub(crate) fn check_items(items: &[SettleItem]) -> Result<(), Rejection> {
    if items.is_empty() || items.len() > SETTLE_ITEMS_MAX {
        let text = format!(
            "a settlement of {} items is not within 1 and {SETTLE_ITEMS_MAX}; settle fewer at once",
            items.len()
        );
        return Err(invalid(text));
    }
    for (index, item) in items.iter().enumerate() {
        check_item(item).map_err(|rejection| rejection.with("item", index))?;
    }
    Ok(())
}

fn check_item(item: &SettleItem) -> Result<(), Rejection> {
    if item.ranges.len() > RANGES_MAX {
        let count = item.ranges.len();
        return Err(invalid(format!(
            "{count} ranges are above {RANGES_MAX}; use several items for lease {}",
            item.lease_id
        )));
    }
    if item.ranges.iter().any(|range| range.count == 0) {
        return Err(invalid(format!(
            "a range of lease {} has no events; leave it out",
            item.lease_id
        )));
    }
    match &item.action {
        None => {
            Err(invalid("an item says not what to do; name ack, nack, reject, release or extend"))
        }
        Some(Action::Ack(_) | Action::Release(_)) => Ok(()),
        Some(Action::Extend(extend)) => check_lease_ms(extend.lease_ms),
        Some(Action::Reject(reject)) => check_failure(&reject.reason, &reject.detail),
        Some(Action::Nack(nack)) => {
            if let Some(after) = nack.retry_after_ms.filter(|ms| *ms > RETRY_AFTER_MS_MAX) {
                return Err(invalid(format!(
                    "retry_after_ms {after} is above {RETRY_AFTER_MS_MAX}, which is 12 h; retry sooner, or publish a delayed event"
                )));
            }
            check_failure(&nack.reason, &nack.detail)
        }
    }
}

fn check_failure(reason: &str, detail: &str) -> Result<(), Rejection> {
    if !is_reason(reason) {
        return Err(invalid(format!(
            "reason {:?} is not UPPER_SNAKE of at most {NACK_REASON_BYTES_MAX} bytes; put free text into the detail",
            reason.chars().take(NACK_REASON_BYTES_MAX).collect::<String>()
        )));
    }
    if detail.len() > NACK_DETAIL_BYTES_MAX {
        return Err(invalid(format!(
            "a detail of {} bytes is above {NACK_DETAIL_BYTES_MAX}; shorten it",
            detail.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::command::delivery::{Ack, Extend, Nack, Reject};
    use crate::model::ranges::OffsetRange;

    fn item(action: Option<Action>) -> SettleItem {
        SettleItem { lease_id: 1, term: 1, topic_id: 1, ranges: Vec::new(), action }
    }

    fn nack(retry_after_ms: Option<u64>, reason: &str, detail: &str) -> Option<Action> {
        let (reason, detail) = (reason.to_owned(), detail.to_owned());
        Some(Action::Nack(Nack { retry_after_ms, reason, detail }))
    }

    #[test]
    fn what_breaks_a_bound_is_refused_with_the_item_that_does() {
        let ack = || item(Some(Action::Ack(Ack {})));
        let ranges = |count, each| {
            let range = OffsetRange { first: 0, count: each };
            SettleItem { ranges: vec![range; count], ..ack() }
        };
        let reject = Reject { reason: "no snake".to_owned(), detail: String::new() };
        let long = "x".repeat(NACK_DETAIL_BYTES_MAX + 1);
        let cases = [
            item(None),
            ranges(RANGES_MAX + 1, 1),
            ranges(1, 0),
            item(nack(Some(RETRY_AFTER_MS_MAX + 1), "", "")),
            item(nack(None, "lower", "")),
            item(nack(None, &"X".repeat(NACK_REASON_BYTES_MAX + 1), "")),
            item(nack(None, "", &long)),
            item(Some(Action::Reject(reject))),
            item(Some(Action::Extend(Extend { lease_ms: 999 }))),
        ];
        for case in cases {
            let refused = check_items(&[ack(), case.clone()]).unwrap_err();
            assert_eq!(refused.reason, Reason::InvalidRequest, "{case:?}");
            assert_eq!(refused.fact("item"), Some("1"), "{case:?}");
        }
        assert!(check_items(&[]).is_err());
        assert!(check_items(&vec![ack(); SETTLE_ITEMS_MAX + 1]).is_err());
        let fine = nack(Some(RETRY_AFTER_MS_MAX), "UPPER_SNAKE_9", "text");
        assert_eq!(check_items(&[ack(), item(fine), ranges(RANGES_MAX, 1)]), Ok(()));
    }

    #[test]
    fn names_of_consumers_are_short_and_printable() {
        assert_eq!(check_consumer("worker-1@host"), Ok(()));
        for bad in ["", "a\nb", &"x".repeat(CONSUMER_BYTES_MAX + 1)] {
            assert!(check_consumer(bad).is_err(), "{bad:?}");
        }
    }
}
