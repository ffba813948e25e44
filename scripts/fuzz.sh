#!/usr/bin/env bash
# Runs each fuzz target of the PostgreSQL decoders for some seconds (60 if not given), in bounded
# memory, as many at a time as there are processors. Fails if one crashes, hangs or grows.
# Usage: scripts/fuzz.sh [SECONDS [TARGET...]]
set -euo pipefail
cd "$(dirname "$0")/.."

export seconds=${1:-60}
shift || true
fuzz=$(scripts/fetch-cargo-fuzz.sh --path)
export target_dir=${CARGO_TARGET_DIR:-$PWD/fuzz/target}
# Without a sanitizer the stable toolchain will do; overflows and bounds are checked all the same.
triple=$(rustc -vV | sed -n 's/^host: //p')
(cd fuzz && "$fuzz" build --sanitizer none --target "$triple" --target-dir "$target_dir")
export programs=$target_dir/$triple/release
export found=$target_dir/fuzz

run() {
    local target=$1
    # What was found in earlier runs is tried again; the seeds stay as they are.
    mkdir -p "$found/$target/corpus"
    if "$programs/$target" "$found/$target/corpus" "fuzz/seeds/$target" -max_total_time="$seconds" \
        -max_len=4096 -timeout=10 -rss_limit_mb=512 -artifact_prefix="$found/$target/" >"$found/$target/log" 2>&1; then
        echo "fuzz: $target: $(sed -n 's/^Done \(.*\)$/\1/p' "$found/$target/log")"
    else
        tail -n 40 "$found/$target/log"
        echo "fuzz: $target failed"
        return 1
    fi
}
export -f run

if [ "$#" = 0 ]; then
    # shellcheck disable=SC2046 # the names have no blanks
    set -- $(cd fuzz/fuzz_targets && ls | sed 's/\.rs$//')
fi
printf '%s\n' "$@" | xargs -P "$(nproc)" -I '{}' bash -c 'run {}'
