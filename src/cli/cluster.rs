//! `mhub cluster`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::output::{self, Output};
use super::{Done, Failure, Global, confirm};
use crate::model::rejection::{Exit, Reason, Rejection};
use crate::proto::v1::{
    AddLearnerRequest, DemoteRequest, GetVerifyRequest, GetVerifyResponse, InitRequest,
    JoinRequest, Member, MembershipResponse, PromoteRequest, RemoveNodeRequest, SafeToStopRequest,
    SnapshotRequest, StatusRequest, StatusResponse,
};
use crate::runtime::clock;

#[derive(Debug, clap::Subcommand)]
pub(super) enum ClusterCommand {
    /// Form a cluster of the node at the endpoint, once.
    #[command(after_help = "Example:\n  mhub cluster init --endpoint 127.0.0.1:7400")]
    Init,
    /// Make the node at the endpoint a learner of the cluster that MEMBER belongs to.
    #[command(
        after_help = "Example:\n  mhub cluster join 127.0.0.1:7400 --endpoint 127.0.0.1:7500"
    )]
    Join {
        /// HOST:PORT of any member's client port.
        member: String,
    },
    /// The view of the node at the endpoint.
    Status,
    /// All members with their roles.
    Members,
    /// Whether the cluster is healthy; exits with 10 when it is not.
    Health,
    /// Add a node as a learner by its addresses; `join` on the node itself does that for you.
    AddLearner {
        /// The node's id.
        node: u64,
        /// HOST:PORT between nodes.
        #[arg(long)]
        peer_address: String,
        /// HOST:PORT for clients.
        #[arg(long)]
        client_address: String,
        /// From the file `incarnation` in the node's data directory.
        #[arg(long)]
        incarnation: String,
    },
    /// Make a learner a voter, once it is caught up.
    Promote {
        /// The node's id.
        node: u64,
    },
    /// Make a voter a learner.
    Demote {
        /// The node's id.
        node: u64,
        /// Even if that loses the quorum.
        #[arg(long)]
        force: bool,
    },
    /// Take a node out for good; its id is never used again.
    #[command(after_help = "Example:\n  mhub cluster remove 3 --yes")]
    Remove {
        /// The node's id.
        node: u64,
        /// Do not ask.
        #[arg(long, env = "MHUB_YES")]
        yes: bool,
        /// Even if that loses the quorum.
        #[arg(long)]
        force: bool,
    },
    /// Hand leadership to a voter, or to the one that is furthest.
    TransferLeader {
        /// The node's id.
        node: Option<u64>,
    },
    /// Whether the quorum survives a node's stop; exits with 10 when it does not.
    SafeToStop {
        /// The node's id.
        node: u64,
    },
    /// Build a snapshot on the node at the endpoint.
    Snapshot,
    /// Compare the state of all nodes at one entry; exits with 10 when they differ.
    Verify,
}

const MEMBER_COLUMNS: [&str; 7] = [
    "node_id",
    "role",
    "leader",
    "client_address",
    "peer_address",
    "matched_index",
    "last_heard_ms",
];
/// How long `verify` waits for the hashes of all nodes.
const VERIFY_WITHIN: Duration = Duration::from_secs(120);
const VERIFY_EVERY: Duration = Duration::from_millis(50);
/// A member that was not heard of for so long is not healthy.
const HEARD_WITHIN_MS: u64 = 3000;
/// Entries that a healthy member may miss.
const LAG_MAX: u64 = 10_000;

pub(super) async fn run(command: ClusterCommand, global: Global) -> Done {
    let output = global.output;
    let first = || global.pinned(global.endpoint.iter().take(1).cloned().collect());
    let members = |answer: MembershipResponse| print_members(output, &answer.members);
    match command {
        ClusterCommand::Init => {
            let done = first()?.init(InitRequest {}).await?;
            output::item(
                output,
                &json!({"cluster_id": done.cluster_id, "node_id": done.node_id.to_string()}),
            )?;
        }
        ClusterCommand::Join { member } => {
            let done = first()?.join(JoinRequest { endpoint: member }).await?;
            output::item(
                output,
                &json!({"cluster_id": done.cluster_id, "node_id": done.node_id.to_string()}),
            )?;
        }
        ClusterCommand::Status => {
            let status = global.pinned(global.endpoint.clone())?.status(StatusRequest {}).await?;
            let members = status.members.clone();
            output::item(output, &status_json(status))?;
            if output == Output::Table {
                print_members(output, &members)?;
            }
        }
        ClusterCommand::Members => {
            let status = leader_status(&global).await?;
            print_members(output, &status.members)?;
        }
        ClusterCommand::Health => return health(&global).await,
        ClusterCommand::AddLearner { node, peer_address, client_address, incarnation } => {
            let request =
                AddLearnerRequest { node_id: node, peer_address, client_address, incarnation };
            members(global.client()?.add_learner(request).await?)?;
        }
        ClusterCommand::Promote { node } => {
            members(global.client()?.promote(PromoteRequest { node_id: node }).await?)?;
        }
        ClusterCommand::Demote { node, force } => {
            members(global.client()?.demote(DemoteRequest { node_id: node, force }).await?)?;
        }
        ClusterCommand::Remove { node, yes, force } => {
            confirm(&format!("removing node {node} is for good"), &node.to_string(), yes)?;
            let request = RemoveNodeRequest { node_id: node, force };
            members(global.client()?.remove_node(request).await?)?;
        }
        ClusterCommand::TransferLeader { node } => {
            let leader = global.client()?.transfer_leader(node.unwrap_or(0)).await?;
            output::item(output, &json!({"leader_id": leader.to_string()}))?;
        }
        ClusterCommand::SafeToStop { node } => {
            let judged = global.client()?.safe_to_stop(SafeToStopRequest { node_id: node }).await?;
            output::item(output, &json!({"safe": judged.safe, "reason": judged.reason}))?;
            return Ok(if judged.safe { Exit::Ok } else { Exit::Unhealthy });
        }
        ClusterCommand::Snapshot => {
            let built = first()?.snapshot(SnapshotRequest {}).await?;
            output::item(
                output,
                &json!({"index": built.index.to_string(), "bytes": built.bytes.to_string()}),
            )?;
        }
        ClusterCommand::Verify => return verify(&global).await,
    }
    Ok(Exit::Ok)
}

fn print_members(output: Output, members: &[Member]) -> Result<(), Failure> {
    let members: Vec<Value> = members.iter().map(member_json).collect();
    output::list(output, &MEMBER_COLUMNS, &members)
}

fn member_json(member: &Member) -> Value {
    json!({
        "node_id": member.node_id.to_string(),
        "role": member.role,
        "leader": member.leader,
        "client_address": member.client_address,
        "peer_address": member.peer_address,
        "matched_index": member.matched_index.to_string(),
        "last_heard_ms": member.last_heard_ms.map(|ms| ms.to_string()),
    })
}

fn status_json(status: StatusResponse) -> Value {
    json!({
        "cluster_id": status.cluster_id,
        "node_id": status.node_id.to_string(),
        "state": status.state,
        "has_quorum": status.has_quorum,
        "leader_id": status.leader_id.to_string(),
        "term": status.term.to_string(),
        "last_log_index": status.last_log_index.to_string(),
        "committed_index": status.committed_index.to_string(),
        "applied_index": status.applied_index.to_string(),
        "snapshot_index": status.snapshot_index.to_string(),
        "purged_index": status.purged_index.to_string(),
        "applied_position": status.applied_position.to_string(),
        "joint": status.joint,
        "version": status.version,
        "uptime_ms": status.uptime_ms.to_string(),
        "resident_bytes": status.resident_bytes.to_string(),
        "cpu_ms": status.cpu_ms.to_string(),
        "members": status.members.iter().map(member_json).collect::<Vec<_>>(),
    })
}

/// The leader's own view; the best there is when no leader answers.
pub(super) async fn leader_status(global: &Global) -> Result<StatusResponse, Failure> {
    let mut best: Option<StatusResponse> = None;
    let mut last = None;
    let mut endpoints = global.endpoint.clone();
    while let Some(endpoint) = endpoints.pop() {
        let asked = global.pinned(vec![endpoint])?.status(StatusRequest {}).await;
        match asked {
            Ok(status) if status.state == "leader" => return Ok(status),
            Ok(status) => {
                let leader = status.members.iter().find(|m| m.leader);
                let known = |address: &String| global.endpoint.contains(address);
                if let Some(address) = leader.map(|m| &m.client_address).filter(|a| !known(a))
                    && best.is_none()
                {
                    endpoints.push(address.clone());
                }
                best = Some(status);
            }
            Err(rejection) => last = Some(rejection),
        }
    }
    best.ok_or_else(|| {
        last.unwrap_or_else(|| Rejection::new(Reason::NoLeader, "no node answered")).into()
    })
}

async fn health(global: &Global) -> Done {
    let status = match leader_status(global).await {
        Ok(status) => status,
        Err(failure) => return Err(Failure { exit: Exit::Unhealthy, ..failure }),
    };
    let mut problems = Vec::new();
    if status.state != "leader" {
        problems.push("no leader answers".to_owned());
    }
    if !status.has_quorum {
        problems.push("there is no quorum".to_owned());
    }
    if status.joint {
        problems.push("a membership change is unfinished".to_owned());
    }
    if status.state == "leader" {
        for member in &status.members {
            if member.last_heard_ms.is_none_or(|ms| ms > HEARD_WITHIN_MS) {
                problems.push(format!("node {} was not heard of lately", member.node_id));
            } else if member.matched_index + LAG_MAX < status.last_log_index {
                problems.push(format!(
                    "node {} lags {} entries behind",
                    member.node_id,
                    status.last_log_index - member.matched_index
                ));
            }
        }
    }
    let healthy = problems.is_empty();
    let told = json!({"healthy": healthy, "problems": problems});
    output::item(global.output, &told)?;
    if global.output == Output::Table {
        problems.iter().for_each(|problem| output::complain(problem));
    }
    Ok(if healthy { Exit::Ok } else { Exit::Unhealthy })
}

async fn verify(global: &Global) -> Done {
    let id = global.client()?.begin_verify().await?;
    let members = leader_status(global).await?.members;
    let deadline = clock::now() + VERIFY_WITHIN;
    let mut rows = Vec::new();
    for member in members {
        rows.push((member.node_id, hash_of(global, &member.client_address, id, deadline).await));
    }
    let hashes: Vec<_> =
        rows.iter().filter_map(|(_, row)| row.as_ref().ok()).map(|r| &r.hash).collect();
    let all_answered = hashes.len() == rows.len();
    let equal = hashes.windows(2).all(|pair| pair[0] == pair[1]);
    let told: Vec<Value> = rows
        .iter()
        .map(|(node, row)| match row {
            Ok(row) => json!({"node_id": node.to_string(), "entry": id.to_string(), "hash": row.hash, "rows": row.rows.to_string()}),
            Err(trouble) => json!({"node_id": node.to_string(), "entry": id.to_string(), "hash": null, "rows": null, "trouble": trouble.message}),
        })
        .collect();
    output::list(global.output, &["node_id", "entry", "hash", "rows", "trouble"], &told)?;
    if !equal {
        return Err(Failure::new(
            Exit::Unhealthy,
            "the states differ; take the node that differs out and add it anew with a new id",
        ));
    }
    if !all_answered {
        return Err(Failure::new(
            Exit::Partial,
            "not every node gave a hash; run verify again once all of them are healthy",
        ));
    }
    Ok(Exit::Ok)
}

async fn hash_of(
    global: &Global,
    endpoint: &str,
    id: u64,
    deadline: Instant,
) -> Result<GetVerifyResponse, Rejection> {
    let client = global
        .pinned(vec![endpoint.to_owned()])
        .map_err(|failure| Rejection::new(Reason::InvalidRequest, failure.message))?;
    loop {
        match client.verify_result(GetVerifyRequest { verify_id: id }).await {
            Err(rejection) if rejection.reason == Reason::VerifyNotFound => {
                if clock::now() >= deadline {
                    return Err(rejection);
                }
                tokio::time::sleep(VERIFY_EVERY).await;
            }
            other => return other,
        }
    }
}
