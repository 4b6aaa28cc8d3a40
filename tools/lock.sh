#!/bin/sh
# Write requirements/*.txt, the lock, from pyproject.toml.  Runs inside .venv, whose uv it uses.
#
#   UPGRADE=1   take the newest releases; without it, releases already in the lock stay
#
# See docs/decisions/0004 for the form of these files.
set -eu
cd "$(dirname "$0")/.."
. tools/common.sh
use_uv

compile() {
    output=$1
    shift
    .venv/bin/uv pip compile pyproject.toml "$@" --output-file "requirements/$output" --quiet \
        --universal --python-version 3.11 --generate-hashes ${UPGRADE:+--upgrade} \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
}
say "locking requirements/dev.txt"
compile dev.txt --all-extras --group dev
# One release of a package in all three files.
say "locking requirements/bootstrap.txt and requirements/build.txt"
compile bootstrap.txt --group bootstrap --constraints requirements/dev.txt
compile build.txt --group build --constraints requirements/dev.txt
