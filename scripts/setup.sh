#!/usr/bin/env bash
# Installs what building and testing Millstream needs: Debian or Ubuntu packages, by name.
# Usage: scripts/setup.sh demo|test. Can be run again; installs only what is missing.
set -euo pipefail

mode=${1:-demo}
packages=(build-essential clang mold cmake pkg-config libssl-dev libcurl4-openssl-dev zlib1g-dev)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing=()
for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! command -v initdb >/dev/null; then
    # The server's binaries alone are wanted: keep the package from starting a cluster of its own.
    if [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        as_root mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    missing+=(postgresql)
fi
if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup ($mode): installing ${missing[*]}"
    as_root apt-get update -qq
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq "${missing[@]}"
else
    echo "setup ($mode): all packages are there"
fi
command -v cargo >/dev/null || { echo "setup: cargo is missing; install Rust 1.94 or later first" >&2; exit 1; }
