#!/usr/bin/env bash
# Builds cargo-fuzz into the cache folder, once; it takes a minute. With --path, prints where
# it is and builds nothing.
set -euo pipefail

version=0.13.2
tools=${XDG_CACHE_HOME:-$HOME/.cache}/millstream/tools/cargo-fuzz-$version
if [ "${1:-}" = --path ]; then
    echo "$tools/bin/cargo-fuzz"
    exit 0
fi
if [ -x "$tools/bin/cargo-fuzz" ]; then
    echo "setup: cargo-fuzz $version is there"
    exit 0
fi
echo "setup: building cargo-fuzz $version"
rm -rf "$tools.tmp"
# Not into the project's target folder: it shares no crate with it.
CARGO_TARGET_DIR=$tools.tmp/target cargo install --quiet --locked --version "$version" --root "$tools.tmp" cargo-fuzz
rm -rf "$tools.tmp/target" "$tools"
mv "$tools.tmp" "$tools"
