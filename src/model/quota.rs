//! Quotas of services: limits that are replicated here and enforced where calls come in.

use super::limits::SERVICE_BYTES_MAX;
use super::rejection::{Reason, Rejection};

/// The limits of one service; 0: none.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct QuotaLimits {
    /// Events that it publishes, per second.
    #[prost(uint64, tag = "1")]
    pub publish_events_per_s: u64,
    /// Bytes that it publishes, per second.
    #[prost(uint64, tag = "2")]
    pub publish_bytes_per_s: u64,
    /// Events in flight to its consumers, over all subscriptions.
    #[prost(uint64, tag = "3")]
    pub in_flight: u64,
    /// Retries that its consumers are handed, per second.
    #[prost(uint64, tag = "4")]
    pub retries_per_s: u64,
    /// Bytes of a topic that may wait for the topic's slowest subscription while it publishes there.
    #[prost(uint64, tag = "5")]
    pub backlog_bytes: u64,
    /// Instances that it may have registered.
    #[prost(uint64, tag = "6")]
    pub instances: u64,
}

impl QuotaLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// Checks the name of a service: 1 to 128 bytes of `A-Za-z0-9_.-`.
///
/// # Errors
/// `INVALID_NAME`.
pub fn check_service(name: &str) -> Result<(), Rejection> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=SERVICE_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(Rejection::new(
        Reason::InvalidName,
        format!("service name {name:?} is not 1 to {SERVICE_BYTES_MAX} characters of A-Z a-z 0-9 _ - .; choose another"),
    )
    .with("name", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        assert!(check_service("shop.orders-1").is_ok());
        for name in ["", "a b", &"x".repeat(129)] {
            assert_eq!(check_service(name).unwrap_err().reason, Reason::InvalidName);
        }
    }
}
