#!/usr/bin/env bash
# rolling-restart.sh [--dir D]: restarts all nodes of the cluster in D (./mhub-cluster), one at a time: each only
# when the quorum survives it, the leader last and after it handed leadership over.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
dir=$(cluster_dir)
[ "${1:-}" = --dir ] && dir=${2:?--dir needs a folder}
use_cluster "$dir"
dir=$(cd "$dir" && pwd)
leader_of() { "$mhub" cluster status -o json | sed -n 's/^  "leader_id": "\([0-9]*\)",$/\1/p'; }
leader=$(leader_of)
for n in $(node_ids "$dir" | grep -vx "$leader") "$leader"; do
  node_runs "$dir" "$n" || continue
  wait_for 60 "$mhub" cluster safe-to-stop "$n" || die "it is not safe to stop node $n: $("$mhub" cluster safe-to-stop "$n" 2>&1)"
  [ "$n" = "$(leader_of)" ] && "$mhub" cluster transfer-leader >/dev/null
  stop_node "$dir" "$n" TERM
  start_node "$dir" "$n"
  say "node $n is restarted"
done
wait_for 60 "$mhub" cluster health || die "the cluster is not healthy: $("$mhub" cluster health 2>&1)"
say "all nodes are restarted"
