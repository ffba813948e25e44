#!/usr/bin/env bash
# Installs what building and testing Millstream needs: Debian or Ubuntu packages, by name.
# Usage: scripts/setup.sh demo|test|lint. Can be run again; installs only what is missing.
# `test` also puts the servers and readers of the end-to-end tests into a cache folder, and
# `lint` the program that checks the dependencies.
set -euo pipefail

mode=${1:-demo}
here=$(cd "$(dirname "$0")" && pwd)
packages=(build-essential clang mold cmake pkg-config libssl-dev libcurl4-openssl-dev zlib1g-dev)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

java_release() {
    { java -version 2>&1 || true; } | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1
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
if [ "$mode" = test ]; then
    # Kafka 4 runs on Java 17 or later.
    release=$(java_release)
    [ "${release:-0}" -ge 17 ] || missing+=(java)
    command -v mvn >/dev/null || missing+=(maven)
    # A test holds the service's unit against systemd-analyze.
    command -v systemd-analyze >/dev/null || missing+=(systemd)
    python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || missing+=(python3-venv)
fi
if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup ($mode): installing ${missing[*]}"
    as_root apt-get update -qq
    for index in "${!missing[@]}"; do
        [ "${missing[$index]}" = java ] || continue
        # A distribution's default may be older than 17, or it may no longer have 17.
        missing[index]=default-jre-headless
        apt-cache show openjdk-17-jre-headless >/dev/null 2>&1 && missing[index]=openjdk-17-jre-headless
    done
    DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq "${missing[@]}"
else
    echo "setup ($mode): all packages are there"
fi
command -v cargo >/dev/null || { echo "setup: cargo is missing; install Rust 1.94 or later first" >&2; exit 1; }
if [ "$mode" = test ]; then
    "$here/fetch-python.sh"
    "$here/fetch-kafka.sh"
fi
if [ "$mode" = lint ]; then
    "$here/fetch-cargo-deny.sh"
fi
