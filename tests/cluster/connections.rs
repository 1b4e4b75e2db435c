//! Connections that misbehave: memory stays bounded and the node serves on.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use message_hub::proto::v1::PublishCall;
use message_hub::proto::v1::events_client::EventsClient;
use prost::Message as _;
use tokio_stream::StreamExt as _;

use crate::bad_input::event;
use crate::support::{Cluster, SERVING_WITHIN, poll};

fn resident(cluster: &Cluster) -> u64 {
    cluster.number(0, "resident_bytes")
}

#[test]
fn garbage_and_half_open_connections_do_not_hurt() {
    let cluster = Cluster::start(1, &[]);
    let node = &cluster.nodes[0];
    for port in [node.client_port, node.peer_port] {
        let mut half_open = Vec::new();
        for n in 0..50_u8 {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            if n % 2 == 0 {
                let garbage: Vec<u8> =
                    (0..4096_u32).map(|i| (i * 31 + u32::from(n)).to_le_bytes()[0]).collect();
                // The node may close while we write; that is its right.
                let _ = stream.write_all(&garbage);
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let _ = stream.read(&mut [0; 1024]);
            } else {
                half_open.push(stream);
            }
        }
        cluster.await_serving();
    }
}

#[test]
fn too_many_connections_are_refused_not_fatal() {
    const FLOOD: usize = 10_000;
    let allowed = rlimit::increase_nofile_limit(u64::MAX).unwrap();
    let allowed = usize::try_from(allowed).unwrap_or(usize::MAX).saturating_sub(100);
    let cluster = Cluster::start(1, &[]);
    let port = cluster.nodes[0].client_port;
    let mut flood = Vec::new();
    while flood.len() < FLOOD.min(allowed) {
        flood.push(TcpStream::connect(("127.0.0.1", port)).unwrap());
    }
    assert!(flood.len() == FLOOD, "this system allows {allowed} descriptors: raise its limit");
    drop(flood);
    cluster.await_serving();
    let metrics = poll(SERVING_WITHIN, || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let refused = text.lines().find_map(|l| l.strip_prefix("mhub_connections_refused_total "));
        refused.is_some_and(|n| n.parse::<u64>().unwrap_or(0) > 0)
    });
    assert!(metrics, "no refusal was counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_never_reads_its_answers_costs_bounded_memory() {
    let cluster = Cluster::start(1, &[]);
    cluster.mhub(0, &["topic", "create", "orders"]).succeeds();
    let before = resident(&cluster);
    let endpoint = format!("http://{}", cluster.nodes[0].endpoint());
    let mut client = EventsClient::connect(endpoint).await.unwrap();
    let (sender, calls) = tokio::sync::mpsc::channel(16);
    let answers = client.publish_stream(tokio_stream::wrappers::ReceiverStream::new(calls));
    let answers = answers.await.unwrap().into_inner();
    let payload: bytes::Bytes =
        message_hub::proto::v1::Event { data: vec![1; 16 << 10].into(), ..event("e") }
            .encode_to_vec()
            .into();
    let mut sent = 0_u64;
    // A call has no producer, so its answer is small: it takes many before the window is full.
    let flood = async {
        for call in 0..2_000_000 {
            let call = PublishCall {
                call,
                topic: "orders".into(),
                events: vec![payload.clone()],
                ..Default::default()
            };
            if sender.send(call).await.is_err() {
                return;
            }
            sent += 1;
        }
    };
    let stalled = tokio::time::timeout(Duration::from_secs(15), flood).await.is_err();
    let grown = resident(&cluster).saturating_sub(before);
    println!("{sent} calls were taken, the node grew by {} MiB", grown >> 20);
    assert!(grown < 300 << 20, "the node grew by {} MiB", grown >> 20);
    drop(sender);
    // Reading again gives every answer that is due.
    let mut answers = answers;
    let mut read = 0;
    while let Some(answer) = answers.next().await {
        answer.unwrap();
        read += 1;
    }
    assert!(read > 0 && (stalled || read == 2_000_000), "{read} answers");
    cluster.await_serving();
}
