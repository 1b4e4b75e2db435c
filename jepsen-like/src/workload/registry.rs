//! W6: services whose settings are changed at an expected revision, and instances that renew. Now and
//! then an instance is late, but less than its renewals last; at the end two fall silent for good. So do all of a
//! service that has a failover list, and others take their place a while later.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use message_hub::client::{Client, Watched};
use message_hub::model::rejection::{Reason, Rejection};
use message_hub::proto::v1::{
    Address, Failover, GetServiceRequest, InstanceHealth, InstanceSpec, PutServiceRequest,
    RegisterInstancesRequest, RenewRequest, Renewal, ResolveRequest, Service, ServiceConfig,
    WatchServicesResponse, instance_result,
};
use tokio::task::JoinSet;

use super::{Shared, WORKERS, pace};
use crate::history::{Answer, Line, Op};

/// The service of the instances.
const FLEET: &str = "fleet";
/// The service that falls over to the fleet: so few are its instances that the hub believes it when all fall silent.
const PAIR: &str = "pair";
/// Services whose settings change.
const KEYS: u64 = 4;
/// Of so many operations one is a read.
const READS_ONE_OF: u8 = 3;
/// Instances of the fleet, from 0.
pub const INSTANCES: u64 = 12;
/// Instances of the pair that fall silent at the end.
pub const PAIR_FIRST: Range<u64> = INSTANCES..INSTANCES + 2;
/// Instances of the pair that register once those were given up.
pub const PAIR_SECOND: Range<u64> = INSTANCES + 2..INSTANCES + 4;
/// How long the pair has to be back until it is called again.
pub const FAILOVER_HOLD: Duration = Duration::from_secs(4);
/// Of these, so many fall silent at the end: few enough for the hub to believe it.
const MORTALS: u64 = 2;
/// How long a renewal lasts.
pub const TTL: Duration = Duration::from_secs(4);
/// How much later than usual an instance may be.
const LATE: Duration = Duration::from_millis(1500);
/// Of so many renewals one is late.
const LATE_ONE_OF: u8 = 8;
/// The hub looks, decides and tells within so much after the time of a renewal.
pub const DECIDES_WITHIN: Duration = Duration::from_secs(3);
/// All nodes hear of it within this.
pub const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// So long the last state is looked at.
const LOOKS_FOR: Duration = Duration::from_secs(2);
/// A pause between resolving.
const RESOLVE_EVERY: Duration = Duration::from_millis(200);
/// The label that carries the value.
const LABEL: &str = "value";

/// What the clients of a run know together.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// What is believed of the revisions of services.
    revisions: Mutex<BTreeMap<u64, u64>>,
    /// The place of the pair's first instances may be taken.
    is_free: AtomicBool,
}

impl Board {
    fn revision(&self, key: u64) -> u64 {
        self.revisions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .copied()
            .unwrap_or(0)
    }

    fn saw(&self, key: u64, revision: u64) {
        let mut known = self.revisions.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(key).or_default();
        *entry = revision.max(*entry);
    }
}

fn name(key: u64) -> String {
    format!("service-{key}")
}

pub(super) async fn start(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let client = shared.client()?;
    let process = shared.next_process();
    for key in 0..KEYS {
        // Before it is there, no revision can be expected.
        let value = shared.next_value();
        let op = Op::Append { key, expect: 0, value };
        let (_, answer) = shared.record(process, op, put(&client, key, 0, value)).await;
        let Some(Answer::Placed { version, .. }) = answer else {
            anyhow::bail!("{} cannot be registered", name(key));
        };
        shared.services.saw(key, version);
    }
    put_pair(&client).await.context("register the pair")?;
    for label in 1..=WORKERS {
        let readers: anyhow::Result<Vec<Client>> =
            (1..=shared.nodes).map(|slot| shared.pinned(slot)).collect();
        tasks.spawn(worker(Arc::clone(shared), shared.client()?, readers?, label));
    }
    for instance in 0..PAIR_SECOND.end {
        tasks.spawn(renewer(Arc::clone(shared), shared.client()?, instance));
    }
    for slot in 1..=shared.nodes {
        for (service, op) in
            [(FLEET, Op::Resolve { node: slot }), (PAIR, Op::ResolvePair { node: slot })]
        {
            tasks.spawn(caller(Arc::clone(shared), shared.pinned(slot)?, service, op));
        }
    }
    tasks.spawn(watcher(Arc::clone(shared), shared.client()?));
    Ok(())
}

/// Changes settings, and reads them.
async fn worker(shared: Arc<Shared>, client: Client, readers: Vec<Client>, label: u64) {
    let mut rng = shared.rng(label);
    let mut process = shared.next_process();
    while shared.goes_on() {
        pace(&shared, WORKERS, &mut rng).await;
        let key = rng.u64(..KEYS);
        let (known, answer) = if rng.u8(..READS_ONE_OF) == 0 {
            let slot = rng.u8(1..=shared.nodes);
            let op = Op::ReadKey { key, node: slot };
            shared.record(process, op, get(&readers[usize::from(slot) - 1], key)).await
        } else {
            let (value, expect) = (shared.next_value(), shared.services.revision(key));
            let op = Op::Append { key, expect, value };
            shared.record(process, op, put(&client, key, expect, value)).await
        };
        if let Some(
            Answer::Placed { version, .. }
            | Answer::Conflict { actual: version }
            | Answer::Head { version, .. },
        ) = answer
        {
            shared.services.saw(key, version);
        }
        if !known {
            process = shared.next_process();
        }
    }
}

async fn put(client: &Client, key: u64, expect: u64, value: u64) -> Result<Answer, Rejection> {
    let labels = [(LABEL.to_owned(), value.to_string())].into();
    let request = PutServiceRequest {
        name: name(key),
        config: Some(ServiceConfig { labels, ..ServiceConfig::default() }),
        if_revision: expect,
        ..PutServiceRequest::default()
    };
    match client.put_service(request).await {
        Ok(service) => Ok(Answer::Placed { offset: 0, position: 0, version: service.revision }),
        Err(refused) if refused.reason == Reason::RevisionMismatch => {
            let actual = refused.fact("revision").and_then(|text| text.parse().ok());
            actual.map(|actual| Answer::Conflict { actual }).ok_or(refused)
        }
        Err(refused) => Err(refused),
    }
}

/// When nobody of the pair is there the fleet is called, and nobody who does not answer.
async fn put_pair(client: &Client) -> Result<(), Rejection> {
    let config = ServiceConfig {
        failover: vec![Failover { service: FLEET.to_owned(), ..Failover::default() }],
        failover_hold_ms: Some(millis(FAILOVER_HOLD)),
        panic_percent: Some(0),
        ..ServiceConfig::default()
    };
    let (name, config) = (PAIR.to_owned(), Some(config));
    let request = PutServiceRequest { name, config, ..PutServiceRequest::default() };
    client.put_service(request).await.map(drop)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn get(client: &Client, key: u64) -> Result<Answer, Rejection> {
    let request = GetServiceRequest { name: name(key), ..GetServiceRequest::default() };
    let service = client.service(request).await?.service.unwrap_or_default();
    Ok(Answer::Head { version: service.revision, value: value_of(&service) })
}

fn value_of(service: &Service) -> u64 {
    let value = service.config.as_ref().and_then(|config| config.labels.get(LABEL));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn id(instance: u64) -> String {
    format!("i-{instance}")
}

fn number(id: &str) -> Option<u64> {
    id.strip_prefix("i-")?.parse().ok()
}

fn service_of(instance: u64) -> &'static str {
    if instance < INSTANCES { FLEET } else { PAIR }
}

/// Whether an instance goes on.
fn lives(shared: &Shared, instance: u64) -> bool {
    let is_mortal = instance < MORTALS || PAIR_FIRST.contains(&instance);
    if is_mortal { shared.publishes() } else { shared.goes_on() }
}

/// Keeps one instance registered.
async fn renewer(shared: Arc<Shared>, client: Client, instance: u64) {
    while PAIR_SECOND.contains(&instance) && !shared.services.is_free.load(Ordering::Acquire) {
        if !shared.goes_on() {
            return;
        }
        shared.breathe().await;
    }
    let mut rng = shared.rng(1000 + instance);
    let mut process = shared.next_process();
    let mut incarnation = None;
    while lives(&shared, instance) {
        let (known, answer) = match incarnation {
            None => {
                let op = Op::Register { instance };
                shared.record(process, op, register(&client, instance)).await
            }
            Some(incarnation) => {
                let op = Op::Renew { instance, incarnation };
                shared.record(process, op, renew(&client, instance, incarnation)).await
            }
        };
        match answer {
            Some(Answer::Registered { incarnation: new }) => incarnation = Some(new),
            Some(Answer::Renewed { lost: true }) => {
                incarnation = None;
                continue;
            }
            _ => {}
        }
        if !known {
            process = shared.next_process();
        }
        if answer.is_none() {
            shared.breathe().await;
            continue;
        }
        let usual = TTL / 3 * rng.u32(80..=120) / 100;
        let late = if rng.u8(..LATE_ONE_OF) == 0 { LATE } else { Duration::ZERO };
        tokio::time::sleep(usual + late).await;
    }
}

async fn register(client: &Client, instance: u64) -> Result<Answer, Rejection> {
    let address = Address { protocol: "tcp".into(), address: "192.0.2.1:80".into() };
    let spec = InstanceSpec {
        service: service_of(instance).to_owned(),
        id: id(instance),
        addresses: vec![address],
        ttl_ms: millis(TTL),
        owner: "chaos".to_owned(),
        ..InstanceSpec::default()
    };
    let request = RegisterInstancesRequest { instances: vec![spec] };
    let answer = client.register_instances(request).await?;
    match answer.results.into_iter().next().and_then(|result| result.result) {
        Some(instance_result::Result::Instance(instance)) => {
            Ok(Answer::Registered { incarnation: instance.incarnation })
        }
        refused => Err(Rejection::new(Reason::Internal, format!("not registered: {refused:?}"))),
    }
}

async fn renew(client: &Client, instance: u64, incarnation: u64) -> Result<Answer, Rejection> {
    let (service, id) = (service_of(instance).to_owned(), id(instance));
    let renewal = Renewal { service, id, incarnation };
    let answer = client.renew(RenewRequest { renewals: vec![renewal] }).await?;
    Ok(Answer::Renewed { lost: !answer.lost.is_empty() })
}

/// Asks one node whom to call.
async fn caller(shared: Arc<Shared>, client: Client, service: &'static str, op: Op) {
    let mut process = shared.next_process();
    while shared.goes_on() {
        tokio::time::sleep(RESOLVE_EVERY).await;
        let request =
            ResolveRequest { service: service.to_owned(), count: 100, ..ResolveRequest::default() };
        let asked = async {
            match client.resolve(request).await {
                Ok(found) => {
                    let ids = found.instances.iter().filter_map(|i| i.spec.as_ref());
                    let instances = ids.filter_map(|spec| number(&spec.id)).collect();
                    Ok(Answer::Resolved { instances, stale: found.stale || found.panic })
                }
                // Nobody is an answer as well.
                Err(rejection)
                    if matches!(rejection.reason, Reason::NoInstance | Reason::ServiceNotFound) =>
                {
                    Ok(Answer::Resolved { instances: Vec::new(), stale: false })
                }
                Err(rejection) => Err(rejection),
            }
        };
        let (known, _) = shared.record(process, op.clone(), asked).await;
        if !known {
            process = shared.next_process();
        }
    }
}

/// Writes down what the hub says of the health of instances.
async fn watcher(shared: Arc<Shared>, client: Client) {
    let mut watch = client.watch_services([FLEET, PAIR].map(str::to_owned).to_vec(), None);
    while shared.goes_on() {
        let heard = tokio::time::timeout(RESOLVE_EVERY, watch.next()).await;
        // What fails is tried again.
        let Ok(Ok(Watched::Changes(part))) = heard else { continue };
        for (instance, incarnation, passing) in healths(&part) {
            shared.recorder.tell(|at_us| Line::Health { at_us, instance, incarnation, passing });
        }
    }
}

fn healths(part: &WatchServicesResponse) -> impl Iterator<Item = (u64, u64, bool)> {
    let after = part.changes.iter().filter_map(|change| change.instance_after.as_ref());
    after.filter_map(|instance| {
        let number = number(&instance.spec.as_ref()?.id)?;
        let passing = instance.health() == InstanceHealth::Passing;
        Some((number, instance.incarnation, passing))
    })
}

/// The time in which those who fell silent have to be given up; then others take the place of the pair, and the time
/// in which they have to be called.
pub(super) async fn finish(shared: &Shared) {
    tokio::time::sleep(TTL + DECIDES_WITHIN + HEARD_WITHIN + LOOKS_FOR).await;
    shared.services.is_free.store(true, Ordering::Release);
    tokio::time::sleep(FAILOVER_HOLD + DECIDES_WITHIN + HEARD_WITHIN + LOOKS_FOR).await;
}

/// Writes down all settings that services ever had, as the registry's log of changes has them.
pub(super) async fn read_back(shared: &Shared) -> anyhow::Result<()> {
    let client = shared.client()?;
    let end = client.service(GetServiceRequest { name: name(0), ..Default::default() }).await?;
    let mut watch = client.watch_services((0..KEYS).map(name).collect(), Some(0));
    let mut held: BTreeMap<u64, (Vec<u64>, Vec<u64>)> = BTreeMap::new();
    loop {
        let part = match watch.next().await.context("read what changed")? {
            Watched::Changes(part) => part,
            Watched::Restarted => anyhow::bail!("the registry's log does not reach back"),
        };
        for change in &part.changes {
            let Some(service) = &change.service_after else { continue };
            let key = service.name.strip_prefix("service-").and_then(|key| key.parse().ok());
            let (versions, values) = held.entry(key.context("a service of ours")?).or_default();
            versions.push(service.revision);
            values.push(value_of(service));
        }
        if part.revision >= end.revision {
            break;
        }
    }
    for (key, (versions, values)) in held {
        shared.recorder.tell(|_| Line::Key { key, values, versions });
    }
    Ok(())
}
