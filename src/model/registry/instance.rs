//! An instance of a service.

use std::collections::BTreeMap;

use super::{check_version, refuse, within};
use crate::model::ids::UnixMs;
use crate::model::limits::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, INSTANCE_ID_BYTES_MAX, INSTANCE_TTL_MS,
    INSTANCE_WEIGHT_MILLI, OWNER_BYTES_MAX, PROCESS_BYTES_MAX, PROTOCOL_BYTES_MAX, ZONE_BYTES_MAX,
};
use crate::model::quota::check_service;
use crate::model::rejection::{Reason, Rejection};
use crate::model::topic::check_labels;

/// Where an instance answers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Address {
    /// What is spoken there: `http`, `grpc`, or another word.
    #[prost(string, tag = "1")]
    pub protocol: String,
    /// HOST:PORT.
    #[prost(string, tag = "2")]
    pub address: String,
}

/// What an instance says of itself.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InstanceSpec {
    /// Its service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// Its id, unique in its service.
    #[prost(string, tag = "2")]
    pub id: String,
    /// Where it answers; at least one.
    #[prost(message, repeated, tag = "3")]
    pub addresses: Vec<Address>,
    /// Where it runs; empty: not told.
    #[prost(string, tag = "4")]
    pub zone: String,
    /// Its version; empty: not told.
    #[prost(string, tag = "5")]
    pub version: String,
    /// Its share among the others, thousandths.
    #[prost(uint64, tag = "6")]
    pub weight_milli: u64,
    /// Free labels.
    #[prost(btree_map = "string, string", tag = "7")]
    pub metadata: BTreeMap<String, String>,
    /// How long a renewal lasts, milliseconds; 0: as its service says.
    #[prost(uint64, tag = "8")]
    pub ttl_ms: u64,
    /// Who may change it: a secret of whoever registers it.
    #[prost(string, tag = "9")]
    pub owner: String,
    /// Which process registers it: another one has been started anew. Empty: not told.
    #[prost(string, tag = "10")]
    pub process: String,
}

impl InstanceSpec {
    /// Checks every range.
    ///
    /// # Errors
    /// `INVALID_NAME`, `INVALID_CONFIG`, naming the setting.
    pub fn check(&self) -> Result<(), Rejection> {
        check_service(&self.service)?;
        check_instance_id(&self.id)?;
        within("addresses", self.addresses.len() as u64, &(1..=ADDRESSES_MAX as u64))?;
        self.addresses.iter().try_for_each(Address::check)?;
        within("zone", self.zone.len() as u64, &(0..=ZONE_BYTES_MAX as u64))?;
        check_version("version", &self.version)?;
        within("weight_milli", self.weight_milli, &INSTANCE_WEIGHT_MILLI)?;
        check_labels(&self.metadata)?;
        if self.ttl_ms > 0 {
            within("ttl_ms", self.ttl_ms, &INSTANCE_TTL_MS)?;
        }
        within("owner", self.owner.len() as u64, &(0..=OWNER_BYTES_MAX as u64))?;
        within("process", self.process.len() as u64, &(0..=PROCESS_BYTES_MAX as u64))
    }
}

/// Checks an instance's id: 1 to 128 bytes of `A-Za-z0-9_.:-`.
///
/// # Errors
/// `INVALID_NAME`.
pub fn check_instance_id(id: &str) -> Result<(), Rejection> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b':');
    if (1..=INSTANCE_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(plain) {
        return Ok(());
    }
    let text = format!(
        "instance id {id:?} is not 1 to {INSTANCE_ID_BYTES_MAX} characters of A-Z a-z 0-9 _ - . :; choose another"
    );
    Err(Rejection::new(Reason::InvalidName, text).with("name", id))
}

impl Address {
    fn check(&self) -> Result<(), Rejection> {
        let protocol = self.protocol.as_str();
        let word = protocol.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if protocol.is_empty() || protocol.len() > PROTOCOL_BYTES_MAX || !word {
            let why = format!("have a protocol {protocol:?} that is no word like http or grpc");
            return Err(refuse("addresses", &why));
        }
        if self.split().is_none() {
            let why = format!("have {:?}, which is not HOST:PORT", self.address);
            return Err(refuse("addresses", &why));
        }
        Ok(())
    }

    /// Host, without the brackets of IPv6, and port.
    #[must_use]
    pub fn split(&self) -> Option<(&str, u16)> {
        let address = self.address.as_str();
        let (host, port) = address.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
        let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let sound = match inner {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => {
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
                !host.is_empty() && host.bytes().all(plain)
            }
        };
        (sound && address.len() <= ADDRESS_BYTES_MAX).then(|| (inner.unwrap_or(host), port))
    }
}

/// Whether an instance answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Health {
    /// It does, as far as the hub knows.
    Passing = 0,
    /// It does not, or is held for flapping.
    Critical = 1,
}

/// Whether an instance wants work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Mode {
    /// It does.
    Up = 0,
    /// It finishes what it has.
    Draining = 1,
    /// Somebody works on it; it is not deregistered meanwhile.
    Maintenance = 2,
}

/// What an instance's health is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Signal {
    /// Its renewals.
    Ttl = 0,
    /// The hub's own checks.
    Check = 1,
    /// Neither: judge again, its hold for flapping may be over.
    Hold = 2,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum BreakerState {
    /// Calls go through.
    Closed = 0,
    /// None do.
    Open = 1,
    /// A few do, to try.
    HalfOpen = 2,
    /// None do, until an operator says otherwise.
    ForcedOpen = 3,
    /// All do, until an operator says otherwise.
    ForcedClosed = 4,
}

/// A breaker.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BreakerStatus {
    /// How it stands.
    #[prost(enumeration = "BreakerState", tag = "1")]
    pub state: i32,
    /// How often it opened in a row without closing.
    #[prost(uint32, tag = "2")]
    pub opened: u32,
    /// When it may be tried, Unix milliseconds; while it is open.
    #[prost(uint64, tag = "3")]
    pub until_ms: u64,
    /// Since when it stands so, Unix milliseconds; 0: from the beginning.
    #[prost(uint64, tag = "4")]
    pub since_ms: u64,
}

impl BreakerStatus {
    /// Whether it lets all calls through.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.state(), BreakerState::Closed | BreakerState::ForcedClosed)
    }
}

/// A change of an instance's health.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Transition {
    /// When, Unix milliseconds.
    #[prost(uint64, tag = "1")]
    pub at_ms: u64,
    /// To what.
    #[prost(enumeration = "Health", tag = "2")]
    pub to: i32,
    /// Why, for people.
    #[prost(string, tag = "3")]
    pub reason: String,
}

/// An instance with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceInfo {
    /// What it says of itself. Its owner and its process are left out.
    pub spec: InstanceSpec,
    /// Tells it from earlier instances of this id.
    pub incarnation: u64,
    /// The registry's revision at its last change.
    pub revision: u64,
    /// How long its renewals last, milliseconds.
    pub ttl_ms: u64,
    /// When it registered.
    pub registered_at: UnixMs,
    /// Whether it answers.
    pub health: Health,
    /// Since when.
    pub health_since: UnixMs,
    /// Whether it wants work.
    pub mode: Mode,
    /// It is held critical until then, because it changed too often.
    pub held_until: Option<UnixMs>,
    /// Its breaker.
    pub breaker: BreakerStatus,
    /// Its last changes of health, the newest last.
    pub transitions: Vec<Transition>,
}

impl InstanceInfo {
    /// Whether it may be given to callers, its breaker aside.
    #[must_use]
    pub fn takes_work(&self) -> bool {
        self.health == Health::Passing && self.mode == Mode::Up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> InstanceSpec {
        InstanceSpec {
            service: "shop".into(),
            id: "host-1:80".into(),
            addresses: vec![Address { protocol: "http".into(), address: "10.0.0.1:80".into() }],
            weight_milli: 1000,
            ..InstanceSpec::default()
        }
    }

    #[test]
    fn every_range_is_checked() {
        assert_eq!(spec().check(), Ok(()));
        for (change, reason) in [
            ((|s| s.id = String::new()) as fn(&mut InstanceSpec), Reason::InvalidName),
            (|s| s.id = "a/b".into(), Reason::InvalidName),
            (|s| s.service = "a b".into(), Reason::InvalidName),
            (|s| s.addresses.clear(), Reason::InvalidConfig),
            (|s| s.addresses[0].protocol = "HTTP".into(), Reason::InvalidConfig),
            (|s| s.version = "v1".into(), Reason::InvalidConfig),
            (|s| s.weight_milli = 0, Reason::InvalidConfig),
            (|s| s.weight_milli = u64::MAX, Reason::InvalidConfig),
            (|s| s.ttl_ms = 1, Reason::InvalidConfig),
            (|s| s.zone = "z".repeat(999), Reason::InvalidConfig),
            (|s| s.process = "p".repeat(129), Reason::InvalidConfig),
        ] {
            let mut spec = spec();
            change(&mut spec);
            assert_eq!(spec.check().unwrap_err().reason, reason, "{spec:?}");
        }
    }

    #[test]
    fn addresses_are_host_and_port() {
        let split = |address: &str| {
            let address = Address { protocol: "tcp".into(), address: address.into() };
            address.split().map(|(host, port)| (host.to_owned(), port))
        };
        assert_eq!(split("db.local:5432"), Some(("db.local".into(), 5432)));
        assert_eq!(split("[::1]:80"), Some(("::1".into(), 80)));
        for wrong in
            ["", "host", "host:", ":80", "host:0", "host:70000", "::1:80", "[x]:1", "a b:1"]
        {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }
}
