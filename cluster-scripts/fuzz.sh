#!/usr/bin/env bash
# fuzz.sh [SECONDS] [TARGET…]: runs each fuzz target (or those named) for a while, 60 s unless told otherwise. Stable Rust
# does: `-s none`, no sanitizer. What a run finds lies in tests/fuzz/artifacts; give it to `cargo fuzz run` to see it again.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root/tests/fuzz"
seconds=${1:-60}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(entry peer snapshot request filter config)
need_cargo
if ! cargo fuzz --version >/dev/null 2>&1; then
  say "installing cargo-fuzz, with cargo install"
  env -u CARGO_TARGET_DIR cargo install --locked --quiet cargo-fuzz
fi
prepare
failed=()
for target in "${targets[@]}"; do
  say "== $target, $seconds s"
  # Finds go to the first folder; the second holds the seeds, which stay as they are.
  mkdir -p "corpus-found/$target"
  cargo fuzz run --fuzz-dir . -s none "$target" "corpus-found/$target" "corpus/$target" -- \
    -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 || failed+=("$target")
done
[ ${#failed[@]} -eq 0 ] || die "these targets found something: ${failed[*]}"
say "no target found anything"
