//! Bounds of services, instances, and of delivering to them.

/// Services in one hub.
pub const SERVICES_MAX: u64 = 10_000;
/// Instances in one hub.
pub const INSTANCES_MAX: u64 = 100_000;
/// Instances of one service.
pub const INSTANCES_PER_SERVICE_MAX: u64 = 10_000;
/// Instances that one call registers, renews, drains or deregisters.
pub const INSTANCES_PER_CALL_MAX: usize = 1024;
/// Bytes of an instance's id.
pub const INSTANCE_ID_BYTES_MAX: usize = 128;
/// Bytes of an owner's secret.
pub const OWNER_BYTES_MAX: usize = 128;
/// Bytes of what tells one process that registers an instance from another.
pub const PROCESS_BYTES_MAX: usize = 128;
/// Addresses of one instance.
pub const ADDRESSES_MAX: usize = 16;
/// Bytes of an address.
pub const ADDRESS_BYTES_MAX: usize = 260;
/// Bytes of the word for what is spoken at an address.
pub const PROTOCOL_BYTES_MAX: usize = 32;
/// Bytes of a version, and of a requirement of versions.
pub const VERSION_BYTES_MAX: usize = 256;
/// Bytes of a zone's name.
pub const ZONE_BYTES_MAX: usize = 64;
/// The range of an instance's weight, thousandths.
pub const INSTANCE_WEIGHT_MILLI: std::ops::RangeInclusive<u64> = 1..=1_000_000;
/// The range of how long renewals last, milliseconds.
pub const INSTANCE_TTL_MS: std::ops::RangeInclusive<u64> = 1000..=600_000;
/// The range of how long after its renewals ended an instance is deregistered, milliseconds.
pub const DEREGISTER_AFTER_MS: std::ops::RangeInclusive<u64> = 0..=86_400_000;
/// The range of the time between checks, milliseconds.
pub const CHECK_INTERVAL_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;
/// The range of how long a check may take, milliseconds.
pub const CHECK_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 10..=60_000;
/// The range of checks in a row that turn an instance.
pub const CHECK_ROUNDS: std::ops::RangeInclusive<u64> = 1..=100;
/// Bytes of a check's path.
pub const CHECK_PATH_BYTES_MAX: usize = 1024;
/// The range of slow start, milliseconds.
pub const SLOW_START_MS: std::ops::RangeInclusive<u64> = 0..=3_600_000;
/// Steps of one service's failover.
pub const FAILOVER_MAX: usize = 16;
/// The range of how long a service has to be back before callers are, milliseconds.
pub const FAILOVER_HOLD_MS: std::ops::RangeInclusive<u64> = 0..=3_600_000;
/// Dependencies of one service.
pub const DEPENDENCIES_MAX: usize = 64;
/// Versions of a service that are named where none of them will do.
pub const LACK_VERSIONS_MAX: usize = 16;
/// Services on a chain of dependencies.
pub const DEPENDENCY_CHAIN_MAX: usize = 32;
/// The range of counts of calls in the settings of a breaker.
pub const BREAKER_CALLS: std::ops::RangeInclusive<u64> = 1..=10_000;
/// The range of a breaker's window, milliseconds.
pub const BREAKER_WINDOW_MS: std::ops::RangeInclusive<u64> = 1000..=600_000;
/// The range of how long a breaker is open, milliseconds.
pub const BREAKER_OPEN_MS: std::ops::RangeInclusive<u64> = 100..=3_600_000;
/// Changes of health within `FLAP_WINDOW_MS` that make an instance held.
pub const FLAP_TRANSITIONS: usize = 6;
/// Changes of health count as flapping for so long, milliseconds.
pub const FLAP_WINDOW_MS: u64 = 600_000;
/// How long a flapping instance is held critical at first, milliseconds; twice as long each time.
pub const FLAP_HOLD_MS: u64 = 30_000;
/// The longest that it is held, milliseconds.
pub const FLAP_HOLD_MS_MAX: u64 = 600_000;
/// Changes of health that are kept for each instance.
pub const TRANSITIONS_KEPT: usize = 16;
/// Bytes of the reason of a change of health.
pub const HEALTH_REASON_BYTES_MAX: usize = 512;
/// Characters of the reason why a service is not ready, as the lifecycle feed tells it.
pub const NOT_READY_REASON_CHARS_MAX: usize = 512;
/// Changes of health in one command.
pub const HEALTH_CHANGES_MAX: usize = 256;
/// Changes of the registry that are kept for who watches.
pub const REGISTRY_LOG_MAX: u64 = if cfg!(test) { 32 } else { 65_536 };
/// Changes of the registry that one reading takes.
pub const REGISTRY_PAGE: usize = 1024;
/// Changes of the registry that a node keeps in memory for who watches.
pub const REGISTRY_CHANGES_KEPT: usize = 1024;
/// Percent of a service's instances that may fall silent within the time of one renewal; when it is
/// more, none is given up for a while.
pub const BRAKE_PERCENT: usize = 15;
/// So many may in any case.
pub const BRAKE_INSTANCES_MIN: usize = 2;
/// The longest that nobody is given up, milliseconds.
pub const BRAKE_MS_MAX: u64 = 300_000;
/// A leader looks for silent instances so often, milliseconds.
pub const RENEWALS_LOOK_MS: u64 = 200;
/// Looks whose silent instances are being told of at once.
pub const SILENT_TELLS_MAX: usize = 16;
/// A leader looks how services stand at most so often, milliseconds.
pub const STANDINGS_LOOK_MS: u64 = 500;
/// What it tells of them at once; the rest is for the next look.
pub const STANDINGS_TOLD_MAX: usize = 1000;
/// A leader that looks so late stood still, milliseconds.
pub const LEADER_STALL_MS: u64 = 2000;
/// Instances that one answer resolves.
pub const RESOLVE_INSTANCES_MAX: usize = 1000;
/// Bytes of the instances that one answer resolves, beyond which there are no more of them; below those of a message.
pub const RESOLVE_BYTES_TARGET: usize = 3 << 20;
/// Watchers of the registry on one node.
pub const REGISTRY_WATCHERS_MAX: usize = 16_384;
/// Services that one of them names.
pub const WATCHED_SERVICES_MAX: usize = 1024;
/// The time in which what is known of latencies fades to a third, milliseconds.
pub const EWMA_MS: u64 = 10_000;
/// A call of which nothing is heard counts as on its way for so long, and up to a third longer, milliseconds.
pub const CALL_PATIENCE_MS: u64 = 30_000;
/// Pools of instances of which one node, or one client, knows whose turn it is.
pub const TURNS_MAX: usize = 20_000;
/// Instances of which one node knows how calls go.
pub const CALLS_INSTANCES_MAX: usize = 200_000;
/// When to call again while a breaker is being tried by as many calls as it lets through, milliseconds.
pub const PROBES_RETRY_MS: u64 = 1000;
/// Parts that a breaker's window is kept in.
pub const BREAKER_BUCKETS: u32 = 10;
/// Instances and services whose calls a leader counts.
pub const BREAKERS_COUNTED_MAX: usize = 200_000;
/// A watcher's node looks so often whether it hears of a leader, milliseconds.
pub const WATCH_STALE_LOOK_MS: u64 = 1000;
/// Who begins to watch waits so long for the node to know what the leader knows, milliseconds.
pub const WATCH_FRESH_MS: u64 = 2000;
/// Notes of nodes that wait at a leader.
pub const NOTES_QUEUE_MAX: usize = 1024;
/// Instances whose calls a node gathers before it tells the leader.
pub const CALLS_GATHERED_MAX: usize = 10_000;
/// Nodes that check one instance; more of them where a majority of the voters is more.
pub const CHECKERS: usize = 3;
/// The leader does not wait for the verdict of a node that it has not heard of for so long, milliseconds.
pub const CHECKER_SILENT_MS: u64 = 5000;
/// Checks that one node runs at once.
pub const CHECKS_AT_ONCE_MAX: usize = 256;
/// A node looks so often which checks are due, milliseconds.
pub const CHECKS_LOOK_MS: u64 = 100;
/// A node tells the leader of its verdicts again after so long, milliseconds.
pub const VERDICTS_TOLD_MS: u64 = 5000;
/// A verdict that was not told again for so long counts no more, milliseconds.
pub const VERDICTS_KEPT_MS: u64 = 20_000;

/// The consumer that the hub itself is, of subscriptions with a target.
pub const HUB_CONSUMER: &str = "hub";
/// The range of how long a target's answer may take, milliseconds.
pub const TARGET_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 10..=600_000;
/// Bytes of the path of a target's requests.
pub const TARGET_PATH_BYTES_MAX: usize = 1024;
/// What a lease of the hub lasts beyond the time that an answer may take, milliseconds.
pub const ROUTE_LEASE_SLACK_MS: u64 = 5000;
/// Instances that one event is tried at before it waits, while none of them can be connected to.
pub const ROUTE_TRIES: usize = 3;
/// How long a target is without anybody who takes calls before its subscription pauses, milliseconds.
pub const ROUTE_DOWN_MS: u64 = 1000;
/// How often the hub looks whether a target is up, milliseconds.
pub const ROUTE_LOOK_MS: u64 = 250;
/// The rest after no instance of a target could be connected to, milliseconds: at first, and at most.
pub const ROUTE_REST_MS: std::ops::RangeInclusive<u64> = 50..=5000;
/// Addresses that are tried of those that one name of an instance stands for.
pub const CONNECT_ADDRESSES_MAX: usize = 8;
/// How long nobody lets a connection to an instance wait, milliseconds.
pub const ROUTE_CONNECT_MS: u64 = 2000;
/// Bytes that are read of an instance's answer; what is longer is cut off.
pub const ROUTE_ANSWER_BYTES_MAX: usize = 64 << 10;
/// Bytes of an instance's answer that a failed delivery tells.
pub const ROUTE_DETAIL_BYTES_MAX: usize = 256;
/// How long a connection to an instance is kept without use, milliseconds.
pub const ROUTE_IDLE_MS: u64 = 30_000;
/// Subscriptions that one leader delivers by itself.
pub const ROUTES_MAX: usize = 1000;
/// Services that metrics tell of.
pub const METRICS_SERVICES_MAX: usize = 200;
