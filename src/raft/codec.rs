//! The consensus library's types as messages of `messagehub.peer.v1`: the one encoding of log and
//! network. The library's own serialisation is never stored.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::raft::AppendEntriesRequest;
use prost::Message as _;

use super::types::{
    Entry, EntryData, LogId, Membership, PeerNode, StoredMembership, TypeConfig, Vote,
};
use crate::machine::Fault;
use crate::machine::record::{self, Kind};
use crate::proto::peer;

/// A message lacks something that it must have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(String);

fn missing(what: &str) -> Malformed {
    Malformed(format!("{what} is missing"))
}

pub(crate) fn log_id_to_proto(id: &LogId) -> peer::LogId {
    let leader = id.committed_leader_id();
    peer::LogId { term: leader.term, node_id: leader.node_id, index: id.index() }
}

pub(crate) fn log_id_from_proto(id: &peer::LogId) -> LogId {
    LogId::new(LeaderId { term: id.term, node_id: id.node_id }, id.index)
}

pub(crate) fn vote_to_proto(vote: &Vote) -> peer::Vote {
    peer::Vote {
        term: vote.leader_id.term,
        node_id: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_from_proto(vote: &peer::Vote) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node_id)
    } else {
        Vote::new(vote.term, vote.node_id)
    }
}

pub(crate) fn membership_to_proto(membership: &Membership) -> peer::Membership {
    let configs = membership.get_joint_config().iter();
    let nodes = membership.nodes().map(|(id, node)| peer::Node {
        node_id: *id,
        peer_address: node.peer_address.clone(),
        client_address: node.client_address.clone(),
    });
    peer::Membership {
        configs: configs.map(|c| peer::Config { voters: c.iter().copied().collect() }).collect(),
        nodes: nodes.collect(),
    }
}

pub(crate) fn membership_from_proto(message: &peer::Membership) -> Result<Membership, Malformed> {
    let configs: Vec<BTreeSet<u64>> =
        message.configs.iter().map(|c| c.voters.iter().copied().collect()).collect();
    let nodes: BTreeMap<u64, PeerNode> = message
        .nodes
        .iter()
        .map(|n| {
            let (peer_address, client_address) = (n.peer_address.clone(), n.client_address.clone());
            (n.node_id, PeerNode { peer_address, client_address })
        })
        .collect();
    Membership::new(configs, nodes).map_err(|e| Malformed(e.to_string()))
}

pub(crate) fn stored_membership_to_proto(stored: &StoredMembership) -> peer::StoredMembership {
    peer::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_proto),
        membership: Some(membership_to_proto(stored.membership())),
    }
}

pub(crate) fn stored_membership_from_proto(
    message: &peer::StoredMembership,
) -> Result<StoredMembership, Malformed> {
    let membership = message.membership.as_ref().ok_or_else(|| missing("membership"))?;
    let membership = if membership.configs.is_empty() && membership.nodes.is_empty() {
        Membership::default()
    } else {
        membership_from_proto(membership)?
    };
    Ok(StoredMembership::new(message.log_id.as_ref().map(log_id_from_proto), membership))
}

pub(crate) fn entry_to_proto(entry: &Entry) -> peer::Entry {
    let payload = match &entry.payload {
        EntryPayload::Blank => peer::entry::Payload::Blank(true),
        EntryPayload::Normal(data) => peer::entry::Payload::Command(data.0.clone()),
        EntryPayload::Membership(m) => peer::entry::Payload::Membership(membership_to_proto(m)),
    };
    peer::Entry { log_id: Some(log_id_to_proto(&entry.log_id)), payload: Some(payload) }
}

pub(crate) fn entry_from_proto(message: peer::Entry) -> Result<Entry, Malformed> {
    let log_id = message.log_id.as_ref().map(log_id_from_proto).ok_or_else(|| missing("log id"))?;
    let payload = match message.payload.ok_or_else(|| missing("payload"))? {
        peer::entry::Payload::Blank(_) => EntryPayload::Blank,
        peer::entry::Payload::Command(command) => EntryPayload::Normal(EntryData(command)),
        peer::entry::Payload::Membership(m) => EntryPayload::Membership(membership_from_proto(&m)?),
    };
    Ok(Entry { log_id, payload })
}

pub(crate) fn append_to_proto(
    request: AppendEntriesRequest<TypeConfig>,
    envelope: Option<peer::Envelope>,
) -> peer::AppendRequest {
    peer::AppendRequest {
        envelope,
        vote: Some(vote_to_proto(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_to_proto),
        committed: request.leader_commit.as_ref().map(log_id_to_proto),
        entries: request.entries.iter().map(entry_to_proto).collect(),
    }
}

pub(crate) fn append_from_proto(
    message: peer::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let entries: Result<Vec<Entry>, Malformed> =
        message.entries.into_iter().map(entry_from_proto).collect();
    Ok(AppendEntriesRequest {
        vote: message.vote.as_ref().map(vote_from_proto).ok_or_else(|| missing("vote"))?,
        prev_log_id: message.prev.as_ref().map(log_id_from_proto),
        leader_commit: message.committed.as_ref().map(log_id_from_proto),
        entries: entries?,
    })
}

/// An entry as the log stores it.
pub(crate) fn entry_to_record(entry: &Entry) -> Bytes {
    record::encode_message(Kind::LogEntry, &entry_to_proto(entry))
}

/// The entry in a stored record.
pub(crate) fn entry_from_record(stored: Bytes) -> Result<Entry, Fault> {
    let start = record::body(Kind::LogEntry, &stored)?.len();
    // The body as a slice of the same buffer, so that the command is not copied.
    let body = stored.slice(2..2 + start);
    let corrupt = |what: String| Fault::Corrupt { record: Kind::LogEntry, what };
    let message = peer::Entry::decode(body).map_err(|e| corrupt(e.to_string()))?;
    entry_from_proto(message).map_err(|e| corrupt(e.to_string()))
}

#[cfg(test)]
mod tests {
    use maplit::{btreemap, btreeset};

    use super::*;

    fn node(n: u64) -> PeerNode {
        PeerNode { peer_address: format!("h{n}:1"), client_address: format!("h{n}:2") }
    }

    fn joint() -> Membership {
        let nodes = btreemap! {1 => node(1), 2 => node(2), 3 => node(3), 4 => node(4)};
        Membership::new(vec![btreeset! {1, 2}, btreeset! {2, 3}], nodes).unwrap()
    }

    #[test]
    fn entries_round_trip_through_records() {
        let log_id = log_id_from_proto(&peer::LogId { term: 3, node_id: 1, index: 77 });
        for payload in [
            EntryPayload::Blank,
            EntryPayload::Normal(EntryData(Bytes::from_static(b"command"))),
            EntryPayload::Membership(joint()),
        ] {
            let entry = Entry { log_id, payload };
            assert_eq!(entry_from_record(entry_to_record(&entry)).unwrap(), entry);
        }
    }

    #[test]
    fn stored_memberships_and_votes_round_trip() {
        for stored in [
            StoredMembership::default(),
            StoredMembership::new(Some(log_id_from_proto(&peer::LogId::default())), joint()),
        ] {
            let message = stored_membership_to_proto(&stored);
            assert_eq!(stored_membership_from_proto(&message).unwrap(), stored);
        }
        for vote in [Vote::new(3, 1), Vote::new_committed(9, 2)] {
            assert_eq!(vote_from_proto(&vote_to_proto(&vote)), vote);
        }
    }

    /// The bytes of each kind as they were when version 1 was new. They are read for ever.
    #[test]
    fn golden() {
        let id = peer::LogId { term: 2, node_id: 1, index: 5 };
        let log_id = log_id_from_proto(&id);
        let data = EntryData(Bytes::from_static(b"ab"));
        let entry = Entry { log_id, payload: EntryPayload::Normal(data) };
        let stored = StoredMembership::new(Some(log_id), joint());
        let membership = stored_membership_to_proto(&stored);
        let file = peer::SnapshotFile { name: "f.sst".to_owned(), size: 300, crc32c: 7 };
        let manifest = peer::SnapshotManifest {
            last_log_id: Some(id),
            membership: Some(membership.clone()),
            files: vec![file],
        };
        let vote = vote_to_proto(&Vote::new_committed(2, 1));
        let id_body = "080210011805";
        let nodes: String =
            (1..=4).map(|n| format!("120e080{n}1204683{n}3a311a04683{n}3a32")).collect();
        let membership_body = format!("0a06{id_body}124c0a040a0201020a040a020203{nodes}");
        let manifest_body =
            format!("0a06{id_body}1256{membership_body}1a0c0a05662e73737410ac021807");
        for (kind, record, body) in [
            (Kind::LogEntry, entry_to_record(&entry), format!("0a06{id_body}1a026162")),
            (Kind::Vote, record::encode_message(Kind::Vote, &vote), "080210011801".to_owned()),
            (Kind::LogId, record::encode_message(Kind::LogId, &id), id_body.to_owned()),
            (Kind::Applied, record::encode_message(Kind::Applied, &id), id_body.to_owned()),
            (
                Kind::Membership,
                record::encode_message(Kind::Membership, &membership),
                membership_body.clone(),
            ),
            (
                Kind::SnapshotManifest,
                record::encode_message(Kind::SnapshotManifest, &manifest),
                manifest_body,
            ),
        ] {
            let hex: String = record.iter().map(|byte| format!("{byte:02x}")).collect();
            let framed = format!("{:02x}{:02x}{body}", kind as u8, record::VERSION);
            assert_eq!(hex[..hex.len() - 8], framed, "{kind:?}");
        }
        assert_eq!(entry_from_record(entry_to_record(&entry)).unwrap(), entry);
    }
}
