//! Commands of the service registry.

use crate::model::registry::{BreakerState, InstanceSpec, Mode, ServiceConfig, Signal};

/// Register a service, or replace its settings.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct PutService {
    /// A valid name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its settings.
    #[prost(message, required, tag = "2")]
    pub config: ServiceConfig,
    /// Only at this revision; 0: at any, and when there is none yet.
    #[prost(uint64, tag = "3")]
    pub if_revision: u64,
    /// A repeated one gets its first answer; empty: none.
    #[prost(string, tag = "4")]
    pub request_id: String,
}

/// Delete a service without instances.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeleteService {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// A repeated one gets its first answer; empty: none.
    #[prost(string, tag = "2")]
    pub request_id: String,
}

/// Register instances, or change what they say of themselves.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RegisterInstances {
    /// Each is taken or refused by itself.
    #[prost(message, repeated, tag = "1")]
    pub instances: Vec<InstanceSpec>,
}

/// An instance, and who says that it is theirs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct InstanceName {
    /// The service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The instance.
    #[prost(string, tag = "2")]
    pub id: String,
    /// The owner that it registered with.
    #[prost(string, tag = "3")]
    pub owner: String,
}

/// Deregister instances.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DeregisterInstances {
    /// Each is taken or refused by itself.
    #[prost(message, repeated, tag = "1")]
    pub instances: Vec<InstanceName>,
    /// Whoever owns them.
    #[prost(bool, tag = "2")]
    pub force: bool,
}

/// Drain instances, take them into maintenance, or back.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetMode {
    /// Each is taken or refused by itself.
    #[prost(message, repeated, tag = "1")]
    pub instances: Vec<InstanceName>,
    /// What they shall be.
    #[prost(enumeration = "Mode", tag = "2")]
    pub mode: i32,
    /// Whoever owns them: an operator says so.
    #[prost(bool, tag = "3")]
    pub force: bool,
    /// A repeated one changes nothing; empty: none.
    #[prost(string, tag = "4")]
    pub request_id: String,
}

/// What the leader saw of an instance.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HealthChange {
    /// The service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The instance.
    #[prost(string, tag = "2")]
    pub id: String,
    /// Which registration of it.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    /// What tells.
    #[prost(enumeration = "Signal", tag = "4")]
    pub signal: i32,
    /// What it tells.
    #[prost(bool, tag = "5")]
    pub ok: bool,
    /// Why, for people.
    #[prost(string, tag = "6")]
    pub reason: String,
}

/// Take note of what the leader saw of instances.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetHealth {
    /// In order.
    #[prost(message, repeated, tag = "1")]
    pub changes: Vec<HealthChange>,
}

/// Move a breaker.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SetBreaker {
    /// The service.
    #[prost(string, tag = "1")]
    pub service: String,
    /// The instance; empty: the breaker of the service itself.
    #[prost(string, tag = "2")]
    pub instance: String,
    /// Which registration of it; 0: whichever.
    #[prost(uint64, tag = "3")]
    pub incarnation: u64,
    /// Only from there, unless it is forced.
    #[prost(enumeration = "BreakerState", tag = "4")]
    pub from: i32,
    /// Where to.
    #[prost(enumeration = "BreakerState", tag = "5")]
    pub to: i32,
    /// An operator says so.
    #[prost(bool, tag = "6")]
    pub forced: bool,
    /// A repeated one changes nothing; empty: none.
    #[prost(string, tag = "7")]
    pub request_id: String,
}
