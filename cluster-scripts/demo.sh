#!/usr/bin/env bash
# demo.sh: installs what is missing, builds, and shows the hub at work: three nodes on this machine, events in, events
# out of a follower, the leader killed, events in again.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
build_mhub
export MHUB_BIN=$mhub
dir=$(mktemp -d)/cluster
here=$root/cluster-scripts
finish() {
  local code=$?
  trap - EXIT
  for n in $([ -d "$dir" ] && node_ids "$dir"); do stop_node "$dir" "$n" KILL || true; done
  rm -rf "$(dirname "$dir")"
  exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM
step() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; "$@"; }
mhub() { "$MHUB_BIN" "$@"; }

step "three nodes on loopback"
"$here/up.sh" --nodes 3 --dir "$dir"
# shellcheck disable=SC1091
. "$dir/env"
show mhub cluster members

step "a topic, and events from a file"
show mhub topic create orders --config index_ids=true >/dev/null
show mhub events publish orders "$here/sample-events.jsonl" | tail -n 5

step "one more from standard input, and one only if its key is at version 1"
echo '{"specversion":"1.0","id":"demo-1","source":"/demo","type":"order.created","partitionkey":"order-900","data":{"total":12}}' |
  show mhub events publish orders -
show mhub events append orders --key order-900 --expect 1 --type order.paid --data '{"paid":true}'
show mhub events append orders --key order-900 --expect 1 --type order.paid --data '{"paid":true}' || echo "(refused, as it should be)"

leader=$(mhub cluster status -o json | sed -n 's/^  "leader_id": "\([0-9]*\)",$/\1/p')
follower=$((leader % 3 + 1))
step "read back from a follower (node $follower), linearizably"
show mhub events read orders --from end --back --limit 5 --endpoint "$(node_endpoint "$dir" "$follower")"
show mhub events read orders --key order-900 --endpoint "$(node_endpoint "$dir" "$follower")"

step "kill -9 of the leader (node $leader), and publish again"
"$here/kill-node.sh" "$leader" --dir "$dir"
show mhub events publish orders --type order.shipped --key order-900 --data '{"carrier":"bike"}'
show mhub cluster health || true

step "the killed node comes back, and all nodes hold the same state"
"$here/start-node.sh" "$leader" --dir "$dir"
wait_for 30 mhub cluster health
show mhub cluster status
show mhub cluster verify

step "stop"
"$here/down.sh" --dir "$dir"
echo "done: the demo's files are gone, nothing runs any more"
