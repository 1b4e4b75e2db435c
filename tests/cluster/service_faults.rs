//! The registry when nodes are cut off, fall behind, or are asked for too much.

use std::time::{Duration, Instant};

use message_hub::client::{
    Client, ClientOptions, Resolver, ResolverOptions, ServiceHandle, ServiceNews, ServiceWatch,
    Watched,
};
use message_hub::model::limits::PAGE_BYTES_TARGET;
use message_hub::model::rejection::Reason;
use message_hub::proto::v1::services_client::ServicesClient;
use message_hub::proto::v1::{
    Address, GetServiceRequest, InstanceMode, InstanceName, InstanceSpec, RegisterInstancesRequest,
    RenewRequest, Renewal, ResolveRequest, SetInstanceModeRequest, WatchServicesResponse,
    instance_result,
};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::delivery::client;
use crate::support::{Cluster, poll};

fn spec(id: &str, ttl_ms: u64) -> InstanceSpec {
    InstanceSpec {
        service: "shop".to_owned(),
        id: id.to_owned(),
        addresses: vec![Address { protocol: "http".into(), address: "10.0.0.1:80".into() }],
        ttl_ms,
        owner: "me".to_owned(),
        ..InstanceSpec::default()
    }
}

fn pinned(cluster: &Cluster, index: usize) -> Client {
    let options = ClientOptions { pinned: true, ..ClientOptions::default() };
    Client::with_options([cluster.nodes[index].endpoint()], options).unwrap()
}

/// The first that a node tells who begins to watch; it comes at once.
async fn begin_to_watch(client: &Client, after: Option<u64>) -> WatchServicesResponse {
    let mut watch = client.watch_services(vec!["shop".to_owned()], after);
    let told = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    let Watched::Changes(part) = told.unwrap() else { panic!("begun anew") };
    part
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_says_so_and_forgets_nobody() {
    let mut cluster = Cluster::start(3, &[]);
    let names = ["a".to_owned(), "b".to_owned()];
    let specs = names.iter().map(|id| spec(id, 2000)).collect();
    let _handle = ServiceHandle::register(&client(&cluster), specs).await.unwrap();
    let left = pinned(&cluster, 0);
    let mut watch = left.watch_services(vec!["shop".to_owned()], None);
    let mut known = std::collections::BTreeSet::new();
    let mut hear = async |stale: bool| loop {
        let Watched::Changes(part) = watch.next().await.unwrap() else { panic!("begun anew") };
        for change in part.changes.iter().filter(|change| !change.instance.is_empty()) {
            assert!(change.instance_after.is_some(), "{} is gone", change.instance);
            known.insert(change.instance.clone());
        }
        if part.stale == stale && known.len() == names.len() {
            return;
        }
    };
    hear(false).await;
    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    hear(true).await;
    // Nobody renews any more, and nobody decides: it goes on naming whom it knows, and says so.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let request = ResolveRequest { service: "shop".into(), count: 9, ..Default::default() };
        let found = left.resolve(request).await.unwrap();
        assert_eq!((found.instances.len(), found.stale), (2, true));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Who begins to watch it now is told at once that what is there may be old.
    let begin = begin_to_watch(&left, None).await;
    let named = begin.changes.iter().filter(|change| change.instance_after.is_some()).count();
    assert_eq!((begin.stale, named), (true, 2));
    let goes_on = begin_to_watch(&left, Some(begin.revision)).await;
    assert_eq!((goes_on.stale, goes_on.revision), (true, begin.revision));
    let watch = ["service", "watch", "shop", "--limit", "3", "-o", "jsonl"];
    let told = cluster.mhub(0, &watch);
    assert_eq!(told.succeeds().stdout().lines().count(), 3, "{}", told.all());
    assert!(told.stderr().contains("this may be old"), "{}", told.all());
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    hear(false).await;
    cluster.await_serving();
    for after in [None, Some(begin.revision)] {
        assert!(!begin_to_watch(&left, after).await.stale);
    }
    // A node that starts anew and hears of nobody, too, whatever it knows by then.
    cluster.nodes.iter_mut().for_each(crate::support::Node::kill);
    cluster.nodes[0].start();
    cluster.await_answering(0);
    assert!(begin_to_watch(&left, None).await.stale);
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.await_serving();
    cluster.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_beyond_a_quota_are_refused_one_by_one() {
    let cluster = Cluster::start(1, &[]);
    let client = client(&cluster);
    cluster.admin(&["quota", "set", "shop", "--instances", "5"]).succeeds();
    let (mut registered, mut refused) = (0, 0);
    for call in 0..20 {
        let instances = (0..50).map(|n| spec(&format!("i-{call}-{n}"), 60_000)).collect();
        let answer =
            client.register_instances(RegisterInstancesRequest { instances }).await.unwrap();
        for result in answer.results {
            match result.result.unwrap() {
                instance_result::Result::Instance(_) => registered += 1,
                instance_result::Result::Refused(error) => {
                    assert_eq!(error.reason, "QUOTA_EXCEEDED", "{error:?}");
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((registered, refused), (5, 995));
    let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
    assert_eq!(info["healthy"], "5");
    // Too many in one call are refused as a whole.
    let instances = vec![spec("x", 60_000); 1025];
    let all = client.register_instances(RegisterInstancesRequest { instances }).await;
    assert_eq!(all.unwrap_err().reason, Reason::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_refused_costs_the_others_of_its_handle_nothing() {
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    let specs = ["a", "b"].map(|id| spec(id, 1000)).to_vec();
    let mut handle = ServiceHandle::register(&client, specs).await.unwrap();
    let before = handle.instances()[1].incarnation;
    // Somebody else takes the id of one, unless the handle was faster.
    loop {
        cluster.admin(&["service", "deregister", "shop", "a", "--force"]).succeeds();
        let other = InstanceSpec { owner: "other".to_owned(), ..spec("a", 60_000) };
        let request = RegisterInstancesRequest { instances: vec![other] };
        let answer = client.register_instances(request).await.unwrap();
        let result = answer.results[0].result.clone().unwrap();
        if matches!(result, instance_result::Result::Instance(_)) {
            break;
        }
    }
    let refused = loop {
        if let ServiceNews::Refused(rejection) = handle.news().await.unwrap() {
            break rejection;
        }
    };
    assert_eq!(refused.reason, Reason::InstanceOwned);
    assert_eq!((refused.fact("service"), refused.fact("instance")), (Some("shop"), Some("a")));
    let info = || cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
    assert!(!poll(Duration::from_secs(5), || info()["healthy"] != "2"), "{}", info());
    assert_eq!(handle.instances()[1].incarnation, before, "it was not registered again");
    // What is deregistered does not come back; what is somebody else's stays.
    handle.deregister().await.unwrap();
    assert!(!poll(Duration::from_secs(2), || info()["healthy"] != "1"), "{}", info());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_does_not_wait_for_those_who_renew() {
    let mut cluster = Cluster::start(3, &[]);
    let handle = ServiceHandle::register(&client(&cluster), vec![spec("a", 60_000)]).await.unwrap();
    let incarnation = handle.instances()[0].incarnation;
    let renewal = Renewal { service: "shop".into(), id: "a".into(), incarnation };
    let (renew, renewals) = tokio::sync::mpsc::channel(1);
    renew.send(RenewRequest { renewals: vec![renewal] }).await.unwrap();
    let leader = cluster.leader();
    let endpoint = format!("http://{}", cluster.nodes[leader].endpoint());
    let mut services = ServicesClient::connect(endpoint).await.unwrap();
    let answers = services.renew_stream(ReceiverStream::new(renewals)).await;
    let mut answers = answers.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.lost, answer.ttls_ms), (vec![], vec![60_000]));
    // The stream stays open, with nothing under way: calls that are get five seconds to end.
    let began = Instant::now();
    cluster.nodes[leader].stop();
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(answers.message().await.unwrap().is_none(), "it ended in good order");
}

/// How many changes of instances a watch tells until there are so many, and the bytes of its longest part.
async fn follow(mut watch: ServiceWatch, wanted: usize) -> (usize, usize) {
    let (mut told, mut longest) = (0, 0);
    while told < wanted {
        let next = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.unwrap();
        let Watched::Changes(part) = next.unwrap() else { panic!("begun anew") };
        longest = longest.max(part.encoded_len());
        told += part.changes.iter().filter(|change| change.instance_after.is_some()).count();
    }
    (told, longest)
}

/// Registers instances of which each says 20 KiB.
async fn register_large(client: &Client, ids: &[String]) {
    let metadata: std::collections::HashMap<String, String> =
        (0..64).map(|n| (format!("{n:060}"), "x".repeat(256))).collect();
    // As many as one call takes.
    for some in ids.chunks(150) {
        let large = |id: &String| InstanceSpec { metadata: metadata.clone(), ..spec(id, 600_000) };
        let instances = some.iter().map(large).collect();
        client.register_instances(RegisterInstancesRequest { instances }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_that_say_more_than_one_message_takes_are_told_in_parts() {
    const PART_MAX: usize = PAGE_BYTES_TARGET * 5 / 4;
    let cluster = Cluster::start(1, &[]);
    let client = client(&cluster);
    let shop = || vec!["shop".to_owned()];
    let mut live = client.watch_services(shop(), None);
    assert!(
        matches!(live.next().await.unwrap(), Watched::Changes(part) if part.changes.is_empty())
    );
    let live = tokio::spawn(follow(live, 600));
    let ids: Vec<_> = (0..300).map(|n| format!("i-{n:03}")).collect();
    register_large(&client, &ids).await;
    // Whom to call: as many as fit.
    let request = ResolveRequest { service: "shop".into(), count: 300, ..Default::default() };
    let found = client.resolve(request).await.unwrap().instances.len();
    assert!((100..300).contains(&found), "{found}");
    let resolver = Resolver::new(&client, "shop", ResolverOptions::default()).await.unwrap();
    assert!((100..300).contains(&resolver.instances().len()), "{}", resolver.instances().len());
    resolver.pick("").unwrap().done(true);
    // All of them in one call: what the first say is in its answer.
    let name = |id: &String| InstanceName {
        service: "shop".to_owned(),
        id: id.clone(),
        owner: "me".to_owned(),
    };
    let (instances, mode) = (ids.iter().map(name).collect(), InstanceMode::Draining.into());
    let set = SetInstanceModeRequest { instances, mode, ..Default::default() };
    let set = client.set_instance_mode(set).await.unwrap();
    assert!(set.encoded_len() < PART_MAX, "{} bytes", set.encoded_len());
    let said = set.results.into_iter().map(|result| {
        let Some(instance_result::Result::Instance(one)) = result.result else { panic!("refused") };
        assert_eq!(one.mode(), InstanceMode::Draining);
        one.spec.unwrap().metadata.len()
    });
    let said: Vec<_> = said.collect();
    assert_eq!((said.len(), said[0], said[299]), (300, 64, 0));
    // Who watches hears each change, as it comes, from the log, and what is there.
    let from_the_log = client.watch_services(shop(), Some(0));
    for (told, longest) in [
        live.await.unwrap(),
        follow(from_the_log, 600).await,
        follow(client.watch_services(shop(), None), 300).await,
    ] {
        assert!(longest < PART_MAX, "{longest} bytes of {told} changes");
    }
    // Page by page, by whatever asks for all.
    let request =
        |page_size| GetServiceRequest { name: "shop".into(), page_size, ..Default::default() };
    let page = client.service_page(request(0)).await.unwrap();
    assert!(page.encoded_len() < PART_MAX, "{} bytes", page.encoded_len());
    let page = client.service_page(request(7)).await.unwrap();
    assert_eq!((page.instances.len(), page.next_page_token.as_str()), (7, "i-006"));
    let whole = client.service(request(0)).await.unwrap();
    let told: Vec<_> = whole.instances.into_iter().map(|one| one.spec.unwrap().id).collect();
    assert_eq!((told, whole.next_page_token.as_str()), (ids, ""));
    let info = cluster.admin(&["service", "info", "shop", "-o", "json"]).json();
    assert_eq!(info["instances"].as_array().unwrap().len(), 300);
    cluster.verify();
}

/// Streams that one client opens at once.
const STREAMS: usize = 250;

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_watchers_hear_of_a_change() {
    const WATCHERS: usize = 10_000;
    let cluster = Cluster::start(3, &[]);
    let client = client(&cluster);
    let handle = ServiceHandle::register(&client, vec![spec("a", 60_000)]).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let mut watching = tokio::task::JoinSet::new();
    for n in 0..WATCHERS / STREAMS {
        let client = pinned(&cluster, n % 3);
        for _ in 0..STREAMS {
            let (client, tell) = (client.clone(), tell.clone());
            watching.spawn(async move {
                let mut watch = client.watch_services(vec!["shop".to_owned()], None);
                loop {
                    let Ok(Watched::Changes(part)) = watch.next().await else { continue };
                    for change in part.changes {
                        let what = change.instance
                            + if change.instance_after.is_some() { "+" } else { "-" };
                        drop(tell.send(what));
                    }
                }
            });
        }
    }
    let mut hear = async |what: &str| {
        let began = Instant::now();
        let mut heard = 0;
        while heard < WATCHERS {
            let all = tokio::time::timeout(Duration::from_secs(60), told.recv()).await;
            heard += usize::from(all.unwrap().unwrap() == what);
        }
        began.elapsed()
    };
    println!("all watch after {:?}", hear("a+").await);
    handle.deregister().await.unwrap();
    println!("all heard after {:?}", hear("a-").await);
    for index in 0..3 {
        let status = cluster.status(index);
        let resident: u64 = status["resident_bytes"].as_str().unwrap().parse().unwrap();
        println!("node {} uses {} MiB", index + 1, resident >> 20);
        assert!(resident < 600 << 20, "{resident} bytes");
    }
    watching.shutdown().await;
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_not_caught_up_says_so_to_who_watches_and_denies_no_service() {
    use message_hub::proto::v1::ListServicesRequest;
    let mut cluster = Cluster::start(3, &[]);
    let instances = vec![spec("a", 600_000)];
    client(&cluster).register_instances(RegisterInstancesRequest { instances }).await.unwrap();
    let behind = cluster.nodes.len() - 1;
    cluster.nodes[behind].kill();
    // It does not read what it has before it is told to go on.
    let go = cluster.nodes[behind].data_dir().with_file_name("go");
    let hold = format!("registry::news={}", go.display());
    cluster.nodes[behind].set("MHUB_TEST_HOLD_AT", hold);
    cluster.nodes[behind].start();
    cluster.await_answering(behind);
    let left = pinned(&cluster, behind);
    // It hears of the leader.
    let listed = left.services(ListServicesRequest::default()).await.unwrap();
    assert_eq!(listed.services.len(), 1);
    // By a client that does not ask again.
    let endpoint = format!("http://{}", cluster.nodes[behind].endpoint());
    let mut services = ServicesClient::connect(endpoint).await.unwrap();
    let request = ResolveRequest { service: "shop".into(), count: 1, ..Default::default() };
    let unknown = services.resolve(request.clone()).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::Unavailable, "{unknown:?}");
    assert!(unknown.message().contains("has not caught up"), "{unknown:?}");
    // Any other node knows.
    let all = [behind, 0].map(|index| cluster.nodes[index].endpoint());
    let found = Client::new(all).unwrap().resolve(request.clone()).await.unwrap();
    assert_eq!(found.instances.len(), 1);
    let (mut watch, mut named) = (left.watch_services(vec!["shop".to_owned()], None), 0);
    let mut hear = async || {
        let Watched::Changes(part) = watch.next().await.unwrap() else { panic!("begun anew") };
        named += part.changes.iter().filter(|change| change.instance_after.is_some()).count();
        (part.stale, named)
    };
    assert_eq!(hear().await, (true, 0));
    std::fs::write(&go, "").unwrap();
    let named = loop {
        if let (false, named) = hear().await {
            break named;
        }
    };
    assert_eq!(named, 1, "what is told as up to date has everybody");
    assert!(!left.resolve(request).await.unwrap().stale);
    cluster.verify();
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_a_node_that_cannot_tell_whether_it_has_caught_up_hears_of_changes_at_once() {
    let mut cluster = Cluster::start(3, &[]);
    let behind = cluster.nodes.len() - 1;
    cluster.nodes[behind].kill();
    cluster.nodes[behind].set("FAILPOINTS", "registry::newest=return");
    cluster.nodes[behind].start();
    cluster.await_answering(behind);
    let mut watch = pinned(&cluster, behind).watch_services(vec!["shop".to_owned()], None);
    let mut hear = async || {
        let Watched::Changes(part) = watch.next().await.unwrap() else { panic!("begun anew") };
        assert!(part.stale);
        part.changes.into_iter().map(|change| change.instance).collect::<Vec<_>>()
    };
    assert!(hear().await.is_empty());
    let (client, began) = (client(&cluster), Instant::now());
    for n in 0..5 {
        let id = format!("i-{n}");
        let instances = vec![spec(&id, 600_000)];
        client.register_instances(RegisterInstancesRequest { instances }).await.unwrap();
        while !hear().await.contains(&id) {}
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    cluster.verify();
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_to_read_everything_anew_knows_it_all() {
    let mut cluster = Cluster::start(3, &[]);
    // Whenever it hears of a change it reads the whole registry.
    let behind = cluster.nodes.len() - 1;
    cluster.nodes[behind].kill();
    cluster.nodes[behind].set("FAILPOINTS", "registry::whole=return");
    cluster.nodes[behind].start();
    cluster.await_answering(behind);
    let specs = (0..30).map(|n| spec(&format!("i-{n}"), 3000)).collect();
    let handle = ServiceHandle::register(&client(&cluster), specs).await.unwrap();
    let known = |index: usize| {
        let args = ["service", "resolve", "shop", "--count", "99", "-o", "jsonl"];
        cluster.mhub(index, &args).stdout().lines().count()
    };
    assert!(poll(Duration::from_secs(10), || known(behind) == 30), "{}", known(behind));
    // Also as the leader: those that renew are kept, those that fall silent are given up.
    let id = cluster.nodes[behind].id.to_string();
    cluster.admin(&["cluster", "transfer-leader", &id]).succeeds();
    assert!(poll(Duration::from_secs(10), || cluster.leader() == behind));
    assert!(!poll(Duration::from_secs(5), || known(behind) < 30), "{}", known(behind));
    let mortal = ServiceHandle::register(&client(&cluster), vec![spec("mortal", 1000)]).await;
    std::mem::forget(mortal.unwrap());
    drop(handle);
    assert!(poll(Duration::from_secs(20), || known(behind) <= 1), "{}", known(behind));
    cluster.verify();
}
