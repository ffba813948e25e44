#!/usr/bin/env bash
# Copies the jars of the Kafka release that scripts/kafka/pom.xml names into the cache folder,
# with Maven and its own settings. Does nothing if they are there. Without them the tests run
# their Kafka part on librdkafka's mock broker, and say so.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
pom=$here/kafka/pom.xml
tools=${XDG_CACHE_HOME:-$HOME/.cache}/millstream/tools
version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$pom")
folder=$tools/kafka-$version

if [ -d "$folder" ]; then
    echo "setup: Kafka $version is in $folder"
    exit 0
fi
mkdir -p "$tools"
partial=$(mktemp -d "$tools/partial-kafka.XXXXXX")
trap 'rm -rf "$partial"' EXIT
echo "setup: fetching Kafka $version into $folder"
if timeout 600 mvn -q -B -f "$pom" -Dmaven.repo.local="$tools/maven" \
    dependency:copy-dependencies -DoutputDirectory="$partial/jars" -DincludeScope=runtime; then
    # Another run may have been faster; then its folder serves as well.
    mv -T "$partial/jars" "$folder" 2>/dev/null || [ -d "$folder" ]
else
    cat >&2 <<WARNING
****************************************************************************************
* setup: Maven could not fetch Apache Kafka $version (its message is above).
* The Kafka part of the tests will run on librdkafka's mock broker, NOT on a real Kafka.
****************************************************************************************
WARNING
fi
