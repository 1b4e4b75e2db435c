#!/usr/bin/env bash
# down.sh [--dir D] [--purge]: stops the cluster in D (./mhub-cluster) gracefully; --purge deletes its data.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
dir=$(cluster_dir) purge=
while [ $# -gt 0 ]; do
  case $1 in
    --dir) dir=${2:?--dir needs a folder}; shift 2 ;;
    --purge) purge=1; shift ;;
    *) die "unknown argument $1; usage: down.sh [--dir D] [--purge]" ;;
  esac
done
[ -d "$dir" ] || die "there is no $dir"
for n in $(node_ids "$dir"); do stop_node "$dir" "$n" TERM; done
rm -f "$dir/env"
[ -z "$purge" ] || rm -rf "$dir"
say "stopped"
