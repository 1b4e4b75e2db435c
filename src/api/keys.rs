//! The service `Keys`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::convert::{consistency, invalid, page_size, recorded_event};
use crate::model::command::{DeleteKeySnapshot, PutKeySnapshot};
use crate::node::Node;
use crate::node::keys as node;
use crate::proto::status::to_status;
use crate::proto::v1::keys_server::Keys;
use crate::proto::v1::{
    DeleteSnapshotRequest, DeleteSnapshotResponse, KeySnapshot, KeyState, PutSnapshotRequest,
    PutSnapshotResponse, ReadStateRequest,
};

pub(super) struct KeysService(pub(super) Arc<Node>);

#[tonic::async_trait]
impl Keys for KeysService {
    async fn read_state(
        &self,
        request: Request<ReadStateRequest>,
    ) -> Result<Response<KeyState>, Status> {
        let ReadStateRequest { topic, key, limit, options } = request.into_inner();
        let limit = page_size(limit);
        let found = self.0.key_state(&topic, key, limit, consistency(options)).await;
        found.map(|found| Response::new(state(&topic, found))).map_err(|r| to_status(&r))
    }

    async fn put_snapshot(
        &self,
        request: Request<PutSnapshotRequest>,
    ) -> Result<Response<PutSnapshotResponse>, Status> {
        let PutSnapshotRequest { topic, key, snapshot, request_id } = request.into_inner();
        let done = async {
            let snapshot =
                snapshot.ok_or_else(|| invalid("the snapshot is missing; give its version"))?;
            let KeySnapshot { version, content_type, data, .. } = snapshot;
            let command = PutKeySnapshot { topic, key, version, content_type, data, request_id };
            self.0.put_key_snapshot(command).await
        };
        done.await.map(|()| Response::new(PutSnapshotResponse {})).map_err(|r| to_status(&r))
    }

    async fn delete_snapshot(
        &self,
        request: Request<DeleteSnapshotRequest>,
    ) -> Result<Response<DeleteSnapshotResponse>, Status> {
        let DeleteSnapshotRequest { topic, key, request_id } = request.into_inner();
        let done = self.0.delete_key_snapshot(DeleteKeySnapshot { topic, key, request_id }).await;
        done.map(|()| Response::new(DeleteSnapshotResponse {})).map_err(|r| to_status(&r))
    }
}

fn state(topic: &str, found: node::KeyState) -> KeyState {
    let node::KeyState { snapshot, events, version } = found;
    let last = events.last().map(|event| event.key_version);
    let next_version = last.filter(|last| *last < version).map_or(0, |last| last.next().get());
    let snapshot = snapshot.map(|known| KeySnapshot {
        version: known.version.get(),
        content_type: known.content_type,
        data: known.data,
        taken_at_ms: known.taken_at.get(),
    });
    let events = events.into_iter().map(|event| recorded_event(topic, event)).collect();
    KeyState { snapshot, events, version: version.get(), next_version }
}
