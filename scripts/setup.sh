#!/usr/bin/env bash
# Installs what building and testing Millstream needs: Debian or Ubuntu packages, by name.
# Usage: scripts/setup.sh demo|test|bench|lint|fuzz. Can be run again; installs only what is missing.
# `test` also puts the servers and readers of the end-to-end tests into a cache folder, `bench` what
# is measured beside us, `lint` the program that checks the dependencies, `fuzz` the one that builds
# fuzz targets.
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

# The server's binaries alone are wanted: a setting of postgresql-common keeps the package from
# starting a cluster of its own. It is put back as it was when this script ends.
no_cluster_of_the_package() {
    local setting=/etc/postgresql-common/createcluster.conf
    kept=$(mktemp)
    [ ! -e "$setting" ] || cp "$setting" "$kept"
    had_setting=$([ -e "$setting" ] && echo yes || echo no)
    trap 'put_setting_back' EXIT
    echo "setup ($mode): while PostgreSQL is installed, $setting says create_main_cluster = false"
    as_root mkdir -p "$(dirname "$setting")"
    { grep -v '^ *create_main_cluster' "$kept" || true; echo 'create_main_cluster = false'; } |
        as_root tee "$setting" >/dev/null
}

put_setting_back() {
    local setting=/etc/postgresql-common/createcluster.conf
    if [ "$had_setting" = yes ]; then
        as_root tee "$setting" <"$kept" >/dev/null
    else
        as_root rm -f "$setting"
    fi
    rm -f "$kept"
}

missing=()
for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! command -v initdb >/dev/null; then
    missing+=(postgresql)
fi
if [ "$mode" = test ] || [ "$mode" = bench ]; then
    # Kafka 4 runs on Java 17 or later.
    release=$(java_release)
    [ "${release:-0}" -ge 17 ] || missing+=(java)
    command -v mvn >/dev/null || missing+=(maven)
    # A test holds the service's unit against systemd-analyze.
    [ "$mode" = bench ] || command -v systemd-analyze >/dev/null || missing+=(systemd)
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
    case " ${missing[*]} " in *" postgresql "*) no_cluster_of_the_package ;; esac
    # sudo drops variables, so that this one is set behind it.
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"
else
    echo "setup ($mode): all packages are there"
fi
# Extensions whose types the tests compare, without which they leave these out. Not every system has
# packages of them for its server.
if [ "$mode" = test ]; then
    server=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1 | cut -d / -f 5 || true)
    for extension in postgis-3 pgvector; do
        package=postgresql-$server-$extension
        if [ -n "$server" ] && ! dpkg -s "$package" >/dev/null 2>&1; then
            # A name that is known without a package shows nothing, and is no failure.
            [ -n "$(apt-cache show "$package" 2>/dev/null)" ] || as_root apt-get update -qq || true
            if [ -n "$(apt-cache show "$package" 2>/dev/null)" ] && echo "setup ($mode): installing $package" &&
                as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package"; then
                continue
            fi
            echo "setup ($mode): there is no package $package: its types will not be compared"
        fi
    done
fi
command -v cargo >/dev/null || { echo "setup: cargo is missing; install Rust 1.94 or later first" >&2; exit 1; }
if [ "$mode" = bench ]; then
    "$here/fetch-python.sh" bench
    "$here/fetch-kafka.sh"
fi
if [ "$mode" = test ]; then
    "$here/fetch-python.sh" tests
    "$here/fetch-kafka.sh"
    "$here/fetch-debezium.sh"
    "$here/fetch-postgres-tests.sh"
fi
if [ "$mode" = lint ]; then
    "$here/fetch-cargo-deny.sh"
fi
if [ "$mode" = fuzz ]; then
    "$here/fetch-cargo-fuzz.sh"
fi
