# Shared by the scripts of this folder; source it. Nothing here knows a path of a machine.
# shellcheck shell=bash
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# have_libclang: whether bindgen finds it. libclang-cpp, which has a similar name, does not do.
have_libclang() {
  [ -z "${LIBCLANG_PATH:-}" ] || return 0
  [ -n "$(find /usr/lib /usr/local/lib -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' 2>/dev/null)" ]
}

# install_packages: what the build needs beyond Rust, on Debian. Installs as root, else says what to run.
install_packages() {
  local missing=()
  command -v g++ >/dev/null || missing+=(g++)
  command -v make >/dev/null || missing+=(make)
  command -v flock >/dev/null || missing+=(util-linux)
  have_libclang || missing+=(libclang-dev)
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    say "installing ${missing[*]}"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    die "missing packages; run: sudo apt-get update && sudo apt-get install -y ${missing[*]}"
  fi
}

# install_chaos_tools: the programs that faults use, on Debian. Without them, or without root, only faults of
# processes and of membership are made; the harness says which ones it leaves out.
install_chaos_tools() {
  local missing=()
  command -v ip >/dev/null || missing+=(iproute2)
  command -v nft >/dev/null || missing+=(nftables)
  command -v iptables-legacy >/dev/null || missing+=(iptables)
  command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
  command -v unshare >/dev/null || missing+=(util-linux)
  command -v strace >/dev/null || missing+=(strace)
  command -v perl >/dev/null || missing+=(perl-base)
  [ ${#missing[@]} -eq 0 ] && return
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    say "installing ${missing[*]}"
    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}") >/dev/null ||
      say "these could not be installed: ${missing[*]}"
  else
    say "missing packages; for all faults run: sudo apt-get update && sudo apt-get install -y ${missing[*]}"
  fi
}

# need_cargo: Rust is the one thing that has to be there.
need_cargo() {
  command -v cargo >/dev/null || die "cargo is not on the PATH; install Rust 1.95 or newer first"
}

# cache_dir: what is kept for all clones on this machine.
cache_dir() { echo "${MHUB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mhub}"; }

# use_json_suite: JSON Schema's own cases for its newest draft. Debian has them in a package of 90 kB, which is unpacked,
# not installed: what it depends on is not needed. Elsewhere tests use an older suite, and this says so.
use_json_suite() {
  local package=libtest-json-schema-acceptance-perl dir
  local suite=usr/share/perl5/auto/share/dist/Test-JSON-Schema-Acceptance
  dir=$(cache_dir)/json-schema-suite
  if [ ! -d "$dir/$suite/tests/draft2020-12" ]; then
    rm -rf "$dir.new" && mkdir -p "$dir.new"
    (cd "$dir.new" && { apt-get download -qq $package || { apt-get update -qq && apt-get download -qq $package; }; } &&
      dpkg-deb -x $package*.deb . && rm -rf "$dir" && mv "$dir.new" "$dir") >/dev/null 2>&1 || rm -rf "$dir.new"
  fi
  if [ -d "$dir/$suite/tests/draft2020-12" ]; then
    export MHUB_TEST_JSON_SUITE=$dir/$suite
  else
    say "Debian's $package could not be had: JSON Schema 2020-12 is tested by the cases of the draft before it"
  fi
}

# use_rocksdb: RocksDB's C++ takes a quarter of an hour on two cores, so it is compiled once a
# machine, for all profiles and clones, and linked from the cache ever after.
use_rocksdb() {
  local version flags key cache dir
  version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p;}' "$root/Cargo.lock")
  [ -n "$version" ] || die "Cargo.lock names no librocksdb-sys"
  flags=$(sed -n 's/^rustflags = \["\(.*\)"\]$/\1/p' "$root/.cargo/config.toml")
  key=$(printf '%s|%s|%s|%s' "$version" "$flags" "$(uname -m)" "$(g++ -dumpfullversion)" | cksum | cut -d' ' -f1)
  cache=$(cache_dir)
  dir=$cache/rocksdb-${version%%+*}-$key
  mkdir -p "$dir"
  exec 9>"$dir/lock"
  flock 9
  [ -e "$dir/librocksdb.a" ] || build_rocksdb "$dir" "${version%%+*}" "$flags"
  exec 9>&-
  export ROCKSDB_LIB_DIR=$dir ROCKSDB_STATIC=1
}

# build_rocksdb DIR VERSION FLAGS: into DIR/librocksdb.a, whole or not at all.
build_rocksdb() {
  local dir=$1 version=$2 flags=$3 build=$1/build
  say "compiling RocksDB $version once for this machine; about 15 minutes on two cores"
  rm -rf "$build" && mkdir -p "$build/src" && : >"$build/src/lib.rs"
  cat >"$build/Cargo.toml" <<TOML
[package]
name = "rocksdb-once"
version = "0.0.0"
edition = "2024"
[dependencies]
librocksdb-sys = { version = "=$version", default-features = false, features = ["bindgen-runtime", "lz4", "zstd"] }
[workspace]
TOML
  (cd "$build" && env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC RUSTFLAGS="$flags" CARGO_TARGET_DIR="$build/target" \
    cargo build --release --quiet)
  cp "$build"/target/release/build/librocksdb-sys-*/out/librocksdb.a "$dir/librocksdb.a.new"
  mv "$dir/librocksdb.a.new" "$dir/librocksdb.a"
  rm -rf "$build"
}

# prepare: everything that a build needs.
prepare() {
  need_cargo
  install_packages
  use_rocksdb
}

# build_mhub: the release binary; its path in $mhub. MHUB_BIN names one that is built already.
build_mhub() {
  if [ -n "${MHUB_BIN:-}" ]; then mhub=$MHUB_BIN; return; fi
  prepare
  (cd "$root" && cargo build --release --locked --bin mhub)
  mhub=${CARGO_TARGET_DIR:-$root/target}/release/mhub
}

# free_ports N: so many free ports of loopback, one a line.
free_ports() {
  local n=$1 port
  while [ "$n" -gt 0 ]; do
    port=$((20000 + RANDOM % 12000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then echo "$port"; n=$((n - 1)); fi
  done
}

# wait_for SECONDS COMMAND…: until it succeeds.
wait_for() {
  local until=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$until" ] || return 1
    sleep 0.1
  done
}

# cluster_dir [DIR]: where a cluster's files are.
cluster_dir() { echo "${1:-${MHUB_CLUSTER_DIR:-./mhub-cluster}}"; }

# start_node DIR N: starts node N of a cluster with the settings in its folder.
start_node() {
  local node=$1/node-$2
  [ -d "$node" ] || die "there is no $node"
  # shellcheck disable=SC1091
  (. "$node/settings"
    nohup "$mhub" serve --node-id "$2" --data-dir "$node/data" --listen "127.0.0.1:$client_port" \
      --peer-listen "127.0.0.1:$peer_port" >>"$node/log" 2>&1 </dev/null &
    echo $! >"$node/pid")
  wait_for 30 "$mhub" cluster status --endpoint "$(node_endpoint "$1" "$2")" --timeout 2 ||
    { tail -n 20 "$node/log" >&2; die "node $2 does not answer; see $node/log"; }
}

# node_endpoint DIR N
node_endpoint() { (. "$1/node-$2/settings"; echo "127.0.0.1:$client_port"); }

# node_runs DIR N: whether the process that we started still lives.
node_runs() { [ -f "$1/node-$2/pid" ] && kill -0 "$(cat "$1/node-$2/pid")" 2>/dev/null; }

# stop_node DIR N SIGNAL: ends the process that we started, and waits until it is gone.
stop_node() {
  local pid
  node_runs "$1" "$2" || { rm -f "$1/node-$2/pid"; return 0; }
  pid=$(cat "$1/node-$2/pid")
  kill "-$3" "$pid"
  wait_for 60 bash -c "! kill -0 $pid" || die "node $2 (pid $pid) does not end"
  rm -f "$1/node-$2/pid"
}

# node_ids DIR
node_ids() { local n; for n in "$1"/node-*/; do n=${n%/}; echo "${n##*-}"; done; }

# new_node DIR N: a folder with ports of its own.
new_node() {
  mkdir -p "$1/node-$2"
  { read -r client; read -r peer; } < <(free_ports 2)
  printf 'client_port=%s\npeer_port=%s\n' "$client" "$peer" >"$1/node-$2/settings"
}

# write_env DIR: the endpoints, to be sourced.
write_env() {
  local endpoints=() n
  for n in $(node_ids "$1"); do endpoints+=("$(node_endpoint "$1" "$n")"); done
  local joined; joined=$(IFS=,; echo "${endpoints[*]}")
  printf 'export MHUB_ENDPOINT=%s\nexport MHUB_BIN=%s\n' "$joined" "$mhub" >"$1/env"
}

# use_cluster DIR: its endpoints and binary.
use_cluster() {
  [ -f "$1/env" ] || die "no cluster in $1; start one with cluster-scripts/up.sh"
  # shellcheck disable=SC1091
  . "$1/env"
  mhub=$MHUB_BIN
}

# join_node DIR N MEMBER: makes a running node a voter, once it has got a snapshot and what came after.
join_node() {
  "$mhub" cluster join "$(node_endpoint "$1" "$3")" --endpoint "$(node_endpoint "$1" "$2")" >/dev/null
  wait_for 900 "$mhub" cluster promote "$2" --endpoint "$(node_endpoint "$1" "$3")" --timeout 5 ||
    die "node $2 was not promoted; see $1/node-$2/log"
}
