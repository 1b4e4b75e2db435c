//! Nodes that are or were part of the cluster. A node's id stands for one data directory for ever.

use bytes::Bytes;

use super::Fault;
use super::apply::Machine;
use super::kv::{Kv, Table};
use super::record::{Kind, decode_message, encode_message};
use crate::model::command::RegisterNode;
use crate::model::ids::NodeId;
use crate::model::outcome::Outcome;
use crate::model::rejection::{Reason, Rejection};

/// A node as stored.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct NodeRecord {
    /// The UUID of its data directory.
    #[prost(string, tag = "1")]
    pub incarnation: String,
    /// It was taken out.
    #[prost(bool, tag = "2")]
    pub removed: bool,
}

impl NodeRecord {
    fn decode(row: &[u8]) -> Result<Self, Fault> {
        decode_message(Kind::Node, row)
    }

    fn encode(&self) -> Bytes {
        encode_message(Kind::Node, self)
    }
}

/// What is known of a node.
///
/// # Errors
/// When the store fails or the row is corrupt.
pub fn get(kv: &impl Kv, id: NodeId) -> Result<Option<NodeRecord>, Fault> {
    kv.get(Table::Nodes, &id.to_key())?.map(|row| NodeRecord::decode(&row)).transpose()
}

pub(crate) fn register<K: Kv>(
    machine: &mut Machine<'_, K>,
    command: RegisterNode,
) -> Result<Outcome, Fault> {
    let id = NodeId(command.node_id);
    let refuse = |why: &str| {
        Ok(Outcome::Rejected(
            Rejection::new(
                Reason::NodeIdTaken,
                format!(
                    "node id {id} {why}; start the node with a new id and an empty data directory"
                ),
            )
            .with("node_id", id),
        ))
    };
    let known = get(machine.overlay(), id)?;
    let record = match known {
        Some(known) if command.removed => NodeRecord { removed: true, ..known },
        Some(known) if known.removed => return refuse("was removed, and ids are never used again"),
        Some(known) if known.incarnation != command.incarnation => {
            return refuse("belongs to another data directory");
        }
        Some(known) => known,
        None => NodeRecord { incarnation: command.incarnation, removed: command.removed },
    };
    machine.overlay_mut().put(Table::Nodes, id.to_key().to_vec(), record.encode());
    Ok(Outcome::Done)
}
