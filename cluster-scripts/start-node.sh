#!/usr/bin/env bash
# start-node.sh N [--dir D]: starts node N again.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
n=${1:?usage: start-node.sh N [--dir D]}; shift
dir=$(cluster_dir)
[ "${1:-}" = --dir ] && dir=${2:?--dir needs a folder}
use_cluster "$dir"
node_runs "$dir" "$n" && die "node $n runs already"
start_node "$dir" "$n"
say "node $n runs"
