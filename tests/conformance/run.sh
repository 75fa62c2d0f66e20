#!/bin/sh
# The official Python SDK and curl against the sandbox: proof that the sandbox is accepted as a server. And our program
# against a server made of the SDK's own server side, so that neither side of the wire is only ours. Metrics, alert rules and
# dashboard against Prometheus' own tools.
#
# Uses the program in $ROCKETRIDE_INGEST_BIN, else the newest of target/release and target/debug.
# Further arguments go to pytest.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
venv=$target/conformance-venv

. "$root/tests/program.sh"

if ! command -v curl >/dev/null; then
    sudo=
    if [ "$(id -u)" -ne 0 ]; then sudo='sudo -n'; fi
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends curl
fi

# Of Debian's prometheus only this program: installed as a package it would start a server.
if ! command -v promtool >/dev/null; then
    PROMTOOL=$target/prometheus/usr/bin/promtool
    export PROMTOOL
    if [ ! -x "$PROMTOOL" ]; then
        sudo=
        if [ "$(id -u)" -ne 0 ]; then sudo='sudo -n'; fi
        $sudo apt-get update -qq
        mkdir -p "$target/prometheus"
        (cd "$target/prometheus" && apt-get download -qq prometheus && dpkg-deb -x prometheus_*.deb . && rm -f prometheus_*.deb)
    fi
fi

# Installed once; a change of the pinned list makes it anew.
if ! cmp -s "$root/tests/conformance/requirements.txt" "$venv/installed.txt"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$root/tests/conformance/requirements.txt"
    cp "$root/tests/conformance/requirements.txt" "$venv/installed.txt"
fi

# send_files opens every file it is given at once.
ulimit -n 4096 2>/dev/null || true

export PYTHONDONTWRITEBYTECODE=1

# The SDK must not pick up a server or key of the person who runs this.
unset ROCKETRIDE_URI ROCKETRIDE_APIKEY || true

# Everything here is on this machine; a proxy of the person who runs this has no part in it.
export no_proxy='127.0.0.1,localhost' NO_PROXY='127.0.0.1,localhost'

# pytest ends with 5, a failure, when it collects nothing.
exec "$venv/bin/python" -m pytest -q -p no:cacheprovider "$root/tests/conformance" "$@"
