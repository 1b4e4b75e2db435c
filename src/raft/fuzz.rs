//! Doors for fuzzing: bytes as they come from disk and from peers, through the code that reads them.

use std::path::Path;

use bytes::Bytes;
use prost::Message;

use super::{append_serve, append_stream, codec, network, peer_server, snapshot_receive};
use crate::machine::record::{Kind, decode_message};
use crate::proto::peer;

/// A record of the log: what is accepted reads the same once it was written again.
///
/// # Panics
/// When it does not.
pub fn log_record(stored: &[u8]) {
    let Ok(entry) = codec::entry_from_record(Bytes::copy_from_slice(stored)) else { return };
    let again = codec::entry_from_record(codec::entry_to_record(&entry));
    assert!(again.is_ok_and(|again| again == entry), "an entry reads differently the second time");
}

/// Records that the log and the state keep of consensus.
pub fn meta_record(stored: &[u8]) {
    let _ = decode_message::<peer::LogId>(Kind::LogId, stored);
    let _ = decode_message::<peer::Vote>(Kind::Vote, stored);
    if let Ok(message) = decode_message::<peer::StoredMembership>(Kind::Membership, stored) {
        stored_membership(&message);
    }
}

fn stored_membership(message: &peer::StoredMembership) {
    let Ok(stored) = codec::stored_membership_from_proto(message) else { return };
    let again = codec::stored_membership_from_proto(&codec::stored_membership_to_proto(&stored));
    assert!(again.is_ok_and(|again| again == stored), "a membership reads differently");
}

/// How many kinds of messages [`peer_message`] knows.
pub const PEER_MESSAGES: u8 = 8;

/// A message between nodes, as far as it is read before consensus sees it.
pub fn peer_message(which: u8, encoded: &[u8]) {
    match which % PEER_MESSAGES {
        0 => with(encoded, |message: peer::AppendRequest| {
            let Ok(request) = append_serve::decode(message) else { return };
            // What goes on to other nodes is what came.
            let again = append_serve::decode(codec::append_to_proto(request, None));
            assert!(again.is_ok(), "an append that was accepted is refused the second time");
        }),
        1 => with(encoded, |message: peer::AppendResponse| {
            let _ = append_stream::decode(message);
        }),
        2 => with(encoded, |message: peer::VoteRequest| {
            let _ = peer_server::vote_request(&message);
        }),
        3 => with(encoded, |message: peer::VoteResponse| {
            let _ = network::vote_response(message);
        }),
        4 => with(encoded, |_: peer::TransferLeaderRequest| {}),
        5 => with(encoded, |message: peer::OfferSnapshotRequest| {
            if let Some(manifest) = message.manifest {
                snapshot_manifest(&manifest);
            }
        }),
        6 => with(encoded, |_: peer::SnapshotChunk| {}),
        _ => with(encoded, |message: peer::ReadIndexResponse| {
            let _ = message.read_log_id.as_ref().map(codec::log_id_from_proto);
        }),
    }
}

fn with<M: Message + Default>(encoded: &[u8], read: impl FnOnce(M)) {
    if let Ok(message) = M::decode(encoded) {
        read(message);
    }
}

fn snapshot_manifest(manifest: &peer::SnapshotManifest) {
    let _ = snapshot_receive::check(manifest);
    if let Some(membership) = &manifest.membership {
        stored_membership(membership);
    }
}

/// A manifest and chunks, received into an empty directory: whatever comes, nothing is written
/// beside it, and what is called whole is.
///
/// # Panics
/// When something that was not offered is there afterwards.
pub fn snapshot(staging: &Path, manifest: &[u8], chunks: &[&[u8]]) {
    let Ok(manifest) = peer::SnapshotManifest::decode(manifest) else { return };
    snapshot_manifest(&manifest);
    if snapshot_receive::check(&manifest).is_err() {
        return;
    }
    let Ok(missing) = snapshot_receive::prepare(staging, &manifest) else { return };
    let files = manifest.files.clone();
    let mut writer = snapshot_receive::Writer::new(staging.to_owned(), files, missing);
    let mut chunks = chunks.iter().filter_map(|chunk| peer::SnapshotData::decode(*chunk).ok());
    let written = chunks.try_for_each(|chunk| writer.take(&chunk)).and_then(|()| writer.finish());
    let left = snapshot_receive::prepare(staging, &manifest);
    if written.is_ok() {
        assert!(left.is_ok_and(|left| left.is_empty()), "a whole snapshot lacks files");
    }
}
