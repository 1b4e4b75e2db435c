#!/usr/bin/env bash
# kill-node.sh N [--dir D]: kill -9 of node N. start-node.sh brings it back.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
n=${1:?usage: kill-node.sh N [--dir D]}; shift
dir=$(cluster_dir)
[ "${1:-}" = --dir ] && dir=${2:?--dir needs a folder}
node_runs "$dir" "$n" || die "node $n of $dir does not run"
stop_node "$dir" "$n" KILL
say "node $n is killed"
