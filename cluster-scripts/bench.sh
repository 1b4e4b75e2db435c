#!/usr/bin/env bash
# bench.sh [--secs S]: starts three nodes on this machine, measures publishing, reading and consuming, and stops them.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
secs=5
[ "${1:-}" = --secs ] && secs=${2:?--secs needs a number}
build_mhub
export MHUB_BIN=$mhub
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
row() {
  local name=$1 out; shift
  out=$("$mhub" bench "$@" -o json)
  printf '%-44s %10.0f/s %8.1f MB/s  p50 %8.2f ms  p99 %8.2f ms  errors %s\n' "$name" "$(field rate "$out")" \
    "$(field mb_per_s "$out")" "$(field p50_ms "$out")" "$(field p99_ms "$out")" "$(field errors "$out")"
}
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
row "publish and consume at once, the sum" mixed --workers 4 --depth 512 "${timed[@]}"
row "one event from publish to ack" e2e "${timed[@]}"
for n in $(node_ids "$dir"); do
  "$mhub" cluster status -o json --endpoint "$(node_endpoint "$dir" "$n")" |
    sed -n "s/^  \"resident_bytes\": \"\([0-9]*\)\",$/node $n: \1 bytes resident/p"
done
