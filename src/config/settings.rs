//! Every setting: its name, type, default and meaning, in one table.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::value::{CompressionName, LogFormat, Networks, Value};
use crate::model::limits::ZONE_BYTES_MAX;

/// One row of the table of settings.
pub(super) struct Row {
    pub(super) key: &'static str,
    pub(super) help: &'static str,
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    pub(super) show: fn(&Config) -> String,
}

macro_rules! settings {
    ($($(#[$section_doc:meta])* $section:ident: $struct:ident {
        $($key:ident: $type:ty = $default:expr, $help:literal;)*
    })*) => {
        /// All settings of a node.
        #[derive(Clone, Debug, PartialEq, Eq, Default)]
        pub struct Config {
            $($(#[$section_doc])* pub $section: $struct,)*
        }

        $($(#[$section_doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $struct { $(#[doc = $help] pub $key: $type,)* }

        impl Default for $struct {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        })*

        /// In the order in which they are printed.
        pub(super) const ROWS: &[Row] = &[$($(Row {
            key: concat!(stringify!($section), ".", stringify!($key)),
            help: $help,
            set: |config, text| {
                config.$section.$key = Value::parse(text)?;
                Ok(())
            },
            show: |config| config.$section.$key.show(),
        },)*)*];
    };
}

const CLIENT_PORT: u16 = 7400;
const PEER_PORT: u16 = 7401;
const LOOPBACK: [u8; 4] = [127, 0, 0, 1];
const MIB: u64 = 1 << 20;

settings! {
    /// Who this node is.
    node: NodeConfig {
        id: Option<u64> = None, "The node's id, positive; a new data directory draws one when none is given.";
        data_dir: PathBuf = "./mhub-data".into(), "Where everything is kept.";
        zone: Option<String> = None, "Where the node runs, like eu-west-1a: while it leads, it delivers events to instances of this zone first.";
    }
    /// Where this node listens.
    listen: ListenConfig {
        client: SocketAddr = (LOOPBACK, CLIENT_PORT).into(), "For clients: gRPC and HTTP.";
        peer: SocketAddr = (LOOPBACK, PEER_PORT).into(), "For other nodes.";
        advertise_client: Option<String> = None, "HOST:PORT that clients are told; default: listen.client.";
        advertise_peer: Option<String> = None, "HOST:PORT that other nodes are told; default: listen.peer.";
        insecure: bool = false, "Allow listening beyond loopback although nothing is encrypted.";
    }
    /// Consensus.
    raft: RaftConfig {
        heartbeat_ms: u64 = 250, "How often a leader shows itself, milliseconds.";
        election_min_ms: u64 = 800, "A follower that hears nothing for this long may stand for election, milliseconds.";
        election_max_ms: u64 = 1200, "The latest moment for that, milliseconds.";
        snapshot_bytes: u64 = 1024 * MIB, "Take a snapshot after this many bytes of log.";
        snapshot_entries: u64 = 1_000_000, "Take a snapshot after this many log entries.";
        snapshot_secs: u64 = 86_400, "Take a snapshot after this many seconds, when anything changed.";
        snapshot_bytes_per_s: u64 = 64 * MIB, "Bytes a second of a snapshot that this node sends to another; at least 1 MiB, or 0: as fast as it goes.";
        keep_entries: u64 = 10_000, "Log entries to keep behind a snapshot, for followers that were away for a moment.";
        flush_secs: u64 = 30, "Flush the state after this many seconds, when anything changed.";
        flush_bytes: u64 = 256 * MIB, "Flush the state after this many bytes of log.";
    }
    /// The databases.
    storage: StorageConfig {
        block_cache_bytes: usize = 32 << 20, "Cached blocks of the state, bytes.";
        write_buffer_bytes: usize = 64 << 20, "Unflushed rows of the state, bytes.";
        compression: CompressionName = CompressionName::None, "Compression of stored events: none, lz4 or zstd.";
    }
    /// Bounds.
    limits: LimitsConfig {
        connections: usize = crate::model::limits::CONNECTIONS_MAX, "Connections of clients at once.";
        request_timeout_ms: u64 = 5000, "How long a request waits for its outcome when the caller names no deadline, milliseconds.";
    }
    /// What the hub itself connects to: instances of services that are checked or delivered to.
    egress: EgressConfig {
        allow: Networks = Networks::default(), "Networks that are open beside the public internet, like 10.0.0.0/8,127.0.0.0/8.";
    }
    /// Threads.
    runtime: RuntimeConfig {
        worker_threads: usize = 0, "Async worker threads; 0: one less than there are cores, 1 to 4.";
    }
    /// Spans of events that carry a trace context.
    trace: TraceConfig {
        otlp_endpoint: Option<String> = None, "Collector that spans go to by OTLP over gRPC, like http://127.0.0.1:4317, without TLS; none: no spans.";
    }
    /// Logging, to standard error.
    log: LogConfig {
        format: LogFormat = LogFormat::Human, "human or json.";
        filter: String = "info,openraft=warn".to_owned(), "Levels by target, as in `info,message_hub::raft=debug`.";
    }
}

impl Config {
    /// Checks what a single value cannot tell.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let raft = &self.raft;
        if self.node.id == Some(0) {
            return Err(("node.id", "0 is no id; use a positive number".to_owned()));
        }
        let zone = self.node.zone.as_deref().unwrap_or_default();
        if zone.len() > ZONE_BYTES_MAX {
            return Err(("node.zone", format!("longer than {ZONE_BYTES_MAX} bytes; shorten it")));
        }
        if raft.heartbeat_ms == 0 {
            return Err(("raft.heartbeat_ms", "must be positive".to_owned()));
        }
        if raft.election_min_ms < 2 * raft.heartbeat_ms {
            return Err((
                "raft.election_min_ms",
                "must be at least twice raft.heartbeat_ms".to_owned(),
            ));
        }
        if raft.election_max_ms <= raft.election_min_ms {
            return Err(("raft.election_max_ms", "must be above raft.election_min_ms".to_owned()));
        }
        for (key, value) in [
            ("raft.snapshot_bytes", raft.snapshot_bytes),
            ("raft.snapshot_entries", raft.snapshot_entries),
            ("raft.snapshot_secs", raft.snapshot_secs),
            ("raft.flush_secs", raft.flush_secs),
            ("raft.flush_bytes", raft.flush_bytes),
            ("limits.request_timeout_ms", self.limits.request_timeout_ms),
        ] {
            if value == 0 {
                return Err((key, "must be positive".to_owned()));
            }
        }
        if (1..MIB).contains(&raft.snapshot_bytes_per_s) {
            return Err(("raft.snapshot_bytes_per_s", "must be 0 or at least 1 MiB".to_owned()));
        }
        if self.storage.write_buffer_bytes < 1 << 20 {
            return Err(("storage.write_buffer_bytes", "must be at least 1 MiB".to_owned()));
        }
        for (key, address) in
            [("listen.client", self.listen.client), ("listen.peer", self.listen.peer)]
        {
            if !address.ip().is_loopback() && !self.listen.insecure {
                let why = format!(
                    "{address} is beyond loopback and nothing is encrypted; pass --insecure if the network is trusted"
                );
                return Err((key, why));
            }
        }
        match self.trace.otlp_endpoint.as_deref().map(collector) {
            Some(Err(why)) => Err(("trace.otlp_endpoint", why)),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

/// Whether spans can be sent there; else why not.
fn collector(endpoint: &str) -> Result<(), String> {
    let (scheme, rest) = endpoint.split_once("://").unwrap_or(("", endpoint));
    if scheme.eq_ignore_ascii_case("https") {
        return Err(format!(
            "{endpoint:?} needs TLS, which mhub has not; give http://HOST:PORT of a collector on this machine or a trusted network, which may send them on by https"
        ));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        Some(_) if authority.ends_with(']') => authority,
        Some(_) => "",
        None => authority,
    };
    if !scheme.eq_ignore_ascii_case("http") || host.is_empty() || host.contains(char::is_whitespace)
    {
        return Err(format!(
            "{endpoint:?} is no address of a collector; give one like http://127.0.0.1:4317"
        ));
    }
    Ok(())
}
