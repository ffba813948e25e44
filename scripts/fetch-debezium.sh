#!/usr/bin/env bash
# Unpacks the tables and values of Debezium's own tests of PostgreSQL types, of the release that
# scripts/debezium/pom.xml names, into the cache folder. Does nothing if they are there. Without
# them the test that replays them is not run, and says so.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
pom=$here/debezium/pom.xml
tools=${XDG_CACHE_HOME:-$HOME/.cache}/millstream/tools
version=$(sed -n 's|.*<debezium.version>\(.*\)</debezium.version>.*|\1|p' "$pom")
folder=$tools/debezium-tables

if [ "$(cat "$folder/version" 2>/dev/null || true)" = "$version" ]; then
    echo "setup: Debezium's tables of types are in $folder"
    exit 0
fi
mkdir -p "$tools"
partial=$(mktemp -d "$tools/partial-debezium.XXXXXX")
trap 'rm -rf "$partial"' EXIT
echo "setup: fetching Debezium's tables of types into $folder"
if timeout 300 mvn -q -B -f "$pom" -Dmaven.repo.local="$tools/maven" \
    dependency:copy-dependencies -DoutputDirectory="$partial/jars" &&
    python3 -m zipfile -e "$partial"/jars/*.jar "$partial/all"; then
    mkdir "$partial/tables"
    cp "$partial/all/postgres_create_tables.ddl" "$partial/tables/tables.sql"
    # Its statements that insert are constants of this class.
    cp "$partial/all/io/debezium/connector/postgresql/AbstractRecordsProducerTest.class" "$partial/tables/inserts.class"
    echo "$version" >"$partial/tables/version"
    rm -rf "$folder"
    mv -T "$partial/tables" "$folder"
else
    echo "setup: Debezium's tables of types could not be fetched: the test that replays them will not run" >&2
fi
