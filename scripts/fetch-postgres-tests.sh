#!/usr/bin/env bash
# Unpacks PostgreSQL's own tests of logical replication and of logical decoding, of the source
# package that the system's PostgreSQL was built from, into the cache folder: `subscription` and
# `decoding`. Does nothing if both are there.
# Without them the tests that replay them are not run, and say so.
set -euo pipefail

tools=${XDG_CACHE_HOME:-$HOME/.cache}/millstream/tools
folder=$tools/postgres-tests

missing() {
    echo "setup: $1: PostgreSQL's own tests will not be replayed" >&2
    exit 0
}

installed='${db:Status-Status} ${Package}\n'
package=$(dpkg-query -W -f "$installed" 'postgresql-[0-9]*' 2>/dev/null | sed -nE 's/^installed (postgresql-[0-9]+)$/\1/p' | sort -V | tail -n 1 || true)
[ -n "$package" ] || missing "PostgreSQL is not a package of this system"
if [ "$(cat "$folder/package" 2>/dev/null || true)" = "$package" ] && [ -d "$folder/subscription" ] && [ -d "$folder/decoding" ]; then
    echo "setup: the tests of $package are in $folder"
    exit 0
fi
command -v apt-get >/dev/null || missing "there is no apt-get"
mkdir -p "$tools"
partial=$(mktemp -d "$tools/partial-postgres-tests.XXXXXX")
trap 'rm -rf "$partial"' EXIT
echo "setup: fetching the tests of $package into $folder"

# The system's sources of packages, asked for source packages: a configuration of our own, so that
# the system's stays as it is.
mkdir -p "$partial/sources.d" "$partial/lists/partial"
for file in /etc/apt/sources.list.d/*.sources; do
    [ ! -e "$file" ] || sed 's/^Types:.*/Types: deb-src/' "$file" >"$partial/sources.d/$(basename "$file")"
done
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
    [ ! -e "$file" ] || sed -nE 's/^deb[[:space:]]/deb-src /p' "$file" >"$partial/sources.d/$(basename "$file")"
done
# The folder is that of whoever runs this, which apt's own user may not read.
apt=(-qq -o "Dir::Etc::sourcelist=/dev/null" -o "Dir::Etc::sourceparts=$partial/sources.d"
    -o "Dir::State::lists=$partial/lists" -o "Dir::Cache=$partial" -o "APT::Sandbox::User=$(id -un)")
cd "$partial"
# Whether it fails tells little: without a network it does not, and for one list among others it does.
timeout 300 apt-get "${apt[@]}" update || true
: >"$partial/log"
# A list may name a version that is no longer, or not yet, offered.
for version in $(apt-cache "${apt[@]}" showsrc --only-source "$package" | sed -n 's/^Version: //p' | sort -rV); do
    ! timeout 300 apt-get "${apt[@]}" source --download-only --only-source "$package=$version" 2>>"$partial/log" || break
done
if ! archive=$(compgen -G "$partial/*.orig.tar.*"); then
    cat "$partial/log" >&2
    missing "the source of $package could not be fetched"
fi
mkdir "$partial/all" "$partial/tests"
tar -xf "$archive" -C "$partial/all" --strip-components 1 --wildcards '*/src/test/subscription/t' '*/contrib/test_decoding/sql' &&
    mv "$partial/all/src/test/subscription/t" "$partial/tests/subscription" &&
    mv "$partial/all/contrib/test_decoding/sql" "$partial/tests/decoding" ||
    missing "the source of $package has no such tests"
echo "$package" >"$partial/tests/package"
rm -rf "$folder"
mv -T "$partial/tests" "$folder"
