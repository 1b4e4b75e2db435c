#!/usr/bin/env bash
# add-node.sh [--dir D]: starts one more node in the cluster in D (./mhub-cluster) and makes it a voter.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
dir=$(cluster_dir)
[ "${1:-}" = --dir ] && { dir=${2:?--dir needs a folder}; shift 2; }
use_cluster "$dir"
dir=$(cd "$dir" && pwd)
# Ids are never used again, those of removed nodes neither: their folders stay.
new=$(($(node_ids "$dir" | sort -n | tail -n 1) + 1))
for n in $(node_ids "$dir"); do node_runs "$dir" "$n" && member=$n && break; done
[ -n "${member:-}" ] || die "no node of $dir runs"
new_node "$dir" "$new"
start_node "$dir" "$new"
join_node "$dir" "$new" "$member"
write_env "$dir"
say "node $new is a voter"
