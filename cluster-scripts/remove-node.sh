#!/usr/bin/env bash
# remove-node.sh N [--dir D]: takes node N out of the cluster in D (./mhub-cluster), for good, and stops it.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
n=${1:?usage: remove-node.sh N [--dir D]}; shift
dir=$(cluster_dir)
[ "${1:-}" = --dir ] && dir=${2:?--dir needs a folder}
use_cluster "$dir"
"$mhub" cluster remove "$n" --yes
stop_node "$dir" "$n" TERM
# The folder stays, so that the id is not given out again; its data is of no use any more.
rm -rf "$dir/node-$n/data"
say "node $n is out"
