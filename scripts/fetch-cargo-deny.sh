#!/usr/bin/env bash
# Builds cargo-deny into the cache folder, once; it takes some minutes. With --path, prints where
# it is and builds nothing.
set -euo pipefail

version=0.20.2
tools=${XDG_CACHE_HOME:-$HOME/.cache}/millstream/tools/cargo-deny-$version
if [ "${1:-}" = --path ]; then
    echo "$tools/bin/cargo-deny"
    exit 0
fi
if [ -x "$tools/bin/cargo-deny" ]; then
    echo "setup: cargo-deny $version is there"
    exit 0
fi
echo "setup: building cargo-deny $version"
rm -rf "$tools.tmp"
# Not into the project's target folder: it shares no crate with it.
CARGO_TARGET_DIR=$tools.tmp/target cargo install --quiet --locked --version "$version" --root "$tools.tmp" cargo-deny
rm -rf "$tools.tmp/target" "$tools"
mv "$tools.tmp" "$tools"
