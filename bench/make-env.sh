#!/bin/sh
# Make bench/.work/venv, where the other libraries and the plotting live: apart from .venv, which
# holds locked tools. A library that cannot be installed is reported as absent, with the reason.
#
#   PYTHON   the interpreter (default: python3); the same as that of .venv
#
# Does nothing when all is there already. Needs uv from .venv.
set -eu
cd "$(dirname "$0")/.."
. tools/common.sh

need_python
venv=bench/.work/venv
stamp=$venv/.made-from
wanted="$("$PYTHON" -c 'import sys; print(sys.base_prefix, sys.version)') $(cat pyproject.toml bench/peers/requirements.txt bench/make-env.sh | cksum)"
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

has_venv || fail "$PYTHON cannot make virtual environments: its venv or ensurepip is missing." \
    "On Debian and Ubuntu: apt-get install python3-venv"
say "making $venv"
rm -rf "$venv" bench/.work/absent
mkdir -p bench/.work/absent
"$PYTHON" -m venv --without-pip "$venv"
use_uv
.venv/bin/uv pip install --quiet --python "$venv/bin/python" --group bench
# One by one: what one of them lacks must not take the others along.
grep -v '^#' bench/peers/requirements.txt | while read -r requirement; do
    name=${requirement%%==*}
    .venv/bin/uv pip install --quiet --python "$venv/bin/python" "$requirement" \
        2>"bench/.work/absent/$name" && rm "bench/.work/absent/$name" ||
        say "$requirement cannot be installed: see bench/.work/absent/$name"
done
printf '%s\n' "$wanted" >"$stamp"
