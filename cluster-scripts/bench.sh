#!/usr/bin/env bash
# bench.sh [--secs S]: starts three nodes on this machine, measures publishing, reading, consuming, services, schemas,
# transactions, traces and replays, and stops them. What is a part of something else was measured in the same run.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
secs=5
[ "${1:-}" = --secs ] && secs=${2:?--secs needs a number}
build_mhub
export MHUB_BIN=$mhub
# Instances that are delivered to are on this machine.
export MHUB_EGRESS_ALLOW=127.0.0.0/8
dir=$(mktemp -d)/cluster
finish() {
  local code=$?
  trap - EXIT
  for n in $([ -d "$dir" ] && node_ids "$dir"); do stop_node "$dir" "$n" KILL || true; done
  rm -rf "$(dirname "$dir")"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM
"$root/cluster-scripts/up.sh" --nodes 3 --dir "$dir"
# shellcheck disable=SC1091
. "$dir/env"
timed=(--secs "$secs")
field() { sed -n "s/^  \"$1\": \(.*[^,]\),\{0,1\}$/\1/p" <<<"$2"; }
# run ARGUMENT…: a benchmark; what it told is in $told.
run() { told=$("$mhub" bench "$@" -o json); }
row() {
  local name=$1; shift
  run "$@"
  printf '%-44s %10.0f/s %8.1f MB/s  p50 %8.2f ms  p99 %8.2f ms  errors %s\n' "$name" "$(field rate "$told")" \
    "$(field mb_per_s "$told")" "$(field p50_ms "$told")" "$(field p99_ms "$told")" "$(field errors "$told")"
}
# line NAME TEXT…: what is not a row of that form.
line() { local name=$1; shift; printf '%-44s %s\n' "$name" "$*"; }
# part A B: A as a part of B.
part() { awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.2f", a / b; else printf "?" }'; }
row "one worker that waits" publish --workers 1 "${timed[@]}"
row "64 workers, each waits" publish --workers 64 "${timed[@]}"
row "2048 in flight" publish --workers 4 --depth 512 "${timed[@]}"
row "2048 in flight, calls of 64" publish --workers 4 --depth 8 --batch 64 "${timed[@]}"
row "append, 10,000 keys, 2048 in flight" publish --workers 4 --depth 512 --keys 10000 "${timed[@]}"
row "2048 in flight, 1 KiB" publish --workers 4 --depth 512 --size 1024 "${timed[@]}"
"$mhub" topic create bench >/dev/null
row "fill a topic" publish --workers 4 --depth 8 --batch 64 --topic bench "${timed[@]}"
leader=$("$mhub" cluster status -o json | sed -n 's/^  "leader_id": "\([0-9]*\)",$/\1/p')
follower=$(node_endpoint "$dir" $((leader % 3 + 1)))
row "read, leader" read --topic bench --endpoint "$(node_endpoint "$dir" "$leader")" "${timed[@]}"
row "read, follower" read --topic bench --endpoint "$follower" "${timed[@]}"
row "tail on a follower, its lag under full load" tail --workers 4 --depth 512 --reader "$follower" "${timed[@]}"
row "consume and acknowledge, 8 consumers" consume --preload 1000000
row "the same, mixed priorities" consume --preload 1000000 --mixed-priorities
row "the same, in order by key, 10,000 keys" consume --preload 1000000 --keys 10000
row "the same, 2,000 keys" consume --preload 300000 --keys 2000
row "publish and consume at once, the sum" mixed --workers 4 --depth 512 "${timed[@]}"
row "one event from publish to ack" e2e "${timed[@]}"

run resolve --node "$follower" "${timed[@]}"
line "resolve at a follower, streams" "$(field rate "$told")/s, p99 $(field p99_ms "$told") ms"
streamed=$(field rate "$told")
run resolve --node "$follower" --depth 4 "${timed[@]}"
line "the same, 16 questions on their way" "$(field rate "$told")/s, p99 $(field p99_ms "$told") ms"
run resolve --node "$follower" --rate 25000 "${timed[@]}"
line "the same, 25,000/s however it goes" "$(field rate "$told")/s, p50 $(field p50_ms "$told") ms, p99 $(field p99_ms "$told") ms"
run resolve --node "$follower" --unary "${timed[@]}"
line "the same by single calls" "$(field rate "$told")/s, p99 $(field p99_ms "$told") ms," \
  "$(part "$(field rate "$told")" "$streamed") of streams"
run registry --instances 10000 --watchers 1000 "${timed[@]}"
line "registry, 10,000 instances, 1,000 watchers" "$(field registered_per_s "$told") registered/s," \
  "all know of a change after p50 $(field all_p50_ms "$told") ms, the first after $(field first_p50_ms "$told") ms"
run route --preload 100000
line "route to two HTTP instances" "$(field rate "$told")/s, errors $(field errors "$told")"

documents=(publish --workers 4 --depth 8 --batch 64 --size 512 "${timed[@]}")
row "schema: JSON of ten fields, not judged" "${documents[@]}" --json
unjudged=$(field rate "$told")
row "schema: the same, enforced" "${documents[@]}" --enforce
line "schema: enforced of not judged" "$(part "$(field rate "$told")" "$unjudged")"

row "tx: 16 workers publish calls of 10 events" publish --workers 16 --batch 10 "${timed[@]}"
published=$(field rate "$told")
transactions() {
  local name=$1; shift
  run tx --workers 16 "${timed[@]}" "$@"
  line "$name" "$(field transactions_per_s "$told")/s, p50 $(field p50_ms "$told") ms, p99 $(field p99_ms "$told") ms," \
    "a transaction costs $(part "$published" "$(field events_per_s "$told")") publishes of its events, errors $(field errors "$told")"
}
transactions "tx: transactions of 10 events, 2 topics"
transactions "tx: the same, staged" --staged

run trace --events 1000 "${timed[@]}"
line "trace of 1,000 events" "$(field rate "$told")/s, p50 $(field p50_ms "$told") ms, p99 $(field p99_ms "$told") ms"
run trace --events 1000 --node "$follower" "${timed[@]}"
line "the same at a follower" "$(field rate "$told")/s, p50 $(field p50_ms "$told") ms, p99 $(field p99_ms "$told") ms"

run replay --workers 4 --depth 8 --batch 64 --node "$follower" "${timed[@]}"
line "replay from a follower beside publishing" "$(field rate "$told")/s," \
  "$(field replayed_of_published "$told") of the rate of publishing"
line "publishing beside that replay" "$(field published_rate "$told")/s," \
  "$(field published_of_alone "$told") of publishing alone, $(field published_alone_rate "$told")/s"
for n in $(node_ids "$dir"); do
  "$mhub" cluster status -o json --endpoint "$(node_endpoint "$dir" "$n")" |
    sed -n "s/^  \"resident_bytes\": \"\([0-9]*\)\",$/node $n: \1 bytes resident/p"
done
