#!/usr/bin/env bash
# up.sh [--nodes N] [--dir D]: starts a cluster of N nodes (3) on loopback, each in D/node-I (./mhub-cluster).
# D/env holds the endpoints to source, D/node-I/pid the process.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
nodes=3 dir=$(cluster_dir)
while [ $# -gt 0 ]; do
  case $1 in
    --nodes) nodes=${2:?--nodes needs a number}; shift 2 ;;
    --dir) dir=${2:?--dir needs a folder}; shift 2 ;;
    *) die "unknown argument $1; usage: up.sh [--nodes N] [--dir D]" ;;
  esac
done
[[ $nodes =~ ^[1-9][0-9]*$ ]] || die "--nodes $nodes is no positive number"
[ -e "$dir/env" ] && die "there is a cluster in $dir already; stop it with down.sh --dir $dir, or choose another folder"
build_mhub
mkdir -p "$dir"; dir=$(cd "$dir" && pwd)
for n in $(seq "$nodes"); do new_node "$dir" "$n"; done
write_env "$dir"
start_node "$dir" 1
"$mhub" cluster init --endpoint "$(node_endpoint "$dir" 1)" >/dev/null
for n in $(seq 2 "$nodes"); do start_node "$dir" "$n"; join_node "$dir" "$n" 1; done
say "a cluster of $nodes nodes is up in $dir; use it with: source $dir/env"
