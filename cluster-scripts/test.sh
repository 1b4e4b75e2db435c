#!/usr/bin/env bash
# test.sh: installs what is missing, builds, and runs the whole test suite.
# MHUB_TEST_ROUNDS, MHUB_TEST_SEQUENCES and MHUB_TEST_SEED ask for more rounds, more command sequences, a certain seed;
# MHUB_TEST_SIM_SEEDS for other than 300 simulated clusters.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
prepare
use_json_suite
# Unit tests and tests of the tree run side by side; tests of clusters one after the other, since each of them takes
# all cores.
cargo test --workspace --locked --features failpoints --lib --bins --test tidy
cargo test --locked --features failpoints --test cluster -- --test-threads 1
# The hub of those tests under faults, the quick part of the matrix: six to eight minutes; MHUB_TEST_CHAOS=no leaves it out. Where
# there is no root, or a container allows no namespaces, faults of network and disk are left out, and it says so.
if [ "${MHUB_TEST_CHAOS:-yes}" = yes ]; then
  MHUB_BIN=${CARGO_TARGET_DIR:-$root/target}/debug/mhub MHUB_PROFILE=dev cluster-scripts/chaos.sh --quick
fi
cargo test --locked --features failpoints --doc
# Clusters over a simulated network, disk and clock, each under the faults of a seed: about two minutes for 300 on two
# cores. A seed that fails says how to run it again.
cargo test --locked --features sim --test sim -- --seeds "${MHUB_TEST_SIM_SEEDS:-300}"
