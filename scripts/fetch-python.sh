#!/usr/bin/env bash
# Makes a virtual environment in the cache folder, with pip and its own settings. `tests`: SeaweedFS's S3
# server, and the Parquet readers that the lake is read back with. `bench`: what the benchmark's harness
# runs on, and what it measures beside us. Does nothing if it is there with these versions.
# Usage: scripts/fetch-python.sh tests|bench [--path]; the last prints where its Python is.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tools=${XDG_CACHE_HOME:-$HOME/.cache}/millstream/tools
case ${1:?usage: scripts/fetch-python.sh tests|bench [--path]} in
    tests) venv=$tools/venv wanted=$here/python/requirements.txt ;;
    bench) venv=$tools/venv-bench wanted=$here/../benches/requirements.txt ;;
    *) echo "setup: no such environment: $1" >&2; exit 2 ;;
esac
if [ "${2:-}" = --path ]; then
    echo "$venv/bin/python"
    exit 0
fi
if cmp -s "$wanted" "$venv/requirements.txt"; then
    echo "setup: the Python environment of $1 is in $venv"
    exit 0
fi
echo "setup: installing the Python environment of $1 into $venv"
mkdir -p "$tools"
# A virtual environment cannot be moved, so it is the list of its content that comes last.
python3 -m venv --clear "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check --only-binary :all: -r "$wanted"
cp "$wanted" "$venv/requirements.txt.new"
mv "$venv/requirements.txt.new" "$venv/requirements.txt"
