//! Rows of services and instances.

use bytes::Bytes;

use crate::machine::kv::{Kv, Table};
use crate::machine::record::{Kind, decode_message, encode_message};
use crate::machine::{Fault, key};
use crate::model::ids::UnixMs;
use crate::model::registry::{
    BreakerStatus, Health, InstanceInfo, InstanceSpec, Mode, ServiceConfig, ServiceInfo, Transition,
};
use crate::model::rejection::{Reason, Rejection};

/// A service as stored, by name.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ServiceRecord {
    /// Its number, out of those of [`InstanceRecord::number`].
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// Its settings.
    #[prost(message, required, tag = "2")]
    pub config: ServiceConfig,
    /// The registry's revision at its last change of settings.
    #[prost(uint64, tag = "3")]
    pub revision: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "4")]
    pub created_at_ms: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "5")]
    pub updated_at_ms: u64,
    /// Instances.
    #[prost(uint64, tag = "6")]
    pub instances: u64,
    /// Those of them that are passing and up.
    #[prost(uint64, tag = "7")]
    pub healthy: u64,
    /// Those whose breaker lets no calls through.
    #[prost(uint64, tag = "8")]
    pub ejected: u64,
    /// Since when it is not available, Unix milliseconds; 0: it is, or it never was.
    #[prost(uint64, tag = "9")]
    pub down_since_ms: u64,
    /// When it was available again after it was down, Unix milliseconds; 0: never.
    #[prost(uint64, tag = "10")]
    pub recovered_at_ms: u64,
    /// The breaker of the whole service.
    #[prost(message, required, tag = "11")]
    pub breaker: BreakerStatus,
    /// Those of `healthy` whose breaker is open or being tried.
    #[prost(uint64, tag = "12")]
    pub tripped: u64,
    /// Since when none of its instances is given up as too many fell silent at once, Unix milliseconds; 0: they
    /// are given up.
    #[prost(uint64, tag = "13")]
    pub braked_at_ms: u64,
    /// The leader told that it is ready, with all that it requires.
    #[prost(bool, tag = "14")]
    pub ready: bool,
    /// Which service the leader told is called in its place; empty: none.
    #[prost(string, tag = "15")]
    pub failed_over_to: String,
    /// Since when that one is, Unix milliseconds.
    #[prost(uint64, tag = "16")]
    pub failed_over_at_ms: u64,
    /// Until when renewals by an earlier, longer time will do, Unix milliseconds: whoever renews by it may not have
    /// heard of the shorter one.
    #[prost(uint64, tag = "17")]
    pub grace_until_ms: u64,
}

impl ServiceRecord {
    /// Whether somebody takes calls: an instance that is passing and up, behind breakers that are closed, its
    /// own and the service's. A breaker that is being tried does not count: what is not known to work is
    /// called by a few, and does not come back before it does work.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.breaker.is_closed() && self.healthy > self.tripped
    }

    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Service, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::Service, self)
    }

    /// What is kept of an answer, to give it again.
    #[must_use]
    pub fn of(info: &ServiceInfo) -> Self {
        Self {
            config: info.config.clone(),
            revision: info.revision,
            created_at_ms: info.created_at.get(),
            updated_at_ms: info.updated_at.get(),
            instances: info.instances,
            healthy: info.healthy,
            down_since_ms: info.down_since.map_or(0, UnixMs::get),
            recovered_at_ms: info.recovered_at.map_or(0, UnixMs::get),
            breaker: info.breaker.clone(),
            braked_at_ms: info.braked_since.map_or(0, UnixMs::get),
            failed_over_to: info.failed_over_to.clone(),
            failed_over_at_ms: info.failed_over_since.map_or(0, UnixMs::get),
            ..Self::default()
        }
    }

    /// What callers see of it.
    #[must_use]
    pub fn info(&self, name: &str) -> ServiceInfo {
        ServiceInfo {
            name: name.to_owned(),
            config: self.config.clone(),
            revision: self.revision,
            created_at: UnixMs(self.created_at_ms),
            updated_at: UnixMs(self.updated_at_ms),
            instances: self.instances,
            healthy: self.healthy,
            down_since: instant(self.down_since_ms),
            recovered_at: instant(self.recovered_at_ms),
            breaker: self.breaker.clone(),
            braked_since: instant(self.braked_at_ms),
            failed_over_to: self.failed_over_to.clone(),
            failed_over_since: instant(self.failed_over_at_ms),
        }
    }
}

fn instant(ms: u64) -> Option<UnixMs> {
    (ms > 0).then_some(UnixMs(ms))
}

/// An instance as stored, by service and id.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InstanceRecord {
    /// Its incarnation: of all registrations in the hub, the number of this one.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// What it says of itself.
    #[prost(message, required, tag = "2")]
    pub spec: InstanceSpec,
    /// The registry's revision at its last change.
    #[prost(uint64, tag = "3")]
    pub revision: u64,
    /// Unix milliseconds.
    #[prost(uint64, tag = "4")]
    pub registered_at_ms: u64,
    /// Whether it answers: what follows from the rest, as of its last change.
    #[prost(enumeration = "Health", tag = "5")]
    pub health: i32,
    /// Since when, Unix milliseconds.
    #[prost(uint64, tag = "6")]
    pub health_since_ms: u64,
    /// Whether it wants work.
    #[prost(enumeration = "Mode", tag = "7")]
    pub mode: i32,
    /// When its renewals ended, Unix milliseconds; 0: they did not.
    #[prost(uint64, tag = "8")]
    pub lost_at_ms: u64,
    /// The hub's checks fail, or have not passed yet.
    #[prost(bool, tag = "9")]
    pub failing: bool,
    /// It is held critical until then, Unix milliseconds; 0: it is not.
    #[prost(uint64, tag = "10")]
    pub held_until_ms: u64,
    /// How often it was held without having been steady in between.
    #[prost(uint32, tag = "11")]
    pub holds: u32,
    /// Its breaker.
    #[prost(message, required, tag = "12")]
    pub breaker: BreakerStatus,
    /// Its last changes of health, the newest last.
    #[prost(message, repeated, tag = "13")]
    pub transitions: Vec<Transition>,
    /// An operator set its mode: it outlasts the registration.
    #[prost(bool, tag = "14")]
    pub mode_by_operator: bool,
}

impl InstanceRecord {
    /// Reads a stored row.
    ///
    /// # Errors
    /// When it is corrupt.
    pub fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Instance, row)
    }

    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::Instance, self)
    }

    /// Whether it renews, and the hub's checks pass.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.lost_at_ms == 0 && !self.failing
    }

    /// Whether it may be given to callers, its breaker aside.
    #[must_use]
    pub fn takes_work(&self) -> bool {
        self.health() == Health::Passing && self.mode() == Mode::Up
    }

    /// Whether it would take work, and its breaker keeps it from it, or lets a few calls through to try.
    #[must_use]
    pub fn is_tripped(&self) -> bool {
        self.takes_work() && !self.breaker.is_closed()
    }

    /// How long its renewals last, milliseconds.
    #[must_use]
    pub fn ttl_ms(&self, service: &ServiceConfig) -> u64 {
        if self.spec.ttl_ms > 0 { self.spec.ttl_ms } else { service.health.ttl_ms }
    }

    /// What callers see of it.
    #[must_use]
    pub fn info(&self, service: &ServiceConfig) -> InstanceInfo {
        InstanceInfo {
            spec: InstanceSpec {
                owner: String::new(),
                process: String::new(),
                ..self.spec.clone()
            },
            incarnation: self.number,
            revision: self.revision,
            ttl_ms: self.ttl_ms(service),
            registered_at: UnixMs(self.registered_at_ms),
            health: self.health(),
            health_since: UnixMs(self.health_since_ms),
            mode: self.mode(),
            held_until: instant(self.held_until_ms),
            breaker: self.breaker.clone(),
            transitions: self.transitions.clone(),
        }
    }
}

/// What a number belongs to.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NumberRecord {
    /// The service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The instance; empty: the service itself.
    #[prost(string, tag = "2")]
    pub instance: String,
}

impl NumberRecord {
    /// The row to store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_message(Kind::RegistryNumber, self)
    }
}

/// The rows of a service's instances begin with this.
#[must_use]
pub fn instances_of(service: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(2 + service.len());
    key::push_text(&mut row, service);
    row
}

/// The key of an instance's row.
#[must_use]
pub fn instance_key(service: &str, id: &str) -> Vec<u8> {
    let mut row = instances_of(service);
    row.extend_from_slice(id.as_bytes());
    row
}

/// A service by name.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn service(kv: &impl Kv, name: &str) -> Result<Option<ServiceRecord>, Fault> {
    kv.get(Table::Services, name.as_bytes())?.map(|row| ServiceRecord::decode(&row)).transpose()
}

/// An instance by service and id.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn instance(kv: &impl Kv, service: &str, id: &str) -> Result<Option<InstanceRecord>, Fault> {
    let row = kv.get(Table::Instances, &instance_key(service, id))?;
    row.map(|row| InstanceRecord::decode(&row)).transpose()
}

/// What a number belongs to.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn number(kv: &impl Kv, number: u64) -> Result<Option<NumberRecord>, Fault> {
    let row = kv.get(Table::RegistryNumbers, &number.to_be_bytes())?;
    row.map(|row| decode_message(Kind::RegistryNumber, &row)).transpose()
}

/// The refusal for a service that is not there.
#[must_use]
pub fn service_not_found(name: &str) -> Rejection {
    let text =
        format!("service {name} does not exist; register it with: mhub service register {name}");
    Rejection::new(Reason::ServiceNotFound, text).with("service", name)
}

/// The refusal for an instance that is not there.
#[must_use]
pub fn instance_not_found(service: &str, id: &str) -> Rejection {
    let text = format!(
        "service {service} has no instance {id}; list them with: mhub service info {service}"
    );
    Rejection::new(Reason::InstanceNotFound, text).with("service", service).with("instance", id)
}
