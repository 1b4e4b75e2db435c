#!/usr/bin/env bash
# chaos.sh [--quick] [--time S] [--calm S] [--seed N] …: installs what is missing, builds, and runs the matrix of
# workloads and faults (`jepsen-like matrix --help` tells the flags): all of it within half an hour, a few runs within
# eight minutes with --quick. Needs root for faults of network and disk. Runs are kept in ./chaos-runs, each with its
# history, logs, verdict and report. MHUB_PROFILE=dev tests a debug build; MHUB_BIN names a hub that is built already.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install_chaos_tools
prepare
profile=${MHUB_PROFILE:-release}
case $profile in dev) folder=debug ;; *) folder=$profile ;; esac
built=${CARGO_TARGET_DIR:-$root/target}/$folder
# Wall clocks can only be set in a hub that has failpoints.
[ -n "${MHUB_BIN:-}" ] || (cd "$root" && cargo build --locked --profile "$profile" --features failpoints --bin mhub)
(cd "$root" && cargo build --locked --profile "$profile" -p jepsen-like)
# A setting that no node knows would keep it from starting.
exec env -u MHUB_PROFILE "$built/jepsen-like" matrix --mhub "${MHUB_BIN:-$built/mhub}" "$@"
