# Source this before using cargo by hand: it lets cargo link the RocksDB that is compiled once a machine.
# shellcheck shell=bash
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
prepare
set +eu
