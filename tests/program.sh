# Which program a test script tries: $ROCKETRIDE_INGEST_BIN, else the newest of $target/release and $target/debug.
# Read in by a script that has set `target`.
if [ -z "${ROCKETRIDE_INGEST_BIN:-}" ]; then
    ROCKETRIDE_INGEST_BIN=$(ls -t "$target/release/rocketride-ingest" "$target/debug/rocketride-ingest" 2>/dev/null | head -n 1)
fi
if [ ! -x "${ROCKETRIDE_INGEST_BIN:-}" ]; then
    echo "no program to test: build it or set ROCKETRIDE_INGEST_BIN" >&2
    exit 1
fi
export ROCKETRIDE_INGEST_BIN
