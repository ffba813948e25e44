#!/usr/bin/env bash
# Makes the virtual environment of the tests in the cache folder, with pip and its own settings:
# SeaweedFS's S3 server, and the Parquet readers that the lake is read back with. Does nothing
# if it is there with these versions.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tools=${XDG_CACHE_HOME:-$HOME/.cache}/millstream/tools
venv=$tools/venv
wanted=$here/python/requirements.txt

if cmp -s "$wanted" "$venv/requirements.txt"; then
    echo "setup: SeaweedFS, pyarrow and DuckDB are in $venv"
    exit 0
fi
echo "setup: installing SeaweedFS, pyarrow and DuckDB into $venv"
mkdir -p "$tools"
# A virtual environment cannot be moved, so it is the list of its content that comes last.
python3 -m venv --clear "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check --only-binary :all: -r "$wanted"
cp "$wanted" "$venv/requirements.txt.new"
mv "$venv/requirements.txt.new" "$venv/requirements.txt"
