#!/bin/sh
# The status page in a real browser: Debian's chromium, driven by its own driver and the standard library of Python.
#
# Uses the program in $ROCKETRIDE_INGEST_BIN, else the newest of target/release and target/debug.
# Further arguments go to unittest.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

if [ -z "${ROCKETRIDE_INGEST_BIN:-}" ]; then
    ROCKETRIDE_INGEST_BIN=$(ls -t "$target/release/rocketride-ingest" "$target/debug/rocketride-ingest" 2>/dev/null | head -n 1)
fi
if [ ! -x "${ROCKETRIDE_INGEST_BIN:-}" ]; then
    echo "no program to test: build it or set ROCKETRIDE_INGEST_BIN" >&2
    exit 1
fi
export ROCKETRIDE_INGEST_BIN

if ! command -v chromedriver >/dev/null || ! command -v chromium >/dev/null; then
    sudo=
    if [ "$(id -u)" -ne 0 ]; then sudo='sudo -n'; fi
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends chromium chromium-driver
fi

export PYTHONDONTWRITEBYTECODE=1
cd "$root/tests/browser"
exec timeout 300 python3 test_page.py "$@"
