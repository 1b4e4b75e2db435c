//! Every bound of the hub, by name. The public ones are documented in `proto/`.

mod registry;

pub use registry::*;

/// Events in one publish call.
pub const CALL_EVENTS_MAX: usize = 512;
/// Encoded bytes of the events in one publish call.
pub const CALL_BYTES_MAX: usize = 1 << 20;
/// Encoded bytes of one event, unless its topic allows less.
pub const EVENT_BYTES_MAX: u64 = 1 << 20;
/// Expectations in one publish call.
pub const CALL_EXPECTATIONS_MAX: usize = 512;

/// Bytes of a topic's name.
pub const TOPIC_NAME_BYTES_MAX: usize = 128;
/// Topics in one hub.
pub const TOPICS_MAX: u64 = 100_000;
/// Bytes of a topic's description.
pub const DESCRIPTION_BYTES_MAX: usize = 1024;
/// Labels of a topic.
pub const LABELS_MAX: usize = 64;
/// Bytes of a label's name.
pub const LABEL_NAME_BYTES_MAX: usize = 63;
/// Bytes of a label's value.
pub const LABEL_VALUE_BYTES_MAX: usize = 256;
/// The longest window for recognising repeated event ids: 7 days, in milliseconds.
pub const DEDUP_WINDOW_MS_MAX: u64 = 7 * 24 * 3600 * 1000;
/// The shortest such window, in milliseconds.
pub const DEDUP_WINDOW_MS_MIN: u64 = 1000;
/// Ids that one topic remembers for recognising repetitions.
pub const DEDUP_IDS_MAX: u64 = 1_000_000;

/// Bytes of an event's id, type, key, correlation id and causation id, each.
pub const ATTRIBUTE_BYTES_MAX: usize = 256;
/// Bytes of an event's source, subject and dataschema, each.
pub const URI_BYTES_MAX: usize = 1024;
/// Extension attributes of an event.
pub const EXTENSIONS_MAX: usize = 64;
/// Characters of an extension attribute's name.
pub const EXTENSION_NAME_BYTES_MAX: usize = 20;
/// Headers of an event.
pub const HEADERS_MAX: usize = 64;
/// Bytes of a header's name.
pub const HEADER_NAME_BYTES_MAX: usize = 128;
/// Bytes of the value of a header or of an extension attribute.
pub const VALUE_BYTES_MAX: usize = 4096;
/// Bytes of a `traceparent`.
pub const TRACEPARENT_BYTES_MAX: usize = 128;
/// The highest priority.
pub const PRIORITY_MAX: u32 = 9;
/// How far ahead `deliver_at` may lie: 365 days, in milliseconds.
pub const DELIVER_AT_MS_MAX: u64 = 365 * 24 * 3600 * 1000;

/// Versions of keys that are kept in memory between batches of writes.
pub const KEY_HEADS_KEPT: usize = 1 << 15;

/// Bytes of a producer's id.
pub const PRODUCER_ID_BYTES_MAX: usize = 64;
/// Answers that the hub keeps per producer: how far apart calls may arrive.
pub const PRODUCER_WINDOW: u64 = 1024;
/// An idle producer is forgotten after 7 days, in milliseconds.
pub const PRODUCER_IDLE_MS: u64 = 7 * 24 * 3600 * 1000;
/// Bytes of a mutation's request id.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// A mutation's first answer is kept for 24 hours, in milliseconds.
pub const REQUEST_ID_KEPT_MS: u64 = 24 * 3600 * 1000;
/// Rows that one housekeeping command looks at, per table.
pub const HOUSEKEEPING_ROWS_MAX: usize = 1024;
/// Rows of correlation ids that one housekeeping command looks at, after a topic was deleted.
pub const CORRELATIONS_SWEPT_MAX: usize = if cfg!(test) { 4 } else { 8192 };

/// Bytes of the commands that are gathered into one Raft entry; one larger command goes alone.
pub const ENTRY_BYTES_TARGET: usize = 256 << 10;
/// Bytes of one command in a Raft entry; what is above is refused at the door. The largest call with everything that
/// the hub adds to it is well below.
pub const ENTRY_BYTES_MAX: usize = 4 << 20;
/// Commands in one Raft entry.
pub const ENTRY_COMMANDS_MAX: usize = 4096;
/// Bytes of one stored batch of events, unless a single call is larger.
pub const BATCH_BYTES_TARGET: usize = 256 << 10;
/// Where tests run batches are small, and what is done to large ones begins sooner.
const SMALL: bool = cfg!(any(test, feature = "failpoints", feature = "sim"));
/// A batch with events of several priorities is stored in stripes from so many bytes on.
pub const STRIPED_BATCH_BYTES_MIN: usize = if SMALL { 200 } else { 16 << 10 };
/// Raft entries in flight from the proposer.
pub const PROPOSALS_IN_FLIGHT_MAX: usize = 4;
/// Commands that wait for the proposer.
pub const PROPOSAL_QUEUE_MAX: usize = 8192;
/// Bytes of commands that wait for the proposer or are in flight.
pub const PROPOSAL_BYTES_MAX: usize = 64 << 20;
/// How fast a leader's time is made to follow its wall clock, percent of the time that passes.
pub const CLOCK_SLEW_PERCENT: u32 = 5;
/// When a caller that was refused for overload is told to try again, milliseconds.
pub const OVERLOADED_RETRY_MS: u64 = 100;
/// Calls of one stream of publishes or transactions that wait for their answers; beyond that it is not read.
pub const STREAM_CALLS_MAX: usize = 1024;
/// Bytes of the calls of one such stream that wait for their answers.
pub const STREAM_BYTES_MAX: usize = 8 << 20;
/// Calls of one publish stream that are judged before they are queued together.
pub const STREAM_CALLS_TOGETHER_MAX: usize = 64;
/// Bytes of such calls: an entry that is on its way, and one that is ready.
pub const STREAM_BYTES_TOGETHER_MAX: usize = 2 * ENTRY_BYTES_TARGET;

/// Bytes of one answer of a streaming read.
pub const READ_CHUNK_BYTES: usize = 512 << 10;
/// Answers of a streaming read that wait for the reader.
pub const READ_CHUNKS_QUEUED: usize = 2;
/// From so many bytes that are written to a node a second on, its streams of the past keep a pace.
pub const PACED_FROM_BYTES_PER_SEC: u64 = 4 << 20;
/// Bytes that each of them then reads, of those that are written.
pub const PACED_OF_WRITES_PERCENT: u64 = 150;
/// Or so many a second for each core of the machine, if that is more.
pub const PACED_TO_BYTES_PER_SEC: u64 = 16 << 20;
/// Streaming reads that one node serves at once.
pub const READS_MAX: usize = 4096;
/// Storage reads that run at once on one node.
pub const BLOCKING_READS_MAX: usize = 64;
/// Items on a page of a list.
pub const PAGE_SIZE_MAX: u32 = 1000;
/// Items on a page of a list when the caller names no size.
pub const PAGE_SIZE_DEFAULT: u32 = 50;
/// Bytes of a page of a list, beyond which it is cut; one item goes out in any case.
pub const PAGE_BYTES_TARGET: usize = 1 << 20;

/// Bytes of a gRPC message on the client port.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes of a gRPC message on the peer port.
pub const PEER_MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Connections on the client port.
pub const CONNECTIONS_MAX: usize = 4096;
/// Connections on the peer port.
pub const PEER_CONNECTIONS_MAX: usize = 256;
/// Concurrent streams of one connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1024;
/// Bytes of log entries that replication reads at once.
pub const REPLICATION_BYTES_MAX: usize = 1 << 20;
/// Bytes of recent log entries that are kept in memory.
pub const LOG_TAIL_BYTES_MAX: usize = 16 << 20;
/// Bytes of one chunk of a snapshot.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 1 << 20;
/// Bytes of a snapshot that a receiver leaves to the system to write: more at once would hold up
/// the syncs of the log on the same disk.
pub const SNAPSHOT_UNSYNCED_BYTES: usize = 8 << 20;
/// Files of one snapshot.
pub const SNAPSHOT_FILES_MAX: usize = 65_536;
/// Nodes of a cluster.
pub const NODES_MAX: usize = 64;
/// Waiters for a sync of the log; the writers wait beyond that.
pub const LOG_SYNCS_QUEUED: usize = 4096;
/// Answers of one stream of publishes or transactions that wait for the client to read them.
pub const STREAM_ANSWERS_QUEUED: usize = 64;
/// Log entries that replication reads at once.
pub const REPLICATION_ENTRIES_MAX: u64 = 1024;
/// Appends to one peer that wait for their answers.
pub const PEER_APPENDS_IN_FLIGHT_MAX: usize = 16;
/// Concurrent streams of one connection on the peer port.
pub const PEER_STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// Bytes that a peer may send on one stream before they are taken.
pub const PEER_STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes that a peer may send on one connection before they are taken.
pub const PEER_CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Chunks of a snapshot that wait between disk and network, on each side.
pub const SNAPSHOT_CHUNKS_QUEUED: usize = 2;
/// Bytes of entries that are applied in one write, unless a single one is larger.
pub const APPLY_ROUND_BYTES: usize = 1 << 20;
/// Entries that are applied in one write.
pub const APPLY_ROUND_ENTRIES: usize = 1024;
/// Commands that consensus may queue for the state.
pub const APPLY_COMMANDS_QUEUED: u64 = 65_536;
/// Linearizable reads of one node that wait for the leader's word.
pub const LINEARIZE_QUEUE_MAX: usize = 8192;
/// Entries that a member may miss and still count as caught up.
pub const CATCH_UP_ENTRIES_MAX: u64 = 1000;
/// State hashes that a node remembers.
pub const VERIFY_RESULTS_KEPT: usize = 8;
/// State hashes that a node computes at once.
pub const VERIFY_RUNNING_MAX: usize = 2;
/// Calls of one publisher that wait for their answers; below `PRODUCER_WINDOW`.
pub const PUBLISHER_CALLS_MAX: u64 = 1000;
/// Bytes of events, with `PUBLISHER_EVENT_OVERHEAD` each, that wait in one publisher.
pub const PUBLISHER_BYTES_MAX: usize = 32 << 20;
/// What an event counts for in a publisher beyond its own bytes.
pub const PUBLISHER_EVENT_OVERHEAD: usize = 256;
/// Bytes of events that a publisher joins into one call.
pub const PUBLISHER_CALL_BYTES: usize = 256 << 10;
/// Topics whose queues a publisher keeps while they are empty.
pub const PUBLISHER_TOPICS_KEPT: usize = 1024;
/// Transactions of one client that wait for room on its stream; callers wait beyond that.
pub const TRANSACTIONS_QUEUED: usize = 64;
/// Endpoints that a client may be given, and as many that it may learn.
pub const ENDPOINTS_MAX: usize = 64;

/// Bytes of a subscription's name.
pub const SUBSCRIPTION_NAME_BYTES_MAX: usize = 128;
/// Encoded bytes of a subscription's settings, and of a change of them.
pub const SUBSCRIPTION_CONFIG_BYTES_MAX: usize = 128 << 10;
/// The longest pause that ends by itself: 365 days, in milliseconds.
pub const PAUSE_MS_MAX: u64 = 365 * 24 * 3600 * 1000;
/// Bytes of a subscription's pattern.
pub const PATTERN_BYTES_MAX: usize = 128;
/// Subscriptions in one hub.
pub const SUBSCRIPTIONS_MAX: u64 = 10_000;
/// Encoded bytes of a filter.
pub const FILTER_BYTES_MAX: usize = 16 << 10;
/// Nodes of a filter's tree.
pub const FILTER_NODES_MAX: usize = 128;
/// How deep a filter's tree may be; a single leaf is 1 deep.
pub const FILTER_DEPTH_MAX: usize = 8;
/// Bytes of the name of a consumer.
pub const CONSUMER_BYTES_MAX: usize = 128;
/// Bytes of the name of a service.
pub const SERVICE_BYTES_MAX: usize = 128;

/// The longest retry delay, 24 hours, in milliseconds.
pub const RETRY_DELAY_MS_MAX: u64 = 24 * 3600 * 1000;
/// The shortest and the longest of a retry policy's growth, in thousandths.
pub const RETRY_MULTIPLIER_MILLI: std::ops::RangeInclusive<u64> = 1000..=10_000;
/// Delays of a retry schedule.
pub const RETRY_SCHEDULE_MAX: usize = 64;
/// The longest `retry_after` of a nack: 12 hours, in milliseconds.
pub const RETRY_AFTER_MS_MAX: u64 = 12 * 3600 * 1000;
/// The highest `max_attempts`.
pub const ATTEMPTS_MAX: u32 = 1000;
/// The highest share of retries among deliveries, in percent.
pub const RETRY_BUDGET_PERCENT_MAX: u32 = 100;
/// The highest rate of retries that a budget always allows, per second.
pub const RETRY_BUDGET_MIN_MAX: u32 = 100_000;
/// Length of the window of a retry budget, in milliseconds.
pub const RETRY_BUDGET_WINDOW_MS: u64 = 1000;
/// Bytes of a nack's reason.
pub const NACK_REASON_BYTES_MAX: usize = 64;
/// Bytes of a nack's detail.
pub const NACK_DETAIL_BYTES_MAX: usize = 4 << 10;
/// Reasons that a subscription does not retry.
pub const NON_RETRYABLE_REASONS_MAX: usize = 64;
/// Attempts whose story is kept with an event: the first and the newest of them.
pub const ATTEMPTS_KEPT_MAX: usize = 16;
/// Bytes of reasons, details and consumers that are kept with an event; beyond that the oldest details go, but the first.
pub const ATTEMPTS_KEPT_BYTES_MAX: usize = 16 << 10;

/// The range of a lease, 1 s to 12 h, in milliseconds.
pub const LEASE_MS: std::ops::RangeInclusive<u64> = 1000..=12 * 3600 * 1000;
/// The highest bound of events in flight of one subscription.
pub const IN_FLIGHT_MAX: u32 = 100_000;
/// How long a new leader may extend earlier leases, in milliseconds.
pub const LEASE_GRACE_MS_MAX: u64 = 60_000;
/// The longest that dead letters are kept: 365 days, in milliseconds.
pub const DEAD_LETTER_RETENTION_MS_MAX: u64 = 365 * 24 * 3600 * 1000;
/// The breaker of dead letters looks back this far, in milliseconds.
pub const TRIP_WINDOW_MS: u64 = 10_000;
/// Parts of that window.
pub const TRIP_SLOTS: u64 = 10;
/// Outcomes in the window below which the breaker does not trip.
pub const TRIP_OUTCOMES_MIN: u64 = 20;
/// The breaker trips above this share of dead letters among the outcomes, in percent.
pub const TRIP_DEAD_PERCENT: u64 = 50;
/// The longest time after which a tripped subscription resumes by itself: 24 h, in milliseconds.
pub const TRIP_RESUME_MS_MAX: u64 = 24 * 3600 * 1000;
/// The range of `base_wait`, 1 s to 24 h, in milliseconds.
pub const BASE_WAIT_MS: std::ops::RangeInclusive<u64> = 1000..=24 * 3600 * 1000;
/// The largest `slack`, in milliseconds.
pub const SLACK_MS_MAX: u64 = 24 * 3600 * 1000;
/// The priority of an event that names none.
pub const PRIORITY_DEFAULT: u32 = 4;
/// Bytes of a fairness key.
pub const FAIRNESS_KEY_BYTES_MAX: usize = 64;
/// Weights by fairness key that a subscription may name.
pub const FAIRNESS_WEIGHTS_MAX: usize = 256;
/// The range of such a weight, in thousandths.
pub const FAIRNESS_WEIGHT_MILLI: std::ops::RangeInclusive<u64> = 1..=1_000_000;
/// Events that a fairness key of weight 1 is given in a round.
pub const FAIRNESS_QUANTUM: u64 = 32;

/// Trace contexts that the spans of a call or a delivery tell of.
pub const TRACED_CONTEXTS_MAX: usize = 128;

/// How often a schema is judged anew when its subject changes meanwhile.
pub const SCHEMA_JUDGEMENTS_MAX: u32 = 5;
/// Schemas that are compared with the versions of their subjects at once.
pub const SCHEMAS_COMPARED_AT_ONCE: usize = 2;
/// Steps that all comparisons of one such schema take together.
pub const JUDGEMENT_STEPS_MAX: usize = 4_000_000;
/// Bytes of the text of a version that count as one of these steps: it has to be compiled.
pub const COMPARED_BYTES_A_STEP: usize = 4;
/// Compiled schemas that a node keeps to judge events by, and as many to compare others with.
pub const SCHEMAS_COMPILED_MAX: usize = 4096;
/// Bytes of the texts that they were made of.
pub const SCHEMAS_COMPILED_BYTES_MAX: usize = if cfg!(test) { 1000 } else { 64 << 20 };
/// Bytes of events that schemas judge before others get their turn; a larger event is another thread's.
pub const JUDGED_AT_ONCE_BYTES_MAX: u64 = 32 << 10;
/// Bytes of what a refusal lists, about. It travels in the headers of an answer, twice and encoded, and clients of
/// some languages take no more than 8 KiB of them.
pub const REFUSAL_BYTES_MAX: usize = 2 << 10;
/// Bytes of the text of a refusal that answers a call; the rest of it is cut off.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 4 << 10;
/// Bytes of the headers of an answer that the hub's own client takes.
pub const ANSWER_HEADERS_BYTES_MAX: u32 = 64 << 10;
/// Bytes of the name of a subject of schemas.
pub const SUBJECT_BYTES_MAX: usize = 256;
/// Subjects of schemas.
pub const SUBJECTS_MAX: u64 = if cfg!(test) { 4 } else { 10_000 };
/// Versions of a subject, deleted ones included.
pub const SCHEMA_VERSIONS_MAX: usize = if cfg!(test) { 5 } else { 1000 };
/// Bytes of all versions of all subjects.
pub const SCHEMAS_BYTES_MAX: u64 = if cfg!(test) { 600 } else { 256 << 20 };

/// Bytes of the content of a key's snapshot.
pub const KEY_SNAPSHOT_BYTES_MAX: usize = 512 << 10;

/// Events on a page of a trace.
pub const TRACE_ROWS_MAX: usize = 1000;
/// Subscriptions whose view of an event a trace tells.
pub const TRACE_FATES_MAX: usize = 100;
/// Leases of a subscription that a trace looks through for who has an event.
pub const TRACE_LEASES_MAX: usize = 4096;
/// What led to the end of an event that failed is kept for 14 days, in milliseconds.
pub const ENDINGS_KEPT_MS: u64 = if cfg!(test) { 20_000 } else { 14 * 24 * 3600 * 1000 };

/// Offsets that one row of progress covers.
pub const MARKS_OFFSETS: u64 = 4096;
/// Ranges in one pick of a lease or item of a settlement.
pub const RANGES_MAX: usize = 1024;
/// Events that one lease command grants, and that each of its picks and skips may name: what is
/// beyond is left out.
pub const LEASE_EVENTS_MAX: u64 = 4096;
/// Items of one settlement.
pub const SETTLE_ITEMS_MAX: usize = 4096;
/// Timers that one tick fires.
pub const TICK_TIMERS_MAX: usize = 1024;
/// Of these, dead letters that were left to ticks: however many are left, other timers go on.
pub const TICK_BURIALS_MAX: usize = TICK_TIMERS_MAX / 2;
/// Rows of timers that one tick looks at.
pub const TICK_ROWS_MAX: usize = 16 * TICK_TIMERS_MAX;
/// Events that one tick moves, and stages of transactions that it drops, unless a single timer takes more.
pub const TICK_EVENTS_MAX: u64 = 4096;
/// Dead letters that one redrive or purge handles.
pub const DEAD_LETTERS_PER_COMMAND: usize = 1024;
/// Bytes of events in the dead letters that one redrive or purge handles; one goes in any case.
pub const DEAD_LETTERS_MOVED_BYTES: usize = 4 << 20;
/// Bytes of dead letters that one entry writes, and that a tick does beside that; one goes in any case. Ticks
/// go on with what is left.
pub const DEAD_LETTERS_BURIED_BYTES: usize = if cfg!(test) { 64 << 10 } else { 4 << 20 };
/// Dead letters that a search for some of them looks at.
pub const DEAD_LETTERS_SCANNED_MAX: usize = 4096;
/// Events of a topic that a subscription in order by key buries before their turn, and remembers until all
/// before are done; others are buried in their turn.
pub const EARLY_DEAD_MAX: u64 = if SMALL { 2 } else { 128 };
/// Retries that one command moves by hand.
pub const RETRIES_PER_COMMAND: usize = 1024;
/// Failed events that a command looks at, to place them anew after it changed a priority policy, or to
/// forget them as it deletes their topic. Ticks go on with what is left.
pub const FAILURES_SWEPT_MAX: usize = if cfg!(test) { 4 } else { 4096 };
/// Topics that one seek counts.
pub const SEEK_TOPICS_MAX: usize = 1024;
/// Topics that one search for events to deliver looks at.
pub const CANDIDATE_TOPICS_MAX: usize = 64;
/// Topics whose names one search for events to deliver passes.
pub const CANDIDATE_TOPIC_NAMES_MAX: usize = 1024;
/// Fairness keys that one search for events to deliver looks at.
pub const CANDIDATE_FLOWS_MAX: usize = if cfg!(test) { 4 } else { 256 };
/// Rows and events that one search for events to deliver looks at.
pub const CANDIDATE_ROWS_MAX: u64 = 16_384;
/// Special events that share a row; at most 64, as a row has bits for them.
pub const SPECIALS_PER_ROW: usize = 64;
/// Neighbouring special events that are worth a look at their batch, which may be passed as a whole.
pub const SPECIALS_DENSE: usize = if SMALL { 2 } else { 32 };
/// Rows that a stream of candidates reads at once.
pub const CANDIDATE_STREAM_ROWS: usize = 256;
/// Fairness keys, over all topics, that a cursor remembers to have events.
pub const CURSOR_FLOWS_MAX: usize = if cfg!(test) { 16 } else { 131_072 };
/// Streams whose place a cursor remembers.
pub const CURSOR_STREAMS_MAX: usize = 4096;
/// Rows that counting a subscription's events looks at.
pub const STATS_ROWS_MAX: u64 = 65_536;
/// Events, expectations and settlements of one transaction.
pub const TRANSACTION_OPERATIONS_MAX: usize = 512;
/// Staged transactions that are open at once.
pub const TRANSACTIONS_OPEN_MAX: u64 = if cfg!(test) { 6 } else { 10_000 };
/// Bytes that are staged in all of them.
pub const TRANSACTIONS_STAGED_BYTES_MAX: u64 = if cfg!(test) { 4 << 10 } else { 256 << 20 };
/// When a staged transaction expires that names no timeout: 60 s, in milliseconds.
pub const TRANSACTION_TIMEOUT_MS_DEFAULT: u64 = 60_000;
/// The range of its timeout, 1 s to 1 h, in milliseconds.
pub const TRANSACTION_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1000..=3_600_000;
/// Bytes of its label.
pub const TRANSACTION_LABEL_BYTES_MAX: usize = 128;
/// How one ended is kept for 24 hours, in milliseconds.
pub const TRANSACTION_KEPT_MS: u64 = REQUEST_ID_KEPT_MS;
/// Staged transactions that a list looks at for one page.
pub const TRANSACTIONS_SCANNED_MAX: usize = 4096;
/// Subscriptions that a node's metrics tell of: the first by name.
pub const METRICS_SUBSCRIPTIONS_MAX: usize = 100;
/// Rows that counting one of them looks at.
pub const METRICS_ROWS_MAX: u64 = 4096;
/// Quotas in one hub.
pub const QUOTAS_MAX: u64 = 10_000;

/// Bytes of stored batches that a reader of deliveries remembers, one batch at least.
pub const RUN_READER_BYTES: usize = 4 << 20;
/// Readers that read ahead for a subscription side by side: more than one waits for the disk at once.
pub const AHEAD_READERS: usize = 4;
/// Encoded bytes of the events that one pull gives, unless a single one is larger; what a caller
/// asks for beyond that is lowered to it.
pub const PULL_BYTES_MAX: usize = 1 << 20;
/// Events that a pull gives when its caller names no number.
pub const PULL_EVENTS_DEFAULT: u64 = 100;
/// The longest that a pull waits: 60 s, in milliseconds.
pub const PULL_WAIT_MS_MAX: u64 = 60_000;
/// Pulls of one subscription that wait at once.
pub const PULLS_WAITING_MAX: usize = 1024;
/// Subscriptions that one node dispatches at once.
pub const DISPATCHERS_MAX: usize = 10_000;
/// A dispatcher that nobody has asked for so long ends, milliseconds.
pub const DISPATCHER_IDLE_MS: u64 = 30_000;
/// Events that one round of dispatch leases, in several commands.
pub const DISPATCH_ROUND_EVENTS: u64 = 2 * LEASE_EVENTS_MAX;
/// Bytes of events that one round of dispatch plans for; at least one pull is served.
pub const DISPATCH_ROUND_BYTES: usize = 8 << 20;
/// Bytes of events that all rounds of dispatch of one node plan for.
pub const DISPATCH_BYTES_MAX: usize = 64 << 20;
/// Events that each of several pulls gets at least while there are more than enough.
pub const DISPATCH_PORTION_EVENTS: u64 = 128;
/// A dispatcher that waits looks again after so long, whatever it hears, milliseconds.
pub const DISPATCH_LOOK_MS: u64 = 5000;
/// The longest that a dispatcher rests after looks in vain, milliseconds.
pub const DISPATCH_REST_MS_MAX: u64 = 1000;
/// Searches that see only a part and find nothing, after which a dispatcher waits; those that go round the
/// topics count as one.
pub const DISPATCH_SEARCHES_MAX: u32 = 64;
/// A dispatcher whose picks were all left out looks again no sooner than this, milliseconds.
pub const DISPATCH_PAUSE_MS: u64 = 20;
/// Subscriptions of which a node knows how long their events waited.
pub const DISPATCH_LATENCIES_MAX: usize = DISPATCHERS_MAX;
/// The bounds of the buckets that waiting events are counted by, milliseconds.
pub const DISPATCH_LATENCY_MS: [u64; 16] =
    [1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 60_000, 600_000, 3_600_000];
/// The ticker looks for what is due no more often than this, milliseconds.
pub const TICK_PAUSE_MS: u64 = 10;
/// The ticker looks again after so long, whatever it hears, milliseconds.
pub const TICK_LOOK_MS: u64 = 1000;

/// Consume streams that one node serves at once.
pub const CONSUME_STREAMS_MAX: usize = 1024;
/// Messages of one consume stream that wait for the client to read them.
pub const CONSUME_ANSWERS_QUEUED: usize = 2;
/// How long a consume stream waits for its client to read what is queued, before it ends, milliseconds.
pub const CONSUME_UNREAD_MS_MAX: u64 = 60_000;
/// Batches of settlements of one consume stream that wait for their outcomes; beyond that it is not
/// read.
pub const CONSUME_SETTLEMENTS_MAX: usize = 64;
/// Leases that one consume stream remembers, to release them at its end.
pub const CONSUME_LEASES_MAX: usize = 4096;
/// Events of credit that may be open on one consume stream.
pub const CREDIT_EVENTS_MAX: i64 = 100_000;
/// Bytes of credit that may be open on one consume stream.
pub const CREDIT_BYTES_MAX: i64 = 64 << 20;
/// Batches of settlements of one consumer that are on their way; others gather meanwhile.
pub const CONSUMER_BATCHES_MAX: usize = 4;
/// About the bytes of one such batch.
pub const CONSUMER_BATCH_BYTES: usize = 512 << 10;

/// A subscription for which more events wait than this is said to lag.
pub const LAGGING_EVENTS: u64 = 100_000;
/// Rows of topics and of what is done in them that one read looks at for that; one topic goes in any case.
pub const LAGGING_ROWS: usize = 4096;
/// How often the leader looks for subscriptions that lag, milliseconds.
pub const LAGGING_LOOK_MS: u64 = 10_000;
/// A limit of a service that is hit again and again is told once in so long, milliseconds.
pub const QUOTA_NOTICE_MS: u64 = 60_000;
/// How long the leader knows the backlog of a topic that nobody publishes to any more, milliseconds.
pub const BACKLOG_KNOWN_MS: u64 = 60_000;
/// Topics whose backlog the leader looks at, once a second.
pub const BACKLOG_TOPICS_MAX: usize = 10_000;
