#!/usr/bin/env bash
# status.sh [--dir D]: processes, members and health of the cluster in D (./mhub-cluster).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
dir=$(cluster_dir)
[ "${1:-}" = --dir ] && dir=${2:?--dir needs a folder}
use_cluster "$dir"
for n in $(node_ids "$dir"); do
  if node_runs "$dir" "$n"; then echo "node $n: pid $(cat "$dir/node-$n/pid"), $(node_endpoint "$dir" "$n")"; else echo "node $n: not running"; fi
done
"$mhub" cluster members
"$mhub" cluster health
