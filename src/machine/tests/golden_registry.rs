//! The bytes of the registry on disk, as they were when their version was new. They are read for ever.

use super::apply;
use super::golden::{rows, stored};
use crate::machine::mem::MemKv;
use crate::machine::registry::{query, watch};
use crate::model::command::{
    CommandBatch, HealthChange, Kind, Notice, NoticeKind, PutService, RegisterInstances,
    SetBreaker, SetHealth, Tick,
};
use crate::model::registry::{
    Address, BreakerState, Dependency, Failover, Health, InstanceSpec, ServiceConfig, Signal,
};

/// One row a line: table, key, value; the latter two in hexadecimal.
pub(super) const VERSION_1: &str = include_str!("golden-registry-v1.txt");
/// All of them, the newest last.
const VERSIONS: &[&str] = &[VERSION_1];

fn spec(id: &str) -> InstanceSpec {
    InstanceSpec {
        service: "shop".into(),
        id: id.into(),
        addresses: vec![Address { protocol: "http".into(), address: "10.0.0.1:80".into() }],
        zone: "a".into(),
        version: "1.2.3".into(),
        weight_milli: 500,
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        ttl_ms: 5000,
        owner: "me".into(),
        process: String::new(),
    }
}

fn entries() -> Vec<CommandBatch> {
    let at = |stamp_ms, kind: Kind| CommandBatch { stamp_ms, commands: vec![kind.into()] };
    let mut config = ServiceConfig::defaults();
    config.labels = [("team".to_owned(), "red".to_owned())].into();
    config.failover = vec![Failover { service: "backup".into(), zone: String::new() }];
    config.dependencies =
        vec![Dependency { service: "db".into(), requirement: "^1".into(), optional: true }];
    let put =
        PutService { name: "shop".into(), config, request_id: "request-p".into(), if_revision: 0 };
    let mut shorter = PutService { request_id: String::new(), ..put.clone() };
    shorter.config.health.ttl_ms = 5000;
    let notice = |kind: NoticeKind, limit: &str, value| {
        let (about, limit) = ("shop".to_owned(), limit.to_owned());
        Kind::Notice(Notice { about, kind: kind as i32, limit, value })
    };
    let health = HealthChange {
        service: "shop".into(),
        id: "i".into(),
        incarnation: 2,
        signal: Signal::Ttl as i32,
        ok: false,
        reason: "silent".into(),
    };
    let breaker = SetBreaker {
        service: "shop".into(),
        instance: "j".into(),
        to: BreakerState::Open as i32,
        ..SetBreaker::default()
    };
    vec![
        at(1000, Kind::PutService(put)),
        at(
            2000,
            Kind::RegisterInstances(RegisterInstances { instances: vec![spec("i"), spec("j")] }),
        ),
        at(3000, Kind::SetHealth(SetHealth { changes: vec![health] })),
        at(4000, Kind::SetBreaker(breaker)),
        at(5000, Kind::PutService(shorter)),
        at(6000, notice(NoticeKind::BrakeEngaged, "", 2)),
        at(7000, notice(NoticeKind::Ready, "", 0)),
        at(8000, notice(NoticeKind::FailedOver, "backup", 0)),
    ]
}

#[test]
fn the_newest_version_is_written_as_it_always_was() {
    let mut kv = MemKv::default();
    apply(&mut kv, &entries(), 1);
    assert_eq!(rows(&kv), VERSION_1, "the bytes on disk have changed: that takes a new version");
}

#[test]
fn every_version_is_read() {
    for golden in VERSIONS {
        let mut kv = stored(golden);
        let (service, instances) = query::service(&kv, "shop").unwrap().unwrap();
        assert_eq!((service.instances, service.healthy, service.ejected), (2, 1, 1));
        assert_eq!(service.config.dependencies[0].requirement, "^1");
        assert_eq!((service.braked_at_ms, service.ready), (6000, true));
        let over = (service.failed_over_to.as_str(), service.failed_over_at_ms);
        assert_eq!((over, service.grace_until_ms), (("backup", 8000), 20_000));
        let health: Vec<_> = instances.iter().map(|i| (i.health(), i.breaker.state())).collect();
        let wanted =
            [(Health::Critical, BreakerState::Closed), (Health::Passing, BreakerState::Open)];
        assert_eq!(health, wanted);
        assert_eq!(watch::changes(&kv, 0, 99).unwrap().unwrap().changes.len(), 10);
        // And it is gone on from: what is silent goes, and the breaker may be tried.
        let tick = CommandBatch { stamp_ms: 63_000, commands: vec![Kind::Tick(Tick {}).into()] };
        apply(&mut kv, &[tick], 9);
        let (service, instances) = query::service(&kv, "shop").unwrap().unwrap();
        assert_eq!((service.instances, service.ejected), (1, 0));
        assert_eq!(instances[0].breaker.state(), BreakerState::HalfOpen);
    }
}
