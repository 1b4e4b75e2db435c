//! What random commands to the registry consist of.

use super::random::Dice;
use crate::model::command::InstanceName;
use crate::model::registry::{
    Address, BreakerState, CheckKind, Dependency, InstanceSpec, ServiceConfig,
};

pub(super) const SERVICES: [&str; 5] = ["a", "b", "c", "d", "e"];
const IDS: [&str; 4] = ["i", "j", "k", "l"];
const OWNERS: [&str; 2] = ["me", "you"];

pub(super) fn config(dice: &mut Dice) -> ServiceConfig {
    let mut config = ServiceConfig::defaults();
    for service in SERVICES {
        if dice.below(4) == 0 {
            let (service, optional) = (service.to_owned(), dice.below(2) == 0);
            config.dependencies.push(Dependency { service, requirement: String::new(), optional });
        }
    }
    config.health.deregister_after_ms = dice.below(3) * 20_000;
    config.breaker.ejected_percent = 50;
    config.breaker.disabled = dice.below(3) == 0;
    if dice.below(2) == 0 {
        config.health.check.kind = CheckKind::Tcp as i32;
    }
    config
}

pub(super) fn name(dice: &mut Dice, restless: bool) -> InstanceName {
    let (services, ids) = if restless { (1, 2) } else { (5, 4) };
    InstanceName {
        service: SERVICES[dice.below(services) as usize].to_owned(),
        id: IDS[dice.below(ids) as usize].to_owned(),
        owner: OWNERS[dice.below(8) as usize / 7].to_owned(),
    }
}

pub(super) fn spec(dice: &mut Dice, restless: bool) -> InstanceSpec {
    let InstanceName { service, id, owner } = name(dice, restless);
    let address = Address { protocol: "http".into(), address: "10.0.0.1:80".into() };
    let (addresses, weight_milli) = (vec![address], 1000);
    let (process, default) =
        (["", "p", "q"][dice.below(3) as usize].into(), InstanceSpec::default());
    InstanceSpec { service, id, owner, process, addresses, weight_milli, ..default }
}

pub(super) fn breaker_state(dice: &mut Dice) -> BreakerState {
    BreakerState::try_from(dice.below(5) as i32).unwrap()
}

/// Where a breaker goes that was open for long enough.
pub(super) fn after_open(config: &ServiceConfig) -> BreakerState {
    if config.breaker.disabled { BreakerState::Closed } else { BreakerState::HalfOpen }
}
