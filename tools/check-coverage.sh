#!/bin/sh
# The protocol core is covered to the last branch.  Reads the data of the last `coverage combine`.
set -eu
cd "$(dirname "$0")/.."
coverage=.venv/bin/coverage
core='src/aiomilter/wire/*,src/aiomilter/session/*'
total=$("$coverage" report --include="$core" --format=total) || {
    echo "error: no coverage data of wire/ and session/" >&2
    exit 1
}
[ "$total" = 100 ] || {
    "$coverage" report --include="$core"
    echo "error: wire/ and session/ are covered to $total %, not 100 %" >&2
    exit 1
}
