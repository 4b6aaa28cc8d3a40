#!/bin/sh
# Say it plainly when the interpreter is missing or too old.
set -eu
cd "$(dirname "$0")/.."
. tools/common.sh
need_python
