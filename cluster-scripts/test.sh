#!/usr/bin/env bash
# test.sh: installs what is missing, builds, and runs the whole test suite.
# MHUB_TEST_ROUNDS, MHUB_TEST_SEQUENCES and MHUB_TEST_SEED ask for more rounds, more command sequences, a certain seed.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
prepare
# Unit tests and tests of the tree run side by side; tests of clusters one after the other, since each of them takes
# all cores.
cargo test --workspace --locked --features failpoints --lib --bins --test tidy
cargo test --locked --features failpoints --test cluster -- --test-threads 1
cargo test --locked --features failpoints --doc
# Real nodes under faults, the quick part; MHUB_TEST_CHAOS=no leaves it out.
if [ "${MHUB_TEST_CHAOS:-yes}" = yes ]; then
  MHUB_PROFILE=dev cluster-scripts/chaos.sh --quick
fi
