#!/bin/sh
# The status page in a real browser: Debian's chromium, driven by its own driver and the standard library of Python.
#
# Uses the program in $ROCKETRIDE_INGEST_BIN, else the newest of target/release and target/debug.
# Further arguments go to unittest.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}

. "$root/tests/program.sh"

if ! command -v chromedriver >/dev/null || ! command -v chromium >/dev/null; then
    sudo=
    if [ "$(id -u)" -ne 0 ]; then sudo='sudo -n'; fi
    $sudo apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends chromium chromium-driver
fi

export PYTHONDONTWRITEBYTECODE=1
cd "$root/tests/browser"
exec timeout 300 python3 test_page.py "$@"
