#!/usr/bin/env bash
# chaos.sh [--quick] [--time S] [--calm S] [--seed N] …: installs what is missing, builds, and runs the matrix of
# workloads and faults (`jepsen-like matrix --help` tells the flags). Needs root for faults of network and disk.
# Runs are kept in ./chaos-runs, each with its history, logs, verdict and report. MHUB_PROFILE=dev tests a debug build.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# install_tools: the programs that faults use, on Debian.
install_tools() {
  local missing=()
  command -v ip >/dev/null || missing+=(iproute2)
  command -v nft >/dev/null || missing+=(nftables)
  command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
  command -v unshare >/dev/null || missing+=(util-linux)
  command -v strace >/dev/null || missing+=(strace)
  command -v perl >/dev/null || missing+=(perl-base)
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    say "installing ${missing[*]}"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    say "missing packages; for all faults run: sudo apt-get update && sudo apt-get install -y ${missing[*]}"
  fi
}

install_tools
prepare
profile=${MHUB_PROFILE:-release}
(cd "$root" && cargo build --locked --profile "$profile" --bin mhub && cargo build --locked --profile "$profile" -p jepsen-like)
case $profile in dev) folder=debug ;; *) folder=$profile ;; esac
exec "${CARGO_TARGET_DIR:-$root/target}/$folder/jepsen-like" matrix "$@"
