#!/usr/bin/env bash
# Fuzzes the parsers of the wire: first every seed of fuzz/seeds, then new inputs, guided by coverage.
#
#     tests/fuzz.sh [SECONDS]      60 seconds by default, shared by the targets
#
# What is found in a run is kept in target/fuzz/corpus and used by the next. An input that fails is in
# target/fuzz/artifacts, and the run ends with a failure.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
seconds=${1:-60}
targets=(incoming request)
version=0.13.2
work=$root/target/fuzz
tools=$work/tools

cd "$root"
# libFuzzer is C++.
if ! command -v c++ >/dev/null; then
    sudo=()
    if [ "$(id -u)" -ne 0 ]; then sudo=(sudo -n); fi
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends g++
fi
if [ "$("$tools/bin/cargo-fuzz" --version 2>/dev/null)" != "cargo-fuzz $version" ]; then
    cargo install --quiet --locked --root "$tools" --version "$version" cargo-fuzz
fi
export PATH=$tools/bin:$PATH

# Wanted: the versions that the program is built with. Those of libFuzzer are added to them.
cp Cargo.lock fuzz/Cargo.lock

# There is no unsafe code here for a sanitizer to watch, and without one no nightly compiler is needed.
options=(--fuzz-dir fuzz --target-dir "$work/build" --sanitizer none)
cargo fuzz build "${options[@]}"
for target in "${targets[@]}"; do
    corpus=$work/corpus/$target artifacts=$work/artifacts/$target/ log=$work/$target.log
    mkdir -p "$corpus" "$artifacts"
    # 10 seconds for one input is a hang; 1024 MB of memory for at most 16 KiB of input is a leak.
    if ! cargo fuzz run "${options[@]}" "$target" "$corpus" "fuzz/seeds/$target" -- \
        -max_total_time="$((seconds / ${#targets[@]}))" -dict=fuzz/dictionary -artifact_prefix="$artifacts" \
        -max_len=16384 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 >"$log" 2>&1; then
        tail -n 80 "$log" >&2
        echo "fuzzing of $target failed; all of its words are in $log" >&2
        exit 1
    fi
    # A run that executed nothing would be no proof.
    units=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    [ "${units:-0}" -gt 0 ] || { echo "fuzzing of $target executed nothing, see $log" >&2; exit 1; }
    echo "$target: $units inputs, no failure"
done
