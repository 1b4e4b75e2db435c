//! Failed and redriven events that are due: (subscription id, fairness key, rank, topic id,
//! offset) → nothing.

use bytes::Bytes;

use crate::machine::record::{Kind, encode};
use crate::machine::schedule::rank::Rank;
use crate::machine::{Fault, key};
use crate::model::ids::{Offset, SubscriptionId, TopicId};

/// A row's key, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyKey<'a> {
    /// Whose.
    pub subscription: SubscriptionId,
    /// The fairness key.
    pub flow: &'a str,
    /// What goes first.
    pub rank: Rank,
    /// Whose event.
    pub topic: TopicId,
    /// Which.
    pub offset: Offset,
}

impl<'a> ReadyKey<'a> {
    /// The row's key.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut row = flow_prefix(self.subscription, self.flow);
        row.extend_from_slice(&self.rank.to_key());
        row.extend_from_slice(&self.topic.to_key());
        row.extend_from_slice(&self.offset.to_key());
        row
    }

    /// Takes a row's key apart.
    ///
    /// # Errors
    /// When the key is not one.
    pub fn decode(row: &'a [u8]) -> Result<Self, Fault> {
        let mut reader = key::Reader::new(Kind::Ready, row);
        let key = Self {
            subscription: SubscriptionId(reader.number()?),
            flow: reader.text()?,
            rank: Rank { tier: reader.number()?, value: reader.number()? },
            topic: TopicId(reader.number()?),
            offset: Offset(reader.number()?),
        };
        reader.end()?;
        Ok(key)
    }
}

/// The rows of a fairness key begin with this.
#[must_use]
pub fn flow_prefix(subscription: SubscriptionId, flow: &str) -> Vec<u8> {
    let mut row = subscription.to_key().to_vec();
    key::push_text(&mut row, flow);
    row
}

/// The value of a row: nothing.
#[must_use]
pub fn value() -> Bytes {
    encode(Kind::Ready, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back() {
        let key = ReadyKey {
            subscription: SubscriptionId(1),
            flow: "tenant",
            rank: Rank { tier: 2, value: 3 },
            topic: TopicId(4),
            offset: Offset(5),
        };
        assert_eq!(ReadyKey::decode(&key.encode()).unwrap(), key);
        assert!(ReadyKey::decode(&key.encode()[1..]).is_err());
    }
}
