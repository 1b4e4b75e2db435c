//! Watching and listing services: what people and programs are shown of what is registered, lost and gone,
//! and how who comes too late begins anew.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use futures_util::stream;
use message_hub::client::{ServiceHandle, Watched};
use message_hub::model::limits::REGISTRY_LOG_MAX;
use message_hub::model::rejection::Reason;
use message_hub::proto::status::{from_call_error, from_status};
use message_hub::proto::v1::services_client::ServicesClient;
use message_hub::proto::v1::{
    Address, InstanceMode, InstanceName, InstanceSpec, ListServicesRequest,
    RegisterInstancesRequest, ResolveRequest, SetInstanceModeRequest, WatchServicesRequest,
    resolve_answer,
};
use serde_json::Value;
use tonic::transport::Channel;

use crate::delivery::client;
use crate::services::{await_ids, spec};
use crate::support::{Cluster, poll};

const SOON: Duration = Duration::from_secs(20);
/// More than what the leader tells by itself of one service.
const MORE: u64 = 64;

/// A `mhub service watch` of its own, and the lines that it prints.
struct Watching {
    process: Child,
    lines: Receiver<Value>,
    told: Vec<Value>,
}

impl Watching {
    fn start(cluster: &Cluster) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_mhub"))
            .args(["service", "watch", "shop", "-o", "jsonl"])
            .env("MHUB_ENDPOINT", cluster.endpoints().join(","))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let printed = BufReader::new(process.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in printed.lines() {
                // The test may be over.
                drop(tell.send(serde_json::from_str(&line.unwrap()).unwrap()));
            }
        });
        Self { process, lines, told: Vec::new() }
    }

    /// The next line about this instance, or about the service that says this; it has to say this. Between
    /// them it is told how the service stands.
    #[track_caller]
    fn tells(&mut self, instance: &str, change: &str) -> Value {
        loop {
            let told = self.lines.recv_timeout(SOON).unwrap();
            assert_eq!(told["service"], "shop");
            self.told.push(told.clone());
            if told["instance"] == instance && (told["change"] == change || !instance.is_empty()) {
                assert_eq!(told["change"], change, "{told}");
                return told;
            }
            assert_eq!(told["instance"], "", "{told}");
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn revision(told: &Value) -> u64 {
    told["revision"].as_str().unwrap().parse().unwrap()
}

/// The words of each line.
fn words(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn a_watch_and_a_list_tell_who_came_who_was_lost_and_who_went() {
    let cluster = Cluster::start(3, &[]);
    let service = |args: &[&str]| cluster.admin(&[&["service"][..], args].concat());
    service(&["register", "shop", "--config", "panic=0%"]).succeeds();
    let mut watching = Watching::start(&cluster);
    watching.tells("", "service");
    let register = |id: &str, ttl: &str| {
        let at = ["--address", "http=10.0.0.1:80", "--ttl", ttl];
        service(&[&["register", "shop", "--instance", id][..], &at].concat()).succeeds();
    };
    register("a", "1s");
    watching.tells("a", "passing");
    // Nobody renews it.
    let lost = watching.tells("a", "critical");
    assert_eq!(lost["after"]["transitions"][1]["to"], "critical");
    let info = service(&["info", "shop"]).stdout();
    let told = info.matches("no renewal for 1000 ms").count();
    assert_eq!(told, 2, "why it is critical, and what became of it: {info}");
    watching.tells("", "down");
    service(&["deregister", "shop", "a"]).succeeds();
    assert_eq!(watching.tells("a", "gone")["after"], Value::Null);
    register("b", "10m");
    watching.tells("b", "passing");
    watching.tells("", "service");
    service(&["drain", "shop", "b", "--force"]).succeeds();
    watching.tells("b", "draining");
    watching.tells("", "down");
    service(&["breaker", "shop", "b", "open"]).succeeds();
    assert_eq!(watching.tells("b", "draining")["breaker"], "forced_open");
    // One after the other, none missing.
    let revisions: Vec<u64> = watching.told.iter().map(revision).collect();
    let all = revisions[0]..revisions[0] + revisions.len() as u64;
    assert_eq!(revisions, all.collect::<Vec<_>>());
    // As tables.
    let wanted = ["shop", "b", "draining", "forced_open"];
    let watch = || service(&["watch", "shop", "--limit", "2"]).stdout();
    let shows_all = || {
        let text = watch();
        let lines = words(&text);
        lines[0] == ["REVISION", "SERVICE", "INSTANCE", "CHANGE", "BREAKER"]
            && lines[1][1..] == ["shop", "down", "closed"]
            && lines[2][1..] == wanted
            && lines[1][0] == lines[2][0]
    };
    assert!(poll(SOON, shows_all), "{}", watch());
    let list = service(&["ls"]).stdout();
    let revision = revisions[0].to_string();
    let head = ["NAME", "HEALTHY", "INSTANCES", "BALANCE", "BREAKER", "REVISION"];
    let row = ["shop", "0", "1", "p2c_ewma", "closed", revision.as_str()];
    assert_eq!(words(&list), [head, row], "{list}");
    let list = service(&["ls", "-o", "json"]).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    let (name, healthy, instances) = (&list[0]["name"], &list[0]["healthy"], &list[0]["instances"]);
    assert_eq!((name, healthy, instances), (&"shop".into(), &"0".into(), &"1".into()));
    assert!(list[0]["down_since"].is_string() && list[0]["revision"] == revision, "{list}");
    cluster.verify();
}

async fn raw(cluster: &Cluster) -> ServicesClient<Channel> {
    let endpoint = format!("http://{}", cluster.nodes[0].endpoint());
    ServicesClient::connect(endpoint).await.unwrap()
}

fn all_after(revision: u64) -> WatchServicesRequest {
    WatchServicesRequest { services: Vec::new(), after_revision: Some(revision) }
}

/// Registers instances, and drains them again and again, until the first changes are not kept any more.
async fn outgrow(cluster: &Cluster) {
    const INSTANCES: u64 = 1024;
    let client = client(cluster);
    let (service, owner) = ("shop".to_owned(), "me".to_owned());
    let names: Vec<InstanceName> = (0..INSTANCES)
        .map(|n| InstanceName {
            service: service.clone(),
            id: format!("i-{n}"),
            owner: owner.clone(),
        })
        .collect();
    let spec = |name: &InstanceName| InstanceSpec {
        service: name.service.clone(),
        id: name.id.clone(),
        addresses: vec![Address { protocol: "http".into(), address: "10.0.0.1:80".into() }],
        owner: name.owner.clone(),
        ttl_ms: 600_000,
        ..InstanceSpec::default()
    };
    let instances = names.iter().map(spec).collect();
    client.register_instances(RegisterInstancesRequest { instances }).await.unwrap();
    for round in 0..REGISTRY_LOG_MAX / INSTANCES {
        let mode = if round % 2 == 0 { InstanceMode::Draining } else { InstanceMode::Up };
        let (instances, mode) = (names.clone(), mode.into());
        let set = SetInstanceModeRequest { instances, mode, ..Default::default() };
        client.set_instance_mode(set).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_before_what_is_kept_is_told_how_to_begin_anew() {
    let cluster = Cluster::start(1, &[]);
    outgrow(&cluster).await;
    let mut services = raw(&cluster).await;
    let listed = services.list_services(ListServicesRequest::default()).await.unwrap();
    let newest = listed.into_inner().revision;
    let oldest = newest - REGISTRY_LOG_MAX;
    for after in [1, oldest - 1] {
        let status = services.watch_services(all_after(after)).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::OutOfRange);
        assert!(status.message().contains("list the services, then watch from"), "{status}");
        let refused = from_status(&status);
        assert_eq!(refused.reason, Reason::WatchCompacted);
        let told: u64 = refused.fact("revision").unwrap().parse().unwrap();
        // How services stand is told when it is looked at, which may be now.
        assert!((newest..newest + MORE).contains(&told), "{told} of {newest}");
    }
    // What is kept is told whole.
    let oldest = oldest + MORE;
    let mut kept = services.watch_services(all_after(oldest)).await.unwrap().into_inner();
    let mut next = oldest + 1;
    while next <= newest {
        for change in kept.message().await.unwrap().unwrap().changes {
            assert_eq!(change.revision, next);
            next += 1;
        }
    }
    // The way that it was told: from the revision of the list, nothing is missing.
    let mut anew = services.watch_services(all_after(newest)).await.unwrap().into_inner();
    cluster.admin(&["service", "register", "store"]).succeeds();
    let mut next = newest + 1;
    'found: loop {
        // The first part may be empty.
        for change in anew.message().await.unwrap().unwrap().changes {
            assert_eq!(change.revision, next);
            next += 1;
            if change.service == "store" {
                break 'found;
            }
        }
    }
    // The client goes that way by itself, and says so.
    let mut watch = client(&cluster).watch_services(vec!["store".to_owned()], Some(1));
    assert_eq!(watch.next().await.unwrap(), Watched::Restarted);
    let Watched::Changes(part) = watch.next().await.unwrap() else { panic!("once more") };
    assert_eq!(part.changes.len(), 1);
    assert!(part.revision >= next - 1, "{} is before {}", part.revision, next - 1);
    let late = ["service", "watch", "store", "--after", "1", "--limit", "1", "-o", "jsonl"];
    let late = cluster.admin(&late);
    assert_eq!(late.json()["service"], "store");
    assert!(late.stderr().contains("changes were missed"), "{}", late.all());
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_of_one_stream_are_answered_in_their_order_and_a_handle_drains_its_instances() {
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    let specs = ["a", "b"].map(|id| spec("shop", id, 60_000)).to_vec();
    let handle = ServiceHandle::register(&client, specs).await.unwrap();
    await_ids(&cluster, "shop", &["a", "b"], SOON).await;
    let ask = |service: &str, count| ResolveRequest {
        service: service.to_owned(),
        count,
        ..ResolveRequest::default()
    };
    let questions = [ask("shop", 9), ask("nobody", 1), ask("shop", 1), ask("shop", 0)];
    let mut answers = client.resolve_stream(stream::iter(questions)).await.unwrap();
    let mut told = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        told.push(match answer.answer.unwrap() {
            resolve_answer::Answer::Found(found) => Ok(found.instances.len()),
            resolve_answer::Answer::Refused(error) => Err(from_call_error(error).reason),
        });
    }
    assert_eq!(told, [Ok(2), Err(Reason::ServiceNotFound), Ok(1), Ok(1)]);
    handle.set_mode(InstanceMode::Draining).await.unwrap();
    await_ids(&cluster, "shop", &[], SOON).await;
    handle.set_mode(InstanceMode::Up).await.unwrap();
    await_ids(&cluster, "shop", &["a", "b"], SOON).await;
    handle.deregister().await.unwrap();
    cluster.verify();
}
