#!/usr/bin/env bash
# Makes the Debian package of a program that is built already; prints its path. Needs `cargo install cargo-deb`.
#
#   packaging/build-deb.sh [PROFILE]      PROFILE: release (the default) or dev
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${1:-release}
case $profile in dev) built=target/debug ;; *) built=target/$profile ;; esac
program=$built/rocketride-ingest

rm -rf target/package
mkdir -p target/package/man target/package/completions
"$program" man --dir target/package/man >&2
for shell in bash zsh fish; do
    "$program" completions "$shell" >"target/package/completions/rocketride-ingest.$shell"
done
cargo deb --no-build --locked --profile "$profile" --output target/package/rocketride-ingest.deb >&2
echo target/package/rocketride-ingest.deb
