#!/bin/sh
# Make fuzz/.work/venv, where the fuzzing engine lives: apart from .venv, which holds locked tools.
#
#   PYTHON   the interpreter (default: python3)
#
# Does nothing when the engine is there already. Needs uv from .venv.
set -eu
cd "$(dirname "$0")/.."
. tools/common.sh

need_python
venv=fuzz/.work/venv
stamp=$venv/.made-from
wanted="$("$PYTHON" -c 'import sys; print(sys.base_prefix, sys.version)') $(cksum <pyproject.toml)"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

has_venv || fail "$PYTHON cannot make virtual environments: its venv or ensurepip is missing." \
    "On Debian and Ubuntu: apt-get install python3-venv"
say "making $venv"
rm -rf "$venv"
"$PYTHON" -m venv --without-pip "$venv"
use_uv
.venv/bin/uv pip install --quiet --python "$venv/bin/python" --group fuzz ||
    fail "atheris could not be installed." \
        "It has wheels for Linux on x86-64; elsewhere it is built with clang and libFuzzer."
printf '%s\n' "$wanted" >"$stamp"
