#!/usr/bin/env bash
# Builds the shipped binary and measures it: `make bench`. Arguments go to the harness, such as --quick,
# or --case cdc --rounds 5; its figures go to target/bench/summary.json.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/.."
"$here/setup.sh" bench
cargo build --release -p millstream -p millstream-benches --bins
built=${CARGO_TARGET_DIR:-target}/release
PYTHONPATH=benches PYTHONDONTWRITEBYTECODE=1 "$("$here/fetch-python.sh" bench --path)" -m harness \
    --binary "$built/millstream" --tools "$built" --out target/bench/summary.json "$@"
